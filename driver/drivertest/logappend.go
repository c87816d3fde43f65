package drivertest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

func logAppendChecks() []check {
	return []check{
		{"append/any-bytes", nil, anyRecord},
		{"append/outcomes-by-record", nil, appendOutcomes},
		{"append/memory-is-not-shared", nil, appendMemory},
		{"append/order", nil, appendOrder},
		{"append/at-once", nil, appendAtOnce},
		{"append/visible-in-order", nil, visibleInOrder},
	}
}

// hostileRecords are records with all kinds of bytes, of all sizes up to a limit.
func hostileRecords(limit int) (all []driver.Record) {
	binary := make([]byte, 256)
	for i := range binary {
		binary[i] = byte(i)
	}
	many := make([]driver.Header, driver.MaxHeaders)
	for i := range many {
		many[i] = driver.Header{Name: fmt.Sprint("h", i%9), Value: fmt.Sprint(i)}
	}
	all = []driver.Record{
		{},
		{Key: []byte{}, Value: []byte{}},
		{Key: []byte{0}, Value: []byte{0}},
		{Key: binary, Value: binary},
		{Key: []byte("\r\n"), Value: []byte("\r\n\r\n$5\r\nhello\n")},
		{Key: bytes.Repeat([]byte{0xff}, driver.MaxRecordKey), Value: []byte("the longest key")},
		{ID: "id", Value: []byte("with an id")},
		{ID: strings.Repeat("~", driver.MaxRecordID), Value: []byte("with the longest id")},
		{ID: `!"'\$%*>.,:;{}`, Value: []byte("with a hostile id")},
		{Headers: []driver.Header{{Name: "a", Value: "1"}, {Name: "a", Value: "1"}, {Name: "b", Value: ""}, {Name: "a", Value: "0"}}, Value: []byte("a name thrice")},
		{Headers: []driver.Header{{Name: "nats-msg-id", Value: "x"}, {Name: "nats-ttl", Value: "1s"}, {Name: "key", Value: "k"}, {Name: "content-type", Value: "a: b"}}},
		{Headers: many, Value: []byte("many headers")},
		{Headers: []driver.Header{{Name: "h", Value: strings.Repeat("v", driver.MaxHeaderSize-1)}}, Value: []byte("long headers")},
	}
	for _, n := range []int{64 << 10, 65<<10 + 1, 1 << 20, limit} {
		if n <= limit {
			all = append(all, driver.Record{Value: noise(n)})
		}
	}
	return all
}

// biggest is how large the suite's largest records are.
func (l *logs) biggest() int { return min(l.g.MaxRecord, 8<<20) }

func anyRecord(e *env) {
	j := e.journal(1)
	all := hostileRecords(j.biggest())
	places := j.put(all[:len(all)-4]...)
	for _, r := range all[len(all)-4:] {
		places = append(places, j.put(r)...)
	}
	m := j.join("g")
	e.comes("all records", func() bool { return m.owns(0) && len(m.has[0].got) >= len(all) }, m)
	for how, found := range map[string][]driver.Stored{"read": j.all(0, 0, 3), "consumed": m.has[0].got} {
		if len(found) != len(all) {
			e.Fatalf("%s: %d records, of %d", how, len(found), len(all))
		}
		for i, s := range found {
			if !sameRecord(s.Record, all[i]) || s.Position != places[i] {
				e.Errorf("%s: record %d at %d: key %s, id %s, %d headers, %d bytes; want it at %d: key %s, id %s, %d headers, %d bytes", how, i,
					s.Position, quote(string(s.Key)), s.ID, len(s.Headers), len(s.Value), places[i], quote(string(all[i].Key)), all[i].ID, len(all[i].Headers), len(all[i].Value))
			}
			if age := time.Since(s.Time); age < -time.Minute || age > logPatience {
				e.Errorf("%s: record %d was appended at %s", how, i, s.Time)
			}
		}
	}
}

// appendOutcomes has records that are too large beside others.
func appendOutcomes(e *env) {
	j := e.journal(2)
	if j.g.MaxRecord > 64<<20 {
		e.Fatalf("MaxRecord is %d bytes, more than any message that reaches a driver", j.g.MaxRecord)
	}
	big := make([]byte, j.g.MaxRecord+1)
	results := j.outcomes(
		driver.Record{Partition: 0, Value: []byte("a")},
		driver.Record{Partition: 1, Value: big},
		driver.Record{Partition: 1, Value: []byte("b")},
		driver.Record{Partition: 0, Key: []byte("k"), Value: big[:j.g.MaxRecord]},
		driver.Record{Partition: 0, Headers: []driver.Header{{Name: "h", Value: "v"}}, Value: big[:j.g.MaxRecord-1]},
		driver.Record{Partition: 0, Value: []byte("c")},
	)
	for i, r := range results {
		switch tooLarge := i == 1 || i == 3 || i == 4; {
		case tooLarge:
			e.wants(fmt.Sprint("record ", i), r.Err, errs.PayloadTooLarge)
		case r.Err != nil || r.Duplicate || r.Position < 1:
			e.Errorf("record %d: position %d, duplicate %v, %s", i, r.Position, r.Duplicate, describe(r.Err))
		}
	}
	j.holds(0, "a", "c")
	j.holds(1, "b")
	j.outcomes()
	j.put(driver.Record{Partition: 1, Value: big[:j.g.MaxRecord]})
	if got := j.all(1, 0, 10); len(got) != 2 || len(got[1].Value) != j.g.MaxRecord {
		e.Errorf("a record of MaxRecord bytes is not there")
	}
}

