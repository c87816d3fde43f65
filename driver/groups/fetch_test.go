package groups_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/groups"
	"github.com/prismgw/prism/errs"
)

// reader returns a member without a group that begins at the first positions.
func (w *world) reader() driver.Member {
	w.Helper()
	from := make([]driver.Position, len(w.rows))
	for i := range from {
		from[i] = 1
	}
	m, err := w.members.Read(w.topic(), from)
	if err != nil {
		w.Fatal(err)
	}
	for range from {
		w.want(m, driver.Gained)
	}
	return m
}

// bytesFetched is how much the store has given away.
func (s *store) bytesFetched() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fetched
}

var sizeOfOne = groups.Size(&driver.Record{Value: make([]byte, 100)})

func TestReaderHasAllAndKeepsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		w.append(1, 2)
		m := w.reader()
		if err := w.commit(m, driver.Commit{Partition: 1}); !errors.Is(err, errs.Unsupported) {
			t.Errorf("commit: %v", err)
		}
		for i := range 2 {
			if e := w.want(m, driver.Arrived); e.Partition != 1 || e.Stored.Position != driver.Position(i+1) {
				t.Errorf("%+v", e)
			}
		}
		w.quiet(m, time.Minute)
		if err := m.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestHoldKeepsRecordsAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		m := w.reader()
		m.Hold(0, true)
		m.Hold(2, true) // there is none
		m.Hold(-1, true)
		synctest.Wait()
		before := w.bytesFetched()
		w.append(0, 1000)
		w.append(1, 1)
		if e := w.want(m, driver.Arrived); e.Partition != 1 {
			t.Errorf("%+v", e)
		}
		w.quiet(m, time.Minute)
		if n := w.bytesFetched() - before; n != sizeOfOne {
			t.Errorf("%d bytes were fetched, not one record", n)
		}
		m.Hold(0, false)
		for i := range 1000 {
			if e := w.want(m, driver.Arrived); e.Stored.Position != driver.Position(i+1) {
				t.Fatalf("position %d, not %d", e.Stored.Position, i+1)
			}
		}
		m.Close(t.Context())
	})
}

// TestFetchIsBounded fills a few partitions of many with more than may be on
// its way, and then takes all of it.
func TestFetchIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const each, partitions = 40_000, 100
		w := newWorld(t, partitions)
		for i := range 3 {
			w.append(i, each)
		}
		m := w.reader()
		synctest.Wait()
		n := w.bytesFetched()
		if most := driver.FetchBytes + partitions*sizeOfOne; n > most || n < driver.FetchBytes/2 {
			t.Errorf("%d bytes are on their way, not %d to %d", n, driver.FetchBytes/2, most)
		}
		w.append(50, 10) // one record of each partition comes at any rate
		synctest.Wait()
		if more := w.bytesFetched() - n; more != sizeOfOne {
			t.Errorf("%d bytes of another partition are on their way, not one record", more)
		}
		seen := make(map[int]driver.Position)
		events := make([]driver.LogEvent, 1000)
		for taken := 0; taken < 3*each+10; {
			n, err := m.Next(t.Context(), events)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range events[:n] {
				if e.Stored.Position != seen[e.Partition]+1 {
					t.Fatalf("position %d after %d", e.Stored.Position, seen[e.Partition])
				}
				seen[e.Partition]++
				taken++
			}
			if ahead := w.bytesFetched() - taken*sizeOfOne; ahead > driver.FetchBytes+partitions*sizeOfOne {
				t.Fatalf("%d bytes are on their way", ahead)
			}
		}
		m.Close(t.Context())
	})
}

// TestFullPartitionStarvesNoOther takes one event after the other, while one
// partition has more than may be on its way and another one has a little.
func TestFullPartitionStarvesNoOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		m := w.reader()
		m.Hold(1, true)
		w.append(0, 100_000)
		w.append(1, 10)
		synctest.Wait()
		m.Hold(1, false)
		came := 0
		for n := 0; came < 10; n++ {
			synctest.Wait()
			if w.want(m, driver.Arrived).Partition == 1 {
				came++
			}
			if n == 100 {
				t.Fatalf("%d of 10 records came among %d of another partition", came, n)
			}
		}
		m.Close(t.Context())
	})
}

// TestFetchesBeforeAllIsTaken takes more than half of what is on its way.
func TestFetchesBeforeAllIsTaken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.append(0, 100_000)
		m := w.reader()
		synctest.Wait()
		before := w.bytesFetched()
		if _, err := m.Next(t.Context(), make([]driver.LogEvent, before/sizeOfOne*3/4)); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Next(t.Context(), make([]driver.LogEvent, 1)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if w.bytesFetched() == before {
			t.Error("nothing more was fetched")
		}
		m.Close(t.Context())
	})
}

// TestHoldEndsDuringAFetch lets a partition come again while a fetch that did
// not ask for it finds nothing.
func TestHoldEndsDuringAFetch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		m := w.reader()
		m.Hold(0, true)
		synctest.Wait()
		w.append(0, 1)
		synctest.Wait()
		asked := false
		w.meet(func(_ context.Context, _, what string, after bool) error {
			if what == "fetch" && after && !asked {
				asked = true
				m.Hold(0, false)
			}
			return nil
		})
		w.appended.Ring()
		w.want(m, driver.Arrived)
		m.Close(t.Context())
	})
}

