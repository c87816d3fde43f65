package keyvalue

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"strings"
	"time"

	"github.com/prismgw/prism/errs"
)

// cursorLife is how long a cursor can be used.
const cursorLife = time.Hour

// A cursor on the wire is base64url of
//
//	version 1 byte | issued, unix seconds 8 | space and prefix 8 | backend 8 | checksum 8 | the driver's own
//
// The checksum covers everything else, so that a mangled cursor is refused
// rather than understood. It is no secret: a made-up cursor can at most start
// at another key of the same space.
const (
	cursorVersion = 1
	cursorHead    = 1 + 8 + 8 + 8 + 8
	cursorMax     = 4096 // of the text; drivers stay within 1 KiB
)

// cursors makes and reads the cursors of one namespace's pattern.
type cursors struct {
	space   string
	backend uint64
	now     func() time.Time
}

func newCursors(namespace, name, backend string, now func() time.Time) cursors {
	return cursors{space: namespace + "\x00" + name + "\x00", backend: hash64(backend), now: now}
}

// encode returns the text of a driver's cursor; the end (nil) is empty.
func (c *cursors) encode(prefix string, own []byte) string {
	if own == nil {
		return ""
	}
	b := make([]byte, 0, cursorHead+len(own))
	b = append(b, cursorVersion)
	b = binary.BigEndian.AppendUint64(b, uint64(c.now().Unix()))
	b = binary.BigEndian.AppendUint64(b, hash64(c.space+prefix))
	b = binary.BigEndian.AppendUint64(b, c.backend)
	b = binary.BigEndian.AppendUint64(b, checksum(b, own))
	return base64.RawURLEncoding.EncodeToString(append(b, own...))
}

// decode returns the driver's cursor; an empty text is the beginning (nil).
func (c *cursors) decode(prefix, text string) ([]byte, error) {
	if text == "" {
		return nil, nil
	}
	if len(text) > cursorMax {
		return nil, errs.InvalidCursor
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text) // it skips line breaks
	if err != nil || len(b) < cursorHead || b[0] != cursorVersion || strings.ContainsAny(text, "\r\n") {
		return nil, errs.InvalidCursor
	}
	head, own := b[:cursorHead-8], b[cursorHead:]
	if binary.BigEndian.Uint64(b[cursorHead-8:]) != checksum(head, own) {
		return nil, errs.InvalidCursor
	}
	if binary.BigEndian.Uint64(b[9:]) != hash64(c.space+prefix) {
		return nil, errs.New(errs.InvalidCursor, "the cursor belongs to another namespace, pattern or prefix; use it with the scan that gave it out")
	}
	if binary.BigEndian.Uint64(b[17:]) != c.backend {
		return nil, errs.New(errs.StaleCursor, "the backend of this pattern has changed since the cursor was given out; scan from the beginning")
	}
	age := c.now().Unix() - int64(binary.BigEndian.Uint64(b[1:]))
	if age > int64(cursorLife/time.Second) {
		return nil, errs.New(errs.StaleCursor, "the cursor is older than %s; scan from the beginning", cursorLife)
	}
	return own, nil
}

func hash64(s string) uint64 {
	sum := sha256.Sum256([]byte(s))
	return binary.BigEndian.Uint64(sum[:])
}

func checksum(head, own []byte) uint64 {
	h := sha256.New()
	h.Write(head)
	h.Write(own)
	return binary.BigEndian.Uint64(h.Sum(nil))
}
