package groups_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/groups"
	"github.com/prismgw/prism/errs"
)

// A lateStore carries out, or answers, the first calls of a kind late, whatever
// their context says.
type lateStore struct {
	*store
	beat, take time.Duration // after which the next call is carried out, though nobody waits
	answer     time.Duration // after which the next Take is answered
}

func (s *lateStore) Beat(ctx context.Context, self groups.Self) (groups.View, error) {
	if wait := s.once(&s.beat); wait > 0 {
		return groups.View{}, given(ctx, wait, func() { s.store.Beat(context.Background(), self) })
	}
	return s.store.Beat(ctx, self)
}

func (s *lateStore) Take(ctx context.Context, self groups.Self, partitions []int) ([]groups.Taken, error) {
	if wait := s.once(&s.take); wait > 0 {
		return nil, given(ctx, wait, func() { s.store.Take(context.Background(), self, partitions) })
	}
	taken, err := s.store.Take(ctx, self, partitions)
	time.Sleep(s.once(&s.answer))
	return taken, err
}

// once returns a duration that is 0 the next time.
func (s *lateStore) once(d *time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { *d = 0 }()
	return *d
}

// given does something after a while, and returns before that if ctx ends.
func given(ctx context.Context, after time.Duration, do func()) error {
	done := make(chan struct{})
	go func() {
		time.Sleep(after)
		do()
		close(done)
	}()
	select {
	case <-done:
		return errs.OutcomeUnknown
	case <-ctx.Done():
		return errs.OutcomeUnknown
	}
}

// TestTakeThatComesLate carries a Take out when the member has long taken the
// partition by another one: the claim that it knows is over.
func TestTakeThatComesLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		a := w.joinBy(&w.members, &lateStore{store: w.store, take: 4500 * time.Millisecond}, "a")
		first := w.want(a, driver.Gained)
		w.want(a, driver.Lost)
		last := w.want(a, driver.Gained)
		if err := w.commit(a, driver.Commit{Claim: last.Claim, Checkpoint: driver.Checkpoint{Next: 2}}); err != nil || last.Claim <= first.Claim {
			t.Errorf("claim %d after %d: %v", last.Claim, first.Claim, err)
		}
		a.Close(t.Context())
	})
}

// TestAnswerThatComesLate answers a Take when the lease is over and somebody
// else has the partition.
func TestAnswerThatComesLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		a := w.joinBy(&w.members, &lateStore{store: w.store, answer: 20 * time.Second}, "a")
		synctest.Wait()
		var other groups.Members
		b := w.joinOf(&other, "b")
		w.want(b, driver.Gained)
		w.meet(away("a")) // or it would soon see whose the partition is
		w.quiet(a, time.Minute)
		a.Close(t.Context())
		b.Close(t.Context())
	})
}

// TestBeatThatComesLate closes a member while a beat is on its way, which must
// not make it live again.
func TestBeatThatComesLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		late := &lateStore{store: w.store}
		a := w.joinBy(&w.members, late, "a")
		w.want(a, driver.Gained)
		w.want(a, driver.Gained)
		time.Sleep(time.Second)
		w.store.mu.Lock()
		late.beat = 300 * time.Millisecond
		w.store.mu.Unlock()
		time.Sleep(groups.BeatEvery - time.Second + 200*time.Millisecond)
		a.Close(t.Context())
		b := w.join("b")
		w.want(b, driver.Gained)
		w.want(b, driver.Gained)
		w.quiet(b, time.Minute)
		b.Close(t.Context())
	})
}

// TestReleaseDuringABeat releases what should go while a beat is under way that
// still sees it here.
func TestReleaseDuringABeat(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a := w.join("a")
		w.want(a, driver.Gained)
		w.want(a, driver.Gained)
		var other groups.Members
		b := w.joinOf(&other, "b")
		leaving := w.want(a, driver.Leaving)
		released := false
		w.meet(func(_ context.Context, member, what string, after bool) error {
			if member == "a" && what == "beat" && after && !released {
				released = true
				if err := w.commit(a, driver.Commit{Partition: leaving.Partition, Claim: leaving.Claim + 1, Checkpoint: driver.Checkpoint{Next: 1}, Release: true}); err != nil {
					t.Error(err)
				}
			}
			return nil
		})
		w.want(b, driver.Gained)
		w.quiet(a, time.Minute)
		if !released {
			t.Error("nothing was released during a beat")
		}
		a.Close(t.Context())
		b.Close(t.Context())
	})
}
