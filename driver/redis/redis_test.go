package redis_test

import (
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/drivertest"
	"github.com/prismgw/prism/driver/redis"
	"github.com/prismgw/prism/internal/testutil/servers"
)

// The conformance tests are not parallel: the suite counts goroutines.
func TestConformance(t *testing.T) {
	drivertest.Run(t, drivertest.Harness{
		Name:       "redis",
		Driver:     redis.Driver(),
		Config:     driver.Config{Name: "test", URL: servers.Redis(t).URL},
		Persistent: true,
		Server: func(tb testing.TB) drivertest.Server {
			s := servers.RedisWith(tb, "--appendonly", "yes", "--appendfsync", "always")
			return drivertest.Server{
				Process: s, Addr: s.Addr,
				Config: func(addr string) driver.Config { return driver.Config{URL: "redis://" + addr + "/0"} },
			}
		},
	})
}

func TestConformanceCluster(t *testing.T) {
	node := servers.RedisCluster(t, 3)[0]
	drivertest.Run(t, drivertest.Harness{
		Name:       "redis (cluster)",
		Driver:     redis.Driver(),
		Config:     driver.Config{Name: "test", URL: "redis+cluster://" + node.Addr},
		Persistent: true,
	})
}
