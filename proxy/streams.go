package proxy

import (
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prismgw/prism/errs"
)

// streamAge is when a stream is asked to move to another connection, give or
// take a fifth, so that load follows new proxies.
const streamAge = 10 * time.Minute

// goingGrace is the time that clients get to go elsewhere. Until then whatever
// comes is served: it was on its way. What comes later is refused with
// errs.Draining, so that whoever sent it knows that it had no effect. When the
// proxy stops this is half of the drain time at most: the other half is for
// what is in flight.
const goingGrace = 5 * time.Second

// Both are told before anything is done.
var (
	errDraining = errs.New(errs.Draining, "this proxy is shutting down, and nothing was done; repeat it on a new connection, which leads to another proxy")
	errGone     = errs.New(errs.Draining, "this stream was asked to go some seconds ago, and nothing was done; repeat it on a new stream")
)

// streams are the open streams of operations. They are asked to go when they
// are old and when the proxy stops.
type streams struct {
	going, gone   chan struct{} // closed when every stream should go, and when its time is over
	asked, passed sync.Once
}

func newStreams() *streams {
	return &streams{going: make(chan struct{}), gone: make(chan struct{})}
}

// goAway asks every stream to go.
func (s *streams) goAway() { s.asked.Do(func() { close(s.going) }) }

// refuse lets nothing in any more, over streams or not.
func (s *streams) refuse() { s.passed.Do(func() { close(s.gone) }) }

// refuses returns what an operation is told that comes after refuse.
func (s *streams) refuses() error {
	select {
	case <-s.gone:
		return errDraining
	default:
		return nil
	}
}

// join returns the channels that tell a new stream to go, and that its time
// to do so is over; leave must follow.
func (s *streams) join() (leave func(), going, gone <-chan struct{}) {
	asked, over, left := make(chan struct{}), make(chan struct{}), make(chan struct{})
	age := streamAge*4/5 + rand.N(streamAge*2/5)
	go func() {
		if either(age, s.going, left) {
			close(asked)
		}
		if either(goingGrace, s.gone, left) {
			close(over)
		}
	}()
	return func() { close(left) }, asked, over
}

// either waits for a time, or for something that comes sooner, and reports
// whether the stream is still there then.
func either(d time.Duration, sooner, left <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-sooner:
	case <-left:
		return false
	}
	return true
}
