package drivertest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

func watchChecks() []check {
	return []check{
		{"watch/each-change-is-told", needsWatcher, eachChangeTold},
		{"watch/prefixes", needsWatcher, watchPrefixes},
		{"watch/other-spaces", needsWatcher, watchOtherSpaces},
		{"watch/close", needsWatcher, watchClose},
		{"watch/context", needsWatcher, watchContext},
		{"watch/slow-reader", needsWatcher, watchSlowReader},
		{"watch/mirror-converges", needsWatcher, mirrorConverges},
	}
}

func needsWatcher(e *env) string {
	if !e.s.watch {
		return "this technology cannot tell changes"
	}
	return ""
}

func (s *store) watch(prefix string) driver.Watch {
	s.Helper()
	w, err := s.watcher.Watch(s.ctx, prefix)
	if err != nil {
		s.Fatalf("watch %s: %s", brief(prefix), describe(err))
	}
	s.Cleanup(func() {
		if err := w.Close(); err != nil {
			s.Errorf("close of a watch: %v", err)
		}
	})
	return w
}

// told waits until all keys have been told, by name or by Lost.
func (s *store) told(w driver.Watch, keys ...string) {
	s.Helper()
	missing := map[string]bool{}
	for _, key := range keys {
		missing[key] = true
	}
	ctx, cancel := context.WithTimeout(s.ctx, 10*time.Second)
	defer cancel()
	for len(missing) > 0 {
		change, err := w.Next(ctx)
		if err != nil {
			s.Fatalf("next: %s; not told of %s", describe(err), briefAll(slices.Sorted(maps.Keys(missing))))
		}
		s.checkChange(change)
		if change.Lost {
			return
		}
		for _, key := range change.Keys {
			delete(missing, key)
		}
	}
}

func (s *store) checkChange(c driver.Change) {
	s.Helper()
	if len(c.Keys) == 0 && !c.Lost {
		s.Error("next returned a change of nothing")
	}
	if sorted := slices.Sorted(slices.Values(c.Keys)); len(slices.Compact(sorted)) != len(c.Keys) {
		s.Errorf("a key is told twice in one change: %s", briefAll(c.Keys))
	}
}

func eachChangeTold(e *env) {
	s := e.store()
	two := s.again(e.open())
	w := s.watch("")
	version := s.put("a", "1").Version
	s.told(w, "a")
	s.ok(driver.Op{Kind: driver.Put, Key: "a", Value: []byte("2"), IfVersion: version})
	s.told(w, "a")
	s.add("n", 1)
	s.told(w, "n")
	s.expire("n", time.Hour)
	s.told(w, "n")
	two.put("b", "of another connection")
	s.told(w, "b")
	two.delete("b")
	s.told(w, "b")
	s.delete("a")
	s.told(w, "a")
	s.apply(
		driver.Op{Kind: driver.Put, Key: "x"},
		driver.Op{Kind: driver.Put, Key: "y"},
		driver.Op{Kind: driver.Put, Key: "z"},
	)
	s.told(w, "x", "y", "z")
	if e.g.Idempotency == driver.IdempotencyAtomic {
		s.ok(driver.Op{Kind: driver.Put, Key: "once", Once: newOnce(1)})
		s.told(w, "once")
	}
	for _, key := range hostileKeys() {
		s.put(key, "1")
		s.told(w, key)
	}
}

