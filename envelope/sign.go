package envelope

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"sync"
	"unicode/utf8"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	"github.com/prismgw/prism/errs"
)

const (
	// signaturePrefix keeps signatures of envelopes apart from everything else
	// that may be signed with the same key.
	signaturePrefix = "prism-envelope-1\x00"
	signatureLen    = sha256.Size
	minSecret       = 32 // bytes; a shorter secret is the weakest part of HMAC-SHA256
	tagSecurity     = 2<<3 | wireBytes
)

// Why a signature is not accepted. A wrong one and one of another key look the
// same, and say the same.
var (
	errUnsigned  = unverified("security.signature", "is missing")
	errAlgorithm = unverified("security.signature_algorithm", "is not one that this version verifies; use HMAC_SHA256")
	errNoKey     = unverified("security.signing_key_id", "is not in the ring of keys; was the key rotated away?")
	errSignature = unverified("security.signature", "does not belong to this envelope, which was changed or signed with another key")
)

func unverified(path, text string) *errs.Error {
	return errs.Invalid(errs.Field{Path: path, Text: text})
}

// A SigningKey is a secret of at least 32 bytes and the name by which envelopes
// refer to it.
type SigningKey struct {
	ID     string
	Secret []byte
}

// String leaves the secret out.
func (k SigningKey) String() string { return fmt.Sprintf("signing key %q", k.ID) }

// A Ring is the keys of a namespace: it signs with the current one and verifies
// with that and the previous ones. It is safe for concurrent use and never
// changes; rotating makes a new one. A nil Ring signs and verifies nothing.
type Ring struct {
	current *signer
	signers map[string]*signer
}

// NewRing returns a ring. Every key has an id of its own.
func NewRing(current SigningKey, previous ...SigningKey) (*Ring, error) {
	r := &Ring{signers: make(map[string]*signer, 1+len(previous))}
	for _, key := range append([]SigningKey{current}, previous...) {
		switch _, twice := r.signers[key.ID]; {
		case key.ID == "" || len(key.ID) > maxText || !utf8.ValidString(key.ID):
			return nil, errs.New(errs.InvalidConfiguration, "the id of a signing key must be UTF-8 of 1 to %d bytes", maxText)
		case twice:
			return nil, errs.New(errs.InvalidConfiguration, "two signing keys have the id %q; give each its own", key.ID)
		case len(key.Secret) < minSecret:
			return nil, errs.New(errs.InvalidConfiguration, "signing key %q has %d bytes; it needs at least %d", key.ID, len(key.Secret), minSecret)
		}
		r.signers[key.ID] = &signer{id: key.ID, secret: bytes.Clone(key.Secret)}
	}
	r.current = r.signers[current.ID]
	return r, nil
}

// Sign strips the token from e, signs it with the current key, and returns the
// bytes that the signature covers. The security of e says so afterwards.
func (r *Ring) Sign(e *envelopev1.PrismEnvelope) ([]byte, error) {
	StripAuthToken(e)
	return r.sign(nil, e)
}

// sign appends e, which has no token, to dst: first with 32 bytes of nothing as
// its signature, which are not covered by it and become it.
func (r *Ring) sign(dst []byte, e *envelopev1.PrismEnvelope) ([]byte, error) {
	switch {
	case r == nil:
		return dst, errs.New(errs.InvalidConfiguration, "there are no keys to sign with; configure a ring")
	case e == nil:
		return dst, errMissing
	}
	if e.Security == nil {
		e.Security = new(envelopev1.Security)
	}
	s := e.Security
	s.SignatureAlgorithm = envelopev1.SignatureAlgorithm_SIGNATURE_ALGORITHM_HMAC_SHA256
	s.SigningKeyId = r.current.id
	s.Signature = make([]byte, signatureLen)
	start := len(dst)
	dst, err := appendEnvelope(dst, e)
	if err != nil {
		return dst, err
	}
	h := Header{wire: dst[start:]}
	if err := h.scan(); err != nil {
		return dst[:start], err
	}
	r.current.mac(&h, s.Signature)
	copy(h.Signature, s.Signature)
	return dst, nil
}

