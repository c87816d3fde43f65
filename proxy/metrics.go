package proxy

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

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
	seconds  []*durations // by method
	streams  *prometheus.GaugeVec
	reloads  *prometheus.CounterVec
	calls    *histogram
	failures *prometheus.CounterVec
	breakers *prometheus.GaugeVec
	bytes    *prometheus.CounterVec
	nowhere  *counters // requests that reached no namespace
	methods  []*method // by index
	events   []event

	mu       sync.Mutex // guards the fields below, and who holds what is in them
	patterns map[patternName]*counters
	backends map[string]*backendSeries
}

func newMetrics(k *kinds) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
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
	m.bytes = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "prism_backend_transferred_bytes_total", Help: "Bytes of objects that were put into a backend or read from it.",
	}, []string{"backend", "operation"})
	seconds := newHistogram("prism_request_duration_seconds", "Time from the arrival of an operation to its answer.",
		[2]string{"kind", "method"})
	m.patterns, m.backends = map[patternName]*counters{}, map[string]*backendSeries{}
	m.seconds, m.methods, m.events = make([]*durations, k.count), make([]*method, k.count), k.events
	for i, methods := range k.methods {
		for _, md := range methods {
			m.methods[md.index] = md
			m.seconds[md.index] = seconds.with(k.all[i].Name, md.name)
		}
	}
	m.registry.MustRegister(&requests{m}, seconds, m.streams, m.reloads, m.calls, m.failures, m.breakers, m.bytes,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.nowhere = m.hold("", "")
	return m
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

// open counts a stream in (1) or out (-1).
func (m *metrics) open(md *method, by float64) { m.streams.WithLabelValues(md.name).Add(by) }
