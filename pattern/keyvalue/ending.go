package keyvalue

import (
	"fmt"
	"runtime/debug"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/errs"
)

// goAway asks the client to move, and gives it time to.
func (p *pipe) goAway() {
	p.mu.Lock()
	p.going = true
	p.flushLocked()
	p.mu.Unlock()
	select {
	case <-p.ended:
	case <-p.terms.Gone:
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
	p.room.Broadcast()
	for p.begun > 0 && !p.stopped {
		p.room.Wait()
	}
	p.breakLocked(nil)
}

// stop ends the reading of operations; those that were read go on.
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
		a := &keyvaluev1.Answer{Id: o.request.GetId(), Result: &keyvaluev1.Answer_Error{Error: told}}
		p.giveBack(o)
		p.put(o, a, a.SizeVT())
	}
	p.flushLocked()
}

func panicked(r any) error {
	return errs.Wrap(fmt.Errorf("panic: %v\n%s", r, debug.Stack()), errs.Internal, "")
}

// finish waits until all that was read is answered, unless the stream broke.
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
	defer p.mu.Unlock()
	p.finished = true
	if p.timer != nil {
		p.timer.Stop()
	}
	for _, o := range p.out {
		p.hold(-o.holds)
	}
	p.out = nil
	p.tell()
	p.room.Broadcast()
}
