package drivertest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/s3"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/servers"
)

// storeHarness is a store that can be hurt: a real one, with a driver that
// passes all checks.
func storeHarness(tb testing.TB) *Harness {
	config := func(s *servers.S3Server, url string) driver.Config {
		return driver.Config{Name: "test", URL: url, Credentials: s.Login(), Asserts: []byte(`{"survives": "process"}`)}
	}
	shared := servers.S3With(tb)
	return &Harness{
		Name: "s3", Driver: s3.Driver(), Config: config(shared, shared.URL), Persistent: true,
		Server: func(tb testing.TB) Server {
			s := servers.S3With(tb)
			return Server{Process: s, Addr: s.Addr, Config: func(addr string) driver.Config { return config(s, s.Through(addr)) }}
		},
	}
}

// spoilOutcomes changes what every call answers.
func spoilOutcomes(change func(error) error) func(*driver.Driver) {
	return spoilBlob(func(b *brokenBlob) {
		b.put = func(ctx context.Context, key string, r io.Reader, o driver.PutOptions) (driver.Object, error) {
			made, err := b.Blob.Put(ctx, key, r, o)
			return made, change(err)
		}
		b.get = func(ctx context.Context, key string, o driver.GetOptions) (driver.Object, io.ReadCloser, error) {
			there, body, err := b.Blob.Get(ctx, key, o)
			return there, body, change(err)
		}
		b.stat = func(ctx context.Context, key string) (driver.Object, error) {
			there, err := b.Blob.Stat(ctx, key)
			return there, change(err)
		}
		b.list = func(ctx context.Context, r driver.ListRequest) (driver.ObjectPage, error) {
			p, err := b.Blob.List(ctx, r)
			return p, change(err)
		}
		b.remove = func(ctx context.Context, keys []string, results []error) {
			b.Blob.Delete(ctx, keys, results)
			for i := range results {
				results[i] = change(results[i])
			}
		}
	})
}

// sick reports whether an error may be that of a server that is not well.
func sick(err error) bool {
	reason := errs.ReasonOf(err)
	return err != nil && (reason == errs.BackendUnavailable || reason == errs.OutcomeUnknown)
}

