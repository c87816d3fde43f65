package envelope

import (
	"encoding/binary"
	"encoding/hex"
	"math/bits"
	"math/rand/v2"
	"time"
)

// idLen is the length of a UUID in text.
const idLen = 36

// newID returns a UUID of version 7, whose order is the order of time to a
// quarter of a microsecond: what a millisecond leaves over fills the twelve bits
// that RFC 9562 lets one choose. A clock that stands before 1970 or past the
// 48 bits makes it version 4.
//
// An id must be unique, not secret, so its bits come from the runtime's own
// generator, which the system has seeded. crypto/rand would end the process where
// the system has no randomness.
func newID(now time.Time) string { return idFrom(now, rand.Uint64(), rand.Uint64()) }

func idFrom(now time.Time, high, low uint64) string {
	version := byte(4)
	if ms := now.UnixMilli(); ms > 0 && bits.Len64(uint64(ms)) <= 48 {
		version = 7
		fraction := uint64(now.Nanosecond()%1e6) << 12 / 1e6
		high = uint64(ms)<<16 | fraction
	}
	var id [16]byte
	binary.BigEndian.PutUint64(id[:], high)
	binary.BigEndian.PutUint64(id[8:], low)
	return idText(id, version)
}

// idText writes a UUID with the version, and the variant that RFC 9562 has.
func idText(id [16]byte, version byte) string {
	id[6] = version<<4 | id[6]&0x0f
	id[8] = 0x80 | id[8]&0x3f
	var text [idLen]byte
	hex.Encode(text[:8], id[:4])
	hex.Encode(text[9:13], id[4:6])
	hex.Encode(text[14:18], id[6:8])
	hex.Encode(text[19:23], id[8:10])
	hex.Encode(text[24:], id[10:])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return string(text[:])
}

// isID reports whether s is a UUID in lower case with the variant of RFC 9562.
func isID(s string) bool {
	if len(s) != idLen || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return false
	}
	variant := s[19] == '8' || s[19] == '9' || s[19] == 'a' || s[19] == 'b'
	return variant && isHex(s[:8]) && isHex(s[9:13]) && isHex(s[14:18]) && isHex(s[19:23]) && isHex(s[24:])
}

// isHex reports whether s is nothing but hexadecimal digits in lower case.
func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
