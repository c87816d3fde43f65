package proxy

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/prismgw/prism/pattern"
)

// measures collects what the instances of the current configuration measure of
// themselves.
type measures struct {
	proxy *Proxy
	descs [][]*prometheus.Desc // by kind, as in its Metrics
}

var _ prometheus.Collector = (*measures)(nil)

func newMeasures(p *Proxy) *measures {
	m := &measures{proxy: p}
	for i := range p.kinds.all {
		var descs []*prometheus.Desc
		for _, one := range p.kinds.all[i].Metrics {
			descs = append(descs, prometheus.NewDesc(one.Name, one.Help, append([]string{"namespace", "pattern"}, one.Labels...), nil))
		}
		m.descs = append(m.descs, descs)
	}
	return m
}

// Describe implements prometheus.Collector.
func (m *measures) Describe(to chan<- *prometheus.Desc) {
	for _, descs := range m.descs {
		for _, d := range descs {
			to <- d
		}
	}
}

// Collect implements prometheus.Collector.
func (m *measures) Collect(to chan<- prometheus.Metric) {
	s := m.proxy.current()
	defer s.release()
	for _, t := range s.namespaces {
		for kind, all := range t.kinds {
			for _, one := range all {
				if measurer, ok := one.instance.(pattern.Measurer); ok {
					m.collect(to, kind, one, measurer)
				}
			}
		}
	}
}

func (m *measures) collect(to chan<- prometheus.Metric, kind int, t *target, from pattern.Measurer) {
	from.Measure(func(i int, value float64, labels ...string) {
		as := prometheus.GaugeValue
		if m.proxy.kinds.all[kind].Metrics[i].Counter {
			as = prometheus.CounterValue
		}
		labels = append([]string{t.counters.namespace, t.name}, labels...)
		to <- prometheus.MustNewConstMetric(m.descs[kind][i], as, value, labels...)
	})
}
