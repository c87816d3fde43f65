package nats_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/faultproxy"
	"github.com/prismgw/prism/internal/testutil/servers"
)

func TestServerComesLater(t *testing.T) {
	t.Parallel()
	s := servers.NATSWith(t)
	s.Kill()
	conn := open(t, driver.Config{URL: s.URL})
	kv := space(t, conn, orders)
	ctx := t.Context()
	begin := time.Now()
	_, err := kv.Get(ctx, "k", driver.WithExpiry)
	wants(t, "get", err, errs.BackendUnavailable)
	wants(t, "put", apply(ctx, kv, driver.Op{Kind: driver.Put, Key: "k"}).Err, errs.BackendUnavailable)
	_, err = kv.Scan(ctx, driver.ScanRequest{Limit: 1})
	wants(t, "scan", err, errs.BackendUnavailable)
	wants(t, "ping", conn.Ping(ctx), errs.BackendUnavailable)
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("four calls to a server that is not there took %v", took)
	}
	s.Start()
	await(t, "ping after the start", func() bool { return conn.Ping(ctx) == nil })
	put(t, kv, "k", "v")
}

// TestNoAcknowledgedWriteIsLost kills the server under load, several times.
func TestNoAcknowledgedWriteIsLost(t *testing.T) {
	t.Parallel()
	s := servers.NATSWith(t)
	kv := space(t, open(t, driver.Config{URL: s.URL}), orders)
	load := newLoad(t, kv)
	for range 3 {
		load.progress(200)
		s.Kill()
		s.Start()
	}
	load.progress(50)
	load.check(space(t, open(t, driver.Config{URL: s.URL}), orders))
}

// load adds to counters until it is checked.
type load struct {
	t            testing.TB
	stop         context.CancelFunc
	acked, tried [8]int64
	all          sync.WaitGroup
	total        atomic.Int64
}

func newLoad(t testing.TB, kv driver.KV) *load {
	t.Helper()
	l := &load{t: t}
	ctx, stop := context.WithCancel(t.Context())
	l.stop = stop
	for i := range l.acked {
		l.all.Go(func() {
			for ctx.Err() == nil {
				l.add(kv, i)
			}
		})
	}
	t.Cleanup(func() { stop(); l.all.Wait() })
	return l
}

func (l *load) add(kv driver.KV, i int) {
	l.tried[i]++
	r := apply(l.t.Context(), kv, driver.Op{Kind: driver.Add, Key: string(rune('a' + i)), Delta: 1})
	switch errs.ReasonOf(r.Err) {
	case errs.Unknown:
		l.acked[i]++
		l.total.Add(1)
	case errs.BackendUnavailable:
		l.tried[i]-- // was not sent
	case errs.OutcomeUnknown:
	default:
		l.t.Errorf("add: %v", r.Err)
	}
}

func (l *load) progress(n int64) {
	l.t.Helper()
	before := l.total.Load()
	await(l.t, "progress", func() bool { return l.total.Load() > before+n })
}

func (l *load) check(kv driver.KV) {
	l.t.Helper()
	l.stop()
	l.all.Wait()
	for i := range l.acked {
		r := apply(l.t.Context(), kv, driver.Op{Kind: driver.Add, Key: string(rune('a' + i))})
		if r.Err != nil || r.Number < l.acked[i] || r.Number > l.tried[i] {
			l.t.Errorf("counter %d: %d, %v; %d acknowledged, %d may have happened", i, r.Number, r.Err, l.acked[i], l.tried[i])
		}
	}
}

