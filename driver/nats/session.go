package nats

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/prismgw/prism/driver"
)

const (
	inFlight   = 16 << 20 // bytes of calls under way
	callWeight = 4 << 10  // of each beside its data, so that they are at most 4,096
	burst      = 64       // calls that are handed to the connection at once
)

var (
	errEnded  = errors.New("the connection has ended")
	errSilent = errors.New("the backend does not answer")
	errClosed = errors.New("the connection is closed")
)

// lostError says that a call got no answer.
type lostError struct {
	cause error
	sent  bool // whether the call may have reached the server
}

func (e *lostError) Error() string { return e.cause.Error() }
func (e *lostError) Unwrap() error { return e.cause }

// session is one connection to a server, with the calls that wait for answers
// on it. It never reconnects: when the connection breaks, every call is failed
// at once, with the knowledge of whether it was sent.
//
// Calls are written by a goroutine of the session, so that a full socket holds
// up no caller beyond its context.
type session struct {
	nc     *nats.Conn
	dialer *dialer
	inbox  string        // beginning of the subjects of answers
	answer time.Duration // how long the server may be silent

	gate    gate
	wake    chan struct{} // of capacity 1: there may be calls to send
	done    chan struct{} // closed when it has ended
	heard   atomic.Int64  // when the last answer came, in nanoseconds
	stale   atomic.Bool   // the bucket has to be looked at again
	created atomic.Int64  // when the bucket's stream was made
	direct  atomic.Bool   // direct gets are as good as the leader's
	numbers numbers

	mu      sync.Mutex // guards what follows
	last    uint64     // id of a call
	queue   []*call    // to be sent
	pending map[uint64]*call
	err     error // why it has ended

	listeners map[*subscription]struct{}
}

// A call is one request on its way.
type call struct {
	subject string
	header  nats.Header
	data    []byte // the session's own

	// more takes one message of an answer of several, and tells whether it was
	// the last. nil: the answer is one message.
	more func(*nats.Msg) (last bool)

	// told are messages that nobody answers. When the server has handled them,
	// the call comes back by itself. nil: the call is answered by its subject.
	told []*nats.Msg
	size int // bytes of their payloads

	id     uint64
	weight int
	begun  time.Time
	sent   bool // guarded by the session's mu
	answer chan answer
}

type answer struct {
	msg *nats.Msg
	err error
}

func newSession(nc *nats.Conn, d *dialer, patience time.Duration) *session {
	s := &session{
		nc: nc, dialer: d, inbox: nats.NewInbox() + ".", answer: patience,
		wake: make(chan struct{}, 1), done: make(chan struct{}), pending: make(map[uint64]*call),
	}
	s.gate.free = inFlight
	s.numbers.prepare()
	s.stale.Store(true) // until it has been looked at
	s.heard.Store(time.Now().UnixNano())
	return s
}

// begin puts a call on its way.
func (s *session) begin(ctx context.Context, c *call) error {
	c.weight = min(callWeight+len(c.data)+c.size, inFlight)
	c.answer = make(chan answer, 1)
	if err := s.gate.enter(ctx, s.done, c.weight); err != nil {
		return &lostError{cause: err}
	}
	c.begun = time.Now()
	s.mu.Lock()
	if s.err != nil {
		err := s.err
		s.mu.Unlock()
		s.gate.leave(c.weight)
		return &lostError{cause: err}
	}
	s.last++
	c.id = s.last
	s.pending[c.id] = c
	s.queue = append(s.queue, c)
	first := len(s.queue) == 1
	s.mu.Unlock()
	if first {
		s.signal()
	}
	return nil
}

func (s *session) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// wait returns the answer to a call that has begun. A call whose context ends
// first is forgotten.
func (s *session) wait(ctx context.Context, c *call) (*nats.Msg, error) {
	select {
	case a := <-c.answer:
		return a.msg, a.err
	case <-ctx.Done():
	}
	s.mu.Lock()
	sent := c.sent
	known := s.forget(c)
	if !sent && known {
		c.data, c.header, c.told = nil, nil, nil
	}
	s.mu.Unlock()
	if !known { // it was answered in this moment
		a := <-c.answer
		return a.msg, a.err
	}
	s.gate.leave(c.weight)
	return nil, &lostError{cause: ctx.Err(), sent: sent}
}

// ask is begin and wait.
func (s *session) ask(ctx context.Context, c *call) (*nats.Msg, error) {
	if err := s.begin(ctx, c); err != nil {
		return nil, err
	}
	return s.wait(ctx, c)
}

// insist is ask for a question that may be asked several times: a stream that
// just gets a leader leaves some without an answer.
func (s *session) insist(ctx context.Context, subject string) (*nats.Msg, error) {
	for began := time.Now(); ; {
		short, cancel := context.WithTimeout(ctx, s.answer/5)
		m, err := s.ask(short, &call{subject: subject})
		silent := err != nil && short.Err() != nil && ctx.Err() == nil
		cancel()
		if !silent {
			return m, err
		}
		if now := time.Now(); now.Sub(began) > s.answer {
			if s.silent(now) {
				s.end(errSilent)
			}
			return nil, &lostError{cause: errSilent, sent: true}
		}
	}
}

