package client

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
)

// The options of a call are types of their own, so that one which a method
// does not have does not compile.
type (
	// A StoreOption is one of TTL, IfVersion, IfAbsent and IdempotencyKey.
	StoreOption interface{ store(*storeOptions) }

	// A DeleteOption is one of IfVersion and IdempotencyKey.
	DeleteOption interface{ delete(*deleteOptions) }

	// A RetrieveOption is WithExpiry.
	RetrieveOption interface{ retrieve(*retrieveOptions) }

	// A WriteOption is an IdempotencyKey.
	WriteOption interface{ write(*writeOptions) }

	// A ScanOption is one of PageSize, PageBytes and KeysOnly.
	ScanOption interface{ scan(*keyvaluev1.ScanRequest) }
)

// TTL is a time to live, 1 ms to 10 years.
type TTL time.Duration

// IfVersion makes a write happen only if the key has this version; otherwise
// it fails with errs.VersionMismatch.
type IfVersion string

// IfAbsent makes a Store happen only if the key is absent; otherwise it fails
// with errs.AlreadyExists.
func IfAbsent() StoreOption { return ifAbsent{} }

// IdempotencyKey makes a write happen once, however often it is repeated
// under the same key within 10 minutes. With it the client repeats a write of
// which it is unknown whether it happened. Another write under the same key
// fails with errs.IdempotencyMismatch.
type IdempotencyKey string

// WithExpiry asks for Entry.Expires.
func WithExpiry() RetrieveOption { return withExpiry{} }

// PageSize bounds the keys in one message of a scan, 1 to 1,000.
type PageSize int32

// PageBytes bounds the bytes in one message of a scan, up to 1 MiB.
type PageBytes int32

// KeysOnly leaves values, versions and expiries out of a scan.
func KeysOnly() ScanOption { return keysOnly{} }

type (
	ifAbsent   struct{}
	withExpiry struct{}
	keysOnly   struct{}

	storeOptions struct {
		ttl         *durationpb.Duration
		ifVersion   *string
		ifAbsent    bool
		idempotency string
	}
	deleteOptions struct {
		ifVersion   *string
		idempotency string
	}
	retrieveOptions struct{ expiry bool }
	writeOptions    struct{ idempotency string }
)

func (t TTL) store(o *storeOptions)                { o.ttl = durationpb.New(time.Duration(t)) }
func (v IfVersion) store(o *storeOptions)          { o.ifVersion = (*string)(&v) }
func (v IfVersion) delete(o *deleteOptions)        { o.ifVersion = (*string)(&v) }
func (ifAbsent) store(o *storeOptions)             { o.ifAbsent = true }
func (k IdempotencyKey) store(o *storeOptions)     { o.idempotency = string(k) }
func (k IdempotencyKey) delete(o *deleteOptions)   { o.idempotency = string(k) }
func (k IdempotencyKey) write(o *writeOptions)     { o.idempotency = string(k) }
func (withExpiry) retrieve(o *retrieveOptions)     { o.expiry = true }
func (n PageSize) scan(r *keyvaluev1.ScanRequest)  { r.PageSize = int32(n) }
func (n PageBytes) scan(r *keyvaluev1.ScanRequest) { r.PageBytes = int32(n) }
func (keysOnly) scan(r *keyvaluev1.ScanRequest)    { r.KeysOnly = true }

func (o *storeOptions) request(key string, value []byte) *keyvaluev1.StoreRequest {
	return &keyvaluev1.StoreRequest{Key: key, Value: value, Ttl: o.ttl, IfVersion: o.ifVersion, IfAbsent: o.ifAbsent}
}

func writes(opts []WriteOption) (o writeOptions) {
	for _, opt := range opts {
		opt.write(&o)
	}
	return o
}
