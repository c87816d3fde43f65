package drivertest

import (
	"bytes"
	"slices"
	"strings"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

func basicChecks() []check {
	return []check{
		{"basic/absent", nil, absentKeys},
		{"basic/put-and-delete", nil, putAndDelete},
		{"basic/values", nil, values},
		{"basic/largest-value", nil, largestValue},
		{"basic/hostile-keys", nil, hostileKeysMeetNobody},
		{"basic/every-connection-sees-it", nil, everyConnection},
		{"basic/only-what-is-wanted", nil, onlyWhatIsWanted},
		{"basic/no-shared-memory", nil, noSharedMemory},
		{"basic/answers", nil, answers},
		{"basic/unknown-kind", nil, unknownKind},
	}
}

func absentKeys(e *env) {
	s := e.store()
	s.absent("a")
	for _, r := range s.getMany("a", "b", "a") {
		e.wants("get many", r.Err, errs.KeyNotFound)
	}
	s.delete("a")
	s.absent("a")
	s.holds("", 10)
	s.put("a", "1")
	s.absent("b")
	s.absent("aa")
	s.absent("A")
}

func putAndDelete(e *env) {
	s := e.store()
	s.put("a", "1")
	s.put("b", "2")
	s.is("a", "1")
	s.put("a", "3")
	s.is("a", "3")
	s.is("b", "2")
	s.delete("a")
	s.absent("a")
	s.is("b", "2")
	s.delete("a")
	s.put("a", "4")
	s.is("a", "4")
	s.holds("", 10, "a", "b")
}

func values(e *env) {
	s := e.store()
	all := e.hostileValues()
	for name, value := range all {
		s.ok(driver.Op{Kind: driver.Put, Key: name, Value: value})
		s.is(name, string(value))
	}
	for name, value := range all {
		s.is(name, string(value))
		if r := s.getMany(name)[0]; r.Err != nil || !bytes.Equal(r.Value, value) {
			e.Errorf("get many: value %s is not what was put: %v", name, r.Err)
		}
	}
	for _, item := range s.all("", 100) {
		if want := all[item.Key]; !bytes.Equal(item.Value, want) {
			e.Errorf("scan: value %s is not what was put", item.Key)
		}
	}
}

// largestValue puts values of exactly MaxValue in each way there is, reads them
// in each way, and puts one byte more.
func largestValue(e *env) {
	s := e.store()
	largest := noise(e.g.MaxValue)
	absent := s.ok(driver.Op{Kind: driver.Put, Key: "max", Value: largest, IfAbsent: true})
	s.is("max", string(largest))
	if e.g.MaxValue > 0 { // other bytes, so that the version must change
		largest[0]++
	}
	changed := s.ok(driver.Op{Kind: driver.Put, Key: "max", Value: largest, IfVersion: absent.Version})
	before := s.is("max", string(largest))
	if before.Version != changed.Version {
		e.Errorf("get: version %s, want %s as put answered", before.Version, changed.Version)
	}
	s.ok(driver.Op{Kind: driver.Put, Key: "maxim", Value: largest})
	for _, r := range s.getMany("max", "maxim") {
		if r.Err != nil || !bytes.Equal(r.Value, largest) {
			e.Errorf("get many of the largest value: %d bytes, %v", len(r.Value), r.Err)
		}
	}
	for _, item := range s.all("max", 10) {
		if !bytes.Equal(item.Value, largest) {
			e.Errorf("scan of the largest value: %s has %d bytes", item.Key, len(item.Value))
		}
	}
	s.holds("max", 10, "max", "maxim")
	s.refusesLonger(largest, before.Version)
	s.delete("max")
}

// refusesLonger tries values of one byte too many beside others that fit; "max"
// holds the largest one under the given version.
func (s *store) refusesLonger(largest []byte, version string) {
	s.Helper()
	over := append(slices.Clone(largest), 'x')
	results := s.apply(
		driver.Op{Kind: driver.Put, Key: "before", Value: []byte("1")},
		driver.Op{Kind: driver.Put, Key: "max", Value: over},
		driver.Op{Kind: driver.Put, Key: "new", Value: over},
		driver.Op{Kind: driver.Put, Key: "conditional", Value: over, IfAbsent: true},
		driver.Op{Kind: driver.Put, Key: "max", Value: over, IfVersion: version},
		driver.Op{Kind: driver.Put, Key: "after", Value: []byte("1")},
	)
	for _, r := range results[1:5] {
		s.wants("put of a value that is one byte too long", r.Err, errs.PayloadTooLarge)
		if r.Err != nil && errs.From(r.Err).Meta["limit_of"] != "value" {
			s.Errorf("put of a value that is one byte too long: metadata %v does not say limit_of value", errs.From(r.Err).Meta)
		}
	}
	s.is("before", "1")
	s.is("after", "1")
	s.absent("new")
	s.absent("conditional")
	if after := s.is("max", string(largest)); after.Version != version {
		s.Error("a put that failed changed the version")
	}
}

// hostileKeysMeetNobody keeps all hostile keys at once, each with a value of
// its own.
func hostileKeysMeetNobody(e *env) {
	s := e.store()
	keys := hostileKeys()
	for _, key := range keys {
		s.absent(key)
		s.ok(driver.Op{Kind: driver.Put, Key: key, Value: []byte("value of " + key), IfAbsent: true})
	}
	for i, r := range s.getMany(keys...) {
		if r.Err != nil || string(r.Value) != "value of "+keys[i] {
			e.Errorf("get many %s: got %s, %v", brief(keys[i]), brief(string(r.Value)), r.Err)
		}
	}
	s.holds("", 7, keys...)
	for i, key := range keys {
		s.is(key, "value of "+key)
		s.delete(key)
		s.absent(key)
		if i%10 == 0 {
			s.holds("", 1000, keys[i+1:]...)
		}
	}
}

func everyConnection(e *env) {
	one := e.store()
	two := one.again(e.open())
	for i, value := range strings.Split("abcdefghij", "") {
		writer, reader := one, two
		if i%2 == 1 {
			writer, reader = two, one
		}
		r := writer.put("k", value)
		if got := reader.is("k", value); got.Version != r.Version {
			e.Errorf("get: version %s, want %s as put answered", got.Version, r.Version)
		}
		reader.ok(driver.Op{Kind: driver.Put, Key: "k", Value: []byte(value + "!"), IfVersion: r.Version})
		writer.is("k", value+"!")
		reader.add("n", 1)
		if r := writer.add("n", 1); r.Number != int64(2*i+2) {
			e.Errorf("add: got %d, want %d", r.Number, 2*i+2)
		}
		writer.delete("k")
		reader.absent("k")
		reader.holds("", 10, "n")
	}
}

// onlyWhatIsWanted reads one key with and without its expiry.
func onlyWhatIsWanted(e *env) {
	s := e.store()
	r := s.putFor("a", "1", time.Hour)
	for _, want := range []driver.Want{driver.ValueOnly, driver.WithExpiry} {
		got, err := s.kv.Get(e.ctx, "a", want)
		many := make([]driver.GetResult, 2)
		s.kv.GetMany(e.ctx, []string{"a", "b"}, want, many)
		if err != nil || string(got.Value) != "1" || got.Version != r.Version {
			e.Errorf("get that wants %d: %+v, %v, want version %s", want, got, err, r.Version)
		}
		if !sameEntry(got, many[0].Entry) || many[0].Err != nil {
			e.Errorf("that wants %d: get tells %+v, get many %+v", want, got, many[0])
		}
		e.wants("get many of an absent key", many[1].Err, errs.KeyNotFound)
		if told := !got.Expires.IsZero(); told != (want == driver.WithExpiry && e.g.TTL) {
			e.Errorf("get that wants %d: expires %s", want, got.Expires)
		}
	}
}

func noSharedMemory(e *env) {
	s := e.store()
	value := []byte("value")
	s.ok(driver.Op{Kind: driver.Put, Key: "a", Value: value})
	copy(value, "XXXXX")
	got := s.is("a", "value")
	copy(got.Value, "YYYYY")
	again := s.is("a", "value")
	if len(again.Value) > 0 && &again.Value[0] == &got.Value[0] {
		e.Error("two gets returned one slice")
	}
	s.noSharedResults()
	s.noSharedCursor()
}

// noSharedResults writes to what batches and scans returned, and to what they
// were given.
func (s *store) noSharedResults() {
	s.Helper()
	many := s.getMany("a", "a")
	copy(many[0].Value, "ZZZZZ")
	if string(many[1].Value) != "value" {
		s.Error("get many: two results share memory")
	}
	copy(s.all("a", 10)[0].Value, "ZZZZZ")
	s.is("a", "value")

	keys := []string{"a", "b"}
	results := make([]driver.GetResult, 2)
	s.kv.GetMany(s.ctx, keys, driver.WithExpiry, results)
	clear(keys)
	ops := []driver.Op{{Kind: driver.Put, Key: "c", Value: []byte("1")}, {Kind: driver.Put, Key: "d", Value: []byte("2")}}
	r := make([]driver.Result, 2)
	s.kv.Apply(s.ctx, ops, r)
	clear(ops[0].Value)
	clear(ops)
	s.is("c", "1")
	s.is("d", "2")
}

func (s *store) noSharedCursor() {
	s.Helper()
	first := s.page(driver.ScanRequest{Limit: 1})
	if first.Next == nil {
		s.Fatal("scan of three keys by one: no Next after the first page")
	}
	cursor := slices.Clone(first.Next)
	want := s.page(driver.ScanRequest{Limit: 1, Cursor: cursor})
	clear(cursor)
	again := s.page(driver.ScanRequest{Limit: 1, Cursor: first.Next})
	if !slices.Equal(keysOf(again.Items), keysOf(want.Items)) {
		s.Errorf("scan from one cursor twice: %q, then %q", keysOf(want.Items), keysOf(again.Items))
	}
}

// answers checks which fields of a result are set.
func answers(e *env) {
	s := e.store()
	put := s.put("a", "1")
	if put.Version == "" || put.Number != 0 || !put.Expires.IsZero() || put.Repeated {
		e.Errorf("put answers its version and nothing else: %+v", put)
	}
	add := s.add("a", 2)
	if add.Version == "" || add.Number != 3 || !add.Expires.IsZero() || add.Repeated {
		e.Errorf("add answers version and number: %+v", add)
	}
	if got := s.is("a", "3"); got.Version != add.Version || !got.Expires.IsZero() {
		e.Errorf("get after add: %+v, want version %s", got, add.Version)
	}
	if r := s.ok(driver.Op{Kind: driver.Delete, Key: "a"}); r != (driver.Result{}) {
		e.Errorf("delete answers nothing: %+v", r)
	}
}

func unknownKind(e *env) {
	s := e.store()
	before := s.put("a", "1")
	results := s.apply(
		driver.Op{Key: "a", Value: []byte("2")},
		driver.Op{Kind: driver.Expire + 1, Key: "a"},
		driver.Op{Kind: 255, Key: "b"},
		driver.Op{Kind: driver.Put, Key: "c"},
	)
	for _, r := range results[:3] {
		if r.Err == nil {
			e.Errorf("an operation of an unknown kind: no error")
		}
	}
	if got := s.is("a", "1"); got.Version != before.Version {
		e.Error("an operation of an unknown kind changed the version")
	}
	s.absent("b")
	s.is("c", "")
}
