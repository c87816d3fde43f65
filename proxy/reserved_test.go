package proxy_test

import (
	"context"
	"testing"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/memory"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/proxy"
)

// plainDriver is memory that knows no idempotency, as a backend may.
func plainDriver() driver.Driver {
	d, inner := memory.Driver(), memory.Driver()
	d.Name, d.Schemes = "plain", []string{"plain"}
	d.Open = func(c driver.Config) (driver.Conn, error) {
		c.URL = "memory:"
		conn, err := inner.Open(c)
		return plainConn{conn}, err
	}
	return d
}

type plainConn struct{ driver.Conn }

func (c plainConn) Space(s driver.Space) (driver.Backend, error) {
	b, err := c.Conn.Space(s)
	b.KV = plainKV{b.KV}
	return b, err
}

type plainKV struct{ driver.KV }

func (k plainKV) Guarantees() driver.Guarantees {
	g := k.KV.Guarantees()
	g.Idempotency = driver.IdempotencyReserved
	return g
}

func (k plainKV) Apply(ctx context.Context, ops []driver.Op, results []driver.Result) {
	for i := range ops {
		if ops[i].Once != nil {
			results[i] = driver.Result{Err: errs.Unsupported}
			continue
		}
		k.KV.Apply(ctx, ops[i:i+1], results[i:i+1])
	}
}

// Idempotency keys work on a backend that cannot keep them: the proxy keeps
// the records there, where no namespace and no pattern can see them.
func TestReservedIdempotency(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *proxy.Options) { o.Drivers = append(o.Drivers, plainDriver()) }, `
{kind: Backend, name: plain, driver: plain, url: "plain:"}
---
{kind: Namespace, name: one, stores: [data, more], needs: {durability: none}, auth: {anonymous: read_write}}
---
{kind: Namespace, name: other, stores: [data], needs: {durability: none}, auth: {anonymous: read_write}}`)
	c := s.dial(t)
	add := func(namespace, pattern, key string, delta int64) (int64, error) {
		ctx := in(t, namespace, "x-prism-pattern", pattern, "idempotency-key", key)
		r, err := c.Increment(ctx, &keyvaluev1.IncrementRequest{Key: "n", Delta: &delta})
		return r.GetValue(), err
	}
	for range 3 {
		if n, err := add("one", "data", "a", 5); n != 5 || err != nil {
			t.Errorf("under one key: %d, %v", n, err)
		}
	}
	if n, err := add("one", "data", "b", 5); n != 10 || err != nil {
		t.Errorf("under another key: %d, %v", n, err)
	}
	_, err := add("one", "data", "a", 6)
	told(t, "another request under the key", err, errs.IdempotencyMismatch)
	for _, x := range [][2]string{{"one", "more"}, {"other", "data"}} {
		if n, err := add(x[0], x[1], "a", 5); n != 5 || err != nil {
			t.Errorf("the key in %v: %d, %v", x, n, err)
		}
		stream, err := c.Scan(in(t, x[0], "x-prism-pattern", x[1]), &keyvaluev1.ScanRequest{})
		if err != nil {
			t.Fatal(err)
		}
		page, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if all := page.GetEntries(); len(all) != 1 || all[0].GetKey() != "n" || string(all[0].GetValue()) != "5" {
			t.Errorf("%v holds %v", x, all)
		}
	}
	batch := &keyvaluev1.StoreBatchRequest{Items: []*keyvaluev1.StoreRequest{{Key: "x", IfAbsent: true}, {Key: "y", IfAbsent: true}}}
	for range 2 { // a repeat would find its own items
		r, err := c.StoreBatch(in(t, "other", "idempotency-key", "batch"), batch)
		if err != nil {
			t.Fatal(err)
		}
		for i, one := range r.GetResults() {
			if one.GetStored() == nil {
				t.Errorf("item %d: %v", i, one.GetError())
			}
		}
	}
}
