package drivertest

import (
	"encoding/json"
	"flag"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/memory"
	"github.com/prismgw/prism/errs"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("rapid.nofailfile", "true"); err != nil { // checks are meant to fail here
		panic(err)
	}
	m.Run()
}

// recorder is a testing.TB that keeps failures to itself.
type recorder struct {
	testing.TB
	name string

	mu       sync.Mutex // guards what follows
	failures []string
	cleanups []func()
}

func (r *recorder) Name() string                   { return r.name }
func (r *recorder) Helper()                        {}
func (r *recorder) Log(...any)                     {}
func (r *recorder) Logf(string, ...any)            {}
func (r *recorder) Error(args ...any)              { r.fail(fmt.Sprint(args...)) }
func (r *recorder) Errorf(format string, a ...any) { r.fail(fmt.Sprintf(format, a...)) }
func (r *recorder) Fatal(args ...any)              { r.fail(fmt.Sprint(args...)); runtime.Goexit() }

func (r *recorder) Fatalf(format string, a ...any) {
	r.fail(fmt.Sprintf(format, a...))
	runtime.Goexit()
}
func (r *recorder) Fail()                         { r.fail("failed") }
func (r *recorder) FailNow()                      { r.fail("failed"); runtime.Goexit() }
func (r *recorder) Failed() bool                  { return len(r.said()) > 0 }
func (r *recorder) Skip(args ...any)              { r.Fatal(args...) }
func (r *recorder) Skipf(format string, a ...any) { r.Fatalf(format, a...) }
func (r *recorder) SkipNow()                      { r.FailNow() }

func (r *recorder) fail(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, text)
}

func (r *recorder) said() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.failures)
}

func (r *recorder) Cleanup(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cleanups = append(r.cleanups, f)
}

// A kit is the suite of one primitive.
type kit struct {
	checks   []check
	open     func(testing.TB, *Harness) *suite
	harness  func() *Harness // of the technology that mistakes are made in
	mistakes []mistake
	slow     []string // mistakes that are found by waiting for what never comes
}

// record runs one check of KV over a harness and returns its failures.
func record(tb testing.TB, h *Harness, name string) []string {
	tb.Helper()
	return kvKit().record(tb, h, name)
}

func (k *kit) record(tb testing.TB, h *Harness, name string) []string {
	tb.Helper()
	all := k.checks
	i := slices.IndexFunc(all, func(c check) bool { return c.name == name })
	if i < 0 {
		tb.Fatalf("there is no check %q", name)
	}
	r := &recorder{TB: tb, name: tb.Name() + "/checks/" + name}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			for _, f := range slices.Backward(r.cleanups) {
				f()
			}
		}()
		defer func() {
			if p := recover(); p != nil {
				r.fail(fmt.Sprint("panic: ", p))
			}
		}()
		k.open(r, h).run(r, all[i])
	}()
	<-done
	return r.said()
}

func memoryHarness() *Harness {
	return &Harness{Name: "memory", Driver: memory.Driver(), Config: driver.Config{URL: "memory://" + unique()}}
}

// slowMistakes are found by waiting for what never comes.
var slowMistakes = []string{
	"close waits for everybody", "Lost is lost", "changes are lost", "records do not expire", "watches are deaf to Close",
}

// TestBrokenDriversAreFound runs checks against drivers with one mistake each.
func TestBrokenDriversAreFound(t *testing.T) {
	kvKit().findMistakes(t)
}

func kvKit() *kit {
	return &kit{append(allChecks(), leakCheck), newSuite, memoryHarness, mistakes(), slowMistakes}
}

func (k *kit) findMistakes(t *testing.T) {
	for _, m := range k.mistakes {
		t.Run(strings.ReplaceAll(m.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			if testing.Short() && slices.Contains(k.slow, m.name) {
				return
			}
			for _, name := range m.found {
				h := k.harness()
				m.spoil(&h.Driver)
				if said := k.record(t, h, name); len(said) == 0 {
					t.Errorf("%s passes", name)
				} else {
					t.Logf("%s: %s", name, said[0])
				}
				if said := k.record(t, k.harness(), name); len(said) > 0 {
					t.Errorf("%s fails without the mistake: %s", name, said[0])
				}
			}
		})
	}
}

// TestWithoutTTL runs all checks on a technology whose entries cannot expire.
func TestWithoutTTL(t *testing.T) {
	for _, c := range allChecks() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := memoryHarness()
			withoutTTL(&h.Driver)
			if said := record(t, h, c.name); len(said) > 0 {
				t.Errorf("fails: %q", said)
			}
			if c.name != "ttl/refused" {
				return
			}
			h = memoryHarness()
			spoilKV(forgetTTL)(&h.Driver)
			if said := record(t, h, c.name); len(said) == 0 {
				t.Error("passes on entries that can expire after all")
			}
		})
	}
}

// TestWithSmallValues runs all checks on a technology that takes no value over
// 2 KiB: what they put has to fit.
func TestWithSmallValues(t *testing.T) {
	for _, c := range allChecks() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := memoryHarness()
			h.Config.Options = []byte(`{"max_value": 2048}`)
			if said := record(t, h, c.name); len(said) > 0 {
				t.Errorf("fails: %q", said)
			}
		})
	}
}

// adopting is memory that can adopt: the data of a place, whoever asks for it.
type adopting struct {
	driver.Conn
	mistake layoutMistake
}

// layoutMistake is what a driver gets wrong; what is nil is right.
type layoutMistake struct {
	place  func(asked, right driver.Space) driver.Space
	extent func(asked driver.Space, x *driver.Extent)
}

