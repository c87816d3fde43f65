package keyvalue

import (
	"context"
	"fmt"

	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
)

// StoreBatch implements keyvaluev1.KeyValueServer.
func (s *store) StoreBatch(ctx context.Context, r *keyvaluev1.StoreBatchRequest) (*keyvaluev1.StoreBatchResponse, error) {
	items := r.GetItems()
	size := 0
	for _, it := range items {
		size += len(it.GetKey()) + len(it.GetValue())
	}
	if err := admitBatch(ctx, "items", len(items), size, func(i int) string { return items[i].GetKey() }); err != nil {
		return nil, err
	}
	res, err := s.applyAll(ctx, len(items), "StoreBatch", func(i int) (driver.Op, func() []byte, error) {
		op, err := s.storeOp(items[i])
		return op, marshal(items[i]), err
	})
	if err != nil {
		return nil, err
	}
	failed := failures{ctx: ctx}
	out := &keyvaluev1.StoreBatchResponse{Results: make([]*keyvaluev1.StoreResult, len(items))}
	for i := range res {
		one := &keyvaluev1.StoreResult{Outcome: &keyvaluev1.StoreResult_Stored{Stored: &keyvaluev1.StoreResponse{Version: res[i].Version}}}
		if res[i].Err != nil {
			one.Outcome = &keyvaluev1.StoreResult_Error{Error: failed.of(res[i].Err)}
		}
		out.Results[i] = one
	}
	return out, nil
}

// DeleteBatch implements keyvaluev1.KeyValueServer.
func (s *store) DeleteBatch(ctx context.Context, r *keyvaluev1.DeleteBatchRequest) (*keyvaluev1.DeleteBatchResponse, error) {
	items := r.GetItems()
	if err := admitBatch(ctx, "items", len(items), 0, func(i int) string { return items[i].GetKey() }); err != nil {
		return nil, err
	}
	res, err := s.applyAll(ctx, len(items), "DeleteBatch", func(i int) (driver.Op, func() []byte, error) {
		op, err := deleteOp(items[i])
		return op, marshal(items[i]), err
	})
	if err != nil {
		return nil, err
	}
	failed := failures{ctx: ctx}
	out := &keyvaluev1.DeleteBatchResponse{Results: make([]*keyvaluev1.DeleteResult, len(items))}
	for i := range res {
		one := &keyvaluev1.DeleteResult{Outcome: &keyvaluev1.DeleteResult_Deleted{Deleted: &keyvaluev1.DeleteResponse{}}}
		if res[i].Err != nil {
			one.Outcome = &keyvaluev1.DeleteResult_Error{Error: failed.of(res[i].Err)}
		}
		out.Results[i] = one
	}
	return out, nil
}

// applyAll carries out n operations; one that is wrong in itself has its error
// in its result, and the others go on.
func (s *store) applyAll(ctx context.Context, n int, method string, item func(int) (driver.Op, func() []byte, error)) ([]driver.Result, error) {
	all := make([]driver.Result, n)
	ops := make([]driver.Op, 0, n)
	at := make([]int, 0, n)
	call := pattern.CallOf(ctx)
	for i := range n {
		op, request, err := item(i)
		if err != nil {
			all[i].Err = err
			continue
		}
		if op.Once, err = s.once(call, method, i, request); err != nil {
			return nil, err
		}
		ops, at = append(ops, op), append(at, i)
	}
	res := make([]driver.Result, len(ops))
	if len(ops) > 0 {
		s.kv.Apply(ctx, ops, res)
	}
	for k, i := range at {
		all[i] = res[k]
	}
	return all, nil
}

// RetrieveBatch implements keyvaluev1.KeyValueServer.
func (s *store) RetrieveBatch(ctx context.Context, r *keyvaluev1.RetrieveBatchRequest) (*keyvaluev1.RetrieveBatchResponse, error) {
	keys := r.GetKeys()
	if err := admitBatch(ctx, "keys", len(keys), 0, func(i int) string { return keys[i] }); err != nil {
		return nil, err
	}
	res := make([]driver.GetResult, len(keys))
	s.getBounded(ctx, keys, wanted(r.GetWithExpiry()), res)
	failed := failures{ctx: ctx}
	out := &keyvaluev1.RetrieveBatchResponse{Results: make([]*keyvaluev1.RetrieveResult, len(keys))}
	for i := range res {
		one := &keyvaluev1.RetrieveResult{}
		if res[i].Err != nil {
			one.Outcome = &keyvaluev1.RetrieveResult_Error{Error: failed.of(res[i].Err)}
		} else {
			one.Outcome = &keyvaluev1.RetrieveResult_Found{Found: retrieved(&res[i].Entry)}
		}
		out.Results[i] = one
	}
	return out, nil
}

