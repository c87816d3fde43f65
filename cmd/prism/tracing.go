package main

import (
	"context"
	"fmt"
	"net/url"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"

	"github.com/prismgw/prism/internal/version"
)

// newTracer returns what sends traces to an OpenTelemetry collector. Traces
// that a client began are kept as the client says; of the others a share.
func newTracer(ctx context.Context, endpoint string, ratio float64) (*sdktrace.TracerProvider, error) {
	if u, err := url.Parse(endpoint); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("--otlp-endpoint is a url such as http://127.0.0.1:4317, not %q", endpoint)
	}
	if ratio < 0 || ratio > 1 {
		return nil, fmt.Errorf("--trace-ratio is from 0 to 1, not %v", ratio)
	}
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpointURL(endpoint))
	if err != nil {
		return nil, fmt.Errorf("--otlp-endpoint: %w", err)
	}
	return sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(ratio))),
		sdktrace.WithResource(resource.NewSchemaless(semconv.ServiceName("prism"), semconv.ServiceVersion(version.Text()))),
	), nil
}
