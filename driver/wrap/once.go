package wrap

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

const (
	// onceLease is how long the first of equal requests may take. When it is
	// over and there is no outcome, nobody can say any more whether there was
	// an effect.
	onceLease = 10 * time.Second

	oncePoll   = 10 * time.Millisecond // between two looks at a request under way
	onceFinish = 2 * time.Second       // for the record of an outcome, also if the caller has gone
)

// Once keeps Op.Once for a kv that has no atomic way to (guarantee
// IdempotencyReserved). It reserves the token in records, which is another
// space of the same backend, carries the operation out, and records the
// outcome. So an operation never takes effect twice; but where the one that
// reserved the token is gone without a record, a repeat is
// errs.OutcomeUnknown.
func Once(kv, records driver.KV, now func() time.Time) driver.KV {
	return &onced{KV: kv, records: records, now: now}
}

type onced struct {
	driver.KV
	records driver.KV
	now     func() time.Time
}

// record is what stands under a token.
type record struct {
	Digest  string    `json:"digest"`
	Until   time.Time `json:"until"` // the end of the lease of the one that reserved it
	Done    bool      `json:"done,omitempty"`
	Version string    `json:"version,omitempty"`
	Number  int64     `json:"number,omitempty"`
	Expires time.Time `json:"expires,omitzero"`
}

func (k *onced) Apply(ctx context.Context, ops []driver.Op, results []driver.Result) {
	var plain []driver.Op
	var at []int
	for i := range ops {
		if ops[i].Once == nil {
			plain, at = append(plain, ops[i]), append(at, i)
			continue
		}
		results[i] = k.once(ctx, ops[i])
	}
	if len(at) == len(ops) {
		k.KV.Apply(ctx, ops, results)
		return
	}
	if len(at) == 0 {
		return
	}
	some := make([]driver.Result, len(plain))
	k.KV.Apply(ctx, plain, some)
	for n, i := range at {
		results[i] = some[n]
	}
}

// once carries out one operation, or answers as its first time did.
func (k *onced) once(ctx context.Context, op driver.Op) driver.Result {
	token, digest := hex.EncodeToString(op.Once.Token[:]), hex.EncodeToString(op.Once.Digest[:])
	for {
		mine, version, err := k.reserve(ctx, token, digest, op.Once.TTL)
		if err != nil {
			return driver.Result{Err: err}
		}
		if mine {
			return k.first(ctx, op, token, digest, version)
		}
		r, again := k.repeat(ctx, token, digest)
		if !again {
			return r
		}
	}
}

// reserve writes the token down if nobody has.
func (k *onced) reserve(ctx context.Context, token, digest string, ttl time.Duration) (mine bool, version string, err error) {
	r, err := k.write(ctx, driver.Op{Kind: driver.Put, Key: token, TTL: ttl, IfAbsent: true}, record{Digest: digest, Until: k.now().Add(onceLease)})
	switch {
	case err == nil:
		return true, r.Version, nil
	case errors.Is(err, errs.AlreadyExists):
		return false, "", nil
	}
	if errors.Is(err, errs.OutcomeUnknown) {
		// Nothing but perhaps the reservation was done: the caller may try again.
		err = errs.BackendUnavailable
	}
	return false, "", err
}

// first carries out the operation whose token was just reserved.
func (k *onced) first(ctx context.Context, op driver.Op, token, digest, version string) driver.Result {
	ttl := op.Once.TTL
	op.Once = nil
	limited, stop := context.WithTimeout(ctx, onceLease/2)
	defer stop()
	r := one(limited, k.KV, op)
	finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), onceFinish)
	defer cancel()
	switch reason := errs.ReasonOf(r.Err); {
	case r.Err == nil:
		// If this fails, the effect stands all the same; a repeat will not know.
		_, _ = k.write(finish, driver.Op{Kind: driver.Put, Key: token, TTL: ttl, IfVersion: version},
			record{Digest: digest, Done: true, Version: r.Version, Number: r.Number, Expires: r.Expires})
	case reason == errs.OutcomeUnknown || reason == errs.Deadline || reason == errs.Cancelled || reason == errs.Internal || reason == errs.Unknown:
		// It may have happened: the token stays reserved.
	default:
		one(finish, k.records, driver.Op{Kind: driver.Delete, Key: token, IfVersion: version})
	}
	return r
}

// repeat answers with the outcome of the first time, waiting for it; again says
// that the first one has given the token back.
func (k *onced) repeat(ctx context.Context, token, digest string) (r driver.Result, again bool) {
	for {
		e, err := k.records.Get(ctx, token, driver.ValueOnly)
		if errors.Is(err, errs.KeyNotFound) {
			return r, true
		}
		var rec record
		if err == nil {
			err = json.Unmarshal(e.Value, &rec)
		}
		switch {
		case err != nil:
			return driver.Result{Err: err}, false
		case rec.Digest != digest:
			return driver.Result{Err: errs.IdempotencyMismatch}, false
		case rec.Done:
			return driver.Result{Version: rec.Version, Number: rec.Number, Expires: rec.Expires, Repeated: true}, false
		case k.now().After(rec.Until):
			return driver.Result{Err: errs.New(errs.OutcomeUnknown, "the first request under this idempotency key ended without a trace; read the key to see whether it had its effect")}, false
		}
		select {
		case <-ctx.Done():
			return driver.Result{Err: errs.From(ctx.Err())}, false
		case <-time.After(oncePoll):
		}
	}
}

// write stores a record.
func (k *onced) write(ctx context.Context, op driver.Op, rec record) (driver.Result, error) {
	var err error
	if op.Value, err = json.Marshal(rec); err != nil {
		return driver.Result{}, err
	}
	r := one(ctx, k.records, op)
	return r, r.Err
}

// one applies one operation.
func one(ctx context.Context, kv driver.KV, op driver.Op) driver.Result {
	var r [1]driver.Result
	kv.Apply(ctx, []driver.Op{op}, r[:])
	return r[0]
}
