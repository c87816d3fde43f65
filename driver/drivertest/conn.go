package drivertest

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

func connChecks() []check {
	return []check{
		{"conn/open-reports-every-mistake", nil, openReportsMistakes},
		{"conn/layout-mistakes", nil, layoutMistakes},
		{"conn/ping", nil, ping},
		{"conn/close-twice", nil, closeTwice},
		{"conn/use-after-close", nil, useAfterClose},
		{"conn/close-under-load", nil, closeUnderLoad},
		{"conn/persists", needsPersistent, persists},
		{"conn/guarantees", nil, guaranteesHold},
		{"conn/extents", nil, extents},
		{"context/ended-before", nil, endedBefore},
	}
}

func needsPersistent(e *env) string {
	if !e.s.h.Persistent {
		return "data ends with the last connection"
	}
	return ""
}

// fieldsOf returns the paths and texts of an error's violations.
func fieldsOf(err error) (paths, texts []string) {
	if err == nil {
		return nil, nil
	}
	for _, f := range errs.From(err).Fields {
		paths = append(paths, f.Path)
		texts = append(texts, f.Text)
	}
	return paths, texts
}

func below(paths []string, top string) bool {
	return slices.ContainsFunc(paths, func(p string) bool {
		return p == top || strings.HasPrefix(p, top+".") || strings.HasPrefix(p, top+"[")
	})
}

func openReportsMistakes(e *env) {
	c := e.s.h.Config
	c.URL = "no-such-scheme://host"
	c.Options = json.RawMessage(`{"no_such_option": 1}`)
	conn, err := e.s.h.Driver.Open(c)
	if err == nil {
		_ = conn.Close()
		e.Fatal("open with a wrong url and an unknown option: no error")
	}
	paths, texts := fieldsOf(err)
	if !below(paths, "url") || !below(paths, "options") {
		e.Errorf("open with a wrong url and an unknown option: got fields %q (%v), want url and options", paths, err)
	}
	if !strings.Contains(strings.Join(append(paths, texts...), " "), "no_such_option") {
		e.Errorf("open with an unknown option: %q does not name it", texts)
	}
}

func layoutMistakes(e *env) {
	space := e.space()
	for _, layout := range []string{`{"no_such_field": 1}`, `[]`, `"text"`, `{`} {
		space.Layout = json.RawMessage(layout)
		_, err := e.s.anchor.Space(space)
		if paths, _ := fieldsOf(err); !below(paths, "layout") {
			e.Errorf("space with layout %s: got fields %q (%v), want layout", layout, paths, err)
		}
	}
}

func ping(e *env) {
	if err := e.s.anchor.Ping(e.ctx); err != nil {
		e.Errorf("ping: %s", describe(err))
	}
	if err := e.open().Ping(e.ctx); err != nil {
		e.Errorf("ping of a new connection: %s", describe(err))
	}
}

func closeTwice(e *env) {
	conn := e.open()
	e.storeOn(conn, e.space()).put("a", "1")
	for range 2 {
		if err := conn.Close(); err != nil {
			e.Errorf("close: %v", err)
		}
	}
}

func useAfterClose(e *env) {
	conn := e.open()
	s := e.storeOn(conn, e.space())
	s.put("a", "1")
	var watch driver.Watch
	if s.watcher != nil {
		watch = s.watch("")
	}
	if err := conn.Close(); err != nil {
		e.Fatalf("close: %v", err)
	}
	s.endedWith(e.ctx, errs.BackendUnavailable)
	e.wants("ping", conn.Ping(e.ctx), errs.BackendUnavailable)
	if watch == nil {
		return
	}
	_, err := watch.Next(e.ctx)
	e.wants("next of a watch", err, errs.BackendUnavailable, errs.Cancelled)
	_, err = s.watcher.Watch(e.ctx, "")
	e.wants("watch", err, errs.BackendUnavailable)
	if err := watch.Close(); err != nil {
		e.Errorf("close of a watch after its connection: %v", err)
	}
}

// endedWith checks that each method answers reason, in each result.
func (s *store) endedWith(ctx context.Context, reason errs.Reason) {
	s.Helper()
	_, err := s.kv.Get(ctx, "a", driver.WithExpiry)
	s.wants("get", err, reason)
	_, err = s.kv.Scan(ctx, driver.ScanRequest{Limit: 10})
	s.wants("scan", err, reason)
	many := make([]driver.GetResult, 3)
	s.kv.GetMany(ctx, []string{"a", "b", "c"}, driver.WithExpiry, many)
	for _, r := range many {
		s.wants("get many", r.Err, reason)
	}
	ops := s.possible([]driver.Op{
		{Kind: driver.Put, Key: "a"},
		{Kind: driver.Delete, Key: "b"},
		{Kind: driver.Add, Key: "c", Delta: 1},
		{Kind: driver.Expire, Key: "d", TTL: time.Hour},
		{Kind: driver.Put, Key: "e", IfAbsent: true},
		{Kind: driver.Put, Key: "f", IfVersion: "v"},
	})
	results := make([]driver.Result, len(ops))
	s.kv.Apply(ctx, ops, results)
	for i, r := range results {
		s.wants(opText(ops[i]), r.Err, reason)
	}
}

// closing is how long Close may take, and what it ends.
const closing = 5 * time.Second

