package proxy

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"google.golang.org/grpc/codes"

	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

// transport is how an operation came.
type transport uint8

const (
	overGRPC transport = iota
	overHTTP
	overPipeline
	transports
)

func (t transport) String() string { return [...]string{"grpc", "http", "pipeline"}[t] }

// codesCount is one more than the largest gRPC code.
const codesCount = 17

// metrics are the proxy's own. Labels are bounded by the configuration: what a
// client makes up never becomes one.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  []*durations // by method
	streams  *prometheus.GaugeVec
	reloads  *prometheus.CounterVec
	calls    *histogram
	failures *prometheus.CounterVec
	breakers *prometheus.GaugeVec
	nowhere  *counters // requests that reached no namespace
}

func newMetrics(k *kinds) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "prism_requests_total", Help: "Operations served, by gRPC code. Those that reached no namespace have empty labels.",
		}, []string{"namespace", "pattern", "method", "transport", "code"}),
		streams: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "prism_streams_open", Help: "Streams that are open.",
		}, []string{"method"}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "prism_configuration_loads_total", Help: "Configurations loaded, by result.",
		}, []string{"result"}),
		calls: newHistogram("prism_backend_operation_duration_seconds", "Time of one call to a backend; a batch is one.",
			[2]string{"backend", "operation"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "prism_backend_failures_total", Help: "Operations that failed because of the backend, by reason.",
		}, []string{"backend", "operation", "reason"}),
		breakers: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "prism_backend_circuit_open", Help: "1 while the backend is given a rest.",
		}, []string{"backend"}),
	}
	seconds := newHistogram("prism_request_duration_seconds", "Time from the arrival of an operation to its answer.",
		[2]string{"kind", "method"})
	m.seconds = make([]*durations, k.count)
	for i, methods := range k.methods {
		for _, md := range methods {
			m.seconds[md.index] = seconds.with(k.all[i].Name, md.name)
		}
	}
	m.registry.MustRegister(m.requests, seconds, m.streams, m.reloads, m.calls, m.failures, m.breakers,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.nowhere = m.counters("", "", k.count)
	return m
}

// counters are the counters of one pattern of one namespace. They are made
// when they first count, so that ten thousand idle namespaces cost little.
type counters struct {
	namespace, pattern string
	vec                *prometheus.CounterVec
	rows               []atomic.Pointer[counterRow] // by method and transport
}

type counterRow [codesCount]atomic.Pointer[prometheus.Counter]

func (m *metrics) counters(namespace, pattern string, methods int) *counters {
	return &counters{namespace: namespace, pattern: pattern, vec: m.requests, rows: make([]atomic.Pointer[counterRow], methods*int(transports))}
}

// count takes note of one operation's end; t is nil if it reached no namespace.
func (m *metrics) count(t *target, md *method, via transport, start time.Time, err error) {
	c := m.nowhere
	if t != nil {
		c = t.counters
	}
	code := 0
	if err != nil {
		code = int(errs.ReasonOf(err).Code())
	}
	c.add(md, via, code)
	m.seconds[md.index].observe(time.Since(start))
}

func (c *counters) add(m *method, via transport, code int) {
	slot := &c.rows[m.index*int(transports)+int(via)]
	row := slot.Load()
	if row == nil {
		slot.CompareAndSwap(nil, new(counterRow))
		row = slot.Load()
	}
	cell := row[code].Load()
	if cell == nil {
		made := c.vec.WithLabelValues(c.namespace, c.pattern, m.name, via.String(), codes.Code(code).String())
		cell = &made
		row[code].Store(cell)
	}
	(*cell).Inc()
}

// open counts a stream in (1) or out (-1).
func (m *metrics) open(md *method, by float64) { m.streams.WithLabelValues(md.name).Add(by) }

// breaker takes note of a circuit that opened or closed.
func (m *metrics) breaker(backend string, open bool) {
	v := 0.0
	if open {
		v = 1
	}
	m.breakers.WithLabelValues(backend).Set(v)
}

// backendMetrics are those of the calls to one backend.
type backendMetrics struct {
	metrics *metrics
	name    string
	log     *slog.Logger
	seconds map[string]*durations // by operation; never changed
}

var _ wrap.Observer = (*backendMetrics)(nil)

func (m *metrics) backend(name string, log *slog.Logger) *backendMetrics {
	b := &backendMetrics{metrics: m, name: name, log: log, seconds: make(map[string]*durations)}
	for _, op := range []string{"get", "get_many", "apply", "scan"} {
		b.seconds[op] = m.calls.with(name, op)
	}
	return b
}

// Observe implements wrap.Observer.
func (b *backendMetrics) Observe(ctx context.Context, operation string, _ int, began time.Time, failures []error) {
	traceBackend(ctx, b.name, operation, began, failures)
	b.seconds[operation].observe(time.Since(began))
	for _, err := range failures {
		if errs.ReasonOf(err) == errs.Internal {
			b.log.LogAttrs(ctx, slog.LevelError, "backend failed", slog.String("backend", b.name), slog.String("operation", operation), slog.Any("error", err))
		}
		b.metrics.failures.WithLabelValues(b.name, operation, errs.ReasonOf(err).String()).Inc()
	}
}
