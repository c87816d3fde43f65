package drivertest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prismgw/prism/driver"
)

func logGroupChecks() []check {
	return []check{
		{"groups/start", nil, groupStart},
		{"groups/start-is-of-all-partitions", nil, groupStartsOnce},
		{"groups/known-ones-stay", nil, knownGroupStays},
		{"groups/names", nil, groupNames},
		{"groups/other-topics", nil, groupsOfOtherTopics},
		{"groups/records-from-the-checkpoint", nil, recordsFromCheckpoint},
		{"groups/small-rooms", nil, smallRooms},
		{"groups/members-share", nil, membersShare},
		{"groups/members-come-and-go", nil, membersComeAndGo},
		{"groups/hold", nil, holdKeepsBack},
		{"groups/what-is-not-taken-is-bounded", nil, fetchBound},
	}
}

// groupStart has one group for each kind of start.
func groupStart(e *env) {
	j := e.journal(2)
	times := j.spaced(4)
	starts := map[string]driver.Start{
		"earliest": {From: driver.StartEarliest},
		"latest":   {From: driver.StartLatest},
		"time":     {From: driver.StartTime, Time: times[2].Add(-2 * time.Millisecond)},
		"old":      {From: driver.StartTime, Time: times[0].Add(-time.Hour)},
		"ahead":    {From: driver.StartTime, Time: times[3].Add(2 * time.Millisecond)},
	}
	want := map[string][]string{
		"earliest": {"0", "1", "2", "3", "4", "5"}, "latest": {"4", "5"}, "time": {"2", "3", "4", "5"},
		"old": {"0", "1", "2", "3", "4", "5"}, "ahead": {"4", "5"},
	}
	members := map[string]*member{}
	for name, start := range starts {
		members[name] = j.joins(driver.JoinRequest{Group: name, Start: start})
	}
	j.numbered(0, 4, 6)
	for name, m := range members {
		m.gets(0, want[name]...)
	}
	j.append(1, "later")
	for name, m := range members {
		m.gets(1, "later")
		m.is(0, want[name]...)
	}
}

// groupStartsOnce has a group begin with what is appended from now on, and
// another member gain some of its partitions after that was appended.
func groupStartsOnce(e *env) {
	j := e.journal(4)
	for p := range 4 {
		j.numbered(p, 0, 3)
	}
	one := j.joins(driver.JoinRequest{Group: "g", Start: driver.Start{From: driver.StartLatest}})
	one.keeps = true
	for p := range 4 {
		j.numbered(p, 3, 5)
	}
	e.comes("all partitions", func() bool { return one.owns(0, 1, 2, 3) }, one)
	two := j.joins(driver.JoinRequest{Group: "g"}) // the group is known, and begins where it began
	e.comes("a share", func() bool { return len(two.has) == 2 && len(one.has) == 2 }, one, two)
	for _, m := range []*member{one, two} {
		for p := range m.has {
			m.gets(p, "3", "4")
		}
	}
	unread := j.joins(driver.JoinRequest{Group: "h", Start: driver.Start{From: driver.StartLatest}})
	unread.close() // it never took an event
	j.numbered(0, 5, 6)
	j.join("h").gets(0, "5")
}

func knownGroupStays(e *env) {
	j := e.journal(1)
	places := j.numbered(0, 0, 6)
	m := j.join("g")
	m.gets(0, "0", "1", "2", "3", "4", "5")
	m.settle(0, places[2], "")
	m.close()
	for _, start := range []driver.Start{{From: driver.StartLatest}, {From: driver.StartEarliest}, {From: driver.StartTime, Time: time.Now().Add(-time.Hour)}} {
		m := j.joins(driver.JoinRequest{Group: "g", Start: start})
		m.gets(0, "2", "3", "4", "5")
		m.close()
	}
}

func groupNames(e *env) {
	j := e.journal(1)
	places := j.numbered(0, 0, len(hostileNames()))
	names := hostileNames()
	for i, name := range names {
		m := j.join(name)
		e.comes("the partition for "+brief(name), func() bool { return m.owns(0) }, m)
		m.settle(0, places[i], "of "+brief(name))
		m.close()
	}
	for i, name := range names {
		if s := j.group(name, 0); s.Next != places[i] {
			e.Errorf("group %s stands at %d, want %d", brief(name), s.Next, places[i])
		}
	}
	for _, name := range []string{"nobody", "b", "a.b.", strings.Repeat("n", driver.MaxTopic-2), "g"} {
		if s := j.stats(name)[0]; s.Known {
			e.Errorf("group %s is known, nobody ever joined it", brief(name))
		}
	}
}

