package wrap_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/memory"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

// process is one life of a process over a backend that outlives it: after its
// nth write nothing that it does arrives any more.
type process struct {
	driver.KV
	left *atomic.Int64
	late bool // the last write arrives, and only its answer is lost
}

func (p *process) Apply(ctx context.Context, ops []driver.Op, results []driver.Result) {
	n := p.left.Add(-1)
	if n >= 0 || n == -1 && p.late {
		p.KV.Apply(ctx, ops, results)
	}
	if n < 0 {
		for i := range results {
			results[i] = driver.Result{Err: errs.OutcomeUnknown}
		}
	}
}

func (p *process) Get(ctx context.Context, key string, want driver.Want) (driver.Entry, error) {
	if p.left.Load() < 0 {
		return driver.Entry{}, errs.BackendUnavailable
	}
	return p.KV.Get(ctx, key, want)
}

type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

func spaces(t *testing.T) (data, records driver.KV) {
	t.Helper()
	conn, err := memory.Driver().Open(driver.Config{URL: "memory:"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	of := func(pattern string) driver.KV {
		b, err := conn.Space(driver.Space{Namespace: "n", Pattern: pattern})
		if err != nil {
			t.Fatal(err)
		}
		return b.KV
	}
	return of("p"), of("p!once")
}

func add(t *testing.T, kv driver.KV, key string, token byte) driver.Result {
	t.Helper()
	ops := []driver.Op{{Kind: driver.Add, Key: key, Delta: 1, Once: &driver.Once{Token: [16]byte{token}, Digest: [16]byte{token}, TTL: time.Minute}}}
	res := make([]driver.Result, 1)
	kv.Apply(t.Context(), ops, res)
	return res[0]
}

func count(t *testing.T, kv driver.KV, key string) int {
	t.Helper()
	e, err := kv.Get(t.Context(), key, driver.ValueOnly)
	if errors.Is(err, errs.KeyNotFound) {
		return 0
	}
	n, bad := strconv.Atoi(string(e.Value))
	if err != nil || bad != nil {
		t.Fatal(err, bad)
	}
	return n
}

// The process that reserved the token ends at every one of its steps; whatever
// the repeats are told, the effect is there at most once, and an OK is true.
func TestOnceAtEveryCrashPoint(t *testing.T) {
	t.Parallel()
	unknown, crashes := 0, 0
	for steps := range 4 {
		for _, late := range []bool{false, true} {
			t.Run(fmt.Sprintf("after %d writes, late %v", steps, late), func(t *testing.T) {
				data, records := spaces(t)
				c := new(clock)
				left := new(atomic.Int64)
				left.Store(int64(steps))
				first := wrap.Once(&process{data, left, late}, &process{records, left, late}, c.now)
				r := add(t, first, "n", 1)
				if left.Load() < 0 {
					crashes++
				}
				if r.Err == nil && count(t, data, "n") != 1 {
					t.Errorf("acknowledged without effect")
				}
				c.ahead.Store(int64(time.Minute / 2)) // the lease is over, the record is not
				for range 3 {
					again := wrap.Once(data, records, c.now)
					switch r := add(t, again, "n", 1); {
					case r.Err == nil && (r.Number != 1 || count(t, data, "n") != 1):
						t.Errorf("answered %+v with %d in the store", r, count(t, data, "n"))
					case errors.Is(r.Err, errs.OutcomeUnknown):
						unknown++
					case r.Err != nil:
						t.Errorf("a repeat: %v", r.Err)
					}
				}
				if n := count(t, data, "n"); n > 1 {
					t.Errorf("the effect is there %d times", n)
				}
			})
		}
	}
	if crashes < 5 || unknown == 0 {
		t.Errorf("%d crashes, %d undecided: the test hits too little", crashes, unknown)
	}
}

func TestOnceSideBySide(t *testing.T) {
	t.Parallel()
	data, records := spaces(t)
	kv := wrap.Once(data, records, time.Now)
	var all sync.WaitGroup
	var fresh atomic.Int64
	for range 32 {
		all.Go(func() {
			r := add(t, kv, "n", 7)
			if r.Err != nil || r.Number != 1 {
				t.Errorf("%+v", r)
			}
			if !r.Repeated {
				fresh.Add(1)
			}
		})
	}
	all.Wait()
	if n := count(t, data, "n"); n != 1 || fresh.Load() != 1 {
		t.Errorf("the effect is there %d times, %d say they made it", n, fresh.Load())
	}
}

func TestOnceMismatchAndFailure(t *testing.T) {
	t.Parallel()
	data, records := spaces(t)
	kv := wrap.Once(data, records, time.Now)
	do := func(op driver.Op, digest byte) driver.Result {
		op.Once = &driver.Once{Token: [16]byte{1}, Digest: [16]byte{digest}, TTL: time.Minute}
		res := make([]driver.Result, 2)
		kv.Apply(t.Context(), []driver.Op{{Kind: driver.Put, Key: "beside", Value: []byte("1")}, op}, res)
		if res[0].Err != nil {
			t.Errorf("the operation beside: %v", res[0].Err)
		}
		return res[1]
	}
	bad := driver.Op{Kind: driver.Put, Key: "k", Value: []byte("1"), IfVersion: "none"}
	if r := do(bad, 1); !errors.Is(r.Err, errs.VersionMismatch) {
		t.Errorf("%v", r.Err)
	}
	// What failed left nothing behind: the token is free.
	good := driver.Op{Kind: driver.Put, Key: "k", Value: []byte("1")}
	if r := do(good, 2); r.Err != nil || r.Repeated {
		t.Errorf("%+v", r)
	}
	if r := do(good, 3); !errors.Is(r.Err, errs.IdempotencyMismatch) {
		t.Errorf("%v", r.Err)
	}
	if r := do(good, 2); r.Err != nil || !r.Repeated {
		t.Errorf("%+v", r)
	}
}
