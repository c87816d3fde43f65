package wrap_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/memory"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

// shaky is the PubSub of memory, which fails as the test wants: every message
// and every subscription asks outcome with its subject or filter.
type shaky struct {
	driver.PubSub
	calls   int
	outcome func(subject string) error
}

func newShaky(t *testing.T, outcome func(subject string) error) *shaky {
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
	return &shaky{PubSub: b.PubSub, outcome: outcome}
}

func (s *shaky) Publish(ctx context.Context, messages []driver.Message, results []error) {
	s.calls++
	for i := range messages {
		if results[i] = s.outcome(messages[i].Subject); results[i] == nil {
			s.PubSub.Publish(ctx, messages[i:i+1], results[i:i+1])
		}
	}
}

func (s *shaky) Subscribe(ctx context.Context, r driver.SubscribeRequest) (driver.Subscription, error) {
	s.calls++
	if err := s.outcome(r.Filter); err != nil {
		return nil, err
	}
	return s.PubSub.Subscribe(ctx, r)
}

// tell publishes under each subject, in one call.
func tell(ctx context.Context, ps driver.PubSub, subjects ...string) []error {
	messages, results := make([]driver.Message, len(subjects)), make([]error, len(subjects))
	for i, subject := range subjects {
		messages[i] = driver.Message{Subject: subject, Payload: []byte("of " + subject)}
	}
	ps.Publish(ctx, messages, results)
	return results
}

func TestObservePubSub(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	var s seen
	ps := wrap.ObservePubSub(newShaky(t, func(subject string) error {
		switch subject {
		case "boom":
			return boom
		case "large":
			return errs.PayloadTooLarge
		}
		return nil
	}), "shelf", &s)
	sub, err := ps.Subscribe(t.Context(), driver.SubscribeRequest{Filter: ">"})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	results := tell(t.Context(), ps, "a", "boom", "large")
	_, err = ps.Subscribe(t.Context(), driver.SubscribeRequest{Filter: "boom"})
	if got, want := strings.Join(s, "; "), "subscribe 1 0; publish 3 1; subscribe 1 1"; got != want {
		t.Errorf("told %q, want %q", got, want)
	}
	for _, err := range []error{results[1], err} {
		if !errors.Is(err, boom) || !strings.HasPrefix(err.Error(), "backend shelf: ") {
			t.Errorf("%v", err)
		}
	}
	events := make([]driver.Event, 2)
	if n, err := sub.Next(t.Context(), events); n != 1 || err != nil || string(events[0].Payload) != "of a" {
		t.Errorf("%d events, %+v, %v", n, events, err)
	}
}

// A backend that takes no messages opens the circuit for both methods; what
// subscriptions that stand bring is not held up.
func TestBreakerOfPubSub(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShaky(t, func(subject string) error {
			if subject == "away" {
				return errs.BackendUnavailable
			}
			return nil
		})
		ps := wrap.NewBreaker("b", nil).PubSub(s)
		sub, err := ps.Subscribe(t.Context(), driver.SubscribeRequest{Filter: ">"})
		if err != nil {
			t.Fatal(err)
		}
		defer sub.Close()
		for range 5 { // one failure makes the call one
			if err := tell(t.Context(), ps, "well", "away")[1]; !errors.Is(err, errs.BackendUnavailable) {
				t.Fatal(err)
			}
		}
		_, err = ps.Subscribe(t.Context(), driver.SubscribeRequest{Filter: "well"})
		for _, err := range append(tell(t.Context(), ps, "well", "away"), err) {
			if !errors.Is(err, errs.CircuitOpen) {
				t.Errorf("behind an open circuit: %v", err)
			}
		}
		if s.calls != 1+5 {
			t.Errorf("the backend was called %d times", s.calls)
		}
		if n, err := sub.Next(t.Context(), make([]driver.Event, 10)); n != 5 || err != nil {
			t.Errorf("a subscription brings %d events, %v", n, err)
		}
		time.Sleep(5*time.Second + time.Millisecond)
		if err := tell(t.Context(), ps, "well")[0]; err != nil {
			t.Errorf("a backend that is well again: %v", err)
		}
	})
}

func TestLimiterOfPubSub(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		l := wrap.NewLimiter(1)
		slow := l.PubSub(newShaky(t, func(string) error { <-hang; return nil }))
		other := l.PubSub(newShaky(t, func(string) error { return nil }))
		sub, err := other.Subscribe(t.Context(), driver.SubscribeRequest{Filter: "a"})
		if err != nil {
			t.Fatal(err)
		}
		defer sub.Close() // it stands, and takes no place
		done := make(chan error)
		go func() { done <- tell(t.Context(), slow, "a")[0] }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := tell(ctx, other, "a")[0]; !errors.Is(err, errs.Overloaded) {
			t.Errorf("publish without a place: %v", err)
		}
		if _, err := other.Subscribe(ctx, driver.SubscribeRequest{Filter: "a"}); !errors.Is(err, errs.Overloaded) {
			t.Errorf("subscribe without a place: %v", err)
		}
		close(hang)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := tell(t.Context(), other, "a")[0]; err != nil {
			t.Errorf("when there is a place again: %v", err)
		}
	})
}