// groupsOfOtherTopics has one group's name in several topics and namespaces.
func groupsOfOtherTopics(e *env) {
	j := e.journal(1)
	all := []*journal{j, e.journal(1)}
	for _, name := range []string{"T", "t.g", "t-g"} {
		all = append(all, j.topic(driver.TopicSpec{Name: name, Partitions: 1}))
	}
	for i, j := range all {
		places := j.append(0, fmt.Sprint("of ", i), fmt.Sprint("next of ", i))
		if j.stats("g")[0].Known {
			e.Errorf("group g is known in topic %d, where nobody ever joined it", i)
		}
		m := j.join("g")
		m.gets(0, fmt.Sprint("of ", i), fmt.Sprint("next of ", i))
		m.settle(0, places[1], "")
	}
	for _, name := range []string{"G", "g.", "g0"} {
		j.join(name).gets(0, "of 0", "next of 0")
	}
}

// recordsFromCheckpoint has one owner follow another.
func recordsFromCheckpoint(e *env) {
	j := e.journal(1)
	var want []string
	next := driver.Position(0)
	for round := range 5 {
		j.numbered(0, round*20, round*20+20)
		for i := range 20 {
			want = append(want, fmt.Sprint(round*20+i))
		}
		m := j.join("g")
		m.gets(0, want...)
		if from := m.has[0].from; round > 0 && (from.Next != next || from.Note != "") {
			e.Errorf("the checkpoint is %d with note %q, want %d", from.Next, from.Note, next)
		}
		done := 7 + round
		next = m.has[0].got[done].Position
		m.settle(0, next, "")
		j.append(0, "late")
		want = append(want, "late")
		m.gets(0, want...) // a commit brings nothing again
		e.quiet(m)
		m.is(0, want...)
		want = want[done:]
		m.close()
	}
}

// smallRooms takes events one and two at a time, and commits each record.
func smallRooms(e *env) {
	j := e.journal(3)
	for p := range 3 {
		j.numbered(p, 0, 50)
	}
	m := j.join("g")
	total := func() (n int) {
		for _, c := range m.has {
			n += len(c.got)
		}
		return n
	}
	for n := 0; n < 150; {
		m.room = 1 + n%2
		e.comes("another record", func() bool { return total() > n }, m)
		n = total()
		for p, c := range m.has {
			m.settle(p, c.next(), fmt.Sprint("after ", n))
		}
	}
	var want []string
	for i := range 50 {
		want = append(want, fmt.Sprint(i))
	}
	for p := range 3 {
		m.is(p, want...)
		if s := j.group("g", p); !j.waits(s.Waiting, 0) || s.Owner != m.name {
			e.Errorf("partition %d: %d are waiting, the owner is %q, want %q", p, s.Waiting, s.Owner, m.name)
		}
	}
}

// shared reports whether members have all partitions, each its part.
func shared(partitions int, all ...*member) bool {
	owners := map[int]int{}
	for _, m := range all {
		if n := len(m.has); n < partitions/len(all) || n > (partitions+len(all)-1)/len(all) {
			return false
		}
		for p := range m.has {
			owners[p]++
		}
	}
	return len(owners) == partitions
}

// membersShare has three members, on two connections, that read a topic once.
func membersShare(e *env) {
	j := e.journal(6)
	other := j.again(e.open())
	all := []*member{j.join("g"), j.join("g"), other.join("g")}
	e.comes("each has its part", func() bool { return shared(6, all...) }, all...)
	beside := j.join("another") // shares with nobody
	for p := range 6 {
		j.numbered(p, 0, 20)
	}
	e.comes("all records", func() bool {
		n := 0
		for _, m := range all {
			for p := range m.has {
				n += len(m.texts(p))
			}
		}
		return n >= 120
	}, all...)
	e.quiet(all...)
	owners := map[int]*member{}
	for _, m := range all {
		for p := range m.has {
			if owners[p] != nil {
				e.Errorf("partition %d is of %s and of %s", p, m.name, owners[p].name)
			}
			owners[p] = m
			m.is(p, textsOf(j.all(p, 0, 100))...)
		}
	}
	for p, s := range j.stats("g") {
		if s.Owner != owners[p].name {
			e.Errorf("the owner of %d is told to be %q, is %q", p, s.Owner, owners[p].name)
		}
	}
	e.comes("all records for another group", func() bool { return beside.owns(0, 1, 2, 3, 4, 5) }, beside)
	for p := range 6 {
		beside.gets(p, textsOf(j.all(p, 0, 100))...)
	}
}