// getBounded reads keys until their values fill an answer; the rest is
// answered as too large. It reads in steps that follow the sizes seen so far,
// so that a batch of large values never brings them all into memory.
func (s *store) getBounded(ctx context.Context, keys []string, want driver.Want, res []driver.GetResult) {
	const overhead = 64 // of a result on the wire, beside key and value
	room, done, seen := maxBatchBytes, 0, 0
	for step := 16; done < len(keys); {
		end := min(done+step, len(keys))
		s.getValid(ctx, keys[done:end], want, res[done:end])
		for i := done; i < end; i++ {
			size := len(res[i].Value) + overhead
			seen += size
			if size > room {
				res[i] = driver.GetResult{Err: tooMuch(len(res[i].Value))}
				continue
			}
			room -= size
		}
		done = end
		step = max(16, room/(seen/done))
	}
}

func tooMuch(size int) error {
	return errs.New(errs.PayloadTooLarge, "the value of %d bytes no longer fits an answer of %d; read it alone", size, maxBatchBytes).
		With("limit", fmt.Sprint(maxBatchBytes)).With("limit_of", "batch")
}

// getValid reads keys, giving those that are none their error.
func (s *store) getValid(ctx context.Context, keys []string, want driver.Want, res []driver.GetResult) {
	for i := range keys {
		if checkKey(keys[i]) == nil {
			continue
		}
		s.getSome(ctx, keys, want, res)
		return
	}
	s.kv.GetMany(ctx, keys, want, res)
}

// getSome is getValid where some keys are none.
func (s *store) getSome(ctx context.Context, keys []string, want driver.Want, res []driver.GetResult) {
	var good []string
	var at []int
	for i, key := range keys {
		if err := checkKey(key); err != nil {
			res[i] = driver.GetResult{Err: err}
			continue
		}
		good, at = append(good, key), append(at, i)
	}
	if len(good) == 0 {
		return
	}
	found := make([]driver.GetResult, len(good))
	s.kv.GetMany(ctx, good, want, found)
	for k, i := range at {
		res[i] = found[k]
	}
}

// maxViolations bounds how many repeated keys an answer lists: it goes into a
// trailer, and many clients take only a few KiB of those.
const maxViolations = 16

// admitBatch checks a batch and charges its items to the namespace's rate. One
// that is wrong costs as much as any other request that is.
func admitBatch(ctx context.Context, field string, n, size int, key func(int) string) error {
	wrong := checkBatch(field, n, size, key)
	if wrong != nil {
		n = 1
	}
	if err := pattern.CallOf(ctx).Charge(n); err != nil {
		return err
	}
	return wrong
}

// checkBatch refuses a batch that is too large, or names a key twice. field is
// the one that holds the items.
func checkBatch(field string, n, size int, key func(int) string) error {
	if n == 0 {
		return errs.Invalid(errs.Field{Path: field, Text: "is empty; send 1 to 1,000"})
	}
	if n > maxBatchItems {
		return errs.New(errs.PayloadTooLarge, "the batch has %d items; send at most %d", n, maxBatchItems).
			With("limit", fmt.Sprint(maxBatchItems)).With("limit_of", "batch")
	}
	if size > maxBatchBytes {
		return errs.TooLarge("batch", size, maxBatchBytes)
	}
	var bad []errs.Field
	first := make(map[string]int, n)
	for i := range n {
		if j, twice := first[key(i)]; twice && len(bad) < maxViolations {
			bad = append(bad, errs.Field{Path: fmt.Sprintf("%s[%d]", field, i), Text: fmt.Sprintf("has the key of %s[%d] again; a batch has no order", field, j)})
			continue
		}
		first[key(i)] = i
	}
	if bad != nil {
		return errs.Invalid(bad...)
	}
	return nil
}

// failures makes the statuses of a batch's items. A backend that is away gives
// all of them the same error, which makes one status.
type failures struct {
	ctx    context.Context //nolint:containedctx // the call's, while it lasts
	last   *errs.Error
	status *rpcstatus.Status
}

func (f *failures) of(err error) *rpcstatus.Status {
	if e := errs.From(err); e != f.last {
		f.last, f.status = e, pattern.StatusOf(f.ctx, e)
	}
	return f.status
}
