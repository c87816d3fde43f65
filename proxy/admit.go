package proxy

import (
	"container/list"
	"context"
	"math"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/prismgw/prism/errs"
)

// maxWait is how long an operation waits for a place. It is short: who is not
// let in soon is told at once, and can go elsewhere.
const maxWait = 5 * time.Millisecond

// limits hold back what one namespace's callers may take from the others.
// They outlive a configuration that does not change them.
type limits struct {
	reads, writes *rate.Limiter // nil: no limit
	concurrency   int64         // 0: no limit
	inFlight      atomic.Int64

	unary   source    // the one of all unary callers
	sources list.List // of *source that wait; guarded by gate.mu
	place   *list.Element
}

// source is what takes turns within a namespace: a stream, or the unary
// callers together.
type source struct {
	waiting list.List // of *waiter; guarded by gate.mu
	place   *list.Element
}

// waiter is one operation that waits. Its channel is closed when it is let in.
type waiter struct {
	in   chan struct{}
	done bool // let in or gone; guarded by gate.mu
}

// newLimits returns limits of which a second's worth may come at once, so that
// batches fit.
func newLimits(readRPS, writeRPS, concurrency int) *limits {
	l := &limits{concurrency: int64(concurrency)}
	if readRPS > 0 {
		l.reads = rate.NewLimiter(rate.Limit(readRPS), readRPS)
	}
	if writeRPS > 0 {
		l.writes = rate.NewLimiter(rate.Limit(writeRPS), writeRPS)
	}
	return l
}

// same reports whether two namespaces' limits are configured alike.
func (l *limits) same(o *limits) bool {
	return l.concurrency == o.concurrency && sameRate(l.reads, o.reads) && sameRate(l.writes, o.writes)
}

func sameRate(a, b *rate.Limiter) bool {
	return a == nil && b == nil || a != nil && b != nil && a.Limit() == b.Limit()
}

// limited reports whether the namespace has a rate for the method.
func (l *limits) limited(m *method) bool {
	if m.write() {
		return l.writes != nil
	}
	return l.reads != nil
}

// checkRate takes n operations off the namespace's rate, or none. It reserves
// nothing: what waits for its turn would delay others that fit.
func (l *limits) checkRate(m *method, n int, now time.Time) error {
	limiter, what := l.reads, "reads"
	if m.write() {
		limiter, what = l.writes, "writes"
	}
	if limiter == nil || limiter.AllowN(now, n) {
		return nil
	}
	if most := limiter.Burst(); n > most {
		return errs.New(errs.PayloadTooLarge, "the namespace's limit of %v %s per second lets %d come at once and the batch has %d; send at most %d, or ask for a higher limit", limiter.Limit(), what, most, n, most).
			With("limit", strconv.Itoa(most)).With("limit_of", "rate")
	}
	missing := float64(n) - limiter.TokensAt(now)
	// Up to the next microsecond: who is back a moment early would be refused.
	wait := time.Duration(math.Ceil(missing/float64(limiter.Limit())*1e6)) * time.Microsecond
	return errs.New(errs.RateLimited, "the namespace's limit of %v %s per second is reached; retry after the delay given, or ask for a higher limit", limiter.Limit(), what).WithRetry(max(wait, time.Microsecond))
}

// gate lets operations in, as many at once as the proxy and each namespace
// allow. Those that must wait are let in by turns: over the namespaces, within
// one over its streams and its unary callers, within these in their order. So
// nobody who sends much keeps others from getting in.
type gate struct {
	limit    int64
	inFlight atomic.Int64
	waiting  atomic.Int64 // how many wait; leave looks at this alone

	mu      sync.Mutex
	tenants list.List // of *limits that wait
}

