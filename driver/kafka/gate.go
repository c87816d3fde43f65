package kafka

import (
	"context"
	"sync"
)

// gateBytes is how much may be on its way to the brokers.
const gateBytes = 64 << 20

// gate bounds the bytes of appends that are under way: brokers that do not
// answer must not fill the memory.
type gate struct {
	mu    sync.Mutex // guards what follows
	free  int
	queue []*waiter // in the order of arrival
}

type waiter struct {
	n     int
	ready chan struct{} // closed when it has got its room
}

// enter takes room for n bytes, waiting until the context or done ends.
func (g *gate) enter(ctx context.Context, done <-chan struct{}, n int) error {
	g.mu.Lock()
	if len(g.queue) == 0 && g.free >= n {
		g.free -= n
		g.mu.Unlock()
		return nil
	}
	w := &waiter{n: n, ready: make(chan struct{})}
	g.queue = append(g.queue, w)
	g.mu.Unlock()
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
		g.abandon(w)
		return ctx.Err()
	case <-done:
		g.abandon(w)
		return errClosed
	}
}

// abandon takes a waiter out; if it has just got room, that is given back.
func (g *gate) abandon(w *waiter) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, other := range g.queue {
		if other == w {
			g.queue = append(g.queue[:i], g.queue[i+1:]...)
			g.admit()
			return
		}
	}
	g.free += w.n
	g.admit()
}

func (g *gate) leave(n int) {
	g.mu.Lock()
	g.free += n
	g.admit()
	g.mu.Unlock()
}

// admit lets in whoever has room now. The lock is held.
func (g *gate) admit() {
	for len(g.queue) > 0 && g.free >= g.queue[0].n {
		w := g.queue[0]
		g.queue = g.queue[1:]
		g.free -= w.n
		close(w.ready)
	}
}
