package client

import (
	"context"
	"errors"
	"io"
	"math"
	"runtime"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/prismgw/prism/api/codec"
	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/errs"
)

// What a server that says nothing else in its Hello is taken to allow.
const (
	defaultInFlight      = 256
	defaultInFlightBytes = 4 << 20
)

// unblocked is how many unanswered bytes never make SendMsg wait: gRPC takes
// messages until it holds 64 KiB that it could not yet put on the connection.
// While more is unanswered, a goroutine of its own sends, so that no caller is
// held beyond its deadline by a server that does not read.
const unblocked = 32 << 10

// A stream is one Pipeline on a connection of its own.
type stream struct {
	mux    *mux
	ctx    context.Context
	cancel context.CancelCauseFunc
	rpc    grpc.ClientStream // set before open

	out   outgoing // of who is sending
	in    incoming // of the receiving goroutine
	woken []*call  // likewise

	// Guarded by mux.mu.
	open      bool // the Hello has come
	goingAway bool // takes no new calls
	sending   bool // somebody may call SendMsg, and nobody else
	answered  bool // anything
	err       error
	lastUsed  time.Time

	slots    slots
	cancels  []uint64
	inFlight int
	bytes    int // of the operations in flight

	maxInFlight, maxBytes, maxOperation int
}

func newStream(m *mux) *stream {
	s := &stream{mux: m, lastUsed: time.Now()}
	s.ctx, s.cancel = context.WithCancelCause(metadata.NewOutgoingContext(context.Background(), m.key.metadata()))
	s.in.deliver = s.deliver
	return s
}

// room reports whether c may be sent now. It needs mux.mu.
func (s *stream) room(c *call) bool {
	return s.inFlight == 0 || s.inFlight < s.maxInFlight && s.bytes+c.size() <= s.maxBytes
}

// tight reports whether sending may have to wait for the server to read. It
// needs mux.mu.
func (s *stream) tight() bool { return s.bytes > unblocked }

// idleSince reports whether the stream has had nothing to do for so long. It
// needs mux.mu.
func (s *stream) idleSince(d time.Duration) bool {
	return s.open && !s.sending && s.inFlight == 0 && time.Since(s.lastUsed) >= d
}

// send sends one message with what is queued. The caller, with its own call if
// it has one, has set s.sending; send gives it back.
func (s *stream) send(own *call) {
	m := s.mux
	m.mu.Lock()
	if own != nil {
		own.lead = nil
	}
	if s.inFlight > 0 || m.queue.size > 1 {
		// Others are at work: who is about to call gets into this message.
		m.mu.Unlock()
		runtime.Gosched()
		m.mu.Lock()
	}
	any := s.take()
	m.mu.Unlock()
	if any {
		// An error is also one of RecvMsg, which says more.
		_ = s.rpc.SendMsg(&s.out)
	}
	m.mu.Lock()
	s.rest()
	m.mu.Unlock()
}

// rest ends a turn of sending. It needs mux.mu.
func (s *stream) rest() {
	s.out.reset()
	s.sending = false
	switch {
	case s.err != nil:
		s.settle()
	case s.goingAway:
		s.finishSending()
	case len(s.cancels) > 0:
		s.sending = true
		go s.send(nil)
	}
	s.mux.dispatch()
}

// take fills s.out from the queue and reports whether it holds anything. It
// needs mux.mu.
func (s *stream) take() bool {
	m := s.mux
	if s.goingAway || s.err != nil {
		return false
	}
	now := time.Now()
	s.lastUsed = now
	for c := m.queue.head; c != nil && len(s.out.operations) < maxOperations && s.room(c); c = m.queue.head {
		full := s.out.size > 0 && s.out.size+c.size() > maxMessageBytes
		if full {
			break
		}
		m.queue.remove(c)
		if err := c.over(now); err != nil {
			m.end(c, errs.From(err))
			continue
		}
		if c.size() > s.maxOperation {
			m.end(c, errUnary)
			continue
		}
		s.add(c, now)
	}
	for _, id := range s.cancels {
		s.out.cancel(id)
	}
	s.cancels = s.cancels[:0]
	return s.out.size > 0
}

func (s *stream) add(c *call, now time.Time) {
	c.state = callSent
	c.id = s.slots.put(c)
	s.inFlight++
	s.bytes += c.size()
	s.out.add(operation{id: c.id, timeout: c.timeout(now), body: c.body})
}

// run opens the stream, receives until it ends, and cleans up.
func (s *stream) run() {
	defer s.mux.client.streaming.Done()
	defer s.cancel(nil)
	conn, err := s.mux.client.connect()
	if err != nil {
		s.finish(err)
		return
	}
	defer func() { _ = conn.Close() }()
	err = s.receive(conn)
	if cause := context.Cause(s.ctx); cause != nil {
		err = cause
	}
	s.finish(err)
}

var pipeline = &grpc.StreamDesc{StreamName: "Pipeline", ServerStreams: true, ClientStreams: true}

