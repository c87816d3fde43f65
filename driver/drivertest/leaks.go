package drivertest

import (
	"context"
	"time"

	"go.uber.org/goleak"

	"github.com/prismgw/prism/driver"
)

// leakCheck opens, uses and closes connections and looks for goroutines that
// are left. It runs when nothing else does.
var leakCheck = check{"leaks/goroutines", nil, func(e *env) {
	before := goleak.IgnoreCurrent()
	for range 3 {
		conn, err := e.s.h.Driver.Open(e.s.h.Config)
		if err != nil {
			e.Fatalf("open: %v", err)
		}
		e.useEverything(conn)
		if err := conn.Close(); err != nil {
			e.Errorf("close: %v", err)
		}
	}
	if err := goleak.Find(before); err != nil {
		e.Errorf("after close: %v", err)
	}
}}

// useEverything uses each method of a connection, and leaves a watch open.
func (e *env) useEverything(conn driver.Conn) {
	e.Helper()
	s := e.storeOn(conn, e.space())
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
