package consumer

import (
	"context"
	"errors"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// How long what failed is left alone before it is tried again.
const (
	minRetry = 100 * time.Millisecond
	maxRetry = 5 * time.Second
)

// keep commits how far the group has come, until the context ends. While one
// commit is on its way, what is settled meanwhile gathers for the next.
func (g *group) keep(ctx context.Context) {
	g.work(ctx, g.commits, func() error {
		return g.commit(ctx, false)
	})
}

// work calls do whenever it is woken, and again after a failure.
func (g *group) work(ctx context.Context, wake <-chan struct{}, do func() error) {
	retry := minRetry
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-wake:
		case <-again:
		}
		again = nil
		if do() == nil {
			retry = minRetry
			continue
		}
		again = time.After(retry)
		retry = min(2*retry, maxRetry)
	}
}

// A promise is one commit with those who wait for it.
type promise struct {
	ledger  *ledger
	waiters []waiter
}

// commit commits every partition of which there is something to say; with
// release, all of them, and gives them up. It returns an error if some of it
// has to be tried again.
func (g *group) commit(ctx context.Context, release bool) error {
	commits, promises := g.checkpoints(release)
	if len(commits) == 0 {
		return nil
	}
	results := make([]error, len(commits))
	g.member.Commit(ctx, commits, results)
	g.mu.Lock()
	defer g.mu.Unlock()
	var failed error
	for i, p := range promises {
		switch err := results[i]; {
		case err == nil:
			p.keep(nil)
			if commits[i].Release {
				g.lose(p.ledger, errs.StaleReceipt)
			}
		case errors.Is(err, errs.StaleReceipt):
			p.keep(err)
			g.lose(p.ledger, err)
		default:
			if p.ledger.lost {
				p.keep(errs.StaleReceipt)
				break
			}
			failed = err
			p.ledger.changed = true
			p.ledger.waiters = append(p.waiters, p.ledger.waiters...)
		}
		p.ledger.committing = false
		g.flow(p.ledger)
	}
	g.moved()
	return failed
}

func (p *promise) keep(err error) {
	for _, w := range p.waiters {
		w.done <- err
	}
}

// checkpoints returns what there is to commit.
func (g *group) checkpoints(release bool) ([]driver.Commit, []promise) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var commits []driver.Commit
	var promises []promise
	now := g.now()
	for _, l := range g.owned {
		goes := release || l.leaving && (l.hands == 0 || !now.Before(l.leaveBy))
		if !l.changed && len(l.waiters) == 0 && !goes {
			continue
		}
		c, covered := l.checkpoint(g.note)
		commits = append(commits, driver.Commit{Partition: l.partition, Claim: l.claim, Checkpoint: c, Release: goes})
		promises = append(promises, promise{l, l.due(covered)})
		l.changed, l.committing, l.cut = false, true, covered < l.next-1
	}
	return commits, promises
}

// due takes those out who wait for no more than what is covered.
func (l *ledger) due(covered driver.Position) []waiter {
	var due, later []waiter
	for _, w := range l.waiters {
		if w.at <= covered {
			due = append(due, w)
		} else {
			later = append(later, w)
		}
	}
	l.waiters = later
	return due
}

// undertake buries what is dying, until the context ends.
func (g *group) undertake(ctx context.Context) {
	g.work(ctx, g.burials, func() error {
		g.mu.Lock()
		dead := g.dying
		g.dying = nil
		g.mu.Unlock()
		return g.buryAll(ctx, dead)
	})
}

func (g *group) buryAll(ctx context.Context, dead []burial) error {
	if len(dead) == 0 {
		return nil
	}
	results := make([]error, len(dead))
	g.bury(ctx, dead, results)
	g.mu.Lock()
	defer g.mu.Unlock()
	var failed error
	for i, b := range dead {
		switch {
		case b.entry.ledger.lost:
		case results[i] != nil:
			failed = results[i]
			g.dying = append(g.dying, b)
		default:
			g.free(b.entry)
			g.settled(b.entry)
			g.counts.dead.Add(1)
		}
	}
	g.moved()
	return failed
}
