package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/prismgw/prism/api/codec"
	accessv1 "github.com/prismgw/prism/api/prism/access/v1"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
)

// Limits of the transport.
const (
	maxMessage  = 6 << 20
	maxMetadata = 16 << 10
	maxStreams  = 10_000 // of one connection
)

// newGRPC returns the data plane's gRPC server with every kind registered,
// health and reflection beside them.
func (p *Proxy) newGRPC() (*grpc.Server, *health.Server) {
	s := grpc.NewServer(
		grpc.ForceServerCodecV2(codec.V2{}),
		grpc.InTapHandle(keepHeaders),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.MaxHeaderListSize(maxMetadata),
		grpc.MaxConcurrentStreams(maxStreams),
		// Enough that calls seldom need a goroutine, whose stack would have to grow.
		grpc.NumStreamWorkers(uint32(32*runtime.GOMAXPROCS(0))),
		grpc.WaitForHandlers(true),
		// Connections move from time to time, so that load follows new proxies.
		// What lasts on one of them keeps it.
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: p.opts.ConnectionAge}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.UnknownServiceHandler(p.unknownMethod),
	)
	for i := range p.kinds.all {
		s.RegisterService(p.wrap(i), nil)
	}
	h := health.NewServer()
	healthv1.RegisterHealthServer(s, h)
	reflection.Register(s)
	return s, h
}

// wrap puts serve around every method and stream of a kind's service. It is
// not an interceptor: one of those runs after the request was decoded.
func (p *Proxy) wrap(kind int) *grpc.ServiceDesc {
	k := &p.kinds.all[kind]
	desc := *k.Service
	desc.HandlerType = nil // the server differs from call to call
	desc.Methods = make([]grpc.MethodDesc, len(k.Service.Methods))
	for i, m := range k.Service.Methods {
		desc.Methods[i] = grpc.MethodDesc{MethodName: m.MethodName, Handler: p.unary(p.kinds.methods[kind][m.MethodName], m.Handler)}
	}
	desc.Streams = make([]grpc.StreamDesc, len(k.Service.Streams))
	for i, st := range k.Service.Streams {
		m := p.kinds.methods[kind][st.StreamName]
		if m.class == accessv1.Class_CLASS_PER_OPERATION {
			st.Handler = p.operations(m, k.Streams[st.StreamName])
		} else {
			st.Handler = p.stream(m, st.Handler)
		}
		desc.Streams[i] = st
	}
	return &desc
}

// unary serves one method.
func (p *Proxy) unary(m *method, next grpc.MethodHandler) grpc.MethodHandler {
	return func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (answer any, err error) {
		c := &call{Context: ctx, method: m, transport: overGRPC}
		p.readMetadata(ctx, c)
		err = p.serve(c, func(ctx context.Context, instance pattern.Instance) (err error) {
			answer, err = next(instance, ctx, func(into any) error {
				if err := c.message.receive(into, decode); err != nil {
					return err
				}
				return p.admit(c)
			}, nil)
			return err
		})
		if c.timed {
			_ = grpc.SetTrailer(ctx, metadata.Pairs("server-timing", c.timing(time.Now()))) // fails only outside a handler
		}
		if err != nil {
			return nil, p.status(c, err)
		}
		return answer, nil
	}
}

// stream serves one streaming method that is one call. Returning is what frees
// a send that hangs, and with it the call.
func (p *Proxy) stream(m *method, next grpc.StreamHandler) grpc.StreamHandler {
	return func(_ any, ss grpc.ServerStream) error {
		c := &call{Context: ss.Context(), method: m, transport: overGRPC}
		p.readMetadata(ss.Context(), c)
		p.metrics.open(m, 1)
		defer p.metrics.open(m, -1)
		c.selectors.id() // made now: a slow stream's error is written beside the call
		var slow chan struct{}
		if m.lasting {
			c.overdue = make(chan struct{})
		} else {
			slow = make(chan struct{})
		}
		done := make(chan error, 1)
		go func() {
			var err error
			defer func() { done <- err }()
			defer recovered(&err)
			err = p.serve(c, func(ctx context.Context, instance pattern.Instance) error {
				return next(instance, &servedStream{ServerStream: ss, ctx: ctx, slow: slow, received: func() error { return p.admit(c) }})
			})
		}()
		select {
		case err := <-done:
			return p.status(c, err)
		case <-slow:
			return p.status(c, errs.New(errs.SlowReader, "no message was read for %s; read messages as they come", slowAfter))
		case <-c.overdue:
			return p.status(c, errUnread)
		}
	}
}

// slowAfter is how long a client may leave a message of a stream unread.
const slowAfter = 10 * time.Second

// servedStream is a stream whose context is the call's.
type servedStream struct {
	grpc.ServerStream
	ctx      context.Context //nolint:containedctx // it is the stream's
	received func() error    // is called after the first message
	slow     chan struct{}   // closed when the client does not read
	message  message
}

// Context implements grpc.ServerStream.
func (s *servedStream) Context() context.Context { return s.ctx }

// SendMsg implements grpc.ServerStream. A stream has one sender, so that slow
// is closed once.
func (s *servedStream) SendMsg(m any) error {
	if s.slow == nil { // a stream of operations, which looks after that itself, or one that may be left unread
		return s.ServerStream.SendMsg(m)
	}
	t := time.AfterFunc(slowAfter, func() { close(s.slow) })
	defer t.Stop()
	return s.ServerStream.SendMsg(m)
}

