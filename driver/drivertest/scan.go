package drivertest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

func scanChecks() []check {
	return []check{
		{"scan/prefixes", nil, scanPrefixes},
		{"scan/page-limits", nil, pageLimits},
		{"scan/page-bytes", nil, pageBytes},
		{"scan/keys-only", nil, keysOnly},
		{"scan/entries", nil, scanEntries},
		{"scan/leaves-out-expired", needsTTL, scanLeavesOutExpired},
		{"scan/many-keys", nil, scanManyKeys},
		{"scan/while-keys-come-and-go", nil, scanDuringChanges},
		{"scan/while-it-deletes", nil, scanAndDelete},
	}
}

// mostNext is how long a cursor may be.
const mostNext = driver.MaxKey + 64

// checkPage checks what holds for every page.
func (s *store) checkPage(r *driver.ScanRequest, p *driver.Page) {
	s.Helper()
	if len(p.Items) > r.Limit {
		s.Errorf("scan %s: %d items, at most %d asked for", brief(r.Prefix), len(p.Items), r.Limit)
	}
	if p.Next != nil && len(p.Next) == 0 {
		s.Errorf("scan %s: Next is neither nil nor something", brief(r.Prefix))
	}
	size := 0
	for i, item := range p.Items {
		if r.MaxBytes > 0 && size >= r.MaxBytes {
			s.Errorf("scan %s: item %d follows %d bytes, at most %d asked for", brief(r.Prefix), i, size, r.MaxBytes)
		}
		size += len(item.Key) + len(item.Value)
		if !strings.HasPrefix(item.Key, r.Prefix) {
			s.Errorf("scan %s: finds %s", brief(r.Prefix), brief(item.Key))
		}
		if r.KeysOnly && (len(item.Value) > 0 || item.Version != "" || !item.Expires.IsZero()) {
			s.Errorf("scan of keys %s: %s is more than a key", brief(r.Prefix), brief(item.Key))
		}
	}
	if len(p.Next) > mostNext {
		s.Errorf("scan %s: Next has %d bytes, at most %d are allowed", brief(r.Prefix), len(p.Next), mostNext)
	}
}

// scanPrefixes scans hostile keys by each of their beginnings.
func scanPrefixes(e *env) {
	s := e.store()
	keys := hostileKeys()
	for _, key := range keys {
		s.put(key, "1")
	}
	prefixes := map[string]bool{"": true, "nothing begins so": true, "a%%": true, "A%": true}
	for _, key := range keys {
		runes := []rune(key)
		for n := range min(len(runes), 6) {
			prefixes[string(runes[:n])] = true
		}
		prefixes[key] = true
		prefixes[string(runes[:len(runes)-1])] = true
	}
	for prefix := range prefixes {
		s.holds(prefix, 9, withPrefix(keys, prefix)...)
	}
}

func withPrefix(keys []string, prefix string) (found []string) {
	for _, key := range keys {
		if strings.HasPrefix(key, prefix) {
			found = append(found, key)
		}
	}
	return found
}

func pageLimits(e *env) {
	s := e.store()
	s.holds("", 1)
	var keys []string
	for i := range 30 {
		keys = append(keys, fmt.Sprintf("k%02d", i))
		s.put(keys[i], "value")
		s.put(fmt.Sprintf("l%02d", i), "another")
	}
	for _, limit := range []int{1, 2, 3, 7, 29, 30, 31, 59, 60, 61, 1000, 1 << 30} {
		s.holds("k", limit, keys...)
	}
	s.holds("k07", 1, "k07")
	s.holds("k1", 4, keys[10:20]...)
	s.holds("m", 1)
}

func pageBytes(e *env) {
	s := e.store()
	var keys []string
	for i := range 40 {
		keys = append(keys, fmt.Sprintf("k%02d", i))
		s.put(keys[i], strings.Repeat("v", i*10))
	}
	s.put("k40", strings.Repeat("v", min(100_000, e.g.MaxValue)))
	keys = append(keys, "k40")
	for _, size := range []int{1, 2, 3, 4, 50, 400, 1000, 99_999, 1 << 20} {
		found := keysOf(s.allOf(driver.ScanRequest{Prefix: "k", Limit: 1000, MaxBytes: size}))
		s.sameKeys(fmt.Sprintf("scan in pages of %d bytes", size), found, keys)
		found = keysOf(s.allOf(driver.ScanRequest{Prefix: "k", Limit: 3, MaxBytes: size}))
		s.sameKeys(fmt.Sprintf("scan in pages of 3 items and %d bytes", size), found, keys)
	}
}

