package envelope

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"

	"golang.org/x/crypto/chacha20poly1305"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	"github.com/prismgw/prism/errs"
)

const (
	// sealPrefix begins what a sealed payload is bound to.
	sealPrefix = "prism-payload-1\x00"
	sealKeyLen = 32
	nonceLen   = 12
	tagLen     = 16
)

// Keys finds the key of 32 bytes that an id names, or fails with what the caller
// is to be told. Publishers and consumers have the same ones; the proxy needs
// none.
type Keys interface {
	Key(ctx context.Context, id string) ([]byte, error)
}

// Seal encrypts the payload of e under the key with this id. The ciphertext is
// bound to message id, topic and namespace: whoever changes one of them makes it
// unreadable. Compress before, sign afterwards.
//
// The nonce is random: one key is for at most 2^32 messages.
func Seal(ctx context.Context, e *envelopev1.PrismEnvelope, keys Keys, keyID string, a envelopev1.EncryptionAlgorithm) error {
	switch {
	case e == nil:
		return errMissing
	case keyID == "" || len(keyID) > maxText:
		return unsealed("key_id", "must name a key, with 1 to 256 bytes")
	case e.GetSecurity().GetEncryption() != nil:
		return unsealed("", "is there already; an envelope is sealed once")
	case e.GetMetadata().GetMessageId() == "":
		return errs.Invalid(errs.Field{Path: "metadata.message_id", Text: "is missing; the payload is bound to it"})
	}
	aead, err := newAEAD(ctx, keys, keyID, a)
	if err != nil {
		return err
	}
	nonce := make([]byte, nonceLen)
	if _, err := rand.Read(nonce); err != nil {
		return errs.Wrap(err, errs.Internal, "no random nonce")
	}
	if e.Security == nil {
		e.Security = new(envelopev1.Security)
	}
	e.Security.Encryption = &envelopev1.Encryption{Algorithm: a, KeyId: keyID, Nonce: nonce}
	e.Payload = aead.Seal(nil, nonce, e.Payload, boundTo(e))
	return nil
}

// Open decrypts the payload of e and takes the note of its encryption away. If
// it fails, e is as it was. Verify before: what is signed is what was sent.
func Open(ctx context.Context, e *envelopev1.PrismEnvelope, keys Keys) error {
	c := e.GetSecurity().GetEncryption()
	switch {
	case e == nil:
		return errMissing
	case c == nil:
		return unsealed("", "is missing; the payload is not encrypted")
	case len(c.Nonce) != nonceLen:
		return unsealed("nonce", "must be 12 bytes")
	case len(e.Payload) < tagLen:
		return errs.Invalid(errs.Field{Path: "payload", Text: "is shorter than the tag of its encryption; it was cut off"})
	}
	aead, err := newAEAD(ctx, keys, c.KeyId, c.Algorithm)
	if err != nil {
		return err
	}
	plain, err := aead.Open(nil, c.Nonce, e.Payload, boundTo(e))
	if err != nil {
		return errs.Invalid(errs.Field{
			Path: "payload", Text: "cannot be decrypted: it, its message id, topic or namespace was changed, or the key is another one",
		})
	}
	e.Payload, e.Security.Encryption = plain, nil
	return nil
}

func newAEAD(ctx context.Context, keys Keys, id string, a envelopev1.EncryptionAlgorithm) (cipher.AEAD, error) {
	if !knownEncryption(a) {
		return nil, unsealed("algorithm", "must be AES_256_GCM or CHACHA20_POLY1305")
	}
	if keys == nil {
		return nil, errs.New(errs.InvalidConfiguration, "there are no keys for payloads; configure where they come from")
	}
	key, err := keys.Key(ctx, id)
	if err != nil {
		return nil, err
	}
	if len(key) != sealKeyLen {
		return nil, errs.New(errs.InvalidConfiguration, "the key of a payload must have 32 bytes; the one found has %d", len(key))
	}
	if a == envelopev1.EncryptionAlgorithm_ENCRYPTION_ALGORITHM_CHACHA20_POLY1305 {
		return chacha20poly1305.New(key)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, errs.Wrap(err, errs.InvalidConfiguration, "the key of a payload does not work")
	}
	return cipher.NewGCM(block)
}

func knownEncryption(a envelopev1.EncryptionAlgorithm) bool {
	return a == envelopev1.EncryptionAlgorithm_ENCRYPTION_ALGORITHM_AES_256_GCM ||
		a == envelopev1.EncryptionAlgorithm_ENCRYPTION_ALGORITHM_CHACHA20_POLY1305
}

// boundTo is the additional data of the encryption: a prefix, the algorithm's
// number, then key id, message id, topic and namespace, each with its length
// before it, so that no two sets of them are the same bytes.
func boundTo(e *envelopev1.PrismEnvelope) []byte {
	c, m := e.GetSecurity().GetEncryption(), e.GetMetadata()
	aad := binary.AppendUvarint([]byte(sealPrefix), uint64(c.GetAlgorithm()))
	for _, part := range []string{c.GetKeyId(), m.GetMessageId(), m.GetTopic(), m.GetNamespace()} {
		aad = append(binary.AppendUvarint(aad, uint64(len(part))), part...)
	}
	return aad
}

func unsealed(name, text string) *errs.Error {
	path := "security.encryption"
	if name != "" {
		path += "." + name
	}
	return errs.Invalid(errs.Field{Path: path, Text: text})
}
