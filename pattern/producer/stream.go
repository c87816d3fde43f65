package producer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"time"

	"google.golang.org/grpc"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	producerv1 "github.com/prismgw/prism/api/prism/producer/v1"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
)

// Limits of one stream, told to the client in Hello.
const (
	maxInFlight      = 1024
	maxInFlightBytes = 4 << 20
	maxOperation     = 256 << 10
)

const (
	// maxTurn is how many messages are appended together.
	maxTurn = 256

	// answerSize bounds what an answer takes, but for those that say what is
	// wrong.
	answerSize = 192

	// slowAfter is how long a client may leave answers unread.
	slowAfter = 10 * time.Second
)

// servePublishStream serves one stream. One goroutine reads and admits. Each
// topic has another one while there is something to append to it, which takes
// in order all that has gathered since the last time: so a lone message goes at
// once, and under load the backend gets large batches without a timer.
func servePublishStream(door pattern.Door, rpc grpc.ServerStream) error {
	s := &stream{
		door: door, terms: door.Terms(), rpc: rpc, ctx: rpc.Context(),
		ended: make(chan struct{}), flying: make(map[uint64]*operation), lanes: make(map[string]*lane),
	}
	s.room.L = &s.mu
	hello := &producerv1.Hello{MaxInFlight: maxInFlight, MaxInFlightBytes: maxInFlightBytes, MaxOperationBytes: maxOperation}
	if err := rpc.SendMsg(&producerv1.PublishStreamResponse{Hello: hello}); err != nil {
		return err
	}
	stop := context.AfterFunc(s.ctx, func() { s.stop(context.Cause(s.ctx)) })
	defer stop()
	go s.read()
	select {
	case <-s.ended:
	case <-s.terms.Going:
		s.goAway()
	}
	return s.finish()
}

// stream is one PublishStream.
type stream struct {
	door  pattern.Door
	terms pattern.Terms
	rpc   grpc.ServerStream
	ctx   context.Context //nolint:containedctx // the stream's own, which bounds everything here
	ended chan struct{}   // closed when nothing more is read

	sending sync.Mutex // one message at a time; before mu

	mu       sync.Mutex // guards what follows
	room     sync.Cond  // signalled when something was answered, or the stream ended
	flying   map[uint64]*operation
	lanes    map[string]*lane // by topic; none that is empty and rests
	bytes    int              // of those that are not answered
	over     bool             // nothing more is read
	err      error            // why the stream broke
	finished bool             // nobody is there to be answered
}

// lane is what waits for one topic.
type lane struct{ queue []*operation }

// operation is one message until it is answered.
type operation struct {
	*producerv1.Operation
	size      int
	due       time.Time
	ticket    pattern.Ticket
	cancelled bool // guarded by stream.mu
}

// read receives messages until the client half-closes or the stream breaks.
func (s *stream) read() {
	defer s.survive()
	for {
		in := new(producerv1.PublishStreamRequest)
		err := s.rpc.RecvMsg(in)
		if err == nil {
			s.cancel(in.GetCancels())
			err = s.admit(in.GetOperations(), time.Now())
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			s.stop(err)
			return
		}
	}
}

// admit lets the operations of one message in, one after the other, as there is
// room. Only a client that breaks the protocol gets an error, and loses the
// stream.
func (s *stream) admit(all []*producerv1.Operation, received time.Time) error {
	for _, in := range all {
		timeout := time.Duration(in.GetTimeoutMs()) * time.Millisecond
		if timeout == 0 {
			timeout = s.terms.Timeout
		}
		o := &operation{Operation: in, size: in.SizeVT(), due: received.Add(timeout)}
		if err := s.register(o); err != nil {
			return err
		}
		entry := pattern.Entry{Received: received, Traceparent: in.GetTraceparent(), Flush: func() {}}
		if in.GetPublish() != nil { // else it is of a kind that a newer client knows
			entry.Method = "Publish"
		}
		var err error
		if o.ticket, err = s.door.Enter(s.ctx, entry); err != nil {
			s.answer([]*producerv1.Answer{s.refusal(o, err)})
			continue
		}
		s.enqueue(o)
	}
	return nil
}

// enqueue puts an operation into its lane, and sees to it that somebody works
// there.
func (s *stream) enqueue(o *operation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	topic := o.GetPublish().GetTopic()
	l := s.lanes[topic]
	if l == nil {
		l = new(lane)
		s.lanes[topic] = l
		go s.work(topic, l)
	}
	l.queue = append(l.queue, o)
}

// register takes note of an operation and waits while too many are unanswered.
func (s *stream) register(o *operation) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.over && len(s.flying) > 0 && (len(s.flying) >= maxInFlight || s.bytes >= maxInFlightBytes || s.door.Room() < 0) {
		s.room.Wait()
	}
	switch {
	case s.over:
		return io.EOF
	case o.GetId() == 0 || s.flying[o.GetId()] != nil:
		return errs.Invalid(errs.Field{Path: "operations.id", Text: "must not be zero, nor that of an operation in flight"})
	}
	s.flying[o.GetId()] = o
	s.bytes += o.size
	s.door.Hold(answerSize)
	return nil
}

// cancel marks operations that nobody waits for.
func (s *stream) cancel(all []*producerv1.Cancel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range all {
		if o := s.flying[c.GetId()]; o != nil {
			o.cancelled = true
		}
	}
}

// work appends what waits in a lane until that is empty.
func (s *stream) work(topic string, l *lane) {
	for turn := s.turn(topic, l); len(turn) > 0; turn = s.turn(topic, l) {
		s.carryOut(topic, turn)
	}
}

