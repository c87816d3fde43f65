package redis_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/redis"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/kvtest"
	"github.com/prismgw/prism/internal/testutil/servers"
)

func TestServerComesLater(t *testing.T) {
	t.Parallel()
	kvtest.ServerComesLater(t, redis.Driver(), servers.RedisWith(t))
}

// TestNoAcknowledgedWriteIsLost kills the server under load, several times.
func TestNoAcknowledgedWriteIsLost(t *testing.T) {
	t.Parallel()
	s, kv, _ := start(t, "--appendonly", "yes", "--appendfsync", "always")
	load := kvtest.NewLoad(t, kv)
	for range 3 {
		load.Progress(200)
		s.Kill()
		s.Start()
	}
	load.Progress(50)
	load.Check(space(t, open(t, driver.Config{URL: s.URL}), orders))
}

// TestPausedServer has more callers than a connection's queue holds, so that
// some wait for room.
func TestPausedServer(t *testing.T) {
	t.Parallel()
	kvtest.PausedServer(t, redis.Driver(), servers.RedisWith(t), 6000, nil, errs.Deadline, errs.BackendUnavailable)
}

func TestSilentServerIsGivenUp(t *testing.T) {
	t.Parallel()
	kvtest.SilentServerIsGivenUp(t, redis.Driver(), servers.RedisWith(t))
}

func TestCloseWithCallsUnderWay(t *testing.T) {
	t.Parallel()
	kvtest.CloseWithCallsUnderWay(t, redis.Driver(), servers.RedisWith(t))
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	s := servers.RedisWith(t, "--user", "default", "off", "--user", "prism", "on", ">sesame", ">simsim", "~*", "+@all")
	kvtest.LoginChanges(t, redis.Driver(), s, kvtest.Login{User: "prism", Password: "sesame"}, kvtest.Login{User: "prism", Password: "simsim"})
}

func TestUserWithoutRights(t *testing.T) {
	t.Parallel()
	s := servers.RedisWith(t, "--user", "default", "on", "nopass", "~*", "+@all", "-set", "-config")
	conn := open(t, driver.Config{URL: s.URL, Asserts: json.RawMessage(`{"appendonly": "yes", "appendfsync": "always"}`)})
	must(t, conn.Ping(t.Context())) // CONFIG is not ours: the operator's word stands
	kv := space(t, conn, orders)
	wants(t, "put", apply(t.Context(), kv, driver.Op{Kind: driver.Put, Key: "k"}).Err, errs.BackendUnavailable)
}

func TestServerThatTakesNoWrites(t *testing.T) {
	t.Parallel()
	s := servers.RedisWith(t)
	conn := open(t, driver.Config{URL: s.URL})
	kv, other := space(t, conn, orders), plain(t, s.Addr)
	ctx := t.Context()
	put(t, kv, "k", "v")
	must(t, other.ConfigSet(ctx, "maxmemory", "1").Err())
	for _, op := range []driver.Op{{Kind: driver.Put}, {Kind: driver.Add, Delta: 1}, {Kind: driver.Put, IfAbsent: true}} {
		op.Key = "full"
		wants(t, "memory is full", apply(ctx, kv, op).Err, errs.ReadOnly)
	}
	must(t, other.ConfigSet(ctx, "maxmemory", "0").Err())
	must(t, other.ReplicaOf(ctx, "127.0.0.1", "1").Err())
	wants(t, "put on a replica", apply(ctx, kv, driver.Op{Kind: driver.Put, Key: "k"}).Err, errs.ReadOnly)
	wants(t, "delete on a replica", apply(ctx, kv, driver.Op{Kind: driver.Delete, Key: "k"}).Err, errs.ReadOnly)
	wants(t, "ping of a replica", conn.Ping(ctx), errs.ReadOnly)
}

func TestPingChecksWhatIsAsserted(t *testing.T) {
	t.Parallel()
	s := servers.RedisWith(t, "--appendonly", "yes", "--appendfsync", "everysec")
	ctx := t.Context()
	good := open(t, driver.Config{URL: s.URL, Asserts: json.RawMessage(`{"appendonly": "yes", "appendfsync": "everysec"}`)})
	must(t, good.Ping(ctx))
	bad := open(t, driver.Config{URL: s.URL, Asserts: json.RawMessage(`{"appendonly": "yes", "appendfsync": "always"}`)})
	err := wants(t, "appendfsync", bad.Ping(ctx), errs.InvalidConfiguration)
	if !strings.Contains(err.Error(), "appendfsync is always, but the backend says everysec") {
		t.Errorf("message: %v", err)
	}
	other := plain(t, s.Addr)
	must(t, other.ConfigSet(ctx, "maxmemory-policy", "allkeys-lru").Err())
	must(t, other.ConfigSet(ctx, "maxmemory", "100mb").Err())
	wants(t, "evicts", good.Ping(ctx), errs.InvalidConfiguration)
	clustered := open(t, driver.Config{URL: strings.Replace(s.URL, "redis://"+s.Addr+"/0", "redis+cluster://"+s.Addr, 1)})
	if err := clustered.Ping(ctx); err == nil {
		t.Error("a single server passes for a Cluster")
	}
}

func TestScriptsAreSentAgain(t *testing.T) {
	t.Parallel()
	_, kv, other := start(t)
	ctx := t.Context()
	must(t, apply(ctx, kv, driver.Op{Kind: driver.Add, Key: "n", Delta: 1}).Err)
	must(t, other.ScriptFlush(ctx).Err())
	ops := []driver.Op{{Kind: driver.Add, Key: "n", Delta: 1}, {Kind: driver.Add, Key: "n", Delta: 1}}
	results := make([]driver.Result, 2)
	kv.Apply(ctx, ops, results)
	if results[0].Err != nil || results[1].Err != nil || results[0].Number+results[1].Number != 5 {
		t.Fatalf("%+v", results)
	}
}