// TestFullSocket sends more than a socket holds to a server that stands still:
// no caller waits longer than its context.
func TestFullSocket(t *testing.T) {
	t.Parallel()
	s := servers.NATSWith(t)
	kv := space(t, open(t, driver.Config{URL: s.URL}), orders)
	put(t, kv, "k", "v")
	s.Pause()
	var all sync.WaitGroup
	slow := make(chan time.Duration, 200)
	value := make([]byte, 512<<10)
	for i := range cap(slow) {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			begin := time.Now()
			var err error
			if i%2 == 0 {
				_, err = kv.Get(ctx, "k", driver.WithExpiry)
			} else {
				err = apply(ctx, kv, driver.Op{Kind: driver.Put, Key: "k", Value: value}).Err
			}
			wants(t, "a call to a paused server", err, errs.Deadline)
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
	s := servers.NATSWith(t)
	conn := open(t, driver.Config{URL: s.URL, Options: json.RawMessage(`{"answer_timeout": "300ms", "connect_timeout": "300ms"}`)})
	kv := space(t, conn, orders)
	put(t, kv, "k", "v")
	s.Pause()
	r := apply(t.Context(), kv, driver.Op{Kind: driver.Put, Key: "k"}) // no deadline of its own
	wants(t, "a write that was sent", r.Err, errs.OutcomeUnknown)
	_, err := kv.Get(t.Context(), "k", driver.WithExpiry) // the next connection gets no answer either
	wants(t, "a read", err, errs.BackendUnavailable)
	s.Resume()
	await(t, "ping after the pause", func() bool { return conn.Ping(t.Context()) == nil })
}

func TestCloseWithCallsUnderWay(t *testing.T) {
	t.Parallel()
	s := servers.NATSWith(t)
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
	wants(t, "after close", apply(t.Context(), kv, driver.Op{Kind: driver.Put, Key: "k"}).Err, errs.BackendUnavailable)
}

// TestCloseFinishesWhatIsUnderWay closes while writes are on their way to a
// healthy server: they are acknowledged.
func TestCloseFinishesWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	conn := open(t, driver.Config{URL: servers.NATS(t).URL})
	kv := space(t, conn, orders)
	put(t, kv, "k", "v")
	ops, results := make([]driver.Op, 500), make([]driver.Result, 500)
	for i := range ops {
		ops[i] = driver.Op{Kind: driver.Put, Key: "k", Value: []byte("v")}
	}
	begun := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		close(begun)
		kv.Apply(t.Context(), ops, results)
	}()
	<-begun
	await(t, "the first writes", func() bool {
		e, err := kv.Get(t.Context(), "k", driver.ValueOnly)
		return err == nil && e.Version != "1"
	})
	must(t, conn.Close())
	<-done
	for i, r := range results {
		if r.Err != nil {
			t.Fatalf("write %d of 500: %v", i, r.Err)
		}
	}
}

// rotating hands out a password that changes.
type rotating struct {
	mu       sync.Mutex // guards the fields below
	user     string
	password driver.Secret
	asked    int
}

func (r *rotating) set(user string, p driver.Secret) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.user, r.password = user, p
}

func (r *rotating) get(context.Context) (string, driver.Secret, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	return r.user, r.password, nil
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	s := servers.NATSWith(t, "authorization { users: [ {user: prism, password: sesame}, {user: next, password: simsim} ] }")
	ctx := t.Context()

	none := space(t, open(t, driver.Config{URL: s.URL}), orders)
	_, err := none.Get(ctx, "k", driver.WithExpiry)
	wants(t, "none", err, errs.BackendUnavailable)
	closed := open(t, driver.Config{URL: s.URL, Credentials: closedVault})
	if err := wants(t, "no credentials", closed.Ping(ctx), errs.CredentialsUnavailable); !strings.Contains(err.Error(), errVault.Error()) {
		t.Errorf("the cause is missing: %v", err)
	}

	c := &rotating{user: "prism", password: "wrong"}
	conn := open(t, driver.Config{URL: s.URL, Credentials: c.get})
	kv := space(t, conn, orders)
	e := wants(t, "wrong", apply(ctx, kv, driver.Op{Kind: driver.Put, Key: "k"}).Err, errs.BackendUnavailable)
	if text := e.Error(); strings.Contains(text, "wrong") || !strings.Contains(text, "refuses the credentials") {
		t.Errorf("message: %v", e)
	}
	c.set("prism", "sesame")
	await(t, "ping with the right one", func() bool { return conn.Ping(ctx) == nil })
	put(t, kv, "k", "v")
	c.set("next", "simsim")
	before := c.asked
	s.Restart()
	await(t, "ping after the rotation", func() bool { return conn.Ping(ctx) == nil })
	if c.asked == before {
		t.Error("the credentials were not asked for again")
	}

	token := servers.NATSWith(t, "authorization { token: sesame }")
	must(t, open(t, driver.Config{URL: token.URL, Credentials: (&rotating{password: "sesame"}).get}).Ping(ctx))
	wants(t, "another token", open(t, driver.Config{URL: token.URL, Credentials: (&rotating{password: "simsim"}).get}).Ping(ctx), errs.BackendUnavailable)
}

