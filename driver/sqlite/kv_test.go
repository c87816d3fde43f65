package sqlite_test

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/sqlite"
	"github.com/prismgw/prism/errs"
)

// clock is one that a test moves.
type clock struct{ ms atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.ms.Store(1_700_000_000_000)
	return c
}

func (c *clock) now() time.Time             { return time.UnixMilli(c.ms.Load()) }
func (c *clock) advance(d time.Duration)    { c.ms.Add(d.Milliseconds()) }
func (c *clock) configure(d *driver.Config) { d.Now = c.now }

func TestExpiry(t *testing.T) {
	t.Parallel()
	c := newClock()
	conn := openFile(t, t.TempDir(), c.configure)
	kv := space(t, conn, "demo", "").KV
	set := func(key string) {
		t.Helper()
		if res := one(kv, driver.Op{Kind: driver.Put, Key: key, Value: []byte("1"), TTL: time.Second}); res.Err != nil {
			t.Fatal(res.Err)
		}
	}
	set("k")
	if e := get(t, kv, "k"); !e.Expires.Equal(c.now().Add(time.Second)) {
		t.Errorf("expires %v", e.Expires)
	}
	c.advance(999 * time.Millisecond)
	get(t, kv, "k")
	if res := one(kv, driver.Op{Kind: driver.Add, Key: "k", Delta: 1}); res.Number != 2 || !res.Expires.Equal(c.now().Add(time.Millisecond)) {
		t.Errorf("add: %+v", res)
	}
	c.advance(time.Millisecond)
	if _, err := kv.Get(t.Context(), "k", driver.WithExpiry); errs.ReasonOf(err) != errs.KeyNotFound {
		t.Errorf("get: %v", err)
	}
	if page, err := kv.Scan(t.Context(), driver.ScanRequest{Limit: 1}); err != nil || len(page.Items) != 0 {
		t.Errorf("scan: %+v %v", page, err)
	}
	if res := one(kv, driver.Op{Kind: driver.Expire, Key: "k", TTL: time.Second}); errs.ReasonOf(res.Err) != errs.KeyNotFound {
		t.Errorf("expire: %+v", res)
	}
	if res := one(kv, driver.Op{Kind: driver.Add, Key: "k", Delta: 1}); res.Number != 1 || !res.Expires.IsZero() {
		t.Errorf("add: %+v", res)
	}
}