// turn takes what is next from a lane, for one instance. A lane in which nothing
// is left is forgotten.
func (s *stream) turn(topic string, l *lane) []*operation {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for n < min(len(l.queue), maxTurn) && l.queue[n].ticket.Instance == l.queue[0].ticket.Instance {
		n++
	}
	if n == 0 {
		delete(s.lanes, topic)
	}
	next := l.queue[:n:n]
	l.queue = l.queue[n:]
	return next
}

// carryOut appends the messages of one topic and answers them.
func (s *stream) carryOut(topic string, all []*operation) {
	answers := make([]*producerv1.Answer, 0, len(all))
	defer func() { // a panic is the outcome of those that have no answer
		if r := recover(); r != nil {
			for _, o := range all[len(answers):] {
				answers = append(answers, s.leave(o, nil, panicked(r)))
			}
		}
		s.answer(answers)
	}()
	results, due := s.due(all)
	ctx, cancel := context.WithDeadline(context.WithValue(s.ctx, pattern.CallKey{}, &pattern.Call{Subject: s.terms.Subject}), due)
	defer cancel()
	s.publish(ctx, topic, all, results)
	for i, o := range all {
		answers = append(answers, s.leave(o, results[i].answer, results[i].err))
	}
}

// due returns the errors of those operations that are not carried out, and when
// the last of the others has to be done.
func (s *stream) due(all []*operation) (results []result, due time.Time) {
	results = make([]result, len(all))
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, o := range all {
		switch {
		case s.err != nil || o.cancelled:
			results[i].err = errs.Cancelled
		case !now.Before(o.due):
			results[i].err = errs.Deadline
		case o.size > maxOperation:
			results[i].err = errs.TooLarge("pipeline", o.size, maxOperation)
		case o.due.After(due):
			due = o.due
		}
	}
	return results, due
}

// publish carries out the operations that have no error.
func (s *stream) publish(ctx context.Context, topic string, all []*operation, results []result) {
	messages, of := make([]*envelopev1.PrismEnvelope, 0, len(all)), make([]int, 0, len(all))
	for i, o := range all {
		if results[i].err == nil {
			messages, of = append(messages, o.GetPublish().GetEnvelope()), append(of, i)
		}
	}
	if len(messages) == 0 {
		return
	}
	var outcomes []result
	err := error(errs.New(errs.Internal, "the instance of another kind"))
	if p, ok := all[0].ticket.Instance.(*producer); ok {
		outcomes, err = p.publish(ctx, topic, messages)
	}
	for k, i := range of {
		if results[i].err = err; err == nil {
			results[i] = outcomes[k]
		}
	}
}

// leave ends an operation and returns its answer.
func (s *stream) leave(o *operation, answer *producerv1.PublishResponse, outcome error) *producerv1.Answer {
	s.door.Leave(o.ticket, outcome)
	if outcome != nil {
		return s.refusal(o, outcome)
	}
	return &producerv1.Answer{Id: o.GetId(), Result: &producerv1.Answer_Publish{Publish: answer}}
}

func (s *stream) refusal(o *operation, outcome error) *producerv1.Answer {
	return &producerv1.Answer{Id: o.GetId(), Result: &producerv1.Answer_Error{Error: s.door.Status(outcome)}}
}

// answer sends answers and takes their operations off the books. A client that
// reads none for a while loses the stream.
func (s *stream) answer(answers []*producerv1.Answer) {
	if len(answers) == 0 {
		return
	}
	err := s.send(&producerv1.PublishStreamResponse{Answers: answers})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.finished {
		return
	}
	for _, a := range answers {
		s.bytes -= s.flying[a.GetId()].size
		delete(s.flying, a.GetId())
	}
	s.door.Hold(-answerSize * len(answers))
	if err != nil {
		s.breakLocked(err)
	}
	s.room.Broadcast()
}

func (s *stream) send(m *producerv1.PublishStreamResponse) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	slow := time.AfterFunc(slowAfter, func() {
		s.stop(errs.New(errs.SlowReader, "no answer was read for %s; read answers while publishing", slowAfter))
	})
	defer slow.Stop()
	s.mu.Lock()
	finished := s.finished
	s.mu.Unlock()
	if finished {
		return io.EOF
	}
	return s.rpc.SendMsg(m)
}

// goAway asks the client to move, and gives it time to.
func (s *stream) goAway() {
	if err := s.send(&producerv1.PublishStreamResponse{GoingAway: new(producerv1.GoingAway)}); err != nil {
		s.stop(err)
	}
	select {
	case <-s.ended:
	case <-s.terms.Gone: // from now on the door lets nothing in
		s.stop(nil)
	}
}

// stop ends the reading; what was admitted is still answered, unless the stream
// has broken.
func (s *stream) stop(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.breakLocked(err)
}

func (s *stream) breakLocked(err error) {
	if err != nil && s.err == nil {
		s.err = err
	}
	if !s.over {
		s.over = true
		close(s.ended)
	}
	s.room.Broadcast()
}

// finish waits until all that was read is answered, unless the stream broke.
func (s *stream) finish() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.err == nil && len(s.flying) > 0 {
		s.room.Wait()
	}
	s.finished = true
	s.door.Hold(-answerSize * len(s.flying))
	return s.err
}

// survive has a panic in the goroutine that reads break the stream, and
// not end the process.
func (s *stream) survive() {
	if r := recover(); r != nil {
		s.stop(panicked(r))
	}
}

func panicked(r any) error {
	return errs.Wrap(fmt.Errorf("panic: %v\n%s", r, debug.Stack()), errs.Internal, "")
}
