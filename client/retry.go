package client

import (
	"cmp"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/prismgw/prism/errs"
)

// A retrier decides what is repeated, and when.
type retrier struct {
	policy RetryPolicy
	failed budget // for calls that failed and are tried again
	broken budget // for operations that a stream broke with
}

// Each success earns a tenth of a repeat. A stream that breaks takes all its
// operations with it at once, hence the larger reserve.
func (r *retrier) init(p RetryPolicy) {
	r.policy = p
	r.failed.init(10)
	r.broken.init(1024)
}

func (r *retrier) succeeded() {
	r.failed.earn()
	r.broken.earn()
}

// again reports whether a call that failed should be tried again, and waits
// until then. repeatable says that the call may happen twice.
func (r *retrier) again(ctx context.Context, try int, repeatable bool, err error) bool {
	if try >= r.policy.Tries || !worthwhile(err, repeatable) {
		return false
	}
	wait := r.delay(try, errs.From(err).RetryAfter)
	if deadline, ok := ctx.Deadline(); wait > r.policy.MaxDelay+r.policy.MaxDelay/4 || ok && time.Until(deadline) <= wait {
		return false
	}
	return r.failed.spend() && sleep(ctx, wait)
}

// worthwhile reports whether repeating a call can help and does no harm.
func worthwhile(err error, repeatable bool) bool {
	switch errs.ReasonOf(err) { //nolint:exhaustive // no other reason passes by itself
	case errs.BackendUnavailable, errs.CircuitOpen, errs.Draining, errs.RateLimited, errs.Overloaded:
		return true // nothing was done
	case errs.OutcomeUnknown:
		return repeatable
	}
	return false
}

// delay is what the server advises or the policy's own, doubled with each try
// and up to a quarter longer (google.rpc.RetryInfo: wait for the delay, then
// back off from it). It is never shorter than the advice.
func (r *retrier) delay(try int, advice time.Duration) time.Duration {
	const doublings = 20 // more would overflow
	first := cmp.Or(advice, r.policy.BaseDelay)
	wait := max(advice, min(first<<min(try-1, doublings), r.policy.MaxDelay))
	return wait + rand.N(wait/4+1)
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// A budget bounds repeats to a share of what is done. It is safe for
// concurrent use and, while it is full, not written.
type budget struct {
	tenths atomic.Int64
	full   int64
}

func (b *budget) init(repeats int64) {
	b.full = repeats * 10
	b.tenths.Store(b.full)
}

// earn adds a tenth of a repeat.
func (b *budget) earn() {
	if b.tenths.Load() < b.full {
		b.tenths.Add(1)
	}
}

// spend takes one repeat, if there is one.
func (b *budget) spend() bool {
	for {
		have := b.tenths.Load()
		if have < 10 {
			return false
		}
		if b.tenths.CompareAndSwap(have, have-10) {
			return true
		}
	}
}

// unreached is the error of calls that were not sent, because of err.
func (c *Client) unreached(err error) error {
	var own *errs.Error
	switch {
	case errors.As(err, &own):
		return own
	case answered(err):
		return errs.FromStatus(err)
	case c.closed.Load():
		return errClosed
	}
	return errs.Wrap(cause(err), errs.BackendUnavailable, "the proxy at %s cannot be reached", c.target)
}

// lost is the error of a call that was sent and not answered, because of err.
func lost(write bool, err error) error {
	if write {
		return errs.Wrap(cause(err), errs.OutcomeUnknown, "the write was sent and not answered; read before you repeat it, or use an idempotency key")
	}
	return errs.Wrap(cause(err), errs.BackendUnavailable, "the connection broke before the answer came")
}

// cause is what err says.
func cause(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return errors.New("the server ended the stream")
	}
	if st, ok := status.FromError(err); ok {
		return errors.New(unwrapped(st.Message()))
	}
	return err
}

// unwrapped takes off what gRPC puts around the reason of a broken connection.
func unwrapped(text string) string {
	if inner, ok := strings.CutPrefix(text, `connection error: desc = "`); ok {
		text = strings.TrimPrefix(strings.TrimSuffix(inner, `"`), "transport: Error while dialing: ")
	}
	return text
}

// answered reports whether a gRPC error is the answer of a server that knows
// Prism's reasons, and not one of the transport.
func answered(err error) bool {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == errs.Domain {
			return true
		}
	}
	return false
}

// unanswered is the error of a unary call that failed with err. sent says that
// it may have reached a server.
func (c *Client) unanswered(ctx context.Context, err error, write, sent bool) error {
	switch {
	case ctx.Err() != nil:
		return errs.From(ctx.Err())
	case answered(err):
		return errs.FromStatus(err)
	}
	switch status.Code(err) { //nolint:exhaustive // the others say what they are
	case codes.Unavailable, codes.Canceled, codes.Internal, codes.Unknown, codes.Aborted:
		if sent || c.closed.Load() && write {
			return lost(write, err)
		}
		return c.unreached(err)
	}
	return errs.FromStatus(err)
}
