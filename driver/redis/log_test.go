package redis_test

import (
	"crypto/rand"
	"strconv"
	"strings"
	"testing"

	goredis "github.com/redis/go-redis/v9"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/drivertest"
	"github.com/prismgw/prism/driver/redis"
	"github.com/prismgw/prism/internal/testutil/servers"
)

func TestLogConformance(t *testing.T) {
	s := servers.RedisWith(t)
	drivertest.RunLog(t, drivertest.LogHarness{
		Name:       "redis",
		Driver:     redis.Driver(),
		Config:     driver.Config{Name: "test", URL: s.URL},
		Topic:      foreignTopic(plain(t, s.Addr)),
		Persistent: true,
		Server: func(tb testing.TB) drivertest.Server {
			s := servers.RedisWith(tb, "--appendonly", "yes", "--appendfsync", "always")
			return drivertest.Server{
				Process: s, Addr: s.Addr,
				Config: func(addr string) driver.Config {
					return driver.Config{URL: "redis://" + addr + "/0", Asserts: []byte(`{"appendonly": "yes", "appendfsync": "always"}`)}
				},
			}
		},
	})
}

func TestLogConformanceCluster(t *testing.T) {
	node := servers.RedisCluster(t, 3)[0]
	drivertest.RunLog(t, drivertest.LogHarness{
		Name:       "redis (cluster)",
		Driver:     redis.Driver(),
		Config:     driver.Config{Name: "test", URL: "redis+cluster://" + node.Addr},
		Topic:      foreignTopic(clusterClient(t, node.Addr)),
		Persistent: true,
	})
}

func TestLogConformanceSentinel(t *testing.T) {
	if testing.Short() {
		t.Skip("what holds of one server holds here; the default tests run it")
	}
	master := servers.RedisWith(t, "--appendonly", "yes", "--appendfsync", "always")
	servers.RedisReplica(t, master)
	guard := servers.RedisSentinel(t, "main", master, 1)
	must(t, plain(t, guard.Addr).Do(t.Context(), "sentinel", "set", "main", "down-after-milliseconds", 600_000).Err())
	drivertest.RunLog(t, drivertest.LogHarness{
		Driver:     redis.Driver(),
		Config:     driver.Config{Name: "test", URL: guard.URL},
		Topic:      foreignTopic(plain(t, master.Addr)),
		Persistent: true,
		Exceptions: []drivertest.Exception{{Check: "leaks/goroutines", Reason: "the library listens to a Sentinel anew every five seconds, on the suite's own connection too; TestMain looks when all are closed"}},
		Server: func(tb testing.TB) drivertest.Server {
			s := servers.RedisWith(tb, "--appendonly", "yes", "--appendfsync", "always")
			return drivertest.Server{
				Process: s, Addr: s.Addr,
				Config: func(addr string) driver.Config { return driver.Config{URL: sentinelOf(tb, addr)} },
			}
		},
	})
}

func clusterClient(tb testing.TB, addr string) *goredis.ClusterClient {
	tb.Helper()
	c := goredis.NewClusterClient(&goredis.ClusterOptions{Addrs: []string{addr}, DisableIdentity: true})
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

// foreignTopic makes streams as a program does that has partitions.
func foreignTopic(c goredis.UniversalClient) func(testing.TB, driver.Config, int) drivertest.ForeignTopic {
	return func(tb testing.TB, _ driver.Config, partitions int) drivertest.ForeignTopic {
		tb.Helper()
		name := "theirs:" + rand.Text() + ":*"
		key := func(partition int) string { return strings.Replace(name, "*", strconv.Itoa(partition), 1) }
		for i := range partitions {
			must(tb, c.XGroupCreateMkStream(tb.Context(), key(i), "theirs", "$").Err())
		}
		return drivertest.ForeignTopic{
			Physical: name, Partitions: partitions,
			Headers: []driver.Header{{Name: "A b:é", Value: " \x00\xff "}, {Name: "A b:é", Value: ""}},
			Append: func(records ...driver.Record) {
				for _, r := range records {
					must(tb, c.XAdd(tb.Context(), &goredis.XAddArgs{Stream: key(r.Partition), Values: theirFields(r)}).Err())
				}
			},
			Delete: func() {
				for i := range partitions {
					must(tb, c.Del(tb.Context(), key(i)).Err())
				}
			},
		}
	}
}

func theirFields(r driver.Record) []any {
	fields := []any{"value", r.Value}
	if r.Key != nil {
		fields = append(fields, "key", r.Key)
	}
	for _, h := range r.Headers {
		fields = append(fields, h.Name, h.Value)
	}
	return fields
}

// topicOf returns a topic of the namespace orders.
func topicOf(tb testing.TB, c driver.Conn, spec driver.TopicSpec) driver.Topic {
	tb.Helper()
	b, err := c.Space(orders)
	must(tb, err)
	topic, err := b.Log.Topic(tb.Context(), spec)
	must(tb, err)
	return topic
}
