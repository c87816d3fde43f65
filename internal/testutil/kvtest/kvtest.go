// Package kvtest is what the own tests of several drivers share: short words
// for what they do, and tests that need a server of their kind. What every
// driver has to keep is in package drivertest. Only tests may import it.
package kvtest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// Patience is how long anything may take; it only ends what hangs.
const Patience = 30 * time.Second

// Orders is the space that most tests use.
var Orders = driver.Space{Namespace: "orders", Pattern: "carts"}

// Open returns a connection that is closed at the end of the test.
func Open(t testing.TB, d driver.Driver, c driver.Config) driver.Conn {
	t.Helper()
	conn, err := d.Open(c)
	Must(t, err)
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return conn
}

// Space returns the KV of a space.
func Space(t testing.TB, conn driver.Conn, s driver.Space) driver.KV {
	t.Helper()
	b, err := conn.Space(s)
	Must(t, err)
	return b.KV
}

// Apply carries out one operation.
func Apply(ctx context.Context, kv driver.KV, op driver.Op) driver.Result {
	results := make([]driver.Result, 1)
	kv.Apply(ctx, []driver.Op{op}, results)
	return results[0]
}

// Put stores a value.
func Put(t testing.TB, kv driver.KV, key, value string) driver.Result {
	t.Helper()
	r := Apply(t.Context(), kv, driver.Op{Kind: driver.Put, Key: key, Value: []byte(value)})
	if r.Err != nil {
		t.Fatalf("put %s: %v", key, r.Err)
	}
	return r
}

// Wants ends the test unless err has the reason, and returns what else it says.
func Wants(t testing.TB, what string, err error, reason errs.Reason) *errs.Error {
	t.Helper()
	refused(t, what, err, reason)
	return errs.From(err)
}

func refused(t testing.TB, what string, err error, reason errs.Reason) {
	t.Helper()
	if !errors.Is(err, reason) {
		t.Fatalf("%s: got %v (%v), want %v", what, errs.ReasonOf(err), err, reason)
	}
}

// Must ends the test if there is an error.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Await waits until a condition holds.
func Await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(Patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, Patience)
		}
	}
}
