package drivertest

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

func numberChecks() []check {
	return []check{
		{"numbers/sums", nil, sums},
		{"numbers/not-a-number", nil, notNumbers},
		{"numbers/out-of-range", nil, outOfRange},
		{"numbers/expiry-stays", needsTTL, addKeepsExpiry},
		{"numbers/concurrent", nil, concurrentAdds},
	}
}

func sums(e *env) {
	s := e.store()
	for i, c := range []struct {
		value string // "-" is an absent key
		delta int64
		want  int64
	}{
		{"absent", 0, 0},
		{"absent", 5, 5},
		{"absent", -5, -5},
		{"absent", math.MaxInt64, math.MaxInt64},
		{"absent", math.MinInt64, math.MinInt64},
		{"0", 1, 1},
		{"-0", 1, 1},
		{"0042", 1, 43},
		{"-007", 7, 0},
		{"0000000000000000001", 1, 2},
		{"9223372036854775806", 1, math.MaxInt64},
		{"-9223372036854775807", -1, math.MinInt64},
		{"9223372036854775807", 0, math.MaxInt64},
		{"-9223372036854775808", 0, math.MinInt64},
		{"9223372036854775807", math.MinInt64, -1},
		{"-9223372036854775808", math.MaxInt64, -1},
		{"9007199254740993", 2, 9007199254740995}, // beyond what a double can hold
		{"-1", 1, 0},
	} {
		key := fmt.Sprint("n", i)
		if c.value != "absent" {
			s.put(key, c.value)
		}
		r := s.add(key, c.delta)
		if r.Number != c.want {
			e.Errorf("%s + %d: got %d, want %d", c.value, c.delta, r.Number, c.want)
		}
		if got := s.is(key, strconv.FormatInt(c.want, 10)); got.Version != r.Version {
			e.Errorf("%s + %d: answered version %q, get has %q", c.value, c.delta, r.Version, got.Version)
		}
	}
}

// unchanged checks that adding fails for a reason and leaves everything as it
// is.
func (s *store) unchanged(value string, delta int64, reason errs.Reason) {
	s.Helper()
	s.putFor("n", value, time.Hour)
	before := s.is("n", value)
	r := s.do(driver.Op{Kind: driver.Add, Key: "n", Delta: delta})
	s.wants(fmt.Sprintf("add %d to %s", delta, brief(value)), r.Err, reason)
	if after := s.is("n", value); !sameEntry(before, after) {
		s.Errorf("add %d to %s: failed, and yet changed version or expiry", delta, brief(value))
	}
}

func notNumbers(e *env) {
	s := e.store()
	for _, value := range []string{
		"", "-", "--1", "+1", " 1", "1 ", "1\n", "1\x00", "\x00", "1.0", "1e3", "0x10", "1_000", "1,000", "x", "NaN", "Inf", "null", "true",
		"١", "１", "−1", "00000000000000000001", "-00000000000000000001", strings.Repeat("9", 20), strings.Repeat("1", 1000), "1-", "- 1", "\xff", "0b1", "0o7",
	} {
		s.unchanged(value, 1, errs.NotANumber)
		s.unchanged(value, 0, errs.NotANumber)
	}
}

func outOfRange(e *env) {
	s := e.store()
	for _, c := range []struct {
		value string
		delta int64
	}{
		{"9223372036854775807", 1},
		{"-9223372036854775808", -1},
		{"9223372036854775807", math.MaxInt64},
		{"-9223372036854775808", math.MinInt64},
		{"1", math.MaxInt64},
		{"-1", math.MinInt64},
		{"9223372036854775808", 0},
		{"9223372036854775808", -1},
		{"9999999999999999999", -1},
		{"-9223372036854775809", 1},
		{"-9999999999999999999", 1},
	} {
		s.unchanged(c.value, c.delta, errs.OutOfRange)
	}
}

func addKeepsExpiry(e *env) {
	s := e.store()
	s.putFor("n", "1", time.Hour)
	before := s.is("n", "1")
	r := s.add("n", 1)
	if r.Expires.UnixMilli() != before.Expires.UnixMilli() {
		e.Errorf("add answers expiry %s, want %s as before", r.Expires, before.Expires)
	}
	if after := s.is("n", "2"); after.Expires.UnixMilli() != before.Expires.UnixMilli() {
		e.Errorf("add changed the expiry from %s to %s", before.Expires, after.Expires)
	}
	s.put("n", "5")
	if r := s.add("n", 1); !r.Expires.IsZero() {
		e.Errorf("add on a key without expiry answers %s", r.Expires)
	}
	s.putFor("short", "100", brieflyTTL)
	s.await("expiry", func() bool { return s.getMany("short")[0].Err != nil })
	if r := s.add("short", 1); r.Number != 1 || !r.Expires.IsZero() {
		e.Errorf("add on an expired key: %+v, want 1 without expiry", r)
	}
	if got := s.is("short", "1"); !got.Expires.IsZero() {
		e.Errorf("add on an expired key leaves the expiry %s", got.Expires)
	}
}

// concurrentAdds checks that no addition is lost and none is answered twice.
func concurrentAdds(e *env) {
	one := e.store()
	stores := []*store{one, one.again(e.open())}
	const workers, rounds = 8, 50
	var mu sync.Mutex
	seen := map[int64]bool{}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for range rounds {
				r := stores[w%2].do(driver.Op{Kind: driver.Add, Key: "n", Delta: 1})
				mu.Lock()
				if r.Err != nil || seen[r.Number] {
					e.Errorf("add: %+v, or that number twice", r)
				}
				seen[r.Number] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	one.is("n", fmt.Sprint(workers*rounds))
}
