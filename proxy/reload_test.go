package proxy_test

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/client"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/proxy"
)

// A document with a mistake changes nothing, and every mistake is told.
func TestBrokenDocumentsChangeNothing(t *testing.T) {
	t.Parallel()
	s := start(t, nil, tapped)
	c := s.dial(t)
	if _, err := c.Store(in(t, "held"), &keyvaluev1.StoreRequest{Key: "k", Value: []byte("v")}); err != nil {
		t.Fatal(err)
	}
	for what, x := range map[string]struct {
		document string
		mistakes []string
	}{
		"unknown fields": {`{kind: Backend, name: tap, driver: tap, url: "tap:", colour: red}
---
{kind: Namespace, name: held, stores: [data], nedes: {}}`, []string{"colour", "nedes"}},
		"unknown driver":       {`{kind: Backend, name: tap, driver: tape, url: "tape:"}`, []string{"tape"}},
		"no YAML":              {`{kind: Backend, name: [`, []string{"test.yaml"}},
		"a backend twice":      {tapped + "---\n{kind: Backend, name: tap, driver: tap, url: \"tap:\"}", []string{"tap"}},
		"a namespace twice":    {tapped + "---\n{kind: Namespace, name: held, stores: [data], needs: {durability: none}, auth: {anonymous: read_write}}", []string{"held"}},
		"an unknown setting":   {tapped + "---\n{kind: Namespace, name: more, patterns: [{name: data, kind: keyvalue, settings: {ttl: 1s}}], needs: {durability: none}, auth: {anonymous: read_write}}", []string{"ttl"}},
		"more than it can":     {tapped + "---\n{kind: Namespace, name: strong, stores: [data], needs: {durability: strong}, auth: {anonymous: read_write}}", []string{"strong"}},
		"a reserved namespace": {tapped + "---\n{kind: Namespace, name: __system, stores: [data], needs: {durability: none}, auth: {anonymous: read_write}}", []string{"__"}},
	} {
		err := s.load(x.document)
		if err == nil {
			t.Errorf("%s was loaded", what)
			continue
		}
		for _, m := range x.mistakes {
			if !strings.Contains(err.Error(), m) {
				t.Errorf("%s: the error does not name %s: %v", what, m, err)
			}
		}
		if r, err := c.Retrieve(in(t, "held"), &keyvaluev1.RetrieveRequest{Key: "k"}); err != nil || string(r.GetValue()) != "v" {
			t.Errorf("after %s: %v %v", what, r, err)
		}
	}
	if opened, closed := s.opened.Load(), s.closed.Load(); opened != closed+1 {
		t.Errorf("%d connections opened and %d closed", opened, closed)
	}
	if m := get(t, "http://"+s.Ops+"/metrics"); !strings.Contains(m, `prism_configuration_loads_total{result="refused"} 8`) || !strings.Contains(m, `{result="applied"} 1`) {
		t.Error("loads are not counted")
	}
}

// A namespace that is open to anyone is not served beyond loopback.
func TestExposedNamespacesAreRefused(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *proxy.Options) { o.Loopback = false }, `{kind: Backend, name: tap, driver: tap, url: "tap:"}`)
	if err := s.load(tapped); err == nil || !strings.Contains(err.Error(), "anonymous") {
		t.Errorf("%v", err)
	}
	if _, err := s.dial(t).Retrieve(in(t, "held"), &keyvaluev1.RetrieveRequest{Key: "k"}); errs.FromStatus(err).Reason != errs.NamespaceNotFound {
		t.Error(err)
	}
}

