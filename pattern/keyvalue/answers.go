package keyvalue

import (
	"runtime"
	"sync/atomic"
	"time"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/errs"
)

const (
	maxMessage = 31 << 10         // bytes of answers in one message; the next size of gRPC's buffers is 1 MiB
	slowAfter  = 10 * time.Second // a client that reads nothing for so long loses the stream
)

// Clients that do not read must not fill the memory: all streams together have
// only so much room for answers that are not sent (pattern.Door.Room). An
// operation is begun when its stream has room for the answer that is to be
// expected; what it holds is put right when the answer is there, and given
// back when it was sent. So who does not read begins nothing more, and others
// go on.
const (
	smallAnswer = 256      // of a write, or an error
	largeAnswer = 4 << 10  // from here on an answer is worth to be refused when there is no room at all
	firstAnswer = 64 << 10 // what is expected of reads before there were any
)

// sizes learns how large the values are that a store's reads find.
type sizes struct {
	mean atomic.Int64 // 0: not known
}

// expected is what to hold for a read. Twice the mean leaves room for a mixture.
func (s *store) expected() int {
	if s == nil {
		return firstAnswer
	}
	if mean := s.sizes.mean.Load(); mean > 0 {
		return int(min(max(2*mean, smallAnswer), maxOperation))
	}
	return firstAnswer
}

// learn takes note of n values with so many bytes together. The mean goes back
// over a few dozen reads: streams that were idle together wake up together.
func (z *sizes) learn(n, bytes int) {
	const memory = 32
	mean := z.mean.Load()
	if mean == 0 {
		mean = firstAnswer / 2
	}
	k := int64(n)
	if next := max((mean*memory+int64(bytes))/(memory+k), 1); next != mean {
		z.mean.Store(next) // of two at once one is lost, which does no harm
	}
}

// hold takes note of bytes of answers that the stream holds more, or fewer; mu
// is held.
func (p *pipe) hold(bytes int) {
	p.held += bytes
	p.untold += bytes
}

// tell tells the door; mu is held.
func (p *pipe) tell() {
	if p.untold == 0 {
		return
	}
	p.door.Hold(p.untold)
	if p.untold < 0 {
		p.room.Broadcast()
	}
	p.untold = 0
}

// giveBack gives up what was held for an operation that is no longer carried
// out; mu is held.
func (p *pipe) giveBack(o *operation) {
	p.hold(-o.reserve)
	o.reserve = 0
}

// drop is giveBack for operations that were never carried out, because of a
// panic. Their stream breaks.
func (p *pipe) drop(ops []operation) {
	if len(ops) == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range ops {
		p.giveBack(&ops[i])
	}
	p.tell()
}

// leave ends an admitted operation and answers it.
func (p *pipe) leave(o *operation, a *keyvaluev1.Answer, outcome error) {
	a = p.settle(o, a, outcome)
	p.end(o, a, o.length)
}

// leaveAll ends the operations of a batch and sends their answers together.
func (p *pipe) leaveAll(ops []*operation, answer func(int) (*keyvaluev1.Answer, error)) {
	answers := make([]*keyvaluev1.Answer, len(ops))
	for i, o := range ops {
		a, err := answer(i)
		answers[i] = p.settle(o, a, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, o := range ops {
		p.giveBack(o)
		p.put(o, answers[i], o.length)
	}
	p.flushLocked()
}

// settle gives an operation's ticket back and returns its answer.
func (p *pipe) settle(o *operation, a *keyvaluev1.Answer, outcome error) *keyvaluev1.Answer {
	if outcome == nil {
		a.Id = o.request.GetId()
		o.length = a.SizeVT()
		outcome = p.unfit(o.length)
	}
	o.left = true
	p.door.Leave(o.ticket, outcome)
	if outcome != nil {
		a = p.refusal(o, outcome)
		o.length = a.SizeVT()
	}
	return a
}

// unfit says why an answer of this size cannot be sent. Only reads have large
// ones, so that nothing was done.
func (p *pipe) unfit(size int) error {
	switch {
	case size > maxOperation:
		return errs.TooLarge("pipeline", size, maxOperation)
	case size > largeAnswer && p.door.Room() < 0:
		return errs.New(errs.Overloaded, "the proxy holds too many answers that their clients do not read; retry after the delay given")
	}
	return nil
}

// end answers an operation that is no longer carried out.
func (p *pipe) end(o *operation, a *keyvaluev1.Answer, length int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.giveBack(o)
	p.put(o, a, length)
	p.flushLocked()
}

// giveUp answers an operation before its end, or before its turn; mu is held.
func (p *pipe) giveUp(o *operation, outcome error) {
	if o.answer == nil {
		a := p.refusal(o, outcome)
		o.over = outcome
		p.put(o, a, a.SizeVT())
	}
}

func (p *pipe) refusal(o *operation, outcome error) *keyvaluev1.Answer {
	return &keyvaluev1.Answer{Id: o.request.GetId(), Result: &keyvaluev1.Answer_Error{Error: p.door.Status(outcome)}}
}

// put queues an answer, unless the operation has one; mu is held.
func (p *pipe) put(o *operation, a *keyvaluev1.Answer, length int) {
	if o.answer != nil || p.finished {
		return
	}
	o.answer, o.holds = a, length
	p.bytes += length
	p.hold(length)
	p.out = append(p.out, o)
}

// flushLocked sends what is queued unless another goroutine is at it, which
// will then send this too. mu is held, and released while sending.
func (p *pipe) flushLocked() {
	p.tell()
	if p.sending {
		return
	}
	p.sending = true
	if p.begun > len(p.out) {
		// Others are carried out: what is about to end gets into this message.
		p.mu.Unlock()
		runtime.Gosched()
		p.mu.Lock()
	}
	for (len(p.out) > 0 || p.going) && p.err == nil && !p.finished {
		p.sendSome()
	}
	p.sending = false
}

// sendSome sends one message; mu is held before and after.
func (p *pipe) sendSome() {
	msg := &keyvaluev1.PipelineResponse{}
	if p.going {
		p.going, msg.GoingAway = false, &keyvaluev1.GoingAway{}
	}
	n, size := 0, 0
	for n < len(p.out) && (n == 0 || size+p.out[n].holds <= maxMessage) {
		size += p.out[n].holds
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
	for _, a := range msg.Answers {
		if r := a.GetRetrieve(); r != nil {
			r.Value = nil // the batch's other answers hold the memory around it
		}
	}
	p.since = time.Time{}
	p.sent(now, size)
	if err != nil {
		p.breakLocked(err)
	}
	p.room.Broadcast()
}

// transmit sends a message; mu is held before and after. A panic in it is the
// end of the stream: nobody knows what the client was told.
func (p *pipe) transmit(msg *keyvaluev1.PipelineResponse) (err error) {
	p.mu.Unlock()
	defer func() {
		if r := recover(); r != nil {
			err = panicked(r)
		}
		p.mu.Lock()
	}()
	return p.stream.SendMsg(msg)
}

// sent takes the operations of a message off the books; mu is held.
func (p *pipe) sent(ops []*operation, size int) {
	for _, o := range ops {
		p.asked -= o.size
		if o.begun {
			p.begun--
			p.bytes -= o.size
		}
	}
	p.unsent -= len(ops)
	p.bytes -= size
	p.hold(-size)
	p.tell()
	clear(ops)
	p.spare = ops[:0]
}

// write sends a message before anybody else can.
func (p *pipe) write(msg *keyvaluev1.PipelineResponse) {
	if err := p.stream.SendMsg(msg); err != nil {
		p.stop(err)
	}
}
