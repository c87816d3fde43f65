package nats_test

import (
	"encoding/json"
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/drivertest"
	"github.com/prismgw/prism/driver/nats"
	"github.com/prismgw/prism/internal/testutil/servers"
)

func TestLogConformance(t *testing.T) {
	drivertest.RunLog(t, drivertest.LogHarness{
		Name:       "nats",
		Driver:     nats.Driver(),
		Config:     driver.Config{Name: "test", URL: servers.NATSWith(t, "max_payload: 8M").URL, Options: json.RawMessage(`{"max_value": 1048576}`)},
		Persistent: true,
		Server: func(tb testing.TB) drivertest.Server {
			s := servers.NATSWith(tb)
			return drivertest.Server{
				Process: s, Addr: s.Addr,
				Config: func(addr string) driver.Config { return driver.Config{URL: "nats://" + addr} },
			}
		},
	})
}