// Verify returns the header of an envelope whose signature is good. It says
// nothing about the token, which no signature covers.
func (r *Ring) Verify(wire []byte) (h Header, err error) {
	h.wire = wire
	if err := h.scan(); err != nil {
		return Header{}, err
	}
	if err := r.verify(&h); err != nil {
		return Header{}, err
	}
	return h, nil
}

// Has reports whether the ring has a key of this id.
func (r *Ring) Has(id []byte) bool {
	if r == nil {
		return false
	}
	_, ok := r.signers[string(id)]
	return ok
}

// Signed reports whether the envelope says that it is signed, in any of the
// three fields that do; it says nothing about whether that is so.
func (h *Header) Signed() bool {
	return len(h.Signature) > 0 || len(h.SigningKeyID) > 0 || h.SignatureAlgorithm != 0
}

func (r *Ring) verify(h *Header) error {
	if len(h.Signature) == 0 {
		return errUnsigned
	}
	switch h.SignatureAlgorithm {
	case envelopev1.SignatureAlgorithm_SIGNATURE_ALGORITHM_HMAC_SHA256:
		return r.verifyHMAC(h)
	default: // also UNSPECIFIED: the sender does not choose to go unverified
		return errAlgorithm
	}
}

func (r *Ring) verifyHMAC(h *Header) error {
	if r == nil {
		return errNoKey
	}
	s, ok := r.signers[string(h.SigningKeyID)]
	if !ok {
		return errNoKey
	}
	var want [signatureLen]byte
	s.mac(h, want[:])
	if !hmac.Equal(want[:], h.Signature) {
		return errSignature
	}
	return nil
}

// A signer computes signatures with one key. Hashes are kept: setting one up
// costs as much as hashing 256 bytes, and several allocations.
type signer struct {
	id     string
	secret []byte
	hashes sync.Pool // of *keyed
}

type keyed struct {
	hash.Hash
	scratch [sha256.Size]byte // what a call through an interface would move to the heap
}

// mac writes the signature that h should have to out.
func (s *signer) mac(h *Header, out []byte) {
	k, ok := s.hashes.Get().(*keyed)
	if !ok {
		k = &keyed{Hash: hmac.New(sha256.New, s.secret)}
	}
	k.Reset()
	h.signed(k)
	copy(out, k.Sum(k.scratch[:0]))
	s.hashes.Put(k)
}

// signed writes what a signature covers: the envelope as it stands, without the
// payload and without token and signature, then the payload's SHA-256.
func (h *Header) signed(k *keyed) {
	k.write(copy(k.scratch[:], signaturePrefix))
	pos := 0
	for _, cut := range inOrder(h.security, h.payload) {
		if !cut.there() {
			continue
		}
		k.Write(h.wire[pos:cut.start])
		if cut == h.security {
			h.signedSecurity(k)
		}
		pos = cut.end
	}
	k.Write(h.wire[pos:])
	k.scratch = sha256.Sum256(h.Payload)
	k.write(sha256.Size)
}

// signedSecurity writes field 2 as it would stand without the fields that are
// not covered. Its length is part of it: without, bytes could be moved from
// inside security to behind it, where they mean something else.
func (h *Header) signedSecurity(k *keyed) {
	end := h.security.end
	cuts := inOrder(h.token, h.signature)
	size := len(h.protected)
	for _, cut := range cuts {
		size -= cut.end - cut.start
	}
	k.scratch[0] = tagSecurity
	k.write(1 + binary.PutUvarint(k.scratch[1:], uint64(size)))
	pos := end - len(h.protected)
	for _, cut := range cuts {
		if cut.there() {
			k.Write(h.wire[pos:cut.start])
			pos = cut.end
		}
	}
	k.Write(h.wire[pos:end])
}

// write hashes the first n bytes of the scratch.
func (k *keyed) write(n int) { k.Write(k.scratch[:n]) }

func inOrder(a, b span) [2]span {
	if b.start < a.start {
		return [2]span{b, a}
	}
	return [2]span{a, b}
}

// String keeps secrets out of logs.
func (r *Ring) String() string {
	if r == nil {
		return "no signing keys"
	}
	return fmt.Sprintf("%d signing keys, current %q", len(r.signers), r.current.id)
}
