package wrap_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/memory"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

// brokenBlob is memory that fails as the test wants: every call asks outcome
// with its key before, or with reads after its reader was read.
type brokenBlob struct {
	driver.Blob
	calls   atomic.Int64
	reads   bool  // puts read before they fail
	middle  error // of bodies, at their end
	outcome func(ctx context.Context, key string) error
}

func newBrokenBlob(t *testing.T, outcome func(ctx context.Context, key string) error) *brokenBlob {
	t.Helper()
	conn, err := memory.Driver().Open(driver.Config{URL: "memory:"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	b, err := conn.Space(driver.Space{Namespace: "n", Pattern: "p"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Blob.Put(t.Context(), "there", strings.NewReader("content"), driver.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	return &brokenBlob{Blob: b.Blob, outcome: outcome}
}

func (b *brokenBlob) ask(ctx context.Context, key string) error {
	b.calls.Add(1)
	return b.outcome(ctx, key)
}

func (b *brokenBlob) Put(ctx context.Context, key string, r io.Reader, o driver.PutOptions) (driver.Object, error) {
	if b.reads {
		text, err := io.ReadAll(r)
		if err != nil {
			return driver.Object{}, err
		}
		r = strings.NewReader(string(text))
	}
	if err := b.ask(ctx, key); err != nil {
		return driver.Object{}, err
	}
	return b.Blob.Put(ctx, key, r, o)
}

func (b *brokenBlob) Get(ctx context.Context, key string, o driver.GetOptions) (driver.Object, io.ReadCloser, error) {
	if err := b.ask(ctx, key); err != nil {
		return driver.Object{}, nil, err
	}
	there, body, err := b.Blob.Get(ctx, key, o)
	if err == nil && b.middle != nil {
		body = io.NopCloser(io.MultiReader(body, failing{b.middle}))
	}
	return there, body, err
}

func (b *brokenBlob) Stat(ctx context.Context, key string) (driver.Object, error) {
	if err := b.ask(ctx, key); err != nil {
		return driver.Object{}, err
	}
	return b.Blob.Stat(ctx, key)
}

func (b *brokenBlob) Delete(ctx context.Context, keys []string, results []error) {
	b.calls.Add(1)
	for i, key := range keys {
		if results[i] = b.outcome(ctx, key); results[i] == nil {
			b.Blob.Delete(ctx, keys[i:i+1], results[i:i+1])
		}
	}
}

func (b *brokenBlob) List(ctx context.Context, r driver.ListRequest) (driver.ObjectPage, error) {
	if err := b.ask(ctx, r.Prefix); err != nil {
		return driver.ObjectPage{}, err
	}
	return b.Blob.List(ctx, r)
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// constantly returns an outcome that is the same each time.
func constantly(err error) func(context.Context, string) error {
	return func(context.Context, string) error { return err }
}

// eachBlob runs all methods and returns their outcomes.
func eachBlob(ctx context.Context, b driver.Blob, key string) map[string]error {
	_, put := b.Put(ctx, key, strings.NewReader("content"), driver.PutOptions{})
	_, body, get := b.Get(ctx, key, driver.GetOptions{})
	if get == nil {
		_ = body.Close()
	}
	_, stat := b.Stat(ctx, key)
	_, list := b.List(ctx, driver.ListRequest{Prefix: key, Limit: 1})
	results := []error{errs.Internal}
	b.Delete(ctx, []string{key}, results)
	return map[string]error{"Put": put, "Get": get, "Stat": stat, "List": list, "Delete": results[0]}
}

// seenBlob is what an observer of a Blob was told, in words.
type seenBlob struct{ seen }

func (s *seenBlob) Transferred(method string, bytes int64) {
	s.seen = append(s.seen, fmt.Sprint(method, " ", bytes, " bytes"))
}

func (s *seenBlob) is(t *testing.T, what string, want ...string) {
	t.Helper()
	if got := strings.Join(s.seen, "; "); got != strings.Join(want, "; ") {
		t.Errorf("%s: told %q, want %q", what, got, want)
	}
	s.seen = nil
}

func TestObserveBlob(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	inner := newBrokenBlob(t, func(_ context.Context, key string) error {
		if key == "boom" {
			return boom
		}
		return nil
	})
	var s seenBlob
	b, ctx := wrap.ObserveBlob(inner, "shelf", &s), t.Context()
	_, err := b.Put(ctx, "a", strings.NewReader("12345"), driver.PutOptions{})
	s.is(t, "put", "put_object 1 0", "put_object 5 bytes")
	if err != nil {
		t.Error(err)
	}
	_, body, err := b.Get(ctx, "a", driver.GetOptions{Offset: 1})
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(body); string(text) != "2345" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	s.is(t, "a body that is open")
	for range 2 {
		if err := body.Close(); err != nil {
			t.Error(err)
		}
	}
	s.is(t, "a body that was closed twice", "get_object 1 0", "get_object 4 bytes")
	if _, _, err := b.Get(ctx, "nobody", driver.GetOptions{}); !errors.Is(err, errs.ObjectNotFound) {
		t.Error(err)
	}
	s.is(t, "an object that is not there", "get_object 1 0")
	for name, err := range eachBlob(ctx, b, "boom") {
		if !errors.Is(err, boom) || !strings.HasPrefix(err.Error(), "backend shelf: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.is(t, "failures", "put_object 1 1", "put_object 0 bytes", "get_object 1 1", "stat_object 1 1", "list_objects 1 1", "delete_objects 1 1")
	inner.middle = errs.BackendUnavailable
	if _, body, err = b.Get(ctx, "a", driver.GetOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(body); !errors.Is(err, errs.BackendUnavailable) {
		t.Error(err)
	}
	_ = body.Close()
	s.is(t, "a body that fails", "get_object 1 1", "get_object 5 bytes")
}

// What goes wrong with a caller's reader is no failure of the backend, whatever
// it is, and is returned as it is.
func TestReadersOfPuts(t *testing.T) {
	t.Parallel()
	for _, own := range []error{errors.New("of the caller"), errs.BackendUnavailable, io.ErrUnexpectedEOF} {
		inner := newBrokenBlob(t, constantly(nil))
		var s seenBlob
		breaker, limiter := wrap.NewBreaker("shelf", nil), wrap.NewLimiter(1)
		b := wrap.ObserveBlob(breaker.Blob(wrap.NewRetrier().Blob(limiter.Blob(inner, limiter))), "shelf", &s)
		for range 10 {
			_, err := b.Put(t.Context(), "a", io.MultiReader(strings.NewReader("123"), failing{own}), driver.PutOptions{})
			if err != own { //nolint:errorlint // as it is
				t.Errorf("%v became %v", own, err)
			}
		}
		if got := len(s.seen); got != 20 || s.seen[18] != "put_object 1 0" || s.seen[19] != "put_object 3 bytes" {
			t.Errorf("%v: told %q", own, s.seen)
		}
		if _, err := b.Put(t.Context(), "a", strings.NewReader(""), driver.PutOptions{}); err != nil {
			t.Errorf("after ten readers that failed with %v: %v", own, err)
		}
	}
}

func TestBreakerOfABlob(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"Put", "Get", "Stat", "List", "Delete"} {
		synctest.Test(t, func(t *testing.T) {
			var down atomic.Bool
			down.Store(true)
			inner := newBrokenBlob(t, func(context.Context, string) error {
				if down.Load() {
					return errs.OutcomeUnknown
				}
				return nil
			})
			b := wrap.NewBreaker("shelf", nil).Blob(inner)
			for range 5 {
				_ = callBlob(t.Context(), b, name)
			}
			before := inner.calls.Load()
			for what, err := range eachBlob(t.Context(), b, "there") {
				if !errors.Is(err, errs.CircuitOpen) {
					t.Errorf("%s after five %ss that failed: %v", what, name, err)
				}
			}
			if inner.calls.Load() != before {
				t.Errorf("%s: calls reach a backend that is given a rest", name)
			}
			down.Store(false)
			time.Sleep(6 * time.Second)
			if err := callBlob(t.Context(), b, name); err != nil {
				t.Errorf("%s after the rest: %v", name, err)
			}
		})
	}
}

func callBlob(ctx context.Context, b driver.Blob, name string) error {
	switch name {
	case "Put":
		_, err := b.Put(ctx, "there", strings.NewReader("content"), driver.PutOptions{})
		return err
	case "Get":
		_, body, err := b.Get(ctx, "there", driver.GetOptions{})
		if err == nil {
			_ = body.Close()
		}
		return err
	case "Stat":
		_, err := b.Stat(ctx, "there")
		return err
	case "List":
		_, err := b.List(ctx, driver.ListRequest{Limit: 1})
		return err
	}
	results := make([]error, 2)
	b.Delete(ctx, []string{"a", "b"}, results)
	return errors.Join(results...)
}

// slowReader takes its time before it ends.
type slowReader struct{ d time.Duration }

func (r slowReader) Read([]byte) (int, error) { time.Sleep(r.d); return 0, io.EOF }

// A deadline that passes while a put waits for its reader says nothing about the
// backend; one that passes while the backend is waited for does.
func TestBreakerAndSlowReaders(t *testing.T) {
	t.Parallel()
	for _, slow := range []struct {
		reader, backend time.Duration
		want            error
	}{{10 * time.Second, time.Millisecond, nil}, {time.Millisecond, 1500 * time.Millisecond, errs.CircuitOpen}} {
		synctest.Test(t, func(t *testing.T) {
			inner := newBrokenBlob(t, func(_ context.Context, key string) error {
				if key == "slow" {
					time.Sleep(slow.backend)
					return errs.Deadline
				}
				return nil
			})
			inner.reads = true
			b := wrap.NewBreaker("shelf", nil).Blob(inner)
			for range 6 {
				_, _ = b.Put(t.Context(), "slow", slowReader{slow.reader}, driver.PutOptions{})
			}
			if _, err := b.Stat(t.Context(), "there"); !errors.Is(err, slow.want) {
				t.Errorf("reader %v, backend %v: %v", slow.reader, slow.backend, err)
			}
		})
	}
}

// A put holds its place until it returns, a body until its end; short calls have
// places of their own.
func TestLimiterOfABlob(t *testing.T) {
	t.Parallel()
	inner := newBrokenBlob(t, constantly(nil))
	b := wrap.NewLimiter(1).Blob(inner, wrap.NewLimiter(2))
	soon := func(name string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		return callBlob(ctx, b, name)
	}
	open := func() io.ReadCloser {
		_, body, err := b.Get(t.Context(), "there", driver.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return body
	}
	full := func(what string) {
		t.Helper()
		for _, name := range []string{"Put", "Get"} {
			if err := soon(name); !errors.Is(err, errs.Overloaded) {
				t.Errorf("%s with %s: %v", name, what, err)
			}
		}
		for _, name := range []string{"Stat", "List", "Delete"} {
			if err := soon(name); err != nil {
				t.Errorf("%s with %s: %v", name, what, err)
			}
		}
	}
	first, second := open(), open()
	full("two bodies that are open")
	_ = first.Close()
	_ = first.Close()
	if err := soon("Put"); err != nil {
		t.Errorf("put after a body was closed: %v", err)
	}
	third := open()
	full("two bodies again")
	if _, err := io.ReadAll(second); err != nil {
		t.Fatal(err)
	}
	if err := soon("Get"); err != nil {
		t.Errorf("get after a body was read to its end: %v", err)
	}
	in, out := io.Pipe()
	done := make(chan error)
	go func() {
		_, err := b.Put(t.Context(), "piped", in, driver.PutOptions{})
		done <- err
	}()
	if _, err := out.Write([]byte("a beginning")); err != nil {
		t.Fatal(err)
	}
	full("a body and a put")
	_ = out.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := soon("Get"); err != nil {
		t.Errorf("get after a put: %v", err)
	}
	_ = third.Close()
	for range 3 { // a Get that fails gives its place back
		if _, _, err := b.Get(t.Context(), "nobody", driver.GetOptions{}); !errors.Is(err, errs.ObjectNotFound) {
			t.Error(err)
		}
	}
}

// Calls that end in a panic give their places back.
func TestLimiterOfABlobAndPanics(t *testing.T) {
	t.Parallel()
	l := wrap.NewLimiter(1)
	b := l.Blob(newBrokenBlob(t, func(context.Context, string) error { panic("made up") }), l)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, name := range []string{"Put", "Get", "Stat", "List", "Delete"} {
		for range 2 { // the second one would find no place
			func() {
				defer func() {
					if recover() == nil {
						t.Errorf("%s did not reach the backend", name)
					}
				}()
				_ = callBlob(ctx, b, name)
			}()
		}
	}
}

func TestRetryOfABlob(t *testing.T) {
	t.Parallel()
	failed := map[string]bool{}
	inner := newBrokenBlob(t, func(_ context.Context, key string) error {
		if !failed[key] {
			failed[key] = true
			return errs.BackendUnavailable
		}
		return nil
	})
	b := wrap.NewRetrier().Blob(inner)
	for _, name := range []string{"Put", "Get", "Stat", "List", "Delete"} {
		clear(failed)
		if err := callBlob(t.Context(), b, name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	clear(failed)
	failed["b"] = true // it works
	before := inner.calls.Load()
	results := make([]error, 3)
	b.Delete(t.Context(), []string{"a", "b", "c"}, results)
	if err := errors.Join(results...); err != nil || inner.calls.Load() != before+2 {
		t.Errorf("delete: %v after %d calls", err, inner.calls.Load()-before)
	}
	inner.reads = true
	clear(failed)
	before = inner.calls.Load()
	if err := callBlob(t.Context(), b, "Put"); !errors.Is(err, errs.BackendUnavailable) || inner.calls.Load() != before+1 {
		t.Errorf("a put whose reader was read: %v after %d calls", err, inner.calls.Load()-before)
	}
}

func TestRetryOfABlobNever(t *testing.T) {
	t.Parallel()
	for _, reason := range errs.All() {
		if reason == errs.BackendUnavailable {
			continue
		}
		inner := newBrokenBlob(t, constantly(reason))
		for name, err := range eachBlob(t.Context(), wrap.NewRetrier().Blob(inner), "k") {
			if !errors.Is(err, reason) {
				t.Errorf("%s: %s became %v", name, reason.String(), err)
			}
		}
		if n := inner.calls.Load(); n != 5 {
			t.Errorf("%s: five calls became %d", reason.String(), n)
		}
	}
}
