package postgres

import (
	"container/list"
	"context"
	"sync"
)

// A lane carries jobs of one space in flights. While max flights are under
// way, jobs queue up; a flight takes all that waits when it has its
// connection. Nothing waits on a timer.
type lane[J any] struct {
	max    int                           // flights at once
	weight int                           // of a flight, beyond which it takes no further job
	fly    func(take func() []*order[J]) // one flight; finishes every order it takes

	mu      sync.Mutex // guards the fields below, and order.place
	waiting list.List  // of *order[J]
	flights int
}

// An order is a job on its way. The flight owns the job until done is closed;
// a caller that leaves before never looks at it again.
type order[J any] struct {
	job    J
	weight int
	place  *list.Element // nil once a flight has it
	done   chan struct{}
}

// do carries out a job. It returns false if the context ended first; the job
// may still be carried out, unless it had not left yet.
func (l *lane[J]) do(ctx context.Context, job J, weight int) bool {
	o := &order[J]{job: job, weight: weight, done: make(chan struct{})}
	l.mu.Lock()
	o.place = l.waiting.PushBack(o)
	start := l.flights < l.max
	if start {
		l.flights++
	}
	l.mu.Unlock()
	if start {
		go l.run()
	}
	select {
	case <-o.done:
		return true
	case <-ctx.Done():
		return l.leave(o)
	}
}

// leave takes an order back if no flight has it. It reports whether the job
// was done all the same.
func (l *lane[J]) leave(o *order[J]) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if o.place != nil {
		l.waiting.Remove(o.place)
		o.place = nil
		return false
	}
	select {
	case <-o.done:
		return true
	default:
		return false
	}
}

func (l *lane[J]) run() {
	for {
		l.fly(l.take)
		l.mu.Lock()
		if l.waiting.Len() == 0 {
			l.flights--
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
	}
}

// take returns the orders of the next flight.
func (l *lane[J]) take() []*order[J] {
	l.mu.Lock()
	defer l.mu.Unlock()
	orders := make([]*order[J], 0, min(l.waiting.Len(), l.weight))
	for sum := 0; l.waiting.Len() > 0 && sum < l.weight; {
		o, _ := l.waiting.Remove(l.waiting.Front()).(*order[J])
		o.place = nil
		sum += o.weight
		orders = append(orders, o)
	}
	return orders
}
