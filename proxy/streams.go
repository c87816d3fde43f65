package proxy

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
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

// streams are the open streams of operations, which are asked to go when they
// are old and when the proxy stops, and the lasting ones, which keep their
// place until it stops.
type streams struct {
	going, gone   chan struct{} // closed when every stream should go, and when its time is over
	asked, passed sync.Once

	mu    sync.Mutex // guards the rest
	stays map[*stay]struct{}
}

func newStreams() *streams {
	return &streams{going: make(chan struct{}), gone: make(chan struct{}), stays: make(map[*stay]struct{})}
}

// goAway asks every stream to go.
func (s *streams) goAway() {
	s.asked.Do(func() {
		close(s.going)
		for _, one := range s.staying() {
			s.ask(one, pattern.ErrGoing)
		}
	})
}

// refuse lets nothing in any more, over streams or not.
func (s *streams) refuse() {
	s.passed.Do(func() {
		close(s.gone)
		for _, one := range s.staying() {
			one.overdue()
		}
	})
}

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

// DefaultUnsent is how many bytes of answers the streams of operations hold
// together unless Options say otherwise, or a quarter of GOMEMLIMIT is less.
const DefaultUnsent = 256 << 20

// unsentLimit is the default under a limit of the process' memory.
func unsentLimit(memory int64) int64 { return min(DefaultUnsent, memory/4) }

// unsent is the room for answers of streams that are not sent. One stream may
// hold an eighth of what the others leave: whoever does not read has the less
// the more do so, and who reads what it asked for finds room. That bounds what
// is begun, by what is expected of it; answers that are larger than expected
// are refused where twice the limit is held.
type unsent struct {
	limit int64
	held  atomic.Int64
}

// room returns what pattern.Door says.
func (u *unsent) room() int {
	held := u.held.Load()
	if held > 2*u.limit {
		return -1
	}
	return int(max(u.limit-held, 0) / 8)
}

// collector shows what is held.
func (u *unsent) collector() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "prism_streams_unsent_bytes", Help: "Bytes of answers on streams that are not sent, with those expected of operations in flight.",
	}, func() float64 { return float64(u.held.Load()) })
}
