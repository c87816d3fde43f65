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

// The types of protobuf's wire format.
const (
	wireVarint   = 0
	wireFixed64  = 1
	wireBytes    = 2
	wireGroup    = 3
	wireGroupEnd = 4
	wireFixed32  = 5
)

// A span is a part of the bytes; the zero span is none.
type span struct{ start, end int }

func (s span) there() bool     { return s.end != 0 }
func (s span) plus(n int) span { return span{s.start + n, s.end + n} }

// A cursor reads the fields of one message, of which one is current. It copies
// nothing.
type cursor struct {
	buf   []byte
	pos   int
	shape *[maxField]kind

	number uint64
	value  uint64 // of a varint
	data   []byte // of everything with a length
	at     span   // with its tag
}

// read returns a cursor over a message. It stands before its loop, not in it: a
// variable of a loop is copied at every turn.
func read(buf []byte, message kind) cursor { return cursor{buf: buf, shape: &shapes[message]} }

func (c *cursor) more() bool { return c.pos < len(c.buf) }

// next reads a field and all that is in it. What nearly every field is, it takes
// in one step: a tag of one byte, and a length or a number of one byte.
func (c *cursor) next() error {
	if rest := c.buf[c.pos:]; len(rest) >= 2 && rest[0] >= 1<<3 && rest[0] < 0x80 && rest[1] < 0x80 {
		want := c.shape[rest[0]>>3]
		switch n := int(rest[1]); {
		case rest[0]&7 == wireVarint && want <= varint:
			c.number, c.value = uint64(rest[0]>>3), uint64(n)
			c.at = span{c.pos, c.pos + 2}
			c.pos = c.at.end
			return nil
		case rest[0]&7 == wireBytes && n <= len(rest)-2 && (want == text || want == blob):
			c.number, c.data = uint64(rest[0]>>3), rest[2:2+n]
			c.at = span{c.pos, c.pos + 2 + n}
			c.pos = c.at.end
			return c.valid(want)
		}
	}
	return c.any()
}

// any reads any field.
func (c *cursor) any() error {
	c.at.start = c.pos
	tag, err := c.varint()
	if err != nil {
		return err
	}
	c.number = tag >> 3
	if c.number == 0 || tag > 1<<32-1 {
		return errTag
	}
	want := unknown
	if c.number < maxField {
		want = c.shape[c.number]
	}
	switch tag & 7 {
	case wireBytes:
		err = c.bytes(want)
	case wireVarint:
		if want > varint {
			return errType
		}
		c.value, err = c.varint()
	default:
		err = c.rare(tag&7, want)
	}
	c.at.end = c.pos
	return err
}

// bytes reads what has a length and, if it has an inside, checks that.
func (c *cursor) bytes(want kind) error {
	n, err := c.varint()
	switch {
	case err != nil:
		return err
	case n > uint64(len(c.buf)-c.pos):
		return errTruncated
	case want == varint:
		return errType
	}
	c.data = c.buf[c.pos : c.pos+int(n)]
	c.pos += int(n)
	if want > text {
		return contains(c.data, want)
	}
	return c.valid(want)
}

func (c *cursor) valid(want kind) error {
	if want == text && !utf8.Valid(c.data) {
		return errUTF8
	}
	return nil
}

// rare reads the types that no field of ours has.
func (c *cursor) rare(wire uint64, want kind) error {
	size := 8
	switch wire {
	case wireFixed64:
	case wireFixed32:
		size = 4
	case wireGroup, wireGroupEnd:
		return errGroup
	default:
		return errTag
	}
	if want != unknown {
		return errType
	}
	if size > len(c.buf)-c.pos {
		return errTruncated
	}
	c.pos += size
	return nil
}

func (c *cursor) varint() (uint64, error) {
	if c.pos < len(c.buf) && c.buf[c.pos] < 0x80 {
		c.pos++
		return uint64(c.buf[c.pos-1]), nil
	}
	return c.longVarint()
}

func (c *cursor) longVarint() (uint64, error) {
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

// contains checks a message within another. Metadata and security are left to
// who reads them, which is the same work.
func contains(data []byte, message kind) error {
	if message == metadata || message == security {
		return nil
	}
	c := read(data, message)
	for c.more() {
		if err := c.next(); err != nil {
			return err
		}
	}
	return nil
}

func uvarintLen(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }
