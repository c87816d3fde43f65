package drivertest

import (
	"context"
	"slices"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/faultproxy"
)

// radio is a server behind a proxy, seen through it and directly.
type radio struct {
	*topics
	server Server
	proxy  *faultproxy.Proxy
	direct *topics
}

func (e *env) radio(mode faultproxy.Mode) *radio {
	e.Helper()
	server := e.s.h.Server(e.TB)
	proxy := faultproxy.Listen(e.TB, server.Addr)
	proxy.Set(mode)
	t := e.topicsOn(e.openConfig(server.Config(proxy.Addr)), e.spaceIn(server.Config(server.Addr)))
	return &radio{topics: t, server: server, proxy: proxy, direct: e.topicsOn(e.openConfig(server.Config(server.Addr)), t.space)}
}

// fault calls what there is on a server that is not well.
func (r *radio) fault(publish []errs.Reason) {
	r.Helper()
	r.timed("publish", publish, func(ctx context.Context) []error {
		results := slices.Repeat([]error{errs.Internal}, 2)
		r.Publish(ctx, []driver.Message{{Subject: "a", Payload: []byte("lost")}, {Subject: "b"}}, results)
		return results
	})
	r.timed("subscribe", readFaults, func(ctx context.Context) []error {
		s, err := r.Subscribe(ctx, driver.SubscribeRequest{Filter: "b"})
		if err == nil {
			_ = s.Close()
		}
		return []error{err}
	})
}

// heals waits until what is published directly comes to a listener again, and
// what is published through the proxy as well.
func (r *radio) heals(l *listener) {
	r.Helper()
	for start := time.Now(); ; {
		probe := "healed-" + unique()
		ctx, cancel := r.soon()
		results := make([]error, 1)
		for _, from := range []*topics{r.direct, r.topics} {
			if from.Publish(ctx, []driver.Message{{Subject: "a", Payload: []byte(probe)}}, results); results[0] != nil {
				break
			}
		}
		for results[0] == nil && !slices.Contains(l.got, "a="+probe) && l.take(ctx) == nil {
		}
		cancel()
		if slices.Contains(l.got, "a="+probe) {
			return
		}
		if took := time.Since(start); took > healing {
			r.Fatalf("no message comes %s after the server was well again; publish: %s", took, describe(results[0]))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// gap reports a subscription whose connection was lost and that has not said so.
func (l *listener) gap() {
	l.Helper()
	if !l.vague {
		l.Errorf("%s: was not told that messages may have been missed", l.name)
	}
	l.vague = false
}

func pubsubAway(e *env) {
	r := e.radio(faultproxy.Refuse)
	r.fault(unsentFaults)
	r.proxy.Set(faultproxy.Pass)
	var l *listener
	e.await("a subscription", func() bool {
		s, err := r.Subscribe(e.ctx, driver.SubscribeRequest{Filter: "a"})
		if err == nil {
			l = &listener{env: e, Subscription: s, name: "a"}
			e.Cleanup(func() { _ = s.Close() })
		}
		return err == nil
	})
	r.heals(l)
}

func pubsubKilled(e *env) {
	r := e.radio(faultproxy.Pass)
	l := r.listen("a")
	r.publish("a", "1")
	l.gets("a=1")
	for range 2 {
		r.server.Process.Kill()
		r.fault(writeFaults)
		r.server.Process.Start()
		r.heals(l)
		l.gap()
	}
}

func pubsubPaused(e *env) {
	r := e.radio(faultproxy.Pass)
	l := r.listen("a")
	r.publish("a", "1")
	l.gets("a=1")
	r.server.Process.Pause()
	r.fault(writeFaults)
	r.server.Process.Resume()
	r.heals(l)
}

func pubsubCut(e *env) {
	r := e.radio(faultproxy.Pass)
	l := r.listen("a")
	for range 3 {
		r.heals(l)
		l.vague = false
		r.proxy.Set(faultproxy.Cut)
		r.proxy.Set(faultproxy.Refuse)
		r.direct.publish("a", "missed")
		r.fault(writeFaults)
		r.proxy.Set(faultproxy.Pass)
		r.heals(l)
		l.gap()
		if slices.Contains(l.got, "a=missed") {
			e.Error("what was published while there was no connection has come")
		}
	}
}

func pubsubGarbage(e *env) {
	r := e.radio(faultproxy.Pass)
	l := r.listen("a")
	for range 2 {
		r.heals(l)
		r.proxy.Set(faultproxy.Garbage)
		r.fault(writeFaults)
		r.proxy.Set(faultproxy.Pass)
		r.heals(l)
	}
}
