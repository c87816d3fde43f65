package wrap

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// A BlobObserver is also told of bytes.
type BlobObserver interface {
	Observer

	// Transferred gets the bytes that a put has read or a body has yielded, when
	// it has ended; method is "put_object" or "get_object".
	Transferred(method string, bytes int64)
}

// ObserveBlob is Observe for a Blob. Its methods are "put_object", "get_object",
// "stat_object", "delete_objects" and "list_objects". A Get that succeeds is told
// when its body is closed, with what went wrong while it was read.
func ObserveBlob(b driver.Blob, backend string, o BlobObserver) driver.Blob {
	return &observedBlob{b, observation{backend, o}, o}
}

type observedBlob struct {
	driver.Blob
	observation
	bytes BlobObserver
}

const (
	methodPut = "put_object"
	methodGet = "get_object"
)

func (b *observedBlob) Put(ctx context.Context, key string, r io.Reader, o driver.PutOptions) (driver.Object, error) {
	began, from := time.Now(), &source{from: r}
	made, err := b.Blob.Put(ctx, key, from, o)
	outcome := from.outcome(err)
	b.one(ctx, methodPut, began, &outcome)
	b.bytes.Transferred(methodPut, from.bytes)
	if outcome != nil {
		err = outcome
	}
	return made, err
}

func (b *observedBlob) Get(ctx context.Context, key string, o driver.GetOptions) (driver.Object, io.ReadCloser, error) {
	began := time.Now()
	there, body, err := b.Blob.Get(ctx, key, o)
	if err != nil {
		b.one(ctx, methodGet, began, &err)
		return there, nil, err
	}
	return there, &observedBody{ReadCloser: body, ctx: ctx, blob: b, began: began}, nil
}

func (b *observedBlob) Stat(ctx context.Context, key string) (driver.Object, error) {
	began := time.Now()
	there, err := b.Blob.Stat(ctx, key)
	b.one(ctx, "stat_object", began, &err)
	return there, err
}

func (b *observedBlob) Delete(ctx context.Context, keys []string, results []error) {
	began := time.Now()
	b.Blob.Delete(ctx, keys, results)
	var failures []error
	for i := range results {
		failures = b.named(failures, "delete_objects", &results[i])
	}
	b.observer.Observe(ctx, "delete_objects", len(keys), began, failures)
}

func (b *observedBlob) List(ctx context.Context, r driver.ListRequest) (driver.ObjectPage, error) {
	began := time.Now()
	p, err := b.Blob.List(ctx, r)
	b.one(ctx, "list_objects", began, &err)
	return p, err
}

// observedBody tells what became of a body, once.
type observedBody struct {
	io.ReadCloser
	ctx   context.Context
	blob  *observedBlob
	began time.Time
	bytes int64
	err   error
	told  bool
}

func (r *observedBody) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.bytes += int64(n)
	if err != nil && err != io.EOF && !r.told && r.err == nil {
		r.err = err
	}
	return n, err
}

func (r *observedBody) Close() error {
	err := r.ReadCloser.Close()
	if !r.told {
		r.told = true
		r.blob.one(r.ctx, methodGet, r.began, &r.err)
		r.blob.bytes.Transferred(methodGet, r.bytes)
	}
	return err
}

// source is the reader of a put, whose troubles are not the backend's.
type source struct {
	from   io.Reader
	read   bool // it has been asked for bytes
	bytes  int64
	waited time.Duration // for it
	err    error
}

