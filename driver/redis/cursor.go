package redis

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"

	"github.com/prismgw/prism/errs"
)

// cursor is where a scan stands. It is bound to the prefix by its checksum,
// and to the servers by origin: the order in which SCAN goes through a server
// is new whenever that server starts, and is no other server's.
type cursor struct {
	origin uint64   // the servers, and for a Cluster who serves what
	node   uint16   // index of the server among them
	server uint64   // that server's run, 0 before its first page
	at     uint64   // the position in Redis' own terms
	given  []uint64 // hashes of keys that were given already, of those that come at this position
}

const (
	cursorForm  = 1
	cursorFixed = 1 + 8 + 2 + 8 + 8
	cursorSum   = 8
	maxGiven    = 120 // so that a cursor stays below 1 KiB
)

// encode returns the cursor as bytes that decode takes for the same prefix.
func (c *cursor) encode(prefix string) []byte {
	b := make([]byte, 0, cursorFixed+8*len(c.given)+cursorSum)
	b = append(b, cursorForm)
	b = binary.BigEndian.AppendUint64(b, c.origin)
	b = binary.BigEndian.AppendUint16(b, c.node)
	b = binary.BigEndian.AppendUint64(b, c.server)
	b = binary.BigEndian.AppendUint64(b, c.at)
	for _, h := range c.given {
		b = binary.BigEndian.AppendUint64(b, h)
	}
	return append(b, checksum(b, prefix)...)
}

func decodeCursor(b []byte, prefix string) (cursor, error) {
	n := len(b) - cursorSum - cursorFixed
	if n < 0 || n%8 != 0 || n/8 > maxGiven || b[0] != cursorForm {
		return cursor{}, errs.InvalidCursor
	}
	body := b[:len(b)-cursorSum]
	if !bytes.Equal(checksum(body, prefix), b[len(body):]) {
		return cursor{}, errs.InvalidCursor
	}
	c := cursor{
		origin: binary.BigEndian.Uint64(body[1:]), node: binary.BigEndian.Uint16(body[9:]),
		server: binary.BigEndian.Uint64(body[11:]), at: binary.BigEndian.Uint64(body[19:]),
	}
	for rest := body[cursorFixed:]; len(rest) > 0; rest = rest[8:] {
		c.given = append(c.given, binary.BigEndian.Uint64(rest))
	}
	return c, nil
}

func checksum(body []byte, prefix string) []byte {
	h := sha256.New()
	h.Write([]byte(prefix))
	h.Write([]byte{0})
	h.Write(body)
	return h.Sum(nil)[:cursorSum]
}

// hash returns 64 bits that stand for a text.
func hash(text string) uint64 {
	sum := sha256.Sum256([]byte(text))
	return binary.BigEndian.Uint64(sum[:])
}
