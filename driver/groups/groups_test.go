package groups_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/groups"
	"github.com/prismgw/prism/errs"
)

// away is the trouble of a member that reaches nothing.
func away(names ...string) trouble {
	return func(_ context.Context, member, _ string, _ bool) error {
		for _, name := range names {
			if member == name {
				return errs.BackendUnavailable
			}
		}
		return nil
	}
}

// frozen is the trouble of a member whose calls reach the store when it thaws,
// as those of a process that was stopped do.
func frozen(name string, thaw <-chan struct{}) trouble {
	return func(_ context.Context, member, _ string, after bool) error {
		if member == name && !after {
			<-thaw
		}
		return nil
	}
}

// zombie lets a member commit after another one has taken its partition over
// and gone further. It returns what the late commit got.
func zombie(w *world) error {
	w.append(0, 5)
	a := w.join("a")
	gained := w.want(a, driver.Gained)
	thaw := make(chan struct{})
	w.meet(frozen("a", thaw))
	late := make(chan error)
	go func() {
		late <- w.commit(a, driver.Commit{Claim: gained.Claim, Checkpoint: driver.Checkpoint{Next: 2}})
	}()
	b := w.join("b")
	taken := w.want(b, driver.Gained)
	if err := w.commit(b, driver.Commit{Claim: taken.Claim, Checkpoint: driver.Checkpoint{Next: 6}}); err != nil {
		w.Error(err)
	}
	close(thaw)
	err := <-late
	a.Close(w.Context())
	b.Close(w.Context())
	return err
}

func TestZombieIsFenced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		if err := zombie(w); !errors.Is(err, errs.StaleReceipt) {
			t.Errorf("the late commit: %v", err)
		}
		if w.checkpoint(0).Next != 6 || w.wrongs() != nil {
			t.Errorf("the group stands at %d; %q", w.checkpoint(0).Next, w.wrongs())
		}
	})
}

func TestJudgeSeesMissingFence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.unfenced = true
		if err := zombie(w); err != nil {
			t.Errorf("the late commit: %v", err)
		}
		if len(w.wrongs()) != 2 || w.checkpoint(0).Next != 2 {
			t.Errorf("the judge has seen only %q, the group stands at %d", w.wrongs(), w.checkpoint(0).Next)
		}
	})
}

// TestDeathIsTakenOver cuts a member off at some moment between two beats.
func TestDeathIsTakenOver(t *testing.T) {
	t.Parallel()
	for phase := range 20 {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 4)
			var other groups.Members // of another process, which is poked by nobody
			a := w.join("a")
			for range 4 {
				w.want(a, driver.Gained)
			}
			b := w.joinOf(&other, "b")
			for range 2 {
				e := w.want(a, driver.Leaving)
				if err := w.commit(a, driver.Commit{Partition: e.Partition, Claim: 1, Checkpoint: driver.Checkpoint{Next: 1}, Release: true}); err != nil {
					t.Fatal(err)
				}
				w.want(b, driver.Gained)
			}
			time.Sleep(time.Duration(phase) * groups.BeatEvery / 20)
			died := time.Now()
			w.meet(away("a"))
			for range 2 {
				w.want(b, driver.Gained)
			}
			if d := time.Since(died); d > driver.TakeOver-time.Second || d < groups.TTL-groups.BeatEvery-time.Second {
				t.Errorf("taken over after %v", d)
			}
			for range 2 { // it knew before
				w.want(a, driver.Lost)
			}
			a.Close(t.Context())
			b.Close(t.Context())
		})
	}
}

// TestLostIsToldInTime measures that a member which reaches nothing is told
// before its partitions can be somebody else's.
func TestLostIsToldInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		a := w.join("a")
		w.want(a, driver.Gained)
		b := w.join("b")
		w.meet(away("a"))
		lost := make(chan time.Time)
		go func() {
			w.want(a, driver.Lost)
			lost <- time.Now()
		}()
		var told, gained time.Time
		go func() {
			told = <-lost
		}()
		w.want(b, driver.Gained)
		gained = time.Now()
		synctest.Wait()
		if told.IsZero() || told.After(gained) {
			t.Errorf("told at %v, gained at %v", told, gained)
		}
		w.meet(nil)
		a.Close(t.Context())
		b.Close(t.Context())
	})
}

