package client

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// The headers of contracts 1.1.
const (
	headerNamespace     = "x-prism-namespace"
	headerPattern       = "x-prism-pattern"
	headerAuthorization = "authorization"
	headerIdempotency   = "idempotency-key"
	headerTraceparent   = "traceparent"
)

// metadata returns the headers that a stream or a call has.
func (k muxKey) metadata() metadata.MD {
	md := metadata.MD{headerNamespace: {k.namespace}}
	if k.pattern != "" {
		md[headerPattern] = []string{k.pattern}
	}
	if k.credential != "" {
		md[headerAuthorization] = []string{k.credential}
	}
	return md
}

// headers returns the headers of a unary call.
func (k muxKey) headers(i *invocation) metadata.MD {
	md := k.metadata()
	if i.idempotency != "" {
		md[headerIdempotency] = []string{i.idempotency}
	}
	if i.traceparent != "" {
		md[headerTraceparent] = []string{i.traceparent}
	}
	return md
}

// unary makes a call that is its own stream.
func (c *Client) unary(ctx context.Context, key muxKey, i *invocation) error {
	if c.closed.Load() {
		return errClosed
	}
	var p peer.Peer // is known once the call may have been sent
	err := c.conn.Invoke(metadata.NewOutgoingContext(ctx, key.headers(i)), i.path, i.request, i.response, grpc.Peer(&p))
	if err != nil {
		return c.unanswered(ctx, err, i.write, p.Addr != nil)
	}
	return nil
}
