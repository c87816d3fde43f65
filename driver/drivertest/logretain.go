package drivertest

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
)

func retentionChecks() []check {
	return []check{
		{"retention/age", nil, retentionByAge},
		{"retention/bytes", nil, retentionByBytes},
		{"retention/until-consumed", needsUntilConsumed, retentionUntilConsumed},
		{"retention/skipped-records-are-counted", nil, skippedRecords},
	}
}

func needsUntilConsumed(e *env) string {
	if !e.s.log.UntilConsumed {
		return "the technology deletes by age and size only"
	}
	return ""
}

// counts returns how often something is done: seldom with -short, and ten times
// as often as usual where PRISM_TEST_LONG is set.
func counts(short, usual int) int {
	switch {
	case testing.Short():
		return short
	case os.Getenv("PRISM_TEST_LONG") != "":
		return 10 * usual
	}
	return usual
}

// goes waits for what a backend does by itself: three times as long as for what
// a member is due, which on a busy machine is the minute that it may take.
func (e *env) goes(what string, gone func() bool) {
	e.Helper()
	for end := time.Now().Add(3 * e.s.due); !gone(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			e.Fatalf("%s: not within %s", what, 3*e.s.due)
		}
	}
}

func retentionByAge(e *env) {
	const age = 3 * time.Second
	l := e.logs()
	j := l.topic(driver.TopicSpec{Name: "t", Partitions: 2, MaxAge: age})
	kept := l.topic(driver.TopicSpec{Name: "kept", Partitions: 1})
	kept.numbered(0, 0, 3)
	places := j.numbered(0, 0, 5)
	oldest := j.at(0, places[0])
	e.goes("records that are too old", func() bool {
		n := len(j.all(0, 0, 10))
		if since := time.Since(oldest.Time); n < 5 && since < age-50*time.Millisecond {
			e.Fatalf("of 5 records %d are there after %s, of %s", n, since, age)
		}
		return n == 0
	})
	if s := j.stats("")[0]; s.First != s.End || s.End <= places[4] {
		e.Errorf("without records the first is at %d, the end at %d; the last one was at %d", s.First, s.End, places[4])
	}
	next := j.append(0, "new")[0]
	if next <= places[4] {
		e.Errorf("position %d was given again", next)
	}
	if s := j.stats("")[0]; s.First != next {
		e.Errorf("the first record is at %d, is told to be at %d", next, s.First)
	}
	j.holds(0, "new")
	kept.holds(0, "0", "1", "2")
}

// small is a topic that keeps a mebibyte, with records of a size of which it
// keeps about n.
func (e *env) small() (j *journal, record []byte, n int) {
	const most = 1 << 20
	record = noise(min(50_000, e.s.log.MaxRecord))
	return e.logs().topic(driver.TopicSpec{Name: "t", Partitions: 1, MaxBytes: most}), record, most / len(record)
}

// overfill appends to a small topic what it cannot keep, waits until that has
// been deleted, and returns all positions and how many are left.
func (e *env) overfill(j *journal, record []byte, n int) (places []driver.Position, left int) {
	e.Helper()
	for range 4 * n {
		places = append(places, j.put(driver.Record{Value: record})...)
	}
	e.goes("what a topic has no room for", func() bool { left = len(j.all(0, 0, 100)); return left <= n })
	if left < n/2 {
		e.Errorf("%d records are left where about %d have room", left, n)
	}
	return places, left
}

func retentionByBytes(e *env) {
	j, record, n := e.small()
	var places []driver.Position
	for range n / 2 {
		places = append(places, j.put(driver.Record{Value: record})...)
	}
	e.quiet()
	if got := len(j.all(0, 0, 100)); got != n/2 {
		e.Fatalf("%d records are there of %d, all of which have room", got, n/2)
	}
	more, left := e.overfill(j, record, n)
	places = append(places, more...)
	for i, s := range j.all(0, 0, 100) {
		if want := places[len(places)-left+i]; s.Position != want {
			e.Fatalf("not the oldest records were deleted: of %d that are left, number %d is at %d, want %d", left, i, s.Position, want)
		}
	}
	if s := j.stats("")[0]; s.First != places[len(places)-left] {
		e.Errorf("the first record is told to be at %d, is at %d", s.First, places[len(places)-left])
	}
}

// retentionUntilConsumed has two groups of which one is behind.
func retentionUntilConsumed(e *env) {
	j := e.logs().topic(driver.TopicSpec{Name: "t", Partitions: 2, UntilConsumed: true})
	places := j.numbered(0, 0, 20)
	j.numbered(1, 0, 3)
	one, two := j.join("one"), j.join("two")
	e.comes("all records", func() bool {
		return one.owns(0, 1) && two.owns(0, 1) && len(one.texts(0)) == 20 && len(two.texts(0)) == 20
	}, one, two)
	behind := func(want int) {
		e.Helper()
		e.goes("what both groups have committed", func() bool {
			first := j.stats("")[0].First
			if first > places[want] {
				e.Fatalf("the record at %d was deleted, before which a group stands", places[want])
			}
			return first == places[want]
		})
		if n := len(j.all(0, 0, 100)); n != 20-want {
			e.Errorf("%d records are left, want %d", n, 20-want)
		}
	}
	one.settle(0, places[19], "")
	e.quiet(one, two)
	j.holds(1, "0", "1", "2")
	if n := len(j.all(0, 0, 100)); n != 20 {
		e.Fatalf("%d records are left of 20, of which one of two groups has committed nothing", n)
	}
	two.settle(0, places[5], "")
	behind(5)
	two.close()
	three := j.join("three") // begins with what is there, and is waited for
	e.comes("what is left", func() bool { return three.owns(0) && len(three.texts(0)) >= 15 }, three)
	again := j.join("two")
	again.gets(0, textsOf(j.all(0, places[5], 100))...)
	again.settle(0, places[12], "")
	three.settle(0, places[9], "")
	behind(9)
	j.holds(1, "0", "1", "2")
}

