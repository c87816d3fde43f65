package drivertest

import (
	"context"
	"time"

	"go.uber.org/goleak"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/internal/testutil/faultproxy"
)

// leakCheck opens, uses and closes connections and looks for goroutines that
// are left. It runs when nothing else does.
var leakCheck = check{"leaks/goroutines", nil, func(e *env) {
	space := e.space()
	before := goleak.IgnoreCurrent()
	for range 3 {
		conn, err := e.s.h.Driver.Open(e.s.h.Config)
		if err != nil {
			e.Fatalf("open: %v", err)
		}
		e.useEverything(conn, space)
		if err := conn.Close(); err != nil {
			e.Errorf("close: %v", err)
		}
	}
	if err := goleak.Find(before); err != nil {
		e.Errorf("after close: %v", err)
	}
	if e.s.h.Server != nil {
		e.leaksAfterFaults()
	}
}}

// leaksAfterFaults closes a connection whose server is not well.
func (e *env) leaksAfterFaults() {
	e.Helper()
	p := e.patient()
	config := p.server.Config(p.proxy.Addr) // it may start what goes with the test
	before := goleak.IgnoreCurrent()
	conn, err := e.s.h.Driver.Open(config)
	if err != nil {
		e.Fatalf("open: %v", err)
	}
	e.useEverything(conn, p.space)
	for _, mode := range []faultproxy.Mode{faultproxy.Cut, faultproxy.Garbage, faultproxy.Pause} {
		p.proxy.Set(mode)
		p.again(conn).fault(readFaults, writeFaults)
	}
	if err := conn.Close(); err != nil {
		e.Errorf("close: %v", err)
	}
	p.proxy.Set(faultproxy.Refuse) // what the proxy held back goes
	if err := goleak.Find(before); err != nil {
		e.Errorf("after close on a server that is not well: %v", err)
	}
}

// useEverything uses each method of a connection, and leaves a watch open.
func (e *env) useEverything(conn driver.Conn, space driver.Space) {
	e.Helper()
	s := e.storeOn(conn, space)
	if err := conn.Ping(e.ctx); err != nil {
		e.Errorf("ping: %s", describe(err))
	}
	s.put("a", "1")
	s.putFor("b", "1", time.Hour)
	s.is("a", "1")
	s.getMany("a", "b")
	s.all("", 1)
	if s.watcher == nil {
		return
	}
	if _, err := s.watcher.Watch(e.ctx, ""); err != nil {
		e.Errorf("watch: %s", describe(err))
	}
	w, err := s.watcher.Watch(e.ctx, "")
	if err != nil {
		e.Fatalf("watch: %s", describe(err))
	}
	ctx, cancel := context.WithTimeout(e.ctx, 20*time.Millisecond)
	defer cancel()
	_, _ = w.Next(ctx)
}