// watchPrefixes watches hostile prefixes and checks that they tell of their
// keys and of no others.
func watchPrefixes(e *env) {
	s := e.store()
	for _, prefix := range []string{"a", "a*", "a%", "a_", "[a", "a?", `a\`, "a:", "{a}", "a.", "a.*", "é", "a\n", "a ", "A", strings.Repeat("k", driver.MaxKey-1)} {
		w := s.watch(prefix)
		want := withPrefix(hostileKeys(), prefix)
		if prefix != strings.TrimSpace(prefix) || len(want) == 0 {
			want = append(want, prefix+"x")
		}
		for _, key := range append(hostileKeys(), want...) {
			s.put(key, prefix)
		}
		missing := map[string]bool{}
		for _, key := range want {
			missing[key] = true
		}
		for len(missing) > 0 {
			change, err := w.Next(e.ctx)
			if err != nil {
				e.Fatalf("next: %s", describe(err))
			}
			for _, key := range change.Keys {
				if !strings.HasPrefix(key, prefix) {
					e.Errorf("watch %s: told of %s", brief(prefix), brief(key))
				}
				delete(missing, key)
			}
			if change.Lost {
				clear(missing)
			}
		}
	}
}

func watchOtherSpaces(e *env) {
	for _, pair := range e.pairs() {
		one, other := e.storeOn(e.s.anchor, pair[0]), e.storeOn(e.s.anchor, pair[1])
		w := one.watch("")
		other.put("key of the other", "1")
		one.put("own", "1")
		for done := false; !done; {
			change, err := w.Next(e.ctx)
			if err != nil {
				e.Fatalf("next: %s", describe(err))
			}
			for _, key := range change.Keys {
				if key != "own" {
					e.Errorf("a watch of %+v tells of %q in %+v", pair[0], key, pair[1])
				}
				done = done || key == "own"
			}
			done = done || change.Lost
		}
		one.delete("own")
		other.delete("key of the other")
	}
}

func watchClose(e *env) {
	s := e.store()
	w := s.watch("")
	waiting := make(chan error, 1)
	go func() {
		for {
			if _, err := w.Next(e.ctx); err != nil {
				waiting <- err
				return
			}
		}
	}()
	s.put("a", "1")
	e.within("close of a watch", 5*time.Second, func() {
		for range 2 {
			if err := w.Close(); err != nil {
				e.Errorf("close of a watch: %v", err)
			}
		}
	})
	e.within("next under way", 5*time.Second, func() { e.wants("next under way", <-waiting, errs.Cancelled) })
	s.put("a", "2")
	_, err := w.Next(e.ctx)
	e.wants("next after close", err, errs.Cancelled)

	w2 := s.watch("")
	s.put("a", "3")
	s.told(w2, "a")
}

func watchContext(e *env) {
	s := e.store()
	w := s.watch("")
	short, cancel := context.WithTimeout(e.ctx, 30*time.Millisecond)
	defer cancel()
	e.within("next that ends by deadline", 2*time.Second, func() {
		for {
			if _, err := w.Next(short); err != nil {
				e.wants("next", err, errs.Deadline)
				return
			}
		}
	})
	cancelled, cancel := context.WithCancel(e.ctx)
	time.AfterFunc(10*time.Millisecond, cancel)
	e.within("next that is cancelled", 2*time.Second, func() {
		for {
			if _, err := w.Next(cancelled); err != nil {
				e.wants("next", err, errs.Cancelled)
				return
			}
		}
	})
	_, err := s.watcher.Watch(cancelled, "")
	e.wants("watch", err, errs.Cancelled)
	s.put("a", "1")
	s.told(w, "a")

	// The context of Watch ends the call, not the watch.
	once, cancel := context.WithCancel(e.ctx)
	w2, err := s.watcher.Watch(once, "")
	cancel()
	if err != nil {
		e.Fatalf("watch: %s", describe(err))
	}
	defer func() { _ = w2.Close() }()
	for range 20 {
		s.put("b", "1")
		s.told(w2, "b")
		time.Sleep(time.Millisecond)
	}
}

// watchSlowReader lets more changes pile up than anybody can keep: they are
// told all the same, by Lost if need be.
func watchSlowReader(e *env) {
	s := e.store()
	w := s.watch("")
	const n = 10_000
	keys := make([]string, n)
	ops := make([]driver.Op, n)
	for i := range ops {
		keys[i] = fmt.Sprintf("k%06d", i)
		ops[i] = driver.Op{Kind: driver.Put, Key: keys[i]}
	}
	for chunk := range slices.Chunk(ops, 1000) {
		for _, r := range s.apply(chunk...) {
			if r.Err != nil {
				e.Fatalf("put: %s", describe(r.Err))
			}
		}
	}
	s.told(w, keys...)
	s.put("last", "1")
	s.told(w, "last")
}

// mirrorConverges keeps a copy as a reader of a Watcher does: watch, scan, then
// read again what is told, and scan again on Lost. When the writers are done
// the copy equals the store.
func mirrorConverges(e *env) {
	s := e.store()
	two := s.again(e.open())
	for i := range 20 {
		s.put(fmt.Sprint("k", i), "before")
	}
	var done atomic.Bool
	var wg sync.WaitGroup
	for i, writer := range []*store{s, two, two} {
		wg.Go(func() {
			for j := range 300 {
				key := fmt.Sprint("k", (i*7+j*13)%40)
				writer.do(driver.Op{Kind: driver.OpKind(j%2 + 1), Key: key, Value: fmt.Append(nil, i, "-", j)})
			}
		})
	}
	go func() {
		wg.Wait()
		s.do(driver.Op{Kind: driver.Put, Key: "zz-done"})
		done.Store(true)
	}()
	mirror := s.follow(s.watch(""), "zz-done")
	e.await("writers", done.Load)
	for _, item := range s.all("", 100) {
		if mirror[item.Key] != string(item.Value) {
			e.Errorf("key %s: the mirror has %q, the store %q", item.Key, mirror[item.Key], item.Value)
		}
		delete(mirror, item.Key)
	}
	if len(mirror) > 0 {
		e.Errorf("the mirror has keys that the store has not: %v", mirror)
	}
}

// follow mirrors the store until the last key has been seen and nothing more
// comes.
func (s *store) follow(w driver.Watch, last string) map[string]string {
	s.Helper()
	mirror := map[string]string{}
	rescan := func() {
		clear(mirror)
		for _, item := range s.all("", 7) {
			mirror[item.Key] = string(item.Value)
		}
	}
	rescan()
	for {
		wait := patience
		if _, there := mirror[last]; there {
			wait = 500 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(s.ctx, wait)
		change, err := w.Next(ctx)
		cancel()
		if _, there := mirror[last]; there && errs.ReasonOf(err) == errs.Deadline {
			return mirror
		}
		if err != nil {
			s.Fatalf("next: %s", describe(err))
		}
		if change.Lost {
			rescan()
		}
		for i, r := range s.getMany(change.Keys...) {
			delete(mirror, change.Keys[i])
			if r.Err == nil {
				mirror[change.Keys[i]] = string(r.Value)
			}
		}
	}
}
