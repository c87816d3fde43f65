package client

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/prismgw/prism/errs"
)

// A Codec turns values into bytes and back. It must be safe for concurrent
// use. JSON is the one that is used unless another is given.
type Codec interface {
	// Marshal returns the bytes of v.
	Marshal(v any) ([]byte, error)
	// Unmarshal sets what v points to from data, which it must not keep.
	Unmarshal(data []byte, v any) error
}

// JSON is encoding/json as a Codec.
type JSON struct{}

// Marshal returns v in JSON.
func (JSON) Marshal(v any) ([]byte, error) { return json.Marshal(v) }

// Unmarshal sets what v points to.
func (JSON) Unmarshal(data []byte, v any) error { return json.Unmarshal(data, v) }

// A TypedStore is a KeyValue whose values are of type T. It is safe for
// concurrent use.
type TypedStore[T any] struct {
	kv    *KeyValue
	codec Codec
}

// Store returns the values at path, which is as for Client.KeyValue. At most
// one codec may be given.
func Store[T any](c *Client, path string, codec ...Codec) *TypedStore[T] {
	s := &TypedStore[T]{kv: c.KeyValue(path), codec: JSON{}}
	switch len(codec) {
	case 0:
	case 1:
		s.codec = codec[0]
	default:
		s.kv.invalid = errs.Invalid(errs.Field{Path: "codec", Text: "a store has one codec"})
	}
	return s
}

// Put stores value under key, as KeyValue.Store does.
func (s *TypedStore[T]) Put(ctx context.Context, key string, value T, opts ...StoreOption) (version string, err error) {
	data, err := s.codec.Marshal(value)
	if err != nil {
		return "", errs.Wrap(err, errs.InvalidField, "the value cannot be encoded")
	}
	return s.kv.Store(ctx, key, data, opts...)
}

// Get returns the value of key, or errs.KeyNotFound.
func (s *TypedStore[T]) Get(ctx context.Context, key string) (T, error) {
	value, _, err := s.get(ctx, key)
	return value, err
}

func (s *TypedStore[T]) get(ctx context.Context, key string) (value T, version string, err error) {
	entry, err := s.kv.Retrieve(ctx, key)
	if err != nil {
		return value, "", err
	}
	if err := s.codec.Unmarshal(entry.Value, &value); err != nil {
		return value, "", errs.Wrap(err, errs.WrongType, "the value is not of this store's type")
	}
	return value, entry.Version, nil
}

// Delete removes key. An absent key is no error, unless there is a condition.
func (s *TypedStore[T]) Delete(ctx context.Context, key string, opts ...DeleteOption) error {
	return s.kv.Delete(ctx, key, opts...)
}

// updateTries is how often Update loses against others before it gives up.
const updateTries = 100

// Update lets change work on the value of key, the zero value if there is
// none, and stores what it left, unless the key was written meanwhile: then
// change is called again with the new value. An error of change ends it and is
// returned as it is. As with Put, a key expires only under a TTL.
//
// On backends whose versions follow the content (see docs/backends.md) a value
// that was changed and changed back in between is not noticed.
func (s *TypedStore[T]) Update(ctx context.Context, key string, change func(*T) error, ttl ...TTL) error {
	for try := 1; ; try++ {
		value, version, err := s.get(ctx, key)
		condition := StoreOption(IfVersion(version))
		switch {
		case errors.Is(err, errs.KeyNotFound):
			condition = IfAbsent()
		case err != nil:
			return err
		}
		if err := change(&value); err != nil {
			return err
		}
		opts := []StoreOption{condition}
		for _, t := range ttl {
			opts = append(opts, t)
		}
		_, err = s.Put(ctx, key, value, opts...)
		if !errors.Is(err, errs.VersionMismatch) && !errors.Is(err, errs.AlreadyExists) || try == updateTries {
			return err
		}
		if !sleep(ctx, rand.N(time.Duration(min(try, 10))*time.Millisecond)) {
			return errs.From(ctx.Err())
		}
	}
}
