package kvtest

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// A Load adds to counters until it is checked, and bears a backend that goes
// and comes back.
type Load struct {
	t            testing.TB
	stop         context.CancelFunc
	acked, tried [8]int64
	all          sync.WaitGroup
	total        atomic.Int64
}

// NewLoad begins to add.
func NewLoad(t testing.TB, kv driver.KV) *Load {
	t.Helper()
	l := &Load{t: t}
	ctx, stop := context.WithCancel(t.Context())
	l.stop = stop
	for i := range l.acked {
		l.all.Go(func() {
			for ctx.Err() == nil {
				l.add(kv, i)
			}
		})
	}
	t.Cleanup(func() { stop(); l.all.Wait() })
	return l
}

func counter(i int) string { return string(rune('a' + i)) }

func (l *Load) add(kv driver.KV, i int) {
	l.tried[i]++
	r := Apply(l.t.Context(), kv, driver.Op{Kind: driver.Add, Key: counter(i), Delta: 1})
	switch errs.ReasonOf(r.Err) {
	case errs.Unknown:
		l.acked[i]++
		l.total.Add(1)
	case errs.BackendUnavailable:
		l.tried[i]-- // was not sent
	case errs.OutcomeUnknown:
	default:
		l.t.Errorf("add: %v", r.Err)
	}
}

// Progress waits for more than n further additions.
func (l *Load) Progress(n int64) {
	l.t.Helper()
	before := l.total.Load()
	Await(l.t, "progress", func() bool { return l.total.Load() > before+n })
}

// Check ends the load and checks that what was acknowledged is there, and no
// more than was tried.
func (l *Load) Check(kv driver.KV) {
	l.t.Helper()
	l.stop()
	l.all.Wait()
	for i := range l.acked {
		r := Apply(l.t.Context(), kv, driver.Op{Kind: driver.Add, Key: counter(i)})
		if r.Err != nil || r.Number < l.acked[i] || r.Number > l.tried[i] {
			l.t.Errorf("counter %d: %d, %v; %d acknowledged, %d may have happened", i, r.Number, r.Err, l.acked[i], l.tried[i])
		}
	}
}
