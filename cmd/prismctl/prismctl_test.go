package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/prismgw/prism/errs"
)

// Every reason has a class, and every class stands in the help.
func TestExitCodes(t *testing.T) {
	t.Parallel()
	want := map[errs.Reason]int{
		errs.KeyNotFound: exitNotFound, errs.NamespaceNotFound: exitNotFound, errs.AlreadyExists: exitConflict,
		errs.VersionMismatch: exitConflict, errs.NotANumber: exitConflict, errs.Forbidden: exitDenied,
		errs.Unauthenticated: exitDenied, errs.BackendUnavailable: exitUnavailable, errs.Overloaded: exitUnavailable,
		errs.RateLimited: exitUnavailable, errs.Deadline: exitDeadline, errs.InvalidKey: exitInvalid,
		errs.PayloadTooLarge: exitInvalid, errs.OutcomeUnknown: exitUnknown, errs.Internal: exitOther, errs.Unsupported: exitOther,
	}
	known := make([]int, 0, len(exitMeanings))
	for _, e := range exitMeanings {
		known = append(known, e.code)
	}
	for _, r := range errs.All() {
		got := exitOf(r)
		if w, ok := want[r]; ok && got != w {
			t.Errorf("%v: exit code %d, want %d", r.String(), got, w)
		}
		if got == exitOK || !slices.Contains(known, got) {
			t.Errorf("%v: exit code %d is not explained in the help", r.String(), got)
		}
	}
}

func TestFailuresAreOneLine(t *testing.T) {
	t.Parallel()
	e := errs.Invalid(errs.Field{Path: "ttl", Text: "must be\npositive"}, errs.Field{Path: "key", Text: "is empty"})
	e.RequestID = "R1"
	a := &app{}
	var text, object bytes.Buffer
	f := a.explain(t.Context(), e)
	f.print(&text, false)
	f.print(&object, true)
	if want := "prismctl: ttl: must be positive; key: is empty (INVALID_FIELD, request R1)\n"; text.String() != want {
		t.Errorf("got %q, want %q", text.String(), want)
	}
	var got struct{ Error failure }
	if err := json.Unmarshal(object.Bytes(), &got); err != nil || got.Error.Exit != exitInvalid || len(got.Error.Fields) != 2 {
		t.Errorf("got %s, %v", object.Bytes(), err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if f := a.explain(ended, errs.From(context.Canceled)); f.Exit != exitInterrupted {
		t.Errorf("an interrupt exits with %d", f.Exit)
	}
}

// The help of every command says what it is for and shows examples that parse.
func TestExamplesParse(t *testing.T) {
	t.Parallel()
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" || c.Example == "" {
			t.Errorf("%s: there is no text or no example", c.CommandPath())
		}
		for line := range strings.Lines(c.Example) {
			checkExample(t, strings.TrimSpace(line))
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(new(app).root())
}

// checkExample finds and parses the command of a line of shell.
func checkExample(t *testing.T, line string) {
	t.Helper()
	for part := range strings.SplitSeq(line, " | ") {
		part, _, _ = strings.Cut(part, " > ")
		words := strings.Fields(part)
		if words[0] != "prismctl" {
			continue
		}
		c, args, err := new(app).root().Find(words[1:])
		if err == nil {
			if err = c.ParseFlags(args); err == nil {
				err = c.ValidateArgs(c.Flags().Args())
			}
		}
		if err != nil {
			t.Errorf("example %q: %v", part, err)
		}
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := newPrinter(&out, "table", true, entryRow{}.header())
	for _, key := range []string{"a", "a long key", "two\nlines", strings.Repeat("x", 2*widest), " "} {
		if err := p.add(entryRow{Key: key, Version: "1", value: []byte("\xff")}); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.close(); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != 6 {
		t.Fatalf("%d lines:\n%s", len(lines), out.String())
	}
	at := []rune(lines[0])
	column := strings.Index(string(at), "VERSION")
	for _, line := range lines[1:] {
		if r := []rune(line); r[column] != '1' || r[column-1] != ' ' || !strings.HasSuffix(line, `"\xff"`) {
			t.Errorf("not aligned, or not harmless: %q", line)
		}
	}
}

// A server's development address is found from below its directory, and a
// broken file is said to be broken.
func TestFindDev(t *testing.T) { //nolint:paralleltest // it changes the working directory
	dir := t.TempDir()
	deep := filepath.Join(dir, "a", "b")
	if err := os.MkdirAll(filepath.Join(dir, ".prism"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(deep)
	file := filepath.Join(dir, ".prism", "dev.json")
	if err := os.WriteFile(file, []byte(`{"grpc":"127.0.0.1:1","ops":"127.0.0.1:2"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, found, err := findDev(); err != nil || found.GRPC != "127.0.0.1:1" || found.Ops != "127.0.0.1:2" {
		t.Errorf("found %+v, %v", found, err)
	}
	if err := os.WriteFile(file, []byte(`{`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := findDev(); err == nil {
		t.Error("a broken dev.json is taken")
	}
}

// No more bytes are held than there is room for, except for one value alone.
func TestRoom(t *testing.T) {
	t.Parallel()
	var r room
	r.init(10)
	r.enter(100)
	var entered atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.enter(1)
		entered.Store(true)
	}()
	time.Sleep(10 * time.Millisecond) // long enough to go wrong
	if entered.Load() {
		t.Error("there was room beside 100 of 10 bytes")
	}
	r.leave(100)
	<-done
	r.enter(9)
}

// A run that could not come to all dead letters does not end as if it had.
func TestStuck(t *testing.T) {
	t.Parallel()
	held := map[int64]bool{5: true, 7: true}
	for name, c := range map[string]struct {
		s    *settling
		want bool
	}{
		"all came":                {&settling{atOnce: inHand, reached: 99_999, end: 100_000, held: held}, false},
		"the rest is settled":     {&settling{atOnce: inHand, reached: 7, end: 8000, held: held}, false},
		"beyond the group's view": {&settling{atOnce: inHand, reached: 8000, end: 5 + inHand + 1, held: held}, true},
		"as many stay as may":     {&settling{atOnce: 2, reached: 7, end: 9, held: held}, true},
		"none stays":              {&settling{atOnce: 2, reached: 7, end: 100_000}, false},
	} {
		if got := c.s.stuck(); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestProgressInPlainLines(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := &progress{what: "imported", unit: "keys", size: 100, out: &out, begun: time.Now().Add(-2 * time.Second)}
	p.done.Store(10)
	p.bytes.Store(50)
	p.tell()
	if got := out.String(); got != "imported 10 keys (5/s), 50%, 2s left\n" {
		t.Errorf("got %q", got)
	}
}
