package nats

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"

	"github.com/prismgw/prism/errs"
)

// cursor is where a scan goes on. A scan has two phases. In the first it goes
// through the messages that were there when it began, in their order. Keys that
// were written again meanwhile have left that part of the stream; the second
// phase finds them in the rest, in the order of their keys, which no further
// write changes, so that it comes to an end however much is written.
type cursor struct {
	stream int64  // when the stream was made
	end    uint64 // its last sequence when the scan began
	next   uint64 // the sequence to go on from; beyond end: the second phase
	after  string // in the second phase, the last key
}

const (
	cursorForm  = 1
	cursorFixed = 1 + 8 + 8 + 8
	cursorSum   = 8
)

// encode returns the cursor as bytes that decode takes for the same prefix.
func (c *cursor) encode(prefix string) []byte {
	b := make([]byte, 0, cursorFixed+len(c.after)+cursorSum)
	b = append(b, cursorForm)
	b = binary.BigEndian.AppendUint64(b, uint64(c.stream))
	b = binary.BigEndian.AppendUint64(b, c.end)
	b = binary.BigEndian.AppendUint64(b, c.next)
	b = append(b, c.after...)
	return append(b, checksum(b, prefix)...)
}

func decodeCursor(b []byte, prefix string) (cursor, error) {
	if len(b) < cursorFixed+cursorSum || b[0] != cursorForm {
		return cursor{}, errs.InvalidCursor
	}
	body := b[:len(b)-cursorSum]
	if !bytes.Equal(checksum(body, prefix), b[len(body):]) {
		return cursor{}, errs.InvalidCursor
	}
	return cursor{
		stream: int64(binary.BigEndian.Uint64(body[1:])), end: binary.BigEndian.Uint64(body[9:]),
		next: binary.BigEndian.Uint64(body[17:]), after: string(body[cursorFixed:]),
	}, nil
}

func checksum(body []byte, prefix string) []byte {
	h := sha256.New()
	h.Write([]byte(prefix))
	h.Write([]byte{0})
	h.Write(body)
	return h.Sum(nil)[:cursorSum]
}
