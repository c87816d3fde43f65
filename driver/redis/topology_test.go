package redis_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/servers"
)

func TestClusterSpreadsOneSpace(t *testing.T) {
	t.Parallel()
	nodes := servers.RedisCluster(t, 3)
	conn := open(t, driver.Config{URL: "redis+cluster://" + nodes[2].Addr})
	kv := space(t, conn, orders)
	ctx := t.Context()
	must(t, conn.Ping(ctx))
	const n = 600
	ops := make([]driver.Op, n)
	keys := make([]string, n)
	for i := range ops {
		keys[i] = fmt.Sprintf("{%d", i) // also keys that are nearly hash tags
		ops[i] = driver.Op{Kind: driver.Put, Key: keys[i], Value: []byte(keys[i]), IfAbsent: i%2 == 0}
	}
	results := make([]driver.Result, n)
	kv.Apply(ctx, ops, results)
	for _, r := range results {
		must(t, r.Err)
	}
	got := make([]driver.GetResult, n)
	kv.GetMany(ctx, keys, driver.WithExpiry, got)
	for i, g := range got {
		if g.Err != nil || string(g.Value) != keys[i] {
			t.Fatalf("%s: %q, %v", keys[i], g.Value, g.Err)
		}
	}
	for _, node := range nodes {
		if held := plain(t, node.Addr).DBSize(ctx).Val(); held < n/6 {
			t.Errorf("%s holds %d keys of %d", node.Addr, held, n)
		}
	}
	seen := map[string]bool{}
	for _, i := range scanAll(t, kv, driver.ScanRequest{Limit: 17}) {
		seen[i.Key] = true
	}
	if len(seen) != n {
		t.Errorf("the scan gave %d keys of %d", len(seen), n)
	}
	all := goredis.NewClusterClient(&goredis.ClusterOptions{Addrs: []string{nodes[0].Addr}, DisableIdentity: true})
	t.Cleanup(func() { _ = all.Close() })
	if v := all.Get(ctx, "orders:carts:{7").Val(); v != "{7" {
		t.Errorf("the other client reads %q", v)
	}
}

func TestClusterTokens(t *testing.T) {
	t.Parallel()
	nodes := servers.RedisCluster(t, 3)
	kv := space(t, open(t, driver.Config{URL: "redis+cluster://" + nodes[0].Addr}), orders)
	ctx := t.Context()
	once := func(token, digest byte) *driver.Once {
		return &driver.Once{Token: [16]byte{token}, Digest: [16]byte{digest}, TTL: time.Minute}
	}
	add := func(key string, o *driver.Once) driver.Result {
		return apply(ctx, kv, driver.Op{Kind: driver.Add, Key: key, Delta: 1, Once: o})
	}
	for i := range byte(20) { // a token on keys of other slots
		key, other := fmt.Sprintf("a%d", i), fmt.Sprintf("b%d", i)
		must(t, add(key, once(i, 1)).Err)
		if r := add(key, once(i, 1)); r.Err != nil || !r.Repeated || r.Number != 1 {
			t.Fatalf("repeat: %+v", r)
		}
		wants(t, "another key", add(other, once(i, 2)).Err, errs.IdempotencyMismatch)
		_, err := kv.Get(ctx, other, driver.WithExpiry)
		wants(t, "the other key", err, errs.KeyNotFound)
	}
	put(t, kv, "text", "x")
	wants(t, "failed", add("text", once(100, 1)).Err, errs.NotANumber)
	must(t, add("n", once(100, 2)).Err) // what failed recorded nothing
	if items := scanAll(t, kv, driver.ScanRequest{Prefix: "n", Limit: 10}); len(items) != 1 {
		t.Errorf("scan: %+v", items)
	}
}

func TestClusterNodeFails(t *testing.T) {
	t.Parallel()
	nodes := servers.RedisCluster(t, 3)
	conn := open(t, driver.Config{URL: "redis+cluster://" + nodes[0].Addr + "," + nodes[1].Addr})
	kv := space(t, conn, orders)
	ctx := t.Context()
	keys := make([]string, 60)
	for i := range keys {
		keys[i] = fmt.Sprint(i)
		put(t, kv, keys[i], "v")
	}
	page, err := kv.Scan(ctx, driver.ScanRequest{Limit: 5, KeysOnly: true})
	must(t, err)
	nodes[2].Kill()
	await(t, "keys of the dead node to fail", func() bool {
		results := make([]driver.GetResult, len(keys))
		kv.GetMany(ctx, keys, driver.WithExpiry, results)
		for _, r := range results {
			if errors.Is(r.Err, errs.BackendUnavailable) {
				return true
			}
			must(t, r.Err)
		}
		return false
	})
	nodes[2].Start()
	await(t, "all keys to be back", func() bool {
		results := make([]driver.GetResult, len(keys))
		kv.GetMany(ctx, keys, driver.WithExpiry, results)
		for _, r := range results {
			if r.Err != nil {
				return false
			}
		}
		return conn.Ping(ctx) == nil
	})
	// The slots of one node move: cursors from before say so.
	mover := plain(t, nodes[0].Addr)
	id := plain(t, nodes[1].Addr).ClusterMyID(ctx).Val()
	empty := freeSlot(t, mover)
	must(t, mover.Do(ctx, "cluster", "setslot", empty, "node", id).Err())
	must(t, plain(t, nodes[1].Addr).Do(ctx, "cluster", "setslot", empty, "node", id).Err())
	await(t, "a stale cursor", func() bool {
		_, err := kv.Scan(ctx, driver.ScanRequest{Limit: 5, KeysOnly: true, Cursor: page.Next})
		return errors.Is(err, errs.StaleCursor)
	})
}

// freeSlot returns a slot of the server's that holds no key.
func freeSlot(t testing.TB, c *goredis.Client) int {
	t.Helper()
	for slot := range 100 {
		if c.ClusterCountKeysInSlot(t.Context(), slot).Val() == 0 {
			return slot
		}
	}
	t.Fatal("no empty slot")
	return 0
}

func TestSentinelFailover(t *testing.T) {
	t.Parallel()
	master := servers.RedisWith(t, "--appendonly", "yes", "--appendfsync", "always")
	replica := servers.RedisReplica(t, master)
	guard := servers.RedisSentinel(t, "main", master, 1)
	conn := open(t, driver.Config{URL: guard.URL})
	kv := space(t, conn, orders)
	ctx := t.Context()
	must(t, conn.Ping(ctx))
	put(t, kv, "k", "before")
	other := plain(t, replica.Addr)
	await(t, "the replica to have it", func() bool { return other.Get(ctx, "orders:carts:k").Val() == "before" })
	sentinels := plain(t, guard.Addr)
	await(t, "the sentinel to know the replica", func() bool {
		list, err := sentinels.Do(ctx, "sentinel", "replicas", "main").Slice()
		return err == nil && len(list) == 1
	})
	master.Kill()
	await(t, "a write through the new master", func() bool {
		r := apply(ctx, kv, driver.Op{Kind: driver.Put, Key: "k", Value: []byte("after")})
		switch errs.ReasonOf(r.Err) { //nolint:exhaustive // the others are failures
		case errs.Unknown:
			return true
		case errs.BackendUnavailable, errs.OutcomeUnknown, errs.ReadOnly:
			return false
		}
		t.Fatalf("during the failover: %v", r.Err)
		return false
	})
	if got := other.Get(ctx, "orders:carts:k").Val(); got != "after" {
		t.Errorf("the new master holds %q", got)
	}
	must(t, conn.Ping(ctx))
}
