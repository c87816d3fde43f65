package wrap_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/memory"
)

// broken is memory that fails as the test wants: every operation asks outcome
// with its number, from 1, and its key.
type broken struct {
	driver.KV
	calls, operations atomic.Int64
	outcome           func(ctx context.Context, n int64, key string) error
}

func newBroken(t *testing.T, outcome func(ctx context.Context, n int64, key string) error) *broken {
	t.Helper()
	conn, err := memory.Driver().Open(driver.Config{URL: "memory:"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	b, err := conn.Space(driver.Space{Namespace: "n", Pattern: "p"})
	if err != nil {
		t.Fatal(err)
	}
	return &broken{KV: b.KV, outcome: outcome}
}

// always returns an outcome that is the same each time.
func always(err error) func(context.Context, int64, string) error {
	return func(context.Context, int64, string) error { return err }
}

func (b *broken) ask(ctx context.Context, key string) error {
	return b.outcome(ctx, b.operations.Add(1), key)
}

func (b *broken) Get(ctx context.Context, key string, want driver.Want) (driver.Entry, error) {
	b.calls.Add(1)
	if err := b.ask(ctx, key); err != nil {
		return driver.Entry{}, err
	}
	return b.KV.Get(ctx, key, want)
}

func (b *broken) GetMany(ctx context.Context, keys []string, want driver.Want, results []driver.GetResult) {
	b.calls.Add(1)
	for i, key := range keys {
		if results[i] = (driver.GetResult{Err: b.ask(ctx, key)}); results[i].Err == nil {
			results[i].Entry, results[i].Err = b.KV.Get(ctx, key, want)
		}
	}
}

func (b *broken) Apply(ctx context.Context, ops []driver.Op, results []driver.Result) {
	b.calls.Add(1)
	for i := range ops {
		if results[i] = (driver.Result{Err: b.ask(ctx, ops[i].Key)}); results[i].Err == nil {
			b.KV.Apply(ctx, ops[i:i+1], results[i:i+1])
		}
	}
}

func (b *broken) Scan(ctx context.Context, r driver.ScanRequest) (driver.Page, error) {
	b.calls.Add(1)
	if err := b.ask(ctx, r.Prefix); err != nil {
		return driver.Page{}, err
	}
	return b.KV.Scan(ctx, r)
}

// each runs all four methods on one key and returns their outcomes.
func each(ctx context.Context, kv driver.KV, key string) map[string]error {
	_, get := kv.Get(ctx, key, driver.ValueOnly)
	many := make([]driver.GetResult, 1)
	kv.GetMany(ctx, []string{key}, driver.ValueOnly, many)
	_, scan := kv.Scan(ctx, driver.ScanRequest{Prefix: key, Limit: 1})
	return map[string]error{"Get": get, "GetMany": many[0].Err, "Apply": put(ctx, kv, key), "Scan": scan}
}

func put(ctx context.Context, kv driver.KV, key string) error {
	res := make([]driver.Result, 1)
	kv.Apply(ctx, []driver.Op{{Kind: driver.Put, Key: key}}, res)
	return res[0].Err
}
