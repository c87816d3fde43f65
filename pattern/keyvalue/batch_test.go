package keyvalue

import (
	"context"
	"testing"

	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/memory"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
)

// counting counts what a call is asked to tell.
type counting struct{ n int }

func (c *counting) Status(outcome error) *rpcstatus.Status {
	c.n++
	return errs.From(outcome).Status("id").Proto()
}

// Items that succeed ask for no status, and so pay nothing for what it holds;
// items that fail for the same plain reason share one.
func TestOnlyFailuresMakeStatuses(t *testing.T) {
	t.Parallel()
	conn, err := memory.Driver().Open(driver.Config{Name: "m", URL: "memory:"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	space, err := conn.Space(driver.Space{Namespace: "n", Pattern: "p"})
	if err != nil {
		t.Fatal(err)
	}
	s, err := open(pattern.Config{Namespace: "n", Name: "p", Slots: map[string]pattern.Filled{slot: {Backend: space}}})
	if err != nil {
		t.Fatal(err)
	}
	told := &counting{}
	ctx := context.WithValue(t.Context(), pattern.TellerKey{}, told)
	stored, err := s.StoreBatch(ctx, &keyvaluev1.StoreBatchRequest{Items: []*keyvaluev1.StoreRequest{{Key: "a"}, {Key: "b"}}})
	if err != nil || stored.GetResults()[1].GetStored() == nil {
		t.Fatal(stored, err)
	}
	if _, err := s.RetrieveBatch(ctx, &keyvaluev1.RetrieveBatchRequest{Keys: []string{"a", "b"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.DeleteBatch(ctx, &keyvaluev1.DeleteBatchRequest{Items: []*keyvaluev1.DeleteRequest{{Key: "a"}}}); err != nil {
		t.Fatal(err)
	}
	if told.n != 0 {
		t.Errorf("%d statuses for items that succeeded", told.n)
	}
	found, err := s.RetrieveBatch(ctx, &keyvaluev1.RetrieveBatchRequest{Keys: []string{"none", "b", "nor this"}})
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range found.GetResults() {
		if missing := r.GetError() != nil; missing != (i != 1) || missing && len(r.GetError().GetDetails()) < 2 {
			t.Errorf("%d: %v", i, r)
		}
	}
	if told.n != 1 {
		t.Errorf("%d statuses for two misses", told.n)
	}
}
