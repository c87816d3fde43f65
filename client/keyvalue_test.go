package client

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/prismgw/prism/errs"
)

func TestOperations(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, opts ...Option) {
		ctx := t.Context()
		kv := newServer(t).dial(t, opts...).KeyValue("")
		_, err := kv.Retrieve(ctx, "k")
		wantReason(t, err, errs.KeyNotFound)
		v1, err := kv.Store(ctx, "k", []byte("one"), IfAbsent(), TTL(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		_, err = kv.Store(ctx, "k", nil, IfAbsent())
		wantReason(t, err, errs.AlreadyExists)
		v2, err := kv.Store(ctx, "k", []byte("two"), IfVersion(v1))
		if err != nil {
			t.Fatal(err)
		}
		_, err = kv.Store(ctx, "k", nil, IfVersion(v1))
		wantReason(t, err, errs.VersionMismatch)
		_, err = kv.Store(ctx, "k", nil, TTL(0))
		wantReason(t, err, errs.InvalidField)

		e, err := kv.Retrieve(ctx, "k")
		if err != nil || string(e.Value) != "two" || e.Version != v2 || e.Key != "k" || !e.Expires.IsZero() {
			t.Errorf("got %+v, %v", e, err)
		}
		if e, err = kv.Retrieve(ctx, "k", WithExpiry()); err != nil || e.Expires.Unix() != 1e9 {
			t.Errorf("got expiry %v, %v", e.Expires, err)
		}
		if ok, err := kv.Exists(ctx, "k"); !ok || err != nil {
			t.Errorf("got %v, %v", ok, err)
		}
		if n, err := kv.Increment(ctx, "n", -3); n != -3 || err != nil {
			t.Errorf("got %d, %v", n, err)
		}
		if n, err := kv.Increment(ctx, "n", 0); n != -3 || err != nil {
			t.Errorf("got %d, %v", n, err)
		}
		if at, err := kv.Expire(ctx, "k", time.Hour); at.Unix() != 3600 || err != nil {
			t.Errorf("got %v, %v", at, err)
		}
		_, err = kv.Expire(ctx, "k", 0)
		wantReason(t, err, errs.InvalidField)
		wantReason(t, kv.Delete(ctx, "k", IfVersion(v1)), errs.VersionMismatch)
		if err := kv.Delete(ctx, "k", IfVersion(v2), IdempotencyKey("d")); err != nil {
			t.Error(err)
		}
		if ok, err := kv.Exists(ctx, "k"); ok || err != nil {
			t.Errorf("got %v, %v", ok, err)
		}
	})
}

func TestErrorsCarryTheirDetails(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, opts ...Option) {
		s := newServer(t)
		s.setHook(func(_ context.Context, key string) error {
			if key == "(open)" {
				return nil
			}
			return errs.Invalid(errs.Field{Path: "key", Text: "bad"}, errs.Field{Path: "ttl", Text: "worse"})
		})
		_, err := s.dial(t, opts...).KeyValue("").Store(t.Context(), "k", nil)
		var e *errs.Error
		if !errors.As(err, &e) || e.Reason != errs.InvalidField || len(e.Fields) != 2 || e.RequestID != "req-1" {
			t.Errorf("got %#v", err)
		}
	})
}

// The caller may change a value as soon as the call has returned, also when it
// returned early.
func TestValueIsCopied(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	kv := s.dial(t).KeyValue("")
	value := make([]byte, 4096)
	for i := range scale(2000) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%50)*10*time.Microsecond)
		_, _ = kv.Store(ctx, "k", value)
		cancel()
		for j := range value {
			value[j]++ // the race detector watches
		}
	}
}

func TestBatches(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	kv := newServer(t).dial(t).KeyValue("")
	stored, err := kv.StoreBatch(ctx, []StoreItem{{Key: "a", Value: []byte("1")}, {Key: "b", IfVersion: "9"}, {Key: "c", IfAbsent: true, TTL: time.Hour}, {Key: "d", TTL: -1}})
	if err != nil || len(stored) != 4 {
		t.Fatal(stored, err)
	}
	if stored[0].Err != nil || stored[0].Version == "" || stored[2].Err != nil {
		t.Errorf("got %+v", stored)
	}
	wantReason(t, stored[1].Err, errs.VersionMismatch)
	wantReason(t, stored[3].Err, errs.InvalidField)
	found, err := kv.RetrieveBatch(ctx, []string{"c", "x", "a"}, WithExpiry())
	if err != nil || len(found) != 3 {
		t.Fatal(found, err)
	}
	if string(found[2].Value) != "1" || found[2].Key != "a" || found[0].Expires.IsZero() {
		t.Errorf("got %+v", found)
	}
	wantReason(t, found[1].Err, errs.KeyNotFound)
	deleted, err := kv.DeleteBatch(ctx, []DeleteItem{{Key: "a"}, {Key: "c", IfVersion: "9"}})
	if err != nil || len(deleted) != 2 || deleted[0].Err != nil {
		t.Fatal(deleted, err)
	}
	wantReason(t, deleted[1].Err, errs.VersionMismatch)
}

