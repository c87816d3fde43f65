package keyvalue

import (
	"context"
	"errors"
	"io"
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

// What is read beyond them, so that a cancel that comes behind operations for
// which there is no room is seen.
const (
	maxAhead      = maxInFlight
	maxAheadBytes = 1 << 20
)

// servePipeline serves one Pipeline stream (contracts 1.4).
//
// One goroutine reads. What it read runs in batches, one goroutine each, and
// whoever has an answer sends it together with all that queued up meanwhile.
// So a lone operation is answered at once, and under load both directions
// carry many operations per message without a timer.
//
// Operations for which there is no room wait in a queue, and one more
// goroutine begins them when there is; it is there only as long as any wait.
func servePipeline(door pattern.Door, stream grpc.ServerStream) error {
	p := &pipe{door: door, terms: door.Terms(), stream: stream, ctx: stream.Context(), flying: make(map[uint64]*operation), ended: make(chan struct{})}
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
	case <-p.terms.Going:
		p.goAway()
	}
	return p.finish()
}

// pipe is one stream.
type pipe struct {
	door   pattern.Door
	terms  pattern.Terms
	stream grpc.ServerStream
	ctx    context.Context //nolint:containedctx // the stream's own, which bounds everything here
	ended  chan struct{}   // closed when nothing more is read

	// Of whoever begins operations.
	latest *store // what the latest one runs on
	lately *term  // of the latest batch

	mu       sync.Mutex // guards the fields below
	room     sync.Cond  // signalled when something was sent or given back, or the stream ended
	flying   map[uint64]*operation
	queue    []message
	queued   int  // operations in it
	starting bool // startQueued begins operations, and nobody else may

	unsent int // operations that are not yet answered on the wire
	asked  int // bytes of them
	begun  int // of them, those that are or were carried out
	bytes  int // of those that are begun, and of unsent answers
	held   int // bytes of the proxy's room for answers; see answers.go
	untold int // of them, those that the door has not been told of

	out      []*operation
	spare    []*operation
	sending  bool
	since    time.Time // when the message that is being sent was begun
	going    bool      // GoingAway is to be sent
	gone     bool      // the client's time to go is over
	stopped  bool      // ended is closed
	err      error     // why the stream broke
	timer    *time.Timer
	timerAt  time.Time
	finished bool
}

// message is what is left of one message to be begun.
type message struct {
	ops      []operation
	received time.Time
}

// operation is one operation from its receipt until its answer is sent.
type operation struct {
	request *keyvaluev1.Operation
	size    int
	due     time.Time
	ticket  pattern.Ticket
	length  int  // of the answer, once the ticket was given back
	left    bool // the ticket has been given back
	skip    bool // it was answered before its turn came

	// Guarded by pipe.mu.
	begun   bool // it counts in pipe.begun
	reserve int  // bytes that are held for its answer while it is carried out
	answer  *keyvaluev1.Answer
	holds   int   // bytes that are held for the answer until it is sent
	over    error // why it was answered before its end
}

