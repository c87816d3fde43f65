package s3

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"unicode/utf8"

	"github.com/prismgw/prism/driver"
)

// Names of objects are their keys as far as every store takes them, in an order
// that is that of the keys' bytes:
//
//   - a name ends with an exclamation mark, so that "a" and "a/b" do not meet in
//     stores that keep objects as files and need a folder "a" for the second;
//   - bytes up to the exclamation mark (control characters, space) are !XX;
//   - at the beginning of a part between slashes, - . / have a - before them, so
//     that no part is empty, "." or "..";
//   - a part that becomes longer than a file's name may be is divided by a slash;
//   - behind the 64th byte that was escaped, all that follows is in base 64, so
//     that the longest key of the worst bytes stays below the 1,024 bytes of S3.
//
// What a byte becomes depends on nothing but the bytes before it. Together with
// the order of what it may become, that keeps the order of the keys.
const (
	mark        = '!'
	longestPart = 200 // file names have 255 bytes, of which stores need some themselves
	mostEscapes = 64
	longestName = 80 // of a namespace or pattern, escaped
)

const hexDigits = "0123456789ABCDEF"

// ordered is an alphabet of base 64 in the order of its bytes.
const ordered = "-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"

// objectName returns the name of the object of a key.
func objectName(key string) string {
	e := encodeKey(key)
	if e.left > 0 {
		e.char(ordered[e.bits<<(6-e.left)&63])
	}
	return string(append(e.out, mark))
}

// namePrefix returns what the names of all keys with a prefix begin with, if
// that is as long as it can be; names of other keys may begin with it too.
func namePrefix(prefix string) string {
	return string(encodeKey(wholeRunes(prefix)).out)
}

// wholeRunes cuts off a character that is not complete.
func wholeRunes(s string) string {
	for i := len(s) - 1; i >= 0 && i >= len(s)-utf8.UTFMax; i-- {
		if utf8.RuneStart(s[i]) {
			if !utf8.FullRuneInString(s[i:]) {
				return s[:i]
			}
			break
		}
	}
	return s
}

type encoder struct {
	out     []byte
	part    int // bytes since the last slash
	escapes int
	bits    uint // those of base 64 that are not written yet
	left    int  // how many
}

func encodeKey(key string) *encoder {
	e := &encoder{out: make([]byte, 0, len(key)+8)}
	for i := range len(key) {
		e.add(key[i])
	}
	return e
}

func (e *encoder) add(c byte) {
	if e.escapes == mostEscapes {
		e.dense(c)
		return
	}
	if utf8.RuneStart(c) {
		e.divide()
	}
	switch {
	case c <= mark:
		e.escapes++
		e.write(mark, hexDigits[c>>4], hexDigits[c&15])
	case e.part == 0 && (c == '-' || c == '.' || c == '/'):
		e.escapes++
		e.write('-', c)
	default:
		e.write(c)
	}
	if c == '/' {
		e.part = 0
	}
}

func (e *encoder) dense(c byte) {
	e.bits, e.left = e.bits<<8|uint(c), e.left+8
	for e.left >= 6 {
		e.left -= 6
		e.char(ordered[e.bits>>e.left&63])
	}
}

func (e *encoder) char(c byte) {
	e.divide()
	e.write(c)
}

func (e *encoder) write(b ...byte) {
	e.out = append(e.out, b...)
	e.part += len(b)
}

// divide ends a part that is long enough. It never looks at what comes next.
func (e *encoder) divide() {
	if e.part >= longestPart {
		e.out = append(e.out, '/')
		e.part = 0
	}
}

// keyOf returns the key of the object of a name; ok is false for a name that
// this driver never gives.
func keyOf(name string) (key string, ok bool) {
	text, found := strings.CutSuffix(name, string(mark))
	if !found {
		return "", false
	}
	d := decoder{in: text}
	for d.in != "" {
		d.next()
	}
	key = string(d.out)
	return key, key != "" && utf8.ValidString(key) && objectName(key) == name
}

// decoder reads what encoder writes, and something from everything else.
type decoder struct {
	in      string
	out     []byte
	part    int
	escapes int
	bits    uint
	left    int
}

func (d *decoder) take() (c byte) {
	if d.in == "" {
		return 0
	}
	c, d.in = d.in[0], d.in[1:]
	d.part++
	return c
}

func (d *decoder) next() {
	if d.part >= longestPart && utf8.RuneStart(d.in[0]) {
		d.take()
		d.part = 0
		return
	}
	first := d.part == 0
	c := d.take()
	switch {
	case d.escapes == mostEscapes:
		d.dense(c)
		return
	case c == mark:
		d.escapes++
		c = unhex(d.take())<<4 | unhex(d.take())
	case first && c == '-':
		d.escapes++
		c = d.take()
	}
	if c == '/' {
		d.part = 0
	}
	d.out = append(d.out, c)
}

func (d *decoder) dense(c byte) {
	d.bits, d.left = d.bits<<6|uint(max(strings.IndexByte(ordered, c), 0)), d.left+6
	if d.left >= 8 {
		d.left -= 8
		d.out = append(d.out, byte(d.bits>>d.left))
	}
}

func unhex(c byte) byte { return byte(max(strings.IndexByte(hexDigits, c), 0)) }

// spacePrefix returns what the names of a space begin with: two folders.
func spacePrefix(s driver.Space) string {
	return folderName(s.Namespace) + "/" + folderName(s.Pattern) + "/"
}

// folderName escapes a name so that no two are alike and none is the beginning
// of a special one: "!-" begins a digest, and "!" with anything else than two
// hexadecimal digits what Prism keeps for itself.
func folderName(name string) string {
	var b strings.Builder
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || (c == '-' || c == '.') && i > 0:
			b.WriteByte(c)
		default:
			b.Write([]byte{mark, hexDigits[c>>4], hexDigits[c&15]})
		}
	}
	if b.Len() <= longestName && b.Len() > 0 {
		return b.String()
	}
	sum := sha256.Sum256([]byte(name))
	return string(mark) + "-" + hex.EncodeToString(sum[:])
}
