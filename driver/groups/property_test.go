package groups_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/groups"
	"github.com/prismgw/prism/errs"
)

func newLog(to io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(to, nil)) }

func name(i int) string { return fmt.Sprintf("m%d", i) }

// rest checks how partitions are shared when nothing changes any more: each
// has an owner, and shares differ by at most one. 0 members are any number.
func (w *world) rest(members int) {
	w.Helper()
	shares := make(map[string]int)
	for i, owner := range w.owners() {
		if owner == "" && members > 0 {
			w.Errorf("partition %d has no owner", i)
		}
		shares[owner]++
	}
	if members == 0 {
		members = len(shares)
	}
	least, most := len(w.rows)/members, (len(w.rows)+members-1)/members
	for owner, n := range shares {
		if n < least || n > most {
			w.Errorf("%s has %d partitions, not %d to %d", owner, n, least, most)
		}
	}
	if want := min(members, len(w.rows)); len(shares) != want {
		w.Errorf("%d members have partitions, not %d", len(shares), want)
	}
}

// TestMembersComeAndGo lets up to 20 members of three processes come, leave,
// die and be cut off at random, over a store that fails at random, while
// records are appended and deleted. When it has become quiet, everything that
// the contract says must be true.
func TestMembersComeAndGo(t *testing.T) {
	t.Parallel()
	seeds := 60
	switch {
	case *long:
		seeds = 6000
	case testing.Short():
		seeds = 10
	}
	for seed := range seeds {
		if t.Failed() {
			t.Fatalf("seed %d", seed-1)
		}
		synctest.Test(t, func(t *testing.T) {
			c := newChaos(t, seed)
			c.run()
			c.everything()
		})
	}
}

// TestChaosSeesMissingFence runs the same over a store that compares no claims,
// until the judge has seen it.
func TestChaosSeesMissingFence(t *testing.T) {
	t.Parallel()
	for seed := range 200 {
		seen := false
		synctest.Test(t, func(t *testing.T) {
			c := newChaos(t, seed)
			c.unfenced = true
			c.run()
			seen = c.wrongs() != nil
		})
		if seen {
			t.Logf("seen with seed %d", seed)
			return
		}
	}
	t.Error("a store without a fence is as good as one with it")
}

// chaos is a world in which things happen at random.
type chaos struct {
	*world
	random    *rand.Rand
	processes [3]groups.Members
	all       []*consumer
	made      int

	guard   chan struct{} // guards what follows
	failing *rand.Rand
	odds    int             // one call of so many fails; 0: none
	cut     map[string]bool // names of members that reach nothing
}

func newChaos(t *testing.T, seed int) *chaos {
	t.Helper()
	random := rand.New(rand.NewPCG(uint64(seed), 0))
	return &chaos{
		world: newWorld(t, 1+random.IntN(24)), random: random, failing: rand.New(rand.NewPCG(uint64(seed), 1)),
		guard: make(chan struct{}, 1), cut: make(map[string]bool),
	}
}

func (c *chaos) run() {
	c.meet(c.misfortune)
	for range 40 {
		c.step()
		time.Sleep(time.Duration(c.random.IntN(3000)) * time.Millisecond)
	}
	c.set(func() { c.odds = 0; clear(c.cut) })
	for len(c.all) == 0 {
		c.come()
	}
	for i := range c.rows {
		c.append(i, 1)
	}
	time.Sleep(driver.TakeOver + driver.LeaveTime + 2*groups.BeatEvery)
	c.rest(len(c.all))
	for _, member := range c.all {
		member.close()
	}
}

func (c *chaos) step() {
	switch n := len(c.all); c.random.IntN(10) {
	case 0, 1, 2:
		if n < 20 {
			c.come()
		}
	case 3:
		if n > 0 {
			i := c.random.IntN(n)
			c.all[i].close()
			c.all = slices.Delete(c.all, i, i+1)
		}
	case 4: // for ever
		if n > 0 {
			i := c.random.IntN(n)
			c.set(func() { c.cut[c.all[i].name] = true })
			time.Sleep(time.Duration(c.random.IntN(100)) * time.Millisecond)
			c.all[i].close()
			c.all = slices.Delete(c.all, i, i+1)
		}
	case 5: // for a while
		if n > 0 {
			c.set(func() { c.cut[c.all[c.random.IntN(n)].name] = true })
		}
	case 6:
		c.set(func() { clear(c.cut) })
	case 7:
		c.set(func() { c.odds = []int{0, 2, 5, 50}[c.random.IntN(4)] })
	default:
		for range c.random.IntN(20) {
			c.append(c.random.IntN(len(c.rows)), 1+c.random.IntN(10))
		}
		if i := c.random.IntN(len(c.rows)); c.random.IntN(3) == 0 {
			c.trim(i, 3)
		}
	}
}

func (c *chaos) come() {
	c.made++
	c.all = append(c.all, c.consumeIn(&c.processes[c.random.IntN(3)], name(c.made)))
}

func (c *chaos) set(change func()) {
	c.guard <- struct{}{}
	change()
	<-c.guard
}

func (c *chaos) misfortune(ctx context.Context, member, _ string, after bool) (err error) {
	var slow time.Duration
	c.set(func() {
		switch {
		case c.cut[member]:
			err = errs.BackendUnavailable
		case c.odds > 0 && c.failing.IntN(c.odds) == 0:
			err = errs.BackendUnavailable
		case c.odds > 0 && c.failing.IntN(c.odds) == 0:
			slow = time.Duration(c.failing.IntN(5000)) * time.Millisecond
		}
	})
	if slow > 0 {
		select {
		case <-time.After(slow):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err != nil && after {
		return errs.OutcomeUnknown
	}
	return err
}

// everything checks what was handed to somebody and what was committed.
func (c *chaos) everything() {
	for _, wrong := range c.wrongs() {
		c.Error(wrong)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	for i := range c.rows {
		for _, r := range c.records[i] {
			if c.handed[i][r.Position] == 0 {
				c.Errorf("partition %d: position %d of %d to %d came to nobody; the checkpoint is %d",
					i, r.Position, c.first[i], int(c.first[i])+len(c.records[i])-1, c.rows[i].checkpoint.Next)
			}
		}
		end := c.first[i] + driver.Position(len(c.records[i]))
		if next := c.rows[i].checkpoint.Next; next != end {
			c.Errorf("partition %d: the checkpoint is %d, not %d; %v", i, next, end, slices.Sorted(maps.Keys(c.handed[i])))
		}
	}
}
