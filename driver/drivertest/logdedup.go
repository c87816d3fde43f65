package drivertest

import (
	"cmp"
	"fmt"
	"sync"
	"time"

	"github.com/prismgw/prism/driver"
)

func dedupChecks() []check {
	return []check{
		{"dedup/in-a-call", needsDedup, dedupInACall},
		{"dedup/connections", needsDedup, dedupConnections},
		{"dedup/reopened", needsPersistentDedup, dedupReopened},
		{"dedup/at-once", needsDedup, dedupAtOnce},
		{"dedup/window", needsDedup, dedupWindow},
		{"dedup/other-topics", needsDedup, dedupOtherTopics},
		{"dedup/not-asked-for", nil, dedupNotAsked},
	}
}

func needsDedup(e *env) string {
	if !e.s.log.Dedup {
		return "the technology knows no duplicates"
	}
	return ""
}

func needsPersistentDedup(e *env) string { return cmp.Or(needsDedup(e), needsPersistent(e)) }

// remembering is a topic that knows duplicates for a while.
func (e *env) remembering(window time.Duration) *journal {
	e.Helper()
	return e.logs().topic(driver.TopicSpec{Name: "t", Partitions: 2, Dedup: window})
}

func withID(id, text string) driver.Record { return driver.Record{ID: id, Value: []byte(text)} }

// twice appends a record that was appended before at a position.
func (j *journal) twice(id string, first driver.Position) {
	j.Helper()
	r := j.outcomes(withID(id, "again"))[0]
	if r.Err != nil || !r.Duplicate || r.Position != first && r.Position != 0 {
		j.Errorf("a duplicate of the record at %d: position %d, duplicate %v, %s", first, r.Position, r.Duplicate, describe(r.Err))
	}
}

func dedupInACall(e *env) {
	j := e.remembering(time.Minute)
	results := j.outcomes(withID("a", "1"), withID("b", "2"), withID("a", "3"), withID("", "4"), withID("A", "5"), withID("", "6"), withID("a", "7"))
	for i, r := range results {
		if duplicate := i == 2 || i == 6; r.Err != nil || r.Duplicate != duplicate {
			e.Errorf("record %d: duplicate %v, %s", i, r.Duplicate, describe(r.Err))
		}
	}
	j.holds(0, "1", "2", "4", "5", "6")
	j.twice("a", results[0].Position)
	j.twice("b", results[1].Position)
	j.holds(0, "1", "2", "4", "5", "6")
}

func dedupConnections(e *env) {
	j := e.remembering(time.Minute)
	first := j.put(withID("a", "1"))[0]
	j.again(e.open()).twice("a", first)
	space := e.named(driver.Space{Namespace: j.space.Namespace, Pattern: "other"})
	e.logsOn(e.s.anchor, space).topic(j.spec).twice("a", first)
	j.holds(0, "1")
}

func dedupReopened(e *env) {
	conn := e.open()
	j := e.logsOn(conn, e.space()).topic(driver.TopicSpec{Name: "t", Partitions: 1, Dedup: 10 * time.Minute})
	first := j.put(withID("a", "1"))[0]
	if err := conn.Close(); err != nil {
		e.Fatalf("close: %v", err)
	}
	j = j.again(e.open())
	j.twice("a", first)
	j.holds(0, "1")
}

func dedupAtOnce(e *env) {
	j := e.remembering(time.Minute)
	both := []*journal{j, j.again(e.open())}
	for round := range 10 {
		id := fmt.Sprint("id", round)
		results := make([]driver.AppendResult, 8)
		var wg sync.WaitGroup
		for i := range results {
			wg.Go(func() { results[i] = both[i%2].outcomes(withID(id, id))[0] })
		}
		wg.Wait()
		appended := 0
		for _, r := range results {
			if r.Err != nil {
				e.Errorf("append: %s", describe(r.Err))
			}
			if !r.Duplicate {
				appended++
			}
		}
		if appended != 1 {
			e.Errorf("of 8 at once with one id %d were appended", appended)
		}
	}
	if n := len(j.all(0, 0, 100)); n != 10 {
		e.Errorf("%d records with 10 ids", n)
	}
}

// dedupWindow repeats an id until it is forgotten, which repeats do not put off.
func dedupWindow(e *env) {
	const window = 2 * time.Second
	j := e.remembering(window)
	j.put(withID("b", "another"))
	first := j.put(withID("a", "1"))[0]
	there := j.at(0, first).Time
	e.goes("an id is forgotten", func() bool {
		r := j.outcomes(withID("a", "2"))[0]
		if r.Err != nil {
			e.Fatalf("append: %s", describe(r.Err))
		}
		return !r.Duplicate
	})
	j.holds(0, "another", "1", "2")
	got := j.all(0, first, 2)
	if took := got[1].Time.Sub(there); took < window-10*time.Millisecond {
		e.Errorf("an id was forgotten after %s, not %s", took, window)
	}
	j.twice("a", got[1].Position)
}

func dedupOtherTopics(e *env) {
	j := e.remembering(time.Minute)
	j.put(withID("a", "1"))
	for _, name := range []string{"T", "t.2", "u"} {
		other := j.topic(driver.TopicSpec{Name: name, Partitions: 1, Dedup: time.Minute})
		other.put(withID("a", "1"))
		other.holds(0, "1")
	}
	elsewhere := e.remembering(time.Minute)
	elsewhere.put(withID("a", "1"))
}

func dedupNotAsked(e *env) {
	j := e.journal(1)
	j.put(withID("a", "1"), withID("a", "2"))
	j.put(withID("a", "3"))
	j.holds(0, "1", "2", "3")
}
