package wrap

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// When a breaker opens, and for how long.
const (
	breakInRow  = 5                // failures in a row
	breakSample = 20               // or half of so many calls
	breakWindow = 10 * time.Second // within this
	breakRest   = 5 * time.Second  // then one call tries again

	breakProbe = 100 * time.Millisecond // the advice to the others while it does

	// breakSlow is how long a call that met its deadline must have taken to
	// count: a caller's impatience says nothing about the backend.
	breakSlow = time.Second
)

// A Breaker gives a backend that fails a rest: calls are answered
// errs.CircuitOpen at once until one of them, let through after a while,
// succeeds. All spaces of a backend share one.
type Breaker struct {
	cb   *gobreaker.TwoStepCircuitBreaker[any]
	rest atomic.Pointer[time.Time] // when the rest ends; set before a call is refused
}

// NewBreaker returns a closed breaker. changed, if it is not nil, is told when
// it opens and closes.
func NewBreaker(backend string, changed func(open bool)) *Breaker {
	b := new(Breaker)
	b.cb = gobreaker.NewTwoStepCircuitBreaker[any](gobreaker.Settings{
		Name: backend, MaxRequests: 1, Interval: breakWindow, Timeout: breakRest,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			return c.ConsecutiveFailures >= breakInRow || c.Requests >= breakSample && c.TotalFailures*2 >= c.Requests
		},
		OnStateChange: func(_ string, _, to gobreaker.State) {
			if to == gobreaker.StateOpen {
				end := time.Now().Add(breakRest)
				b.rest.Store(&end)
			}
			if changed != nil && to != gobreaker.StateHalfOpen {
				changed(to == gobreaker.StateOpen)
			}
		},
	})
	return b
}

// KV returns kv behind the breaker.
func (b *Breaker) KV(kv driver.KV) driver.KV { return &guarded{kv, b.guard()} }

// PubSub returns ps behind the breaker. What subscriptions bring passes freely.
func (b *Breaker) PubSub(ps driver.PubSub) driver.PubSub { return &guardedPubSub{ps, b.guard()} }

// Log returns l behind the breaker. What members are told and commit passes
// freely.
func (b *Breaker) Log(l driver.Log) driver.Log { return &guardedLog{l, b.guard()} }

// Queue returns q behind the breaker. A Receive that waits passes freely; ask for
// what is there first.
func (b *Breaker) Queue(q driver.Queue) driver.Queue { return &guardedQueue{q, b.guard()} }

func (b *Breaker) guard() guard { return guard{enter: b.enter, severe: unwell} }

// enter lets a call through, or says why not.
func (b *Breaker) enter(context.Context) (func(error), error) {
	done, err := b.cb.Allow()
	if err != nil {
		return nil, errs.Wrap(err, errs.CircuitOpen, "the backend failed repeatedly and is given a rest of %s", breakRest).WithRetry(b.closed(err))
	}
	began := time.Now()
	return func(err error) {
		if !unwell(err) || errs.ReasonOf(err) == errs.Deadline && time.Since(began) < breakSlow {
			err = nil
		}
		done(err)
	}, nil
}

// closed returns how long no call is let through: until the rest ends, or a
// while that a probe may take.
func (b *Breaker) closed(refusal error) time.Duration {
	if end := b.rest.Load(); end != nil && errors.Is(refusal, gobreaker.ErrOpenState) {
		return max(time.Until(*end), 0) + time.Millisecond // the breaker's clock may be a little late
	}
	return breakProbe
}

// unwell reports whether an error may mean that the backend is ill.
func unwell(err error) bool {
	if err == nil {
		return false
	}
	switch errs.ReasonOf(err) { //nolint:exhaustive // the others come from a backend that works
	case errs.BackendUnavailable, errs.CredentialsUnavailable, errs.OutcomeUnknown, errs.Deadline:
		return true
	}
	return false
}
