package client

import (
	"context"
	"crypto/tls"
	"net"
	"runtime"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/prismgw/prism/api/codec"
	"github.com/prismgw/prism/errs"
)

// An Option changes how a Client works.
type Option func(*options)

type options struct {
	namespace, pattern string
	userAgent          string
	transport          credentials.TransportCredentials // nil: by the address
	credentials        func(context.Context) (string, error)
	traceparent        func(context.Context) string
	unary              bool
	timeout            time.Duration
	payload            *payloadKeys // nil: payloads are not encrypted
	retry              RetryPolicy
	dial               []grpc.DialOption

	streams int           // at most, per mux
	idle    time.Duration // after which a stream is closed
	hello   time.Duration // how long a stream may take to open
}

func defaults() options {
	return options{
		userAgent: "prism-go",
		retry:     RetryPolicy{Tries: 3, BaseDelay: 50 * time.Millisecond, MaxDelay: 5 * time.Second},
		streams:   min(4, runtime.GOMAXPROCS(0)),
		idle:      time.Minute,
		hello:     10 * time.Second,
	}
}

// WithNamespace sets the namespace of handles that name none.
func WithNamespace(namespace string) Option { return func(o *options) { o.namespace = namespace } }

// WithPattern sets the pattern of handles that name none. Only a namespace
// with several patterns of a kind needs it.
func WithPattern(pattern string) Option { return func(o *options) { o.pattern = pattern } }

// WithTLS reaches every address over TLS, loopback ones included. A nil config
// means the system's authorities. The client keeps a copy.
func WithTLS(config *tls.Config) Option {
	return func(o *options) {
		if config == nil {
			config = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		o.transport = credentials.NewTLS(config)
	}
}

// WithInsecure reaches every address in plain text. It is for networks that
// encrypt by themselves; credentials are readable on any other.
func WithInsecure() Option { return func(o *options) { o.transport = insecure.NewCredentials() } }

// WithCredentials calls hook for each call and sends what it returns, such as
// "Bearer ...", as the authorization header; the empty string sends none. It
// is called concurrently and should keep its token: calls of different
// credentials share no stream.
func WithCredentials(hook func(ctx context.Context) (header string, err error)) Option {
	return func(o *options) { o.credentials = hook }
}

// WithTraceparent calls hook for each call and sends the W3C traceparent that
// it returns, if any.
func WithTraceparent(hook func(ctx context.Context) string) Option {
	return func(o *options) { o.traceparent = hook }
}

// WithUnary makes every call a gRPC call of its own, on one connection. It is
// for callers with very many credentials, and for proxies in between that do
// not pass streams.
func WithUnary() Option { return func(o *options) { o.unary = true } }

// WithTimeout bounds each call whose context has no deadline, all its tries
// included; a Scan is not bounded. Without it such a call has the deadline of
// its namespace.
func WithTimeout(d time.Duration) Option { return func(o *options) { o.timeout = d } }

// A RetryPolicy says how often and how soon a failed call is repeated. Only
// calls are repeated of which nothing can have happened, or which may safely
// happen twice; and over all calls, at most one repeat for ten calls.
type RetryPolicy struct {
	Tries     int           // of one call, the first one included; 1 repeats nothing
	BaseDelay time.Duration // before the second try if the server advises none; doubled, as its advice is, for each more
	MaxDelay  time.Duration // a call that is advised to wait longer fails at once
}

// WithRetry replaces the policy of 3 tries, from 50 ms to 5 s apart.
func WithRetry(p RetryPolicy) Option { return func(o *options) { o.retry = p } }

// WithUserAgent sets the user agent, to which gRPC adds its own.
func WithUserAgent(name string) Option { return func(o *options) { o.userAgent = name } }

// WithDialOptions adds options for the connections themselves, such as a
// dialer or a resolver. Interceptors see streams, not calls.
func WithDialOptions(opts ...grpc.DialOption) Option {
	return func(o *options) { o.dial = append(o.dial, opts...) }
}

// check reports every option that makes no sense.
func (o *options) check() error {
	var wrong []errs.Field
	if o.timeout < 0 {
		wrong = append(wrong, errs.Field{Path: "WithTimeout", Text: "a timeout is positive"})
	}
	if o.retry.Tries < 1 {
		wrong = append(wrong, errs.Field{Path: "WithRetry.Tries", Text: "there is at least one try"})
	}
	if o.retry.BaseDelay < 0 || o.retry.MaxDelay < o.retry.BaseDelay {
		wrong = append(wrong, errs.Field{Path: "WithRetry", Text: "delays are not negative, and MaxDelay is at least BaseDelay"})
	}
	if len(wrong) > 0 {
		return errs.Invalid(wrong...)
	}
	return nil
}

const (
	maxMessage   = 6 << 20 // what a proxy sends at most
	streamWindow = 1 << 20 // fixed windows spare the pings that measure them
	connWindow   = 4 << 20 //
	keepaliveGap = 20 * time.Second
)

func (o *options) dialOptions(target string) []grpc.DialOption {
	transport := o.transport
	switch {
	case transport != nil:
	case loopback(target):
		transport = insecure.NewCredentials()
	default:
		transport = credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12})
	}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec.V2{}), grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithUserAgent(o.userAgent),
		grpc.WithDisableRetry(), // this package knows better what may be repeated
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveGap, Timeout: keepaliveGap / 2}),
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connWindow),
	}
	return append(opts, o.dial...)
}

// loopback reports whether target cannot leave this machine.
func loopback(target string) bool {
	if strings.HasPrefix(target, "unix:") || strings.HasPrefix(target, "unix-abstract:") {
		return true
	}
	if at := strings.LastIndex(target, "/"); at >= 0 { // scheme://authority/endpoint
		target = target[at+1:]
	}
	target = strings.TrimPrefix(strings.TrimPrefix(target, "dns:"), "passthrough:")
	host, _, err := net.SplitHostPort(target)
	if err != nil {
		host = target
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return ip != nil && ip.IsLoopback()
}
