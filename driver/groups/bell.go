package groups

import (
	"context"
	"sync"
)

// A Bell tells those who wait that something has happened. It counts, so that
// whoever notes the count before looking misses nothing. The zero Bell has not
// been rung.
type Bell struct {
	mu    sync.Mutex // guards what follows
	count uint64
	rung  chan struct{} // closed by the next ring; nil: nobody waits
}

// Ring wakes all who wait. It never blocks.
func (b *Bell) Ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.count++
	if b.rung != nil {
		close(b.rung)
		b.rung = nil
	}
}

// Count is how often the bell was rung.
func (b *Bell) Count() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.count
}

// After returns a channel that is closed once the count is another one.
func (b *Bell) After(count uint64) <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.count != count {
		return closed
	}
	if b.rung == nil {
		b.rung = make(chan struct{})
	}
	return b.rung
}

// Wait waits until the count is another one, or for the end of ctx.
func (b *Bell) Wait(ctx context.Context, count uint64) error {
	select {
	case <-b.After(count):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

var closed = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()
