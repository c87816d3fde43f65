package nats

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"

	"github.com/prismgw/prism/errs"
)

// cursor is where a scan goes on.
type cursor struct {
	stream int64  // when the stream was made
	next   uint64 // the sequence to go on from
	left   uint64 // messages to look at before the rest is given in order; 0: not known yet, 1: none
	rest   bool   // the rest is given in order, behind the key after
	after  string
}

const (
	cursorForm  = 1
	cursorFixed = 1 + 8 + 8 + 8 + 1
	cursorSum   = 8
)

// encode returns the cursor as bytes that decode takes for the same prefix.
func (c *cursor) encode(prefix string) []byte {
	b := make([]byte, 0, cursorFixed+len(c.after)+cursorSum)
	b = append(b, cursorForm)
	b = binary.BigEndian.AppendUint64(b, uint64(c.stream))
	b = binary.BigEndian.AppendUint64(b, c.next)
	b = binary.BigEndian.AppendUint64(b, c.left)
	b = append(b, flag(c.rest))
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
		stream: int64(binary.BigEndian.Uint64(body[1:])), next: binary.BigEndian.Uint64(body[9:]),
		left: binary.BigEndian.Uint64(body[17:]), rest: body[25] == 1, after: string(body[cursorFixed:]),
	}, nil
}

func flag(b bool) byte {
	if b {
		return 1
	}
	return 0
}

func checksum(body []byte, prefix string) []byte {
	h := sha256.New()
	h.Write([]byte(prefix))
	h.Write([]byte{0})
	h.Write(body)
	return h.Sum(nil)[:cursorSum]
}
