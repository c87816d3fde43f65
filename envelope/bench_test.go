package envelope_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"testing"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	"github.com/prismgw/prism/envelope"
)

// What the benchmarks work on has 1 KiB in all and what a proxy fills.
const benchSize = 1 << 10

func benchEnvelope(payload []byte) *envelopev1.PrismEnvelope {
	return envelope.New(
		"shop", "orders.placed", payload,
		envelope.WithContentType(envelopev1.ContentType_CONTENT_TYPE_JSON),
		envelope.WithPartitionKey(benchKey),
		envelope.WithProducerID("shop-7d9f"),
		envelope.WithPublisher("svc-shop", "checkout"),
		envelope.WithUser("ada", "acme"),
		envelope.WithRoles(benchRoles...),
	)
}

var (
	benchKey   = []byte("customer-17")
	benchRoles = []string{"clerk", "publisher"}
)

// benchWire is a signed envelope of benchSize bytes, and its payload.
func benchWire(b *testing.B) (wire, payload []byte) {
	b.Helper()
	overhead := len(signed(b, benchEnvelope(make([]byte, benchSize/2)))) - benchSize/2
	payload = bytes.Repeat([]byte{'x'}, benchSize-overhead)
	wire = signed(b, benchEnvelope(payload))
	if len(wire) != benchSize {
		b.Fatalf("made %d bytes", len(wire))
	}
	return wire, payload
}

// BenchmarkHMAC is the limit: HMAC-SHA256 of the same bytes, with a hash that is
// set up already.
func BenchmarkHMAC(b *testing.B) {
	wire, _ := benchWire(b)
	h := hmac.New(sha256.New, currentKey.Secret)
	var sum [sha256.Size]byte
	b.ReportAllocs()
	for b.Loop() {
		h.Reset()
		h.Write(wire)
		h.Sum(sum[:0])
	}
}

func BenchmarkBuildSignMarshal(b *testing.B) {
	_, payload := benchWire(b)
	keys := ring(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := keys.Sign(benchEnvelope(payload)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBuild(b *testing.B) {
	_, payload := benchWire(b)
	b.ReportAllocs()
	for b.Loop() {
		benchEnvelope(payload)
	}
}

func BenchmarkVerify(b *testing.B) {
	wire, _ := benchWire(b)
	keys := ring(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := keys.Verify(wire); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkScan(b *testing.B) {
	wire, _ := benchWire(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := envelope.Scan(wire); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	wire, _ := benchWire(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := new(envelopev1.PrismEnvelope).UnmarshalVT(wire); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkValidate(b *testing.B) {
	_, payload := benchWire(b)
	e := benchEnvelope(payload)
	b.ReportAllocs()
	for b.Loop() {
		if err := envelope.Validate(e); err != nil {
			b.Fatal(err)
		}
	}
}
