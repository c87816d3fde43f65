package proxy

import (
	"context"
	"sync"
	"time"

	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
)

// What lasting streams are told that end before their client wanted it.
var (
	errMoved  = errs.New(errs.Draining, "the namespace is configured otherwise now, which ended this stream; open it again")
	errUnread = errs.New(errs.Draining, "this stream was asked to go some seconds ago, and its messages were left unread; open it again on a new connection")
)

// stay is one lasting stream that has been let in.
type stay struct {
	target  *target
	end     context.CancelCauseFunc // of the stream's context
	overdue func()                  // gives up what hangs in it; may be called twice
	timer   *time.Timer             // to overdue; nil: it was not asked to leave. Guarded by streams.mu
}

// settle lets a call go on beyond the configuration that it has begun on: it
// holds what it counts in, and gives the rest back.
func (p *Proxy) settle(c *call) {
	ctx, end := context.WithCancelCause(c.Context)
	c.Context = ctx
	c.stay = &stay{target: c.target, end: end, overdue: func() {}}
	if c.overdue != nil {
		c.stay.overdue = sync.OnceFunc(func() { close(c.overdue) })
	}
	c.target.counters.hold()
	p.streams.enter(c.stay)
	if now := p.snapshot.Load(); !now.serves(c.target) { // replaced since it began
		p.streams.ask(c.stay, errMoved)
	}
	c.snapshot.release()
	c.snapshot = nil
}

// serves reports whether a configuration has the same pattern.
func (s *snapshot) serves(t *target) bool {
	tenant := s.namespaces[t.counters.namespace]
	if tenant == nil {
		return false
	}
	for _, one := range tenant.kinds[t.kind] {
		if one.identity == t.identity {
			return true
		}
	}
	return false
}

// enter takes note of a lasting stream; leave must follow.
func (s *streams) enter(one *stay) {
	s.mu.Lock()
	s.stays[one] = struct{}{}
	s.mu.Unlock()
	select {
	case <-s.going:
		s.ask(one, pattern.ErrGoing)
	default:
	}
}

func (s *streams) leave(one *stay) {
	one.end(nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.stays, one)
	if one.timer != nil {
		one.timer.Stop()
	}
}

// ask asks a lasting stream to end, and gives it some time.
func (s *streams) ask(one *stay, why error) {
	one.end(why)
	s.mu.Lock()
	defer s.mu.Unlock()
	if one.timer == nil {
		one.timer = time.AfterFunc(goingGrace, one.overdue)
	}
}

// reconsider ends the lasting streams whose pattern is not the same any more.
func (s *streams) reconsider(next *snapshot) {
	for _, one := range s.staying() {
		if !next.serves(one.target) {
			s.ask(one, errMoved)
		}
	}
}

func (s *streams) staying() []*stay {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*stay, 0, len(s.stays))
	for one := range s.stays {
		all = append(all, one)
	}
	return all
}
