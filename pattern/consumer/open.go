package consumer

import (
	"context"
	"sync"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// running is a group with its goroutines.
type running struct {
	*group
	cancel  context.CancelFunc
	wait    sync.WaitGroup
	going   chan struct{} // closed when nothing more is handed out
	stopped chan struct{} // closed when nothing can be settled any more
}

// start makes the group of a member. stop must follow.
func start(name string, topic driver.Topic, member driver.Member, maxNote int, p policy, bury func(context.Context, []burial, []error), now func() time.Time, c *counts) *running {
	ctx, cancel := context.WithCancel(context.Background())
	g := &group{
		topic: topic, member: member, policy: p, note: maxNote, bury: bury, now: now,
		commits: make(chan struct{}, 1), burials: make(chan struct{}, 1),
		owned: make(map[int]*ledger), idle: make(chan struct{}), counts: c,
	}
	g.alarm = time.AfterFunc(time.Hour, g.ringing)
	r := &running{group: g, cancel: cancel, going: make(chan struct{}), stopped: make(chan struct{})}
	counting := func(ctx context.Context) { g.count(ctx, name) }
	for _, part := range []func(context.Context){g.follow, g.keep, g.undertake, counting} {
		r.wait.Go(func() { part(ctx) })
	}
	return r
}

// stop ends the group in an order that loses nothing and repeats little: it
// hands out no more, waits for what is in hand until the context ends, commits,
// gives its partitions to others, and closes the member.
func (r *running) stop(ctx context.Context) error {
	r.mu.Lock()
	r.closing = true
	close(r.going)
	r.moved()
	r.mu.Unlock()
	select {
	case <-r.idle:
	case <-ctx.Done():
	}
	r.cancel()
	r.wait.Wait()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	for r.commit(last, true) != nil && last.Err() == nil {
		time.Sleep(minRetry)
	}
	err := r.member.Close(last)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.end(errs.Draining)
	r.moved()
	r.alarm.Stop()
	close(r.stopped)
	return err
}

// closeTimeout bounds the last words to the backend.
const closeTimeout = 5 * time.Second
