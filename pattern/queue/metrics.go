package queue

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/pattern"
)

// maxMeters is how many queues of a namespace are measured by name. Those that
// come later are counted together, under the name "*".
const maxMeters = 200

// How often the backend is asked what is in the queues. If it needs long to
// answer it is asked less often, so that it never spends more than a tenth of
// the time on that.
const (
	sampleEvery = 15 * time.Second
	sampleShare = 10
	sampleTime  = 2 * time.Second // for one queue
)

var labels = []string{"queue"}

// metrics are what Measure tells, in this order.
var metrics = []pattern.Metric{
	{Name: "prism_queue_waiting_tasks", Help: "Tasks that can be received now, as this proxy saw it last.", Labels: labels},
	{Name: "prism_queue_delayed_tasks", Help: "Tasks that can be received later, as this proxy saw it last.", Labels: labels},
	{Name: "prism_queue_leased_tasks", Help: "Tasks in somebody's hands, as this proxy saw it last.", Labels: labels},
	{Name: "prism_queue_oldest_waiting_seconds", Help: "Age of the oldest task that can be received; 0 if there is none.", Labels: labels},
	{Name: "prism_queue_dead_letter_tasks", Help: "Tasks in the queue's dead letters, as this proxy saw it last.", Labels: labels},
	{Name: "prism_queue_delivered_tasks_total", Help: "Tasks handed out.", Labels: labels, Counter: true},
	{Name: "prism_queue_redelivered_tasks_total", Help: "Tasks handed out that had been before.", Labels: labels, Counter: true},
	{Name: "prism_queue_dead_letters_total", Help: "Tasks moved to the dead letters.", Labels: labels, Counter: true},
}

// gauges is how many of the metrics are sampled; the others are counted.
const gauges = 5

// A meter measures one queue.
type meter struct {
	delivered, redelivered, dead atomic.Int64

	mu     sync.Mutex // guards what follows
	sample driver.QueueStat
	buried int64
	known  bool // there has been a sample
}

func (m *meter) handedOut(all []driver.Leased) {
	again := 0
	for i := range all {
		if all[i].Attempt > 1 {
			again++
		}
	}
	m.delivered.Add(int64(len(all)))
	m.redelivered.Add(int64(again))
}

// meters measure the queues of a namespace that this proxy was asked for.
type meters struct {
	driver driver.Queue
	life   context.Context //nolint:containedctx // that of the pattern
	begin  sync.Once
	done   sync.WaitGroup

	mu  sync.Mutex // guards what follows
	all map[string]*meter
}

func newMeters(life context.Context, d driver.Queue) *meters {
	return &meters{driver: d, life: life, all: make(map[string]*meter)}
}

// of returns the meter of a queue.
func (m *meters) of(name string) *meter {
	m.mu.Lock()
	defer m.mu.Unlock()
	one := m.all[name]
	if one == nil && len(m.all) >= maxMeters {
		name = anyName
		one = m.all[name]
	}
	if one == nil {
		one = new(meter)
		m.all[name] = one
		if m.life.Err() == nil {
			m.begin.Do(func() { m.done.Go(m.run) })
		}
	}
	return one
}

func (m *meters) wait() {
	m.begin.Do(func() {}) // none begins any more
	m.done.Wait()
}

// run samples until the life ends.
func (m *meters) run() {
	for {
		began := time.Now()
		m.mu.Lock()
		all := maps.Clone(m.all)
		m.mu.Unlock()
		for name, one := range all {
			if name != anyName {
				m.sample(name, one)
			}
		}
		select {
		case <-m.life.Done():
			return
		case <-time.After(max(sampleEvery, sampleShare*time.Since(began))):
		}
	}
}

func (m *meters) sample(name string, one *meter) {
	ctx, cancel := context.WithTimeout(m.life, sampleTime)
	defer cancel()
	s, err := m.driver.Stat(ctx, name)
	if err != nil {
		return
	}
	dead, err := m.driver.Stat(ctx, name+deadSuffix)
	if err != nil {
		return
	}
	one.mu.Lock()
	defer one.mu.Unlock()
	one.sample, one.buried, one.known = s, dead.Ready+dead.Delayed+dead.Leased, true
}

// Measure implements pattern.Measurer.
func (q *queues) Measure(tell func(i int, value float64, labels ...string)) {
	q.meters.mu.Lock()
	all := maps.Clone(q.meters.all)
	q.meters.mu.Unlock()
	for name, one := range all {
		for i, n := range []int64{one.delivered.Load(), one.redelivered.Load(), one.dead.Load()} {
			tell(gauges+i, float64(n), name)
		}
		for i, value := range one.gauges(q.now()) {
			tell(i, value, name)
		}
	}
}

// gauges are the values of the first metrics, none if there was no sample.
func (m *meter) gauges(now time.Time) []float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.known {
		return nil
	}
	oldest := 0.0
	if !m.sample.Oldest.IsZero() {
		oldest = max(0, now.Sub(m.sample.Oldest).Seconds())
	}
	return []float64{float64(m.sample.Ready), float64(m.sample.Delayed), float64(m.sample.Leased), oldest, float64(m.buried)}
}
