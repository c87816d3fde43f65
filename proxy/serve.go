package proxy

import (
	"context"
	"crypto/rand"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"

	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
)

// selectors are what a request says about itself, in metadata or headers. All
// of it is only a wish until serve has judged it.
type selectors struct {
	namespace  string
	pattern    string
	requestID  string
	credential bool // an authorization was presented
	duplicate  string
	trace      parent // read only where there is tracing
}

// call is one request on its way through serve. It is also the context that
// the pattern gets: one allocation instead of one for each value and timer.
type call struct {
	context.Context //nolint:containedctx // call is a context

	pattern.Call
	proxy     *Proxy
	method    *method
	transport transport
	selectors selectors

	snapshot *snapshot
	target   *target
	stay     *stay         // of a lasting stream that has been let in
	overdue  chan struct{} // of a lasting one over gRPC: closed when it has had its time to end
	message  message
	inside   bool      // it has a place
	deadline time.Time // zero: the client's own, if it set one

	start                               time.Time
	timed                               bool      // somebody wants to know when each step was done
	authenticated, authorized, admitted time.Time // zero if it was not reached

	mu     sync.Mutex // guards the fields below
	until  context.Context
	cancel context.CancelFunc
}

var (
	_ context.Context = (*call)(nil)
	_ pattern.Meter   = (*call)(nil)
)

// serve takes a request through every step there is, in this order, and
// nothing else may touch one. What each transport does before is to read the
// selectors, and after to write the answer.
func (p *Proxy) serve(c *call, run func(ctx context.Context, instance pattern.Instance) error) error {
	c.proxy, c.start = p, time.Now()
	c.limitTime(c.timeout())
	defer c.release()

	var span trace.Span
	if p.tracing != nil {
		c.Context, span = p.tracing.start(c.Context, &c.selectors.trace, c.method, &c.selectors, c.start)
	}
	err := p.survive(c, run)
	p.metrics.count(c.target, c.method, c.transport, c.start, err)
	if c.snapshot != nil { // not before, or it could be the end of what is counted in
		c.snapshot.release()
	}
	if c.stay != nil {
		p.streams.leave(c.stay)
		c.target.counters.drop()
	}
	if span != nil {
		end(span, err)
	}
	return err
}

// survive keeps a panic of one call from ending the process, and every other
// call with it.
func (p *Proxy) survive(c *call, run func(ctx context.Context, instance pattern.Instance) error) (err error) {
	defer recovered(&err)
	return p.steps(c, run)
}

// recovered makes a panic an outcome. It is deferred.
func recovered(err *error) {
	if r := recover(); r != nil {
		*err = errs.Wrap(fmt.Errorf("panic: %v\n%s", r, debug.Stack()), errs.Internal, "")
	}
}

func (p *Proxy) steps(c *call, run func(ctx context.Context, instance pattern.Instance) error) error {
	if err := c.selectors.check(); err != nil {
		return err
	}
	c.snapshot = p.current()
	t, err := c.snapshot.resolve(&c.selectors, c.method)
	if err != nil {
		return err
	}
	c.target = t
	if err := t.authenticate(&c.selectors); err != nil {
		return err
	}
	c.stamp(&c.authenticated)
	if err := t.authorize(c.method); err != nil {
		return err
	}
	c.stamp(&c.authorized)
	if c.method.batch {
		c.Meter = c
	}
	if c.method.lasting {
		p.settle(c)
	}
	defer p.dismiss(c)
	if c.transport == overHTTP {
		if err := p.admit(c); err != nil {
			return err
		}
	}
	return run(c, t.instance)
}

// admit takes a place for a call. Over gRPC that is when its request has been
// received: a client that is slow to send takes nobody's place. Over HTTP it
// is before, and the call's deadline holds for the body.
func (p *Proxy) admit(c *call) error {
	if c.inside {
		return nil
	}
	if err := p.streams.refuses(); err != nil {
		return err
	}
	l := c.target.limits
	if err := p.gate.enter(c, l, &l.unary, c.method, nil); err != nil {
		return err
	}
	if c.inside = !c.method.lasting; !c.inside {
		p.gate.exit(l)
	}
	c.stamp(&c.admitted)
	return nil
}

