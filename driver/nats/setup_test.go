package nats_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/nats"
	"github.com/prismgw/prism/internal/testutil/kvtest"
)

// The words that the tests of several drivers share.
var (
	orders = kvtest.Orders
	space  = kvtest.Space
	apply  = kvtest.Apply
	put    = kvtest.Put
	wants  = kvtest.Wants
	must   = kvtest.Must
	await  = kvtest.Await
)

const patience = kvtest.Patience

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open returns a connection that is closed at the end of the test.
func open(t testing.TB, c driver.Config) driver.Conn {
	t.Helper()
	return kvtest.Open(t, nats.Driver(), c)
}
