package nats_test

import (
	"fmt"
	"testing"

	"github.com/prismgw/prism/driver"
)

// A page of a prefix that few keys have does not go through the whole bucket:
// on a busy server that takes longer than a page may.
func TestPageOfRarePrefixEnds(t *testing.T) {
	t.Parallel()
	_, kv, _ := start(t)
	const keys, batch = 12_000, 1000
	for from := 0; from < keys; from += batch {
		ops, results := make([]driver.Op, batch), make([]driver.Result, batch)
		for i := range ops {
			ops[i] = driver.Op{Kind: driver.Put, Key: fmt.Sprintf("common-%d", from+i), Value: []byte("x")}
		}
		if from+batch == keys {
			ops[batch-1].Key = "rare"
		}
		kv.Apply(t.Context(), ops, results)
		for i, r := range results {
			if r.Err != nil {
				t.Fatalf("put %s: %v", ops[i].Key, r.Err)
			}
		}
	}
	var found []string
	request := driver.ScanRequest{Prefix: "rare", Limit: 1000}
	pages := 0
	for ; pages == 0 || len(request.Cursor) > 0; pages++ {
		page, err := kv.Scan(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		if pages == 0 && (len(page.Items) > 0 || len(page.Next) == 0) {
			t.Fatalf("the first page went through everything: %d items", len(page.Items))
		}
		for _, i := range page.Items {
			found = append(found, i.Key)
		}
		request.Cursor = page.Next
	}
	if len(found) != 1 || found[0] != "rare" || pages > 4 {
		t.Errorf("%d pages gave %q, want one key in at most 4", pages, found)
	}
}