// read receives messages until the client half-closes or the stream breaks.
func (p *pipe) read() {
	defer p.survive(nil)
	var in intake
	for {
		err := p.stream.RecvMsg(&in)
		if err == nil {
			p.cancel(in.cancels)
			err = p.begin(in.operations)
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

// begin takes note of the operations of one message, and begins those for
// which there is room; the others go into the queue.
func (p *pipe) begin(all []keyvaluev1.Operation) error {
	m := message{make([]operation, len(all)), time.Now()}
	for i := range all {
		in := &all[i]
		timeout := time.Duration(in.GetTimeoutMs()) * time.Millisecond
		if timeout == 0 {
			timeout = p.terms.Timeout
		}
		m.ops[i] = operation{request: in, size: in.SizeVT(), due: m.received.Add(timeout)}
	}
	for len(m.ops) > 0 {
		n, now, queued, err := p.register(m)
		if err != nil {
			return err
		}
		if rest := p.start(now, false); queued || len(rest.ops) > 0 {
			p.handOver(rest)
		}
		m.ops = m.ops[n:]
	}
	return nil
}

// register takes note of n operations, of one at least, and waits for that
// while too many are unanswered. It returns those of them that the caller is to
// begin now, and whether it is to have the queue begun. Only a client that
// breaks the protocol gets an error, and loses the stream.
func (p *pipe) register(m message) (n int, now message, queued bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.behind() && !p.stopped {
		p.room.Wait()
	}
	if p.stopped {
		return 0, now, false, io.EOF
	}
	first := m.ops[0].due
	for n < len(m.ops) && !p.behind() {
		o := &m.ops[n]
		id := o.request.GetId()
		if id == 0 || p.flying[id] != nil {
			return n, now, false, errs.Invalid(errs.Field{Path: "operations.id", Text: "must not be zero, nor that of an operation in flight"})
		}
		p.flying[id] = o
		p.unsent++
		p.asked += o.size
		if n++; o.due.Before(first) {
			first = o.due
		}
	}
	p.arm(first)
	m.ops = m.ops[:n]
	if !p.starting {
		k := p.claim(m.ops)
		now = message{m.ops[:k], m.received}
		if m.ops = m.ops[k:]; len(m.ops) == 0 {
			return n, now, false, nil
		}
		p.starting, queued = true, true
	}
	p.queue = append(p.queue, m)
	p.queued += len(m.ops)
	return n, now, queued, nil
}

// behind reports whether enough was read; mu is held. What is cancelled before
// its turn is answered, and still counts as queued until then.
func (p *pipe) behind() bool {
	return p.unsent >= maxInFlight+maxAhead || p.asked >= maxInFlightBytes+maxAheadBytes || p.queued >= maxInFlight+maxAhead
}

// claim returns how many of the operations may be begun now; mu is held.
func (p *pipe) claim(ops []operation) (n int) {
	room, read := p.door.Room()-p.held, p.latest.expected()
	need := 0
	for ; n < len(ops); n++ {
		o := &ops[n]
		if o.skip = o.answer != nil; o.skip || p.gone {
			continue // it is only counted, or refused
		}
		if p.begun >= maxInFlight || p.bytes >= maxInFlightBytes {
			break
		}
		o.reserve = smallAnswer
		if _, reads := methodOf(o.request); reads {
			o.reserve = read
		}
		// Who holds nothing may begin one in any case.
		if need+o.reserve > room && p.held+need > 0 {
			o.reserve = 0
			break
		}
		need += o.reserve
		o.begun = true
		p.begun++
		p.bytes += o.size
	}
	p.hold(need)
	p.tell()
	return n
}

// start begins operations that were claimed. Where one has to wait for its
// admission, those behind it are returned, unless the caller has time: who
// reads has not, because cancels may follow.
func (p *pipe) start(m message, patient bool) (rest message) {
	reads, writes := batch{room: len(m.ops)}, batch{room: len(m.ops), write: true}
	waited, n := false, 0
	flush := func() {
		waited = true
		p.run(&reads)
		p.run(&writes)
	}
	defer func() {
		flush()
		p.drop(m.ops[n:]) // after a panic
	}()
	for ; n < len(m.ops); n++ {
		if waited && !patient {
			rest, m.ops = message{m.ops[n:], m.received}, m.ops[:n]
			return rest
		}
		p.enter(&m.ops[n], m.received, &reads, &writes, flush)
	}
	return rest
}

// handOver has operations that were claimed begun by another goroutine, and
// then the queue.
func (p *pipe) handOver(m message) {
	p.mu.Lock()
	p.starting = true
	p.mu.Unlock()
	go p.startQueued(m)
}

// startQueued begins what was claimed, and then what waits in the queue as
// there is room, until it is empty.
func (p *pipe) startQueued(m message) {
	defer p.survive(nil)
	p.start(m, true)
	for m = p.next(); len(m.ops) > 0; m = p.next() {
		p.start(m, true)
	}
}

// next returns what is to be begun from the queue, waiting for room; nothing
// if there is nothing left or the stream broke.
func (p *pipe) next() message {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.queue) > 0 && p.err == nil && !p.finished {
		m := &p.queue[0]
		n := p.claim(m.ops)
		if n == 0 {
			p.room.Wait()
			continue
		}
		now := message{m.ops[:n], m.received}
		p.queued -= n
		if m.ops = m.ops[n:]; len(m.ops) == 0 {
			p.queue = p.queue[1:]
		}
		return now
	}
	p.starting, p.queue, p.queued = false, nil, 0
	return message{}
}

// enter admits one operation and puts it into its batch.
func (p *pipe) enter(o *operation, received time.Time, reads, writes *batch, flush func()) {
	method, read := methodOf(o.request)
	entry := pattern.Entry{Method: method, Received: received, Traceparent: o.request.GetTraceparent(), Flush: flush}
	if o.skip {
		entry.Over = o.over
	}
	var err error
	o.ticket, err = p.door.Enter(p.ctx, entry)
	switch {
	case o.skip:
	case err != nil:
		a := p.refusal(o, err)
		p.end(o, a, a.SizeVT())
	case o.size > maxOperation:
		p.leave(o, nil, errs.TooLarge("pipeline", o.size, maxOperation))
	case read:
		p.add(reads, o)
	default:
		p.add(writes, o)
	}
}

// cancel answers operations whose clients no longer wait.
func (p *pipe) cancel(all []uint64) {
	for _, id := range all {
		p.mu.Lock()
		if o := p.flying[id]; o != nil {
			p.giveUp(o, errs.Cancelled)
			p.flushLocked()
		}
		p.mu.Unlock()
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
		case o.answer != nil:
		case now.Before(o.due):
			p.arm(o.due)
		default:
			p.giveUp(o, errs.Deadline)
		}
	}
	p.flushLocked()
}
