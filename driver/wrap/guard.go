package wrap

import (
	"context"

	"github.com/prismgw/prism/driver"
)

// guard is asked before each call whether it may be made, and told how it went,
// also if it ends in a panic: the places and the breaker are everybody's.
type guard struct {
	// enter lets a call through, or says why not. leave gets the outcome; of
	// a batch, the first that severe picks, or else none.
	enter  func(ctx context.Context) (leave func(outcome error), err error)
	severe func(err error) bool
}

// guarded is a KV behind a guard.
type guarded struct {
	driver.KV
	guard
}

func (k *guarded) Get(ctx context.Context, key string, want driver.Want) (e driver.Entry, err error) {
	leave, err := k.enter(ctx)
	if err != nil {
		return driver.Entry{}, err
	}
	defer func() { leave(err) }()
	e, err = k.KV.Get(ctx, key, want)
	return e, err
}

func (k *guarded) GetMany(ctx context.Context, keys []string, want driver.Want, results []driver.GetResult) {
	leave, err := k.enter(ctx)
	if err != nil {
		for i := range results {
			results[i] = driver.GetResult{Err: err}
		}
		return
	}
	defer func() { leave(k.worst(len(results), func(i int) error { return results[i].Err })) }()
	k.KV.GetMany(ctx, keys, want, results)
}

func (k *guarded) Apply(ctx context.Context, ops []driver.Op, results []driver.Result) {
	leave, err := k.enter(ctx)
	if err != nil {
		for i := range results {
			results[i] = driver.Result{Err: err}
		}
		return
	}
	defer func() { leave(k.worst(len(results), func(i int) error { return results[i].Err })) }()
	k.KV.Apply(ctx, ops, results)
}

func (k *guarded) Scan(ctx context.Context, r driver.ScanRequest) (p driver.Page, err error) {
	leave, err := k.enter(ctx)
	if err != nil {
		return driver.Page{}, err
	}
	defer func() { leave(err) }()
	p, err = k.KV.Scan(ctx, r)
	return p, err
}

func (k *guard) worst(n int, outcome func(int) error) error {
	for i := range n {
		if err := outcome(i); err != nil && k.severe(err) {
			return err
		}
	}
	return nil
}
