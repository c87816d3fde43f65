package memory

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"
	"weak"

	"github.com/prismgw/prism/driver"
)

// A fixture is a topic whose clock stands still.
type fixture struct {
	*testing.T
	*topic
	time time.Time
}

func newFixture(t *testing.T, spec driver.TopicSpec) *fixture {
	t.Helper()
	f := &fixture{T: t, time: time.Unix(1_700_000_000, 0)}
	f.topic = newTopic(spec, func() time.Time { return f.time })
	return f
}

// put appends a record with an ID to each of these partitions, in one call.
func (f *fixture) put(id string, partitions ...int) []driver.AppendResult {
	f.Helper()
	records, results := make([]driver.Record, len(partitions)), make([]driver.AppendResult, len(partitions))
	for i, partition := range partitions {
		records[i] = driver.Record{Partition: partition, ID: id, Value: make([]byte, 100)}
	}
	f.append(records, results, 1000)
	for _, r := range results {
		if r.Err != nil {
			f.Fatal(r.Err)
		}
	}
	return results
}

// stands fails the test unless the partitions begin and end there.
func (f *fixture) stands(when string, want ...driver.Position) {
	f.Helper()
	for i, s := range f.stat("") {
		if s.First != want[2*i] || s.End != want[2*i+1] {
			f.Errorf("%s: partition %d has %d to %d, not %d to %d", when, i, s.First, s.End, want[2*i], want[2*i+1])
		}
	}
}

func TestRing(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 1))
	var r ring[int]
	first, end := 0, 0
	for range 200 {
		for range random.IntN(300) {
			r.push(end)
			end++
		}
		for range min(random.IntN(400), end-first) {
			if v := r.pop(); v != first {
				t.Fatalf("%d came, not %d", v, first)
			}
			first++
		}
		if r.len() != end-first {
			t.Fatalf("%d values, not %d", r.len(), end-first)
		}
		for i := range r.len() {
			if r.at(i) != first+i {
				t.Fatalf("%d at %d, not %d", r.at(i), i, first+i)
			}
		}
		if room := len(r.buf); room > leastRing && room > 4*r.len() {
			t.Fatalf("room of %d for %d values", room, r.len())
		}
	}
}

func TestOldRecordsGo(t *testing.T) {
	t.Parallel()
	f := newFixture(t, driver.TopicSpec{Partitions: 2, MaxAge: time.Minute})
	f.put("", 0, 0, 1)
	f.time = f.time.Add(time.Minute)
	f.put("", 0)
	f.sweep()
	f.stands("before they may", 1, 4, 1, 2)
	f.time = f.time.Add(time.Nanosecond)
	f.put("", 0)
	f.stands("lazily, where something is appended", 3, 5, 1, 2)
	f.sweep()
	f.stands("swept", 3, 5, 2, 2)
	f.time = f.time.Add(-time.Hour)
	f.put("", 0)
	f.sweep()
	if times := f.read(0, 1, 10, 0, payload).records; times[2].Time.Before(times[1].Time) {
		t.Error("the times of a partition go back with the clock")
	}
}

func TestOldestRecordsGoWhenThereAreTooManyBytes(t *testing.T) {
	t.Parallel()
	const fit = 16
	one := &driver.Stored{Record: driver.Record{Value: make([]byte, 100)}}
	f := newFixture(t, driver.TopicSpec{Partitions: 3, MaxBytes: fit * sizeOf(one)})
	for i := range fit {
		f.time = f.time.Add(time.Second)
		f.put("", i%2)
	}
	f.sweep()
	f.stands("what fits", 1, 9, 1, 9, 1, 1)
	f.time = f.time.Add(time.Second)
	f.put("", 2)
	f.sweep()
	f.stands("one too many", 2, 9, 1, 9, 1, 2)
	for range 1000 {
		f.time = f.time.Add(time.Second)
		f.put("", 2)
		if most := f.spec.MaxBytes * 9 / 8; f.bytes > most {
			t.Fatalf("%d bytes without a sweep, over %d", f.bytes, most)
		}
	}
	f.sweep()
	f.stands("many", 9, 9, 9, 9, 1002-fit, 1002)
}

func TestConsumedRecordsGo(t *testing.T) {
	t.Parallel()
	f := newFixture(t, driver.TopicSpec{Partitions: 1, UntilConsumed: true})
	f.put("", 0, 0, 0, 0)
	f.sweep()
	f.stands("without a group", 1, 5)
	a, b := f.know("a", driver.Start{}), f.know("b", driver.Start{})
	a.rows[0].checkpoint.Next = 5
	f.sweep()
	f.stands("with a group that has committed nothing", 1, 5)
	b.rows[0].checkpoint.Next = 3
	f.sweep()
	f.stands("committed by all", 3, 5)
	b.rows[0].checkpoint.Next = 100
	a.rows[0].checkpoint.Next = 100
	f.sweep()
	f.stands("committed past the end", 5, 5)
	if f.bytes != 0 {
		t.Errorf("%d bytes of nothing", f.bytes)
	}
}

func TestIDsAreRememberedForTheirTime(t *testing.T) {
	t.Parallel()
	f := newFixture(t, driver.TopicSpec{Partitions: 1, Dedup: time.Minute})
	f.put("a", 0)
	f.time = f.time.Add(time.Minute - 1)
	if r := f.put("a", 0)[0]; !r.Duplicate || r.Position != 1 {
		t.Errorf("within its time: %+v", r)
	}
	f.time = f.time.Add(1)
	if r := f.put("a", 0)[0]; r.Duplicate || r.Position != 2 {
		t.Errorf("after its time: %+v", r)
	}
	for i := range 20_000 {
		f.put(fmt.Sprint(i), 0)
		f.time = f.time.Add(time.Second)
	}
	if ids := &f.partitions[0].ids; len(ids.at) > 61 || len(ids.order.buf) > 4*64 {
		t.Errorf("%d IDs, room for %d", len(ids.at), len(ids.order.buf))
	}
	all := &f.partitions[0].ids
	for i := range 20_000 { // at once
		f.put(fmt.Sprint("x", i), 0)
	}
	f.time = f.time.Add(time.Minute)
	for i := range 3 {
		f.put(fmt.Sprint("y", i), 0)
	}
	if all.room > leastIDs {
		t.Errorf("room for %d IDs, where there are %d", all.room, len(all.at))
	}
	f.time = f.time.Add(time.Hour)
	f.sweep()
	if ids := &f.partitions[0].ids; ids.at != nil || ids.order.len() > 0 {
		t.Errorf("%d IDs after their time", len(ids.at))
	}
}

// TestDeletedRecordsAreFreed keeps one record of a call and deletes the other
// one.
func TestDeletedRecordsAreFreed(t *testing.T) {
	t.Parallel()
	f := newFixture(t, driver.TopicSpec{Partitions: 2})
	f.put("", 0, 1)
	kept := weak.Make(f.partitions[0].records.at(0))
	value := weak.Make(&kept.Value().Value[0])
	f.deleteFirst(&f.partitions[0])
	for range 10 {
		runtime.GC()
		if kept.Value() == nil && value.Value() == nil {
			break
		}
	}
	if kept.Value() != nil || value.Value() != nil {
		t.Error("a record that was deleted is kept by its neighbour")
	}
	runtime.KeepAlive(f)
}
