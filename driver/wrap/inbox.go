package wrap

import (
	"context"
	"sync"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// messageCost is what a message that waits takes beside its bytes.
const messageCost = 64

// Inbox is a driver.Subscription that a technology fills: it holds messages
// until somebody takes them, and counts those for which there is no room.
type Inbox struct {
	room  int           // bytes
	ended func()        // called once, without locks
	wake  chan struct{} // of capacity 1: there may be something to take

	mu      sync.Mutex // guards what follows
	waiting []driver.Event
	taken   int   // of waiting
	size    int   // bytes of those that wait
	err     error // why it ended
}

var _ driver.Subscription = (*Inbox)(nil)

// NewInbox returns a subscription that holds so many bytes. ended is called
// when it ends, however that happens.
func NewInbox(buffer int, ended func()) *Inbox {
	if buffer <= 0 {
		buffer = driver.DefaultBuffer
	}
	return &Inbox{room: buffer, ended: ended, wake: make(chan struct{}, 1)}
}

// Tell says that a message has come. It never blocks. The payload is kept: it
// must be nobody else's to change.
func (b *Inbox) Tell(m driver.Message) {
	b.mu.Lock()
	switch size := b.size + cost(m); {
	case b.err != nil:
	case b.size > 0 && size > b.room:
		b.miss(1)
	default:
		b.waiting = append(b.waiting, driver.Event{Message: m})
		b.size = size
	}
	b.mu.Unlock()
	b.signal()
}

// Miss says that so many messages were missed, or driver.MissedUnknown.
func (b *Inbox) Miss(n int64) {
	b.mu.Lock()
	if b.err == nil {
		b.miss(n)
	}
	b.mu.Unlock()
	b.signal()
}

// miss adds to what was missed since the last message. Once that is unknown,
// it stays so.
func (b *Inbox) miss(n int64) {
	last := len(b.waiting) - 1
	switch {
	case last < b.taken || b.waiting[last].Missed == 0:
		b.waiting = append(b.waiting, driver.Event{Missed: n})
	case n == driver.MissedUnknown || b.waiting[last].Missed == driver.MissedUnknown:
		b.waiting[last].Missed = driver.MissedUnknown
	default:
		b.waiting[last].Missed += n
	}
}

func (b *Inbox) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// Next implements driver.Subscription.
func (b *Inbox) Next(ctx context.Context, events []driver.Event) (int, error) {
	for {
		if err := ctx.Err(); err != nil {
			return 0, errs.ReasonOf(err)
		}
		if n, err := b.take(events); n > 0 || err != nil {
			return n, err
		}
		select {
		case <-b.wake:
		case <-ctx.Done():
		}
	}
}

func (b *Inbox) take(events []driver.Event) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return 0, b.err
	}
	n := copy(events, b.waiting[b.taken:])
	for _, e := range events[:n] {
		if e.Missed == 0 {
			b.size -= cost(e.Message)
		}
	}
	clear(b.waiting[b.taken : b.taken+n])
	b.taken += n
	if b.taken > len(b.waiting)/2 { // each event is moved once, on average
		b.waiting = b.waiting[:copy(b.waiting, b.waiting[b.taken:])]
		b.taken = 0
	}
	return n, nil
}

func cost(m driver.Message) int { return len(m.Subject) + len(m.Payload) + messageCost }

// Close implements driver.Subscription.
func (b *Inbox) Close() error {
	b.End(errs.Cancelled)
	return nil
}

// End ends the subscription: Next answers reason from now on.
func (b *Inbox) End(reason error) {
	b.mu.Lock()
	first := b.err == nil
	if first {
		b.err, b.waiting, b.taken, b.size = reason, nil, 0, 0
	}
	b.mu.Unlock()
	if first {
		b.signal()
		b.ended()
	}
}
