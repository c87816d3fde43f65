package drivertest

import (
	"bytes"
	"slices"
	"strings"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// store is one space with the short forms that checks are written in. Its
// methods fail the check when something is not as they say.
type store struct {
	*env
	kv      driver.KV
	watcher driver.Watcher
	space   driver.Space
}

// again returns the same space through another connection.
func (s *store) again(conn driver.Conn) *store {
	s.Helper()
	return s.storeOn(conn, s.space)
}

// do carries out one operation.
func (s *store) do(op driver.Op) driver.Result {
	return s.apply(op)[0]
}

// apply carries out a batch. The results begin with what was never there, so
// that one that is left out shows.
func (s *store) apply(ops ...driver.Op) []driver.Result {
	results := make([]driver.Result, len(ops))
	for i := range results {
		results[i] = driver.Result{Version: "left-over", Number: -77, Repeated: true, Err: errs.Internal}
	}
	s.kv.Apply(s.ctx, ops, results)
	return results
}

// ok carries out an operation that has to succeed.
func (s *store) ok(op driver.Op) driver.Result {
	s.Helper()
	r := s.do(op)
	if r.Err != nil {
		s.Fatalf("%s: %s", opText(op), describe(r.Err))
	}
	return r
}

// fails carries out an operation that has to fail for a reason.
func (s *store) fails(op driver.Op, reason errs.Reason) {
	s.Helper()
	_ = s.failure(op, reason)
}

// failure is fails for those who look at the error.
func (s *store) failure(op driver.Op, reason errs.Reason) *errs.Error {
	s.Helper()
	r := s.do(op)
	if !s.wants(opText(op), r.Err, reason) {
		s.FailNow()
	}
	return errs.From(r.Err)
}

func (s *store) put(key, value string) driver.Result {
	s.Helper()
	return s.ok(driver.Op{Kind: driver.Put, Key: key, Value: []byte(value)})
}

// putFor puts with a time to live, where there is such a thing.
func (s *store) putFor(key, value string, ttl time.Duration) driver.Result {
	s.Helper()
	return s.ok(driver.Op{Kind: driver.Put, Key: key, Value: []byte(value), TTL: s.ttl(ttl)})
}

func (s *store) delete(key string) {
	s.Helper()
	s.ok(driver.Op{Kind: driver.Delete, Key: key})
}

func (s *store) add(key string, delta int64) driver.Result {
	s.Helper()
	return s.ok(driver.Op{Kind: driver.Add, Key: key, Delta: delta})
}

// expire sets a time to live. Where there is no such thing it makes another
// change, which leaves the value as it is too.
func (s *store) expire(key string, ttl time.Duration) driver.Result {
	s.Helper()
	if s.g.TTL {
		return s.ok(driver.Op{Kind: driver.Expire, Key: key, TTL: ttl})
	}
	return s.ok(driver.Op{Kind: driver.Put, Key: key, Value: s.getMany(key)[0].Value})
}

// is checks that key has a value, and returns its entry.
func (s *store) is(key, value string) driver.Entry {
	s.Helper()
	e, err := s.kv.Get(s.ctx, key, driver.WithExpiry)
	if err != nil {
		s.Fatalf("get %s: %s", brief(key), describe(err))
	}
	if string(e.Value) != value {
		s.Fatalf("get %s: got %s, want %s", brief(key), brief(string(e.Value)), brief(value))
	}
	return e
}

func (s *store) absent(key string) {
	s.Helper()
	if _, err := s.kv.Get(s.ctx, key, driver.WithExpiry); !s.wants("get "+brief(key), err, errs.KeyNotFound) {
		s.FailNow()
	}
}

func (s *store) getMany(keys ...string) []driver.GetResult {
	results := make([]driver.GetResult, len(keys))
	for i := range results {
		results[i] = driver.GetResult{Entry: driver.Entry{Value: []byte("left over"), Version: "left-over"}, Err: errs.Internal}
	}
	s.kv.GetMany(s.ctx, keys, driver.WithExpiry, results)
	return results
}

// page scans one page that has to succeed and to keep its limits.
func (s *store) page(r driver.ScanRequest) driver.Page {
	s.Helper()
	p, err := s.kv.Scan(s.ctx, r)
	if err != nil {
		s.Fatalf("scan %s: %s", brief(r.Prefix), describe(err))
	}
	s.checkPage(&r, &p)
	return p
}

// all scans to the end in pages of a size.
func (s *store) all(prefix string, limit int) []driver.Item {
	s.Helper()
	return s.allOf(driver.ScanRequest{Prefix: prefix, Limit: limit})
}

func (s *store) allOf(r driver.ScanRequest) (items []driver.Item) {
	s.Helper()
	for {
		p := s.page(r)
		items = append(items, p.Items...)
		if p.Next == nil {
			return items
		}
		if s.ctx.Err() != nil {
			s.Fatalf("scan %s: it does not end", brief(r.Prefix))
		}
		r.Cursor = p.Next
	}
}

// holds checks that a scan of prefix finds these keys and no others.
func (s *store) holds(prefix string, limit int, want ...string) {
	s.Helper()
	s.sameKeys("scan "+brief(prefix), keysOf(s.all(prefix, limit)), want)
}

// sameKeys compares what a scan found, each key once and in order where that
// is promised, with what there is.
func (s *store) sameKeys(what string, found, want []string) {
	s.Helper()
	if s.g.OrderedScan && !slices.IsSorted(found) {
		s.Errorf("%s: not in the order of the keys' bytes", what)
	}
	got := slices.Sorted(slices.Values(found))
	if s.g.OrderedScan && len(slices.Compact(slices.Clone(got))) != len(got) {
		s.Errorf("%s: a key came twice", what)
	}
	got = slices.Compact(got)
	if want = slices.Sorted(slices.Values(want)); !slices.Equal(got, want) {
		s.Errorf("%s: got %d keys, want %d; not found %s, not expected %s", what, len(got), len(want),
			briefAll(without(want, got)), briefAll(without(got, want)))
	}
}

func keysOf(items []driver.Item) []string {
	keys := make([]string, len(items))
	for i, item := range items {
		keys[i] = item.Key
	}
	return keys
}

func without(all, some []string) (rest []string) {
	for _, key := range all {
		if !slices.Contains(some, key) {
			rest = append(rest, key)
		}
	}
	return rest
}

func sameEntry(a, b driver.Entry) bool {
	return bytes.Equal(a.Value, b.Value) && a.Version == b.Version &&
		a.Expires.UnixMilli() == b.Expires.UnixMilli()
}

func opText(op driver.Op) string {
	kind := [...]string{"no kind", "put", "delete", "add", "expire"}[min(int(op.Kind), 4)]
	text := kind + " " + brief(op.Key)
	if op.IfVersion != "" {
		text += " if version " + op.IfVersion
	}
	if op.IfAbsent {
		text += " if absent"
	}
	return text
}

// brief quotes text, cut to a readable length.
func brief(text string) string {
	const most = 60
	if len(text) > most {
		return quote(text[:most]) + "…"
	}
	return quote(text)
}

func briefAll(texts []string) string {
	const most = 5
	var b strings.Builder
	for i, text := range texts {
		if i == most {
			return b.String() + "…"
		}
		b.WriteString(brief(text) + " ")
	}
	return "[" + strings.TrimSpace(b.String()) + "]"
}
