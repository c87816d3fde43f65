package producer_test

import (
	"bytes"
	"fmt"
	"testing"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	producerv1 "github.com/prismgw/prism/api/prism/producer/v1"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/memory"
	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/pattern"
	"github.com/prismgw/prism/pattern/producer"
	"github.com/prismgw/prism/pattern/trust"
)

// BenchmarkPublish is what a publish costs behind the transport, on the memory
// driver; BenchmarkPass is what a delivery costs more where messages are
// verified.
func BenchmarkPublish(b *testing.B) {
	ring := ringOf(b)
	for _, size := range []int{256, 64 << 10} {
		for name, keys := range map[string]pattern.Keys{"plain": nil, "signed": ring} {
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				p := open(b, keys)
				payload := bytes.Repeat([]byte("x"), size)
				b.ReportAllocs()
				for b.Loop() {
					e := &envelopev1.PrismEnvelope{Payload: payload}
					if _, err := p.Publish(b.Context(), &producerv1.PublishRequest{Topic: "orders", Envelope: e}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkPass(b *testing.B) {
	ring := ringOf(b)
	for _, size := range []int{256, 64 << 10} {
		wire, err := ring.Sign(envelope.New("shop", "orders", bytes.Repeat([]byte("x"), size)))
		if err != nil {
			b.Fatal(err)
		}
		for name, gate := range map[string]*trust.Gate{"plain": {Namespace: "shop"}, "signed": {Namespace: "shop", Keys: ring}} {
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					h, err := envelope.Scan(wire)
					if err == nil {
						_, err = gate.Pass(wire, &h, "orders", false)
					}
					if err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func ringOf(b *testing.B) *envelope.Ring {
	b.Helper()
	ring, err := envelope.NewRing(envelope.SigningKey{ID: "2026-11", Secret: bytes.Repeat([]byte("k"), 32)})
	if err != nil {
		b.Fatal(err)
	}
	return ring
}

// open returns a producer on a topic that keeps little.
func open(b *testing.B, keys pattern.Keys) producerv1.ProducerServer {
	b.Helper()
	conn, err := memory.Driver().Open(driver.Config{URL: "memory:"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	space, err := conn.Space(driver.Space{Namespace: "shop", Pattern: "producer"})
	if err != nil {
		b.Fatal(err)
	}
	instance, err := producer.Kind().Open(pattern.Config{
		Namespace: "shop", Name: "producer", Keys: keys,
		Settings: []byte(`{"topics": [{"name": "orders", "partitions": 1, "retention": {"bytes": 16777216}}]}`),
		Slots:    map[string]pattern.Filled{"messages-log": {Backend: space, ID: "one"}},
	})
	if err != nil {
		b.Fatal(err)
	}
	p, ok := instance.(producerv1.ProducerServer)
	if !ok {
		b.Fatal("no producer")
	}
	return p
}
