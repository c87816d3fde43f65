package keyvalue

import (
	"context"
	"sync/atomic"
	"time"
)

// A term is the context of batches whose operations are due at about the same
// time. It ends when the last of them is due, or up to an eighth of its time
// later: clients are answered in time by tick, and the term bounds how long
// the backend is kept busy for them. A context with a timer for each batch
// costs as much as a batch of reads from memory.
type term struct {
	context.Context //nolint:containedctx // a term is a context

	end    time.Time
	cancel context.CancelFunc
	users  atomic.Int32 // batches, and one while it is the stream's latest
}

// term returns the one for a batch; leave must follow. Who begins operations
// calls it.
func (p *pipe) term(ops []*operation) *term {
	var last time.Time
	for _, o := range ops {
		if o.due.After(last) {
			last = o.due
		}
	}
	slack := time.Until(last) / 8
	if t := p.lately; t != nil {
		if early := t.end.Sub(last); early >= 0 && early <= slack {
			t.users.Add(1)
			return t
		}
		t.leave()
	}
	t := &term{end: last.Add(max(slack, 0))}
	t.Context, t.cancel = context.WithDeadline(p.ctx, t.end)
	t.users.Store(2)
	p.lately = t
	return t
}

// leave gives a term up.
func (t *term) leave() {
	if t.users.Add(-1) == 0 {
		t.cancel()
	}
}