// What a document says holds for streams that are open already, too.
func TestReloadReachesOpenStreams(t *testing.T) {
	t.Parallel()
	s := start(t, nil, tapped)
	c := s.dial(t)
	p := pipeline(t, in(t, "other"), c)
	op := uint64(0)
	one := func() *keyvaluev1.Answer {
		op++
		send(t, p, storeOp(op, "k", []byte("v")))
		return answers(t, p, 1)[op]
	}
	if a := one(); a.GetStore() == nil {
		t.Fatal(a)
	}
	change := func(from, to string) {
		t.Helper()
		if !strings.Contains(tapped, from) {
			t.Fatalf("there is no %s", from)
		}
		if err := s.load(strings.Replace(tapped, from, to, 1)); err != nil {
			t.Fatal(err)
		}
	}
	const other = "name: other, stores: [data], needs: {durability: none}, auth: {anonymous: read_write}"
	change(other, strings.Replace(other, "read_write", "read_only", 1))
	if a := one(); reasonOf(a) != "UNAUTHENTICATED" {
		t.Errorf("a namespace that became read-only: %v", a)
	}
	change(other, other+", limits: {write_rps: 1}")
	limited := 0
	for range 20 {
		if reasonOf(one()) == "RATE_LIMITED" {
			limited++
		}
	}
	if limited < 15 {
		t.Errorf("%d of 20 writes refused under a new limit of 1 per second", limited)
	}
	// The same limits again: what was used up stays used up.
	change(other, other+", limits: {write_rps: 1}, labels: {new: label}")
	if a := one(); reasonOf(a) != "RATE_LIMITED" {
		t.Errorf("a reload that does not change the limit forgave: %v", a)
	}
	change("name: other", "name: another")
	if a := one(); reasonOf(a) != "NAMESPACE_NOT_FOUND" {
		t.Errorf("a namespace that is gone: %v", a)
	}
	_, err := c.Retrieve(in(t, "other"), &keyvaluev1.RetrieveRequest{Key: "k"})
	told(t, "a namespace that is gone", err, errs.NamespaceNotFound)
	change("name: other", "name: other")
	if a := one(); a.GetStore() == nil {
		t.Errorf("and came back: %v", a)
	}
}

