package postgres_test

import (
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/drivertest"
	"github.com/prismgw/prism/driver/postgres"
	"github.com/prismgw/prism/internal/testutil/servers"
)

func TestLogConformance(t *testing.T) {
	shared := servers.Postgres(t)
	drivertest.RunLog(t, drivertest.LogHarness{
		Name:       "postgres",
		Driver:     postgres.Driver(),
		Config:     driver.Config{Name: "test", URL: shared.URL, Credentials: login(shared)},
		Persistent: true,
		Server: func(tb testing.TB) drivertest.Server {
			s := servers.PostgresWith(tb)
			return drivertest.Server{
				Process: s,
				Addr:    s.Addr,
				Config: func(addr string) driver.Config {
					return driver.Config{Name: "test", URL: "postgres://" + addr + "/postgres?sslmode=disable", Credentials: login(s)}
				},
			}
		},
	})
}