func (a adopting) Space(asked driver.Space) (driver.Backend, error) {
	if len(asked.Layout) == 0 {
		return a.Conn.Space(asked)
	}
	var in struct {
		Place string `json:"place"`
	}
	if err := driver.DecodeStrict(asked.Layout, &in); err != nil {
		return driver.Backend{}, errs.Invalid(errs.Field{Path: "layout", Text: err.Error()})
	}
	at := driver.Space{Namespace: "adopted:" + in.Place}
	if a.mistake.place != nil {
		at = a.mistake.place(asked, at)
	}
	b, err := a.Conn.Space(at)
	if a.mistake.extent != nil {
		a.mistake.extent(asked, &b.Extent)
	}
	return b, err
}

func adoptingHarness(m layoutMistake) *Harness {
	h := memoryHarness()
	spoilConn(func(c driver.Conn) driver.Conn { return adopting{c, m} })(&h.Driver)
	h.Layout = func(testing.TB, driver.Config) json.RawMessage {
		return json.RawMessage(`{"place": "` + unique() + `"}`)
	}
	return h
}

// TestAdopted runs all checks on data that is adopted.
func TestAdopted(t *testing.T) {
	for _, c := range allChecks() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if said := record(t, adoptingHarness(layoutMistake{}), c.name); len(said) > 0 {
				t.Errorf("fails: %q", said)
			}
		})
	}
}

// TestBrokenLayoutsAreFound runs checks against drivers that get layouts wrong.
func TestBrokenLayoutsAreFound(t *testing.T) {
	for _, x := range []struct {
		name    string
		mistake layoutMistake
		found   []string
	}{
		{"the layout is ignored", layoutMistake{place: func(asked, _ driver.Space) driver.Space {
			asked.Layout = nil
			return asked
		}}, []string{"spaces/same-names-same-data"}},
		{"all places are one", layoutMistake{place: func(driver.Space, driver.Space) driver.Space {
			return driver.Space{Namespace: "everything"}
		}}, []string{"spaces/never-meet", "spaces/hostile-pairs", "spaces/tokens-never-meet", "conn/extents", "watch/other-spaces"}},
		{"the extent is that of the names", layoutMistake{extent: func(asked driver.Space, x *driver.Extent) {
			x.Prefix = asked.Namespace + ":" + asked.Pattern + ":"
		}}, []string{"conn/extents"}},
		{"the extent is everything", layoutMistake{extent: func(_ driver.Space, x *driver.Extent) { x.Prefix = "" }}, []string{"conn/extents"}},
	} {
		t.Run(strings.ReplaceAll(x.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			for _, name := range x.found {
				if said := record(t, adoptingHarness(x.mistake), name); len(said) == 0 {
					t.Errorf("%s passes", name)
				} else {
					t.Logf("%s: %s", name, said[0])
				}
			}
		})
	}
}

// TestEachCheckCanFail checks that every check that a driver in memory is
// subject to finds some mistake.
func TestEachCheckCanFail(t *testing.T) {
	t.Parallel()
	(&kit{allChecks(), newSuite, memoryHarness, mistakes(), nil}).canAllFail(t)
}

func (k *kit) canAllFail(t *testing.T) {
	t.Helper()
	var found []string
	for _, m := range k.mistakes {
		found = append(found, m.found...)
	}
	e := newEnv(t, k.open(t, k.harness()))
	for _, c := range k.checks {
		if c.needs != nil && c.needs(e) != "" {
			continue
		}
		if !slices.Contains(found, c.name) {
			t.Errorf("no mistake is found by %s", c.name)
		}
	}
}

func TestExceptionsMustBeKnown(t *testing.T) {
	t.Parallel()
	for _, x := range []Exception{{"ttl/no-such-check", "a reason"}, {"ttl/ten-years", ""}} {
		h := memoryHarness()
		h.Exceptions = []Exception{x}
		if said := record(t, h, "conn/ping"); len(said) == 0 {
			t.Errorf("exception %+v is accepted", x)
		}
	}
	h := memoryHarness()
	h.Exceptions = []Exception{{"conn/ping", "nobody answers"}}
	h.Driver.Open = func(c driver.Config) (driver.Conn, error) {
		conn, err := memory.Driver().Open(c)
		return deaf{conn}, err
	}
	if said := record(t, h, "conn/ping"); len(said) > 0 {
		t.Errorf("an exception is run: %s", said)
	}
	h.Exceptions = nil
	if said := record(t, h, "conn/ping"); len(said) == 0 {
		t.Error("conn/ping passes on a connection that answers nothing")
	}
}

func TestHostileKeysAreValid(t *testing.T) {
	t.Parallel()
	keys := hostileKeys()
	slices.Sort(keys)
	for i, key := range keys {
		if key == "" || len(key) > driver.MaxKey || strings.ToValidUTF8(key, "") != key || strings.Contains(key, "\x00") {
			t.Errorf("%s is no valid key", brief(key))
		}
		if i > 0 && key == keys[i-1] {
			t.Errorf("%s is there twice", brief(key))
		}
	}
}

// TestLeaksAreFound is not parallel: the check looks at all goroutines.
func TestLeaksAreFound(t *testing.T) {
	h := memoryHarness()
	if said := record(t, h, leakCheck.name); len(said) > 0 {
		t.Errorf("fails without a leak: %s", said)
	}
	if said := record(t, toyHarness(t, toyFaults{}), leakCheck.name); len(said) > 0 {
		t.Errorf("fails without a leak after faults: %s", said)
	}
	open, stop := h.Driver.Open, make(chan struct{})
	defer close(stop)
	h.Driver.Open = func(c driver.Config) (driver.Conn, error) {
		go func() { <-stop }()
		return open(c)
	}
	if said := record(t, h, leakCheck.name); len(said) == 0 {
		t.Error("passes with a goroutine left behind by each Open")
	}
}
