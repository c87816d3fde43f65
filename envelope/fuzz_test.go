package envelope_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/errs"
)

// FuzzScan holds the scanner against the two real decoders, the generated one
// and protobuf's own. What Scan accepts, both accept, with the same content and
// header; what it refuses, one of them refuses too, but for the few things that
// are refused on purpose.
func FuzzScan(f *testing.F) {
	seeds(f, func(wire []byte) { f.Add(wire) })
	f.Fuzz(func(t *testing.T, wire []byte) {
		if len(wire) > envelope.MaxHeaderSize {
			return // the limits have a test of their own
		}
		h, err := envelope.Scan(wire)
		fast, slow := new(envelopev1.PrismEnvelope), new(envelopev1.PrismEnvelope)
		fastErr, slowErr := fast.UnmarshalVT(wire), proto.Unmarshal(wire, slow)
		if err != nil {
			if fastErr == nil && slowErr == nil && !onPurpose(err) {
				t.Fatalf("both decoders take what is refused: %v", err)
			}
			return
		}
		if fastErr != nil || slowErr != nil {
			t.Fatalf("scanned, but the decoders say: %v; %v", fastErr, slowErr)
		}
		if !proto.Equal(known(t, fast), known(t, slow)) {
			t.Fatalf("scanned, but the decoders read different things:\n%v\n%v", fast, slow)
		}
		sameHeader(t, &h, slow)
	})
}

// known returns e without the fields that this version does not know: decoders
// keep those in different forms.
func known(t *testing.T, e *envelopev1.PrismEnvelope) *envelopev1.PrismEnvelope {
	t.Helper()
	wire, err := proto.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	again := new(envelopev1.PrismEnvelope)
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(wire, again); err != nil {
		t.Fatal(err)
	}
	return again
}

// onPurpose reports whether an error is one of those that decoders do not have.
func onPurpose(err error) bool {
	var e *errs.Error
	return errors.As(err, &e) && (strings.Contains(e.Message, "a group") || strings.Contains(e.Message, "twice") ||
		strings.Contains(e.Message, "the type of another")) // in an entry of a map the generated decoder does not look
}

func sameHeader(t *testing.T, h *envelope.Header, e *envelopev1.PrismEnvelope) {
	t.Helper()
	m, s := e.GetMetadata(), e.GetSecurity()
	c := s.GetEncryption()
	for name, pair := range map[string][2]string{
		"message_id":          {string(h.MessageID), m.GetMessageId()},
		"topic":               {string(h.Topic), m.GetTopic()},
		"namespace":           {string(h.Namespace), m.GetNamespace()},
		"content_type_custom": {string(h.ContentTypeCustom), m.GetContentTypeCustom()},
		"correlation_id":      {string(h.CorrelationID), m.GetCorrelationId()},
		"causality_parent":    {string(h.CausalityParent), m.GetCausalityParent()},
		"partition_key":       {string(h.PartitionKey), string(m.GetPartitionKey())},
		"producer_id":         {string(h.ProducerID), m.GetProducerId()},
		"publisher_id":        {string(h.PublisherID), s.GetPublisherId()},
		"publisher_team":      {string(h.PublisherTeam), s.GetPublisherTeam()},
		"user_id":             {string(h.UserID), s.GetUserId()},
		"tenant_id":           {string(h.TenantID), s.GetTenantId()},
		"session_id":          {string(h.SessionID), s.GetSessionId()},
		"auth_token":          {string(h.AuthToken), s.GetAuthToken()},
		"signature":           {string(h.Signature), string(s.GetSignature())},
		"signing_key_id":      {string(h.SigningKeyID), s.GetSigningKeyId()},
		"key_id":              {string(h.EncryptionKeyID), c.GetKeyId()},
		"nonce":               {string(h.Nonce), string(c.GetNonce())},
		"payload":             {string(h.Payload), string(e.GetPayload())},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: scanned %q, decoded %q", name, pair[0], pair[1])
		}
	}
	for name, pair := range map[string][2]int64{
		"published_at_ms":      {h.PublishedAtMs, m.GetPublishedAtMs()},
		"content_type":         {int64(h.ContentType), int64(m.GetContentType())},
		"content_encoding":     {int64(h.ContentEncoding), int64(m.GetContentEncoding())},
		"priority":             {int64(h.Priority), int64(m.GetPriority())},
		"ttl_seconds":          {h.TTLSeconds, m.GetTtlSeconds()},
		"retry_count":          {int64(h.RetryCount), int64(m.GetRetryCount())},
		"signature_algorithm":  {int64(h.SignatureAlgorithm), int64(s.GetSignatureAlgorithm())},
		"algorithm":            {int64(h.EncryptionAlgorithm), int64(c.GetAlgorithm())},
		"data_classification":  {int64(h.DataClassification), int64(s.GetDataClassification())},
		"encrypted":            {truth(h.Encrypted), truth(c != nil)},
		"contains_pii":         {truth(h.ContainsPII), truth(s.GetContainsPii())},
		"how many roles there": {int64(len(slices.Collect(h.Roles()))), int64(len(s.GetRoles()))},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: scanned %d, decoded %d", name, pair[0], pair[1])
		}
	}
	for i, role := range slices.Collect(h.Roles()) {
		if string(role) != s.GetRoles()[i] {
			t.Errorf("role %d: scanned %q, decoded %q", i, role, s.GetRoles()[i])
		}
	}
}

