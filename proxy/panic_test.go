package proxy

import (
	"context"
	"testing"
	"time"

	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/namespace"
	"github.com/prismgw/prism/pattern"
)

// oneMethod returns a proxy with one method on one namespace, "n".
func oneMethod(t *testing.T, l *limits) (*Proxy, *method, *target) {
	t.Helper()
	p, err := New(Options{Loopback: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.closeBackends)
	m := &method{name: "Retrieve", class: 1}
	p.metrics.methods, p.metrics.seconds = []*method{m}, []*durations{newHistogram("h", "", [2]string{"a", "b"}).with("", "")}
	to := &target{anonymous: namespace.AnonymousReadWrite, limits: l, counters: p.metrics.hold("n", "p")}
	s := newSnapshot()
	s.namespaces["n"] = &tenant{plan: &namespace.Placement{Name: "n"}, kinds: [][]*target{{to}}}
	p.snapshot.Store(s)
	return p, m, to
}

// A panic ends its call, not the process, and gives back what the call held.
func TestPanicEndsOnlyItsCall(t *testing.T) {
	t.Parallel()
	p, m, to := oneMethod(t, newLimits(0, 0, 1))
	s := p.snapshot.Load()
	c := &call{Context: t.Context(), method: m, transport: overHTTP, selectors: selectors{namespace: "n"}}
	err := p.serve(c, func(context.Context, pattern.Instance) error { panic("made up") })
	if errs.ReasonOf(err) != errs.Internal {
		t.Errorf("%v", err)
	}
	if n := to.limits.inFlight.Load(); n != 0 {
		t.Errorf("%d places are still taken", n)
	}
	if n := s.users.Load(); n != 1 {
		t.Errorf("the configuration has %d users", n)
	}
}

// The same for an operation of a stream.
func TestPanicEndsOnlyItsOperation(t *testing.T) {
	t.Parallel()
	p, m, to := oneMethod(t, nil) // no limits: that is the panic
	s := p.snapshot.Load()
	p.kinds.methods = []map[string]*method{{m.name: m}}
	d := &door{proxy: p, call: &call{Context: t.Context(), method: m, selectors: selectors{namespace: "n"}}, last: map[string]*admission{}}
	if _, err := d.Enter(t.Context(), pattern.Entry{Method: m.name, Received: time.Now()}); errs.ReasonOf(err) != errs.Internal {
		t.Errorf("%v", err)
	}
	if n := s.users.Load(); n != 1 {
		t.Errorf("the configuration has %d users", n)
	}
	if to.counters.rows[m.index*int(transports)+int(overPipeline)].Load() == nil {
		t.Error("it was not counted")
	}
}
