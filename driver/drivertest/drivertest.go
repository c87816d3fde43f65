// Package drivertest is the conformance suite of package driver: it checks each
// sentence of that contract against a technology. It is for the test files of
// drivers only. A driver's own test file is a harness:
//
//	func TestConformance(t *testing.T) {
//		shared := servers.Redis(t)
//		drivertest.Run(t, drivertest.Harness{
//			Name:       "redis",
//			Driver:     redis.Driver(),
//			Config:     driver.Config{Name: "test", URL: shared.URL},
//			Persistent: true,
//			Server: func(tb testing.TB) drivertest.Server {
//				s := servers.RedisWith(tb, "--appendonly", "yes", "--appendfsync", "always")
//				return drivertest.Server{
//					Process: s,
//					Addr:    s.Addr,
//					Config:  func(addr string) driver.Config { return driver.Config{URL: "redis://" + addr + "/0"} },
//				}
//			},
//			Exceptions: []drivertest.Exception{
//				{Check: "ttl/ten-years", Reason: "the server's own limit is 100 days"},
//			},
//		})
//	}
//
// An embedded technology leaves Server out; one that keeps its data in files
// gives a Config whose URL or Dir names them, in t.TempDir().
//
// RunBlob is the same for the primitive Blob, which a technology may have beside
// KV or alone, as are RunPubSub and RunLog for theirs.
//
// With PRISM_MATRIX_DIR set, a run that passes writes what it found to
// <Name>.json in that folder; docs/backends.md is made of those files.
package drivertest

import (
	"encoding/json"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
)

// A Harness says how the suite reaches one technology in one configuration.
type Harness struct {
	Name   string        // the row in docs/backends.md: "redis", "redis (cluster)"; "" for none
	Driver driver.Driver // the technology

	// Config opens the backend under test. It is opened many times, also
	// several times at once, and always has to reach the same data as long as
	// one connection is open. The suite uses spaces of its own, so that data
	// of earlier runs may be there.
	Config driver.Config

	// Layout runs the suite on data that Prism adopts: it makes a new place for
	// some in the backend that c opens, such as a table, and returns the layout
	// that reaches it. What it makes stays there until tb's cleanup, since a
	// connection answers for all that was adopted on it. nil: Prism's own layout.
	Layout func(tb testing.TB, c driver.Config) json.RawMessage

	// Topic makes a topic in the backend that c opens, as another program
	// would; RunLog asks for it. nil: there are no topics of others.
	Topic func(tb testing.TB, c driver.Config, partitions int) ForeignTopic

	// Persistent says that data is still there when all connections have been
	// closed and one is opened again.
	Persistent bool

	// Server starts a further server for one check that kills or pauses it,
	// or stands between it and the driver; tb's cleanup ends it. nil: the
	// technology is embedded, there is no server.
	Server func(tb testing.TB) Server

	// Exceptions are the checks that this technology cannot pass. They are
	// not run, and stand with their reasons in docs/backends.md.
	Exceptions []Exception
}

// A Server is a real server of its own for one check.
type Server struct {
	Process Process
	Addr    string // "127.0.0.1:6379"

	// Config reaches the server through an address: Addr, or that of a proxy
	// that stands before it.
	Config func(addr string) driver.Config
}

// A Process is what is done to a server's process. Each method returns when it
// is done and fails the test if it cannot be.
type Process interface {
	Kill()   // as kill -9 does
	Start()  // again, on the same address and data; returns when it answers
	Pause()  // as SIGSTOP does
	Resume() // as SIGCONT does
}

// An Exception names a check that a technology cannot pass, and why.
type Exception struct {
	Check  string
	Reason string
}

// A check is one row of the suite. needs returns why the check does not apply
// to a technology, "" if it does; nil means that it always does.
type check struct {
	name  string
	needs func(*env) string
	run   func(*env)
}

func allChecks() []check {
	return slices.Concat(
		connChecks(), basicChecks(), batchChecks(), spaceChecks(), conditionChecks(), versionChecks(),
		numberChecks(), ttlChecks(), scanChecks(), cursorChecks(), onceChecks(), watchChecks(),
		historyChecks(), faultChecks(), crashChecks(),
	)
}

// Run checks the technology that h reaches, each check in a subtest. The test
// that calls it must not be parallel: at its end Run looks for goroutines that
// were left behind.
func Run(t *testing.T, h Harness) {
	t.Helper()
	runChild(t, &h, childWriter)
	s := newSuite(t, &h)
	t.Run("checks", func(t *testing.T) {
		for _, c := range allChecks() {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				s.run(t, c)
			})
		}
	})
	s.close(t)
	t.Run("leaks/goroutines", func(t *testing.T) { s.run(t, leakCheck) })
	s.write(t, matrix{Driver: h.Name, Guarantees: &s.g, Watcher: s.watch})
}

// suite is one run over one harness.
type suite struct {
	tb     testing.TB
	h      *Harness
	anchor driver.Conn // open all the time, so that shared data stays
	checks []check     // what Exceptions may name
	g      driver.Guarantees
	watch  bool // whether the technology has a Watcher
	blob   driver.BlobGuarantees
	pubsub driver.PubSubGuarantees
	log    driver.LogGuarantees
	due    time.Duration // how long checks of Log wait for what a member is due
	queue  driver.QueueGuarantees

	mu      sync.Mutex // guards results
	results []result
}

func newSuite(tb testing.TB, h *Harness) *suite {
	tb.Helper()
	s, b := openSuite(tb, h, append(allChecks(), leakCheck))
	s.g = b.KV.Guarantees()
	s.watch = b.Watcher != nil
	return s
}

// openSuite returns a run of some checks, and a space to ask what is promised.
func openSuite(tb testing.TB, h *Harness, checks []check) (*suite, driver.Backend) {
	tb.Helper()
	for _, x := range h.Exceptions {
		known := slices.ContainsFunc(checks, func(c check) bool { return c.name == x.Check })
		if !known || x.Reason == "" {
			tb.Fatalf("exception %q: no check has this name, or no reason is given", x.Check)
		}
	}
	s := &suite{tb: tb, h: h, checks: checks}
	conn, err := h.Driver.Open(h.Config)
	if err != nil {
		tb.Fatalf("open: %v", err)
	}
	s.anchor = conn
	tb.Cleanup(func() { _ = conn.Close() })
	b, err := conn.Space(h.laidOut(tb, h.Config, driver.Space{Namespace: "drivertest", Pattern: "guarantees"}))
	if err != nil {
		tb.Fatalf("space: %v", err)
	}
	return s, b
}

func (s *suite) close(tb testing.TB) {
	if err := s.anchor.Close(); err != nil {
		tb.Errorf("close: %v", err)
	}
}

// run runs one check, unless it is an exception or does not apply.
func (s *suite) run(tb testing.TB, c check) {
	tb.Helper()
	if i := slices.IndexFunc(s.h.Exceptions, func(x Exception) bool { return x.Check == c.name }); i >= 0 {
		s.record(c.name, exception, s.h.Exceptions[i].Reason)
		tb.Logf("exception: %s", s.h.Exceptions[i].Reason)
		return
	}
	e := newEnv(tb, s)
	if c.needs != nil {
		if reason := c.needs(e); reason != "" {
			s.record(c.name, exception, reason)
			tb.Logf("does not apply: %s", reason)
			return
		}
	}
	c.run(e)
	if !tb.Failed() {
		s.record(c.name, pass, "")
	}
}