// enter lets one operation of a namespace in. If it has to wait, it calls
// flush before. exit must follow unless there is an error. How many operations
// a batch is, its pattern says when it has looked at it: see call.Take.
func (g *gate) enter(ctx context.Context, l *limits, from *source, m *method, flush func()) error {
	if !m.batch && l.limited(m) {
		if err := l.checkRate(m, 1, time.Now()); err != nil {
			return err
		}
	}
	if m.bulk && g.nearlyFull(l) {
		return errs.New(errs.Overloaded, "the namespace or the proxy is nearly at its limit of operations in flight, and operations that do the work of many are refused first; retry after the delay given")
	}
	if g.waiting.Load() == 0 && g.take(l) {
		return nil
	}
	if flush != nil {
		flush()
	}
	return g.wait(ctx, l, from)
}

// take takes a place if there is one.
func (g *gate) take(l *limits) bool {
	if n := l.inFlight.Add(1); l.concurrency > 0 && n > l.concurrency {
		l.inFlight.Add(-1)
		return false
	}
	if g.inFlight.Add(1) > g.limit {
		g.inFlight.Add(-1)
		l.inFlight.Add(-1)
		return false
	}
	return true
}

// nearlyFull reports whether nine tenths of a limit are taken.
func (g *gate) nearlyFull(l *limits) bool {
	return l.concurrency > 0 && l.inFlight.Load() >= max(l.concurrency*9/10, 1) || g.inFlight.Load() >= g.limit*9/10
}

// exit gives a place back.
func (g *gate) exit(l *limits) {
	l.inFlight.Add(-1)
	g.inFlight.Add(-1)
	if g.waiting.Load() > 0 {
		g.mu.Lock()
		g.letIn()
		g.mu.Unlock()
	}
}

func (g *gate) wait(ctx context.Context, l *limits, from *source) error {
	w := &waiter{in: make(chan struct{})}
	g.mu.Lock()
	g.waiting.Add(1)
	g.queue(l, from, w)
	g.letIn() // a place may have become free between take and here
	g.mu.Unlock()
	t := time.NewTimer(maxWait)
	defer t.Stop()
	var err error
	select {
	case <-w.in:
		return nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-t.C:
		err = errs.New(errs.Overloaded, "no place became free: %d operations of the namespace are in flight; retry after the delay given, or ask for a higher limits.concurrency", l.inFlight.Load())
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if w.done {
		return nil // it was let in at the last moment
	}
	w.done = true // letIn passes over it
	g.waiting.Add(-1)
	return err
}

// queue puts a waiter at the end of its source's line; mu is held.
func (g *gate) queue(l *limits, from *source, w *waiter) {
	from.waiting.PushBack(w)
	if from.place == nil {
		from.place = l.sources.PushBack(from)
	}
	if l.place == nil {
		l.place = g.tenants.PushBack(l)
	}
}

// letIn gives free places to waiters, one namespace after the other; mu is
// held.
func (g *gate) letIn() {
	for refused := 0; refused < g.tenants.Len(); {
		e := g.tenants.Front()
		l, _ := e.Value.(*limits) // it holds nothing else
		w := l.next()
		switch {
		case w == nil:
			g.tenants.Remove(e)
			l.place = nil
		case g.take(l):
			l.pop()
			w.done = true
			g.waiting.Add(-1)
			close(w.in)
			g.tenants.MoveToBack(e)
			refused = 0
		default:
			g.tenants.MoveToBack(e)
			refused++
		}
	}
}

// next returns the waiter whose turn it is, dropping those that have gone; nil
// if none waits.
func (l *limits) next() *waiter {
	for e := l.sources.Front(); e != nil; e = l.sources.Front() {
		s, _ := e.Value.(*source) // it holds nothing else
		for f := s.waiting.Front(); f != nil; f = s.waiting.Front() {
			if w, _ := f.Value.(*waiter); !w.done {
				return w
			}
			s.waiting.Remove(f)
		}
		l.sources.Remove(e)
		s.place = nil
	}
	return nil
}

// pop takes the waiter that next returned out of its line, and moves its
// source behind the others.
func (l *limits) pop() {
	e := l.sources.Front()
	s, _ := e.Value.(*source) // it holds nothing else
	s.waiting.Remove(s.waiting.Front())
	l.sources.MoveToBack(e)
}
