package main

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestPercentiles(t *testing.T) {
	t.Parallel()
	took := make([]time.Duration, 1000)
	for i := range took {
		took[i] = time.Duration(1000-i) * time.Microsecond
	}
	if p50, p99 := percentiles(took); p50 != 501*time.Microsecond || p99 != 991*time.Microsecond {
		t.Errorf("p50 %v, p99 %v", p50, p99)
	}
	if p50, p99 := percentiles(nil); p50 != 0 || p99 != 0 {
		t.Errorf("of nothing: %v, %v", p50, p99)
	}
	if p50, p99 := percentiles([]time.Duration{7}); p50 != 7 || p99 != 7 {
		t.Errorf("of one: %v, %v", p50, p99)
	}
}

func TestMedian(t *testing.T) {
	t.Parallel()
	nan := math.NaN()
	for _, c := range []struct {
		of   []float64
		want float64
	}{{[]float64{3, 1, 2}, 2}, {[]float64{4, 1}, 2.5}, {[]float64{nan, 5, nan}, 5}, {nil, nan}, {[]float64{nan}, nan}} {
		in := slices.Clone(c.of)
		if got := median(c.of); got != c.want && !(math.IsNaN(got) && math.IsNaN(c.want)) {
			t.Errorf("median of %v is %v, not %v", c.of, got, c.want)
		}
		if len(in) > 0 && !math.IsNaN(in[0]) && in[0] != c.of[0] {
			t.Errorf("median changed what it was given")
		}
	}
}

// TestRatiosArePaired has a machine that is ten times as slow in the second
// round: the ratio must not see it.
func TestRatiosArePaired(t *testing.T) {
	t.Parallel()
	a := []sample{{rate: 90}, {rate: 9}, {rate: 900}}
	b := []sample{{rate: 100}, {rate: 10}, {rate: 1000}, {rate: 1}}
	if got := ratioOf(a, b, rateOf); math.Abs(got-0.9) > 1e-9 {
		t.Errorf("%v", got)
	}
	if got := ratioOf([]sample{{cpu: unknownCPU}}, []sample{{cpu: 1000}}, cpuOf); !math.IsNaN(got) {
		t.Errorf("a ratio of what is not known is %v", got)
	}
}

// TestOpenLoopOmitsNothing has a server that stalls once: every call that was
// due meanwhile is late, not only the few that were under way.
func TestOpenLoopOmitsNothing(t *testing.T) {
	t.Parallel()
	const stall, window = 200 * time.Millisecond, 400 * time.Millisecond
	var until atomic.Int64
	var calls atomic.Int64
	do := func(int, int) error {
		if calls.Add(1) == 40 {
			until.Store(time.Now().Add(stall).UnixNano())
		}
		time.Sleep(time.Until(time.Unix(0, until.Load())))
		return nil
	}
	s, err := openLoop(t.Context(), new(contender), do, 1000, 0, window)
	if err != nil {
		t.Fatal(err)
	}
	if s.ops < 380 || s.ops > 420 {
		t.Errorf("%d calls in %v at 1,000 a second", s.ops, window)
	}
	if s.p99 < stall*3/4 {
		t.Errorf("p99 is %v although everything stalled for %v", s.p99, stall)
	}
}

func TestClosedLoop(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	var highest atomic.Int64
	do := func(caller, n int) error {
		calls.Add(1)
		if int64(n) > highest.Load() {
			highest.Store(int64(n))
		}
		time.Sleep(time.Millisecond)
		return nil
	}
	s, err := closedLoop(t.Context(), &contender{span: 10}, do, 4, 20*time.Millisecond, 100*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if s.ops == 0 || int64(s.ops) >= calls.Load() {
		t.Errorf("%d of %d calls count: those of the warm-up must not", s.ops, calls.Load())
	}
	if s.p50 < time.Millisecond {
		t.Errorf("p50 %v of calls that take a millisecond", s.p50)
	}
	if highest.Load() > 9 {
		t.Errorf("a call with n = %d, of a span of 10", highest.Load())
	}
	if s.cpu != unknownCPU || !math.IsNaN(s.allocs) {
		t.Errorf("CPU %v and allocations %v of no process", s.cpu, s.allocs)
	}
}

// TestFailuresAreNotMeasured has calls that fail: no figure may come of them.
func TestFailuresAreNotMeasured(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	bad := &contender{name: "bad", open: func(context.Context, workload) (session, error) {
		return session{func(int, int) error { return broken }, func() {}}, nil
	}}
	good := &contender{name: "good", open: func(context.Context, workload) (session, error) {
		return session{func(int, int) error { return nil }, func() {}}, nil
	}}
	c := &contest{family: "test", work: workload{retrieve, 128, 2}, contenders: []*contender{good, bad}}
	c.run(t.Context(), &options{rounds: 2, window: 50 * time.Millisecond}, make(fillers), func(string) {})
	if c.find("good") == nil || c.find("bad") != nil {
		t.Error("what failed competes, or what did not fail does not")
	}
	r := newReport(&plan{contests: []*contest{c}})
	if len(r.Rows) != 1 || len(r.Missing) != 1 || !strings.Contains(r.Missing[0], "broken") {
		t.Errorf("rows %v, missing %q", r.Rows, r.Missing)
	}
}

func TestCPUTime(t *testing.T) {
	t.Parallel()
	b := &bench{dir: t.TempDir()}
	p, err := b.startEcho(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer p.stop()
	before, err := cpuTime(p.pid())
	if errors.Is(err, errors.ErrUnsupported) {
		return // not here; nothing promises it
	}
	if err != nil || before <= 0 {
		t.Fatalf("%v, %v", before, err)
	}
	for range 10 {
		if _, err := p.mallocs(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	after, err := cpuTime(p.pid())
	if err != nil || after <= before || after-before > time.Second {
		t.Errorf("ten requests took %v of CPU, %v", after-before, err)
	}
	if p.reading < 0 || p.reading > 10_000 {
		t.Errorf("reading the allocations allocates %v objects", p.reading)
	}
}
