package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/status"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/errs"
)

// failing makes a batch of every kind in which each item fails, and returns
// what the items are told.
func failing(t *testing.T, ctx context.Context, c keyvaluev1.KeyValueClient) []*rpcstatus.Status { //nolint:revive // ctx belongs to the calls
	t.Helper()
	none := "none"
	stored, err1 := c.StoreBatch(ctx, &keyvaluev1.StoreBatchRequest{Items: []*keyvaluev1.StoreRequest{{Key: "a", IfVersion: &none}, {Key: "b", IfVersion: &none}}})
	deleted, err2 := c.DeleteBatch(ctx, &keyvaluev1.DeleteBatchRequest{Items: []*keyvaluev1.DeleteRequest{{Key: "a", IfVersion: &none}, {Key: "b", IfVersion: &none}}})
	found, err3 := c.RetrieveBatch(ctx, &keyvaluev1.RetrieveBatchRequest{Keys: []string{"a", "b"}})
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	var all []*rpcstatus.Status
	for i := range 2 {
		all = append(all, stored.GetResults()[i].GetError(), deleted.GetResults()[i].GetError(), found.GetResults()[i].GetError())
	}
	return all
}

// What an item of a batch is told is all that contracts promise of an error,
// and carries the call's request id.
func TestItemsCarryTheRequestID(t *testing.T) {
	t.Parallel()
	s := start(t, nil, tapped)
	c := s.dial(t)
	for i, st := range failing(t, in(t, "held", "request-id", "the-one"), c) {
		want := errs.VersionMismatch
		if i%3 == 2 {
			want = errs.KeyNotFound
		}
		if e := told(t, fmt.Sprint("item ", i), status.ErrorProto(st), want); e.RequestID != "the-one" {
			t.Errorf("item %d is of request %q", i, e.RequestID)
		}
	}
	r, err := c.RetrieveBatch(in(t, "held"), &keyvaluev1.RetrieveBatchRequest{Keys: []string{"a", "\x00"}})
	if err != nil {
		t.Fatal(err)
	}
	a := told(t, "a miss", status.ErrorProto(r.GetResults()[0].GetError()), errs.KeyNotFound)
	b := told(t, "no key", status.ErrorProto(r.GetResults()[1].GetError()), errs.InvalidKey)
	if a.RequestID != b.RequestID {
		t.Errorf("one call, and its items are of %q and %q", a.RequestID, b.RequestID)
	}

	q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.HTTP+"/v1/namespaces/held/keyvalue:batch?op=retrieve", strings.NewReader(`{"keys": ["a"]}`))
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Request-Id", "the-other")
	resp, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); !strings.Contains(string(body), "the-other") {
		t.Errorf("over HTTP: %s", body)
	}
}

// The cause of an item's failure is in the log under the request id, and
// nowhere else.
func TestCausesOfItemsAreLogged(t *testing.T) {
	t.Parallel()
	s := start(t, nil, tapped)
	s.fail(errors.New("the disk said no"))
	for i, st := range failing(t, in(t, "held", "request-id", "the-one"), s.dial(t)) {
		told(t, fmt.Sprint("item ", i), status.ErrorProto(st), errs.Internal)
		if strings.Contains(st.String(), "disk") {
			t.Errorf("item %d: %v", i, st)
		}
	}
	for _, method := range []string{"StoreBatch", "DeleteBatch", "RetrieveBatch"} {
		found := false
		for line := range strings.Lines(s.log.String()) {
			found = found || strings.Contains(line, method) && strings.Contains(line, "the disk said no") && strings.Contains(line, `"request_id":"the-one"`)
		}
		if !found {
			t.Errorf("no cause of %s in the log: %s", method, s.log.String())
		}
	}
}
