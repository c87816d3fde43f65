package consumer

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// A history is what consumers have seen, of all messages.
type history struct {
	*testing.T
	wanted  int // messages
	mu      sync.Mutex
	settled map[[2]int64]bool   // an OK was seen
	last    map[string][2]int64 // of each key: the highest that was settled
	keys    map[[2]int64]string // of what was handed out
	attempt map[[2]int64]int    // the highest that was seen
	actions map[verdict]int
}

// complete reports whether all messages have been settled.
func (h *history) complete() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.settled) == h.wanted
}

func place2(h *hand) [2]int64 { return [2]int64{int64(h.receipt.partition), int64(h.receipt.at)} }

// handed notes that a message was handed out. What was settled must not be.
func (h *history) handed(x *hand) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.settled[place2(x)] {
		h.Errorf("%v was settled and is handed out again", place2(x))
	}
	h.keys[place2(x)] = string(x.stored.Key)
	h.attempt[place2(x)] = max(h.attempt[place2(x)], x.attempt)
}

// done notes that an OK was seen. Of a key they come in order.
func (h *history) done(x *hand) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := place2(x)
	h.settled[p] = true
	if key := h.keys[p]; key != "" {
		if last := h.last[key]; last[0] == p[0] && last[1] > p[1] {
			h.Errorf("key %s: %v was settled after %v", key, p, last)
		}
		h.last[key] = p
	}
}

// TestNothingIsLostOrRepeated lets consumers do anything that they may, while
// members come and go: each message is settled in the end, none comes again
// after its OK, and those of a key are settled in order.
func TestNothingIsLostOrRepeated(t *testing.T) {
	t.Parallel()
	seeds := uint64(20)
	if testing.Short() {
		seeds = 5
	}
	for seed := range seeds {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { nothingIsLost(t, seed) })
		})
	}
}

func nothingIsLost(t *testing.T, seed uint64) {
	t.Helper()
	const partitions, messages = 4, 300
	s := newStage(t, partitions)
	s.publish(messages/2, "a", "b", "c", "d", "")
	h := &history{T: t, wanted: partitions * messages, settled: map[[2]int64]bool{}, last: map[string][2]int64{}, keys: map[[2]int64]string{}, attempt: map[[2]int64]int{}, actions: map[verdict]int{}}
	r := rand.New(rand.NewPCG(seed, 1))
	p := plain
	p.maxDeliveries = 1000 // nobody dies: what is lost shows as what is left
	var all sync.WaitGroup
	for i := range 3 {
		turns := rand.New(rand.NewPCG(seed, uint64(i)+2))
		all.Go(func() {
			for !h.complete() {
				m := s.join(p)
				h.consume(s, m, turns, time.Duration(10+turns.IntN(60))*time.Second)
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(turns.IntN(3))*time.Second)
				if err := m.stop(ctx); err != nil {
					t.Error(err)
				}
				cancel()
			}
		})
	}
	time.Sleep(time.Duration(r.IntN(60)) * time.Second)
	s.publish(messages/2, "a", "b", "c", "d", "")
	all.Wait()
	if n := s.left(); n != 0 {
		t.Errorf("all are settled, and %d are left", n)
	}
	if len(s.dead) > 0 {
		t.Errorf("%d dead letters", len(s.dead))
	}
	for _, v := range []verdict{acknowledge, reject, giveBack, extend} {
		if h.actions[v] == 0 {
			t.Errorf("nobody tried %d", v)
		}
	}
}

// consume works for a while, as consumers do.
func (h *history) consume(s *stage, m *running, r *rand.Rand, d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end) && !h.complete(); {
		session := newSession()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		hands, err := m.take(ctx, 1+r.IntN(8), 0, session)
		cancel()
		if err != nil {
			if !errors.Is(err, errs.Deadline) {
				h.Errorf("take: %v", err)
			}
			continue
		}
		for i := range hands {
			if !hands[i].here {
				stored, found, err := reread(h.Context(), s.topic, hands[i].receipt.partition, hands[i].receipt.at)
				if err != nil || !found {
					h.Errorf("read again: %v, %v", found, err)
				}
				hands[i].stored = stored
			}
			h.handed(&hands[i])
		}
		for i := range hands {
			h.act(s, m, r, &hands[i])
		}
		time.Sleep(time.Duration(r.IntN(1000)) * time.Millisecond)
		m.leave(session)
	}
}