func keysOnly(e *env) {
	s := e.store()
	s.put("a", "1")
	s.put("b", "")
	s.putFor("c", "3", time.Hour)
	s.add("d", 1)
	for _, limit := range []int{1, 3, 100} {
		found := keysOf(s.allOf(driver.ScanRequest{Limit: limit, KeysOnly: true}))
		s.sameKeys("scan of keys", found, []string{"a", "b", "c", "d"})
	}
	found := keysOf(s.allOf(driver.ScanRequest{Limit: 100, MaxBytes: 2, KeysOnly: true}))
	s.sameKeys("scan of keys in pages of 2 bytes", found, []string{"a", "b", "c", "d"})
}

// scanEntries checks that a scan tells of each key what get tells.
func scanEntries(e *env) {
	s := e.store()
	s.put("a", "")
	s.put("b", "value")
	s.putFor("c", string(e.noise(1000)), time.Hour)
	s.add("d", 5)
	s.put("e", "x")
	s.expire("e", time.Minute)
	for _, item := range s.all("", 2) {
		got, err := s.kv.Get(e.ctx, item.Key, driver.WithExpiry)
		if err != nil || !sameEntry(got, item.Entry) {
			e.Errorf("%s: scan tells %+v, get %+v, %v", item.Key, item.Entry, got, err)
		}
	}
}

func scanLeavesOutExpired(e *env) {
	s := e.store()
	var stay []string
	for i := range 60 {
		key := fmt.Sprintf("k%02d", i)
		if i%3 == 0 {
			s.put(key, "stays")
			stay = append(stay, key)
		} else {
			s.putFor(key, "goes", brieflyTTL)
		}
	}
	s.await("expiry", func() bool { return s.getMany("k59")[0].Err != nil })
	for _, limit := range []int{1, 4, 1000} {
		s.holds("", limit, stay...)
		s.sameKeys("scan of keys", keysOf(s.allOf(driver.ScanRequest{Limit: limit, KeysOnly: true})), stay)
	}
}

func scanManyKeys(e *env) {
	s := e.store()
	const n = 3000
	var keys []string
	var ops []driver.Op
	for i := range n {
		keys = append(keys, fmt.Sprintf("k%d", i*7919%n)) // not in order, of different lengths
		ops = append(ops, driver.Op{Kind: driver.Put, Key: keys[i], Value: []byte(keys[i])})
	}
	for chunk := range slices.Chunk(ops, 500) {
		for _, r := range s.apply(chunk...) {
			if r.Err != nil {
				e.Fatalf("put: %s", describe(r.Err))
			}
		}
	}
	for _, limit := range []int{100, 1000, 10_000} {
		items := s.all("", limit)
		s.sameKeys("scan", keysOf(items), keys)
		for _, item := range items {
			if string(item.Value) != item.Key {
				e.Fatalf("scan: key %s has the value of %s", item.Key, item.Value)
			}
		}
	}
}

