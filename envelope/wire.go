package envelope

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf8"

	"github.com/prismgw/prism/errs"
)

// What this package refuses to read. The first four are what protobuf itself
// does not allow. The others are what two readers could understand differently;
// no encoder writes them.
var (
	errTruncated = unreadable("ends in the middle of a field")
	errVarint    = unreadable("has a number of more than 64 bits")
	errTag       = unreadable("has a field whose number or type protobuf does not have")
	errUTF8      = unreadable("has a text that is not UTF-8")
	errGroup     = unreadable("has a group, which nobody writes any more")
	errType      = unreadable("has a field with the type of another")
	errTwice     = unreadable("has a field twice that can be there once")
)

func unreadable(text string) *errs.Error {
	return errs.Invalid(errs.Field{Path: "envelope", Text: text})
}

// A kind is what a field holds.
type kind uint8

const (
	unknown kind = iota // a field of a later version: well-formed is all that it must be
	varint
	blob
	text
	// Messages, each with its row of shapes.
	metadata
	security
	encryption
	tracing
	schema
	textEntry // of a map from text to text
	blobEntry // of a map from text to bytes
	envelope
	kinds
)

const maxField = 100

// shapes says which fields a message has. A test compares it with the
// descriptors of envelope.proto.
var shapes = [kinds][maxField]kind{
	envelope: {1: metadata, 2: security, 3: tracing, 4: schema, 97: blobEntry, 99: blob},
	metadata: {
		1: text, 2: text, 3: text, 4: varint, 5: varint, 6: text, 7: varint, 8: varint, 9: varint,
		10: text, 11: text, 12: blob, 13: varint, 14: text,
	},
	security: {
		1: text, 2: text, 3: text, 4: text, 5: text, 6: text, 7: text, 8: blob, 9: varint, 10: text,
		11: encryption, 12: varint, 13: varint,
	},
	encryption: {1: varint, 2: text, 3: blob},
	tracing:    {1: text, 2: text, 3: text, 4: varint, 5: textEntry, 6: textEntry},
	schema:     {1: text, 2: varint, 3: text, 4: varint, 5: blob},
	textEntry:  {1: text, 2: text},
	blobEntry:  {1: text, 2: blob},
}

// The types of protobuf's wire format. Three and four were groups.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5
)

// A span is a part of the bytes; the zero span is none.
type span struct{ start, end int }

func (s span) of(buf []byte) []byte { return buf[s.start:s.end] }
func (s span) there() bool          { return s.end != 0 }

// A field is one field of a message as it stands on the wire.
type field struct {
	number uint64
	value  uint64 // of a varint
	data   []byte // of everything with a length
	at     span   // with its tag
	body   span   // data, in the message's bytes
}

// A cursor reads the fields of one message. It copies nothing.
type cursor struct {
	buf   []byte
	pos   int
	shape *[maxField]kind
	field field // the current one
}

func read(buf []byte, message kind) cursor { return cursor{buf: buf, shape: &shapes[message]} }

func (c *cursor) more() bool { return c.pos < len(c.buf) }

// next reads a field and all that is in it.
func (c *cursor) next() error {
	c.field.at.start = c.pos
	tag, err := c.varint()
	if err != nil {
		return err
	}
	f := &c.field
	f.number = tag >> 3
	if f.number == 0 || tag > 1<<32-1 {
		return errTag
	}
	want := unknown
	if f.number < maxField {
		want = c.shape[f.number]
	}
	if err := c.content(tag&7, want); err != nil {
		return err
	}
	f.at.end = c.pos
	if want < text {
		return nil
	}
	return contains(f.data, want)
}

func (c *cursor) content(wire uint64, want kind) (err error) {
	f := &c.field
	switch wire {
	case wireVarint:
		if want > varint {
			return errType
		}
		f.value, err = c.varint()
		return err
	case wireBytes:
		if want == varint {
			return errType
		}
		n, err := c.varint()
		if err != nil {
			return err
		}
		return c.take(n)
	case wireFixed64, wireFixed32:
		if want != unknown {
			return errType
		}
		return c.take(12 - 4*min(wire, 2))
	case 3, 4:
		return errGroup
	}
	return errTag
}

// take makes the next n bytes the field's data.
func (c *cursor) take(n uint64) error {
	if n > uint64(len(c.buf)-c.pos) {
		return errTruncated
	}
	c.field.body = span{c.pos, c.pos + int(n)}
	c.field.data = c.field.body.of(c.buf)
	c.pos = c.field.body.end
	return nil
}

func (c *cursor) varint() (uint64, error) {
	if c.pos < len(c.buf) && c.buf[c.pos] < 0x80 {
		c.pos++
		return uint64(c.buf[c.pos-1]), nil
	}
	v, n := binary.Uvarint(c.buf[c.pos:])
	switch {
	case n > 0:
		c.pos += n
		return v, nil
	case n == 0:
		return 0, errTruncated
	}
	return 0, errVarint
}

// contains checks what a field holds that has an inside. Metadata and security
// are read by who needs them, and checked by that.
func contains(data []byte, what kind) error {
	switch what {
	case text:
		if !utf8.Valid(data) {
			return errUTF8
		}
		return nil
	case metadata, security:
		return nil
	}
	for c := read(data, what); c.more(); {
		if err := c.next(); err != nil {
			return err
		}
	}
	return nil
}

func uvarintLen(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }
