package wrap

import (
	"context"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// A Limiter bounds how many calls a backend has at once, so that a slow one
// does not gather all that Prism has. All spaces of a backend share one.
type Limiter struct {
	places chan struct{}
}

// NewLimiter returns a limiter for n calls at once.
func NewLimiter(n int) *Limiter { return &Limiter{places: make(chan struct{}, n)} }

// KV returns kv behind the limiter. Calls over the limit wait until there is a
// place or their context ends.
func (l *Limiter) KV(kv driver.KV) driver.KV { return &guarded{kv, l.guard()} }

// PubSub is KV for a PubSub. A subscription that stands takes no place.
func (l *Limiter) PubSub(ps driver.PubSub) driver.PubSub { return &guardedPubSub{ps, l.guard()} }

// Log is KV for a Log. Members take no place.
func (l *Limiter) Log(log driver.Log) driver.Log { return &guardedLog{log, l.guard()} }

// Queue is KV for a Queue. A Receive that waits takes no place.
func (l *Limiter) Queue(q driver.Queue) driver.Queue { return &guardedQueue{q, l.guard()} }

func (l *Limiter) guard() guard {
	leave := func(error) { <-l.places }
	return guard{severe: func(error) bool { return false }, enter: func(ctx context.Context) (func(error), error) {
		return leave, l.enter(ctx)
	}}
}

func (l *Limiter) enter(ctx context.Context) error {
	select {
	case l.places <- struct{}{}:
		return nil
	default:
	}
	select {
	case l.places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return errs.Wrap(ctx.Err(), errs.Overloaded, "the backend has %d calls in flight and none ended in time", cap(l.places))
	}
}