// putAgain repeats what nobody knows the outcome of.
func putAgain(b *brokenBlob) {
	b.put = func(ctx context.Context, key string, r io.Reader, o driver.PutOptions) (driver.Object, error) {
		text, err := io.ReadAll(r)
		if err != nil {
			return driver.Object{}, err
		}
		for {
			made, err := b.Blob.Put(ctx, key, bytes.NewReader(text), o)
			if !errors.Is(err, errs.OutcomeUnknown) || ctx.Err() != nil {
				return made, err
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// impatientNever looks at its context only when a deadline is long over.
func impatientNever(b *brokenBlob) {
	slow := func(ctx context.Context) context.Context {
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), faultDeadline+grace+time.Second/4)
		context.AfterFunc(late, cancel)
		return late
	}
	b.stat = func(ctx context.Context, key string) (driver.Object, error) { return b.Blob.Stat(slow(ctx), key) }
}

// acknowledgedInMemory says yes to what it could not put, and forgets it.
func acknowledgedInMemory(b *brokenBlob) {
	b.put = func(ctx context.Context, key string, r io.Reader, o driver.PutOptions) (driver.Object, error) {
		made, err := b.Blob.Put(ctx, key, r, o)
		if sick(err) && strings.HasPrefix(key, "n") {
			return driver.Object{Key: key}, nil
		}
		return made, err
	}
}

// brokenForGood never comes back from a failure.
func brokenForGood(b *brokenBlob) {
	var broken atomic.Bool
	b.put = func(ctx context.Context, key string, r io.Reader, o driver.PutOptions) (driver.Object, error) {
		if broken.Load() {
			return driver.Object{}, errs.BackendUnavailable
		}
		made, err := b.Blob.Put(ctx, key, r, o)
		if sick(err) {
			broken.Store(true)
		}
		return made, err
	}
}

// endsEarly takes the end of a connection for that of an object.
func endsEarly(_ *brokenBlob, _ string, _ driver.GetOptions, _ driver.Object, body io.ReadCloser) io.ReadCloser {
	return bodyOf{body, func(p []byte) (int, error) {
		n, err := body.Read(p)
		if sick(err) || errs.ReasonOf(err) == errs.Deadline {
			err = io.EOF
		}
		return n, err
	}}
}

// whatThereIs puts what came until the connection was lost.
func whatThereIs(b *brokenBlob) {
	b.put = func(ctx context.Context, key string, r io.Reader, o driver.PutOptions) (driver.Object, error) {
		var kept bytes.Buffer
		made, err := b.Blob.Put(ctx, key, io.TeeReader(r, &kept), o)
		if sick(err) && kept.Len() > 1<<20 {
			go func() {
				for try := 0; try < 400; try++ {
					if _, err := b.Blob.Put(context.Background(), key, bytes.NewReader(kept.Bytes()[:1<<20]), o); err == nil {
						return
					}
					time.Sleep(10 * time.Millisecond)
				}
			}()
		}
		return made, err
	}
}

// forgetful has cursors of the process of a server.
func forgetful(b *brokenBlob) {
	var lost atomic.Bool
	b.put = func(ctx context.Context, key string, r io.Reader, o driver.PutOptions) (driver.Object, error) {
		lost.Store(lost.Load() || strings.HasPrefix(key, "healed-"))
		return b.Blob.Put(ctx, key, r, o)
	}
	b.list = func(ctx context.Context, r driver.ListRequest) (driver.ObjectPage, error) {
		if lost.Load() && r.Cursor != nil {
			r.Cursor = nil
		}
		return b.Blob.List(ctx, r)
	}
}

// TestBlobFaultsAreFound runs the checks of faults against drivers with one
// mistake each; those of other tests run them without.
func TestBlobFaultsAreFound(t *testing.T) {
	for _, m := range []struct {
		mistake
		slow bool
	}{
		{mistake{"a put is repeated", spoilBlob(putAgain), []string{"faults/answer-lost"}}, false},
		{mistake{"sent writes are called unsent", spoilOutcomes(func(err error) error {
			if errors.Is(err, errs.OutcomeUnknown) {
				return errs.BackendUnavailable
			}
			return err
		}), []string{"faults/answer-lost"}}, false},
		{mistake{"unsent writes are called sent", spoilOutcomes(func(err error) error {
			if sick(err) {
				return errs.OutcomeUnknown
			}
			return err
		}), []string{"faults/away-at-open"}}, false},
		{mistake{"every error is internal", spoilOutcomes(func(err error) error {
			if sick(err) {
				return errs.Internal
			}
			return err
		}), []string{"faults/killed-and-restarted", "faults/garbage", "faults/connections-cut", "faults/away-at-open"}}, true},
		{mistake{"a deadline is lost", spoilBlob(impatientNever), []string{"faults/paused", "faults/cancelled-under-way"}}, true},
		{mistake{"failures are acknowledged", spoilBlob(acknowledgedInMemory), []string{"faults/killed-and-restarted"}}, false},
		{mistake{"a connection stays broken", spoilBlob(brokenForGood), []string{"faults/connections-cut"}}, true},
		{mistake{"a body ends with its connection", spoilBodies(endsEarly), []string{"faults/killed-in-the-middle", "faults/connections-cut", "faults/paused"}}, false},
		{mistake{"half of an object is put", spoilBlob(whatThereIs), []string{"faults/killed-in-the-middle"}}, false},
		{mistake{"cursors are of a process", spoilBlob(forgetful), []string{"faults/cursor-after-restart"}}, false},
		{mistake{"open connects", func(d *driver.Driver) {
			open := d.Open
			d.Open = func(c driver.Config) (driver.Conn, error) {
				conn, err := open(c)
				if err != nil {
					return nil, err
				}
				return conn, conn.Ping(context.Background())
			}
		}, []string{"faults/away-at-open"}}, false},
	} {
		t.Run(strings.ReplaceAll(m.name, " ", "-"), func(t *testing.T) {
			if m.slow && testing.Short() {
				return // these wait for what does not come
			}
			t.Parallel()
			for _, name := range m.found {
				h := storeHarness(t)
				m.spoil(&h.Driver)
				if said := blobKit().record(t, h, name); len(said) == 0 {
					t.Errorf("%s passes", name)
				} else {
					t.Logf("%s: %s", name, said[0])
				}
			}
		})
	}
}
