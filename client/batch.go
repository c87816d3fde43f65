package client

import (
	"context"
	"time"

	"google.golang.org/genproto/googleapis/rpc/status"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/errs"
)

// A StoreItem is one item of StoreBatch.
type StoreItem struct {
	Key       string
	Value     []byte
	TTL       time.Duration // 0: the key never expires
	IfVersion string        // empty: whatever its version
	IfAbsent  bool
}

// A DeleteItem is one item of DeleteBatch.
type DeleteItem struct {
	Key       string
	IfVersion string // empty: whatever its version
}

// A Result is the outcome of one item of a batch.
type Result struct {
	Entry // without the value after a write
	Err   error
}

// StoreBatch stores up to 1,000 items, 4 MiB in all, each by itself. The
// results are in the order of the items. The error is that of the call as a
// whole.
func (kv *KeyValue) StoreBatch(ctx context.Context, items []StoreItem, opts ...WriteOption) ([]Result, error) {
	req, resp := new(keyvaluev1.StoreBatchRequest), new(keyvaluev1.StoreBatchResponse)
	for i := range items {
		req.Items = append(req.Items, items[i].request())
	}
	err := kv.run(ctx, &invocation{method: storeBatchMethod, request: req, response: resp, idempotency: writes(opts).idempotency})
	if err != nil {
		return nil, err
	}
	results := make([]Result, len(items))
	for i, r := range resp.GetResults()[:min(len(items), len(resp.GetResults()))] {
		results[i].Entry = Entry{Key: items[i].Key, Version: r.GetStored().GetVersion()}
		results[i].Err = itemError(r.GetError())
	}
	return results, complete(len(items), len(resp.GetResults()))
}

func (i *StoreItem) request() *keyvaluev1.StoreRequest {
	r := &keyvaluev1.StoreRequest{Key: i.Key, Value: i.Value, IfAbsent: i.IfAbsent}
	if i.TTL != 0 {
		r.Ttl = durationpb.New(i.TTL)
	}
	if i.IfVersion != "" {
		r.IfVersion = &i.IfVersion
	}
	return r
}

// RetrieveBatch reads up to 1,000 keys. The results are in the order of the
// keys. Values that do not fit an answer of 4 MiB are errs.PayloadTooLarge and
// can be retrieved alone.
func (kv *KeyValue) RetrieveBatch(ctx context.Context, keys []string, opts ...RetrieveOption) ([]Result, error) {
	var o retrieveOptions
	for _, opt := range opts {
		opt.retrieve(&o)
	}
	resp := new(keyvaluev1.RetrieveBatchResponse)
	err := kv.run(ctx, &invocation{
		method:   retrieveBatchMethod,
		request:  &keyvaluev1.RetrieveBatchRequest{Keys: keys, WithExpiry: o.expiry},
		response: resp,
	})
	if err != nil {
		return nil, err
	}
	results := make([]Result, len(keys))
	for i, r := range resp.GetResults()[:min(len(keys), len(resp.GetResults()))] {
		results[i].Entry = entry(keys[i], r.GetFound())
		results[i].Err = itemError(r.GetError())
	}
	return results, complete(len(keys), len(resp.GetResults()))
}

// DeleteBatch deletes up to 1,000 keys, each by itself. The results are in the
// order of the items.
func (kv *KeyValue) DeleteBatch(ctx context.Context, items []DeleteItem, opts ...WriteOption) ([]Result, error) {
	req, resp := new(keyvaluev1.DeleteBatchRequest), new(keyvaluev1.DeleteBatchResponse)
	for i := range items {
		d := &keyvaluev1.DeleteRequest{Key: items[i].Key}
		if items[i].IfVersion != "" {
			d.IfVersion = &items[i].IfVersion
		}
		req.Items = append(req.Items, d)
	}
	err := kv.run(ctx, &invocation{method: deleteBatchMethod, request: req, response: resp, idempotency: writes(opts).idempotency})
	if err != nil {
		return nil, err
	}
	results := make([]Result, len(items))
	for i, r := range resp.GetResults()[:min(len(items), len(resp.GetResults()))] {
		results[i].Key = items[i].Key
		results[i].Err = itemError(r.GetError())
	}
	return results, complete(len(items), len(resp.GetResults()))
}

func itemError(st *status.Status) error {
	if st == nil {
		return nil
	}
	return errs.FromStatus(grpcstatus.ErrorProto(st))
}

func complete(asked, answered int) error {
	if asked == answered {
		return nil
	}
	return errs.New(errs.Internal, "the server answered %d of %d items", answered, asked)
}