// skippedRecords has records deleted that a group has not seen.
func skippedRecords(e *env) {
	j, record, n := e.small()
	places := j.numbered(0, 0, 6)
	m := j.join("g")
	m.gets(0, "0", "1", "2", "3", "4", "5")
	m.settle(0, places[2], "note")
	m.close()
	more, left := e.overfill(j, record, n)
	all := append(places, more...)
	deleted := int64(len(all) - left - 2) // without the two that the group was done with
	if s := j.group("g", 0); s.Next < places[2] || !j.waits(s.Waiting, left) {
		e.Errorf("the group stands at %d with %d waiting; of %d records %d are left", s.Next, s.Waiting, len(all), left)
	}
	m = j.join("g")
	e.comes("what is left", func() bool { return m.owns(0) && len(m.has[0].got) >= left }, m)
	c := m.has[0]
	if exact := c.skipped == deleted && !c.vague; !exact && (!j.g.Sparse || !c.vague) {
		e.Errorf("%d were skipped (somewhere nobody knows: %v), %d were deleted", c.skipped, c.vague, deleted)
	}
	if len(c.got) != left || c.got[0].Position != all[len(all)-left] {
		e.Errorf("%d records came from %d on, want %d from %d on", len(c.got), c.got[0].Position, left, all[len(all)-left])
	}
	m.settle(0, c.next(), "")
	j.append(0, "after")
	m.gets(0, append(slices.Repeat([]string{string(record)}, left), "after")...)
	if c.skipped > deleted {
		e.Errorf("%d were skipped, %d were deleted", c.skipped, deleted)
	}
}

func logStatChecks() []check {
	return []check{
		{"stat/positions", nil, statPositions},
		{"stat/groups", nil, statGroups},
	}
}

func statPositions(e *env) {
	j := e.journal(2)
	if s := j.stats("")[0]; s.First != s.End {
		e.Errorf("of an empty partition the first is at %d, the end at %d", s.First, s.End)
	}
	for range 3 {
		before := j.stats("")[0].End
		places := j.numbered(0, 0, 3)
		s := j.stats("")[0]
		if before > places[0] || s.End <= places[2] {
			e.Errorf("the end was %d and is %d, around records at %v", before, s.End, places)
		}
		if first := j.page(driver.ReadRequest{Limit: 1}).Records[0].Position; s.First != first {
			e.Errorf("the first record is told to be at %d, is at %d", s.First, first)
		}
	}
	if s := j.stats("")[1]; s.First != s.End {
		e.Errorf("of an empty partition the first is at %d, the end at %d", s.First, s.End)
	}
}

func statGroups(e *env) {
	j := e.journal(2)
	j.spaced(5)
	if j.stats("g")[0].Known || j.stats("g")[1].Known {
		e.Error("a group is known that nobody ever joined")
	}
	found := j.all(0, 0, 10)
	m := j.joins(driver.JoinRequest{Group: "g", Name: "the-owner"})
	e.comes("all records", func() bool { return m.owns(0, 1) && len(m.texts(0)) == 5 }, m)
	expect := func(what string, done int) {
		e.Helper()
		s := j.group("g", 0)
		oldest := time.Time{}
		if done < 5 {
			oldest = found[done].Time
		}
		if d := s.Oldest.Sub(oldest).Abs(); !j.waits(s.Waiting, 5-done) || d > time.Millisecond || s.Owner != m.name {
			e.Errorf("%s: %d are waiting since %s for %q, want %d since %s for %q", what, s.Waiting, s.Oldest, s.Owner, 5-done, oldest, m.name)
		}
		if done > 0 && s.Next <= found[done-1].Position || done < 5 && s.Next > found[done].Position {
			e.Errorf("%s: the group stands at %d", what, s.Next)
		}
	}
	expect("before any commit", 0)
	for done := 1; done <= 5; done++ {
		m.settle(0, found[done-1].Position+1, "")
		expect(fmt.Sprint("after ", done, " of 5"), done)
	}
	if s := j.group("g", 1); !j.waits(s.Waiting, 0) || !s.Oldest.IsZero() || s.Owner != m.name {
		e.Errorf("of an empty partition: %+v", s)
	}
	m.close()
	for p, s := range j.stats("g") {
		if !s.Known || s.Owner != "" {
			e.Errorf("partition %d after its member has closed: %+v", p, s)
		}
	}
}