// A backend whose document changed is closed when the last call that uses it
// has ended, and no call fails for it.
func TestReloadClosesOldBackends(t *testing.T) {
	t.Parallel()
	s := start(t, nil, tapped)
	open := s.hold(false)
	defer open()
	c := s.dial(t)
	slow := make(chan error, 1)
	go func() {
		_, err := c.Store(in(t, "held"), &keyvaluev1.StoreRequest{Key: "hang", Value: []byte("v")})
		slow <- err
	}()
	waitFor(t, "a call hangs", func() bool { return s.waiting.Load() == 1 })
	if err := s.load(strings.Replace(tapped, `url: "tap:"`, `url: "tap:", region: north`, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exists(in(t, "held"), &keyvaluev1.ExistsRequest{Key: "k"}); err != nil {
		t.Error(err)
	}
	if o, cl := s.opened.Load(), s.closed.Load(); o != 2 || cl != 0 {
		t.Errorf("%d opened, %d closed while the old one is in use", o, cl)
	}
	// The same document again opens nothing.
	if err := s.load(strings.Replace(tapped, `url: "tap:"`, `url: "tap:", region: north`, 1)); err != nil {
		t.Fatal(err)
	}
	if o := s.opened.Load(); o != 2 {
		t.Errorf("%d opened for a document that did not change", o)
	}
	open()
	if err := <-slow; err != nil {
		t.Errorf("a call that was under way: %v", err)
	}
	waitFor(t, "the old one is closed", func() bool { return s.closed.Load() == 1 })
	// A backend that no document names any more goes, too.
	if err := s.load(`{kind: Namespace, name: held, stores: [data], needs: {durability: none}, auth: {anonymous: read_write}}`, documents); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "all are closed", func() bool { return s.closed.Load() == 2 })
}

// Cursors go on over a reload as long as the slot means the same place.
func TestReloadAndCursors(t *testing.T) {
	t.Parallel()
	s := start(t, nil, tapped)
	c := s.dial(t)
	for i := range 10 {
		if _, err := c.Store(in(t, "held"), &keyvaluev1.StoreRequest{Key: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	page := func(cursor string) (*keyvaluev1.ScanResponse, error) {
		stream, err := c.Scan(in(t, "held"), &keyvaluev1.ScanRequest{PageSize: 3, Cursor: cursor})
		if err != nil {
			return nil, err
		}
		return stream.Recv()
	}
	first, err := page("")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.load(strings.Replace(tapped, `url: "tap:"`, `url: "tap:", region: north`, 1)); err != nil {
		t.Fatal(err)
	}
	if second, err := page(first.GetCursor()); err != nil || second.GetEntries()[0].GetKey() != "3" {
		t.Errorf("%v %v", second, err)
	}
	if err := s.load(`{kind: Backend, name: tap, driver: memory, url: "memory://elsewhere"}`, tapped[strings.Index(tapped, "---"):]); err != nil {
		t.Fatal(err)
	}
	_, err = page(first.GetCursor())
	told(t, "a cursor of another backend", err, errs.StaleCursor)
}

// Reloading under load, with a broken document now and then, fails no call
// and leaves nothing behind.
func TestReloadUnderLoad(t *testing.T) {
	s := start(t, nil, tapped)
	var done atomic.Bool
	var calls, failures atomic.Int64
	var all sync.WaitGroup
	check := func(err error) {
		calls.Add(1)
		if err != nil && !errors.Is(err, errs.KeyNotFound) {
			failures.Add(1)
			t.Error(err)
		}
	}
	for i := range 4 {
		all.Go(func() {
			opts := []client.Option{client.WithNamespace("held"), client.WithRetry(client.RetryPolicy{Tries: 1})}
			if i%2 == 0 {
				opts = append(opts, client.WithUnary())
			}
			c, err := client.Dial(s.GRPC, opts...)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			kv := c.KeyValue("")
			for n := 0; !done.Load() && failures.Load() < 10; n++ {
				key := fmt.Sprint(i, n%100)
				_, err := kv.Store(t.Context(), key, []byte(key))
				check(err)
				e, err := kv.Retrieve(t.Context(), key)
				if check(err); err == nil && string(e.Value) != key {
					t.Errorf("%q holds %q", key, e.Value)
				}
				_, err = kv.RetrieveBatch(t.Context(), []string{key, "nobody"})
				check(err)
			}
		})
	}
	warm := 0
	reload := func(n int) {
		for i := range n {
			text := strings.Replace(tapped, `url: "tap:"`, fmt.Sprintf(`url: "tap:", region: r%d`, i%7), 1)
			if i%10 == 9 {
				if s.load(text+"---\n{kind: Nonsense}") == nil {
					t.Fatal("nonsense was loaded")
				}
				continue
			}
			if err := s.load(text); err != nil {
				t.Fatal(err)
			}
		}
		warm += n
	}
	reload(50)
	before, goroutines := heap(), runtime.NumGoroutine()
	reload(scaled(1000, 100))
	waitFor(t, "old backends are closed", func() bool { return s.opened.Load()-s.closed.Load() <= 2 })
	if n := runtime.NumGoroutine(); n > goroutines+30 {
		t.Errorf("%d goroutines, %d before", n, goroutines)
	}
	if grown := int64(heap()) - int64(before); grown > 1<<20 {
		t.Errorf("the heap has grown by %d KiB", grown>>10)
	} else {
		t.Logf("the heap has grown by %d KiB over %d loads, %d calls", grown>>10, warm-50, calls.Load())
	}
	done.Store(true)
	all.Wait()
	if calls.Load() < 100 {
		t.Errorf("only %d calls", calls.Load())
	}
	if s.opened.Load() < 50 {
		t.Errorf("only %d connections were opened: nothing was reloaded", s.opened.Load())
	}
}

// What still uses an old backend after closeAfter loses it. The constant is
// half a minute, so this runs in long runs only.
func TestReloadClosesAtTheLatest(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes 30 s")
	}
	s := start(t, nil, tapped)
	open := s.hold(false)
	defer open()
	p := pipeline(t, in(t, "held"), s.dial(t))
	send(t, p, timed(retrieveOp(1, "hang"), 100_000))
	waitFor(t, "an operation hangs", func() bool { return s.waiting.Load() == 1 })
	if err := s.load(strings.Replace(tapped, `url: "tap:"`, `url: "tap:", region: north`, 1)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for s.closed.Load() == 0 && time.Since(began) < 40*time.Second {
		time.Sleep(100 * time.Millisecond)
	}
	if took := time.Since(began); took < 29*time.Second || took > 35*time.Second {
		t.Errorf("closed after %v", took)
	}
	open()
	if a := answers(t, p, 1)[1]; reasonOf(a) != "BACKEND_UNAVAILABLE" {
		t.Errorf("%v", a)
	}
}