// silent reports whether nothing has come over the connection for too long.
func (s *session) silent(now time.Time) bool {
	return now.Sub(time.Unix(0, s.heard.Load())) > s.answer
}

// forget reports whether a call was pending, and is not any more. The lock is
// held.
func (s *session) forget(c *call) bool {
	if s.pending[c.id] != c {
		return false
	}
	delete(s.pending, c.id)
	return true
}

// write hands calls to the connection until the session ends.
func (s *session) write() {
	calls := make([]*call, 0, burst)
	for {
		if calls = s.next(calls[:0]); len(calls) == 0 {
			select {
			case <-s.wake:
				continue
			case <-s.done:
				return
			}
		}
		for _, c := range calls {
			if err := s.publish(c); err != nil {
				s.finish(c, answer{err: &lostError{cause: err, sent: len(c.told) > 1}})
			}
		}
		clear(calls)
	}
}

func (s *session) publish(c *call) error {
	own := s.inbox + strconv.FormatUint(c.id, 36)
	if c.told == nil {
		return s.nc.PublishMsg(&nats.Msg{Subject: c.subject, Reply: own, Header: c.header, Data: c.data})
	}
	for _, m := range c.told {
		if err := s.nc.PublishMsg(m); err != nil {
			return err
		}
	}
	return s.nc.Publish(own, nil)
}

// next appends the next calls to send, which count as sent from now on.
func (s *session) next(calls []*call) []*call {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for n < len(s.queue) && len(calls) < burst {
		c := s.queue[n]
		n++
		if s.pending[c.id] == c {
			c.sent = true
			calls = append(calls, c)
		}
	}
	if rest := copy(s.queue, s.queue[n:]); n > 0 {
		clear(s.queue[rest:])
		s.queue = s.queue[:rest]
	}
	return calls
}

// take is called with each message of an answer, one after the other.
func (s *session) take(m *nats.Msg) {
	s.heard.Store(time.Now().UnixNano())
	id, err := strconv.ParseUint(strings.TrimPrefix(m.Subject, s.inbox), 36, 64)
	if err != nil {
		return
	}
	s.mu.Lock()
	c := s.pending[id]
	s.mu.Unlock()
	if c != nil && (c.more == nil || c.more(m)) {
		s.finish(c, answer{msg: m})
	}
}

func (s *session) finish(c *call, a answer) {
	s.mu.Lock()
	known := s.forget(c)
	s.mu.Unlock()
	if known {
		s.gate.leave(c.weight)
		c.answer <- a
	}
}

// watch gives up what is not answered until the session ends: the connection
// if nothing is, else single calls.
func (s *session) watch() {
	tick := time.NewTicker(s.answer / 4)
	defer tick.Stop()
	for {
		select {
		case <-s.done:
			return
		case now := <-tick.C:
			late := s.late(now.Add(-s.answer))
			if len(late) > 0 && s.silent(now) {
				s.end(errSilent)
				return
			}
			for _, c := range late {
				s.finish(c, answer{err: &lostError{cause: errSilent, sent: true}})
			}
		}
	}
}

// late returns the calls that were begun before a time.
func (s *session) late(before time.Time) (calls []*call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.pending {
		if c.begun.Before(before) {
			calls = append(calls, c)
		}
	}
	return calls
}

// refused fails the calls to a subject that the server does not let us use, and
// ends the subscriptions to it.
func (s *session) refused(err error) {
	names := func(subject string) bool { return strings.Contains(err.Error(), strconv.Quote(subject)) }
	var calls []*call
	var subscriptions []*subscription
	s.mu.Lock()
	for _, c := range s.pending {
		if names(c.subject) || slices.ContainsFunc(c.told, func(m *nats.Msg) bool { return names(m.Subject) }) {
			calls = append(calls, c)
		}
	}
	for b := range s.listeners {
		if names(b.subject) {
			subscriptions = append(subscriptions, b)
		}
	}
	s.mu.Unlock()
	for _, c := range calls {
		s.finish(c, answer{err: errNotAllowed})
	}
	for _, b := range subscriptions {
		b.End(errNotAllowed)
	}
}

// end fails every call and closes the connection. Only the first reason counts.
func (s *session) end(reason error) {
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return
	}
	s.err = reason
	calls := s.pending
	s.pending, s.queue = nil, nil
	s.mu.Unlock()
	close(s.done)
	for _, c := range calls {
		c.answer <- answer{err: &lostError{cause: reason, sent: c.sent}}
	}
	s.dialer.close() // so that Close below does not wait for a full socket
	s.nc.Close()
}

// idle reports whether no call is under way.
func (s *session) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.pending) == 0
}

// usable reports whether the session can serve, as far as is known.
func (s *session) usable() bool {
	select {
	case <-s.done:
		return false
	default:
		return !s.stale.Load()
	}
}

// clock returns the time that decides about expiry.
type clock = func() time.Time

var _ driver.KV = (*kv)(nil)
