package redis_test

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/drivertest"
	"github.com/prismgw/prism/driver/redis"
	"github.com/prismgw/prism/internal/testutil/servers"
)

// The suite on keys of other programs. What becomes of a server that is hurt
// does not depend on the keys, so there is none to hurt.
func TestConformanceAdopted(t *testing.T) {
	drivertest.Run(t, drivertest.Harness{
		Driver:     redis.Driver(),
		Config:     driver.Config{Name: "test", URL: servers.Redis(t).URL},
		Persistent: true,
		Layout: func(testing.TB, driver.Config) json.RawMessage {
			return json.RawMessage(fmt.Sprintf(`{"keys": "%s[{key}]:end"}`, rand.Text()))
		},
	})
}