// scanDuringChanges scans while other keys are put and deleted: those that are
// there all the time are found.
func scanDuringChanges(e *env) {
	s := e.store()
	const steady = 150
	stay, valid := map[string]bool{}, map[string]bool{}
	for i := range steady {
		key := fmt.Sprintf("k%04d", i*10)
		s.put(key, "stays")
		stay[key], valid[key] = true, true
		for j := 1; j < 10; j++ {
			valid[fmt.Sprintf("k%04d", i*10+j)] = true
		}
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	for w := range 3 {
		wg.Go(func() {
			for i := w; !stop.Load() && e.ctx.Err() == nil; i += 7 {
				key := fmt.Sprintf("k%04d", i%steady*10+1+i/steady%9)
				s.do(driver.Op{Kind: driver.Put, Key: key})
				s.do(driver.Op{Kind: driver.Put, Key: fmt.Sprintf("k%04d", i%steady*10), Value: []byte("stays")})
				s.do(driver.Op{Kind: driver.Delete, Key: key})
			}
		})
	}
	defer wg.Wait()
	defer stop.Store(true)
	for round := range 12 {
		s.scanOnce([]int{1, 5, 17, 1000}[round%4], stay, valid)
	}
}

func (s *store) scanOnce(limit int, stay, valid map[string]bool) {
	s.Helper()
	missing := maps.Clone(stay)
	for _, key := range keysOf(s.all("", limit)) {
		if !valid[key] {
			s.Errorf("scan during changes: finds %s, which was never put", brief(key))
		}
		if stay[key] && !missing[key] && s.g.OrderedScan {
			s.Errorf("scan during changes: %s came twice", key)
		}
		delete(missing, key)
	}
	if len(missing) > 0 {
		s.Errorf("scan during changes in pages of %d: %d keys that were there all the time are not found: %s",
			limit, len(missing), briefAll(slices.Sorted(maps.Keys(missing))))
	}
}

// scanAndDelete deletes what each page brought before it asks for the next.
func scanAndDelete(e *env) {
	s := e.store()
	for i := range 200 {
		s.put(fmt.Sprintf("k%03d", i), "1")
	}
	r := driver.ScanRequest{Limit: 13, KeysOnly: true}
	found := map[string]bool{}
	for {
		p := s.page(r)
		for _, item := range p.Items {
			found[item.Key] = true
			s.delete(item.Key)
		}
		if p.Next == nil {
			break
		}
		r.Cursor = p.Next
	}
	if len(found) != 200 {
		e.Errorf("scan that deletes: %d keys found, want 200", len(found))
	}
	s.holds("", 100)
}

func cursorChecks() []check {
	return []check{
		{"cursor/outlives-its-connection", nil, cursorOutlivesConnection},
		{"cursor/wrong-ones", nil, wrongCursors},
		{"cursor/of-another-prefix", nil, cursorOfAnotherPrefix},
	}
}

func cursorOutlivesConnection(e *env) {
	space := e.space()
	s := e.storeOn(e.open(), space)
	var keys []string
	for i := range 50 {
		keys = append(keys, fmt.Sprintf("k%02d", i))
		s.put(keys[i], "1")
	}
	r := driver.ScanRequest{Limit: 7}
	var found []string
	for {
		conn := e.open()
		p := e.storeOn(conn, space).page(r)
		found = append(found, keysOf(p.Items)...)
		if err := conn.Close(); err != nil {
			e.Fatalf("close: %v", err)
		}
		if p.Next == nil {
			break
		}
		r.Cursor = p.Next
	}
	s.sameKeys("scan, each page on a new connection", found, keys)
}

func wrongCursors(e *env) {
	s := e.store()
	for i := range 20 {
		s.put(fmt.Sprintf("k%02d", i), "1")
	}
	for _, cursor := range [][]byte{
		{0xff},
		[]byte(strings.Repeat("\xff", 16)), []byte(strings.Repeat("\xff", 5000)), []byte("no cursor"), []byte("0"),
		{0},
		make([]byte, 8),
		[]byte(`{"key":"k"}`), []byte("-1"), []byte("18446744073709551616"), []byte("'; drop table prism_kv; --"), noise(100),
	} {
		_, err := s.kv.Scan(e.ctx, driver.ScanRequest{Limit: 10, Cursor: cursor})
		e.wants(fmt.Sprintf("scan from cursor %s", brief(string(cursor))), err, errs.InvalidCursor)
	}
	s.put("k", "still works")
	if n := len(s.all("k", 10)); n != 21 {
		e.Errorf("scan after wrong cursors: %d keys, want 21", n)
	}
}

// cursorOfAnotherPrefix checks that such a cursor is refused or finds nothing
// that is not asked for: page checks the prefix of each key.
func cursorOfAnotherPrefix(e *env) {
	s := e.store()
	for i := range 20 {
		s.put(fmt.Sprintf("a%02d", i), "1")
		s.put(fmt.Sprintf("b%02d", i), "1")
	}
	for _, prefixes := range [][2]string{{"a", "b"}, {"b", "a"}, {"a", "a1"}, {"a", ""}} {
		p := s.page(driver.ScanRequest{Prefix: prefixes[0], Limit: 5})
		if p.Next == nil {
			e.Fatal("scan of twenty keys by five: no Next after the first page")
		}
		r := driver.ScanRequest{Prefix: prefixes[1], Limit: 50, Cursor: p.Next}
		_, err := s.kv.Scan(e.ctx, r)
		e.wants(fmt.Sprintf("scan of prefix %q from a cursor of prefix %q", prefixes[1], prefixes[0]), err, errs.InvalidCursor)
	}
}
