package drivertest

import (
	"fmt"
	"strings"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

func logCommitChecks() []check {
	return []check{
		{"commits/notes", nil, commitNotes},
		{"commits/reopened", needsPersistent, commitsReopened},
		{"commits/repeated", nil, commitRepeated},
		{"commits/outcomes-by-partition", nil, commitOutcomes},
		{"commits/of-another-member", nil, commitOfAnother},
		{"commits/release", nil, commitReleases},
		{"seek/anywhere", nil, seekAnywhere},
		{"seek/owned-partitions", nil, seekOwned},
		{"seek/unknown-group", nil, seekUnknown},
	}
}

// hostileNotes are notes of printable ASCII, up to the longest one.
func hostileNotes(most int) []string {
	var all strings.Builder
	for c := byte(' '); c <= '~'; c++ {
		all.WriteByte(c)
	}
	return []string{"", "a", all.String(), " ", "  a  ", `{"a":["'\u0000"]}`, "$1 %s", strings.Repeat("n", 4096), strings.Repeat("~", most)}
}

func commitNotes(e *env) {
	j := e.journal(1)
	if j.g.MaxNote < 4096 {
		e.Errorf("MaxNote is %d, want at least 4,096", j.g.MaxNote)
	}
	places := j.numbered(0, 0, 20)
	for i, note := range hostileNotes(j.g.MaxNote) {
		m := j.join("g")
		e.comes("the partition", func() bool { return m.owns(0) }, m)
		m.settle(0, places[i], note)
		m.close()
		m = j.join("g")
		e.comes("the partition", func() bool { return m.owns(0) }, m)
		if from := m.has[0].from; from.Next != places[i] || from.Note != note {
			e.Errorf("the checkpoint is %d with note %s, want %d with %s", from.Next, brief(from.Note), places[i], brief(note))
		}
		m.close()
	}
}

func commitsReopened(e *env) {
	conn := e.open()
	j := e.logsOn(conn, e.space()).topic(driver.TopicSpec{Name: "t", Partitions: 2})
	places := j.numbered(1, 0, 5)
	m := j.join("g")
	m.gets(1, "0", "1", "2", "3", "4")
	m.settle(1, places[3], "a note")
	if err := conn.Close(); err != nil {
		e.Fatalf("close: %v", err)
	}
	j = j.again(e.open())
	m = j.join("g")
	m.gets(1, "3", "4") // the connection's members were closed with it, or have died
	if note := m.has[1].from.Note; note != "a note" {
		e.Errorf("after reopening the note is %q", note)
	}
}

func commitRepeated(e *env) {
	j := e.journal(1)
	places := j.numbered(0, 0, 5)
	m := j.join("g")
	m.gets(0, "0", "1", "2", "3", "4")
	for range 3 {
		m.settle(0, places[2], "same")
	}
	m.settle(0, places[2], "other note")
	m.settle(0, places[4]+1, "")
	for range 3 {
		m.settle(0, places[4]+1, "")
	}
	if s := j.group("g", 0); s.Next != places[4]+1 || !j.waits(s.Waiting, 0) || !s.Oldest.IsZero() {
		e.Errorf("after a commit of everything: %+v", s)
	}
}

// commitOutcomes has commits of four partitions, of which two are not the
// member's as they say.
func commitOutcomes(e *env) {
	j := e.journal(4)
	for p := range 4 {
		j.numbered(p, 0, 3)
	}
	m := j.join("g")
	e.comes("all records", func() bool { return m.owns(0, 1, 2, 3) && len(m.texts(3)) == 3 && len(m.texts(0)) == 3 }, m)
	commits := make([]driver.Commit, 4)
	for p := range commits {
		commits[p] = m.upTo(p, m.has[p].from.Next+1, fmt.Sprint("note ", p))
	}
	commits[1].Claim++
	commits[2].Claim--
	for p, err := range m.settled(commits...) {
		if p == 1 || p == 2 {
			e.wants("a commit with another claim", err, errs.StaleReceipt)
		} else if err != nil {
			e.Errorf("commit of %d: %s", p, describe(err))
		}
	}
	for p, s := range j.stats("g") {
		want := m.has[p].from.Next
		if p == 0 || p == 3 {
			want++
		}
		if s.Next != want {
			e.Errorf("partition %d stands at %d, want %d", p, s.Next, want)
		}
	}
	m.settled()
	m.close()
	m = j.join("g")
	e.comes("all partitions", func() bool { return m.owns(0, 1, 2, 3) }, m)
	for p, want := range []string{"note 0", "", "", "note 3"} {
		if got := m.has[p].from.Note; got != want {
			e.Errorf("partition %d has the note %q, want %q", p, got, want)
		}
	}
}

// commitOfAnother has members commit each other's partitions, with their own
// claims and with the other's.
func commitOfAnother(e *env) {
	j := e.journal(2)
	j.numbered(0, 0, 3)
	j.numbered(1, 0, 3)
	one, two := j.join("g"), j.join("g")
	other := j.join("h")
	e.comes("each has its part", func() bool { return shared(2, one, two) && other.owns(0, 1) }, one, two, other)
	mine, theirs := 0, 1
	if one.has[0] == nil {
		mine, theirs = 1, 0
	}
	before := j.group("g", theirs)
	for _, claim := range []int64{one.has[mine].id, other.has[theirs].id, 0, -1, 1 << 60} {
		if claim == two.has[theirs].id {
			claim += 1000
		}
		err := one.settled(driver.Commit{Partition: theirs, Claim: claim, Checkpoint: driver.Checkpoint{Next: before.Next + 2, Note: "wrong"}})[0]
		e.wants("a commit of another member's partition", err, errs.StaleReceipt)
		err = one.settled(driver.Commit{Partition: theirs, Claim: claim, Checkpoint: driver.Checkpoint{Next: before.Next}, Release: true})[0]
		e.wants("a release of another member's partition", err, errs.StaleReceipt)
	}
	if after := j.group("g", theirs); after.Next != before.Next || after.Owner != two.name {
		e.Errorf("what another member committed has changed %+v to %+v", before, after)
	}
	two.settle(theirs, before.Next+1, "right")
}

// commitReleases gives a partition up by itself: it is somebody's again, with
// another claim.
func commitReleases(e *env) {
	j := e.journal(1)
	places := j.numbered(0, 0, 4)
	m := j.join("g")
	m.gets(0, "0", "1", "2", "3")
	commit := m.upTo(0, places[2], "released")
	commit.Release = true
	if err := m.settled(commit)[0]; err != nil {
		e.Fatalf("release: %s", describe(err))
	}
	m.has = map[int]*claim{} // nothing comes until it is gained
	m.gets(0, "2", "3")
	if from := m.has[0].from; from.Next != places[2] || from.Note != "released" {
		e.Errorf("the checkpoint is %d with note %q", from.Next, from.Note)
	}
	for _, release := range []bool{true, false} {
		commit.Checkpoint, commit.Release = driver.Checkpoint{Next: places[3]}, release
		e.wants("a commit with the claim of before", m.settled(commit)[0], errs.StaleReceipt)
	}
	if s := j.group("g", 0); s.Next != places[2] {
		e.Errorf("the group stands at %d, want %d", s.Next, places[2])
	}
	m.settle(0, places[3], "")
}

// seekAnywhere puts a group without members back, forward, before the first
// record and behind the last one.
func seekAnywhere(e *env) {
	j := e.journal(2)
	places := j.numbered(0, 0, 6)
	others := j.numbered(1, 0, 6)
	m := j.join("g")
	e.comes("all records", func() bool { return m.owns(0, 1) && len(m.texts(0)) == 6 && len(m.texts(1)) == 6 }, m)
	m.settle(0, places[3], "a note")
	m.settle(1, others[3], "stays")
	m.close()
	for _, x := range []struct {
		to   driver.Position
		want []string
	}{
		{places[1], []string{"1", "2", "3", "4", "5"}},
		{places[5], []string{"5"}},
		{places[0], []string{"0", "1", "2", "3", "4", "5"}},
		{1, []string{"0", "1", "2", "3", "4", "5"}},
	} {
		if err := j.Seek(j.ctx, "g", []driver.Target{{Partition: 0, Next: x.to}}); err != nil {
			e.Fatalf("seek to %d: %s", x.to, describe(err))
		}
		m := j.join("g")
		m.gets(0, x.want...)
		m.gets(1, "3", "4", "5")
		if a, b := m.has[0].from, m.has[1].from; a.Note != "" || b.Note != "stays" || b.Next != others[3] {
			e.Errorf("after a seek of one partition the checkpoints are %+v and %+v", a, b)
		}
		m.close()
	}
	if err := j.Seek(j.ctx, "g", []driver.Target{{Partition: 0, Next: j.stats("")[0].End}, {Partition: 1, Next: others[0]}}); err != nil {
		e.Fatalf("seek to the end: %s", describe(err))
	}
	if s := j.stats("g"); !j.waits(s[0].Waiting, 0) || !j.waits(s[1].Waiting, 6) {
		e.Errorf("after a seek %d and %d are waiting, want 0 and 6", s[0].Waiting, s[1].Waiting)
	}
	m = j.join("g")
	m.gets(1, "0", "1", "2", "3", "4", "5")
	j.append(0, "new")
	m.gets(0, "new")
}

// seekOwned puts a group to another place while a member has the partition.
func seekOwned(e *env) {
	j := e.journal(2)
	places := j.numbered(0, 0, 6)
	j.numbered(1, 0, 2)
	m := j.join("g")
	e.comes("all records", func() bool { return m.owns(0, 1) && len(m.texts(0)) == 6 && len(m.texts(1)) == 2 }, m)
	m.settle(0, places[4], "before")
	stale := m.upTo(0, places[5], "stale")
	for i, to := range []driver.Position{places[2], places[5], places[0]} {
		if err := j.Seek(j.ctx, "g", []driver.Target{{Partition: 0, Next: to}}); err != nil {
			e.Fatalf("seek: %s", describe(err))
		}
		e.wants("a commit with the claim of before a seek", m.settled(stale)[0], errs.StaleReceipt)
		e.comes("the partition again", func() bool { return m.lost[0] > i && m.owns(0) }, m)
		if from := m.has[0].from; from.Next != to || from.Note != "" {
			e.Errorf("after a seek to %d the checkpoint is %d with note %q", to, from.Next, from.Note)
		}
		m.gets(0, textsOf(j.all(0, to, 10))...)
		stale = m.upTo(0, places[5], "stale")
	}
	m.settle(0, places[1], "")
	if m.lost[1] > 0 || !m.owns(1) {
		e.Error("a seek of one partition has taken another one away")
	}
	m.is(1, "0", "1")
}

func seekUnknown(e *env) {
	j := e.journal(1)
	j.append(0, "a")
	e.wants("seek of an unknown group", j.Seek(j.ctx, "g", []driver.Target{{Partition: 0, Next: 1}}), errs.GroupNotFound)
	e.wants("seek of an unknown group", j.Seek(j.ctx, "g", nil), errs.GroupNotFound)
	if j.stats("g")[0].Known {
		e.Error("a seek has made a group")
	}
	j.join("G")
	e.wants("seek of an unknown group", j.Seek(j.ctx, "g", []driver.Target{{Partition: 0, Next: 1}}), errs.GroupNotFound)
}
