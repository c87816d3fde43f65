package redis_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/servers"
)

func TestServerComesLater(t *testing.T) {
	t.Parallel()
	s := servers.RedisWith(t)
	s.Kill()
	conn := open(t, driver.Config{URL: s.URL})
	kv := space(t, conn, orders)
	ctx := t.Context()
	_, err := kv.Get(ctx, "k", driver.WithExpiry)
	wants(t, "get", err, errs.BackendUnavailable)
	wants(t, "put", apply(ctx, kv, driver.Op{Kind: driver.Put, Key: "k"}).Err, errs.BackendUnavailable)
	wants(t, "add", apply(ctx, kv, driver.Op{Kind: driver.Add, Key: "k"}).Err, errs.BackendUnavailable)
	_, err = kv.Scan(ctx, driver.ScanRequest{Limit: 1})
	wants(t, "scan", err, errs.BackendUnavailable)
	wants(t, "ping", conn.Ping(ctx), errs.BackendUnavailable)
	s.Start()
	await(t, "ping after the start", func() bool { return conn.Ping(ctx) == nil })
	put(t, kv, "k", "v")
}

// TestNoAcknowledgedWriteIsLost kills the server under load, several times.
func TestNoAcknowledgedWriteIsLost(t *testing.T) {
	t.Parallel()
	s, kv, other := start(t, "--appendonly", "yes", "--appendfsync", "always")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var acked, tried [8]int64
	var all sync.WaitGroup
	var total atomic.Int64
	for i := range acked {
		all.Go(func() {
			for ctx.Err() == nil {
				tried[i]++
				r := apply(t.Context(), kv, driver.Op{Kind: driver.Add, Key: string(rune('a' + i)), Delta: 1})
				switch errs.ReasonOf(r.Err) {
				case errs.Unknown:
					acked[i]++
					total.Add(1)
				case errs.BackendUnavailable:
					tried[i]-- // was not sent
				case errs.OutcomeUnknown:
				default:
					t.Errorf("add: %v", r.Err)
				}
			}
		})
	}
	for range 3 {
		before := total.Load()
		await(t, "progress", func() bool { return total.Load() > before+200 })
		s.Kill()
		s.Start()
	}
	before := total.Load()
	await(t, "progress after the last restart", func() bool { return total.Load() > before+50 })
	stop()
	all.Wait()
	for i := range acked {
		got, err := other.Get(t.Context(), "orders:carts:"+string(rune('a'+i))).Int64()
		if err != nil || got < acked[i] || got > tried[i] {
			t.Errorf("counter %d: %d in Redis, %v; %d acknowledged, %d may have happened", i, got, err, acked[i], tried[i])
		}
	}
}

func TestPausedServer(t *testing.T) {
	t.Parallel()
	s, kv, _ := start(t)
	put(t, kv, "k", "v")
	s.Pause()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	_, err := kv.Get(ctx, "k", driver.WithExpiry)
	wants(t, "cancelled", err, errs.Cancelled)
	// More callers than a connection's queue holds, so that some wait for room.
	var all sync.WaitGroup
	slow := make(chan time.Duration, 6000)
	for i := range 6000 {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			begin := time.Now()
			var err error
			if i%2 == 0 {
				_, err = kv.Get(ctx, "k", driver.WithExpiry)
			} else {
				err = apply(ctx, kv, driver.Op{Kind: driver.Put, Key: "k"}).Err
			}
			if r := errs.ReasonOf(err); r != errs.Deadline && r != errs.BackendUnavailable {
				t.Errorf("paused: %v (%v)", r, err)
			}
			slow <- time.Since(begin)
		})
	}
	all.Wait()
	close(slow)
	for took := range slow {
		if took > 3*time.Second {
			t.Fatalf("a call with a deadline of 300ms took %v", took)
		}
	}
	s.Resume()
	await(t, "an answer after the pause", func() bool {
		_, err := kv.Get(t.Context(), "k", driver.WithExpiry)
		return err == nil
	})
}

func TestSilentServerIsGivenUp(t *testing.T) {
	t.Parallel()
	s := servers.RedisWith(t)
	kv := space(t, open(t, driver.Config{URL: s.URL, Options: json.RawMessage(`{"answer_timeout": "300ms", "connect_timeout": "300ms"}`)}), orders)
	put(t, kv, "k", "v")
	s.Pause()
	r := apply(t.Context(), kv, driver.Op{Kind: driver.Put, Key: "k"}) // no deadline of its own
	wants(t, "a write that was sent", r.Err, errs.OutcomeUnknown)
	_, err := kv.Get(t.Context(), "k", driver.WithExpiry) // the next connection gets no answer either
	wants(t, "a read", err, errs.BackendUnavailable)
	s.Resume()
}

func TestCloseWithCallsUnderWay(t *testing.T) {
	t.Parallel()
	s := servers.RedisWith(t)
	conn := open(t, driver.Config{URL: s.URL})
	kv := space(t, conn, orders)
	put(t, kv, "k", "v")
	s.Pause()
	done := make(chan error, 1)
	go func() {
		_, err := kv.Get(t.Context(), "k", driver.WithExpiry)
		done <- err
	}()
	time.AfterFunc(50*time.Millisecond, func() { _ = conn.Close() })
	wants(t, "under way", <-done, errs.BackendUnavailable)
	must(t, conn.Close())
	_, err := kv.Get(t.Context(), "k", driver.WithExpiry)
	wants(t, "after close", err, errs.BackendUnavailable)
	wants(t, "after close", apply(t.Context(), kv, driver.Op{Kind: driver.Put, Key: "k"}).Err, errs.BackendUnavailable)
	wants(t, "after close", conn.Ping(t.Context()), errs.BackendUnavailable)
}

// rotating hands out a password that changes, and counts how often it is asked.
type rotating struct {
	mu       sync.Mutex // guards the fields below
	password driver.Secret
	err      error
	asked    int
}

func (r *rotating) set(p driver.Secret, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.password, r.err = p, err
}

func (r *rotating) get(context.Context) (string, driver.Secret, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	return "prism", r.password, r.err
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	s := servers.RedisWith(t, "--user", "default", "off", "--user", "prism", "on", ">sesame", ">simsim", "~*", "+@all")
	ctx := t.Context()

	none := space(t, open(t, driver.Config{URL: s.URL}), orders)
	_, err := none.Get(ctx, "k", driver.WithExpiry)
	wants(t, "none", err, errs.BackendUnavailable)

	c := &rotating{password: "wrong"}
	conn := open(t, driver.Config{URL: s.URL, Credentials: c.get})
	kv := space(t, conn, orders)
	err = wants(t, "wrong", apply(ctx, kv, driver.Op{Kind: driver.Put, Key: "k"}).Err, errs.BackendUnavailable)
	if strings.Contains(err.Error(), "wrong") {
		t.Errorf("the error shows the password: %v", err)
	}
	c.set("", errors.New("the vault is closed"))
	err = wants(t, "no credentials", conn.Ping(ctx), errs.CredentialsUnavailable)
	if !strings.Contains(err.Error(), "the vault is closed") {
		t.Errorf("the cause is missing: %v", err)
	}
	c.set("sesame", nil)
	await(t, "ping with the right one", func() bool { return conn.Ping(ctx) == nil })
	put(t, kv, "k", "v")

	c.set("simsim", nil) // both are good; a new connection takes the new one
	before := c.asked
	s.Restart()
	await(t, "ping after the rotation", func() bool { return conn.Ping(ctx) == nil })
	if c.asked == before {
		t.Error("the credentials were not asked for again")
	}
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
