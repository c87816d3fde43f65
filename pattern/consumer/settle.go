package consumer

import (
	"context"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// verdict is what a consumer says of a message in its hands.
type verdict uint8

const (
	acknowledge verdict = iota // it is done with
	reject                     // it failed; it comes again after the delay, or the group's own if that is negative
	refuse                     // it will never succeed: to the dead letters
	giveBack                   // it was not worked on
	extend                     // it takes longer: it stays in hand for the delay from now on
)

// A settlement is a verdict on one handing out.
type settlement struct {
	receipt receipt
	valid   bool // the receipt is one
	verdict verdict
	delay   time.Duration
	why     string
}

// Why a message goes to the dead letters, beside what consumers say themselves.
const whyUnanswered = "it was not acknowledged in time"

// byPolicy is the delay of a rejection that names none.
const byPolicy time.Duration = -1

// settle carries out the settlements and puts each outcome into the result of
// the same index. An OK has been committed: whatever dies, the message comes to
// nobody again.
func (g *group) settle(ctx context.Context, all []settlement, results []error) {
	waits := make(map[*ledger]waiter)
	of := make([]*ledger, len(all)) // whose commit decides
	dones := make(map[*ledger]chan error)
	g.mu.Lock()
	for i := range all {
		l, err := g.judge(&all[i])
		results[i] = err
		if err != nil || l == nil {
			continue
		}
		of[i] = l
		if dones[l] == nil {
			dones[l] = make(chan error, 1)
		}
		waits[l] = waiter{max(waits[l].at, all[i].receipt.at), dones[l]}
	}
	for l, w := range waits {
		l.waiters = append(l.waiters, w)
		g.dirty = true
	}
	g.moved()
	g.mu.Unlock()
	outcomes := make(map[*ledger]error, len(dones))
	for l, done := range dones {
		select {
		case err := <-done:
			outcomes[l] = err
		case <-ctx.Done():
			outcomes[l] = errs.ReasonOf(ctx.Err())
		}
	}
	for i := range results {
		if l := of[i]; l != nil {
			results[i] = outcomes[l]
		}
	}
}

// judge carries out one settlement. It returns the ledger whose commit makes it
// last, nil if nothing has to last.
func (g *group) judge(s *settlement) (*ledger, error) {
	if !s.valid || s.receipt.at < 1 {
		return nil, errs.StaleReceipt
	}
	l := g.owned[s.receipt.partition]
	if l == nil {
		return nil, g.stale()
	}
	e, done := l.find(s.receipt.at)
	switch {
	case done && (l.changed || l.committing):
		return l, nil
	case done:
		return nil, nil //nolint:nilnil // it is settled and committed
	case e == nil || l.nonce != s.receipt.nonce || e.state != inHand || e.turn != s.receipt.turn:
		return nil, errs.StaleReceipt
	}
	switch s.verdict {
	case acknowledge:
		g.free(e)
		g.settled(e)
		g.health.succeeded()
		g.counts.settled.Add(1)
	case reject:
		g.failed(e, s.why, s.delay)
	case refuse:
		g.free(e)
		l.fail(e)
		g.health.failed(g.now())
		g.die(e, s.why)
	case giveBack:
		g.giveBack(e)
		return nil, nil //nolint:nilnil // as if it had never been handed out
	case extend:
		e.due = g.now().Add(s.delay)
		g.timers.set(e)
		return nil, nil //nolint:nilnil // it lasts as long as this process
	}
	return l, nil
}

// stale is the answer to a receipt of a partition that is not owned here.
func (g *group) stale() error {
	if g.ended != nil {
		return g.ended
	}
	return errs.StaleReceipt
}

// settled says that the record is done with, and lets the next of its key go.
func (g *group) settled(e *entry) {
	freed := e.ledger.settle(e)
	if freed != nil && freed.state == waiting {
		g.queue(freed)
	}
	g.dirty = true
	g.advance(e.ledger)
	g.flow(e.ledger)
}

// failed counts a failure of a record in hand. It comes again after the delay,
// unless it was the last time.
func (g *group) failed(e *entry, why string, delay time.Duration) {
	g.free(e)
	e.ledger.fail(e)
	g.health.failed(g.now())
	g.dirty = true
	switch {
	case e.failures >= g.policy.maxDeliveries:
		g.die(e, why)
	case delay == 0:
		g.queue(e)
	case delay < 0:
		g.rest(e, g.pause(e.failures))
	default:
		g.rest(e, delay)
	}
	g.flow(e.ledger)
}

// A burial is a record on its way to the dead letters.
type burial struct {
	entry    *entry
	at       driver.Position
	part     int
	attempts int
	why      string
}

// die sends the record to the dead letters. It is settled once it is there.
func (g *group) die(e *entry, why string) {
	e.state = dying
	e.ledger.hands++
	g.hands++
	g.dirty = true
	g.dying = append(g.dying, burial{e, e.at(), e.ledger.partition, e.failures, why})
	select {
	case g.burials <- struct{}{}:
	default:
	}
}
