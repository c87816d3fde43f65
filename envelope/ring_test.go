package envelope_test

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/errs"
)

func TestNewRingRefuses(t *testing.T) {
	t.Parallel()
	secret := make([]byte, 32)
	for name, all := range map[string][]envelope.SigningKey{
		"no id":        {{Secret: secret}},
		"a long id":    {{ID: strings.Repeat("k", 257), Secret: secret}},
		"a short one":  {{ID: "a", Secret: secret[:31]}},
		"no secret":    {{ID: "a", Secret: secret}, {ID: "b"}},
		"one id twice": {{ID: "a", Secret: secret}, {ID: "a", Secret: bytes.Repeat([]byte{1}, 32)}},
	} {
		if r, err := envelope.NewRing(all[0], all[1:]...); errs.ReasonOf(err) != errs.InvalidConfiguration || r != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRotation(t *testing.T) {
	t.Parallel()
	a := envelope.SigningKey{ID: "a", Secret: bytes.Repeat([]byte{1}, 32)}
	b := envelope.SigningKey{ID: "b", Secret: bytes.Repeat([]byte{2}, 32)}
	first, err1 := envelope.NewRing(a)
	both, err2 := envelope.NewRing(b, a)
	last, err3 := envelope.NewRing(b)
	if err1 != nil || err2 != nil || err3 != nil {
		t.Fatal(err1, err2, err3)
	}
	old, err := first.Sign(full())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := both.Verify(old); err != nil {
		t.Errorf("after a rotation: %v", err)
	}
	if _, err := last.Verify(old); err == nil {
		t.Error("a key that is gone still verifies")
	}
	h, err := envelope.Scan(old)
	if err != nil || !h.Signed() || !both.Has(h.SigningKeyID) || last.Has(h.SigningKeyID) || (*envelope.Ring)(nil).Has(h.SigningKeyID) {
		t.Errorf("%v: it is signed with %q, which the second ring has and the third has not", err, h.SigningKeyID)
	}
}

// Whoever says anything of a signature is not unsigned.
func TestSigned(t *testing.T) {
	t.Parallel()
	for want, all := range map[bool][]*envelopev1.Security{
		false: {nil, {}, {PublisherId: "somebody", AuthToken: "x"}},
		true:  {{Signature: []byte{0}}, {SigningKeyId: "a"}, {SignatureAlgorithm: 1}, {SignatureAlgorithm: 77}},
	} {
		for _, s := range all {
			wire, err := (&envelopev1.PrismEnvelope{Security: s}).MarshalVT()
			if err != nil {
				t.Fatal(err)
			}
			if h, err := envelope.Scan(wire); err != nil || h.Signed() != want {
				t.Errorf("%v: %v, %v", s, h.Signed(), err)
			}
		}
	}
}

// What Sign leaves in the envelope is what it has written, so that it can be
// looked at and be signed again.
func TestSignAndTheEnvelopeAgree(t *testing.T) {
	t.Parallel()
	e := full()
	for range 2 {
		wire := signed(t, e)
		back, err := envelope.Unmarshal(wire)
		if err != nil || !proto.Equal(e, back) {
			t.Fatalf("%v: %v was written of %v", err, back, e)
		}
		if err := envelope.Validate(e); err != nil {
			t.Error(err)
		}
	}
}

func TestSecretsStayOutOfLogs(t *testing.T) {
	t.Parallel()
	key := envelope.SigningKey{ID: "k", Secret: []byte(strings.Repeat("hunter22", 4))}
	r, err := envelope.NewRing(key)
	if err != nil {
		t.Fatal(err)
	}
	if out := fmt.Sprintf("%v %+v %s %v %+v %v", key, key, key, r, r, &key); strings.Contains(out, "hunter") || strings.Contains(out, "104 117") {
		t.Errorf("printed as %s", out)
	}
}

func TestRingIsForManyAtOnce(t *testing.T) {
	t.Parallel()
	keys := ring(t)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 200 {
				e := envelope.New("shop", "orders", bytes.Repeat([]byte{byte(i)}, 100*i+1))
				wire, err := keys.Sign(e)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := keys.Verify(wire); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}

// The header is views of what was scanned, and costs nothing.
func TestScanAllocatesNothing(t *testing.T) {
	wire := signed(t, full())
	h, err := ring(t).Verify(wire)
	if err != nil {
		t.Fatal(err)
	}
	if wire[len(wire)-1]++; h.Payload[len(h.Payload)-1] != wire[len(wire)-1] {
		t.Error("the payload was copied")
	}
	wire[len(wire)-1]--
	n := testing.AllocsPerRun(500, func() {
		if _, err := envelope.Scan(wire); err != nil {
			t.Error(err)
		}
	})
	if n != 0 {
		t.Errorf("a scan allocates %v times", n)
	}
}
