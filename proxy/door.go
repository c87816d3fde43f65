package proxy

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"

	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
)

// operations serves a stream of operations. The stream itself is only looked
// at; every operation goes through the steps of serve by itself, on the
// configuration that is current when it comes.
func (p *Proxy) operations(m *method, next pattern.StreamFunc) grpc.StreamHandler {
	return func(_ any, ss grpc.ServerStream) error {
		c := &call{Context: ss.Context(), proxy: p, method: m, transport: overGRPC, start: time.Now()}
		p.readMetadata(ss.Context(), c)
		c.selectors.id() // made now: operations that fail will use it side by side
		d := &door{proxy: p, call: c, last: make(map[string]*admission)}
		err := d.open()
		if err == nil {
			err = d.run(next, ss)
		}
		p.metrics.count(c.target, m, overGRPC, c.start, err)
		if c.target != nil {
			c.target.counters.drop()
		}
		return p.status(c, err)
	}
}

// run serves the stream that the door was opened for.
func (d *door) run(next pattern.StreamFunc, ss grpc.ServerStream) (err error) {
	defer recovered(&err)
	d.proxy.metrics.open(d.call.method, 1)
	defer d.proxy.metrics.open(d.call.method, -1)
	var leave func()
	leave, d.going, d.gone = d.proxy.streams.join()
	defer leave()
	return next(d, &servedStream{ServerStream: ss, ctx: ss.Context(), received: func() error { return nil }})
}

// door is the pattern.Door of one stream.
type door struct {
	proxy *Proxy
	call  *call
	going <-chan struct{}
	gone  <-chan struct{}

	plain sync.Map // of *rpcstatus.Status, by errs.Reason

	source source // the stream takes turns with the namespace's others

	last map[string]*admission // by method; only the stream's reader uses it
}

var _ pattern.Door = (*door)(nil)

// open judges the stream's selectors once, so that a wrong one fails at once
// and not with each operation.
func (d *door) open() error {
	c := d.call
	if err := c.selectors.check(); err != nil {
		return err
	}
	snapshot := d.proxy.current()
	defer snapshot.release()
	t, err := snapshot.resolve(&c.selectors, c.method)
	if err != nil {
		return err
	}
	c.target = t
	t.counters.hold() // the configuration may go before the stream
	if err := t.authenticate(&c.selectors); err != nil {
		return err
	}
	if err := t.authorize(c.method); err != nil {
		return err
	}
	return d.proxy.streams.refuses()
}

// admission is what a door remembers of an operation that is in.
type admission struct {
	snapshot *snapshot
	target   *target
	method   *method
	span     trace.Span // nil: none
}

// Enter implements pattern.Door.
func (d *door) Enter(ctx context.Context, e pattern.Entry) (pattern.Ticket, error) {
	snapshot := d.proxy.current()
	a := d.admission(snapshot, e.Method)
	if a == nil {
		snapshot.release()
		return pattern.Ticket{}, errs.New(errs.Unsupported, "this proxy does not know this kind of operation; it is older than the client")
	}
	m, now := a.method, e.Received
	t := pattern.Ticket{Entered: now}
	var span trace.Span
	if d.proxy.tracing != nil {
		_, span = d.proxy.tracing.start(ctx, &parent{traceparent: e.Traceparent}, m, &d.call.selectors, now)
	}
	if err := d.admit(ctx, a, &e); err != nil {
		d.proxy.metrics.count(a.target, m, overPipeline, now, err)
		snapshot.release()
		if span != nil {
			end(span, err)
		}
		return pattern.Ticket{}, err
	}
	t.Instance = a.target.instance
	if t.State = a; span != nil {
		t.State = &admission{snapshot, a.target, m, span}
	}
	return t, nil
}

// admission returns the one of a method, whose target stays the same as long as
// the configuration does; nil if there is no such method.
func (d *door) admission(s *snapshot, name string) *admission {
	if a := d.last[name]; a != nil && a.snapshot == s {
		return a
	}
	if m := d.proxy.kinds.methods[d.call.method.kind][name]; m != nil {
		return &admission{snapshot: s, method: m}
	}
	return nil
}

// admit takes one operation through the steps that a call goes through in
// serve, as far as the stream has not been through them. A panic is the
// operation's outcome.
func (d *door) admit(ctx context.Context, a *admission, e *pattern.Entry) (err error) {
	defer recovered(&err)
	if a.target == nil {
		if a.target, err = a.snapshot.resolve(&d.call.selectors, a.method); err != nil {
			return err
		}
		d.last[a.method.name] = a
	}
	if err := a.target.authenticate(&d.call.selectors); err != nil {
		return err
	}
	if err := a.target.authorize(a.method); err != nil {
		return err
	}
	if e.Over != nil {
		return e.Over
	}
	select {
	case <-d.gone:
		return errGone
	default:
	}
	return d.proxy.gate.enter(ctx, a.target.limits, &d.source, a.method, e.Flush)
}

// Leave implements pattern.Door.
func (d *door) Leave(t pattern.Ticket, outcome error) {
	a, ok := t.State.(*admission)
	if !ok {
		return
	}
	d.proxy.gate.exit(a.target.limits)
	d.proxy.metrics.count(a.target, a.method, overPipeline, t.Entered, outcome)
	a.snapshot.release()
	if a.span != nil {
		end(a.span, outcome)
	}
}

// Status implements pattern.Teller. What a plain reason makes is kept: a miss is
// as frequent as a hit, and the request id is the stream's.
func (d *door) Status(outcome error) *rpcstatus.Status {
	r, plain := outcome.(errs.Reason) //nolint:errorlint // one that is wrapped says more
	if !plain || r == errs.Internal || r == errs.Unknown {
		return d.call.Status(outcome)
	}
	if st, ok := d.plain.Load(r); ok {
		return st.(*rpcstatus.Status) //nolint:errcheck,forcetypeassert // it holds nothing else
	}
	st := d.call.Status(outcome)
	d.plain.Store(r, st)
	return st
}

// Terms implements pattern.Door.
func (d *door) Terms() pattern.Terms {
	return pattern.Terms{Subject: d.call.Subject, Timeout: unaryTimeout, Going: d.going, Gone: d.gone}
}

// Room implements pattern.Door.
func (d *door) Room() int { return d.proxy.unsent.room() }

// Hold implements pattern.Door.
func (d *door) Hold(bytes int) { d.proxy.unsent.held.Add(int64(bytes)) }
