package redis_test

import (
	"testing"

	goredis "github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/redis"
	"github.com/prismgw/prism/internal/testutil/kvtest"
	"github.com/prismgw/prism/internal/testutil/servers"
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

// The client library sleeps for five seconds before it closes connections that
// it made twice, which happens where a url names several nodes of a Cluster.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*clusterClient)._refresh.func2"))
}

// open returns a connection that is closed at the end of the test.
func open(t testing.TB, c driver.Config) driver.Conn {
	t.Helper()
	return kvtest.Open(t, redis.Driver(), c)
}

// start starts a server of its own and opens a space on it, with an
// independent client beside it.
func start(t testing.TB, args ...string) (*servers.Server, driver.KV, *goredis.Client) {
	t.Helper()
	s := servers.RedisWith(t, args...)
	return s, space(t, open(t, driver.Config{URL: s.URL}), orders), plain(t, s.Addr)
}

// plain returns another program's client.
func plain(t testing.TB, addr string) *goredis.Client {
	t.Helper()
	c := goredis.NewClient(&goredis.Options{Addr: addr, DisableIdentity: true})
	t.Cleanup(func() { _ = c.Close() })
	return c
}