func TestLeavingIsAskedThenTaken(t *testing.T) {
	t.Parallel()
	for name, obeys := range map[string]bool{"obeys": true, "does not": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 2)
				w.append(1, 1)
				a := w.join("a")
				w.want(a, driver.Gained)
				w.want(a, driver.Gained)
				w.want(a, driver.Arrived)
				b := w.join("b")
				leaving := w.want(a, driver.Leaving)
				began := time.Now()
				w.append(leaving.Partition, 10)
				release := driver.Commit{Partition: leaving.Partition, Claim: 1, Checkpoint: driver.Checkpoint{Next: 2, Note: "left"}, Release: true}
				want, most, next := release.Checkpoint, 50*time.Millisecond, driver.Position(2)
				if obeys {
					time.Sleep(time.Second)
					began = time.Now()
					if err := w.commit(a, release); err != nil {
						t.Fatal(err)
					}
				} else {
					want, most, next = driver.Checkpoint{Next: 1}, driver.LeaveTime+50*time.Millisecond, 1
				}
				gained := w.want(b, driver.Gained)
				if d := time.Since(began); d > most || !obeys && d < driver.LeaveTime {
					t.Errorf("the partition moved after %v", d)
				}
				if gained.Checkpoint != want || gained.Claim != 2 {
					t.Errorf("gained %+v by claim %d, not %+v by 2", gained.Checkpoint, gained.Claim, want)
				}
				if e := w.want(b, driver.Arrived); e.Stored.Position != next {
					t.Errorf("position %d comes first, not %d", e.Stored.Position, next)
				}
				if !obeys {
					w.want(a, driver.Lost)
				}
				w.quiet(a, time.Minute)
				if err := w.commit(a, release); !errors.Is(err, errs.StaleReceipt) {
					t.Errorf("a commit after all: %v", err)
				}
				a.Close(t.Context())
				b.Close(t.Context())
			})
		})
	}
}

func TestCloseGivesUpAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a := w.join("a")
		w.want(a, driver.Gained)
		w.want(a, driver.Gained)
		b := w.join("b")
		w.want(a, driver.Leaving)
		began := time.Now()
		a.Close(t.Context())
		w.want(b, driver.Gained)
		w.want(b, driver.Gained)
		if d := time.Since(began); d > 50*time.Millisecond {
			t.Errorf("others wait for %v", d)
		}
		if _, err := a.Next(t.Context(), make([]driver.LogEvent, 1)); !errors.Is(err, errs.Cancelled) {
			t.Errorf("next after close: %v", err)
		}
		if err := a.Close(t.Context()); err != nil {
			t.Errorf("the second close: %v", err)
		}
		w.members.Close()
		if _, err := b.Next(t.Context(), make([]driver.LogEvent, 1)); !errors.Is(err, errs.BackendUnavailable) {
			t.Errorf("next after the connection was closed: %v", err)
		}
		if err := w.commit(b, driver.Commit{Claim: 1}); !errors.Is(err, errs.BackendUnavailable) {
			t.Errorf("commit after the connection was closed: %v", err)
		}
		if _, err := w.members.Read(w.topic(), []driver.Position{1, 1}); !errors.Is(err, errs.BackendUnavailable) {
			t.Errorf("a member after the connection was closed: %v", err)
		}
	})
}

func TestSeekWhileOwned(t *testing.T) {
	t.Parallel()
	for name, poked := range map[string]bool{"poked": true, "by beat": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1)
				w.append(0, 3)
				a := w.join("a")
				claim := w.want(a, driver.Gained).Claim
				for range 3 {
					w.want(a, driver.Arrived)
				}
				began, most := time.Now(), groups.BeatEvery
				w.seek(0, 2)
				if poked {
					most = 50 * time.Millisecond
					w.members.Ring("topic", "group")
				} else if err := w.commit(a, driver.Commit{Claim: claim, Checkpoint: driver.Checkpoint{Next: 4}}); !errors.Is(err, errs.StaleReceipt) {
					t.Errorf("a commit by the old claim: %v", err)
				}
				w.want(a, driver.Lost)
				e := w.want(a, driver.Gained)
				if e.Claim != claim+2 || e.Checkpoint.Next != 2 || time.Since(began) > most {
					t.Errorf("gained %+v after %v", e, time.Since(began))
				}
				if e := w.want(a, driver.Arrived); e.Stored.Position != 2 {
					t.Errorf("position %d", e.Stored.Position)
				}
				a.Close(t.Context())
			})
		})
	}
}

func TestAwayIsToldToTheLogAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		var lines strings.Builder
		w.log = newLog(&lines)
		w.append(0, 1)
		a := w.join("a")
		w.want(a, driver.Gained)
		w.want(a, driver.Arrived)
		w.meet(away("a", ""))
		w.append(0, 1) // so that the fetch meets the trouble
		w.want(a, driver.Lost)
		w.quiet(a, time.Minute)
		w.meet(nil)
		began := time.Now()
		w.want(a, driver.Gained)
		w.want(a, driver.Arrived)
		if d := time.Since(began); d > 2*time.Second {
			t.Errorf("well again after %v", d)
		}
		a.Close(t.Context())
		if n := strings.Count(lines.String(), "tries again"); n != 2 {
			t.Errorf("%d lines of trouble, not one of the beat and one of the fetch: %s", n, lines.String())
		}
		if n := strings.Count(lines.String(), "well again"); n != 2 {
			t.Errorf("%d lines of its end: %s", n, lines.String())
		}
	})
}

func TestEndsWithItsGroup(t *testing.T) {
	t.Parallel()
	for _, reason := range []errs.Reason{errs.GroupNotFound, errs.TopicNotFound} {
		for _, what := range []string{"beat", "fetch"} {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1)
				a := w.join("a")
				w.want(a, driver.Gained)
				w.meet(func(_ context.Context, _, did string, _ bool) error {
					if did == what {
						return reason
					}
					return nil
				})
				if what == "fetch" {
					w.append(0, 1)
				}
				if _, err := a.Next(t.Context(), make([]driver.LogEvent, 1)); !errors.Is(err, reason) {
					t.Errorf("%s: %v", what, err)
				}
				if err := a.Close(t.Context()); err != nil {
					t.Errorf("close: %v", err)
				}
			})
		}
	}
}

// TestAnswersAreLost loses the answer of each kind of call once.
func TestAnswersAreLost(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"beat", "take", "commit", "release"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 3)
			lost := 0
			w.meet(func(_ context.Context, _, did string, after bool) error {
				if after && did == what && lost == 0 {
					lost++
					return errs.OutcomeUnknown
				}
				return nil
			})
			for i := range 3 {
				w.append(i, 10)
			}
			a := w.consume("a")
			time.Sleep(time.Second)
			if what == "release" { // only what does not obey is made to release
				a.close()
				m := w.join("stubborn")
				for range 3 {
					w.want(m, driver.Gained)
				}
				defer m.Close(t.Context())
			}
			b := w.consume("b")
			time.Sleep(10 * time.Second)
			w.rest(0)
			if lost != 1 {
				t.Errorf("%s: %d answers were lost", what, lost)
			}
			a.close()
			b.close()
		})
	}
}

func TestMovesAreMinimal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(1, 2))
		w := newWorld(t, 64)
		var all []*consumer
		for step := range 60 {
			before := w.owners()
			least := 0
			if n := len(all); n == 0 || n < 20 && random.IntN(2) == 0 {
				all = append(all, w.consume(name(step)))
				if n > 0 {
					least = 64 / (n + 1)
				}
			} else {
				i := random.IntN(n)
				gone := all[i]
				all = append(all[:i], all[i+1:]...)
				for _, owner := range before {
					if owner == gone.name {
						least++
					}
				}
				gone.close()
			}
			time.Sleep(2 * groups.BeatEvery)
			w.rest(len(all))
			moved := 0
			for i, owner := range w.owners() {
				if before[i] != "" && owner != before[i] {
					moved++
				}
			}
			if len(all) > 0 && moved != least {
				t.Errorf("step %d: %d partitions moved, %d had to", step, moved, least)
			}
		}
		for _, c := range all {
			c.close()
		}
	})
}
