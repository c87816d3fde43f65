package consumer

import (
	"context"
	"maps"
	"time"

	"github.com/prismgw/prism/pattern"
)

var groupLabels = []string{"topic", "group"}

// metrics are what Measure tells, in this order.
var metrics = []pattern.Metric{
	{Name: "prism_consumer_lag_messages", Help: "Messages of the partitions that this proxy owns which the group has not settled.", Labels: groupLabels},
	{Name: "prism_consumer_oldest_unacknowledged_seconds", Help: "Age of the oldest message of those partitions that has come and is not settled; 0 if there is none.", Labels: groupLabels},
	{Name: "prism_consumer_in_hand_messages", Help: "Messages that consumers have and have not settled.", Labels: groupLabels},
	{Name: "prism_consumer_paused", Help: "1 while the group has paused because most of its messages fail.", Labels: groupLabels},
	{Name: "prism_consumer_delivered_messages_total", Help: "Messages handed out.", Labels: groupLabels, Counter: true},
	{Name: "prism_consumer_redelivered_messages_total", Help: "Messages handed out that had been before.", Labels: groupLabels, Counter: true},
	{Name: "prism_consumer_acknowledged_messages_total", Help: "Messages that consumers have acknowledged.", Labels: groupLabels, Counter: true},
	{Name: "prism_consumer_dead_letters_total", Help: "Messages moved to the dead letters.", Labels: groupLabels, Counter: true},
	{Name: "prism_consumer_skipped_messages_total", Help: "Messages that retention deleted before the group had come so far, as far as the backend can count them.", Labels: groupLabels, Counter: true},
}

// Measure implements pattern.Measurer.
func (c *consumer) Measure(tell func(i int, value float64, labels ...string)) {
	c.mu.Lock()
	open, all := maps.Clone(c.open), maps.Clone(c.counts)
	c.mu.Unlock()
	for name, n := range all {
		for i, count := range []int64{n.delivered.Load(), n.redelivered.Load(), n.settled.Load(), n.dead.Load(), n.skipped.Load()} {
			tell(4+i, float64(count), name.topic, name.group)
		}
	}
	for name, m := range open {
		select {
		case <-m.joined:
		default:
			continue
		}
		if m.run != nil {
			for i, value := range m.run.gauges() {
				tell(i, value, name.topic, name.group)
			}
		}
	}
}

// gauges are the values of the first four metrics.
func (g *group) gauges() [4]float64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	var oldest time.Time
	for _, l := range g.owned {
		if at := l.oldest(); !at.IsZero() && (oldest.IsZero() || at.Before(oldest)) {
			oldest = at
		}
	}
	out := [4]float64{float64(g.waiting), 0, float64(g.hands), 0}
	if !oldest.IsZero() {
		out[1] = max(0, g.now().Sub(oldest).Seconds())
	}
	if g.health.paused() {
		out[3] = 1
	}
	return out
}

// countEvery is how often the backend is asked how much waits.
const countEvery = 15 * time.Second

// count keeps asking the backend how much waits in the partitions that are
// owned here.
func (g *group) count(ctx context.Context, name string) {
	t := time.NewTicker(countEvery)
	defer t.Stop()
	for {
		if stats, err := g.topic.Stat(ctx, name); err == nil {
			g.mu.Lock()
			g.waiting = 0
			for p := range stats {
				if g.owned[p] != nil {
					g.waiting += stats[p].Waiting
				}
			}
			g.mu.Unlock()
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}
