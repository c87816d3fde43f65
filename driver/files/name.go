package files

import (
	"crypto/sha256"
	"encoding/base32"
	"strings"

	"github.com/prismgw/prism/driver"
)

// Names of files hold what every file system takes and none changes: small
// letters, digits, - _ . and a few marks. A capital is its small letter behind
// a ^, a slash is a comma, and every other byte is %xx; dots are so at either
// end. A name that would be too long keeps its beginning and ends with ~ and a
// digest; what it stands for is in the file.
const (
	longestName = 140 // some encrypting file systems end at 143
	kept        = 80  // of a name that is too long
)

var digest = base32.StdEncoding.WithPadding(base32.NoPadding)

func objectName(key string) string { return shorten(encode(key)) }

// spaceName puts a mark between the two names that neither has.
func spaceName(s driver.Space) string {
	return shorten(encode(s.Namespace) + "+" + encode(s.Pattern))
}

func encode(text string) string {
	const hex = "0123456789abcdef"
	var b strings.Builder
	for i := range len(text) {
		switch c := text[i]; {
		case 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.' && i > 0 && i < len(text)-1:
			b.WriteByte(c)
		case 'A' <= c && c <= 'Z':
			b.Write([]byte{'^', c | 0x20})
		case c == '/':
			b.WriteByte(',')
		default:
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}

// shorten cuts a name that is too long between two of its characters.
func shorten(name string) string {
	if len(name) <= longestName {
		return name
	}
	end := kept
	switch {
	case name[end-1] == '%' || name[end-1] == '^':
		end--
	case name[end-2] == '%':
		end -= 2
	}
	sum := sha256.Sum256([]byte(name))
	return name[:end] + "~" + strings.ToLower(digest.EncodeToString(sum[:]))
}

// decode returns the key that a name stands for, or its beginning where the
// name was too long; ok is false for names that this driver never gives.
func decode(name string) (key string, whole, ok bool) {
	text, sum, cut := strings.Cut(name, "~")
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c == ',':
			c = '/'
		case c == '^' && i+1 < len(text):
			i++
			c = text[i] &^ 0x20
		case c == '%' && i+2 < len(text):
			c = unhex(text[i+1])<<4 | unhex(text[i+2])
			i += 2
		}
		b.WriteByte(c)
	}
	key = b.String()
	if cut {
		return key, false, len(sum) == digest.EncodedLen(sha256.Size)
	}
	return key, true, key != "" && objectName(key) == name
}

func unhex(c byte) byte {
	if c >= 'a' {
		return c - 'a' + 10
	}
	return c - '0'
}
