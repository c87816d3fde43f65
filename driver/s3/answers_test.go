package s3_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/kvtest"
	"github.com/prismgw/prism/internal/testutil/servers"
)

// TestAnswers checks what callers are told of what a store answers.
func TestAnswers(t *testing.T) {
	t.Parallel()
	s, ctx := servers.S3With(t), t.Context()
	var status atomic.Int64
	var code atomic.Value
	addr := between(t, s, func(w http.ResponseWriter, _ *http.Request) bool {
		return refuse(w, int(status.Load()), code.Load().(string)) //nolint:forcetypeassert // a test
	})
	_, b := open(t, config(s, s.Through(addr)))
	for _, c := range []struct {
		status      int
		code        string
		read, write errs.Reason
		say         string
	}{
		{503, "SlowDown", errs.Overloaded, errs.Overloaded, "fewer requests"},
		{503, "ServiceUnavailable", errs.Overloaded, errs.Overloaded, "too much to do"},
		{503, "", errs.BackendUnavailable, errs.BackendUnavailable, "not ready"},
		{500, "InternalError", errs.BackendUnavailable, errs.OutcomeUnknown, "failed at this"},
		{502, "", errs.BackendUnavailable, errs.OutcomeUnknown, "failed at this"},
		{403, "AccessDenied", errs.BackendUnavailable, errs.BackendUnavailable, "do not give the right"},
		{403, "", errs.BackendUnavailable, errs.BackendUnavailable, "do not give the right"},
		{403, "InvalidAccessKeyId", errs.CredentialsUnavailable, errs.CredentialsUnavailable, "access key"},
		{403, "SignatureDoesNotMatch", errs.CredentialsUnavailable, errs.CredentialsUnavailable, "secret"},
		{400, "ExpiredToken", errs.CredentialsUnavailable, errs.CredentialsUnavailable, "expired"},
		{403, "RequestTimeTooSkewed", errs.BackendUnavailable, errs.BackendUnavailable, "clock"},
		{404, "NoSuchBucket", errs.BackendUnavailable, errs.BackendUnavailable, "bucket is not there"},
		{404, "", errs.BackendUnavailable, errs.BackendUnavailable, "no store of S3"},
		{301, "PermanentRedirect", errs.BackendUnavailable, errs.BackendUnavailable, "region"},
		{307, "", errs.BackendUnavailable, errs.BackendUnavailable, "another place"},
		{400, "RequestTimeout", errs.BackendUnavailable, errs.BackendUnavailable, "too long"},
		{400, "EntityTooLarge", errs.PayloadTooLarge, errs.PayloadTooLarge, "larger"},
		{507, "XMinioStorageFull", errs.ReadOnly, errs.ReadOnly, "no space"},
		{409, "ConditionalRequestConflict", errs.BackendUnavailable, errs.BackendUnavailable, "nothing was done"},
		{501, "NotImplemented", errs.Unsupported, errs.Unsupported, "lacks"},
		{400, "SomethingNew", errs.Internal, errs.Internal, "status 400"},
	} {
		status.Store(int64(c.status))
		code.Store(c.code)
		_, _, read := read(ctx, b, "a", driver.GetOptions{})
		_, list := b.List(ctx, driver.ListRequest{Limit: 1})
		_, write := put(ctx, b, "a", "text", driver.PutOptions{})
		one, many := make([]error, 1), make([]error, 2)
		b.Delete(ctx, []string{"a"}, one)
		b.Delete(ctx, []string{"a", "b"}, many)
		for what, x := range map[string]struct {
			err  error
			want errs.Reason
		}{"get": {read, c.read}, "list": {list, c.read}, "put": {write, c.write}, "delete": {one[0], c.write}, "delete of many": {many[1], c.write}} {
			if errs.ReasonOf(x.err) != x.want || !strings.Contains(errs.From(x.err).Text(), c.say) {
				t.Errorf("%d %s: %s: %v (%v), want %v", c.status, c.code, what, errs.ReasonOf(x.err), x.err, x.want)
			}
		}
		if c.read == errs.Overloaded && errs.From(read).RetryAfter == 0 {
			t.Errorf("%d %s: no advice when to come again", c.status, c.code)
		}
	}
}

