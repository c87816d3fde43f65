package drivertest

import (
	"slices"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

func logReaderChecks() []check {
	return []check{
		{"readers/all-partitions", nil, readersHaveAll},
		{"readers/start", nil, readersStart},
		{"readers/keep-nothing", nil, readersKeepNothing},
	}
}

func readersHaveAll(e *env) {
	j := e.journal(3)
	for p := range 3 {
		j.numbered(p, 0, 5)
	}
	group := j.join("g")
	readers := []*member{j.joins(driver.JoinRequest{}), j.joins(driver.JoinRequest{Name: "same"}), j.again(e.open()).joins(driver.JoinRequest{Name: "same"})}
	e.comes("all partitions of the group", func() bool { return group.owns(0, 1, 2) }, group)
	for p := range 3 {
		for _, m := range readers {
			m.gets(p, "0", "1", "2", "3", "4")
		}
		j.append(p, "new")
		for _, m := range append(readers, group) {
			m.gets(p, "0", "1", "2", "3", "4", "new")
		}
	}
	readers[0].close()
	e.quiet(readers[1:]...)
	for _, m := range append(readers[1:], group) {
		if len(m.lost) > 0 {
			e.Errorf("%s has lost %d partitions to a reader", m.name, len(m.lost))
		}
	}
}

// readersStart has readers begin in their own places.
func readersStart(e *env) {
	j := e.journal(2)
	times := j.spaced(4)
	places := j.numbered(1, 0, 4)
	latest := driver.Start{From: driver.StartLatest}
	readers := []*member{
		j.joins(driver.JoinRequest{Start: latest}),
		j.joins(driver.JoinRequest{Start: driver.Start{From: driver.StartTime, Time: times[2].Add(-2 * time.Millisecond)}}),
		j.joins(driver.JoinRequest{Start: latest, At: []driver.Target{{Partition: 1, Next: places[2]}}}),
		j.joins(driver.JoinRequest{At: []driver.Target{{Partition: 1, Next: places[3] + 1}, {Partition: 0, Next: 1}}}),
	}
	want := [][2][]string{
		{{"4"}, {"4"}},
		{{"2", "3", "4"}, {"0", "1", "2", "3", "4"}},
		{{"4"}, {"2", "3", "4"}},
		{{"0", "1", "2", "3", "4"}, {"4"}},
	}
	j.numbered(0, 4, 5)
	j.numbered(1, 4, 5)
	for i, m := range readers {
		m.gets(0, want[i][0]...)
		m.gets(1, want[i][1]...)
	}
}

func readersKeepNothing(e *env) {
	j := e.journal(1)
	places := j.numbered(0, 0, 3)
	m := j.joins(driver.JoinRequest{Name: "reader"})
	m.gets(0, "0", "1", "2")
	for _, release := range []bool{false, true} {
		commit := m.upTo(0, places[2], "")
		commit.Release = release
		e.wants("commit of a reader", m.settled(commit)[0], errs.Unsupported)
	}
	for _, group := range []string{"", "reader", m.name} {
		if slices.ContainsFunc(j.stats(group), func(s driver.PartitionStat) bool { return s.Known }) {
			e.Errorf("group %q is known beside a reader", group)
		}
	}
	m.Hold(0, true)
	j.append(0, "held")
	m.Hold(0, false)
	m.gets(0, "0", "1", "2", "held")
	m.close()
	j.joins(driver.JoinRequest{Name: "reader"}).gets(0, "0", "1", "2", "held")
}
