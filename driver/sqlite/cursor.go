package sqlite

import (
	"encoding/binary"
	"hash/crc32"
	"strings"
	"unicode/utf8"

	"github.com/prismgw/prism/driver"
)

// A cursor is the last key that was returned, behind a checksum over it, the
// space and the prefix. A key that leaves no room for the checksum within a
// cursor's 1 KiB stands alone; what is then checked is that it is such a key.
const (
	maxCursor    = 1024
	checksumSize = 1 + 4 // a byte that begins no key, and the checksum
	checksumMark = 0xff
	maxSummedKey = maxCursor - checksumSize
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func newCursor(space, prefix, last string) []byte {
	if len(last) > maxSummedKey {
		return []byte(last)
	}
	c := make([]byte, checksumSize, checksumSize+len(last))
	c[0] = checksumMark
	binary.BigEndian.PutUint32(c[1:], cursorSum(space, prefix, last))
	return append(c, last...)
}

// parseCursor returns the last key, or false for what newCursor never made.
func parseCursor(space, prefix string, cursor []byte) (last string, ok bool) {
	if len(cursor) > maxSummedKey && cursor[0] != checksumMark {
		last = string(cursor)
		valid := len(last) <= driver.MaxKey && utf8.ValidString(last) && !strings.Contains(last, "\x00")
		return last, valid && strings.HasPrefix(last, prefix)
	}
	if len(cursor) <= checksumSize || cursor[0] != checksumMark {
		return "", false
	}
	last = string(cursor[checksumSize:])
	sum := binary.BigEndian.Uint32(cursor[1:])
	return last, sum == cursorSum(space, prefix, last) && strings.HasPrefix(last, prefix)
}

func cursorSum(parts ...string) uint32 {
	var sum uint32
	var size [4]byte
	for _, p := range parts {
		binary.BigEndian.PutUint32(size[:], uint32(len(p)))
		sum = crc32.Update(sum, castagnoli, size[:])
		sum = crc32.Update(sum, castagnoli, []byte(p))
	}
	return sum
}