// closeUnderLoad closes a connection while others use it: what is under way
// ends, one way or the other.
func closeUnderLoad(e *env) {
	conn := e.open()
	s := e.storeOn(conn, e.space())
	s.put("a", "1")
	const workers = 8
	started, ended := make(chan struct{}, workers), make(chan error, workers)
	for range workers {
		go func() {
			started <- struct{}{}
			for {
				if _, err := s.kv.Get(e.ctx, "a", driver.WithExpiry); err != nil {
					ended <- err
					return
				}
				if r := s.do(driver.Op{Kind: driver.Add, Key: "n", Delta: 1}); r.Err != nil {
					ended <- r.Err
					return
				}
			}
		}()
	}
	for range workers {
		<-started
	}
	e.within("close", closing, func() {
		if err := conn.Close(); err != nil {
			e.Errorf("close: %v", err)
		}
	})
	e.within("operations under way", closing, func() {
		for range workers {
			e.wants("an operation under way or after it", <-ended, errs.BackendUnavailable, errs.OutcomeUnknown)
		}
	})
}

func persists(e *env) {
	space := e.space()
	conn := e.open()
	s := e.storeOn(conn, space)
	want := map[string]driver.Entry{}
	for _, key := range []string{"a", "b", "c"} {
		s.putFor(key, "value of "+key, time.Hour)
	}
	s.putFor("d", "", 0)
	s.add("e", 5)
	for _, key := range []string{"a", "b", "c", "d", "e"} {
		entry, err := s.kv.Get(e.ctx, key, driver.WithExpiry)
		if err != nil {
			e.Fatalf("get: %s", describe(err))
		}
		want[key] = entry
	}
	if err := conn.Close(); err != nil {
		e.Fatalf("close: %v", err)
	}
	s = e.storeOn(e.open(), space)
	for key, entry := range want {
		if got := s.is(key, string(entry.Value)); !sameEntry(got, entry) {
			e.Errorf("get %q after reopening: got version %s, expires %s, want %s, %s", key, got.Version, got.Expires, entry.Version, entry.Expires)
		}
	}
	before := want["a"].Version
	if r := s.put("a", "another"); r.Version == before {
		e.Errorf("put after reopening: version %s was given out before", before)
	}
}

func guaranteesHold(e *env) {
	g := e.g
	if g.Version != driver.WriteVersions && g.Version != driver.ContentVersions {
		e.Errorf("unknown Version %q", g.Version)
	}
	if g.Clock != driver.ProxyClock && g.Clock != driver.ServerClock {
		e.Errorf("unknown Clock %q", g.Clock)
	}
	if g.ScanCost != driver.ScanPrefix && g.ScanCost != driver.ScanKeyspace {
		e.Errorf("unknown ScanCost %q", g.ScanCost)
	}
	if g.Idempotency != driver.IdempotencyAtomic && g.Idempotency != driver.IdempotencyReserved {
		e.Errorf("unknown Idempotency %q", g.Idempotency)
	}
	if g.MaxValue < 1 {
		e.Errorf("MaxValue is %d", g.MaxValue)
	}
	if g.Ack.Settings == "" || g.Ack.Why == "" {
		e.Errorf("Ack does not say under which settings and why: %+v", g.Ack)
	}
	if !slices.ContainsFunc(e.s.h.Driver.Acks, func(a driver.Ack) bool { return a == g.Ack }) {
		e.Errorf("Ack %+v is not among the driver's Acks", g.Ack)
	}
	if g.Ack.Process && !e.s.h.Persistent && e.s.h.Server == nil {
		e.Error("Ack.Process, but the harness is neither Persistent nor has a Server: nothing shows it")
	}
	if again := e.store().kv.Guarantees(); again != g {
		e.Errorf("Guarantees differ between two spaces: %+v and %+v", g, again)
	}
}

func extents(e *env) {
	space := e.space()
	others := []driver.Space{
		{Namespace: space.Namespace, Pattern: space.Pattern + "2"},
		{Namespace: space.Namespace + "2", Pattern: space.Pattern},
		{Namespace: space.Namespace, Pattern: ""},
		{Namespace: space.Namespace + ":" + space.Pattern, Pattern: ""},
	}
	for i := range others {
		others[i] = e.named(others[i])
	}
	extent := e.extent(space)
	if again := e.extent(space); !extent.Overlaps(again) {
		e.Errorf("the extents of one space do not overlap: %+v, %+v", extent, again)
	}
	for _, other := range others {
		if x := e.extent(other); extent.Overlaps(x) {
			e.Errorf("the extents of two spaces overlap: %+v of %+v, %+v of %+v", extent, space, x, other)
		}
	}
	if e.s.h.Layout == nil {
		return
	}
	same, own := others[0], space
	same.Layout, own.Layout = space.Layout, nil
	if x := e.extent(same); !extent.Overlaps(x) {
		e.Errorf("the extents of two spaces with one layout do not overlap: %+v, %+v", extent, x)
	}
	if x := e.extent(own); extent.Overlaps(x) {
		e.Errorf("the extents of adopted data and of Prism's own overlap: %+v, %+v", extent, x)
	}
}

func (e *env) extent(space driver.Space) driver.Extent {
	e.Helper()
	b, err := e.s.anchor.Space(space)
	if err != nil {
		e.Fatalf("space: %v", err)
	}
	return b.Extent
}

func endedBefore(e *env) {
	s := e.store()
	s.put("a", "1")
	cancelled, cancel := context.WithCancel(e.ctx)
	cancel()
	s.endedWith(cancelled, errs.Cancelled)
	e.wants("ping", e.s.anchor.Ping(cancelled), errs.Cancelled)
	late, cancel := context.WithDeadline(e.ctx, time.Now().Add(-time.Second))
	defer cancel()
	s.endedWith(late, errs.Deadline)
	e.wants("ping", e.s.anchor.Ping(late), errs.Deadline)
	s.put("a", "2")
	s.is("a", "2")
}
