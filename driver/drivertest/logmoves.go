package drivertest

import (
	"maps"
	"slices"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

func logMoveChecks() []check {
	return []check{
		{"moves/leaving-comes-first", nil, leavingFirst},
		{"moves/after-leave-time", nil, afterLeaveTime},
		{"moves/closed-members", nil, closedMembers},
	}
}

// leavingFirst has a member asked to leave, which settles what it has in hand
// before another one goes on behind it.
func leavingFirst(e *env) {
	j := e.journal(4)
	for p := range 4 {
		j.numbered(p, 0, 10)
	}
	one := j.join("g")
	e.comes("all records", func() bool {
		return one.owns(0, 1, 2, 3) && !slices.ContainsFunc([]int{0, 1, 2, 3}, func(p int) bool { return len(one.texts(p)) < 10 })
	}, one)
	claims := maps.Clone(one.has)
	one.stays = true
	two := j.join("g")
	isLeaving := func(c *claim) bool { return c.leaving }
	var leaving []int
	e.comes("two partitions should be left", func() bool {
		leaving = nil
		for p, c := range one.has {
			if isLeaving(c) {
				leaving = append(leaving, p)
			}
		}
		return len(leaving) == 2
	}, one, two)
	if len(two.has) > 0 {
		e.Error("a partition is somebody else's before its owner has left it")
	}
	for _, p := range leaving {
		commit := one.upTo(p, claims[p].got[5].Position, "left")
		commit.Release = true
		if err := one.settled(commit)[0]; err != nil {
			e.Errorf("release: %s", describe(err))
		}
		delete(one.has, p)
	}
	e.comes("what was left", func() bool { return two.owns(leaving...) }, one, two)
	for _, p := range leaving {
		two.gets(p, "5", "6", "7", "8", "9")
		if from := two.has[p].from; from.Next != claims[p].got[5].Position || from.Note != "left" {
			e.Errorf("the checkpoint of %d is %d with note %q", p, from.Next, from.Note)
		}
	}
	e.quiet(one, two)
	if len(one.has) != 2 || len(one.lost) > 0 {
		e.Errorf("one has %d partitions of 2, and has lost %d", len(one.has), len(one.lost))
	}
}

// afterLeaveTime has a member that does not leave what it should.
func afterLeaveTime(e *env) {
	j := e.journal(2)
	places := j.numbered(0, 0, 10)
	j.numbered(1, 0, 10)
	one := j.join("g")
	e.comes("both partitions", func() bool { return one.owns(0, 1) && len(one.texts(0))+len(one.texts(1)) == 20 }, one)
	for p := range 2 {
		one.settle(p, one.has[p].got[3].Position, "kept")
	}
	claims := maps.Clone(one.has)
	one.stays = true
	two := j.join("g")
	var told time.Time
	e.comes("a partition is taken away", func() bool {
		if told.IsZero() && (len(one.has) < 2 || one.has[0].leaving || one.has[1].leaving) {
			told = time.Now()
		}
		return len(two.has) == 1
	}, one, two)
	if took := time.Since(told); took < driver.LeaveTime-time.Second || took > driver.LeaveTime+5*time.Second {
		e.Errorf("a partition was taken away %s after its owner was told, want about %s", took, driver.LeaveTime)
	}
	moved := slices.Collect(maps.Keys(two.has))[0]
	two.gets(moved, "3", "4", "5", "6", "7", "8", "9")
	if note := two.has[moved].from.Note; note != "kept" {
		e.Errorf("the note is %q", note)
	}
	e.comes("the owner of before is told", func() bool { return one.has[moved] == nil }, one)
	stale := driver.Commit{Partition: moved, Claim: claims[moved].id, Checkpoint: driver.Checkpoint{Next: places[9], Note: "stale"}}
	for _, release := range []bool{false, true} {
		stale.Release = release
		e.wants("commit of a partition that was taken away", one.settled(stale)[0], errs.StaleReceipt)
	}
	if s := j.group("g", moved); s.Next != claims[moved].got[3].Position || s.Owner != two.name {
		e.Errorf("a stale commit has moved the group to %d, owned by %q", s.Next, s.Owner)
	}
	two.settle(moved, two.has[moved].next(), "")
}

// closedMembers has members that close, with and without another one there:
// what was not committed comes to somebody at once.
func closedMembers(e *env) {
	j := e.journal(2)
	places := j.numbered(0, 0, 10)
	one := j.join("g")
	one.gets(0, "0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
	one.settle(0, places[4], "half")
	claim := one.has[0].id
	one.close()
	e.wants("commit of a member that has closed", one.settled(driver.Commit{Claim: claim, Checkpoint: driver.Checkpoint{Next: places[9]}})[0], errs.StaleReceipt, errs.Cancelled)
	if s := j.group("g", 0); s.Next != places[4] || s.Owner != "" {
		e.Errorf("the group stands at %d, owned by %q, after its member has closed at %d", s.Next, s.Owner, places[4])
	}
	two := j.join("g")
	start := time.Now()
	two.gets(0, "4", "5", "6", "7", "8", "9")
	three := j.again(e.open()).join("g")
	e.comes("each has its part", func() bool { return shared(2, two, three) }, two, three)
	for p := range two.has {
		two.settle(p, two.has[p].next(), "")
	}
	two.close()
	e.comes("what the other one had", func() bool { return three.owns(0, 1) }, three)
	// Twice at once: far below TakeOver, which is for those who die.
	if took := time.Since(start); took > driver.TakeOver {
		e.Errorf("the partitions of closed members went over in %s", took)
	}
	one.close() // twice is allowed
}
