package memory

import (
	"sync"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

type token = [16]byte

// onces are the recorded results whose tokens have one first byte. The lock is
// held while the operation of a token is carried out, and is taken before the
// lock of a key.
type onces struct {
	mu       sync.Mutex // guards what follows
	records  map[token]*record
	expiring queue[token]
}

type record struct {
	deadline[token]
	digest [16]byte
	result driver.Result
}

func (s *space) applyOnce(op *driver.Op, maxValue int) driver.Result {
	o := &s.onces[int(op.Once.Token[0])%shards]
	o.mu.Lock()
	defer o.mu.Unlock()
	now := s.now()
	if r := o.records[op.Once.Token]; r != nil && !r.passed(now.UnixNano()) {
		return r.answer(op.Once.Digest)
	}
	result := s.change(op, maxValue)
	if result.Err == nil {
		o.record(op.Once, result, now.Add(op.Once.TTL).UnixNano())
		s.watchers.tell(op.Key)
	}
	return result
}

func (r *record) answer(digest [16]byte) driver.Result {
	if r.digest != digest {
		return driver.Result{Err: errs.IdempotencyMismatch}
	}
	again := r.result
	again.Repeated = true
	return again
}

// record keeps a result, in the place of one that has expired if there is one.
func (o *onces) record(once *driver.Once, result driver.Result, at int64) {
	r := o.records[once.Token]
	if r == nil {
		r = &record{deadline: deadline[token]{key: once.Token}}
		if o.records == nil {
			o.records = make(map[token]*record)
		}
		o.records[once.Token] = r
	}
	r.digest, r.result = once.Digest, result
	o.expiring.set(&r.deadline, at)
}

// sweep removes some expired records and reports whether more may be left.
func (o *onces) sweep(now int64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for range sweepBatch {
		key, ok := o.expiring.pop(now)
		if !ok {
			return false
		}
		delete(o.records, key)
	}
	return true
}
