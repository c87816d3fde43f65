package wrap

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// An Observer is told of every call to a backend when it has ended. It may be
// called from several goroutines and must be quick.
type Observer interface {
	// Observe gets the method (see Methods), how many operations it carried, when
	// it began, and the errors among its outcomes, which are none of the caller's
	// making (see Failure).
	Observe(ctx context.Context, method string, operations int, began time.Time, failures []error)
}

// Methods returns all that an Observer is told of, by primitive.
func Methods() []string {
	return []string{
		"get", "get_many", "apply", "scan",
		"topic", "append", "read", "join", "stat", "seek", "commit",
		"enqueue", "receive", "wait", "settle", "browse",
		"publish", "subscribe",
		"put_object", "get_object", "stat_object", "delete_objects", "list_objects",
	}
}

// Failure reports whether an error says something about the backend, rather
// than about the request: a key that is not there is no failure.
func Failure(err error) bool {
	if err == nil {
		return false
	}
	switch errs.ReasonOf(err) { //nolint:exhaustive // every other reason is about the request
	case errs.BackendUnavailable, errs.CredentialsUnavailable, errs.OutcomeUnknown, errs.Deadline, errs.ReadOnly, errs.CircuitOpen, errs.Internal, errs.Unknown:
		return true
	}
	return false
}

// Observe tells o of every call to kv, and gives errors that nobody foresaw the
// name of the backend and the method, for the log.
func Observe(kv driver.KV, backend string, o Observer) driver.KV {
	return &observed{kv, observation{backend, o}}
}

type observed struct {
	driver.KV
	observation
}

// observation is what an observer's calls have in common.
type observation struct {
	backend  string
	observer Observer
}

func (k *observed) Get(ctx context.Context, key string, want driver.Want) (driver.Entry, error) {
	began := time.Now()
	e, err := k.KV.Get(ctx, key, want)
	k.one(ctx, "get", began, &err)
	return e, err
}

func (k *observed) GetMany(ctx context.Context, keys []string, want driver.Want, results []driver.GetResult) {
	began := time.Now()
	k.KV.GetMany(ctx, keys, want, results)
	var failures []error
	for i := range results {
		failures = k.named(failures, "get_many", &results[i].Err)
	}
	k.observer.Observe(ctx, "get_many", len(keys), began, failures)
}

func (k *observed) Apply(ctx context.Context, ops []driver.Op, results []driver.Result) {
	began := time.Now()
	k.KV.Apply(ctx, ops, results)
	var failures []error
	for i := range results {
		failures = k.named(failures, "apply", &results[i].Err)
	}
	k.observer.Observe(ctx, "apply", len(ops), began, failures)
}

func (k *observed) Scan(ctx context.Context, r driver.ScanRequest) (driver.Page, error) {
	began := time.Now()
	p, err := k.KV.Scan(ctx, r)
	k.one(ctx, "scan", began, &err)
	return p, err
}

func (k *observation) one(ctx context.Context, method string, began time.Time, err *error) {
	k.observer.Observe(ctx, method, 1, began, k.named(nil, method, err))
}

// named adds an error to the failures if it is one, with its origin if it has
// no reason of its own.
func (k *observation) named(failures []error, method string, err *error) []error {
	if *err == nil || !Failure(*err) {
		return failures
	}
	var known *errs.Error
	var reason errs.Reason
	if !errors.As(*err, &known) && !errors.As(*err, &reason) && errs.ReasonOf(*err) == errs.Internal {
		*err = fmt.Errorf("backend %s: %s: %w", k.backend, method, *err)
	}
	return append(failures, *err)
}
