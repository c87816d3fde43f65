package keyvalue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
)

// Store implements keyvaluev1.KeyValueServer.
func (s *store) Store(ctx context.Context, r *keyvaluev1.StoreRequest) (*keyvaluev1.StoreResponse, error) {
	op, err := s.storeOp(r)
	if err != nil {
		return nil, err
	}
	if op.Once, err = s.once(pattern.CallOf(ctx), "Store", 0, marshal(r)); err != nil {
		return nil, err
	}
	res, err := s.apply(ctx, op)
	if err != nil {
		return nil, err
	}
	return &keyvaluev1.StoreResponse{Version: res.Version}, nil
}

// Retrieve implements keyvaluev1.KeyValueServer.
func (s *store) Retrieve(ctx context.Context, r *keyvaluev1.RetrieveRequest) (*keyvaluev1.RetrieveResponse, error) {
	e, err := s.get(ctx, r.GetKey(), wanted(r.GetWithExpiry()))
	if err != nil {
		return nil, err
	}
	return retrieved(&e), nil
}

// Exists implements keyvaluev1.KeyValueServer.
func (s *store) Exists(ctx context.Context, r *keyvaluev1.ExistsRequest) (*keyvaluev1.ExistsResponse, error) {
	_, err := s.get(ctx, r.GetKey(), driver.ValueOnly)
	return exists(err)
}

// Delete implements keyvaluev1.KeyValueServer.
func (s *store) Delete(ctx context.Context, r *keyvaluev1.DeleteRequest) (*keyvaluev1.DeleteResponse, error) {
	op, err := deleteOp(r)
	if err != nil {
		return nil, err
	}
	if op.Once, err = s.once(pattern.CallOf(ctx), "Delete", 0, marshal(r)); err != nil {
		return nil, err
	}
	if _, err := s.apply(ctx, op); err != nil {
		return nil, err
	}
	return &keyvaluev1.DeleteResponse{}, nil
}

// Increment implements keyvaluev1.KeyValueServer.
func (s *store) Increment(ctx context.Context, r *keyvaluev1.IncrementRequest) (*keyvaluev1.IncrementResponse, error) {
	op, err := incrementOp(r)
	if err != nil {
		return nil, err
	}
	if op.Once, err = s.once(pattern.CallOf(ctx), "Increment", 0, marshal(r)); err != nil {
		return nil, err
	}
	res, err := s.apply(ctx, op)
	if err != nil {
		return nil, err
	}
	return &keyvaluev1.IncrementResponse{Value: res.Number, Version: res.Version}, nil
}

// Expire implements keyvaluev1.KeyValueServer.
func (s *store) Expire(ctx context.Context, r *keyvaluev1.ExpireRequest) (*keyvaluev1.ExpireResponse, error) {
	op, err := expireOp(r)
	if err != nil {
		return nil, err
	}
	if op.Once, err = s.once(pattern.CallOf(ctx), "Expire", 0, marshal(r)); err != nil {
		return nil, err
	}
	res, err := s.apply(ctx, op)
	if err != nil {
		return nil, err
	}
	return &keyvaluev1.ExpireResponse{ExpiresAt: expiry(res.Expires), Version: res.Version}, nil
}

// Scan implements keyvaluev1.KeyValueServer.
func (s *store) Scan(r *keyvaluev1.ScanRequest, stream grpc.ServerStreamingServer[keyvaluev1.ScanResponse]) error {
	next := r
	for {
		page, err := s.page(stream.Context(), next)
		if err != nil {
			return err
		}
		done := page.GetCursor() == ""
		if done || len(page.GetEntries()) > 0 {
			if err := stream.Send(page); err != nil {
				return err
			}
		}
		if done {
			return nil
		}
		next = &keyvaluev1.ScanRequest{
			Prefix: r.GetPrefix(), PageSize: r.GetPageSize(), PageBytes: r.GetPageBytes(),
			KeysOnly: r.GetKeysOnly(), Cursor: page.GetCursor(),
		}
	}
}

// page answers one message of a scan.
func (s *store) page(ctx context.Context, r *keyvaluev1.ScanRequest) (*keyvaluev1.ScanResponse, error) {
	req, err := s.scanRequest(r)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	page, err := s.kv.Scan(ctx, req)
	if err != nil {
		return nil, err
	}
	out := &keyvaluev1.ScanResponse{
		Entries: make([]*keyvaluev1.ScanEntry, len(page.Items)),
		Cursor:  s.cursors.encode(r.GetPrefix(), page.Next),
	}
	for i := range page.Items {
		it := &page.Items[i]
		out.Entries[i] = &keyvaluev1.ScanEntry{Key: it.Key, Value: it.Value, Version: it.Version, ExpiresAt: expiry(it.Expires)}
	}
	return out, nil
}

