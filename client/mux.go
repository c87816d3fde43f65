package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/prismgw/prism/errs"
)

// What one message to the server holds at most. A single larger operation
// goes alone.
const (
	maxOperations   = 128
	maxMessageBytes = 64 << 10
)

// maxOperation is what no stream carries; such a call is unary from the start.
const maxOperation = 256 << 10

// enough is how many operations one stream has in flight before another one
// is worth its connection: fewer streams mean fuller messages.
const enough = 128

// errUnary says that a call has to be made without a stream.
var errUnary = errors.New("not over a stream")

// muxKey is what a stream has fixed when it opens.
type muxKey struct{ stream, namespace, pattern, credential string }

// A mux spreads the calls of one key over a few streams. Calls wait in one
// queue, so that none is bound to a stream before it is sent.
//
// There is no writing goroutine. A caller who finds a stream that nobody is
// sending on takes the lead: it sends one message with what is queued, its own
// call in it or before it, and passes the lead on to a caller who is still
// waiting. A stream's receiving goroutine gives the lead out again when
// answers have made room.
type mux struct {
	client *Client
	key    muxKey

	mu      sync.Mutex // guards the rest, and what says so in call and stream
	queue   queue
	streams []*stream            // opening or open
	live    map[*stream]struct{} // these, and those that are finishing
	reaper  *time.Timer          // nil while there is no stream

	unary  bool  // for good: the server has no streams
	over   bool  // takes no more calls
	closed error // with the client

	// After a stream failed to open none is opened for a while.
	failure  error
	failures int
	retryAt  time.Time
}

func newMux(c *Client, key muxKey) *mux {
	return &mux{client: c, key: key, live: make(map[*stream]struct{})}
}

// errOver says that the mux was idle and is forgotten; there is a new one.
var errOver = errors.New("the streams were closed")

// do carries a call over a stream and waits for its end. errUnary and errOver
// mean that it was not sent.
func (m *mux) do(ctx context.Context, i *invocation) error {
	c, err := newCall(ctx, i, m.client.opts.retry.Tries-i.tries+1)
	if err != nil {
		c.free()
		return err
	}
	m.mu.Lock()
	if err := m.refuses(); err != nil {
		m.mu.Unlock()
		c.free()
		return err
	}
	m.queue.push(c)
	s := m.pick()
	if s != nil {
		s.sending = true
	}
	tight := s != nil && s.tight()
	m.mu.Unlock()
	switch {
	case tight:
		go s.send(nil)
	case s != nil:
		s.send(c)
	}
	if !m.wait(c) {
		return errs.From(ctx.Err())
	}
	defer c.free()
	i.tries += c.breaks
	if c.moved {
		i.tries++
	}
	if c.err != nil {
		return c.err
	}
	return c.decode(i)
}

// refuses reports why no call can be queued. It needs m.mu.
func (m *mux) refuses() error {
	switch {
	case m.closed != nil:
		return m.closed
	case m.over:
		return errOver
	case m.unary:
		return errUnary
	case len(m.streams) > 0 || !time.Now().Before(m.retryAt):
		return nil
	case errs.ReasonOf(m.failure) == errs.BackendUnavailable:
		return m.failure
	}
	return errUnary // which gives each caller an answer of its own
}

// wait returns when the call has ended, or false when its context has.
func (m *mux) wait(c *call) bool {
	for {
		select {
		case s := <-c.wake:
			if s == nil {
				return true
			}
			s.send(c)
		case <-c.ctx.Done():
			return m.abandon(c)
		}
	}
}

// abandon gives up a call whose context has ended; true if it ended by itself
// at the same time. The call is not used again.
func (m *mux) abandon(c *call) bool {
	m.mu.Lock()
	ended := c.state == callEnded
	switch c.state {
	case callQueued:
		m.queue.remove(c)
		c.state = callEnded
	case callSent:
		c.state = callEnded
		m.cancel(c)
	case callEnded:
	}
	led := c.lead
	if led != nil {
		c.lead = nil
		led.rest()
	}
	m.mu.Unlock()
	if led != nil {
		<-c.wake
	}
	if ended {
		<-c.wake
	}
	return ended
}

