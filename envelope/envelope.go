// Package envelope builds, checks, signs, seals and reads messages in the form
// of prism.envelope.v1. Producers, consumers and the proxy share it; what it
// promises is in docs/contracts.md.
//
// What was received is bytes, and signatures are over bytes: verify and scan
// what came, forward what came, and marshal only what was changed on purpose.
package envelope

import (
	"cmp"
	"time"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	"github.com/prismgw/prism/errs"
)

// The limits of an envelope on the wire, in bytes.
const (
	MaxSize       = 1 << 20  // all of it
	MaxHeaderSize = 64 << 10 // all but the payload
)

// New returns an envelope with a message id and the time; the options fill the
// rest. It keeps the payload, it does not copy it. What it makes is checked by
// Validate, not here.
func New(namespace, topic string, payload []byte, opts ...Option) *envelopev1.PrismEnvelope {
	now := time.Now()
	parts := &struct { // what nearly every envelope has, in one allocation
		envelope envelopev1.PrismEnvelope
		metadata envelopev1.Metadata
		security envelopev1.Security
	}{}
	e := &parts.envelope
	e.Metadata, e.Security, e.Payload = &parts.metadata, &parts.security, payload
	e.Metadata.MessageId = newID(now)
	e.Metadata.Namespace = namespace
	e.Metadata.Topic = topic
	e.Metadata.PublishedAtMs = now.UnixMilli()
	for _, opt := range opts {
		opt(e)
	}
	return e
}

// Fill sets what every envelope has and e has not: a message id, the namespace,
// the topic and the time.
func Fill(e *envelopev1.PrismEnvelope, namespace, topic string) {
	now := time.Now()
	if e.Metadata == nil {
		e.Metadata = new(envelopev1.Metadata)
	}
	m := e.Metadata
	if m.MessageId == "" {
		m.MessageId = newID(now)
	}
	m.Namespace = cmp.Or(m.Namespace, namespace)
	m.Topic = cmp.Or(m.Topic, topic)
	m.PublishedAtMs = cmp.Or(m.PublishedAtMs, now.UnixMilli())
}

// StripAuthToken takes the publisher's token out of e and reports whether there
// was one. Whoever needs the token reads it before.
func StripAuthToken(e *envelopev1.PrismEnvelope) bool {
	if e.GetSecurity().GetAuthToken() == "" {
		return false
	}
	e.Security.AuthToken = ""
	return true
}

// An Encoder turns envelopes into bytes. It never writes a token: an envelope
// that has one loses it. The zero Encoder works. It may be used by many
// goroutines at once if TokenFound may; one envelope is for one at a time.
type Encoder struct {
	Ring *Ring // signs; nil: the envelope is written as it is

	// TokenFound, if it is not nil, is called for each envelope that still had
	// its token, so that a producer can count them and log the first.
	TokenFound func()
}

// Marshal writes e, signed if the encoder has a ring. It refuses what is over
// the limits and checks nothing else.
func (c Encoder) Marshal(e *envelopev1.PrismEnvelope) ([]byte, error) { return c.Append(nil, e) }

// Append is Marshal to the end of dst.
func (c Encoder) Append(dst []byte, e *envelopev1.PrismEnvelope) ([]byte, error) {
	if e == nil {
		return dst, errMissing
	}
	if StripAuthToken(e) && c.TokenFound != nil {
		c.TokenFound()
	}
	if c.Ring != nil {
		return c.Ring.sign(dst, e)
	}
	return appendEnvelope(dst, e)
}

// Marshal writes e as the zero Encoder does: without its token.
func Marshal(e *envelopev1.PrismEnvelope) ([]byte, error) { return Encoder{}.Marshal(e) }

// Unmarshal reads an envelope and refuses the same bytes as Scan. It copies
// everything.
func Unmarshal(wire []byte) (*envelopev1.PrismEnvelope, error) {
	if _, err := Scan(wire); err != nil {
		return nil, err
	}
	e := new(envelopev1.PrismEnvelope)
	if err := e.UnmarshalVT(wire); err != nil {
		return nil, errs.Wrap(err, errs.InvalidField, "envelope: is not a valid message")
	}
	return e, nil
}

func appendEnvelope(dst []byte, e *envelopev1.PrismEnvelope) ([]byte, error) {
	size := e.SizeVT()
	if err := sizes(size, payloadSize(len(e.Payload))); err != nil {
		return dst, err
	}
	start := len(dst)
	dst = grow(dst, size)
	if _, err := e.MarshalToSizedBufferVT(dst[start:]); err != nil {
		return dst[:start], errs.Wrap(err, errs.InvalidField, "envelope: cannot be written")
	}
	return dst, nil
}

// grow makes dst n bytes longer; what they hold is overwritten at once.
func grow(dst []byte, n int) []byte {
	if cap(dst)-len(dst) >= n {
		return dst[:len(dst)+n]
	}
	grown := make([]byte, len(dst)+n)
	copy(grown, dst)
	return grown
}

// sizes checks the limits, of bytes or of what bytes would be.
func sizes(all, payload int) error {
	switch {
	case all > MaxSize:
		return errs.TooLarge("envelope", all, MaxSize)
	case all-payload > MaxHeaderSize:
		return errs.TooLarge("envelope without its payload", all-payload, MaxHeaderSize)
	}
	return nil
}

// payloadSize is what a payload of n bytes takes on the wire.
func payloadSize(n int) int {
	if n == 0 {
		return 0
	}
	return 2 + uvarintLen(uint64(n)) + n
}