func (s *store) scanRequest(r *keyvaluev1.ScanRequest) (driver.ScanRequest, error) {
	var bad []errs.Field
	if n := r.GetPageSize(); n < 0 || n > maxPageKeys {
		bad = append(bad, errs.Field{Path: "page_size", Text: fmt.Sprintf("must be 1 to %d, or 0 for %d", maxPageKeys, maxPageKeys)})
	}
	if n := r.GetPageBytes(); n < 0 || n > maxPageBytes {
		bad = append(bad, errs.Field{Path: "page_bytes", Text: fmt.Sprintf("must be 1 to %d, or 0 for %d", maxPageBytes, maxPageBytes)})
	}
	if p := r.GetPrefix(); p != "" && checkKey(p) != nil {
		bad = append(bad, errs.Field{Path: "prefix", Text: "must be the beginning of a key: at most 1,024 bytes of UTF-8 without NUL"})
	}
	if len(bad) > 0 {
		return driver.ScanRequest{}, errs.Invalid(bad...)
	}
	own, err := s.cursors.decode(r.GetPrefix(), r.GetCursor())
	return driver.ScanRequest{
		Prefix: r.GetPrefix(), Cursor: own, KeysOnly: r.GetKeysOnly(),
		Limit: orDefault(int(r.GetPageSize()), maxPageKeys), MaxBytes: orDefault(int(r.GetPageBytes()), maxPageBytes),
	}, err
}

func orDefault(n, def int) int {
	if n == 0 {
		return def
	}
	return n
}

// storeOp checks a request and makes the operation of it. The value is the
// request's own slice.
func (s *store) storeOp(r *keyvaluev1.StoreRequest) (driver.Op, error) {
	op := driver.Op{Kind: driver.Put, Key: r.GetKey(), Value: r.GetValue(), TTL: s.defaultTTL, IfAbsent: r.GetIfAbsent()}
	if err := checkKey(op.Key); err != nil {
		return op, err
	}
	if len(op.Value) > s.maxValue {
		return op, errs.TooLarge("value", len(op.Value), s.maxValue)
	}
	var bad []errs.Field
	if r.Ttl != nil {
		op.TTL, bad = ttlOf(r.GetTtl(), bad)
	}
	if r.IfVersion != nil {
		op.IfVersion = r.GetIfVersion()
		bad = versionField(op.IfVersion, bad)
		if op.IfAbsent {
			bad = append(bad, errs.Field{Path: "if_absent", Text: "cannot be combined with if_version; leave one of them out"})
		}
	}
	if bad != nil {
		return op, errs.Invalid(bad...)
	}
	return op, nil
}

func deleteOp(r *keyvaluev1.DeleteRequest) (driver.Op, error) {
	op := driver.Op{Kind: driver.Delete, Key: r.GetKey(), IfVersion: r.GetIfVersion()}
	if err := checkKey(op.Key); err != nil {
		return op, err
	}
	if r.IfVersion != nil {
		if bad := versionField(op.IfVersion, nil); bad != nil {
			return op, errs.Invalid(bad...)
		}
	}
	return op, nil
}

func incrementOp(r *keyvaluev1.IncrementRequest) (driver.Op, error) {
	op := driver.Op{Kind: driver.Add, Key: r.GetKey(), Delta: 1}
	if r.Delta != nil {
		op.Delta = r.GetDelta()
	}
	return op, checkKey(op.Key)
}

func expireOp(r *keyvaluev1.ExpireRequest) (driver.Op, error) {
	op := driver.Op{Kind: driver.Expire, Key: r.GetKey()}
	if err := checkKey(op.Key); err != nil {
		return op, err
	}
	var bad []errs.Field
	if op.TTL, bad = ttlOf(r.GetTtl(), nil); bad != nil {
		return op, errs.Invalid(bad...)
	}
	return op, nil
}

// ttlOf appends to bad what is wrong with a time to live.
func ttlOf(d *durationpb.Duration, bad []errs.Field) (time.Duration, []errs.Field) {
	if d != nil && d.CheckValid() != nil {
		return 0, append(bad, errs.Field{Path: "ttl", Text: "is not a valid duration; write seconds such as 30s"})
	}
	ttl := d.AsDuration()
	if f, ok := checkTTL(ttl); !ok {
		return 0, append(bad, f)
	}
	return ttl, bad
}

// versionField appends to bad what is wrong with the version of a condition.
func versionField(v string, bad []errs.Field) []errs.Field {
	switch {
	case v == "":
		return append(bad, errs.Field{Path: "if_version", Text: "is empty; leave it out for no condition, or use if_absent"})
	case len(v) > driver.MaxVersion:
		return append(bad, errs.Field{Path: "if_version", Text: fmt.Sprintf("is no version; versions have at most %d bytes", driver.MaxVersion)})
	}
	return bad
}

// wanted returns what to read for a request.
func wanted(withExpiry bool) driver.Want {
	if withExpiry {
		return driver.WithExpiry
	}
	return driver.ValueOnly
}

func retrieved(e *driver.Entry) *keyvaluev1.RetrieveResponse {
	return &keyvaluev1.RetrieveResponse{Value: e.Value, Version: e.Version, ExpiresAt: expiry(e.Expires)}
}

// exists turns the outcome of a read into an answer: absence is one.
func exists(err error) (*keyvaluev1.ExistsResponse, error) {
	switch {
	case err == nil:
		return &keyvaluev1.ExistsResponse{Exists: true}, nil
	case errors.Is(err, errs.KeyNotFound):
		return &keyvaluev1.ExistsResponse{}, nil
	}
	return nil, err
}

func expiry(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// marshaler is what every message of this package's wire contract is.
type marshaler interface{ MarshalVT() ([]byte, error) }

// marshal returns the bytes of a request, on demand: only an idempotency key
// needs them.
func marshal(m marshaler) func() []byte {
	return func() []byte {
		b, _ := m.MarshalVT() // fails for no message that came off the wire
		return b
	}
}