func (h *history) act(s *stage, m *running, r *rand.Rand, x *hand) {
	var v verdict
	delay := byPolicy
	switch n := r.IntN(100); {
	case n < 75:
		v = acknowledge
	case n < 85:
		v = reject
	case n < 90:
		v, delay = extend, time.Minute
	case n < 95:
		v = giveBack
	default:
		return // it goes back with the session
	}
	err := s.settle(m, *x, v, delay)
	h.mu.Lock()
	h.actions[v]++
	h.mu.Unlock()
	switch {
	case err == nil && v == acknowledge:
		h.done(x)
	case err != nil && !errors.Is(err, errs.StaleReceipt):
		h.Errorf("%v of %v: %v", v, place2(x), err)
	}
}

// TestCommitsThatFail: an OK is given when the backend has it, and not before.
func TestCommitsThatFail(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 1)
		s.publish(3)
		inner, err := s.topic.Join(t.Context(), driver.JoinRequest{Group: "billing"})
		if err != nil {
			t.Fatal(err)
		}
		m := &flaky{Member: inner}
		r := start("billing", s.topic, m, 4096, plain, s.bury, time.Now, new(counts))
		defer s.stop(r)
		hands := s.take(r, 3)
		m.fail(errs.BackendUnavailable)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		results := make([]error, 1)
		r.settle(ctx, []settlement{{receipt: hands[0].receipt, valid: true}}, results)
		if !errors.Is(results[0], errs.Deadline) {
			t.Errorf("while the backend is away: %v", results[0])
		}
		late := make(chan error, 1)
		go func() { late <- s.settle(r, hands[1], acknowledge, 0) }()
		time.Sleep(10 * time.Second)
		select {
		case err := <-late:
			t.Fatalf("answered while the backend is away: %v", err)
		default:
		}
		m.fail(nil)
		if err := <-late; err != nil {
			t.Errorf("when it is back: %v", err)
		}
		if n := s.left(); n != 1 {
			t.Errorf("%d are left, want 1: what was tried in vain is committed as well", n)
		}
		m.fail(errs.StaleReceipt)
		if err := s.settle(r, hands[2], acknowledge, 0); !errors.Is(err, errs.StaleReceipt) {
			t.Errorf("of a partition that was lost: %v", err)
		}
	})
}

// A flaky member commits nothing while it is told so.
type flaky struct {
	driver.Member
	mu  sync.Mutex
	err error
}

func (f *flaky) fail(err error) {
	f.mu.Lock()
	f.err = err
	f.mu.Unlock()
}

func (f *flaky) Commit(ctx context.Context, commits []driver.Commit, results []error) {
	f.mu.Lock()
	err := f.err
	f.mu.Unlock()
	if err == nil {
		f.Member.Commit(ctx, commits, results)
		return
	}
	for i := range results {
		results[i] = err
	}
}

// Who waits for a commit of a partition that is lost meanwhile is told at once.
func TestWaitingForALostPartition(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 1)
		s.publish(1)
		inner, err := s.topic.Join(t.Context(), driver.JoinRequest{Group: "billing"})
		if err != nil {
			t.Fatal(err)
		}
		m := &flaky{Member: inner}
		r := start("billing", s.topic, m, 4096, plain, s.bury, time.Now, new(counts))
		defer s.stop(r)
		h := s.take(r, 1)[0]
		m.fail(errs.BackendUnavailable)
		late := make(chan error, 1)
		go func() { late <- s.settle(r, h, acknowledge, 0) }()
		time.Sleep(time.Second)
		if err := s.topic.Seek(t.Context(), "billing", []driver.Target{{Partition: 0, Next: 1}}); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if err := <-late; !errors.Is(err, errs.StaleReceipt) || time.Since(start) > driver.TakeOver {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
	})
}

// What nobody waits for is committed as well, also if it fails at first.
func TestFailuresAreCommitted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 1)
		s.publish(1)
		inner, err := s.topic.Join(t.Context(), driver.JoinRequest{Group: "billing"})
		if err != nil {
			t.Fatal(err)
		}
		m := &flaky{Member: inner}
		r := start("billing", s.topic, m, 4096, plain, s.bury, time.Now, new(counts))
		s.take(r, 1)
		m.fail(errs.BackendUnavailable)
		time.Sleep(plain.ackWait + time.Second)
		m.fail(nil)
		time.Sleep(maxRetry + time.Second)
		m.fail(errs.BackendUnavailable) // the last words are not heard
		s.stop(r)
		var h []hand
		for next := s.join(plain); len(h) == 0; {
			h = s.take(next, 1)
		}
		if h[0].attempt != 2 {
			t.Errorf("attempt %d, want 2", h[0].attempt)
		}
	})
}