// receive returns why the stream ended; never nil.
func (s *stream) receive(conn *grpc.ClientConn) error {
	hello := time.AfterFunc(s.mux.client.opts.hello, func() { s.cancel(errLate) })
	defer hello.Stop()
	rpc, err := conn.NewStream(s.ctx, pipeline, s.mux.key.stream, grpc.ForceCodecV2(codec.V2{}))
	if err != nil {
		return err
	}
	s.rpc = rpc
	for err == nil {
		err = rpc.RecvMsg(&s.in)
		for _, c := range s.woken {
			c.wake <- nil
		}
		clear(s.woken)
		s.woken = s.woken[:0]
		hello.Stop()
	}
	return err
}

var (
	errNoHello = status.Error(codes.Internal, "the server's first message is no hello")
	errIdle    = status.Error(codes.Canceled, "the stream was idle")
	errLate    = status.Error(codes.Unavailable, "the server did not greet in time")
	errStray   = status.Error(codes.Internal, "the server answered an operation that was not asked for")
)

// deliver takes what a message brings.
func (s *stream) deliver(in *incoming) error {
	m := s.mux
	m.mu.Lock()
	defer m.mu.Unlock()
	if !s.open {
		if in.hello == nil {
			return errNoHello
		}
		s.greet(in.hello)
	}
	for i := range in.answers {
		if err := s.answer(&in.answers[i]); err != nil {
			return err
		}
	}
	if in.goingAway && !s.goingAway {
		s.goAway()
	}
	if m.queue.head != nil {
		m.dispatch()
	}
	return nil
}

func (s *stream) greet(h *keyvaluev1.Hello) {
	or := func(n uint32, otherwise int) int {
		if n == 0 {
			return otherwise
		}
		return int(min(n, math.MaxInt32))
	}
	s.open = true
	s.maxInFlight = min(or(h.GetMaxInFlight(), defaultInFlight), maxSlots)
	s.maxBytes = or(h.GetMaxInFlightBytes(), defaultInFlightBytes)
	s.maxOperation = or(h.GetMaxOperationBytes(), maxOperation)
}

// answer ends the call that a is for.
func (s *stream) answer(a *answer) error {
	c := s.slots.take(a.id)
	if c == nil {
		return errStray
	}
	s.answered = true
	s.mux.failures = 0
	s.inFlight--
	s.bytes -= c.size()
	if c.state == callEnded { // its caller has gone
		return nil
	}
	if a.draining() && s.move(c) {
		return nil
	}
	c.state = callEnded
	c.result = a.result
	c.body = append(c.body[:0], a.body...)
	s.woken = append(s.woken, c)
	return nil
}

// move leaves a stream whose server drains, and reports whether the call that
// was refused, and so had no effect, is sent elsewhere at once. That happens
// once; afterwards its caller waits before the next try. It needs mux.mu.
func (s *stream) move(c *call) bool {
	if !s.goingAway {
		s.goAway()
	}
	if c.left <= 1 || c.moved {
		return false
	}
	c.left--
	c.moved = true
	s.mux.queue.pushFront(c)
	return true
}

// goAway makes room for another stream while this one finishes. The queue
// opens the next; if there is work, it is opened at once.
func (s *stream) goAway() {
	s.mux.leave(s)
	if s.inFlight > 0 && len(s.mux.streams) == 0 {
		s.mux.start()
	}
	s.finishSending()
}

// finishSending tells the server that nothing more comes, once nobody is
// sending. It needs mux.mu.
func (s *stream) finishSending() {
	s.goingAway, s.cancels = true, nil
	if !s.sending {
		_ = s.rpc.CloseSend()
	}
}

// retire closes a stream that has nothing in flight. It needs mux.mu.
func (s *stream) retire() {
	s.finishSending()
	time.AfterFunc(s.mux.client.opts.hello, func() { s.cancel(errIdle) }) // if the server does not end it
}

// finish is the end of a stream.
func (s *stream) finish(err error) {
	m := s.mux
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leave(s)
	delete(m.live, s)
	s.err = err
	if !s.answered && !s.goingAway && m.closed == nil {
		m.failed(err, s.open)
	}
	if !s.sending {
		s.settle()
		m.dispatch()
	}
}

// settle decides about the operations that were not answered. A server that
// went away in order has answered all that it read, so the others are simply
// sent elsewhere. It needs mux.mu, and that nobody is sending.
func (s *stream) settle() {
	m := s.mux
	unread := s.goingAway && errors.Is(s.err, io.EOF)
	for _, c := range s.slots.all() {
		switch {
		case c.state == callEnded:
		case m.closed == nil && (unread || m.again(c)):
			m.queue.pushFront(c)
		default:
			m.end(c, lost(c.write, s.err))
		}
	}
}

// again reports whether a call that a stream broke with is sent once more. It
// needs mux.mu.
func (m *mux) again(c *call) bool {
	if !c.repeat || c.left <= 1 || !m.client.retry.broken.spend() {
		return false
	}
	c.left--
	c.breaks++
	return true
}
