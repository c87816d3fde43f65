package proxy

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prismgw/prism/errs"
)

var (
	readMethod = &method{name: "Retrieve", class: 1}
	bulkMethod = &method{name: "Scan", class: 1, bulk: true}
)

func newGate(limit int64) *gate { return &gate{limit: limit} }

func TestGateRefusesOverTheLimit(t *testing.T) {
	t.Parallel()
	g, l, s := newGate(100), newLimits(0, 0, 2), new(source)
	ctx := context.Background()
	for range 2 {
		if err := g.enter(ctx, l, s, readMethod, nil); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	flushed := false
	err := g.enter(ctx, l, s, readMethod, func() { flushed = true })
	if !errors.Is(err, errs.Overloaded) {
		t.Fatalf("third of two: %v", err)
	}
	if d := errs.From(err).Delay(); d <= 0 {
		t.Errorf("no advice when to retry")
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("refused after %v", took)
	}
	if !flushed {
		t.Errorf("waited without flushing what was admitted before")
	}
	g.exit(l)
	if err := g.enter(ctx, l, s, readMethod, nil); err != nil {
		t.Errorf("after a place became free: %v", err)
	}
}

func TestGateLetsAWaiterIn(t *testing.T) {
	t.Parallel()
	for range 200 { // the race between giving a place back and queueing for it
		g, l, s := newGate(1), newLimits(0, 0, 0), new(source)
		if err := g.enter(context.Background(), l, s, readMethod, nil); err != nil {
			t.Fatal(err)
		}
		waiting := make(chan struct{})
		got := make(chan error, 1)
		go func() {
			got <- g.enter(context.Background(), l, s, readMethod, func() { close(waiting) })
		}()
		<-waiting
		g.exit(l)
		if err := <-got; err != nil {
			t.Fatalf("a free place was not given: %v", err)
		}
	}
}

func TestGateShedsBulkFirst(t *testing.T) {
	t.Parallel()
	g, l, s := newGate(100), newLimits(0, 0, 10), new(source)
	ctx := context.Background()
	for range 9 {
		if err := g.enter(ctx, l, s, readMethod, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.enter(ctx, l, s, bulkMethod, nil); !errors.Is(err, errs.Overloaded) {
		t.Errorf("a scan at nine tenths: %v", err)
	}
	if err := g.enter(ctx, l, s, readMethod, nil); err != nil {
		t.Errorf("a read at nine tenths: %v", err)
	}
}

// One stream that sends all it can and one lone caller ask for the same two
// places: by turns the lone caller gets about half of them, however long the
// other's line is.
func TestGateTakesTurns(t *testing.T) {
	t.Parallel()
	for _, across := range []string{"sources", "namespaces"} {
		t.Run(across, func(t *testing.T) {
			t.Parallel()
			g := newGate(1)
			many, lone := newLimits(0, 0, 0), newLimits(0, 0, 0)
			greedy, single := new(source), new(source)
			if across == "sources" {
				lone = many
			}
			ctx := context.Background()
			if err := g.enter(ctx, many, greedy, readMethod, nil); err != nil {
				t.Fatal(err)
			}
			// Line up 50 of the greedy one, then one of the lone one.
			var order []string
			var mu sync.Mutex
			var done sync.WaitGroup
			line := func(l *limits, from *source, name string) {
				queued := make(chan struct{})
				done.Go(func() {
					w := &waiter{in: make(chan struct{})}
					g.mu.Lock()
					g.waiting.Add(1)
					g.queue(l, from, w)
					g.mu.Unlock()
					close(queued)
					<-w.in
					mu.Lock()
					order = append(order, name)
					mu.Unlock()
					g.exit(l)
				})
				<-queued
			}
			for range 50 {
				line(many, greedy, "greedy")
			}
			line(lone, single, "lone")
			g.exit(many)
			done.Wait()
			for i, name := range order {
				if name == "lone" && i > 2 {
					t.Errorf("the lone caller came %d places late", i)
				}
			}
			if g.inFlight.Load() != 0 || g.waiting.Load() != 0 || many.inFlight.Load() != 0 {
				t.Errorf("left over: %d in flight, %d waiting", g.inFlight.Load(), g.waiting.Load())
			}
		})
	}
}

func TestGateNeverExceedsItsLimit(t *testing.T) {
	t.Parallel()
	g, l := newGate(8), newLimits(0, 0, 5)
	var now, most, served atomic.Int64
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			for range 200 {
				if g.enter(context.Background(), l, &l.unary, readMethod, nil) != nil {
					continue
				}
				n := now.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				served.Add(1)
				now.Add(-1)
				g.exit(l)
			}
		})
	}
	all.Wait()
	if most.Load() > 5 {
		t.Errorf("%d at once, 5 are allowed", most.Load())
	}
	if served.Load() == 0 || g.inFlight.Load() != 0 || l.inFlight.Load() != 0 || g.waiting.Load() != 0 {
		t.Errorf("served %d, in flight %d, waiting %d", served.Load(), g.inFlight.Load(), g.waiting.Load())
	}
}

