package nats_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/drivertest"
	"github.com/prismgw/prism/driver/nats"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/kvtest"
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

// TestReplicaThatIsBehind reads through a node that has stood still while
// something was written: its own replica does not have it yet.
func TestReplicaThatIsBehind(t *testing.T) {
	t.Parallel()
	nodes := startCluster(t)
	leader := leaderOf(t, nodes)
	behind := nodes[(leader+1)%3]
	writer := space(t, open(t, replicated(nodes[leader])), orders)
	reader := space(t, open(t, replicated(behind)), orders)
	again := slices.Repeat([]string{"k"}, 50)
	for i := range 10 {
		value := strconv.Itoa(i)
		put(t, reader, "warm", value) // the way to the leader is there
		behind.Pause()
		fill(t, writer, 10_000) // which takes a moment to catch up with
		put(t, writer, "k", value)
		behind.Resume()
		results := make([]driver.GetResult, len(again))
		reader.GetMany(t.Context(), again, driver.ValueOnly, results)
		for _, r := range results {
			if !unavailable(t, r.Err) && string(r.Value) != value {
				t.Fatalf("after put of %s: get %s", value, r.Value)
			}
		}
		for range 10 {
			page, err := reader.Scan(t.Context(), driver.ScanRequest{Prefix: "k", Limit: 10})
			if !unavailable(t, err) && (len(page.Items) != 1 || string(page.Items[0].Value) != value) {
				t.Fatalf("after put of %s: scan %+v", value, page.Items)
			}
		}
		await(t, "an answer", func() bool {
			_, err := reader.Get(t.Context(), "k", driver.ValueOnly)
			return !unavailable(t, err)
		})
	}
}

// unavailable reports the answer of a node that has stood still so long that it
// has to find the cluster again; any other failure ends the test.
func unavailable(t testing.TB, err error) bool {
	t.Helper()
	if errs.ReasonOf(err) == errs.BackendUnavailable {
		return true
	}
	must(t, err)
	return false
}

// TestToldIsReadable reads each new key as soon as it is told of. A watch is
// fed by any node, and that is ahead of the leader now and then.
func TestToldIsReadable(t *testing.T) {
	t.Parallel()
	nodes := startCluster(t)
	writer := space(t, open(t, replicated(nodes...)), orders)
	b, err := open(t, replicated(nodes...)).Space(orders)
	must(t, err)
	const writers, keys = 4, 400
	var all sync.WaitGroup
	for range 4 { // watches
		w, err := b.Watcher.Watch(t.Context(), "")
		must(t, err)
		all.Go(func() {
			for told := 0; told < writers*keys; {
				change, err := w.Next(t.Context())
				if err != nil || change.Lost {
					t.Errorf("after %d keys: %+v, %v", told, change, err)
					break
				}
				told += len(change.Keys)
				results := make([]driver.GetResult, len(change.Keys))
				b.KV.GetMany(t.Context(), change.Keys, driver.ValueOnly, results)
				for i, r := range results {
					if r.Err != nil {
						t.Errorf("get %s, which was told: %v", change.Keys[i], r.Err)
					}
				}
			}
			if err := w.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	for i := range writers {
		all.Go(func() {
			for j := range keys {
				if err := apply(t.Context(), writer, driver.Op{Kind: driver.Put, Key: fmt.Sprint(i, "-", j)}).Err; err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

// TestWatchWhoseNodeRestarts restarts the node that feeds a watch, which has
// told nothing yet, faster than the watch gives it up.
func TestWatchWhoseNodeRestarts(t *testing.T) {
	t.Parallel()
	nodes := startCluster(t)
	own := nodes[leaderOf(t, nodes)]
	b, err := open(t, replicated(own)).Space(orders)
	must(t, err)
	w, err := b.Watcher.Watch(t.Context(), "")
	must(t, err)
	feeder := feederOf(t, own, nodes)
	for feeder == own {
		must(t, w.Close())
		w, err = b.Watcher.Watch(t.Context(), "")
		must(t, err)
		feeder = feederOf(t, own, nodes)
	}
	feeder.Kill()
	put(t, b.KV, "while it is away", "v")
	feeder.Start()
	missing := map[string]bool{"while it is away": true}
	for i := range 300 { // so that it goes on while the node finds its way back
		key := "k" + strconv.Itoa(i)
		put(t, b.KV, key, "v")
		missing[key] = true
	}
	for len(missing) > 0 {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		change, err := w.Next(ctx)
		cancel()
		if err != nil {
			t.Fatalf("not told of %v: %v", missing, err)
		}
		if change.Lost {
			break
		}
		for _, key := range change.Keys {
			delete(missing, key)
		}
	}
	must(t, w.Close())
}

// feederOf returns the node of the bucket's only consumer.
func feederOf(t testing.TB, s *servers.Server, nodes []*servers.Server) (feeder *servers.Server) {
	t.Helper()
	js, err := jetstream.New(connect(t, s.URL))
	must(t, err)
	stream, err := js.Stream(t.Context(), "KV_prism")
	must(t, err)
	await(t, "one consumer", func() bool {
		found := 0
		for c := range stream.ListConsumers(t.Context()).Info() {
			index, err := strconv.Atoi(strings.TrimPrefix(c.Cluster.Leader, "n"))
			must(t, err)
			feeder = nodes[index]
			found++
		}
		return found == 1
	})
	return feeder
}

// fill puts n keys.
func fill(t testing.TB, kv driver.KV, n int) {
	t.Helper()
	ops, results := make([]driver.Op, n), make([]driver.Result, n)
	for i := range ops {
		ops[i] = driver.Op{Kind: driver.Put, Key: "fill" + strconv.Itoa(i%100), Value: make([]byte, 200)}
	}
	kv.Apply(t.Context(), ops, results)
	for _, r := range results {
		must(t, r.Err)
	}
}

// TestLeaderIsKilled kills the node that leads the stream, under load.
func TestLeaderIsKilled(t *testing.T) {
	t.Parallel()
	nodes := startCluster(t)
	load := kvtest.NewLoad(t, space(t, open(t, replicated(nodes...)), orders))
	load.Progress(100)
	leader := leaderOf(t, nodes)
	nodes[leader].Kill()
	load.Progress(100)
	nodes[leader].Start()
	load.Check(space(t, open(t, replicated(nodes...)), orders))
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
