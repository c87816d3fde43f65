package nats_test

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/drivertest"
	"github.com/prismgw/prism/driver/nats"
	"github.com/prismgw/prism/internal/testutil/servers"
)

// replicated is the configuration of a bucket with three replicas.
func replicated(nodes ...*servers.Server) driver.Config {
	addrs := make([]string, len(nodes))
	for i, n := range nodes {
		addrs[i] = n.Addr
	}
	return driver.Config{Name: "test", URL: "nats://" + strings.Join(addrs, ","), Asserts: json.RawMessage(`{"replicas": 3}`)}
}

func startCluster(t testing.TB) []*servers.Server {
	t.Helper()
	nodes := servers.NATSCluster(t, 3, "max_payload: 8M")
	conn := open(t, replicated(nodes...))
	await(t, "the cluster", func() bool { return conn.Ping(t.Context()) == nil })
	return nodes
}

func TestConformanceCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("three servers and a majority for each write; the default tests run it")
	}
	c := replicated(startCluster(t)...)
	c.Options = json.RawMessage(`{"max_value": 4194304}`)
	drivertest.Run(t, drivertest.Harness{Name: "nats (3 replicas)", Driver: nats.Driver(), Config: c, Persistent: true})
}

// TestEveryNodeSeesWrites writes through one node and reads through another,
// whose replica may be behind.
func TestEveryNodeSeesWrites(t *testing.T) {
	t.Parallel()
	nodes := startCluster(t)
	var kvs []driver.KV
	for _, n := range nodes {
		kvs = append(kvs, space(t, open(t, replicated(n)), orders))
	}
	for i := range 200 {
		value := strconv.Itoa(i)
		put(t, kvs[i%3], "k", value)
		reader := kvs[(i+1)%3]
		e, err := reader.Get(t.Context(), "k", driver.ValueOnly)
		must(t, err)
		page, err := reader.Scan(t.Context(), driver.ScanRequest{Limit: 10})
		must(t, err)
		if string(e.Value) != value || len(page.Items) != 1 || string(page.Items[0].Value) != value {
			t.Fatalf("after put of %s: get %s, scan %+v", value, e.Value, page.Items)
		}
	}
}

// TestLeaderIsKilled kills the node that leads the stream, under load.
func TestLeaderIsKilled(t *testing.T) {
	t.Parallel()
	nodes := startCluster(t)
	load := newLoad(t, space(t, open(t, replicated(nodes...)), orders))
	for range 1 {
		load.progress(100)
		leader := leaderOf(t, nodes)
		nodes[leader].Kill()
		load.progress(100)
		nodes[leader].Start()
	}
	load.check(space(t, open(t, replicated(nodes...)), orders))
}

// leaderOf returns the index of the node that leads the bucket's stream.
func leaderOf(t testing.TB, nodes []*servers.Server) (index int) {
	t.Helper()
	await(t, "a leader", func() bool {
		for _, n := range nodes {
			if !n.Running() {
				continue
			}
			js, err := jetstream.New(connect(t, n.URL))
			must(t, err)
			stream, err := js.Stream(t.Context(), "KV_prism")
			if err != nil || stream.CachedInfo().Cluster == nil {
				continue
			}
			index, err = strconv.Atoi(strings.TrimPrefix(stream.CachedInfo().Cluster.Leader, "n"))
			return err == nil
		}
		return false
	})
	return index
}