// appendMemory changes what was given and what was got.
func appendMemory(e *env) {
	j := e.journal(1)
	r := driver.Record{Key: []byte("key"), Value: []byte("value"), Headers: []driver.Header{{Name: "h", Value: "v"}}}
	given := []driver.Record{r}
	j.put(given...)
	spoil := func(r *driver.Record) {
		for _, b := range [][]byte{r.Key, r.Value} {
			for i := range b {
				b[i] = 'x'
			}
		}
		r.Headers[0].Value = "x"
	}
	spoil(&given[0])
	for range 2 {
		m := j.joins(driver.JoinRequest{})
		m.gets(0, "value")
		found := append(j.all(0, 0, 1), m.has[0].got...)
		for i := range found {
			if s := &found[i]; string(s.Key) != "key" || string(s.Value) != "value" || len(s.Headers) != 1 || s.Headers[0].Value != "v" {
				e.Fatalf("a record has become %s, %s, %v", s.Key, s.Value, s.Headers)
			}
			spoil(&found[i].Record)
		}
	}
}

// appendOrder appends in calls of many sizes, one after the other, to three
// partitions.
func appendOrder(e *env) {
	j := e.journal(3)
	var last [3]driver.Position
	var want [3][]string
	for call := range 60 {
		records := make([]driver.Record, 1+call*call%37)
		for i := range records {
			p := (call*7 + i*i) % 3
			records[i] = driver.Record{Partition: p, Value: fmt.Append(nil, call, ".", i)}
			want[p] = append(want[p], string(records[i].Value))
		}
		for i, at := range j.put(records...) {
			p := records[i].Partition
			if at <= last[p] {
				e.Fatalf("call %d: record %d of partition %d stands at %d, behind %d", call, i, p, at, last[p])
			}
			last[p] = at
		}
	}
	for p := range 3 {
		j.holds(p, want[p]...)
	}
}

// appendAtOnce has 16 append to two partitions through two connections.
func appendAtOnce(e *env) {
	j := e.journal(2)
	both := []*journal{j, j.again(e.open())}
	const calls, size = 20, 5
	var mu sync.Mutex
	at := [2]map[driver.Position]string{{}, {}}
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for call := range calls {
				var records []driver.Record
				for i := range size {
					records = append(records, driver.Record{Partition: w % 2, Value: fmt.Appendf(nil, "%02d-%04d", w, call*size+i)})
				}
				places := both[w/2%2].put(records...)
				mu.Lock()
				for i, place := range places {
					at[w%2][place] = string(records[i].Value)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for p := range 2 {
		if n := len(at[p]); n != 8*calls*size {
			e.Errorf("partition %d: %d different positions for %d records", p, n, 8*calls*size)
		}
		var want []string
		for _, place := range slices.Sorted(maps.Keys(at[p])) {
			want = append(want, at[p][place])
		}
		j.holds(p, want...)
		byWriter := slices.Clone(want)
		slices.SortStableFunc(byWriter, func(a, b string) int { return cmp.Compare(a[:2], b[:2]) })
		if !slices.IsSorted(byWriter) {
			e.Errorf("partition %d: records of one writer are out of order", p)
		}
	}
}

// visibleInOrder follows a partition to which 16 append, in calls of many sizes
// and through two connections: a record that appears behind one that was read
// is missed.
func visibleInOrder(e *env) {
	j := e.journal(2)
	both := []*journal{j, j.again(e.open())}
	calls := counts(20, 200)
	var want sync.Map // texts that were appended
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for call := range calls {
				var records []driver.Record
				for i := range 1 + (w+call)%8 {
					text := fmt.Sprintf("%d-%d-%d", w, call, i)
					want.Store(text, false)
					records = append(records, driver.Record{Partition: i % 2, Value: []byte(text)})
				}
				both[w%2].put(records...)
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	m := j.join("g") // follows as well
	ctx, stop := context.WithCancel(j.ctx)
	var following sync.WaitGroup
	following.Go(func() {
		for m.next(ctx) == nil {
		}
	})
	got := map[string]int{}
	var from [2]driver.Position
	for last := false; !last; {
		select {
		case <-done:
			last = true // and once more
		default:
		}
		for p := range from {
			for more := true; more; {
				found := j.page(driver.ReadRequest{Partition: p, From: from[p], Limit: 7})
				for _, s := range found.Records {
					got[string(s.Value)]++
				}
				from[p], more = found.Next, last && len(found.Records) > 0
			}
		}
	}
	all := 0
	want.Range(func(key, _ any) bool {
		text, _ := key.(string)
		if all++; got[text] != 1 {
			e.Errorf("record %s was read %d times", text, got[text])
		}
		return true
	})
	if len(got) != all {
		e.Errorf("%d records were read, of %d", len(got), all)
	}
	stop()
	following.Wait()
	e.comes(fmt.Sprint(all, " records for a member"), func() bool { return m.owns(0, 1) && len(m.has[0].got)+len(m.has[1].got) >= all }, m)
	m.is(0, textsOf(j.all(0, 0, 1000))...)
	m.is(1, textsOf(j.all(1, 0, 1000))...)
}