// cancel tells the server that nobody waits for c. Its place is free when it
// is answered. It needs m.mu.
func (m *mux) cancel(c *call) {
	s := m.holder(c)
	if s == nil || s.goingAway {
		return
	}
	s.cancels = append(s.cancels, c.id)
	if !s.sending && s.err == nil {
		s.sending = true
		go s.send(nil)
	}
}

// holder returns the stream that c was sent on.
func (m *mux) holder(c *call) *stream {
	for s := range m.live {
		if s.slots.get(c.id) == c {
			return s
		}
	}
	return nil
}

// pick returns the stream to send the longest waiting call on: none if there
// is none with room, or if one that is being sent on will take it along. It
// opens a stream where one is needed. It needs m.mu, and a queued call.
func (m *mux) pick() *stream {
	var best *stream
	opening := false
	for _, s := range m.streams {
		opening = opening || !s.open
		if !s.open || !s.room(m.queue.head) {
			continue
		}
		if s.inFlight < enough {
			if s.sending {
				return nil
			}
			return s
		}
		if !s.sending && (best == nil || s.inFlight < best.inFlight) {
			best = s
		}
	}
	if !opening && len(m.streams) < m.client.opts.streams && !time.Now().Before(m.retryAt) {
		m.start()
	}
	return best
}

// dispatch gives the lead to queued calls as long as there are streams for
// them. It needs m.mu.
func (m *mux) dispatch() {
	for c := m.queue.head; c != nil; c = c.next {
		if c.lead != nil {
			continue
		}
		s := m.pick()
		if s == nil {
			break
		}
		s.sending = true
		if s.tight() {
			go s.send(nil)
			continue
		}
		c.lead = s
		c.wake <- s
	}
	if len(m.streams) == 0 && m.queue.head != nil { // none could be opened
		m.failQueue(m.failure)
	}
}

// end ends a call. It needs m.mu.
func (m *mux) end(c *call, err error) {
	c.state, c.err = callEnded, err
	c.wake <- nil
}

// failQueue ends every queued call. It needs m.mu.
func (m *mux) failQueue(err error) {
	for c := m.queue.head; c != nil; c = m.queue.head {
		m.queue.remove(c)
		if c.breaks > 0 && !errors.Is(err, errUnary) {
			m.end(c, lost(c.write, err))
			continue
		}
		m.end(c, err)
	}
}

// start opens one more stream. It needs m.mu.
func (m *mux) start() {
	if m.closed != nil || m.over {
		return
	}
	s := newStream(m)
	m.streams = append(m.streams, s)
	m.live[s] = struct{}{}
	m.client.streaming.Add(1)
	go s.run()
	if m.reaper == nil {
		m.reaper = time.AfterFunc(m.client.opts.idle/4, m.reap)
	}
}

// leave takes s out of those that carry new calls. It needs m.mu.
func (m *mux) leave(s *stream) {
	for i, other := range m.streams {
		if other == s {
			m.streams = append(m.streams[:i], m.streams[i+1:]...)
			return
		}
	}
}

// failed notes that a stream could not be opened, or broke before it answered
// anything; that may happen once without a pause. It needs m.mu.
func (m *mux) failed(err error, opened bool) {
	if status.Code(err) == codes.Unimplemented {
		m.unary = true
		m.failQueue(errUnary)
		return
	}
	m.failure = m.client.unreached(err)
	m.failures = min(m.failures+1, 6)
	if opened && m.failures == 1 {
		return
	}
	pause := 25 * time.Millisecond << m.failures // 50 ms to 1.6 s
	m.retryAt = time.Now().Add(pause + rand.N(pause/4))
	if len(m.streams) == 0 {
		m.failQueue(m.failure)
	}
}

// reap closes what has been idle.
func (m *mux) reap() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed != nil {
		return
	}
	idle := m.client.opts.idle
	for i := len(m.streams) - 1; i >= 0; i-- {
		if s := m.streams[i]; s.idleSince(idle) {
			m.leave(s)
			s.retire()
		}
	}
	if len(m.live) > 0 || m.queue.head != nil {
		m.reaper.Reset(idle / 4)
		return
	}
	m.over = true
	m.client.forget(m)
}

// close ends everything, with the client.
func (m *mux) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = errClosed
	m.failQueue(errClosed)
	for s := range m.live {
		s.cancel(errClosed)
	}
	if m.reaper != nil {
		m.reaper.Stop()
	}
}
