package envelope_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/hex"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/errs"
)

const (
	aesGCM   = envelopev1.EncryptionAlgorithm_ENCRYPTION_ALGORITHM_AES_256_GCM
	chaCha20 = envelopev1.EncryptionAlgorithm_ENCRYPTION_ALGORITHM_CHACHA20_POLY1305
)

// keys is a source of keys in memory.
type keys map[string][]byte

func (k keys) Key(_ context.Context, id string) ([]byte, error) {
	if key, ok := k[id]; ok {
		return key, nil
	}
	return nil, errs.New(errs.CredentialsUnavailable, "no such key")
}

var payloadKeys = keys{
	"p1": bytes.Repeat([]byte{1}, 32), "p2": bytes.Repeat([]byte{2}, 32), "short": make([]byte, 16),
}

func sealedEnvelope(t *testing.T, a envelopev1.EncryptionAlgorithm, payload []byte) *envelopev1.PrismEnvelope {
	t.Helper()
	e := envelope.New("shop", "orders", payload)
	if err := envelope.Seal(t.Context(), e, payloadKeys, "p1", a); err != nil {
		t.Fatal(err)
	}
	return e
}

func TestSealAndOpen(t *testing.T) {
	t.Parallel()
	for _, a := range []envelopev1.EncryptionAlgorithm{aesGCM, chaCha20} {
		for _, payload := range [][]byte{nil, []byte("a secret of some length"), make([]byte, 100_000)} {
			e := sealedEnvelope(t, a, payload)
			if len(payload) > 0 && bytes.Contains(e.Payload, payload) {
				t.Errorf("%v: the payload can be read", a)
			}
			if err := envelope.Validate(e); err != nil {
				t.Error(err)
			}
			back, err := envelope.Unmarshal(signed(t, e))
			if err != nil {
				t.Fatal(err)
			}
			if err := envelope.Open(t.Context(), back, payloadKeys); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(back.Payload, payload) || back.Security.Encryption != nil {
				t.Errorf("%v: %d bytes came back as %d", a, len(payload), len(back.Payload))
			}
		}
	}
}

func TestNoncesDiffer(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 1000 {
		e := sealedEnvelope(t, aesGCM, []byte("x"))
		seen[string(e.Security.Encryption.Nonce)] = true
	}
	if len(seen) != 1000 {
		t.Errorf("%d nonces for 1000 messages", len(seen))
	}
}

