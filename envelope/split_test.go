package envelope_test

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	"github.com/prismgw/prism/envelope"
)

// FuzzSplit takes envelopes apart and puts them together again: they say the
// same, and a signature that held still holds.
func FuzzSplit(f *testing.F) {
	keys := ring(f)
	seeds(f, func(wire []byte) { f.Add(wire) })
	f.Add([]byte("\x9a\x06\x01p\x0a\x03\x0a\x01i")) // the payload first
	f.Fuzz(func(t *testing.T, wire []byte) {
		was, scanErr := envelope.Scan(wire)
		head, payload, err := envelope.Split(wire)
		if (err == nil) != (scanErr == nil) {
			t.Fatalf("split: %v; scan: %v", err, scanErr)
		}
		if err != nil {
			return
		}
		if !bytes.Equal(payload, was.Payload) {
			t.Fatalf("payload %q, want %q", payload, was.Payload)
		}
		if h, err := envelope.Scan(head); err != nil || len(h.Payload) > 0 {
			t.Fatalf("head has the payload %q: %v", h.Payload, err)
		}
		again := envelope.Join([]byte("before"), head, payload)[len("before"):]
		a, b := new(envelopev1.PrismEnvelope), new(envelopev1.PrismEnvelope)
		if proto.Unmarshal(wire, a) != nil || proto.Unmarshal(again, b) != nil || !proto.Equal(known(t, a), known(t, b)) {
			t.Fatalf("put together again it says something else:\n%v\n%v", a, b)
		}
		_, before := keys.Verify(wire)
		_, after := keys.Verify(again)
		if (before == nil) != (after == nil) {
			t.Fatalf("verified before: %v; after: %v", before, after)
		}
	})
}

func TestJoinWithTwoPayloads(t *testing.T) {
	t.Parallel()
	wire := signed(t, full())
	if _, err := envelope.Scan(envelope.Join(nil, wire, []byte("another"))); err == nil {
		t.Error("an envelope with two payloads is read")
	}
}

func TestSplitCopiesNothing(t *testing.T) {
	wire := signed(t, full())
	if n := testing.AllocsPerRun(100, func() {
		if _, _, err := envelope.Split(wire); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
