package keyvalue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"time"

	"google.golang.org/grpc"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
)

// Limits of one stream, told to the client in Hello.
const (
	maxInFlight      = 256
	maxInFlightBytes = 4 << 20
	maxOperation     = 256 << 10
)

const (
	maxMessage = 31 << 10         // bytes of answers in one message; the next size of gRPC's buffers is 1 MiB
	slowAfter  = 10 * time.Second // a client that reads nothing for so long loses the stream
)

// servePipeline serves one Pipeline stream (contracts 1.4).
//
// One goroutine reads. What it read runs in batches, one goroutine each, and
// whoever has an answer sends it together with all that queued up meanwhile.
// So a lone operation is answered at once, and under load both directions
// carry many operations per message without a timer.
func servePipeline(door pattern.Door, stream grpc.ServerStream) error {
	p := &pipe{door: door, stream: stream, ctx: stream.Context(), flying: make(map[uint64]*operation), ended: make(chan struct{})}
	p.room.L = &p.mu
	p.write(&keyvaluev1.PipelineResponse{Hello: &keyvaluev1.Hello{
		MaxInFlight: maxInFlight, MaxInFlightBytes: maxInFlightBytes, MaxOperationBytes: maxOperation,
	}})
	stop := context.AfterFunc(p.ctx, func() { p.stop(context.Cause(p.ctx)) })
	defer stop()
	go p.read()
	defer p.close()
	select {
	case <-p.ended:
	case <-door.Going():
		p.goAway()
	}
	return p.finish()
}

// pipe is one stream.
type pipe struct {
	door   pattern.Door
	stream grpc.ServerStream
	ctx    context.Context //nolint:containedctx // the stream's own, which bounds everything here
	ended  chan struct{}   // closed when nothing more will be begun

	mu       sync.Mutex // guards the fields below
	room     sync.Cond  // signalled when something was sent, or the stream ended
	flying   map[uint64]*operation
	unsent   int // operations that are not yet answered on the wire
	begun    int // of them, those that came before the client's time to go was over
	bytes    int // of all and their answers
	out      []*operation
	spare    []*operation
	sending  bool
	since    time.Time // when the message that is being sent was begun
	going    bool      // GoingAway is to be sent
	gone     bool      // the client's time to go is over
	stopped  bool      // nothing more is begun
	err      error     // why the stream broke
	timer    *time.Timer
	timerAt  time.Time
	finished bool
}

// operation is one operation from its receipt until its answer is sent.
type operation struct {
	request *keyvaluev1.Operation
	size    int
	ticket  pattern.Ticket
	begun   bool // it counts in pipe.begun
	left    bool // the ticket has been given back
	due     time.Time
	answer  *keyvaluev1.Answer // set once, under pipe.mu
}

// read receives messages until the client half-closes or the stream breaks.
func (p *pipe) read() {
	defer p.survive(nil)
	for {
		in := new(keyvaluev1.PipelineRequest)
		err := p.stream.RecvMsg(in)
		if err == nil {
			p.cancel(in.GetCancels())
			err = p.begin(in.GetOperations())
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			p.stop(err)
			return
		}
	}
}

// begin admits the operations of one message and runs them.
func (p *pipe) begin(all []*keyvaluev1.Operation) error {
	received := time.Now()
	var reads, writes batch
	flush := func() {
		reads.run(p, p.runReads)
		writes.run(p, p.runWrites)
	}
	defer flush()
	ops := make([]operation, len(all))
	for i, in := range all {
		ops[i] = operation{request: in, size: in.SizeVT()}
	}
	for len(ops) > 0 {
		n, err := p.register(ops, flush)
		if err != nil {
			return err
		}
		for i := range ops[:n] {
			p.enter(&ops[i], received, &reads, &writes, flush)
		}
		p.watch(ops[:n])
		ops = ops[n:]
	}
	return nil
}

// enter admits one operation and puts it into its batch.
func (p *pipe) enter(o *operation, received time.Time, reads, writes *batch, flush func()) {
	in := o.request
	method, read := methodOf(in)
	var err error
	o.ticket, err = p.door.Enter(p.ctx, pattern.Entry{
		Method: method, Received: received, Timeout: time.Duration(in.GetTimeoutMs()) * time.Millisecond,
		Traceparent: in.GetTraceparent(), Flush: flush,
	})
	switch {
	case err != nil:
		p.refuse(o, err)
	case o.size > maxOperation:
		p.leave(o, nil, errs.TooLarge("pipeline", o.size, maxOperation))
	case read:
		reads.add(p, o, p.runReads)
	default:
		writes.add(p, o, p.runWrites)
	}
}

// register takes note of as many operations as there is room for, of one at
// least; for that it waits. Only a client that breaks the protocol gets an
// error, and loses the stream.
func (p *pipe) register(ops []operation, flush func()) (n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.full() {
		p.mu.Unlock()
		flush()
		p.mu.Lock()
		for p.full() && !p.finished {
			p.room.Wait()
		}
	}
	if p.stopped || p.finished {
		return 0, io.EOF
	}
	for n < len(ops) && !p.full() {
		o := &ops[n]
		id := o.request.GetId()
		if id == 0 || p.flying[id] != nil {
			return n, errs.Invalid(errs.Field{Path: "operations.id", Text: "must not be zero, nor that of an operation in flight"})
		}
		p.flying[id] = o
		p.unsent++
		if o.begun = !p.gone; o.begun {
			p.begun++
		}
		p.bytes += o.size
		n++
	}
	return n, nil
}

func (p *pipe) full() bool { return p.unsent >= maxInFlight || p.bytes >= maxInFlightBytes }

// cancel answers operations whose clients no longer wait.
func (p *pipe) cancel(all []*keyvaluev1.Cancel) {
	for _, c := range all {
		p.mu.Lock()
		o := p.flying[c.GetId()]
		p.mu.Unlock()
		if o != nil {
			p.refuse(o, errs.Cancelled)
		}
	}
}

// leave ends an admitted operation and answers it.
func (p *pipe) leave(o *operation, a *keyvaluev1.Answer, outcome error) {
	a = p.settle(o, a, outcome)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.put(o, a)
	p.flushLocked()
}

// settle gives an operation's ticket back and returns its answer.
func (p *pipe) settle(o *operation, a *keyvaluev1.Answer, outcome error) *keyvaluev1.Answer {
	if outcome == nil && a.SizeVT() > maxOperation {
		outcome = errs.TooLarge("pipeline", a.SizeVT(), maxOperation)
	}
	o.left = true
	p.door.Leave(o.ticket, outcome)
	if outcome != nil {
		return p.refusal(o, outcome)
	}
	a.Id = o.request.GetId()
	return a
}

// refuse answers an operation before its end, or one that never entered.
func (p *pipe) refuse(o *operation, outcome error) {
	a := p.refusal(o, outcome)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.put(o, a)
	p.flushLocked()
}

func (p *pipe) refusal(o *operation, outcome error) *keyvaluev1.Answer {
	return &keyvaluev1.Answer{Id: o.request.GetId(), Result: &keyvaluev1.Answer_Error{Error: p.door.Status(outcome)}}
}

// put queues an answer, unless the operation has one; mu is held.
func (p *pipe) put(o *operation, a *keyvaluev1.Answer) {
	if o.answer != nil {
		return
	}
	o.answer = a
	size := a.SizeVT()
	p.bytes += size
	o.size += size
	p.out = append(p.out, o)
}

// flushLocked sends what is queued unless another goroutine is at it, which
// will then send this too. mu is held, and released while sending.
func (p *pipe) flushLocked() {
	if p.sending {
		return
	}
	p.sending = true
	defer p.flushed()
	for (len(p.out) > 0 || p.going) && p.err == nil && !p.finished {
		p.sendSome()
	}
}

// flushed ends a turn of sending; mu is held. A panic in it breaks the stream:
// nobody knows what the client was told.
func (p *pipe) flushed() {
	p.sending = false
	if r := recover(); r != nil {
		p.breakLocked(panicked(r))
	}
}

// sendSome sends one message; mu is held before and after.
func (p *pipe) sendSome() {
	msg := &keyvaluev1.PipelineResponse{}
	if p.going {
		p.going, msg.GoingAway = false, &keyvaluev1.GoingAway{}
	}
	n, size := 0, 0
	for n < len(p.out) && (n == 0 || size+p.out[n].size <= maxMessage) {
		size += p.out[n].size
		n++
	}
	now := p.out[:n]
	msg.Answers = make([]*keyvaluev1.Answer, n)
	for i, o := range now {
		msg.Answers[i] = o.answer
		delete(p.flying, o.request.GetId())
	}
	rest := append(p.spare[:0], p.out[n:]...)
	p.out, p.spare = rest, nil
	p.since = time.Now()
	p.arm(p.since.Add(slowAfter))
	err := p.transmit(msg)
	p.since = time.Time{}
	for _, o := range now {
		p.bytes -= o.size
		if o.begun {
			p.begun--
		}
	}
	p.unsent -= n
	clear(now)
	p.spare = now[:0]
	if err != nil && p.err == nil {
		p.err = err
	}
	p.room.Broadcast()
}