func truth(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// FuzzVerify changes a signed envelope: replaces n bytes at a place by others. If
// it still verifies, it must say the same as before: the only differences are the
// token, where the payload stands, and how long tags and lengths are written. (So
// not every changed byte is refused, and need not be.)
func FuzzVerify(f *testing.F) {
	keys := ring(f)
	wires := verifying(f)
	for i, wire := range wires {
		f.Add(i, len(wire)/2, 1, []byte{wire[len(wire)/2] ^ 1})
		f.Add(i, 0, len(wire), wire)
	}
	f.Fuzz(func(t *testing.T, which, at, n int, by []byte) {
		if which < 0 || which >= len(wires) || at < 0 || n < 0 || at > len(wires[which]) || n > len(wires[which])-at {
			return
		}
		before := wires[which]
		after := slices.Concat(before[:at], by, before[at+n:])
		if _, err := keys.Verify(after); err != nil {
			return
		}
		mustSaySame(t, wires, before, after)
	})
}

// Every bit of every signed vector is turned, and every byte taken away and
// doubled, with the same demand as in FuzzVerify.
func TestEveryByteCounts(t *testing.T) {
	t.Parallel()
	keys, wires, refused := ring(t), verifying(t), 0
	for _, wire := range wires {
		for at := range wire {
			variants := [][]byte{slices.Delete(bytes.Clone(wire), at, at+1), slices.Insert(bytes.Clone(wire), at, wire[at])}
			for bit := range 8 {
				after := bytes.Clone(wire)
				after[at] ^= 1 << bit
				variants = append(variants, after)
			}
			for _, after := range variants {
				if _, err := keys.Verify(after); err != nil {
					refused++
				} else {
					mustSaySame(t, wires, wire, after)
				}
			}
		}
	}
	if refused < 10_000 {
		t.Errorf("only %d changes were refused", refused)
	}
}

// verifying returns the seeds whose signatures are good.
func verifying(t testing.TB) (wires [][]byte) {
	t.Helper()
	keys := ring(t)
	seeds(t, func(wire []byte) {
		if _, err := keys.Verify(wire); err == nil {
			wires = append(wires, wire)
		}
	})
	return wires
}

// mustSaySame demands that what verifies says the same as before, or as another
// envelope that was signed and pasted in as a whole.
func mustSaySame(t *testing.T, wires [][]byte, before, after []byte) {
	t.Helper()
	for _, wire := range append([][]byte{before}, wires...) {
		if sameMessage(t, wire, after) {
			return
		}
	}
	t.Fatalf("changed and still verified:\n%x\n%x", before, after)
}

// sameMessage reports whether two envelopes say the same, but for the token.
func sameMessage(t *testing.T, a, b []byte) bool {
	t.Helper()
	var both [2]*envelopev1.PrismEnvelope
	for i, wire := range [][]byte{a, b} {
		e, err := envelope.Unmarshal(wire)
		if err != nil {
			t.Fatal(err)
		}
		envelope.StripAuthToken(e)
		if len(e.Payload) == 0 {
			e.Payload = nil // proto3 knows no difference
		}
		both[i] = e
	}
	return proto.Equal(both[0], both[1])
}

// FuzzUnmarshal reads anything and writes it again.
func FuzzUnmarshal(f *testing.F) {
	seeds(f, func(wire []byte) { f.Add(wire) })
	f.Fuzz(func(t *testing.T, wire []byte) {
		e, err := envelope.Unmarshal(wire)
		if err != nil {
			return
		}
		_ = envelope.Validate(e)
		again, err := envelope.Marshal(e)
		if err != nil {
			if errors.Is(err, errs.PayloadTooLarge) {
				return
			}
			t.Fatal(err)
		}
		back, err := envelope.Unmarshal(again)
		if err != nil || !proto.Equal(e, back) {
			t.Fatalf("%v: %v became %v", err, e, back)
		}
		if again2, err := ring(t).Sign(e); err == nil {
			if _, err := ring(t).Verify(again2); err != nil {
				t.Fatalf("signed and not verified: %v", err)
			}
		}
	})
}

// seeds are the vectors, and an envelope with everything.
func seeds(f testing.TB, add func(wire []byte)) {
	f.Helper()
	file, err := os.ReadFile(vectorsFile)
	if err != nil {
		f.Fatal(err)
	}
	var all vectors
	if err := json.Unmarshal(file, &all); err != nil {
		f.Fatal(err)
	}
	for _, v := range all.Vectors {
		wire, err := hex.DecodeString(v.Wire)
		if err != nil {
			f.Fatal(err)
		}
		add(wire)
	}
	e := full()
	e.Security.Encryption = &envelopev1.Encryption{Algorithm: 1, KeyId: "k", Nonce: bytes.Repeat([]byte{7}, 12)}
	add(signed(f, e))
}