func TestWhatExpiredIsRemoved(t *testing.T) {
	t.Parallel()
	dir, c := t.TempDir(), newClock()
	conn := openFile(t, dir, c.configure)
	kv := space(t, conn, "demo", "").KV
	ops := make([]driver.Op, 1000)
	for i := range ops {
		once := &driver.Once{Token: [16]byte{byte(i), byte(i >> 8)}, TTL: time.Second}
		ops[i] = driver.Op{Kind: driver.Put, Key: fmt.Sprint(i), TTL: time.Second, Once: once}
	}
	kv.Apply(t.Context(), ops, make([]driver.Result, len(ops)))
	put(t, kv, "stays", "v")
	db := other(t, dir)
	rows := func() (n int) {
		if err := db.QueryRow("SELECT (SELECT count(*) FROM prism_kv) + (SELECT count(*) FROM prism_once)").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if got := rows(); got != 2001 {
		t.Fatalf("%d rows", got)
	}
	c.advance(time.Second)
	until(t, "what expired is removed", func() bool { return rows() == 1 })
	get(t, kv, "stays")
}

func TestOnceOutlivesTheConnection(t *testing.T) {
	t.Parallel()
	dir, c := t.TempDir(), newClock()
	op := driver.Op{Kind: driver.Add, Key: "n", Delta: 5, Once: &driver.Once{Token: [16]byte{1}, Digest: [16]byte{2}, TTL: time.Minute}}
	var first driver.Result
	for round := range 3 {
		conn := openFile(t, dir, c.configure)
		kv := space(t, conn, "demo", "").KV
		res := one(kv, op)
		if round == 0 {
			first = res
		}
		if res.Err != nil || res.Number != 5 || res.Version != first.Version || res.Repeated != (round > 0) {
			t.Errorf("round %d: %+v", round, res)
		}
		another := op
		another.Once = &driver.Once{Token: [16]byte{1}, Digest: [16]byte{3}, TTL: time.Minute}
		if res := one(kv, another); errs.ReasonOf(res.Err) != errs.IdempotencyMismatch {
			t.Errorf("another digest: %+v", res)
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	}
	c.advance(time.Minute)
	if res := one(space(t, openFile(t, dir, c.configure), "demo", "").KV, op); res.Err != nil || res.Number != 10 || res.Repeated {
		t.Errorf("after a minute: %+v", res)
	}
}

func TestBatchHasItsOwnOutcomes(t *testing.T) {
	t.Parallel()
	kv := space(t, openFile(t, t.TempDir(), nil), "demo", "").KV
	version := put(t, kv, "old", "text")
	ops := []driver.Op{
		{Kind: driver.Put, Key: "a", Value: []byte("1")},
		{Kind: driver.Put, Key: "old", IfAbsent: true},
		{Kind: driver.Put, Key: "old", IfVersion: "0"},
		{Kind: driver.Add, Key: "old", Delta: 1},
		{Kind: driver.Put, Key: "big", Value: make([]byte, 4<<20+1)},
		{Kind: 0, Key: "b"},
		{Kind: 9, Key: "b"},
		{Kind: driver.Expire, Key: "absent", TTL: time.Second},
		{Kind: driver.Delete, Key: "absent"},
		{Kind: driver.Delete, Key: "absent", IfVersion: version},
		{Kind: driver.Put, Key: "z", Value: nil},
	}
	want := []errs.Reason{
		0, errs.AlreadyExists, errs.VersionMismatch, errs.NotANumber, errs.PayloadTooLarge,
		errs.InvalidField, errs.InvalidField, errs.KeyNotFound, 0, errs.VersionMismatch, 0,
	}
	results := make([]driver.Result, len(ops))
	kv.Apply(t.Context(), ops, results)
	for i, res := range results {
		if (want[i] == 0) != (res.Err == nil) || res.Err != nil && errs.ReasonOf(res.Err) != want[i] {
			t.Errorf("%d: %+v, want %v", i, res, want[i])
		}
	}
	if e := errs.From(results[1].Err); e.Meta["version"] != version {
		t.Errorf("the version of what exists: %v", e.Meta)
	}
	if got := get(t, kv, "old"); string(got.Value) != "text" || got.Version != version {
		t.Errorf("%+v", got)
	}
	if got := get(t, kv, "z"); got.Value == nil || len(got.Value) != 0 {
		t.Errorf("an empty value reads as %v", got.Value)
	}
}

// TestLongestKeys scans keys whose cursors have no room for a checksum.
func TestLongestKeys(t *testing.T) {
	t.Parallel()
	kv := space(t, openFile(t, t.TempDir(), nil), "demo", "").KV
	var want []string
	for i := range 9 {
		key := strings.Repeat("k", 1015+i) + "z"
		put(t, kv, key, "v")
		want = append([]string{key}, want...) // z comes after k
	}
	var got []string
	r := driver.ScanRequest{Limit: 1}
	for {
		page, err := kv.Scan(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range page.Items {
			got = append(got, item.Key)
		}
		if r.Cursor = page.Next; r.Cursor == nil {
			break
		}
		if len(r.Cursor) > 1024 {
			t.Errorf("a cursor of %d bytes", len(r.Cursor))
		}
	}
	for i, j := 0, len(want)-1; i < j; i, j = i+1, j-1 {
		want[i], want[j] = want[j], want[i]
	}
	if len(got) != len(want) {
		t.Fatalf("%d of %d keys", len(got), len(want))
	}
	for _, cursor := range [][]byte{
		{},
		{0xff},
		bytes.Repeat([]byte{0xff}, 30), bytes.Repeat([]byte{0xff}, 1024), bytes.Repeat([]byte("a"), 1025),
		append(bytes.Repeat([]byte("a"), 1022), 0), append(bytes.Repeat([]byte("a"), 1022), 0xfe),
	} {
		if _, err := kv.Scan(t.Context(), driver.ScanRequest{Limit: 1, Cursor: cursor}); errs.ReasonOf(err) != errs.InvalidCursor {
			t.Errorf("cursor of %d bytes: %v", len(cursor), err)
		}
	}
}

// TestConnectionsShareTheFile is what a reload does: the new connection is
// opened before the old one is closed.
func TestConnectionsShareTheFile(t *testing.T) {
	t.Parallel()
	d := sqlite.Driver()
	config := driver.Config{Name: "main", URL: "sqlite:" + fileName, Dir: t.TempDir()}
	open := func() (driver.Conn, driver.Backend) {
		conn, err := d.Open(config)
		if err != nil {
			t.Fatal(err)
		}
		return conn, space(t, conn, "demo", "")
	}
	first, one := open()
	put(t, one.KV, "k", "v")
	for range 3 {
		second, two := open()
		w, err := two.Watcher.Watch(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		version := put(t, one.KV, "k", "w")
		if change, err := w.Next(t.Context()); err != nil || len(change.Keys) != 1 || change.Keys[0] != "k" {
			t.Errorf("%+v %v", change, err)
		}
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := one.KV.Get(context.Background(), "k", driver.WithExpiry); errs.ReasonOf(err) != errs.BackendUnavailable {
			t.Errorf("get through a closed connection: %v", err)
		}
		if got := get(t, two.KV, "k"); got.Version != version {
			t.Errorf("version %s, want %s", got.Version, version)
		}
		first, one = second, two
	}
	go first.Close()
	for range 20 { // a connection that is opened while the last one closes waits for it
		third, three := open()
		get(t, three.KV, "k")
		if err := third.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWatchIsBounded(t *testing.T) {
	t.Parallel()
	b := space(t, openFile(t, t.TempDir(), nil), "demo", "")
	w, err := b.Watcher.Watch(t.Context(), "a/")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	ops := make([]driver.Op, 5000)
	for i := range ops {
		ops[i] = driver.Op{Kind: driver.Put, Key: fmt.Sprint("a/", i)}
	}
	b.KV.Apply(t.Context(), ops, make([]driver.Result, len(ops)))
	change, err := w.Next(t.Context())
	if err != nil || !change.Lost || len(change.Keys) != 0 {
		t.Fatalf("lost %v with %d keys, %v", change.Lost, len(change.Keys), err)
	}
	put(t, b.KV, "b/other", "")
	put(t, b.KV, "a/after", "")
	if change, err = w.Next(t.Context()); err != nil || change.Lost || strings.Join(change.Keys, " ") != "a/after" {
		t.Fatalf("%+v %v", change, err)
	}
}

func TestFolderThatCannotBeMade(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	script(t, dir, "CREATE TABLE t (x)") // a file where a folder would be
	conn := openFile(t, dir, func(c *driver.Config) { c.URL = "sqlite:" + filepath.Join(fileName, "below.db") })
	if err := conn.Ping(t.Context()); errs.ReasonOf(err) != errs.BackendUnavailable {
		t.Fatal(err)
	}
}
