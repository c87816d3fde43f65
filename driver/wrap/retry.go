package wrap

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

const (
	retryPause  = 10 * time.Millisecond // before the second try, half to whole
	retryCost   = 10                    // calls that pay for one retry, so that retries add at most a tenth
	retryCredit = 100                   // calls that can be saved up
)

// A Retrier repeats what a backend did not take: operations that failed with
// errs.BackendUnavailable, which says that nothing was done. Each is repeated
// once, while the calls that went well pay for it, so that a backend that is
// down is not called twice as often. All spaces of a backend share one.
type Retrier struct {
	credit atomic.Int64
}

// NewRetrier returns a retrier with its credit full.
func NewRetrier() *Retrier {
	r := new(Retrier)
	r.credit.Store(retryCredit)
	return r
}

// KV returns kv with retries.
func (r *Retrier) KV(kv driver.KV) driver.KV { return &retried{KV: kv, r: r} }

// again reports whether to try again after an outcome, having waited.
func (r *Retrier) again(ctx context.Context, err error) bool {
	if err == nil {
		if r.credit.Load() < retryCredit {
			r.credit.Add(1)
		}
		return false
	}
	if !errors.Is(err, errs.BackendUnavailable) {
		return false
	}
	if r.credit.Add(-retryCost) < 0 {
		r.credit.Add(retryCost)
		return false
	}
	t := time.NewTimer(retryPause/2 + rand.N(retryPause/2))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

type retried struct {
	driver.KV
	r *Retrier
}

func (k *retried) Get(ctx context.Context, key string, want driver.Want) (driver.Entry, error) {
	e, err := k.KV.Get(ctx, key, want)
	if k.r.again(ctx, err) {
		return k.KV.Get(ctx, key, want)
	}
	return e, err
}

func (k *retried) Scan(ctx context.Context, r driver.ScanRequest) (driver.Page, error) {
	p, err := k.KV.Scan(ctx, r)
	if k.r.again(ctx, err) {
		return k.KV.Scan(ctx, r)
	}
	return p, err
}

func (k *retried) GetMany(ctx context.Context, keys []string, want driver.Want, results []driver.GetResult) {
	k.KV.GetMany(ctx, keys, want, results)
	at := untaken(len(results), func(i int) error { return results[i].Err })
	if !k.r.again(ctx, firstError(at)) {
		return
	}
	again, res := make([]string, len(at)), make([]driver.GetResult, len(at))
	for k, i := range at {
		again[k] = keys[i]
	}
	k.KV.GetMany(ctx, again, want, res)
	for k, i := range at {
		results[i] = res[k]
	}
}

func (k *retried) Apply(ctx context.Context, ops []driver.Op, results []driver.Result) {
	k.KV.Apply(ctx, ops, results)
	at := untaken(len(results), func(i int) error { return results[i].Err })
	if !k.r.again(ctx, firstError(at)) {
		return
	}
	again, res := make([]driver.Op, len(at)), make([]driver.Result, len(at))
	for k, i := range at {
		again[k] = ops[i]
	}
	k.KV.Apply(ctx, again, res)
	for k, i := range at {
		results[i] = res[k]
	}
}

// untaken returns which of n operations the backend did not take.
func untaken(n int, err func(int) error) []int {
	var at []int
	for i := range n {
		if e := err(i); e != nil && errors.Is(e, errs.BackendUnavailable) {
			at = append(at, i)
		}
	}
	return at
}

// firstError is the outcome of a batch for again.
func firstError(untaken []int) error {
	if len(untaken) > 0 {
		return errs.BackendUnavailable
	}
	return nil
}
