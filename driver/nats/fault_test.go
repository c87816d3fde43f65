package nats_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/nats"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/faultproxy"
	"github.com/prismgw/prism/internal/testutil/kvtest"
	"github.com/prismgw/prism/internal/testutil/servers"
)

func TestServerComesLater(t *testing.T) {
	t.Parallel()
	kvtest.ServerComesLater(t, nats.Driver(), servers.NATSWith(t))
}

// TestNoAcknowledgedWriteIsLost kills the server under load, several times.
func TestNoAcknowledgedWriteIsLost(t *testing.T) {
	t.Parallel()
	s := servers.NATSWith(t)
	kv := space(t, open(t, driver.Config{URL: s.URL}), orders)
	load := kvtest.NewLoad(t, kv)
	for range 3 {
		load.Progress(200)
		s.Kill()
		s.Start()
	}
	load.Progress(50)
	load.Check(space(t, open(t, driver.Config{URL: s.URL}), orders))
}

// TestFullSocket sends more than a socket holds to a server that stands still.
func TestFullSocket(t *testing.T) {
	t.Parallel()
	kvtest.PausedServer(t, nats.Driver(), servers.NATSWith(t), 200, make([]byte, 512<<10), errs.Deadline)
}

func TestSilentServerIsGivenUp(t *testing.T) {
	t.Parallel()
	kvtest.SilentServerIsGivenUp(t, nats.Driver(), servers.NATSWith(t))
}

func TestCloseWithCallsUnderWay(t *testing.T) {
	t.Parallel()
	kvtest.CloseWithCallsUnderWay(t, nats.Driver(), servers.NATSWith(t))
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

func TestCredentials(t *testing.T) {
	t.Parallel()
	s := servers.NATSWith(t, "authorization { users: [ {user: prism, password: sesame}, {user: next, password: simsim} ] }")
	kvtest.LoginChanges(t, nats.Driver(), s, kvtest.Login{User: "prism", Password: "sesame"}, kvtest.Login{User: "next", Password: "simsim"})
	ctx := t.Context()
	wrong := open(t, driver.Config{URL: s.URL, Credentials: kvtest.Login{User: "prism", Password: "x"}.Get})
	if e := wants(t, "wrong", wrong.Ping(ctx), errs.BackendUnavailable); !strings.Contains(e.Error(), "refuses the credentials") {
		t.Errorf("message: %v", e)
	}
	token := servers.NATSWith(t, "authorization { token: sesame }")
	must(t, open(t, driver.Config{URL: token.URL, Credentials: kvtest.Login{Password: "sesame"}.Get}).Ping(ctx))
	other := open(t, driver.Config{URL: token.URL, Credentials: kvtest.Login{Password: "simsim"}.Get})
	wants(t, "another token", other.Ping(ctx), errs.BackendUnavailable)
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
		conn := open(t, driver.Config{URL: s.URL, Credentials: kvtest.Login{User: user, Password: "x"}.Get})
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
	conn := open(t, driver.Config{URL: s.URL, Credentials: kvtest.Login{User: "a", Password: "x"}.Get})
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
