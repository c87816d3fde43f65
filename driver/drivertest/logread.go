package drivertest

import (
	"fmt"
	"slices"
	"time"

	"github.com/prismgw/prism/driver"
)

func logReadChecks() []check {
	return []check{
		{"read/from-a-position", nil, readFrom},
		{"read/ends", nil, readEnds},
		{"read/bounds", nil, readBounds},
		{"read/by-time", nil, readByTime},
		{"read/takes-nothing", nil, readTakesNothing},
	}
}

func readFrom(e *env) {
	j := e.journal(2)
	places := j.numbered(1, 0, 30)
	for i, at := range places {
		for _, limit := range []int{1, 2, 100} {
			found := j.page(driver.ReadRequest{Partition: 1, From: at, Limit: limit})
			if n := min(limit, 30-i); len(found.Records) != n || string(found.Records[0].Value) != fmt.Sprint(i) || found.Records[0].Position != at {
				e.Fatalf("read from the place of %d: %d records, want %d from there", i, len(found.Records), n)
			}
			if i > 0 { // also from the middle of a gap, where there are some
				found = j.page(driver.ReadRequest{Partition: 1, From: places[i-1] + 1, Limit: 1})
				if len(found.Records) != 1 || found.Records[0].Position != at {
					e.Errorf("read from %d, behind %d: not the one at %d", places[i-1]+1, places[i-1], at)
				}
			}
		}
	}
	j.holds(0)
}

// readEnds reads before the first record, behind the last, and where none ever
// was, and goes on from there.
func readEnds(e *env) {
	j := e.journal(2)
	empty := j.page(driver.ReadRequest{Partition: 0, From: 0, Limit: 5})
	if end := j.stats("")[0].End; len(empty.Records) > 0 || empty.Next > end {
		e.Errorf("read of nothing: %d records, goes on from %d, the end is %d", len(empty.Records), empty.Next, end)
	}
	places := j.append(0, "a", "b")
	goesOn := func(from driver.Position, want ...string) driver.Position {
		e.Helper()
		found := j.page(driver.ReadRequest{Partition: 0, From: from, Limit: 5})
		if got := textsOf(found.Records); !slices.Equal(got, want) {
			e.Errorf("read from %d: %s, want %s", from, briefAll(got), briefAll(want))
		}
		if end := j.stats("")[0].End; found.Next > end {
			e.Errorf("read from %d goes on from %d, the end is %d", from, found.Next, end)
		}
		return found.Next
	}
	next := goesOn(empty.Next, "a", "b")
	goesOn(0, "a", "b")
	goesOn(1, "a", "b")
	goesOn(places[1]+1000, []string{}...)
	next = goesOn(next, []string{}...)
	if next <= places[1] {
		e.Errorf("the end is %d, the last record stands at %d", next, places[1])
	}
	j.append(0, "c")
	next = goesOn(next, "c")
	goesOn(next, []string{}...)
}

func readBounds(e *env) {
	j := e.journal(1)
	const size = 1000
	for i := range 20 {
		j.put(driver.Record{Key: []byte{byte(i)}, Value: noise(size)})
	}
	for limit := 1; limit <= 20; limit++ {
		if found := j.page(driver.ReadRequest{Limit: limit}); len(found.Records) != limit {
			e.Errorf("read of %d: %d records", limit, len(found.Records))
		}
	}
	for bytes, want := range map[int]int{1: 1, size: 1, size + 1: 1, size + 2: 2, 3 * size: 3, 3*size + 4: 4, 0: 20, 1 << 30: 20} {
		found := j.page(driver.ReadRequest{Limit: 100, MaxBytes: bytes})
		// A technology may count more than key and value for each record.
		if n := len(found.Records); n > want || n < 1 || n < want/2 {
			e.Errorf("read of %d bytes: %d records, want %d", bytes, n, want)
		}
	}
}

// apart is how far in time the records of spaced lie apart at least: far enough
// that times true to the millisecond tell them apart.
const apart = 5 * time.Millisecond

// spaced appends records with the texts 0 to n-1, of different times, to the
// first partition, and returns those.
func (j *journal) spaced(n int) (times []time.Time) {
	j.Helper()
	for i := range n {
		times = append(times, j.at(0, j.numbered(0, i, i+1)[0]).Time)
		if i > 0 && times[i].Sub(times[i-1]) < apart {
			j.Fatalf("records appended %s apart have the times %s and %s", apart, times[i-1], times[i])
		}
		if i < n-1 {
			for since := time.Now(); time.Since(since) < 2*apart; time.Sleep(time.Millisecond) {
			}
		}
	}
	return times
}

func readByTime(e *env) {
	j := e.journal(2)
	j.append(1, "of another partition")
	times := j.spaced(10)
	first := func(t time.Time) string {
		e.Helper()
		found := j.page(driver.ReadRequest{Partition: 0, From: 1 << 40, Time: t, Limit: 100})
		if len(found.Records) == 0 {
			return "nothing"
		}
		return string(found.Records[0].Value)
	}
	for i, at := range times {
		if got := first(at.Add(-2 * time.Millisecond)); got != fmt.Sprint(i) {
			e.Errorf("read from just before the time of %d: %s comes first", i, got)
		}
		want := fmt.Sprint(i + 1)
		if i == len(times)-1 {
			want = "nothing"
		}
		if got := first(at.Add(2 * time.Millisecond)); got != want {
			e.Errorf("read from just after the time of %d: %s comes first, want %s", i, got, want)
		}
	}
	if got := first(times[0].Add(-time.Hour)); got != "0" {
		e.Errorf("read from an hour before the first: %s comes first", got)
	}
	late := j.page(driver.ReadRequest{Partition: 0, Time: time.Now().Add(time.Hour), Limit: 1})
	if end := j.stats("")[0].End; len(late.Records) > 0 || late.Next > end {
		e.Errorf("read from an hour ahead: %d records, goes on from %d, the end is %d", len(late.Records), late.Next, end)
	}
}

func readTakesNothing(e *env) {
	j := e.journal(1)
	j.numbered(0, 0, 10)
	m := j.join("g")
	m.room = 1
	e.comes("a record", func() bool { return len(m.texts(0)) > 0 }, m)
	for range 3 {
		if n := len(j.all(0, 0, 3)); n != 10 {
			e.Errorf("read: %d records, of 10", n)
		}
	}
	m.gets(0, "0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
	if s := j.group("g", 0); !j.waits(s.Waiting, 10) {
		e.Errorf("%d are waiting, nothing was committed of 10", s.Waiting)
	}
}
