package redis_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// big is over what the server hashes.
var big = strings.Repeat("0123456789abcdef", 64<<10)

func TestConditionsOnBigValues(t *testing.T) {
	t.Parallel()
	_, kv, other := start(t)
	ctx := t.Context()
	v1 := put(t, kv, "k", big).Version
	if e, err := kv.Get(ctx, "k", driver.WithExpiry); err != nil || e.Version != v1 || len(e.Value) != len(big) {
		t.Fatalf("get: version %q, %d bytes, %v; want %q", e.Version, len(e.Value), err, v1)
	}
	e := wants(t, "put if absent", apply(ctx, kv, driver.Op{Kind: driver.Put, Key: "k", IfAbsent: true}).Err, errs.AlreadyExists)
	if e.Meta["version"] != v1 {
		t.Errorf("metadata %v, want version %q", e.Meta, v1)
	}
	for _, kind := range []driver.OpKind{driver.Put, driver.Delete, driver.Add, driver.Expire} {
		e := wants(t, "another version", apply(ctx, kv, driver.Op{Kind: kind, Key: "k", TTL: time.Hour, IfVersion: "other"}).Err, errs.VersionMismatch)
		if e.Meta["current"] != v1 {
			t.Errorf("metadata %v, want current %q", e.Meta, v1)
		}
	}
	wants(t, "add", apply(ctx, kv, driver.Op{Kind: driver.Add, Key: "k", IfVersion: v1}).Err, errs.NotANumber)

	r := apply(ctx, kv, driver.Op{Kind: driver.Expire, Key: "k", TTL: time.Hour})
	must(t, r.Err)
	if at := time.UnixMilli(int64(other.PExpireTime(ctx, "orders:carts:k").Val() / time.Millisecond)); !r.Expires.Equal(at) || r.Version != v1 {
		t.Errorf("expire: %+v, Redis says %v", r, at)
	}
	r = apply(ctx, kv, driver.Op{Kind: driver.Put, Key: "k", Value: []byte(big + "2"), TTL: time.Minute, IfVersion: v1})
	must(t, r.Err)
	if left := other.PTTL(ctx, "orders:carts:k").Val(); left <= 0 || left > time.Minute {
		t.Errorf("put with ttl: %v left", left)
	}
	must(t, apply(ctx, kv, driver.Op{Kind: driver.Delete, Key: "k", IfVersion: r.Version}).Err)
	if n := other.Exists(ctx, "orders:carts:k").Val(); n != 0 {
		t.Error("it is there after delete")
	}
}

// TestBigValuesChangeOneAtATime lets several callers replace one version; one
// of them wins each round.
func TestBigValuesChangeOneAtATime(t *testing.T) {
	t.Parallel()
	_, kv, _ := start(t)
	version := put(t, kv, "k", big).Version
	for range 5 {
		results := make([]driver.Result, 8)
		var all sync.WaitGroup
		for i := range results {
			all.Go(func() {
				value := []byte(big + version + string(rune('a'+i)))
				results[i] = apply(t.Context(), kv, driver.Op{Kind: driver.Put, Key: "k", Value: value, IfVersion: version})
			})
		}
		all.Wait()
		winners := 0
		for _, r := range results {
			if r.Err == nil {
				winners++
				version = r.Version
				continue
			}
			wants(t, "a loser", r.Err, errs.VersionMismatch)
		}
		if winners != 1 {
			t.Fatalf("%d callers replaced the same version", winners)
		}
	}
}

func TestOnceOnBigValues(t *testing.T) {
	t.Parallel()
	_, kv, _ := start(t)
	ctx := t.Context()
	v1 := put(t, kv, "k", big).Version
	once := &driver.Once{Token: [16]byte{1}, Digest: [16]byte{2}, TTL: time.Minute}
	op := driver.Op{Kind: driver.Expire, Key: "k", TTL: time.Hour, IfVersion: v1, Once: once}
	first := apply(ctx, kv, op)
	must(t, first.Err)
	again := apply(ctx, kv, op)
	if again.Err != nil || !again.Repeated || again.Version != first.Version || !again.Expires.Equal(first.Expires) {
		t.Fatalf("repeat: %+v, first %+v", again, first)
	}
	other := *once
	other.Digest[0]++
	op.Once = &other
	wants(t, "another request", apply(ctx, kv, op).Err, errs.IdempotencyMismatch)
}

func TestBigOperationLeavesAtItsDeadline(t *testing.T) {
	t.Parallel()
	s, kv, _ := start(t)
	v1 := put(t, kv, "k", big).Version
	s.Pause()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	begin := time.Now()
	r := apply(ctx, kv, driver.Op{Kind: driver.Delete, Key: "k", IfVersion: v1})
	wants(t, "paused", r.Err, errs.Deadline)
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
	s.Resume()
}
