package client

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/prismgw/prism/errs"
)

// streamed is a place whose small calls go over streams.
type streamed struct {
	place

	path string              // of the method that the streams are
	last atomic.Pointer[mux] // that of the latest call
}

func (s *streamed) run(ctx context.Context, i *invocation) error {
	if s.invalid != nil {
		return s.invalid
	}
	return s.client.run(ctx, i, s)
}

// A trier makes one try of a call.
type trier interface {
	try(ctx context.Context, i *invocation) error
}

// run makes a call, again if that can help.
func (c *Client) run(ctx context.Context, i *invocation, by trier) error {
	if c.opts.timeout > 0 {
		if _, bounded := ctx.Deadline(); !bounded {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, c.opts.timeout)
			defer cancel()
		}
	}
	i.traceparent = c.traceparent(ctx)
	for {
		i.tries++
		err := ctx.Err()
		if err == nil {
			err = by.try(ctx, i)
		}
		if err == nil {
			c.retry.succeeded()
			return nil
		}
		if !c.retry.again(ctx, i.tries, i.repeatable(), err) {
			return errs.From(err)
		}
	}
}

func (s *streamed) try(ctx context.Context, i *invocation) error {
	key, err := s.key(ctx)
	if err != nil {
		return err
	}
	if s.client.opts.unary || i.operation == 0 || i.request.SizeVT()+overhead > maxOperation {
		return s.client.unary(ctx, key, i)
	}
	key.stream = s.path
	err = s.stream(ctx, key, i)
	if err == errUnary || tooLarge(err) { //nolint:errorlint // it is not wrapped
		return s.client.unary(ctx, key, i)
	}
	return err
}

// stream makes a call over the key's streams.
func (s *streamed) stream(ctx context.Context, key muxKey, i *invocation) error {
	m := s.last.Load()
	for {
		if m == nil || m.key != key {
			var err error
			if m, err = s.client.mux(key); err != nil {
				return err
			}
			s.last.Store(m)
		}
		err := m.do(ctx, i)
		if err != errOver { //nolint:errorlint // it is not wrapped
			return err
		}
		m = nil
	}
}

// tooLarge reports whether err says that the operation or its answer is too
// large for a stream, not for Prism.
func tooLarge(err error) bool {
	var e *errs.Error
	return errors.As(err, &e) && e.Reason == errs.PayloadTooLarge && e.Meta["limit_of"] == "pipeline"
}