func TestRateLimit(t *testing.T) {
	t.Parallel()
	g, l := newGate(100), newLimits(10, 0, 0)
	var limited error
	for range 100 {
		if err := g.enter(context.Background(), l, &l.unary, readMethod, nil); err != nil {
			limited = err
			break
		}
		g.exit(l)
	}
	if !errors.Is(limited, errs.RateLimited) || errs.From(limited).RetryAfter <= 0 {
		t.Errorf("100 reads at once under 10 per second: %v", limited)
	}
	write := &method{name: "Store", class: 3}
	if err := g.enter(context.Background(), l, &l.unary, write, nil); err != nil {
		t.Errorf("a write under a limit of reads: %v", err)
	}
}

// The advice is the real time: a moment before it the same request is refused,
// at it the request is let in, and asking has cost nothing.
func TestRateLimitAdvice(t *testing.T) {
	t.Parallel()
	for _, rps := range []int{30, 70, 1000, 9999, 123457} {
		l := newLimits(rps, 0, 0)
		burst := rps
		now := time.Now()
		if err := l.checkRate(readMethod, burst, now); err != nil {
			t.Fatalf("%d per second, the first %d: %v", rps, burst, err)
		}
		for _, n := range []int{1, 2, burst/2 + 1, burst} {
			now = now.Add(time.Duration(n) * time.Nanosecond) // nothing comes out even
			err := l.checkRate(readMethod, n, now)
			wait := errs.From(err).Delay()
			if !errors.Is(err, errs.RateLimited) || wait > time.Duration(n)*time.Second/time.Duration(rps)+time.Microsecond {
				t.Fatalf("%d per second, %d at once: %v, wait %v", rps, n, err, wait)
			}
			for range 100 {
				_ = l.checkRate(readMethod, n, now)
			}
			if early := now.Add(wait - 2*time.Microsecond); l.checkRate(readMethod, n, early) == nil {
				t.Errorf("%d per second, %d at once: let in before %v", rps, n, wait)
			}
			now = now.Add(wait)
			if err := l.checkRate(readMethod, n, now); err != nil {
				t.Errorf("%d per second, %d at once: refused after the %v that it was told: %v", rps, n, wait, err)
			}
		}
		err := l.checkRate(readMethod, burst+1, now.Add(time.Hour))
		if e := errs.From(err); e.Reason != errs.PayloadTooLarge || e.Meta["limit"] != strconv.Itoa(burst) || e.Meta["limit_of"] != "rate" || e.Delay() != 0 {
			t.Errorf("%d per second, one more than ever fit: %v %v", rps, err, e.Meta)
		}
		if err := l.checkRate(readMethod, burst, now.Add(time.Hour)); err != nil {
			t.Errorf("%d per second, what just fits: %v", rps, err)
		}
	}
}

// Refused batches take nothing from those that come one by one.
func TestRefusedBatchesCostNothing(t *testing.T) {
	t.Parallel()
	l, now := newLimits(1000, 0, 0), time.Now()
	if err := l.checkRate(readMethod, 1000, now); err != nil {
		t.Fatal(err)
	}
	for range 50 { // each time one comes in, a batch that needs 1,000 has been refused ten times
		for range 10 {
			if err := l.checkRate(readMethod, 1000, now); err == nil {
				t.Fatal("a batch was let in that does not fit")
			}
		}
		now = now.Add(time.Millisecond)
		if err := l.checkRate(readMethod, 1, now); err != nil {
			t.Fatal(err)
		}
	}
}
