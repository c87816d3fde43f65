package kvtest

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/servers"
)

// ServerComesLater opens a connection to a server that is not there: calls fail
// at once, until it comes.
func ServerComesLater(t *testing.T, d driver.Driver, s *servers.Server) {
	s.Kill()
	conn := Open(t, d, driver.Config{URL: s.URL})
	kv := Space(t, conn, Orders)
	ctx := t.Context()
	begin := time.Now()
	_, err := kv.Get(ctx, "k", driver.WithExpiry)
	refused(t, "get", err, errs.BackendUnavailable)
	refused(t, "put", Apply(ctx, kv, driver.Op{Kind: driver.Put, Key: "k"}).Err, errs.BackendUnavailable)
	refused(t, "add", Apply(ctx, kv, driver.Op{Kind: driver.Add, Key: "k"}).Err, errs.BackendUnavailable)
	_, err = kv.Scan(ctx, driver.ScanRequest{Limit: 1})
	refused(t, "scan", err, errs.BackendUnavailable)
	refused(t, "ping", conn.Ping(ctx), errs.BackendUnavailable)
	if took := time.Since(begin); took > 4*time.Second { // twice the connect_timeout of one call
		t.Errorf("five calls to a server that is not there took %v", took)
	}
	s.Start()
	Await(t, "ping after the start", func() bool { return conn.Ping(ctx) == nil })
	Put(t, kv, "k", "v")
}

// PausedServer makes calls beside each other, every other one a Put of value,
// on a server that stands still: no caller waits longer than its context, and
// each is told one of the reasons.
func PausedServer(t *testing.T, d driver.Driver, s *servers.Server, calls int, value []byte, reasons ...errs.Reason) {
	kv := Space(t, Open(t, d, driver.Config{URL: s.URL}), Orders)
	Put(t, kv, "k", "v")
	s.Pause()
	cancelled, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	_, err := kv.Get(cancelled, "k", driver.WithExpiry)
	refused(t, "cancelled", err, errs.Cancelled)
	var all sync.WaitGroup
	slow := make(chan time.Duration, calls)
	for i := range calls {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			begin := time.Now()
			var err error
			if i%2 == 0 {
				_, err = kv.Get(ctx, "k", driver.WithExpiry)
			} else {
				err = Apply(ctx, kv, driver.Op{Kind: driver.Put, Key: "k", Value: value}).Err
			}
			if r := errs.ReasonOf(err); !slices.Contains(reasons, r) {
				t.Errorf("a call to a paused server: %v (%v)", r, err)
			}
			slow <- time.Since(begin)
		})
	}
	all.Wait()
	close(slow)
	for took := range slow {
		if took > 3*time.Second {
			t.Fatalf("a call with a deadline of 300ms took %v", took)
		}
	}
	s.Resume()
	Await(t, "an answer after the pause", func() bool {
		_, err := kv.Get(t.Context(), "k", driver.WithExpiry)
		return err == nil
	})
}

// SilentServerIsGivenUp makes calls without a deadline to a server that stands
// still: the driver's own limits end them.
func SilentServerIsGivenUp(t *testing.T, d driver.Driver, s *servers.Server) {
	conn := Open(t, d, driver.Config{URL: s.URL, Options: json.RawMessage(`{"answer_timeout": "1s", "connect_timeout": "1s"}`)})
	kv := Space(t, conn, Orders)
	Await(t, "the first put", func() bool { return Apply(t.Context(), kv, driver.Op{Kind: driver.Put, Key: "k"}).Err == nil })
	s.Pause()
	r := Apply(t.Context(), kv, driver.Op{Kind: driver.Put, Key: "k"})
	refused(t, "a write that was sent", r.Err, errs.OutcomeUnknown)
	_, err := kv.Get(t.Context(), "k", driver.WithExpiry) // the next connection gets no answer either
	refused(t, "a read", err, errs.BackendUnavailable)
	s.Resume()
	Await(t, "ping after the pause", func() bool { return conn.Ping(t.Context()) == nil })
}

// CloseWithCallsUnderWay closes a connection whose server stands still.
func CloseWithCallsUnderWay(t *testing.T, d driver.Driver, s *servers.Server) {
	conn := Open(t, d, driver.Config{URL: s.URL})
	kv := Space(t, conn, Orders)
	Put(t, kv, "k", "v")
	s.Pause()
	done := make(chan error, 1)
	go func() {
		_, err := kv.Get(t.Context(), "k", driver.WithExpiry)
		done <- err
	}()
	time.AfterFunc(50*time.Millisecond, func() { _ = conn.Close() })
	refused(t, "under way", <-done, errs.BackendUnavailable)
	Must(t, conn.Close())
	_, err := kv.Get(t.Context(), "k", driver.WithExpiry)
	refused(t, "get after close", err, errs.BackendUnavailable)
	refused(t, "put after close", Apply(t.Context(), kv, driver.Op{Kind: driver.Put, Key: "k"}).Err, errs.BackendUnavailable)
	refused(t, "ping after close", conn.Ping(t.Context()), errs.BackendUnavailable)
}
