package redis_test

import (
	"net"
	"strconv"
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/drivertest"
	"github.com/prismgw/prism/driver/redis"
	"github.com/prismgw/prism/internal/testutil/servers"
)

// A master with a replica, found through a Sentinel. It is no row of its own
// in docs/backends.md: what holds of one server holds here.
func TestConformanceSentinel(t *testing.T) {
	master := servers.RedisWith(t, "--appendonly", "yes", "--appendfsync", "always")
	servers.RedisReplica(t, master)
	guard := servers.RedisSentinel(t, "main", master, 1)
	// No failover: what the replica does not have yet would be lost.
	must(t, plain(t, guard.Addr).Do(t.Context(), "sentinel", "set", "main", "down-after-milliseconds", 600_000).Err())
	drivertest.Run(t, drivertest.Harness{
		Driver:     redis.Driver(),
		Config:     driver.Config{Name: "test", URL: guard.URL},
		Persistent: true,
		Server: func(tb testing.TB) drivertest.Server {
			s := servers.RedisWith(tb, "--appendonly", "yes", "--appendfsync", "always")
			return drivertest.Server{
				Process: s, Addr: s.Addr,
				Config: func(addr string) driver.Config { return driver.Config{URL: sentinelOf(tb, addr)} },
			}
		},
	})
}

// sentinelOf starts a Sentinel that names the address as that of the master,
// so that a driver which asks it comes through what stands there.
func sentinelOf(tb testing.TB, addr string) string {
	tb.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		tb.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		tb.Fatal(err)
	}
	// A name of its own and no failover: Sentinels of one name find each other
	// through their master, and a driver would come past what stands there.
	name := "main" + port
	guard := servers.RedisSentinel(tb, name, &servers.Server{Port: n}, 1)
	must(tb, plain(tb, guard.Addr).Do(tb.Context(), "sentinel", "set", name, "down-after-milliseconds", 600_000).Err())
	return guard.URL
}