// TestUserWithoutRights is told at once, not after the answer timeout.
func TestUserWithoutRights(t *testing.T) {
	t.Parallel()
	s := servers.NATSWith(t, `authorization { users: [
		{user: full, password: x}
		{user: reader, password: x, permissions: {publish: {deny: "$KV.>"}}}
		{user: none, password: x, permissions: {publish: {deny: "$JS.>"}}}
	] }`)
	ctx := t.Context()
	as := func(user string) (driver.Conn, driver.KV) {
		conn := open(t, driver.Config{URL: s.URL, Credentials: (&rotating{user: user, password: "x"}).get})
		return conn, space(t, conn, orders)
	}
	_, full := as("full")
	put(t, full, "k", "v")
	begin := time.Now()
	_, reader := as("reader")
	if _, err := reader.Get(ctx, "k", driver.ValueOnly); err != nil {
		t.Errorf("get: %v", err)
	}
	if e := wants(t, "put", apply(ctx, reader, driver.Op{Kind: driver.Put, Key: "k"}).Err, errs.BackendUnavailable); !strings.Contains(e.Error(), "may not do this") {
		t.Errorf("message: %v", e)
	}
	none, _ := as("none")
	wants(t, "ping", none.Ping(ctx), errs.BackendUnavailable)
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("refusals took %v", took)
	}
}

func TestAccountWithoutJetStream(t *testing.T) {
	t.Parallel()
	s := servers.NATSWith(t, "accounts { A { users: [ {user: a, password: x} ] } }")
	conn := open(t, driver.Config{URL: s.URL, Credentials: (&rotating{user: "a", password: "x"}).get})
	if e := wants(t, "ping", conn.Ping(t.Context()), errs.BackendUnavailable); !strings.Contains(e.Error(), "JetStream is not enabled") {
		t.Errorf("message: %v", e)
	}
}

// TestWatchIsLostAndFound cuts the way of a watch: Lost is told only when it
// hears again, so that who scans then misses nothing.
func TestWatchIsLostAndFound(t *testing.T) {
	t.Parallel()
	s := servers.NATSWith(t)
	p := faultproxy.Listen(t, s.Addr)
	b, err := open(t, driver.Config{URL: "nats://" + p.Addr}).Space(orders)
	must(t, err)
	direct := space(t, open(t, driver.Config{URL: s.URL}), orders)
	w, err := b.Watcher.Watch(t.Context(), "")
	must(t, err)
	for range 3 {
		p.Set(faultproxy.Refuse)
		put(t, direct, "meanwhile", "1")
		p.Set(faultproxy.Pass)
		change, err := w.Next(t.Context())
		must(t, err)
		if !change.Lost {
			t.Fatalf("told %+v, want Lost", change)
		}
		put(t, direct, "after", "1")
		change, err = w.Next(t.Context())
		must(t, err)
		if change.Lost || len(change.Keys) != 1 || change.Keys[0] != "after" {
			t.Fatalf("told %+v, want after", change)
		}
	}
	must(t, w.Close())
}

// TestWatchWithoutConsumer deletes the consumer of a watch behind its back.
func TestWatchWithoutConsumer(t *testing.T) {
	t.Parallel()
	s, kv, _ := start(t)
	b, err := open(t, driver.Config{URL: s.URL}).Space(orders)
	must(t, err)
	w, err := b.Watcher.Watch(t.Context(), "")
	must(t, err)
	js, err := jetstream.New(connect(t, s.URL))
	must(t, err)
	stream, err := js.Stream(t.Context(), "KV_prism")
	must(t, err)
	for name := range stream.ConsumerNames(t.Context()).Name() {
		must(t, stream.DeleteConsumer(t.Context(), name))
	}
	put(t, kv, "unheard", "1")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	change, err := w.Next(ctx)
	if err != nil || !change.Lost {
		t.Fatalf("told %+v, %v, want Lost", change, err)
	}
	put(t, kv, "heard", "1")
	if change, err = w.Next(ctx); err != nil || change.Lost || len(change.Keys) != 1 {
		t.Fatalf("told %+v, %v, want heard", change, err)
	}
	must(t, w.Close())
	await(t, "the consumers to go", func() bool {
		info, err := stream.Info(t.Context())
		return err == nil && info.State.Consumers == 0
	})
}
