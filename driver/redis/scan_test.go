package redis_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// scanAll goes through all pages and checks each one's bounds.
func scanAll(t testing.TB, kv driver.KV, r driver.ScanRequest) (items []driver.Item) {
	t.Helper()
	for pages := 0; ; pages++ {
		page, err := kv.Scan(t.Context(), r)
		if err != nil {
			t.Fatalf("page %d: %v", pages, err)
		}
		if len(page.Items) > r.Limit || len(page.Next) > 1<<10 {
			t.Fatalf("page %d has %d items, its cursor %d bytes", pages, len(page.Items), len(page.Next))
		}
		items = append(items, page.Items...)
		if page.Next == nil {
			return items
		}
		r.Cursor = page.Next
	}
}

func TestScanPages(t *testing.T) {
	t.Parallel()
	s, kv, other := start(t)
	const n = 3000
	ops := make([]driver.Op, n)
	for i := range ops {
		ops[i] = driver.Op{Kind: driver.Put, Key: fmt.Sprintf("%d*", i), Value: []byte(strings.Repeat("v", i%50))}
	}
	results := make([]driver.Result, n)
	kv.Apply(t.Context(), ops, results)
	for _, r := range results {
		must(t, r.Err)
	}
	foreign := other.Pipeline()
	for i := range n {
		foreign.Set(t.Context(), fmt.Sprintf("other:%d", i), "x", 0)
	}
	_, err := foreign.Exec(t.Context())
	must(t, err)
	second := space(t, open(t, driver.Config{URL: s.URL}), orders) // cursors work on another connection
	for _, r := range []driver.ScanRequest{
		{Limit: 1, KeysOnly: true}, {Limit: 7}, {Limit: 100, MaxBytes: 200}, {Limit: 5000}, {Limit: 300, KeysOnly: true, MaxBytes: 50},
	} {
		seen := map[string]bool{}
		from := kv
		for _, i := range scanAll(t, alternate{&from, second}, r) {
			seen[i.Key] = true
			if want := len(i.Key); r.KeysOnly && i.Value != nil || want == 0 {
				t.Fatalf("item %+v", i)
			}
		}
		if len(seen) != n {
			t.Errorf("%+v: %d keys, want %d", r, len(seen), n)
		}
	}
	if got := scanAll(t, kv, driver.ScanRequest{Prefix: "299", Limit: 3}); len(got) < 11 {
		t.Errorf("prefix: %d keys, want 11", len(got))
	}
}

// alternate answers each scan from the other of two connections.
type alternate struct {
	now *driver.KV
	driver.KV
}

func (a alternate) Scan(ctx context.Context, r driver.ScanRequest) (driver.Page, error) {
	kv := *a.now
	*a.now = a.KV
	return kv.Scan(ctx, r)
}

func TestScanStopsAtItsBytes(t *testing.T) {
	t.Parallel()
	_, kv, _ := start(t)
	for i := range 20 {
		put(t, kv, fmt.Sprint(i), strings.Repeat("x", 1000))
	}
	page, err := kv.Scan(t.Context(), driver.ScanRequest{Limit: 100, MaxBytes: 1500})
	must(t, err)
	if len(page.Items) > 2 || len(page.Items) == 0 {
		t.Fatalf("%d items of 1000 bytes for 1500", len(page.Items))
	}
}

func TestCursorsThatAreNoGood(t *testing.T) {
	t.Parallel()
	s, kv, _ := start(t, "--appendonly", "yes", "--appendfsync", "always")
	ctx := t.Context()
	for i := range 200 {
		put(t, kv, fmt.Sprint(i), "")
	}
	page, err := kv.Scan(ctx, driver.ScanRequest{Limit: 10, KeysOnly: true})
	must(t, err)
	for i := range page.Next {
		bad := append([]byte(nil), page.Next...)
		bad[i] ^= 1
		_, err := kv.Scan(ctx, driver.ScanRequest{Limit: 10, Cursor: bad})
		wants(t, fmt.Sprintf("byte %d changed", i), err, errs.InvalidCursor)
	}
	_, err = kv.Scan(ctx, driver.ScanRequest{Limit: 10, Cursor: page.Next, Prefix: "1"})
	wants(t, "another prefix", err, errs.InvalidCursor)
	elsewhere := space(t, open(t, driver.Config{URL: s.URL}), driver.Space{Namespace: "orders", Pattern: "other"})
	_, err = elsewhere.Scan(ctx, driver.ScanRequest{Limit: 10, Cursor: page.Next})
	wants(t, "another space", err, errs.InvalidCursor)

	s.Restart()
	await(t, "a stale cursor after a restart", func() bool {
		_, err = kv.Scan(ctx, driver.ScanRequest{Limit: 10, Cursor: page.Next})
		return errs.ReasonOf(err) == errs.StaleCursor
	})
}
