package drivertest

import (
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

func onceChecks() []check {
	return []check{
		{"once/refused", needsReserved, onceRefused},
		{"once/repeat", needsAtomic, onceRepeat},
		{"once/mismatch", needsAtomic, onceMismatch},
		{"once/failed-records-nothing", needsAtomic, onceFailed},
		{"once/record-expires", needsAtomic, onceExpires},
		{"once/concurrent", needsAtomic, onceConcurrent},
		{"once/within-a-batch", needsAtomic, onceInBatch},
		{"once/outlives-its-connection", needsAtomic, onceOutlives},
	}
}

func needsAtomic(e *env) string {
	if e.g.Idempotency != driver.IdempotencyAtomic {
		return "effect and record are not one step here; the pattern reserves the token"
	}
	return ""
}

func needsReserved(e *env) string {
	if e.g.Idempotency != driver.IdempotencyReserved {
		return "effect and record are one atomic step"
	}
	return ""
}

// newOnce returns a token nobody used, under a digest.
func newOnce(digest byte) *driver.Once {
	o := &driver.Once{Digest: [16]byte{digest}, TTL: time.Hour}
	_, _ = rand.Read(o.Token[:])
	return o
}

func onceRefused(e *env) {
	s := e.store()
	for _, kind := range []driver.OpKind{driver.Put, driver.Delete, driver.Add} {
		s.fails(driver.Op{Kind: kind, Key: "a", Once: newOnce(1)}, errs.Unsupported)
	}
	s.absent("a")
}

// onceOps are operations of each kind on a key that holds "5".
func onceOps() []driver.Op {
	return []driver.Op{
		{Kind: driver.Put, Value: []byte("6")},
		{Kind: driver.Put, Value: []byte("6"), TTL: time.Hour},
		{Kind: driver.Put, Value: noise(100_000)},
		{Kind: driver.Delete},
		{Kind: driver.Add, Delta: 7},
		{Kind: driver.Expire, TTL: time.Hour},
	}
}

func onceRepeat(e *env) {
	s := e.store()
	two := s.again(e.open())
	for i, op := range e.possible(onceOps()) {
		for _, conditional := range []bool{false, true} {
			op.Key = fmt.Sprint("k", i, conditional)
			op.Once = newOnce(1)
			op.IfVersion = ""
			if r := s.put(op.Key, "5"); conditional {
				op.IfVersion = r.Version
			}
			first := s.ok(op)
			if first.Repeated {
				e.Errorf("%s: the first answer says Repeated", opText(op))
			}
			after := s.getMany(op.Key)[0]
			s.repeats(op, first)
			two.repeats(op, first)
			if again := s.getMany(op.Key)[0]; (again.Err == nil) != (after.Err == nil) || !sameEntry(after.Entry, again.Entry) {
				e.Errorf("%s: the repeat changed the entry", opText(op))
			}
			s.put(op.Key, "since then")
			s.repeats(op, first)
			s.is(op.Key, "since then")
		}
	}
	op := driver.Op{Kind: driver.Put, Key: "created", Value: []byte("1"), IfAbsent: true, Once: newOnce(1)}
	s.repeats(op, s.ok(op))
	s.delete("created")
	s.ok(op)
	s.absent("created")
}

// repeats checks that an operation answers as the first time and says so.
func (s *store) repeats(op driver.Op, first driver.Result) {
	s.Helper()
	r := s.ok(op)
	if !r.Repeated || r.Version != first.Version || r.Number != first.Number || r.Expires.UnixMilli() != first.Expires.UnixMilli() {
		s.Errorf("%s: the repeat answers %+v, want %+v and Repeated", opText(op), r, first)
	}
}

func onceMismatch(e *env) {
	s := e.store()
	op := driver.Op{Kind: driver.Add, Key: "a", Delta: 1, Once: newOnce(1)}
	first := s.ok(op)
	for _, key := range []string{"a", "b"} {
		for _, kind := range []driver.OpKind{driver.Put, driver.Delete, driver.Add} {
			other := driver.Op{Kind: kind, Key: key, Delta: 1, Once: &driver.Once{Token: op.Once.Token, Digest: [16]byte{2}, TTL: time.Hour}}
			s.fails(other, errs.IdempotencyMismatch)
		}
	}
	s.is("a", "1")
	s.absent("b")
	s.repeats(op, first)

	// The same digest under another key is the same request to a driver.
	moved := op
	moved.Key = "b"
	s.repeats(moved, first)
	s.absent("b")

	another := op
	another.Once = newOnce(1)
	if r := s.ok(another); r.Number != 2 || r.Repeated {
		e.Errorf("another token: %+v, want 2", r)
	}
}

func onceFailed(e *env) {
	s := e.store()
	version := s.put("text", "x").Version
	for _, c := range []struct {
		op   driver.Op
		want errs.Reason
		fix  func()
	}{
		{driver.Op{Kind: driver.Put, Key: "a", Value: []byte("1"), IfVersion: version}, errs.VersionMismatch, func() { s.put("a", "x") }},
		{driver.Op{Kind: driver.Put, Key: "text", Value: []byte("1"), IfAbsent: true}, errs.AlreadyExists, func() { s.delete("text") }},
		{driver.Op{Kind: driver.Add, Key: "n", Delta: 1}, errs.NotANumber, func() { s.put("n", "1") }},
		{driver.Op{Kind: driver.Expire, Key: "e", TTL: time.Hour}, errs.KeyNotFound, func() { s.put("e", "1") }},
	} {
		if c.op.Kind == driver.Expire && !e.g.TTL {
			continue
		}
		if c.want == errs.NotANumber {
			s.put("n", "x")
		}
		c.op.Once = newOnce(1)
		s.fails(c.op, c.want)
		s.fails(c.op, c.want)
		c.fix()
		if c.want == errs.VersionMismatch {
			c.op.IfVersion = s.is("a", "x").Version
		}
		if r := s.ok(c.op); r.Repeated {
			e.Errorf("%s: a failed operation was recorded", opText(c.op))
		}
		if r := s.ok(c.op); !r.Repeated {
			e.Errorf("%s: the success after a failure was not recorded", opText(c.op))
		}
	}
}

func onceExpires(e *env) {
	s := e.store()
	op := driver.Op{Kind: driver.Add, Key: "a", Delta: 1, Once: newOnce(1)}
	op.Once.TTL = 200 * time.Millisecond
	begin := time.Now()
	last := s.ok(op)
	for e.ctx.Err() == nil {
		sent := time.Now()
		r := s.ok(op)
		switch {
		case r.Repeated && r.Number != last.Number:
			e.Fatalf("a repeat answers %d, want %d", r.Number, last.Number)
		case r.Repeated && last.Number > 1:
			s.is("a", fmt.Sprint(last.Number))
			return // it expired, and the next operation was recorded anew
		case r.Repeated && time.Since(begin) > 5*time.Second:
			e.Fatal("the record of 200 ms is there after 5 s")
		case r.Repeated:
			time.Sleep(time.Millisecond)
		case r.Number != last.Number+1:
			e.Fatalf("after the record expired the next operation answers %d, want %d", r.Number, last.Number+1)
		case time.Since(begin) < op.Once.TTL-slack:
			e.Fatal("the record of 200 ms is gone too early")
		default:
			begin, last = sent, r
		}
	}
	e.Fatal("after its record expired an operation is never recorded anew")
}

// onceConcurrent repeats each operation several times at once, on two
// connections: one takes effect, all answer the same.
func onceConcurrent(e *env) {
	one := e.store()
	stores := []*store{one, one.again(e.open())}
	const rounds, repeats = 30, 6
	for round := range rounds {
		op := driver.Op{Kind: driver.Add, Key: "n", Delta: 1, Once: newOnce(byte(round))}
		results := make([]driver.Result, repeats)
		var wg sync.WaitGroup
		for i := range repeats {
			wg.Go(func() { results[i] = stores[i%2].do(op) })
		}
		wg.Wait()
		effects := 0
		for _, r := range results {
			if r.Err != nil || r.Number != int64(round+1) || r.Version != results[0].Version {
				e.Errorf("round %d: %+v, want %d", round, r, round+1)
			}
			if !r.Repeated {
				effects++
			}
		}
		if effects != 1 {
			e.Errorf("round %d: %d answers are not Repeated, want 1", round, effects)
		}
	}
	one.is("n", fmt.Sprint(rounds))
}

func onceInBatch(e *env) {
	s := e.store()
	op := driver.Op{Kind: driver.Add, Key: "n", Delta: 1, Once: newOnce(1)}
	other := driver.Op{Kind: driver.Add, Key: "m", Delta: 5}
	repeated := 0
	for i, r := range s.apply(op, other, op, op) {
		switch {
		case r.Err != nil:
			e.Errorf("operation %d: %s", i, describe(r.Err))
		case i == 1 && (r.Number != 5 || r.Repeated):
			e.Errorf("operation beside repeats: %+v", r)
		case i != 1 && r.Number != 1:
			e.Errorf("operation %d: %+v, want 1", i, r)
		case r.Repeated:
			repeated++
		}
	}
	if repeated != 2 {
		e.Errorf("three times one token in one batch: %d Repeated, want 2", repeated)
	}
	s.is("n", "1")
}

func onceOutlives(e *env) {
	space := e.space()
	conn := e.open()
	op := driver.Op{Kind: driver.Add, Key: "n", Delta: 1, Once: newOnce(1)}
	first := e.storeOn(conn, space).ok(op)
	if err := conn.Close(); err != nil {
		e.Fatalf("close: %v", err)
	}
	s := e.storeOn(e.open(), space)
	s.repeats(op, first)
	s.is("n", "1")
}

// tokensNeverMeet uses one token in two spaces.
func tokensNeverMeet(e *env) {
	for _, pair := range e.pairs() {
		op := driver.Op{Kind: driver.Add, Key: "n", Delta: 1, Once: newOnce(1)}
		for i := range pair {
			s := e.storeOn(e.s.anchor, pair[i])
			if r := s.ok(op); r.Repeated || r.Number != 1 {
				e.Errorf("a token of %+v is known in %+v: %+v", pair[0], pair[i], r)
			}
			op.Once.Digest[0]++
			s.delete("n")
		}
	}
}
