package drivertest

import (
	"context"
	"crypto/rand"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// patience is how long anything in the suite may take; it only ends what hangs.
const patience = time.Minute

// env is what a check works with.
type env struct {
	testing.TB
	s   *suite
	g   driver.Guarantees
	ctx context.Context
}

func newEnv(tb testing.TB, s *suite) *env {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	tb.Cleanup(cancel)
	return &env{TB: tb, s: s, g: s.g, ctx: ctx}
}

// open returns a further connection, closed at the end of the check.
func (e *env) open() driver.Conn {
	e.Helper()
	return e.openConfig(e.s.h.Config)
}

func (e *env) openConfig(c driver.Config) driver.Conn {
	e.Helper()
	conn, err := e.s.h.Driver.Open(c)
	if err != nil {
		e.Fatalf("open: %v", err)
	}
	e.Cleanup(func() {
		if err := conn.Close(); err != nil {
			e.Errorf("close: %v", err)
		}
	})
	return conn
}

// space returns a space that nobody else uses, in the backend under test.
func (e *env) space() driver.Space {
	e.Helper()
	return e.spaceIn(e.s.h.Config)
}

// spaceIn is space in the backend that c opens.
func (e *env) spaceIn(c driver.Config) driver.Space {
	e.Helper()
	return e.s.h.laidOut(e.s.tb, c, driver.Space{Namespace: "drivertest-" + unique(), Pattern: "kv"})
}

// named returns the space of this name in the backend under test, in a place
// of its own.
func (e *env) named(s driver.Space) driver.Space {
	e.Helper()
	return e.s.h.laidOut(e.s.tb, e.s.h.Config, s)
}

// laidOut gives a space a place of its own, where the harness says how.
func (h *Harness) laidOut(tb testing.TB, c driver.Config, s driver.Space) driver.Space {
	tb.Helper()
	if h.Layout != nil {
		s.Layout = h.Layout(tb, c)
	}
	return s
}

func unique() string { return strings.ToLower(rand.Text()[:12]) }

// store returns a space of its own on the shared connection.
func (e *env) store() *store {
	e.Helper()
	return e.storeOn(e.s.anchor, e.space())
}

func (e *env) storeOn(conn driver.Conn, space driver.Space) *store {
	e.Helper()
	b, err := conn.Space(space)
	if err != nil {
		e.Fatalf("space %q %q: %v", space.Namespace, space.Pattern, err)
	}
	return &store{env: e, kv: b.KV, watcher: b.Watcher, space: space}
}

// ttl returns a time to live, 0 where entries cannot expire.
func (e *env) ttl(d time.Duration) time.Duration {
	if !e.g.TTL {
		return 0
	}
	return d
}

// noise returns n bytes that no one can compress, or as many as a value may
// have.
func (e *env) noise(n int) []byte { return noise(min(n, e.g.MaxValue)) }

// possible returns the operations without those that need a time to live,
// where entries cannot expire, and with values no longer than they may be.
func (e *env) possible(ops []driver.Op) []driver.Op {
	ops = slices.DeleteFunc(slices.Clone(ops), func(op driver.Op) bool { return !e.g.TTL && (op.Kind == driver.Expire || op.TTL > 0) })
	for i := range ops {
		ops[i].Value = ops[i].Value[:min(len(ops[i].Value), e.g.MaxValue)]
	}
	return ops
}

// await waits until a condition holds.
func (e *env) await(what string, holds func() bool) {
	e.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			e.Fatalf("%s: not within %s", what, patience)
		}
	}
}

// wants reports an error that has none of the reasons.
func (e *env) wants(what string, err error, reasons ...errs.Reason) bool {
	e.Helper()
	if err != nil && slices.Contains(reasons, errs.ReasonOf(err)) {
		return true
	}
	names := make([]string, len(reasons))
	for i, r := range reasons {
		names[i] = r.String()
	}
	e.Errorf("%s: got %s, want %s", what, describe(err), strings.Join(names, " or "))
	return false
}

func describe(err error) string {
	if err == nil {
		return "no error"
	}
	return errs.ReasonOf(err).String() + " (" + err.Error() + ")"
}

// hang is how much longer than it may a call takes until nobody waits for it.
const hang = 10 * time.Second

// within reports a call that took longer than it may.
func (e *env) within(what string, limit time.Duration, call func()) {
	e.Helper()
	done := make(chan struct{})
	start := time.Now()
	go func() {
		defer close(done)
		call()
	}()
	select {
	case <-done:
	case <-time.After(limit + hang):
		e.Fatalf("%s: hangs", what)
	}
	if took := time.Since(start); took > limit {
		e.Errorf("%s: took %s, want at most %s", what, took, limit)
	}
}
