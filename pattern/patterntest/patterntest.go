// Package patterntest holds the sentences of the patterns' contracts as tests,
// to be run on every driver: the matrix pattern × driver. It is for test files
// only. One test of it is a harness:
//
//	func TestSQLite(t *testing.T) {
//		patterntest.Run(t, patterntest.Harness{
//			Name:   "sqlite",
//			Driver: sqlite.Driver(),
//			Config: driver.Config{URL: "sqlite:data.db", Dir: t.TempDir()},
//		})
//	}
//
// With PRISM_MATRIX_DIR set, a run that passes writes what it found to a file in
// that folder; docs/backends.md is made of those files.
package patterntest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/wrap"
)

// A Harness says how the suite reaches one technology in one layout.
type Harness struct {
	Name   string // the column in docs/backends.md: "redis", "redis (adopted)"
	Driver driver.Driver
	Config driver.Config

	// Layout makes room for the data of one namespace, where nothing lies
	// yet, and returns the layout that reaches it. nil: Prism's own.
	Layout func(tb testing.TB, namespace string) json.RawMessage
}

// Run runs the contract of every pattern. The server may be shared with other
// runs: each test has a namespace that nobody used before.
func Run(t *testing.T, h Harness) {
	t.Helper()
	s := &suite{h: &h}
	conn, err := h.Driver.Open(h.Config)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	s.conn = conn
	b := s.space(t, s.place(t, "guarantees"))
	s.found = found{Suite: "patterntest", Driver: h.Name, Guarantees: b.KV.Guarantees(), Watcher: b.Watcher != nil}
	s.pubsub = b.PubSub != nil
	s.log = b.Log != nil
	s.queue = b.Queue != nil
	all := slices.Concat(keyValueChecks(), pubsubChecks(), topicChecks(), signingChecks(), queueChecks())
	t.Run("checks", func(t *testing.T) {
		for _, c := range all {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				s.run(t, c)
			})
		}
	})
	s.write(t, len(all))
}

// A check is one test of a pattern's contract. needs returns why it does not
// apply to a technology, "" if it does; nil means that it always does.
type check struct {
	name  string // "keyvalue/scan"
	needs func(*suite) string
	run   func(*testing.T, *suite)
}

// suite is one run over one harness.
type suite struct {
	h    *Harness
	conn driver.Conn

	pubsub bool // the technology has it
	log    bool // likewise
	queue  bool // likewise

	mu    sync.Mutex // guards found
	found found
}

// found is the file that a run writes.
type found struct {
	Suite      string            `json:"suite"`
	Driver     string            `json:"driver"`
	Checks     []result          `json:"checks"`
	Guarantees driver.Guarantees `json:"guarantees"`
	Watcher    bool              `json:"watcher"`
}

// result is what a check found.
type result struct {
	Name   string `json:"name"`
	Result string `json:"result"`
	Reason string `json:"reason,omitempty"`
}

func (s *suite) run(t *testing.T, c check) {
	t.Helper()
	if c.needs != nil {
		if reason := c.needs(s); reason != "" {
			t.Logf("does not apply: %s", reason)
			s.record(result{c.name, "exception", reason})
			return
		}
	}
	c.run(t, s)
	if !t.Failed() {
		s.record(result{c.name, "pass", ""})
	}
}

func (s *suite) record(r result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.found.Checks = append(s.found.Checks, r)
}

// place returns a new space: its namespace was never used before.
func (s *suite) place(tb testing.TB, name string) driver.Space {
	tb.Helper()
	sp := driver.Space{Namespace: name + "-" + strconv.FormatInt(time.Now().UnixNano(), 36), Pattern: "data"}
	if s.h.Layout != nil {
		sp.Layout = s.h.Layout(tb, sp.Namespace)
	}
	return sp
}

func (s *suite) space(tb testing.TB, sp driver.Space) driver.Backend {
	tb.Helper()
	b, err := s.conn.Space(sp)
	if err != nil {
		tb.Fatalf("space: %v", err)
	}
	if b.KV.Guarantees().Idempotency != driver.IdempotencyReserved {
		return b
	}
	sp.Pattern += "!once" // as the proxy does it
	records, err := s.conn.Space(sp)
	if err != nil {
		tb.Fatalf("space of the records: %v", err)
	}
	b.KV = wrap.Once(b.KV, records.KV, time.Now)
	return b
}

// write writes what was found, if it is asked for and every check was run and
// passed.
func (s *suite) write(t *testing.T, all int) {
	t.Helper()
	dir := os.Getenv("PRISM_MATRIX_DIR")
	if dir == "" || s.h.Name == "" || t.Failed() {
		return
	}
	if len(s.found.Checks) != all {
		t.Errorf("%d of %d checks were run; the matrix is written by a run without -run below %s", len(s.found.Checks), all, t.Name())
		return
	}
	slices.SortFunc(s.found.Checks, func(a, b result) int { return strings.Compare(a.Name, b.Name) })
	text, err := json.MarshalIndent(&s.found, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	file := "patterns-" + strings.NewReplacer(" ", "-", "(", "", ")", "").Replace(s.h.Name) + ".json"
	//nolint:gosec // the folder is the one that whoever runs the tests asked for
	if err := os.WriteFile(filepath.Join(dir, file), append(text, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
}