// TestPartsAreSentAgain refuses a part of a large object twice.
func TestPartsAreSentAgain(t *testing.T) {
	t.Parallel()
	s, ctx := servers.S3With(t), t.Context()
	var parts, refusals atomic.Int64
	refusals.Store(2)
	addr := between(t, s, func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Query().Get("partNumber") == "2" {
			parts.Add(1)
			return refusals.Add(-1) >= 0 && refuse(w, 503, "SlowDown")
		}
		return false
	})
	_, b := open(t, config(s, s.Through(addr)))
	content := strings.Repeat("0123456789", 3<<20)
	_, err := put(ctx, b, "a", content, driver.PutOptions{})
	must(t, err)
	if _, text, err := read(ctx, b, "a", driver.GetOptions{}); text != content || err != nil || parts.Load() != 3 {
		t.Errorf("%d bytes, %v, after %d tries of the second part", len(text), err, parts.Load())
	}
	refusals.Store(100)
	parts.Store(0)
	_, err = put(ctx, b, "b", content, driver.PutOptions{})
	wants(t, "put whose second part is never taken", err, errs.Overloaded)
	if n := parts.Load(); n != 4 {
		t.Errorf("the second part was sent %d times", n)
	}
	kvtest.Await(t, "no uploads", func() bool { return len(uploads(t, s)) == 0 })
}

// TestConflicts lets the store say that another request was under way.
func TestConflicts(t *testing.T) {
	t.Parallel()
	s, ctx := servers.S3With(t), t.Context()
	var refusals atomic.Int64
	addr := between(t, s, func(w http.ResponseWriter, r *http.Request) bool {
		return r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/a!") && refusals.Add(-1) >= 0 && refuse(w, 409, "ConditionalRequestConflict")
	})
	_, b := open(t, config(s, s.Through(addr)))
	refusals.Store(1)
	_, err := put(ctx, b, "a", "1", driver.PutOptions{IfAbsent: true})
	wants(t, "a conflict on an absent object", err, errs.BackendUnavailable)
	made, err := put(ctx, b, "a", "1", driver.PutOptions{IfAbsent: true})
	must(t, err)
	refusals.Store(1)
	_, err = put(ctx, b, "a", "2", driver.PutOptions{IfAbsent: true})
	if wants(t, "a conflict on a present object", err, errs.AlreadyExists).Meta["version"] != made.Version {
		t.Error(err)
	}
	refusals.Store(1)
	_, err = put(ctx, b, "a", "2", driver.PutOptions{IfVersion: "00"})
	if wants(t, "a conflict on another version", err, errs.VersionMismatch).Meta["current"] != made.Version {
		t.Error(err)
	}
}

// TestSilentStoreIsGivenUp waits without a deadline of the caller's.
func TestSilentStoreIsGivenUp(t *testing.T) {
	t.Parallel()
	s := servers.S3With(t)
	c := config(s, s.URL)
	c.Options = []byte(`{"answer_timeout": "300ms"}`)
	_, b := open(t, c)
	ctx := context.Background()
	content := strings.Repeat("x", 32<<20)
	_, err := put(ctx, b, "a", content, driver.PutOptions{})
	must(t, err)
	_, body, err := b.Get(ctx, "a", driver.GetOptions{})
	must(t, err)
	_, err = body.Read(make([]byte, 10))
	must(t, err)
	time.Sleep(400 * time.Millisecond) // a slow reader is not a silent store
	half := make([]byte, 20<<20)
	for n := 0; n < len(half); {
		m, err := body.Read(half[n:])
		must(t, err)
		n += m
	}
	s.Pause()
	began := time.Now()
	for err == nil {
		_, err = body.Read(half)
	}
	wants(t, "reading from a silent store", err, errs.BackendUnavailable)
	_ = body.Close()
	_, err = b.Stat(ctx, "a")
	wants(t, "stat", err, errs.BackendUnavailable)
	_, err = put(ctx, b, "b", "x", driver.PutOptions{})
	if !errors.Is(err, errs.OutcomeUnknown) && !errors.Is(err, errs.BackendUnavailable) {
		t.Errorf("put: %v", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("given up after %v", took)
	}
	s.Resume()
}