// What ciphertext is bound to is a contract with SDKs in other languages, so it
// stands here byte by byte.
func TestWhatAPayloadIsBoundTo(t *testing.T) {
	t.Parallel()
	e := envelope.New("shop", "orders", []byte("plain"), envelope.WithMessageID(otherID))
	if err := envelope.Seal(t.Context(), e, payloadKeys, "p1", aesGCM); err != nil {
		t.Fatal(err)
	}
	aad := "prism-payload-1\x00" + "\x01" + "\x02p1" + "\x24" + otherID + "\x06orders" + "\x04shop"
	block, err := aes.NewCipher(payloadKeys["p1"])
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := gcm.Open(nil, e.Security.Encryption.Nonce, e.Payload, []byte(aad))
	if err != nil || string(plain) != "plain" {
		t.Errorf("%v, %q", err, plain)
	}
	// And the same the other way: an envelope that another SDK has sealed.
	e.Security.Encryption.Nonce, _ = hex.DecodeString("000102030405060708090a0b")
	e.Payload = gcm.Seal(nil, e.Security.Encryption.Nonce, []byte("from elsewhere"), []byte(aad))
	if err := envelope.Open(t.Context(), e, payloadKeys); err != nil || string(e.Payload) != "from elsewhere" {
		t.Errorf("%v, %q", err, e.Payload)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	type change = func(*envelopev1.PrismEnvelope)
	for name, c := range map[string]struct {
		change change
		field  string
	}{
		"message id":     {func(e *envelopev1.PrismEnvelope) { e.Metadata.MessageId = otherID }, "payload"},
		"topic":          {func(e *envelopev1.PrismEnvelope) { e.Metadata.Topic = "order" }, "payload"},
		"namespace":      {func(e *envelopev1.PrismEnvelope) { e.Metadata.Namespace = "sshop" }, "payload"},
		"shifted names":  {func(e *envelopev1.PrismEnvelope) { e.Metadata.Topic, e.Metadata.Namespace = "orderss", "hop" }, "payload"},
		"no metadata":    {func(e *envelopev1.PrismEnvelope) { e.Metadata = nil }, "payload"},
		"ciphertext":     {func(e *envelopev1.PrismEnvelope) { e.Payload[0] ^= 1 }, "payload"},
		"tag":            {func(e *envelopev1.PrismEnvelope) { e.Payload[len(e.Payload)-1] ^= 1 }, "payload"},
		"nonce":          {func(e *envelopev1.PrismEnvelope) { e.Security.Encryption.Nonce[0] ^= 1 }, "payload"},
		"wrong key":      {func(e *envelopev1.PrismEnvelope) { e.Security.Encryption.KeyId = "p2" }, "payload"},
		"last byte gone": {func(e *envelopev1.PrismEnvelope) { e.Payload = e.Payload[:len(e.Payload)-1] }, "payload"},
		"15 bytes left":  {func(e *envelopev1.PrismEnvelope) { e.Payload = e.Payload[:15] }, "payload"},
		"nothing left":   {func(e *envelopev1.PrismEnvelope) { e.Payload = nil }, "payload"},
		"the other algorithm": {func(e *envelopev1.PrismEnvelope) {
			e.Security.Encryption.Algorithm = aesGCM + chaCha20 - e.Security.Encryption.Algorithm
		}, "payload"},
		"no algorithm":      {func(e *envelopev1.PrismEnvelope) { e.Security.Encryption.Algorithm = 0 }, "security.encryption.algorithm"},
		"unknown algorithm": {func(e *envelopev1.PrismEnvelope) { e.Security.Encryption.Algorithm = 3 }, "security.encryption.algorithm"},
		"short nonce":       {func(e *envelopev1.PrismEnvelope) { e.Security.Encryption.Nonce = []byte{1} }, "security.encryption.nonce"},
		"long nonce":        {func(e *envelopev1.PrismEnvelope) { e.Security.Encryption.Nonce = make([]byte, 24) }, "security.encryption.nonce"},
		"not encrypted":     {func(e *envelopev1.PrismEnvelope) { e.Security.Encryption = nil }, "security.encryption"},
		"no security":       {func(e *envelopev1.PrismEnvelope) { e.Security = nil }, "security.encryption"},
	} {
		for _, a := range []envelopev1.EncryptionAlgorithm{aesGCM, chaCha20} {
			e := sealedEnvelope(t, a, []byte("a secret"))
			c.change(e)
			before := proto.Clone(e)
			err := envelope.Open(t.Context(), e, payloadKeys)
			if got := fieldsOf(err); !slices.Equal(got, []string{c.field}) {
				t.Errorf("%s, %v: %v", name, a, err)
			}
			if !proto.Equal(e, before) {
				t.Errorf("%s, %v: the envelope was changed", name, a)
			}
		}
	}
}

func TestSealRefuses(t *testing.T) {
	t.Parallel()
	fresh := func() *envelopev1.PrismEnvelope { return envelope.New("shop", "orders", []byte("x")) }
	seal := func(e *envelopev1.PrismEnvelope, k envelope.Keys, id string, a envelopev1.EncryptionAlgorithm) error {
		return envelope.Seal(t.Context(), e, k, id, a)
	}
	for name, c := range map[string]struct {
		err  error
		want errs.Reason
	}{
		"nothing":           {seal(nil, payloadKeys, "p1", aesGCM), errs.InvalidField},
		"no id":             {seal(new(envelopev1.PrismEnvelope), payloadKeys, "p1", aesGCM), errs.InvalidField},
		"no key id":         {seal(fresh(), payloadKeys, "", aesGCM), errs.InvalidField},
		"no algorithm":      {seal(fresh(), payloadKeys, "p1", 0), errs.InvalidField},
		"unknown algorithm": {seal(fresh(), payloadKeys, "p1", 3), errs.InvalidField},
		"sealed already":    {seal(sealedEnvelope(t, aesGCM, nil), payloadKeys, "p1", aesGCM), errs.InvalidField},
		"no keys":           {seal(fresh(), nil, "p1", aesGCM), errs.InvalidConfiguration},
		"a key of 16 bytes": {seal(fresh(), payloadKeys, "short", aesGCM), errs.InvalidConfiguration},
		"an unknown key":    {seal(fresh(), payloadKeys, "p9", aesGCM), errs.CredentialsUnavailable},
		"open nothing":      {envelope.Open(t.Context(), nil, payloadKeys), errs.InvalidField},
		"open without keys": {envelope.Open(t.Context(), sealedEnvelope(t, aesGCM, nil), nil), errs.InvalidConfiguration},
	} {
		if errs.ReasonOf(c.err) != c.want || c.err == nil {
			t.Errorf("%s: %v, want %v", name, c.err, c.want)
		}
	}
}
