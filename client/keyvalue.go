package client

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
)

// KeyValue reaches the keys and values of one namespace. It is safe for
// concurrent use. Keys are 1 to 1,024 bytes of UTF-8 without NUL. Values that
// are passed in are not read after the call has returned, and values that are
// returned are the caller's.
//
// When its context ends, a call returns at once, with errs.Deadline or
// errs.Cancelled; a write may still happen.
type KeyValue struct{ streamed }

// An Entry is a value with what is known about it.
type Entry struct {
	Key     string
	Value   []byte
	Version string    // opaque; empty if it was not asked for
	Expires time.Time // zero if the key never expires, or if it was not asked for
}

// Store sets the value of key and returns its new version. Without a TTL the
// key never expires, also if it did before. It fails with errs.VersionMismatch
// under IfVersion and with errs.AlreadyExists under IfAbsent.
func (kv *KeyValue) Store(ctx context.Context, key string, value []byte, opts ...StoreOption) (version string, err error) {
	var o storeOptions
	for _, opt := range opts {
		opt.store(&o)
	}
	resp := new(keyvaluev1.StoreResponse)
	err = kv.run(ctx, &invocation{
		method:      storeMethod,
		request:     o.request(key, value),
		response:    resp,
		idempotency: o.idempotency,
	})
	return resp.GetVersion(), err
}

// Retrieve returns the entry of key, or errs.KeyNotFound.
func (kv *KeyValue) Retrieve(ctx context.Context, key string, opts ...RetrieveOption) (Entry, error) {
	var o retrieveOptions
	for _, opt := range opts {
		opt.retrieve(&o)
	}
	resp := new(keyvaluev1.RetrieveResponse)
	err := kv.run(ctx, &invocation{
		method:   retrieveMethod,
		request:  &keyvaluev1.RetrieveRequest{Key: key, WithExpiry: o.expiry},
		response: resp,
	})
	if err != nil {
		return Entry{}, err
	}
	return entry(key, resp), nil
}

func entry(key string, r *keyvaluev1.RetrieveResponse) Entry {
	return Entry{Key: key, Value: r.GetValue(), Version: r.GetVersion(), Expires: moment(r.GetExpiresAt())}
}

// moment is the zero time for nil.
func moment(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

// Delete removes key. An absent key is no error, unless there is a condition.
func (kv *KeyValue) Delete(ctx context.Context, key string, opts ...DeleteOption) error {
	var o deleteOptions
	for _, opt := range opts {
		opt.delete(&o)
	}
	return kv.run(ctx, &invocation{
		method:      deleteMethod,
		request:     &keyvaluev1.DeleteRequest{Key: key, IfVersion: o.ifVersion},
		response:    new(keyvaluev1.DeleteResponse),
		idempotency: o.idempotency,
	})
}

// Exists reports whether key is there.
func (kv *KeyValue) Exists(ctx context.Context, key string) (bool, error) {
	resp := new(keyvaluev1.ExistsResponse)
	err := kv.run(ctx, &invocation{
		method:   existsMethod,
		request:  &keyvaluev1.ExistsRequest{Key: key},
		response: resp,
	})
	return resp.GetExists(), err
}

// Increment adds delta to the number that is stored under key in decimal, and
// returns the sum. An absent key counts as 0; an expiry stays as it is.
func (kv *KeyValue) Increment(ctx context.Context, key string, delta int64, opts ...WriteOption) (int64, error) {
	resp := new(keyvaluev1.IncrementResponse)
	err := kv.run(ctx, &invocation{
		method:      incrementMethod,
		request:     &keyvaluev1.IncrementRequest{Key: key, Delta: &delta},
		response:    resp,
		idempotency: writes(opts).idempotency,
	})
	return resp.GetValue(), err
}

// Expire sets the time to live of a key that is there, 1 ms to 10 years, and
// returns when it ends.
func (kv *KeyValue) Expire(ctx context.Context, key string, ttl time.Duration, opts ...WriteOption) (time.Time, error) {
	resp := new(keyvaluev1.ExpireResponse)
	err := kv.run(ctx, &invocation{
		method:      expireMethod,
		request:     &keyvaluev1.ExpireRequest{Key: key, Ttl: durationpb.New(ttl)},
		response:    resp,
		idempotency: writes(opts).idempotency,
	})
	if err != nil {
		return time.Time{}, err
	}
	return moment(resp.GetExpiresAt()), nil
}
