package proxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"

	namespacev1 "github.com/prismgw/prism/api/prism/namespace/v1"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/memory"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/namespace"
)

// shelf is memory that says others share it.
type shelf struct {
	driver.Conn
	stat func() error
}

type shelfBlob struct {
	driver.Blob
	shelf *shelf
}

func (s *shelf) Space(space driver.Space) (driver.Backend, error) {
	b, err := s.Conn.Space(space)
	b.KV, b.Blob = nil, &shelfBlob{b.Blob, s}
	return b, err
}

func (b *shelfBlob) Guarantees() driver.BlobGuarantees {
	g := b.Blob.Guarantees()
	g.Shared = true
	return g
}

func (b *shelfBlob) Stat(ctx context.Context, key string) (driver.Object, error) {
	if err := b.shelf.stat(); err != nil {
		return driver.Object{}, err
	}
	return b.Blob.Stat(ctx, key)
}

// TestObjectsOfABackend checks that what a pattern gets is observed, and that a
// backend of objects alone is given a rest when it fails.
func TestObjectsOfABackend(t *testing.T) {
	t.Parallel()
	var ill error
	conn, err := memory.Driver().Open(driver.Config{URL: "memory:"})
	if err != nil {
		t.Fatal(err)
	}
	m := newMetrics(new(kinds))
	p := &pool{log: slog.New(slog.DiscardHandler), metrics: m, all: map[string]*backend{}, open: func(*namespace.Backend) (driver.Conn, error) {
		return &shelf{conn, func() error { return ill }}, nil
	}}
	b, err := p.take(&namespace.Backend{Spec: &namespacev1.Backend{Name: "shelf"}})
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.space(b, driver.Space{Namespace: "n", Pattern: "p"})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if _, err := out.Blob.Put(ctx, "a", strings.NewReader("12345"), driver.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	_, body, err := out.Blob.Get(ctx, "a", driver.GetOptions{Length: 3})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, body)
	_ = body.Close()
	ill = errs.OutcomeUnknown
	for range 5 {
		_, _ = out.Blob.Stat(ctx, "a")
	}
	if _, err := out.Blob.List(ctx, driver.ListRequest{Limit: 1}); !errors.Is(err, errs.CircuitOpen) {
		t.Errorf("a list after five failures: %v", err)
	}
	want := map[string]float64{"put_object": 5, "get_object": 3}
	for operation, bytes := range want {
		if got := counted(t, m, "prism_backend_transferred_bytes_total", operation); got != bytes {
			t.Errorf("%s: %v bytes are counted, want %v", operation, got, bytes)
		}
	}
	if got := counted(t, m, "prism_backend_failures_total", "stat_object"); got != 5 {
		t.Errorf("%v failures are counted, want 5", got)
	}
	p.release(b)
	if got := counted(t, m, "prism_backend_transferred_bytes_total", "put_object"); got != 0 {
		t.Errorf("%v bytes of a backend that is gone are left", got)
	}
}

// counted returns the sum of a counter's series of an operation.
func counted(t *testing.T, m *metrics, name, operation string) (sum float64) {
	t.Helper()
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, one := range f.GetMetric() {
			for _, l := range one.GetLabel() {
				if f.GetName() == name && l.GetName() == "operation" && l.GetValue() == operation {
					sum += one.GetCounter().GetValue()
				}
			}
		}
	}
	return sum
}
