package wrap_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

// seen is what an observer was told, in words.
type seen []string

func (s *seen) Observe(_ context.Context, method string, operations int, began time.Time, failures []error) {
	*s = append(*s, fmt.Sprint(method, " ", operations, " ", len(failures)))
	if time.Since(began) < 0 || time.Since(began) > time.Minute {
		*s = append(*s, "at another time")
	}
	if !slices.Contains(wrap.Methods(), method) {
		*s = append(*s, "which is no method")
	}
}

func TestObserve(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	b := newBroken(t, func(_ context.Context, _ int64, key string) error {
		switch key {
		case "boom":
			return boom
		case "away":
			return errs.BackendUnavailable
		}
		return nil
	})
	var s seen
	kv := wrap.Observe(b, "shelf", &s)
	ctx := t.Context()
	_, absent := kv.Get(ctx, "nobody", driver.ValueOnly)
	_, strange := kv.Get(ctx, "boom", driver.ValueOnly)
	res := make([]driver.Result, 3)
	kv.Apply(ctx, []driver.Op{{Kind: driver.Put, Key: "a"}, {Kind: driver.Put, Key: "boom"}, {Kind: driver.Put, Key: "away"}}, res)
	many := make([]driver.GetResult, 2)
	kv.GetMany(ctx, []string{"nobody", "away"}, driver.ValueOnly, many)
	_, _ = kv.Scan(ctx, driver.ScanRequest{Limit: 1})
	want := "get 1 0; get 1 1; apply 3 2; get_many 2 1; scan 1 0"
	if got := strings.Join(s, "; "); got != want {
		t.Errorf("told %q, want %q", got, want)
	}
	// What nobody foresaw has its origin in it; the rest is left as it is.
	if absent != errs.KeyNotFound || res[2].Err != errs.BackendUnavailable { //nolint:errorlint // as it is
		t.Errorf("%v %v", absent, res[2].Err)
	}
	for _, err := range []error{strange, res[1].Err} {
		if !errors.Is(err, boom) || !strings.HasPrefix(err.Error(), "backend shelf: ") {
			t.Errorf("%v", err)
		}
	}
}

// Only what says something about the backend is a failure.
func TestFailure(t *testing.T) {
	t.Parallel()
	failures := map[errs.Reason]bool{
		errs.BackendUnavailable: true, errs.CredentialsUnavailable: true, errs.OutcomeUnknown: true, errs.Deadline: true, errs.ReadOnly: true,
		errs.CircuitOpen: true, errs.Internal: true,
	}
	for _, r := range errs.All() {
		if wrap.Failure(r) != failures[r] {
			t.Errorf("%s: %v", r.String(), !failures[r])
		}
	}
	if wrap.Failure(nil) || !wrap.Failure(errors.New("x")) || !wrap.Failure(context.DeadlineExceeded) || wrap.Failure(context.Canceled) {
		t.Error("errors of others")
	}
}