// transmit sends a message; mu is held before and after.
func (p *pipe) transmit(msg *keyvaluev1.PipelineResponse) error {
	p.mu.Unlock()
	defer p.mu.Lock()
	return p.stream.SendMsg(msg)
}

// write sends a message before anybody else can.
func (p *pipe) write(msg *keyvaluev1.PipelineResponse) {
	if err := p.stream.SendMsg(msg); err != nil {
		p.stop(err)
	}
}

// watch makes sure that operations are answered when they are due.
func (p *pipe) watch(ops []operation) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range ops {
		o := &ops[i]
		if o.due = o.ticket.Deadline; o.answer == nil && !o.due.IsZero() {
			p.arm(o.due)
		}
	}
}

// arm makes tick run at the given time or before; mu is held.
func (p *pipe) arm(at time.Time) {
	if p.finished || !p.timerAt.IsZero() && !at.Before(p.timerAt) {
		return
	}
	p.timerAt = at
	if p.timer == nil {
		p.timer = time.AfterFunc(time.Until(at), p.tick)
		return
	}
	p.timer.Reset(time.Until(at))
}

// tick answers what is due and ends a stream whose client does not read.
func (p *pipe) tick() {
	defer p.survive(nil)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timerAt = time.Time{}
	if p.finished {
		return
	}
	now := time.Now()
	if !p.since.IsZero() {
		if end := p.since.Add(slowAfter); now.Before(end) {
			p.arm(end)
		} else if p.err == nil {
			p.breakLocked(errs.New(errs.SlowReader, "no answer was read for %s; read answers while sending operations", slowAfter))
			return
		}
	}
	for _, o := range p.flying {
		switch {
		case o.answer != nil || o.due.IsZero():
		case now.Before(o.due):
			p.arm(o.due)
		default:
			p.put(o, p.refusal(o, errs.Deadline))
		}
	}
	p.flushLocked()
}

// goAway asks the client to move, and gives it time to.
func (p *pipe) goAway() {
	p.mu.Lock()
	p.going = true
	p.flushLocked()
	p.mu.Unlock()
	select {
	case <-p.ended:
	case <-p.door.Gone():
		p.refuseRest()
	}
}

// refuseRest ends a stream whose client has not gone. What comes while the
// last operations are carried out is refused by the door, and keeps nothing
// from ending.
func (p *pipe) refuseRest() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gone = true
	for p.begun > 0 && !p.stopped {
		p.room.Wait()
	}
	p.breakLocked(nil)
}

// stop ends the beginning of operations; those in flight go on.
func (p *pipe) stop(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.breakLocked(err)
}

func (p *pipe) breakLocked(err error) {
	if err != nil && p.err == nil {
		p.err = err
	}
	if !p.stopped {
		p.stopped = true
		close(p.ended)
	}
	p.room.Broadcast()
}

// survive keeps a panic in one of the stream's goroutines from ending the
// process. The operations that the goroutine carries out are answered; one
// that carries out none holds the stream together, which then breaks. It is
// deferred.
func (p *pipe) survive(ops []*operation) {
	r := recover()
	if r == nil {
		return
	}
	err := panicked(r)
	if ops == nil {
		p.stop(err)
		return
	}
	told := p.door.Status(err) // once for all of them: it is logged
	for _, o := range ops {
		if !o.left {
			o.left = true
			p.door.Leave(o.ticket, err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, o := range ops {
		p.put(o, &keyvaluev1.Answer{Id: o.request.GetId(), Result: &keyvaluev1.Answer_Error{Error: told}})
	}
	p.flushLocked()
}

func panicked(r any) error {
	return errs.Wrap(fmt.Errorf("panic: %v\n%s", r, debug.Stack()), errs.Internal, "")
}

// finish waits until all that was begun is answered, unless the stream broke.
func (p *pipe) finish() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.unsent > 0 && p.err == nil {
		p.room.Wait()
	}
	return p.err
}

// close frees what the stream holds; operations still running find nobody to
// answer.
func (p *pipe) close() {
	p.mu.Lock()
	p.finished = true
	if p.timer != nil {
		p.timer.Stop()
	}
	p.room.Broadcast()
	p.mu.Unlock()
}
