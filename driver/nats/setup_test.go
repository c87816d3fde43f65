package nats_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/nats"
	"github.com/prismgw/prism/errs"
)

// patience only ends what hangs.
const patience = 30 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open returns a connection that is closed at the end of the test.
func open(t testing.TB, c driver.Config) driver.Conn {
	t.Helper()
	conn, err := nats.Driver().Open(c)
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

func space(t testing.TB, conn driver.Conn, s driver.Space) driver.KV {
	t.Helper()
	b, err := conn.Space(s)
	if err != nil {
		t.Fatal(err)
	}
	return b.KV
}

// orders is the space that most tests use.
var orders = driver.Space{Namespace: "orders", Pattern: "carts"}

func apply(ctx context.Context, kv driver.KV, op driver.Op) driver.Result {
	results := make([]driver.Result, 1)
	kv.Apply(ctx, []driver.Op{op}, results)
	return results[0]
}

func put(t testing.TB, kv driver.KV, key, value string) driver.Result {
	t.Helper()
	r := apply(t.Context(), kv, driver.Op{Kind: driver.Put, Key: key, Value: []byte(value)})
	if r.Err != nil {
		t.Fatalf("put %s: %v", key, r.Err)
	}
	return r
}

func wants(t testing.TB, what string, err error, reason errs.Reason) *errs.Error {
	t.Helper()
	if !errors.Is(err, reason) {
		t.Fatalf("%s: got %v (%v), want %v", what, errs.ReasonOf(err), err, reason)
	}
	return errs.From(err)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// await waits until a condition holds.
func await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}