// membersComeAndGo has a group of up to four members that change while records
// are appended: each record reaches somebody, and after the last change every
// partition has an owner.
func membersComeAndGo(e *env) {
	j := e.journal(5)
	other := j.again(e.open())
	var all []*member
	seen := make([]map[string]bool, 5)
	for p := range seen {
		seen[p] = map[string]bool{}
	}
	note := func() {
		for _, m := range all {
			for p, c := range m.has {
				for _, s := range c.got {
					seen[p][string(s.Value)] = true
				}
			}
		}
	}
	appended := 0
	for round, size := range []int{1, 2, 4, 3, 4, 1, 3, 2} {
		for len(all) < size {
			all = append(all, []*journal{j, other}[(round+len(all))%2].join("g"))
		}
		for len(all) > size {
			m := all[0]
			for p, c := range m.has {
				m.settle(p, c.next(), "")
			}
			m.close()
			all = all[1:]
		}
		for p := range 5 {
			j.numbered(p, appended, appended+5)
		}
		appended += 5
		e.comes("each has its part", func() bool { note(); return shared(5, all...) }, all...)
	}
	e.comes("every record", func() bool {
		note()
		return !slices.ContainsFunc(seen, func(of map[string]bool) bool { return len(of) < appended })
	}, all...)
}

// holdKeepsBack holds one partition of two while much is appended to both.
func holdKeepsBack(e *env) {
	j := e.journal(2)
	m := j.join("g")
	j.append(0, "before")
	m.Hold(7, true) // not there
	m.gets(0, "before")
	m.Hold(0, true)
	const all = 3 * driver.FetchBytes
	record := noise(min(100<<10, j.g.MaxRecord))
	n := all / len(record)
	for i := range n {
		j.put(driver.Record{Partition: 0, Key: fmt.Append(nil, i), Value: record})
	}
	j.append(1, "beside")
	m.gets(1, "beside")
	reader := j.joins(driver.JoinRequest{}) // has everything by the time that others would have had it
	e.comes("everything for a reader", func() bool { return reader.total == n+2 }, reader, m)
	e.calm(m)
	if came := (len(m.has[0].got) - 1) * len(record); came > 2*driver.FetchBytes {
		e.Errorf("%d bytes came of a partition that is held", came)
	}
	m.Hold(0, false)
	e.comes("what was held", func() bool { return len(m.has[0].got) > n }, m)
	for i, s := range m.has[0].got[1:] {
		if string(s.Key) != fmt.Sprint(i) {
			e.Fatalf("record %d of a partition that was held is %s", i, s.Key)
		}
	}
	if m.lost[0]+m.lost[1] > 0 {
		e.Error("a partition that is held was lost")
	}
}

// fetchBound lets a member take nothing while much is there, then holds both
// partitions: only what was on its way still comes.
func fetchBound(e *env) {
	j := e.journal(2)
	record := noise(min(100<<10, j.g.MaxRecord))
	n := 2 * driver.FetchBytes / len(record) // for each partition
	m := j.join("g")
	m.room = 1
	e.comes("both partitions", func() bool { return m.owns(0, 1) }, m)
	for i := range 2 * n {
		j.put(driver.Record{Partition: i % 2, Value: record})
	}
	e.await("the group's backlog is seen", func() bool { return j.group("g", 0).Waiting >= int64(n) })
	reader := j.joins(driver.JoinRequest{}) // has everything by the time that others would have had it
	e.comes("everything for a reader", func() bool { return reader.total == 2*n }, reader)
	m.Hold(0, true)
	m.Hold(1, true)
	m.room = 50
	e.calm(m)
	came := (len(m.texts(0)) + len(m.texts(1))) * len(record)
	if most := driver.FetchBytes*5/4 + 2*len(record); came > most {
		e.Errorf("%d bytes were on their way to a member that did not take them, want at most about %d", came, driver.FetchBytes)
	}
	m.Hold(0, false)
	m.Hold(1, false)
	e.comes("all records", func() bool { return len(m.texts(0)) == n && len(m.texts(1)) == n }, m)
}
