package proxy

import (
	"net/http/httptest"
	"strings"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/memory"
	"github.com/prismgw/prism/namespace"
	"github.com/prismgw/prism/pattern"
	"github.com/prismgw/prism/pattern/keyvalue"
)

// An operation is a span of its client's trace, and the call to the backend one
// below it; a trace that the client does not record is not recorded here.
func TestTracing(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewSpanRecorder()
	p, err := New(Options{
		Drivers: []driver.Driver{memory.Driver()}, Kinds: []pattern.Kind{keyvalue.Kind()}, Loopback: true,
		Tracer: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans), sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.NeverSample()))),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.closeBackends)
	err = p.Load(namespace.File{Name: "t", Data: []byte(`
{kind: Backend, name: memory, driver: memory, url: "memory:"}
---
{kind: Namespace, name: open, stores: [data], needs: {durability: none}, auth: {anonymous: read_write}}
`)})
	if err != nil {
		t.Fatal(err)
	}
	h := newHTTPServer(p)
	get := func(sampled string) {
		r := httptest.NewRequestWithContext(t.Context(), "GET", "http://127.0.0.1/v1/namespaces/open/keyvalue/a", nil)
		r.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"+sampled)
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
	get("00")
	if n := len(spans.Ended()); n != 0 {
		t.Errorf("%d spans of a trace that is not recorded", n)
	}
	get("01")
	got := map[string]sdktrace.ReadOnlySpan{}
	for _, s := range spans.Ended() {
		got[s.Name()] = s
	}
	call, backend := got["prism.keyvalue.v1.KeyValue/Retrieve"], got["memory get"]
	if call == nil || backend == nil {
		t.Fatalf("spans %v", got)
	}
	if id := call.Parent().SpanID().String(); id != "b7ad6b7169203331" {
		t.Errorf("the operation's parent is %s", id)
	}
	if backend.Parent().SpanID() != call.SpanContext().SpanID() {
		t.Errorf("the backend's call is not below the operation")
	}
	var reason string
	for _, a := range call.Attributes() {
		if a.Key == "prism.reason" {
			reason = a.Value.AsString()
		}
		if strings.Contains(a.Value.AsString(), "/a") {
			t.Errorf("the key is in the span: %v", a)
		}
	}
	if reason != "KEY_NOT_FOUND" {
		t.Errorf("reason %q", reason)
	}
}