func TestScan(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	kv := s.dial(t).KeyValue("")
	for i := range 100 {
		s.put(fmt.Sprintf("a%03d", i), "value")
	}
	s.put("b", "")
	count := func(opts ...ScanOption) (n int) {
		for e, err := range kv.Scan(t.Context(), "a", opts...) {
			if err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprintf("a%03d", n); e.Key != want {
				t.Fatalf("got key %q, want %q", e.Key, want)
			}
			n++
		}
		return n
	}
	if n := count(); n != 100 {
		t.Errorf("got %d entries", n)
	}
	if n := count(PageSize(7), PageBytes(1000)); n != 100 {
		t.Errorf("got %d entries by sevens", n)
	}
	for e := range kv.Scan(t.Context(), "", KeysOnly()) {
		if e.Value != nil || e.Version != "" {
			t.Errorf("got %+v", e)
		}
		break // goleak sees to it that nothing is left of it
	}
}

func TestScanGoesOn(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	kv := s.dial(t).KeyValue("")
	for i := range 100 {
		s.put(fmt.Sprintf("a%03d", i), "value")
	}
	pages := 0
	s.setHook(func(_ context.Context, key string) error {
		if pages++; pages%5 == 0 {
			return errs.New(errs.BackendUnavailable, "not now").WithRetry(time.Millisecond)
		}
		if pages == 8 {
			s.lis.cut()
		}
		return nil
	})
	n := 0
	for e, err := range kv.Scan(t.Context(), "a", PageSize(10)) {
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("a%03d", n); e.Key != want {
			t.Fatalf("got key %q, want %q", e.Key, want)
		}
		n++
	}
	if n != 100 || s.unary.Load() < 3 {
		t.Errorf("got %d entries in %d streams", n, s.unary.Load())
	}
	s.setHook(func(context.Context, string) error { return errs.InvalidCursor })
	last := error(nil)
	for _, err := range kv.Scan(t.Context(), "a") {
		last = err
	}
	wantReason(t, last, errs.InvalidCursor)
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	var seen metadata.MD
	c := s.dial(t, WithUnary(), WithPattern("carts"), WithUserAgent("shop/1"),
		WithCredentials(func(context.Context) (string, error) { return "Bearer t", nil }),
		WithTraceparent(func(context.Context) string { return "00-trace" }),
		WithDialOptions(grpc.WithUnaryInterceptor(func(ctx context.Context, m string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			seen, _ = metadata.FromOutgoingContext(ctx)
			return invoke(ctx, m, req, reply, cc, opts...)
		})))
	if err := c.KeyValue("").Delete(t.Context(), "k", IdempotencyKey("once")); err != nil {
		t.Fatal(err)
	}
	if seen == nil {
		t.Error("the dial option was not used")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, want := range map[string]string{
		headerNamespace: "test", headerPattern: "carts", headerAuthorization: "Bearer t",
		headerIdempotency: "once", headerTraceparent: "00-trace",
	} {
		if got := s.header.Get(name); len(got) != 1 || got[0] != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestOperationCarriesTraceAndKey(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.setHook(func(context.Context, string) error { return nil })
	c := s.dial(t, WithTimeout(time.Minute), WithTraceparent(func(context.Context) string { return "00-trace" }))
	if err := c.KeyValue("").Delete(t.Context(), "k", IdempotencyKey("once")); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	op := s.last[0]
	if op.GetIdempotencyKey() != "once" || op.GetTraceparent() != "00-trace" || op.GetTimeoutMs() < 50_000 {
		t.Errorf("got %v", op)
	}
}

func TestCredentialsHookFails(t *testing.T) {
	t.Parallel()
	c := newServer(t).dial(t, WithCredentials(func(context.Context) (string, error) { return "", errors.New("vault is sealed") }))
	_, err := c.KeyValue("").Exists(t.Context(), "k")
	wantReason(t, err, errs.Unauthenticated)
}

func TestPaths(t *testing.T) {
	t.Parallel()
	c, err := Dial("127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, path := range []string{"", "/p", "a/b/c", "a b", "ä"} {
		_, err := c.KeyValue(path).Exists(t.Context(), "k")
		wantReason(t, err, errs.InvalidField)
		for _, err := range c.KeyValue(path).Scan(t.Context(), "") {
			wantReason(t, err, errs.InvalidField)
		}
	}
}
