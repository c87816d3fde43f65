package proxy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"testing"
	"time"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/errs"
)

// metered has room for five operations at once, and for as many in a second.
const metered = `{kind: Namespace, name: metered, stores: [data], needs: {durability: none}, auth: {anonymous: read_write}, limits: {read_rps: 5, write_rps: 5}}`

// batches are the ways to send a batch.
var batches = map[string]func(t *testing.T, s *served) func(keys []string) error{
	"StoreBatch": func(t *testing.T, s *served) func([]string) error {
		c := s.dial(t)
		return func(keys []string) error {
			r := new(keyvaluev1.StoreBatchRequest)
			for _, k := range keys {
				r.Items = append(r.Items, &keyvaluev1.StoreRequest{Key: k, Value: []byte("v")})
			}
			_, err := c.StoreBatch(in(t, "metered"), r)
			return err
		}
	},
	"DeleteBatch": func(t *testing.T, s *served) func([]string) error {
		c := s.dial(t)
		return func(keys []string) error {
			r := new(keyvaluev1.DeleteBatchRequest)
			for _, k := range keys {
				r.Items = append(r.Items, &keyvaluev1.DeleteRequest{Key: k})
			}
			_, err := c.DeleteBatch(in(t, "metered"), r)
			return err
		}
	},
	"RetrieveBatch": func(t *testing.T, s *served) func([]string) error {
		c := s.dial(t)
		return func(keys []string) error {
			_, err := c.RetrieveBatch(in(t, "metered"), &keyvaluev1.RetrieveBatchRequest{Keys: keys})
			return err
		}
	},
	"http store":    httpBatch("store"),
	"http delete":   httpBatch("delete"),
	"http retrieve": httpBatch("retrieve"),
}

// httpBatch sends a batch over HTTP; a problem becomes an error.
func httpBatch(op string) func(t *testing.T, s *served) func([]string) error {
	return func(t *testing.T, s *served) func([]string) error {
		return func(keys []string) error {
			var body any = map[string]any{"keys": keys}
			if op != "retrieve" {
				items := make([]map[string]string, len(keys))
				for i, k := range keys {
					items[i] = map[string]string{"key": k}
				}
				body = map[string]any{"items": items}
			}
			b, _ := json.Marshal(body)
			resp, err := http.Post("http://"+s.HTTP+"/v1/namespaces/metered/keyvalue:batch?op="+op, "application/json", bytes.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			var pr struct {
				Reason   string
				Detail   string
				Metadata map[string]string
				Retry    float64 `json:"retry_after_seconds"`
			}
			if err := json.NewDecoder(resp.Body).Decode(&pr); err != nil {
				t.Fatal(err)
			}
			at := slices.IndexFunc(errs.All(), func(r errs.Reason) bool { return r.String() == pr.Reason })
			if at < 0 {
				t.Fatalf("status %d, reason %q", resp.StatusCode, pr.Reason)
			}
			e := errs.New(errs.All()[at], "%s", pr.Detail).WithRetry(time.Duration(math.Ceil(pr.Retry * 1e9)))
			e.Meta = pr.Metadata
			return e
		}
	}
}

// A batch counts as many operations as it has items, however it comes.
func TestBatchesCountTheirItems(t *testing.T) {
	t.Parallel()
	for name, with := range batches {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, nil, documents, metered)
			send := with(t, s)
			began := time.Now()
			done, refused := 0, error(nil)
			for refused == nil {
				if refused = send([]string{"a", "b", "c", "d"}); refused == nil {
					done += 4
				}
				if allowed := 5 + 5*time.Since(began).Seconds(); float64(done) > allowed {
					t.Fatalf("%d operations were let in after %v", done, time.Since(began))
				}
			}
			e := errs.FromStatus(refused)
			if e.Reason != errs.RateLimited || e.RetryAfter <= 0 || e.RetryAfter > 800*time.Millisecond {
				t.Fatalf("over the limit: %v, retry after %v", refused, e.RetryAfter)
			}
			<-time.After(e.RetryAfter)
			if err := send([]string{"a", "b", "c", "d"}); err != nil {
				t.Errorf("after the time it was told: %v", err)
			}
			e = errs.FromStatus(send([]string{"a", "b", "c", "d", "e", "f"}))
			if e == nil || e.Reason != errs.PayloadTooLarge || e.Meta["limit"] != "5" || e.Meta["limit_of"] != "rate" {
				t.Errorf("more than ever fit: %v", e)
			}
		})
	}
}

// A batch that is refused has no effect, not even that of the items which
// would have fitted.
func TestRefusedBatchHasNoEffect(t *testing.T) {
	t.Parallel()
	s := start(t, nil, documents, metered)
	c := s.dial(t)
	ctx := in(t, "metered")
	stored := map[string]bool{}
	for i := 0; ; i++ {
		r, keys := new(keyvaluev1.StoreBatchRequest), []string{fmt.Sprint(i, "a"), fmt.Sprint(i, "b"), fmt.Sprint(i, "c")}
		for _, k := range keys {
			r.Items = append(r.Items, &keyvaluev1.StoreRequest{Key: k})
		}
		_, err := c.StoreBatch(ctx, r)
		for _, k := range keys {
			stored[k] = err == nil
		}
		if errs.FromStatus(err) != nil {
			told(t, "over the limit", err, errs.RateLimited)
			break
		}
	}
	stream, err := c.Scan(ctx, &keyvaluev1.ScanRequest{})
	if err != nil {
		t.Fatal(err)
	}
	page, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range page.GetEntries() {
		if !stored[e.GetKey()] {
			t.Errorf("%q of a refused batch is there", e.GetKey())
		}
		delete(stored, e.GetKey())
	}
	for k, ok := range stored {
		if ok {
			t.Errorf("%q was stored and is not there", k)
		}
	}
}

// A batch that is wrong in itself costs one operation, as any request does
// that is wrong: it is no way around the limit.
func TestWrongBatchesAreLimited(t *testing.T) {
	t.Parallel()
	s := start(t, nil, documents, metered)
	c := s.dial(t)
	ctx, cancel := context.WithTimeout(in(t, "metered"), 30*time.Second)
	defer cancel()
	for {
		_, err := c.RetrieveBatch(ctx, &keyvaluev1.RetrieveBatchRequest{Keys: []string{"twice", "twice"}})
		if errs.ReasonOf(errs.FromStatus(err)) == errs.RateLimited {
			return
		}
		told(t, "a key twice", err, errs.InvalidField)
		if t.Failed() {
			return
		}
	}
}