func (s *source) Read(p []byte) (int, error) {
	s.read = true
	began := time.Now()
	n, err := s.from.Read(p)
	s.waited += time.Since(began)
	s.bytes += int64(n)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// outcome returns what a put's error says about the backend: nothing, if it is
// the reader's own.
func (s *source) outcome(err error) error {
	if err != nil && s.err != nil && errors.Is(err, s.err) {
		return nil
	}
	return err
}

// Blob returns b behind the breaker. A Get counts when its body is there: one
// that fails later than that is followed by calls that fail.
func (b *Breaker) Blob(blob driver.Blob) driver.Blob {
	return &guardedBlob{Blob: blob, severe: unwell, enter: b.enter, enterStream: b.enter}
}

// Blob returns b behind the limiter, and what streams behind another one, so that
// clients who read or write slowly keep nobody from a short call. A Put holds a
// place until it returns, and the body of a Get until it was read to its end,
// has failed or is closed. Calls over the limit wait, and a Put has read nothing
// by then, until there is a place or their context ends.
func (l *Limiter) Blob(b driver.Blob, streams *Limiter) driver.Blob {
	enter := func(l *Limiter) func(context.Context) (func(error), error) {
		leave := func(error) { <-l.places }
		return func(ctx context.Context) (func(error), error) { return leave, l.enter(ctx) }
	}
	return &guardedBlob{
		Blob: b, severe: func(error) bool { return false }, enter: enter(l), enterStream: enter(streams), bodies: true,
	}
}

// guardedBlob is guarded for a Blob.
type guardedBlob struct {
	driver.Blob
	enter, enterStream func(ctx context.Context) (leave func(outcome error), err error)
	severe             func(err error) bool
	bodies             bool // a Get is left when its body ends, and not before
}

func (b *guardedBlob) Put(ctx context.Context, key string, r io.Reader, o driver.PutOptions) (made driver.Object, err error) {
	leave, err := b.enterStream(ctx)
	if err != nil {
		return driver.Object{}, err
	}
	began, from := time.Now(), &source{from: r}
	defer func() {
		outcome := from.outcome(err)
		if errs.ReasonOf(outcome) == errs.Deadline && from.waited > time.Since(began)/2 {
			outcome = nil // it was the reader who was slow
		}
		leave(outcome)
	}()
	made, err = b.Blob.Put(ctx, key, from, o)
	return made, err
}

func (b *guardedBlob) Get(ctx context.Context, key string, o driver.GetOptions) (there driver.Object, body io.ReadCloser, err error) {
	leave, err := b.enterStream(ctx)
	if err != nil {
		return driver.Object{}, nil, err
	}
	left := false
	defer func() {
		if !left {
			leave(err)
		}
	}()
	there, body, err = b.Blob.Get(ctx, key, o)
	if err == nil && b.bodies {
		left = true
		body = &guardedBody{ReadCloser: body, leave: sync.OnceFunc(func() { leave(nil) })}
	}
	return there, body, err
}

// guardedBody is left once.
type guardedBody struct {
	io.ReadCloser
	leave func()
}

func (r *guardedBody) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if err != nil {
		r.leave()
	}
	return n, err
}

func (r *guardedBody) Close() error {
	defer r.leave()
	return r.ReadCloser.Close()
}

func (b *guardedBlob) Stat(ctx context.Context, key string) (there driver.Object, err error) {
	leave, err := b.enter(ctx)
	if err != nil {
		return driver.Object{}, err
	}
	defer func() { leave(err) }()
	there, err = b.Blob.Stat(ctx, key)
	return there, err
}

func (b *guardedBlob) Delete(ctx context.Context, keys []string, results []error) {
	leave, err := b.enter(ctx)
	if err != nil {
		for i := range results {
			results[i] = err
		}
		return
	}
	defer func() {
		var worst error
		for _, err := range results {
			if err != nil && b.severe(err) {
				worst = err
			}
		}
		leave(worst)
	}()
	b.Blob.Delete(ctx, keys, results)
}

func (b *guardedBlob) List(ctx context.Context, r driver.ListRequest) (p driver.ObjectPage, err error) {
	leave, err := b.enter(ctx)
	if err != nil {
		return driver.ObjectPage{}, err
	}
	defer func() { leave(err) }()
	p, err = b.Blob.List(ctx, r)
	return p, err
}

// Blob returns b with retries. A Put is repeated if its reader was not asked for
// anything yet; what goes wrong with a body is its reader's to repeat.
func (r *Retrier) Blob(b driver.Blob) driver.Blob { return &retriedBlob{Blob: b, r: r} }

type retriedBlob struct {
	driver.Blob
	r *Retrier
}

func (b *retriedBlob) Put(ctx context.Context, key string, r io.Reader, o driver.PutOptions) (driver.Object, error) {
	from := &source{from: r}
	made, err := b.Blob.Put(ctx, key, from, o)
	if err != nil && from.read {
		return made, err
	}
	if b.r.again(ctx, err) {
		return b.Blob.Put(ctx, key, r, o)
	}
	return made, err
}

func (b *retriedBlob) Get(ctx context.Context, key string, o driver.GetOptions) (driver.Object, io.ReadCloser, error) {
	there, body, err := b.Blob.Get(ctx, key, o)
	if b.r.again(ctx, err) {
		return b.Blob.Get(ctx, key, o)
	}
	return there, body, err
}

func (b *retriedBlob) Stat(ctx context.Context, key string) (driver.Object, error) {
	there, err := b.Blob.Stat(ctx, key)
	if b.r.again(ctx, err) {
		return b.Blob.Stat(ctx, key)
	}
	return there, err
}

func (b *retriedBlob) List(ctx context.Context, r driver.ListRequest) (driver.ObjectPage, error) {
	p, err := b.Blob.List(ctx, r)
	if b.r.again(ctx, err) {
		return b.Blob.List(ctx, r)
	}
	return p, err
}

func (b *retriedBlob) Delete(ctx context.Context, keys []string, results []error) {
	b.Blob.Delete(ctx, keys, results)
	at := untaken(len(results), func(i int) error { return results[i] })
	if !b.r.again(ctx, firstError(at)) {
		return
	}
	again, res := make([]string, len(at)), make([]error, len(at))
	for k, i := range at {
		again[k] = keys[i]
	}
	b.Blob.Delete(ctx, again, res)
	for k, i := range at {
		results[i] = res[k]
	}
}
