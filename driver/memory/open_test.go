package memory_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/memory"
	"github.com/prismgw/prism/errs"
)

func open(t testing.TB, d driver.Driver, c driver.Config) driver.Conn {
	t.Helper()
	conn, err := d.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return conn
}

func kvOf(t testing.TB, conn driver.Conn) driver.KV {
	t.Helper()
	b, err := conn.Space(driver.Space{Namespace: "ns", Pattern: "kv"})
	if err != nil {
		t.Fatal(err)
	}
	return b.KV
}

func apply(t testing.TB, kv driver.KV, op driver.Op) driver.Result {
	t.Helper()
	var r [1]driver.Result
	kv.Apply(context.Background(), []driver.Op{op}, r[:])
	if r[0].Err != nil {
		t.Fatal(r[0].Err)
	}
	return r[0]
}

func TestOpenReportsMistakes(t *testing.T) {
	t.Parallel()
	login := func(context.Context) (string, driver.Secret, error) { return "user", "password", nil }
	for _, c := range []struct {
		config driver.Config
		want   []string
	}{
		{driver.Config{URL: "memory:"}, nil},
		{driver.Config{URL: "memory://name", Options: json.RawMessage(`{"max_value": 1000}`)}, nil},
		{driver.Config{}, []string{"url"}},
		{driver.Config{URL: "memory://"}, []string{"url"}},
		{driver.Config{URL: "memory:name"}, []string{"url"}},
		{driver.Config{URL: "memory://name/path"}, []string{"url"}},
		{driver.Config{URL: "memory://name?x=1"}, []string{"url"}},
		{driver.Config{URL: "memory://user@name"}, []string{"url"}},
		{driver.Config{URL: "redis://name"}, []string{"url"}},
		{driver.Config{URL: "memory:", Options: json.RawMessage(`{"max_values": 1}`)}, []string{"options"}},
		{driver.Config{URL: "memory:", Options: json.RawMessage(`{"max_value": 0}`)}, []string{"options.max_value"}},
		{driver.Config{URL: "memory:", Options: json.RawMessage(`{"max_object": 5368709120}`)}, nil},
		{driver.Config{URL: "memory:", Options: json.RawMessage(`{"max_object": 5368709121}`)}, []string{"options.max_object"}},
		{driver.Config{URL: "memory:", Options: json.RawMessage(`{"max_object": 0, "max_value": 0}`)}, []string{"options.max_value", "options.max_object"}},
		{driver.Config{URL: "memory:", Options: json.RawMessage(`{"max_value": 2000000000}`)}, []string{"options.max_value"}},
		{driver.Config{URL: "memory:", Asserts: json.RawMessage(`{"durable": true}`)}, []string{"asserts"}},
		{
			driver.Config{URL: "x", Options: json.RawMessage(`[]`), TLS: &tls.Config{}, Credentials: login},
			[]string{"url", "options", "tls", "credentials"},
		},
	} {
		conn, err := memory.Driver().Open(c.config)
		if conn != nil {
			_ = conn.Close()
		}
		var got []string
		if err != nil {
			for _, f := range errs.From(err).Fields {
				got = append(got, f.Path)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%q %s: got mistakes in %q, want %q (%v)", c.config.URL, c.config.Options, got, c.want, err)
		}
	}
}

// TestNamesShareData checks who shares data, and how long it lives.
func TestNamesShareData(t *testing.T) {
	t.Parallel()
	d := memory.Driver()
	first, second := open(t, d, driver.Config{URL: "memory://one"}), open(t, d, driver.Config{URL: "memory://one"})
	version := apply(t, kvOf(t, first), driver.Op{Kind: driver.Put, Key: "a"}).Version
	for what, c := range map[string]struct {
		conn   driver.Conn
		shared bool
	}{
		"the same name":           {second, true},
		"another name":            {open(t, d, driver.Config{URL: "memory://two"}), false},
		"no name":                 {open(t, d, driver.Config{URL: "memory:"}), false},
		"the name, other drivers": {open(t, memory.Driver(), driver.Config{URL: "memory://one"}), false},
	} {
		if _, err := kvOf(t, c.conn).Get(t.Context(), "a", driver.WithExpiry); (err == nil) != c.shared {
			t.Errorf("%s: got %v, want shared %v", what, err, c.shared)
		}
	}
	_ = first.Close()
	if _, err := kvOf(t, second).Get(t.Context(), "a", driver.WithExpiry); err != nil {
		t.Errorf("after one of two was closed: %v", err)
	}
	_ = second.Close()
	again := kvOf(t, open(t, d, driver.Config{URL: "memory://one"}))
	if _, err := again.Get(t.Context(), "a", driver.WithExpiry); errs.ReasonOf(err) != errs.KeyNotFound {
		t.Errorf("after both were closed: got %v, want KEY_NOT_FOUND", err)
	}
	if v := apply(t, again, driver.Op{Kind: driver.Put, Key: "a"}).Version; v == version {
		t.Errorf("new data gives out version %s again", v)
	}
}

// TestClockDecides moves the clock by hand.
func TestClockDecides(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	kv := kvOf(t, open(t, memory.Driver(), driver.Config{URL: "memory:", Now: func() time.Time { return now }}))
	ctx := t.Context()
	apply(t, kv, driver.Op{Kind: driver.Put, Key: "a", TTL: time.Minute})
	entry, err := kv.Get(ctx, "a", driver.WithExpiry)
	if err != nil || !entry.Expires.Equal(now.Add(time.Minute)) {
		t.Fatalf("got %s, %v, want %s", entry.Expires, err, now.Add(time.Minute))
	}
	now = now.Add(time.Minute - 1)
	if _, err := kv.Get(ctx, "a", driver.WithExpiry); err != nil {
		t.Errorf("a nanosecond before its time: %v", err)
	}
	now = now.Add(1)
	if _, err := kv.Get(ctx, "a", driver.WithExpiry); errs.ReasonOf(err) != errs.KeyNotFound {
		t.Errorf("at its time: got %v, want KEY_NOT_FOUND", err)
	}
}

// TestGetAllocatesTheValueOnly keeps the hot path as it is.
func TestGetAllocatesTheValueOnly(t *testing.T) {
	kv := kvOf(t, open(t, memory.Driver(), driver.Config{URL: "memory:"}))
	apply(t, kv, driver.Op{Kind: driver.Put, Key: "a", Value: make([]byte, 128), TTL: time.Hour})
	ctx := t.Context()
	ops := []driver.Op{{Kind: driver.Put, Key: "a", Value: make([]byte, 128)}}
	results := make([]driver.Result, 1)
	for what, c := range map[string]struct {
		call func()
		want float64
	}{
		"get":               {func() { _, _ = kv.Get(ctx, "a", driver.WithExpiry) }, 1},
		"get of absent key": {func() { _, _ = kv.Get(ctx, "b", driver.WithExpiry) }, 0},
		"put":               {func() { kv.Apply(ctx, ops, results) }, 2}, // value and version
	} {
		if got := testing.AllocsPerRun(100, c.call); got > c.want {
			t.Errorf("%s: %v allocations, want %v", what, got, c.want)
		}
	}
}