// RecvMsg implements grpc.ServerStream.
func (s *servedStream) RecvMsg(m any) error {
	if err := s.message.receive(m, s.ServerStream.RecvMsg); err != nil {
		return err
	}
	received := s.received
	if received == nil {
		return nil
	}
	s.received = nil
	return received()
}

// message is a message that is received whatever its bytes are. gRPC answers
// INTERNAL by itself if its codec fails, but what cannot be decoded is the
// client's mistake.
type message struct {
	decoded
	wrong string // why it cannot be taken; empty: it can
}

// decoded is what every message of a wire contract is.
type decoded interface {
	Reset()
	UnmarshalVT(b []byte) error
}

// maxFields is what a message holds at most, each of its parts counted by
// itself. The empty ones take two bytes, and a hundred times as much once they
// are decoded.
const maxFields = 16 << 10

// UnmarshalVT is called by the codec.
func (m *message) UnmarshalVT(b []byte) error {
	switch {
	case crowded(b):
		m.wrong = fmt.Sprintf("has more than %d parts; send fewer at once", maxFields)
	case m.decoded.UnmarshalVT(b) != nil:
		m.wrong = "cannot be decoded as a message of this method"
	default:
		m.wrong = ""
	}
	return nil
}

// crowded reports whether a message has too many fields.
func crowded(b []byte) bool {
	if len(b) <= 2*maxFields {
		return false
	}
	n := 0
	for ; len(b) > 0 && n <= maxFields; n++ {
		_, _, length := protowire.ConsumeField(b)
		if length < 0 {
			return false // decoding it says so
		}
		b = b[length:]
	}
	return n > maxFields
}

// receive receives one message.
func (m *message) receive(into any, recv func(any) error) error {
	var ok bool
	if m.decoded, ok = into.(decoded); !ok {
		return recv(into)
	}
	err := recv(m)
	m.decoded = nil // a stream that waits for its next message holds none
	if err != nil || m.wrong == "" {
		return err
	}
	return errs.Invalid(errs.Field{Path: "request", Text: m.wrong})
}

// headers is the context of a request, with its metadata as the transport has
// read them. gRPC's own accessors copy what is there, and search for what is
// not, which costs as much as all else that is done with a small request.
type headers struct {
	context.Context //nolint:containedctx // headers is a context

	md metadata.MD
}

type headersKey struct{}

// Value implements context.Context.
func (h *headers) Value(key any) any {
	if key == (headersKey{}) {
		return h
	}
	return h.Context.Value(key)
}

// keepHeaders is called by the transport when it has read a request's headers.
func keepHeaders(ctx context.Context, info *tap.Info) (context.Context, error) {
	return &headers{Context: ctx, md: info.Header}, nil
}

// headersOf returns a request's metadata, under keys in lower case. They are
// the transport's own: not to be changed.
func headersOf(ctx context.Context) metadata.MD {
	h, _ := ctx.Value(headersKey{}).(*headers) // there is one below every handler
	return h.md
}

// readMetadata reads the selectors. Nothing of the metadata goes further.
func (p *Proxy) readMetadata(ctx context.Context, c *call) {
	s := &c.selectors
	md := headersOf(ctx)
	get := func(key string) (first string, there bool) {
		v := md[key]
		switch len(v) {
		case 0:
			return "", false
		case 1:
			return v[0], true
		}
		s.duplicate = key
		return v[0], true
	}
	s.namespace, _ = get("x-prism-namespace")
	s.pattern, _ = get("x-prism-pattern")
	s.requestID, _ = get("request-id")
	_, s.credential = get("authorization")
	c.timed = len(md["prism-timing"]) > 0
	if p.tracing != nil {
		s.trace.traceparent, _ = get("traceparent")
		s.trace.tracestate, _ = get("tracestate")
	}
	if c.method.write() {
		c.IdempotencyKey, _ = get("idempotency-key")
	}
}

// status is the one place where an outcome becomes what a gRPC client sees.
func (p *Proxy) status(c *call, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := err.(interface{ GRPCStatus() *status.Status }); ok { // a cause's status is not ours to send
		return err // the transport's own
	}
	e := errs.From(err)
	p.logCause(c, e)
	return e.Status(c.selectors.id()).Err()
}

// logCause logs what clients are not told.
func (p *Proxy) logCause(c *call, e *errs.Error) {
	if e.Reason != errs.Internal && e.Reason != errs.Unknown {
		return
	}
	p.log.LogAttrs(c.Context, slog.LevelError, "call failed", slog.String("request_id", c.selectors.id()),
		slog.String("namespace", c.selectors.namespace), slog.String("method", c.method.full), slog.Any("error", e))
}

// unknownMethod answers what is not in the wire contract.
func (p *Proxy) unknownMethod(_ any, ss grpc.ServerStream) error {
	name, _ := grpc.MethodFromServerStream(ss)
	id := selectors{}
	if v := headersOf(ss.Context())["request-id"]; len(v) == 1 {
		id.requestID = v[0]
	}
	return errs.New(errs.Unsupported, "this proxy has no method %q; list what it has by server reflection", name).Status(id.id()).Err()
}
