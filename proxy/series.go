package proxy

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"

	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

// Series whose labels come from documents go when nothing is left that could
// count in them: namespaces and backends come and go, and a proxy runs for
// months.

// patternName says which pattern of which namespace.
type patternName struct{ namespace, pattern string }

// counters are the counters of one pattern of one namespace. They are made
// when they first count, so that ten thousand idle namespaces cost little, and
// lie together, so that a call to one of them finds its own soon. Whoever
// counts holds them, or a configuration that does.
type counters struct {
	patternName
	metrics *metrics
	holders int                          // guarded by metrics.mu
	rows    []atomic.Pointer[counterRow] // by method and transport
	events  []atomic.Uint64              // as in kinds
}

// counterRow counts by gRPC code.
type counterRow [codesCount]atomic.Uint64

// hold returns the counters of a pattern; drop must follow.
func (m *metrics) hold(namespace, pattern string) *counters {
	name := patternName{namespace, pattern}
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.patterns[name]
	if c == nil {
		c = &counters{patternName: name, metrics: m, rows: make([]atomic.Pointer[counterRow], len(m.methods)*int(transports)), events: make([]atomic.Uint64, len(m.events))}
		m.patterns[name] = c
	}
	c.holders++
	return c
}

// hold keeps counters that are held already; drop must follow.
func (c *counters) hold() {
	c.metrics.mu.Lock()
	defer c.metrics.mu.Unlock()
	c.holders++
}

// drop gives counters back. With the last holder their series go.
func (c *counters) drop() {
	c.metrics.mu.Lock()
	defer c.metrics.mu.Unlock()
	if c.holders--; c.holders > 0 {
		return
	}
	delete(c.metrics.patterns, c.patternName)
}

// labels are those of one cell.
func (c *counters) labels(row, code int) []string {
	m, via := c.metrics.methods[row/int(transports)], transport(row%int(transports))
	return []string{c.namespace, c.pattern, m.name, via.String(), codes.Code(code).String()}
}

func (c *counters) add(m *method, via transport, code int) {
	i := m.index*int(transports) + int(via)
	row := c.rows[i].Load()
	if row == nil {
		c.rows[i].CompareAndSwap(nil, new(counterRow))
		row = c.rows[i].Load()
	}
	row[code].Add(1)
}

// eventsFrom returns what adds to the events from one on.
func (c *counters) eventsFrom(first int) func(i int, n uint64) {
	return func(i int, n uint64) { c.events[first+i].Add(n) }
}

// requests collects the counters of all namespaces.
type requests struct{ metrics *metrics }

var _ prometheus.Collector = (*requests)(nil)

var requestsDesc = prometheus.NewDesc("prism_requests_total",
	"Operations served, by gRPC code. Those that reached no namespace have empty labels.",
	[]string{"namespace", "pattern", "method", "transport", "code"}, nil)

// Describe implements prometheus.Collector.
func (r *requests) Describe(to chan<- *prometheus.Desc) {
	to <- requestsDesc
	for _, e := range r.metrics.events {
		to <- e.desc
	}
}

// Collect implements prometheus.Collector.
func (r *requests) Collect(to chan<- prometheus.Metric) {
	r.metrics.mu.Lock()
	all := slices.Collect(maps.Values(r.metrics.patterns))
	r.metrics.mu.Unlock()
	for _, c := range all {
		c.collect(to)
	}
}

func (c *counters) collect(to chan<- prometheus.Metric) {
	for i, e := range c.metrics.events {
		if n := c.events[i].Load(); n > 0 {
			to <- prometheus.MustNewConstMetric(e.desc, prometheus.CounterValue, float64(n), c.namespace, c.pattern)
		}
	}
	for i := range c.rows {
		row := c.rows[i].Load()
		if row == nil {
			continue
		}
		for code := range row {
			if n := row[code].Load(); n > 0 {
				to <- prometheus.MustNewConstMetric(requestsDesc, prometheus.CounterValue, float64(n), c.labels(i, code)...)
			}
		}
	}
}

// backendSeries are the metrics of all backends of one name; there are several
// while a reload changes one.
type backendSeries struct {
	metrics *metrics
	name    string
	holders int                   // guarded by metrics.mu
	seconds map[string]*durations // by operation; never changed

	mu   sync.Mutex // guards gone, and the making of series
	gone bool       // calls that outlast their backend count nowhere
}

// holdBackend returns the metrics of a backend; drop must follow.
func (m *metrics) holdBackend(name string) *backendSeries {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.backends[name]
	if s == nil {
		s = &backendSeries{metrics: m, name: name, seconds: make(map[string]*durations)}
		for _, op := range wrap.Methods() {
			s.seconds[op] = m.calls.with(name, op)
		}
		m.backends[name] = s
	}
	s.holders++
	return s
}

// drop gives the metrics back. The last to do so deletes their series.
func (s *backendSeries) drop() {
	s.metrics.mu.Lock()
	defer s.metrics.mu.Unlock()
	if s.holders--; s.holders > 0 {
		return
	}
	delete(s.metrics.backends, s.name)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = true
	label := prometheus.Labels{"backend": s.name}
	s.metrics.calls.remove(s.name)
	s.metrics.failures.DeletePartialMatch(label)
	s.metrics.bytes.DeletePartialMatch(label)
	s.metrics.breakers.DeletePartialMatch(label)
}

// breaker takes note of a circuit that opened or closed.
func (s *backendSeries) breaker(open bool) {
	v := 0.0
	if open {
		v = 1
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.gone {
		s.metrics.breakers.WithLabelValues(s.name).Set(v)
	}
}

func (s *backendSeries) failed(operation string, reason errs.Reason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.gone {
		s.metrics.failures.WithLabelValues(s.name, operation, reason.String()).Inc()
	}
}

// backendObserver takes note of the calls to one backend.
type backendObserver struct {
	*backendSeries
	log *slog.Logger
}

var _ wrap.BlobObserver = (*backendObserver)(nil)

// Transferred implements wrap.BlobObserver.
func (b *backendObserver) Transferred(operation string, bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.gone {
		b.metrics.bytes.WithLabelValues(b.name, operation).Add(float64(bytes))
	}
}

// Observe implements wrap.Observer.
func (b *backendObserver) Observe(ctx context.Context, operation string, _ int, began time.Time, failures []error) {
	traceBackend(ctx, b.name, operation, began, failures)
	b.seconds[operation].observe(time.Since(began))
	for _, err := range failures {
		reason := errs.ReasonOf(err)
		if reason == errs.Internal {
			b.log.LogAttrs(ctx, slog.LevelError, "backend failed", slog.String("backend", b.name), slog.String("operation", operation), slog.Any("error", err))
		}
		b.failed(operation, reason)
	}
}