// TestNoWakeUpIsLost appends at any moment of the fetching goroutine's life. A
// wake-up that is lost leaves everybody asleep, which synctest sees.
func TestNoWakeUpIsLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 4)
		m := w.reader()
		const n = 5000
		go func() {
			for i := range n {
				w.append(i%4, 1)
				if i%7 == 0 {
					time.Sleep(time.Nanosecond)
				}
			}
		}()
		random := rand.New(rand.NewPCG(1, 1))
		for i := range n {
			w.want(m, driver.Arrived)
			if random.IntN(10) == 0 {
				partition := random.IntN(4)
				m.Hold(partition, true)
				go m.Hold(partition, false)
			}
			if i%11 == 0 {
				time.Sleep(time.Nanosecond)
			}
		}
		w.quiet(m, time.Minute)
		m.Close(t.Context())
	})
}

func TestSkippedIsToldWithTheNextRecord(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.append(0, 10)
		w.trim(0, 4)
		m := w.reader()
		want := func(position driver.Position, skipped int64) {
			t.Helper()
			if e := w.want(m, driver.Arrived); e.Stored.Position != position || e.Skipped != skipped {
				t.Errorf("position %d with %d skipped, not %d with %d", e.Stored.Position, e.Skipped, position, skipped)
			}
		}
		want(5, 4)
		for i := range 5 {
			want(driver.Position(6+i), 0)
		}
		m.Hold(0, true)
		w.append(0, 3)
		w.trim(0, 9) // everything
		m.Hold(0, false)
		synctest.Wait()
		w.append(0, 2)
		w.trim(0, 1)
		w.append(0, 1)
		if e := w.next(m); e.Stored.Position-driver.Position(e.Skipped) != 11 {
			t.Errorf("position %d with %d skipped after 10", e.Stored.Position, e.Skipped)
		}
		m.Close(t.Context())
	})
}

// TestFetchOfAnotherLife puts the group back while a fetch is under way.
func TestFetchOfAnotherLife(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		m := w.join("a")
		w.want(m, driver.Gained)
		synctest.Wait()
		sought := false
		w.meet(func(_ context.Context, _, what string, after bool) error {
			if what == "fetch" && after && !sought {
				sought = true
				w.seek(0, 4)
				w.members.Ring("topic", "group")
				time.Sleep(time.Second)
			}
			return nil
		})
		w.append(0, 5)
		w.want(m, driver.Lost)
		w.want(m, driver.Gained)
		for _, position := range []driver.Position{4, 5} {
			if e := w.want(m, driver.Arrived); e.Stored.Position != position {
				t.Errorf("position %d, not %d", e.Stored.Position, position)
			}
		}
		m.Close(t.Context())
	})
}

// TestGapOfAnotherLife finds that everything was deleted, and then the group is
// put behind that.
func TestGapOfAnotherLife(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.append(0, 10)
		w.trim(0, 10)
		m := w.join("a")
		w.want(m, driver.Gained)
		synctest.Wait()
		w.seek(0, 11)
		w.want(m, driver.Lost)
		w.want(m, driver.Gained)
		w.append(0, 1)
		if e := w.want(m, driver.Arrived); e.Skipped != 0 {
			t.Errorf("%d skipped", e.Skipped)
		}
		m.Close(t.Context())
	})
}

// TestWhatAFailedFetchFoundCounts fails for one partition and finds something
// in another one.
func TestWhatAFailedFetchFoundCounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		w.append(1, 1)
		half := halfFailing{w.store}
		m, err := w.members.Read(groups.Topic{Source: half, Name: "t", Partitions: 2, Log: w.log}, []driver.Position{1, 1})
		if err != nil {
			t.Fatal(err)
		}
		w.want(m, driver.Gained)
		w.want(m, driver.Gained)
		if e := w.want(m, driver.Arrived); e.Partition != 1 {
			t.Errorf("%+v", e)
		}
		m.Close(t.Context())
	})
}

// halfFailing cannot read partition 0.
type halfFailing struct{ *store }

func (s halfFailing) Fetch(ctx context.Context, cursors []groups.Cursor, found []groups.Found) (uint64, error) {
	for i, c := range cursors {
		if c.Partition > 0 {
			if _, err := s.store.Fetch(ctx, cursors[i:i+1], found[i:i+1]); err != nil {
				return 0, err
			}
		}
	}
	return 0, errs.BackendUnavailable
}

// TestSlowFetchDelaysNoBeat fetches for longer than a lease.
func TestSlowFetchDelaysNoBeat(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.meet(func(ctx context.Context, _, what string, _ bool) error {
			if what == "fetch" {
				<-ctx.Done()
			}
			return nil
		})
		m := w.join("a")
		w.want(m, driver.Gained)
		w.quiet(m, 10*time.Minute)
		m.Close(t.Context())
	})
}

func TestCommitsThatFit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		m := w.join("a")
		var claims [3]int64
		for range 3 {
			e := w.want(m, driver.Gained)
			claims[e.Partition] = e.Claim
		}
		at := func(partition int, claim int64, note string) driver.Commit {
			return driver.Commit{Partition: partition, Claim: claim, Checkpoint: driver.Checkpoint{Next: 5, Note: note}}
		}
		commits := []driver.Commit{at(0, claims[0]+1, ""), at(1, claims[1], "note"), at(7, 1, ""), at(2, claims[2], string(make([]byte, 101)))}
		results := make([]error, len(commits))
		for range 2 {
			m.Commit(t.Context(), commits, results)
			for i, want := range []errs.Reason{errs.StaleReceipt, 0, errs.StaleReceipt, errs.PayloadTooLarge} {
				if errs.ReasonOf(results[i]) != want {
					t.Errorf("commit %d: %v", i, results[i])
				}
			}
		}
		if got := w.checkpoint(1); got != (driver.Checkpoint{Next: 5, Note: "note"}) || w.checkpoint(0).Next != 1 || w.checkpoint(2).Next != 1 {
			t.Errorf("kept %+v, %+v, %+v", w.checkpoint(0), got, w.checkpoint(2))
		}
		m.Close(t.Context())
	})
}
