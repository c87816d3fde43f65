package consumer

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// A hand is one handing out of a record.
type hand struct {
	receipt receipt
	stored  driver.Stored
	here    bool // stored is complete; else only its place
	attempt int
	first   time.Time
}

// A session is a consumer that says when it goes: what is in its hands then
// comes to others at once, and is not counted.
type session struct {
	hands map[*entry]struct{}
	gone  bool // it gets nothing any more
}

func newSession() *session { return &session{hands: make(map[*entry]struct{})} }

// A taker waits for messages.
type taker struct {
	messages int
	bytes    int // stop after the message that reaches so many; 0: no bound
	session  *session
	got      []hand
	served   chan struct{} // closed when it has got some, or never will
}

// take waits for messages and returns those that are there, at most so many. It
// returns none when the wait is over or nothing comes any more, which the error
// tells.
func (g *group) take(ctx context.Context, messages, bytes int, s *session) ([]hand, error) {
	t := &taker{messages: messages, bytes: bytes, session: s, served: make(chan struct{})}
	g.mu.Lock()
	if err := g.refusal(s); err != nil {
		g.mu.Unlock()
		return nil, err
	}
	place := g.takers.PushBack(t)
	g.moved()
	g.mu.Unlock()
	select {
	case <-t.served:
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.takers.Remove(place) // nothing happens if it has been served
	if len(t.got) > 0 {
		return t.got, nil
	}
	if err := g.refusal(s); err != nil {
		return nil, err
	}
	return nil, errs.ReasonOf(ctx.Err())
}

// refusal is why a session gets nothing, nil if it does.
func (g *group) refusal(s *session) error {
	switch {
	case g.ended != nil:
		return g.ended
	case g.closing:
		return errs.Draining
	case s != nil && s.gone:
		return errs.Cancelled
	}
	return nil
}

// handOut serves those who wait, in their order.
func (g *group) handOut() {
	if g.ended != nil || g.closing {
		for place := g.takers.Front(); place != nil; place = g.takers.Front() {
			close(g.takers.Remove(place).(*taker).served) //nolint:errcheck,forcetypeassert // nothing else is in it
		}
		return
	}
	for place := g.takers.Front(); place != nil; place = g.takers.Front() {
		t := place.Value.(*taker) //nolint:errcheck,forcetypeassert // nothing else is in it
		if t.session == nil || !t.session.gone {
			g.serve(t)
			if len(t.got) == 0 {
				return
			}
		}
		g.takers.Remove(place)
		close(t.served)
	}
}

// serve gives the taker what there is for it.
func (g *group) serve(t *taker) {
	now := g.now()
	for size := 0; len(t.got) < t.messages && (t.bytes == 0 || size < t.bytes); {
		e := g.pick(now)
		if e == nil {
			return
		}
		size += e.size
		t.got = append(t.got, g.hand(e, now, t.session))
	}
}

// pick takes the next entry from the queue that can be handed out.
func (g *group) pick(now time.Time) *entry {
	for g.ready.len() > 0 {
		e := g.ready.at(0)
		stays := !e.ledger.lost && !e.ledger.leaving && e.state == waiting
		if stays && !g.health.may(now) {
			return nil
		}
		g.ready.popFront()
		e.queued = false
		if stays {
			return e
		}
	}
	return nil
}

func (g *group) hand(e *entry, now time.Time, s *session) hand {
	if e.first.IsZero() {
		e.first = now
	}
	g.counts.delivered.Add(1)
	if e.turn > 0 {
		g.counts.redelivered.Add(1)
	}
	e.turn++
	e.state, e.due = inHand, now.Add(g.policy.ackWait)
	e.ledger.hands++
	g.hands++
	g.timers.set(e)
	if s != nil {
		e.session = s
		s.hands[e] = struct{}{}
	}
	h := hand{
		receipt: receipt{e.ledger.partition, e.ledger.nonce, e.at(), e.turn},
		stored:  e.stored, here: e.here, attempt: e.failures + 1, first: e.first,
	}
	e.forget()
	g.flow(e.ledger)
	return h
}

// busy reports whether somebody has something in hand.
func (g *group) busy() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.hands > 0
}

// leave returns what a session has in hand, as if it had never been handed out.
func (g *group) leave(s *session) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s.gone = true
	back := make([]*entry, 0, len(s.hands))
	for e := range s.hands {
		back = append(back, e)
	}
	slices.SortFunc(back, func(a, b *entry) int { return cmp.Compare(b.at(), a.at()) }) // the lowest is put in front last
	for _, e := range back {
		g.giveBack(e)
	}
	g.moved()
}

func (g *group) giveBack(e *entry) {
	g.free(e)
	g.requeue(e)
}
