package proxy

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/prismgw/prism/errs"
)

// scope is the name under which Prism's spans are made.
const scope = "github.com/prismgw/prism/proxy"

// tracing makes a span for each operation, below the one that the client names
// in traceparent. A nil tracing makes none and costs nothing.
type tracing struct {
	tracer trace.Tracer
	remote propagation.TraceContext
}

func newTracing(p trace.TracerProvider) *tracing {
	if p == nil {
		return nil
	}
	return &tracing{tracer: p.Tracer(scope)}
}

// parent is what a client says of its trace, as W3C has it.
type parent struct{ traceparent, tracestate string }

// Get implements propagation.TextMapCarrier.
func (p *parent) Get(key string) string {
	switch key {
	case "traceparent":
		return p.traceparent
	case "tracestate":
		return p.tracestate
	}
	return ""
}

// Set implements propagation.TextMapCarrier; nothing is sent on.
func (*parent) Set(string, string) {}

// Keys implements propagation.TextMapCarrier.
func (*parent) Keys() []string { return []string{"traceparent", "tracestate"} }

// start begins the span of one operation.
func (t *tracing) start(ctx context.Context, from *parent, m *method, s *selectors, at time.Time) (context.Context, trace.Span) {
	if from.traceparent != "" {
		ctx = t.remote.Extract(ctx, from)
	}
	return t.tracer.Start(ctx, m.full, //nolint:spancheck // serve and the door end it
		trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(at), trace.WithAttributes(
			attribute.String("rpc.system", "grpc"), attribute.String("prism.namespace", s.namespace),
		))
}

// end ends a span with the operation's outcome.
func end(span trace.Span, err error) {
	if err != nil {
		reason := errs.ReasonOf(err)
		span.SetAttributes(attribute.String("prism.reason", reason.String()))
		if reason.Code() == errs.Internal.Code() || reason.HTTPStatus() >= errs.BackendUnavailable.HTTPStatus() {
			span.SetStatus(codes.Error, reason.String())
		}
	}
	span.End()
}

// traceBackend adds the span of a call to a backend, which has just ended.
func traceBackend(ctx context.Context, backend, operation string, began time.Time, failures []error) {
	above := trace.SpanFromContext(ctx)
	if !above.IsRecording() {
		return
	}
	_, span := above.TracerProvider().Tracer(scope).Start(ctx, backend+" "+operation, trace.WithSpanKind(trace.SpanKindClient),
		trace.WithTimestamp(began), trace.WithAttributes(attribute.String("prism.backend", backend)))
	var first error
	if len(failures) > 0 {
		first = failures[0]
	}
	end(span, first)
}
