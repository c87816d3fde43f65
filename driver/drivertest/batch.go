package drivertest

import (
	"fmt"
	"sync"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

func batchChecks() []check {
	return []check{
		{"batch/empty", nil, emptyBatches},
		{"batch/operations-are-independent", nil, independentOps},
		{"batch/one-key-twice", nil, oneKeyTwice},
		{"batch/get-many", nil, getMany},
		{"batch/large", nil, largeBatch},
		{"batch/concurrent", nil, concurrentBatches},
	}
}

func emptyBatches(e *env) {
	s := e.store()
	s.kv.Apply(e.ctx, nil, nil)
	s.kv.Apply(e.ctx, []driver.Op{}, []driver.Result{})
	s.kv.GetMany(e.ctx, nil, driver.WithExpiry, nil)
}

// independentOps mixes operations that fail for every reason with ones that
// succeed.
func independentOps(e *env) {
	s := e.store()
	s.put("present", "1")
	s.put("text", "x")
	s.put("max", "9223372036854775807")
	bad := []struct {
		op   driver.Op
		want errs.Reason
	}{
		{driver.Op{Kind: driver.Put, Key: "present", IfAbsent: true}, errs.AlreadyExists},
		{driver.Op{Kind: driver.Put, Key: "missing", IfVersion: "nonesuch"}, errs.VersionMismatch},
		{driver.Op{Kind: driver.Delete, Key: "present", IfVersion: "nonesuch"}, errs.VersionMismatch},
		{driver.Op{Kind: driver.Add, Key: "text", Delta: 1}, errs.NotANumber},
		{driver.Op{Kind: driver.Add, Key: "max", Delta: 1}, errs.OutOfRange},
		{driver.Op{Kind: driver.Expire, Key: "missing", TTL: driver.MaxTTL}, errs.KeyNotFound},
		{driver.Op{Kind: driver.Put, Key: "large", Value: make([]byte, e.g.MaxValue+1)}, errs.PayloadTooLarge},
	}
	if !e.g.TTL {
		bad[5].want = errs.Unsupported
	}
	var ops []driver.Op
	for i, b := range bad {
		ops = append(ops, driver.Op{Kind: driver.Put, Key: fmt.Sprint("good", i), Value: []byte("1")}, b.op,
			driver.Op{Kind: driver.Add, Key: fmt.Sprint("number", i), Delta: int64(i)})
	}
	results := s.apply(ops...)
	for i, b := range bad {
		e.wants(opText(b.op), results[3*i+1].Err, b.want)
		if r := results[3*i]; r.Err != nil || r.Version == "" {
			e.Errorf("put beside %s: %+v", opText(b.op), r)
		}
		if r := results[3*i+2]; r.Err != nil || r.Number != int64(i) {
			e.Errorf("add beside %s: %+v", opText(b.op), r)
		}
		s.is(fmt.Sprint("good", i), "1")
	}
	s.is("present", "1")
	s.is("text", "x")
	s.is("max", "9223372036854775807")
	s.absent("missing")
	s.absent("large")
}

// oneKeyTwice writes one key several times in one batch: each write happens,
// in some order.
func oneKeyTwice(e *env) {
	s := e.store()
	results := s.apply(
		driver.Op{Kind: driver.Put, Key: "a", Value: []byte("1")},
		driver.Op{Kind: driver.Put, Key: "b", Value: []byte("x")},
		driver.Op{Kind: driver.Put, Key: "a", Value: []byte("2")},
		driver.Op{Kind: driver.Put, Key: "a", Value: []byte("3")},
	)
	got, err := s.kv.Get(e.ctx, "a", driver.WithExpiry)
	if err != nil {
		e.Fatalf("get: %s", describe(err))
	}
	matches := 0
	for i, value := range map[int]string{0: "1", 2: "2", 3: "3"} {
		if results[i].Err != nil {
			e.Errorf("put: %s", describe(results[i].Err))
		}
		if string(got.Value) == value && got.Version == results[i].Version {
			matches++
		}
	}
	if matches != 1 {
		e.Errorf("get: %q with version %s is not what one of the puts answered: %+v", got.Value, got.Version, results)
	}
	var adds []driver.Op
	for range 50 {
		adds = append(adds, driver.Op{Kind: driver.Add, Key: "n", Delta: 1})
	}
	seen := map[int64]bool{}
	for _, r := range s.apply(adds...) {
		if r.Err != nil || seen[r.Number] || r.Number < 1 || r.Number > 50 {
			e.Errorf("add of one key in one batch: %+v", r)
		}
		seen[r.Number] = true
	}
	s.is("n", "50")
	s.onlyOneCreates()
}

func (s *store) onlyOneCreates() {
	s.Helper()
	op := driver.Op{Kind: driver.Put, Key: "once", IfAbsent: true}
	created := 0
	for _, r := range s.apply(op, op, op, op) {
		if r.Err == nil {
			created++
		} else {
			s.wants(opText(op), r.Err, errs.AlreadyExists)
		}
	}
	if created != 1 {
		s.Errorf("four puts if absent of one key in one batch: %d succeeded", created)
	}
}

func getMany(e *env) {
	s := e.store()
	a, b := s.put("a", "1"), s.put("b", "")
	results := s.getMany("a", "missing", "b", "a", "a")
	for i, want := range []driver.Result{a, {Err: errs.KeyNotFound}, b, a, a} {
		r := results[i]
		if want.Err != nil {
			e.wants("get many of an absent key", r.Err, errs.KeyNotFound)
			continue
		}
		if r.Err != nil || r.Version != want.Version || !r.Expires.IsZero() {
			e.Errorf("get many, result %d: %+v, want version %s", i, r, want.Version)
		}
	}
}

func largeBatch(e *env) {
	const n = 2000
	s := e.store()
	ops, keys := make([]driver.Op, n), make([]string, n)
	for i := range ops {
		keys[i] = fmt.Sprintf("key%04d", i)
		ops[i] = driver.Op{Kind: driver.Put, Key: keys[i], Value: fmt.Append(nil, "value", i)}
	}
	versions := map[string]bool{}
	for i, r := range s.apply(ops...) {
		if r.Err != nil {
			e.Fatalf("put %d: %s", i, describe(r.Err))
		}
		versions[r.Version] = true
	}
	if len(versions) != n {
		e.Errorf("%d puts gave %d versions", n, len(versions))
	}
	for i, r := range s.getMany(keys...) {
		if r.Err != nil || string(r.Value) != fmt.Sprint("value", i) {
			e.Fatalf("get many %s: %q, %v", keys[i], r.Value, r.Err)
		}
	}
	for i := range ops {
		ops[i].Kind = driver.Delete
	}
	for i, r := range s.apply(ops...) {
		if r.Err != nil {
			e.Fatalf("delete %d: %s", i, describe(r.Err))
		}
	}
	s.holds("", 100)
}

// concurrentBatches lets batches that have keys in common, in different
// orders, run into each other: they neither block each other for good nor mix
// up their results.
func concurrentBatches(e *env) {
	s := e.store()
	const workers, rounds, keys = 8, 20, 16
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for range rounds {
				ops := make([]driver.Op, keys)
				for i := range ops {
					key := i
					if w%2 == 1 {
						key = keys - 1 - i
					}
					ops[i] = driver.Op{Kind: driver.Add, Key: fmt.Sprint("n", key), Delta: int64(key)}
				}
				for i, r := range s.apply(ops...) {
					if r.Err != nil {
						e.Errorf("%s: %s", opText(ops[i]), describe(r.Err))
					} else if ops[i].Delta != 0 && r.Number%ops[i].Delta != 0 {
						e.Errorf("%s: %d is the result of another key", opText(ops[i]), r.Number)
					}
				}
			}
		})
	}
	e.within("batches with common keys", patience, wg.Wait)
	for key := range keys {
		s.is(fmt.Sprint("n", key), fmt.Sprint(workers*rounds*key))
	}
}
