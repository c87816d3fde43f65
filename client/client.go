// Package client is the Go SDK of Prism.
//
//	c, err := client.Dial("127.0.0.1:8980")
//	...
//	carts := client.Store[Cart](c, "shop/carts")
//	err = carts.Update(ctx, "alice", func(cart *Cart) error { ... })
//
// Ordinary calls that run at the same time share a few streams by themselves:
// there is nothing to batch by hand. A call's answer, its errors and its
// deadline are its own all the same.
//
// Every error is an *errs.Error; ask errors.Is(err, errs.KeyNotFound).
package client

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/errs"
)

// A Client reaches one address. It is safe for concurrent use, and one for the
// whole program is enough.
type Client struct {
	target string
	opts   options
	conn   *grpc.ClientConn // for what does not go over a stream
	retry  retrier

	streaming sync.WaitGroup // the goroutines of all streams

	mu     sync.Mutex // guards the rest
	muxes  map[muxKey]*mux
	closed atomic.Bool // written under mu
}

// Dial returns a Client for addr, such as "proxy.internal:8980" or
// "unix:///run/prism.sock". It does not connect: the first call does, and
// connections that break are opened again. Loopback addresses and Unix sockets
// are reached in plain text, all others over TLS, unless an option says
// otherwise.
func Dial(addr string, opts ...Option) (*Client, error) {
	c := &Client{target: addr, opts: defaults(), muxes: make(map[muxKey]*mux)}
	for _, o := range opts {
		o(&c.opts)
	}
	if err := c.opts.check(); err != nil {
		return nil, err
	}
	c.retry.init(c.opts.retry)
	conn, err := c.connect()
	if err != nil {
		return nil, errs.Wrap(err, errs.InvalidField, "address %q cannot be used", addr)
	}
	c.conn = conn
	return c, nil
}

// connect returns a connection that is opened when it is first used.
func (c *Client) connect() (*grpc.ClientConn, error) {
	return grpc.NewClient(c.target, c.opts.dialOptions(c.target)...)
}

// Close ends every call that is under way and closes all connections. A write
// that was sent and not answered fails with errs.OutcomeUnknown.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed.Store(true)
	muxes := c.muxes
	c.muxes = nil
	c.mu.Unlock()
	for _, m := range muxes {
		m.close()
	}
	err := c.conn.Close()
	c.streaming.Wait()
	return err
}

var errClosed = errs.New(errs.Cancelled, "the client is closed")

// KeyValue returns the keys and values at path, which is a namespace or, where
// a namespace has several patterns, "namespace/pattern". What path leaves out
// is taken from WithNamespace and WithPattern. A path that is wrong fails each
// call.
func (c *Client) KeyValue(path string) *KeyValue {
	return &KeyValue{streamed{place: c.place(path), path: keyvaluev1.KeyValue_Pipeline_FullMethodName}}
}

// PubSub returns the messages at path, which is as for KeyValue.
func (c *Client) PubSub(path string) *PubSub { return &PubSub{c.place(path)} }

// A place is a pattern of a namespace.
type place struct {
	client             *Client
	namespace, pattern string
	invalid            error // why no call can be made
}

func (c *Client) place(path string) place {
	namespace, pattern, _ := strings.Cut(path, "/")
	if namespace == "" {
		namespace = c.opts.namespace
	}
	if pattern == "" {
		pattern = c.opts.pattern
	}
	p := place{client: c, namespace: namespace, pattern: pattern}
	switch {
	case namespace == "":
		p.invalid = errs.Invalid(errs.Field{Path: "namespace", Text: "none is named; give it in the path or to Dial by WithNamespace"})
	case !plain(namespace) || !plain(pattern):
		p.invalid = errs.Invalid(errs.Field{Path: "namespace", Text: "a path is a namespace, or a namespace and a pattern with one slash between"})
	}
	return p
}

// key returns what a stream or a call to the place has in its headers.
func (p *place) key(ctx context.Context) (muxKey, error) {
	credential, err := p.client.authorize(ctx)
	return muxKey{namespace: p.namespace, pattern: p.pattern, credential: credential}, err
}

// plain reports whether name can stand in a header and is one segment.
func plain(name string) bool {
	return !strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == '/' || r >= 0x7f })
}

// mux returns the streams for one namespace, pattern and credential.
func (c *Client) mux(key muxKey) (*mux, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed.Load() {
		return nil, errClosed
	}
	m := c.muxes[key]
	if m == nil {
		m = newMux(c, key)
		c.muxes[key] = m
	}
	return m, nil
}

// forget removes m, which takes no more calls.
func (c *Client) forget(m *mux) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.muxes[m.key] == m {
		delete(c.muxes, m.key)
	}
}

// authorize returns the value of the authorization header, empty for none.
func (c *Client) authorize(ctx context.Context) (string, error) {
	if c.opts.credentials == nil {
		return "", nil
	}
	header, err := c.opts.credentials(ctx)
	switch {
	case err == nil:
		return header, nil
	case ctx.Err() != nil:
		return "", errs.From(ctx.Err())
	}
	return "", errs.Wrap(err, errs.Unauthenticated, "the credentials hook failed")
}

// traceparent returns the trace context to send along, empty for none.
func (c *Client) traceparent(ctx context.Context) string {
	if c.opts.traceparent == nil {
		return ""
	}
	return c.opts.traceparent(ctx)
}
