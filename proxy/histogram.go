package proxy

import (
	"maps"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// bounds are the upper bounds of a histogram's buckets.
var bounds = [...]time.Duration{
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 10 * time.Second,
}

// A histogram counts durations by two labels. It is the library's but for one
// thing: every core has counts of its own. A call that two cores count in one
// place waits for the other core's cache, which took half of the time that the
// proxy itself spends on a small call (docs/performance.md).
type histogram struct {
	desc *prometheus.Desc

	mu  sync.Mutex // guards all
	all map[[2]string]*durations
}

var _ prometheus.Collector = (*histogram)(nil)

func newHistogram(name, help string, labels [2]string) *histogram {
	return &histogram{desc: prometheus.NewDesc(name, help, labels[:], nil), all: make(map[[2]string]*durations)}
}

// with returns what counts for two values of the labels. Whoever observes
// often keeps it.
func (h *histogram) with(values ...string) *durations {
	key := [2]string(values)
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.all[key]
	if d == nil {
		d = &durations{lanes: make([]lane, laneCount)}
		h.all[key] = d
	}
	return d
}

// remove deletes the series whose first label has this value.
func (h *histogram) remove(value string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	maps.DeleteFunc(h.all, func(key [2]string, _ *durations) bool { return key[0] == value })
}

// Describe implements prometheus.Collector.
func (h *histogram) Describe(to chan<- *prometheus.Desc) { to <- h.desc }

// Collect implements prometheus.Collector.
func (h *histogram) Collect(to chan<- prometheus.Metric) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for values, d := range h.all {
		count, sum, buckets := d.total()
		to <- prometheus.MustNewConstHistogram(h.desc, count, sum, buckets, values[:]...)
	}
}

// durations are the counts of one series. They may be observed and read from
// several goroutines at once.
type durations struct {
	lanes []lane
}

// lane is one core's share.
type lane struct {
	sum    atomic.Int64 // nanoseconds
	counts [len(bounds) + 1]atomic.Uint64

	_ [64]byte // no two lanes meet in a cache line
}

func (d *durations) observe(took time.Duration) {
	i := 0
	for i < len(bounds) && took > bounds[i] {
		i++
	}
	number := lanes.Get().(*int) //nolint:errcheck,forcetypeassert // the pool holds nothing else
	l := &d.lanes[*number]
	l.counts[i].Add(1)
	l.sum.Add(int64(took))
	lanes.Put(number)
}

// total returns what a histogram of Prometheus consists of.
func (d *durations) total() (count uint64, seconds float64, buckets map[float64]uint64) {
	var sum time.Duration
	var counts [len(bounds) + 1]uint64
	for i := range d.lanes {
		l := &d.lanes[i]
		sum += time.Duration(l.sum.Load())
		for k := range counts {
			counts[k] += l.counts[k].Load()
		}
	}
	buckets = make(map[float64]uint64, len(bounds))
	for i, bound := range bounds {
		count += counts[i]
		buckets[bound.Seconds()] = count
	}
	return count + counts[len(bounds)], sum.Seconds(), buckets
}

// lanes gives a core the number of its lane: a pool prefers what the same core
// has put back. Should two cores get the same number, they only share a lane.
var lanes = sync.Pool{New: func() any { return &laneNumbers[laneNext.Add(1)%uint32(laneCount)] }}

var (
	laneCount   = min(runtime.GOMAXPROCS(0), 16)
	laneNext    atomic.Uint32
	laneNumbers = func() (numbers [16]int) {
		for i := range numbers {
			numbers[i] = i
		}
		return numbers
	}()
)