// Take implements pattern.Meter.
func (c *call) Take(n int) error { return c.target.limits.checkRate(c.method, n, time.Now()) }

// dismiss gives a call's place back.
func (p *Proxy) dismiss(c *call) {
	if c.inside {
		p.gate.exit(c.target.limits)
	}
}

// check refuses what is wrong in itself, before anything is looked up.
func (s *selectors) check() error {
	switch {
	case strings.HasPrefix(s.namespace, "__") || strings.HasPrefix(s.pattern, "__"):
		return errs.New(errs.Forbidden, "names that begin with __ are Prism's own")
	case s.duplicate != "":
		return errs.Invalid(errs.Field{Path: s.duplicate, Text: "was given more than once; give it once"})
	case s.namespace == "":
		return errs.Invalid(errs.Field{Path: "x-prism-namespace", Text: "is missing; send it as metadata (gRPC) or name the namespace in the path (HTTP)"})
	}
	return nil
}

// requestIDLimit bounds what a client may choose as its request id.
const requestIDLimit = 128

// id returns the request's id: the client's own if it is printable and not too
// long, a new one otherwise.
func (s *selectors) id() string {
	if s.requestID == "" || len(s.requestID) > requestIDLimit || strings.ContainsFunc(s.requestID, unprintable) {
		s.requestID = rand.Text()
	}
	return s.requestID
}

func unprintable(r rune) bool { return r <= ' ' || r > '~' }

// timeout is the deadline of a call whose client set none. Over HTTP every
// call is one request and one answer, unless it lasts.
func (c *call) timeout() time.Duration {
	switch {
	case c.transport != overHTTP || c.method.lasting:
		return c.method.timeout
	case c.method.waiting:
		return waitingTimeout
	}
	return unaryTimeout
}

// stamp takes note of when a step was done.
func (c *call) stamp(at *time.Time) {
	if c.timed {
		*at = time.Now()
	}
}

// limitTime sets the deadline of a call whose client set none.
func (c *call) limitTime(timeout time.Duration) {
	if _, ok := c.Context.Deadline(); !ok && timeout > 0 {
		c.deadline = c.start.Add(timeout)
	}
}

// Deadline implements context.Context.
func (c *call) Deadline() (time.Time, bool) {
	if c.deadline.IsZero() {
		return c.Context.Deadline()
	}
	return c.deadline, true
}

// Done implements context.Context. The timer behind a deadline of the call's
// own is made only when something waits for it.
func (c *call) Done() <-chan struct{} {
	if c.deadline.IsZero() {
		return c.Context.Done()
	}
	return c.timer().Done()
}

// Err implements context.Context.
func (c *call) Err() error {
	if c.deadline.IsZero() {
		return c.Context.Err()
	}
	c.mu.Lock()
	until := c.until
	c.mu.Unlock()
	if until != nil {
		return until.Err()
	}
	if err := c.Context.Err(); err != nil {
		return err
	}
	if !time.Now().Before(c.deadline) {
		return context.DeadlineExceeded
	}
	return nil
}

// Value implements context.Context.
func (c *call) Value(key any) any {
	switch key.(type) {
	case pattern.CallKey:
		return &c.Call
	case pattern.TellerKey:
		return c
	}
	return c.Context.Value(key)
}

// Status implements pattern.Teller.
func (c *call) Status(outcome error) *rpcstatus.Status {
	e := errs.From(outcome)
	c.proxy.logCause(c, e)
	return e.Status(c.selectors.id()).Proto()
}

func (c *call) timer() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.until == nil {
		c.until, c.cancel = context.WithDeadline(c.Context, c.deadline)
	}
	return c.until
}

// release stops the timer, if there was one.
func (c *call) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cancel != nil {
		c.cancel()
	}
}
