package nats

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"unicode/utf8"

	"github.com/prismgw/prism/driver"
)

// maxName is how long the token of a namespace or a pattern may be, so that
// subjects fit a line of the protocol.
const maxName = 200

// spacePrefix returns the beginning of the subjects of a space. Every space
// has its own, and no subject below one is below another.
func spacePrefix(bucket string, s driver.Space) string {
	return "$KV." + bucket + "." + nameToken(s.Namespace) + "." + nameToken(s.Pattern) + "."
}

// nameToken returns a token for any name. What is not escaped begins with an =
// that no hex digits follow.
func nameToken(name string) string {
	if name == "" {
		return "="
	}
	token := escape(name)
	if len(token) > maxName {
		sum := sha256.Sum256([]byte(name))
		return "=_" + hex.EncodeToString(sum[:])
	}
	return token
}

const upperHex = "0123456789ABCDEF"

// escape returns text as a token of letters that KeyValue clients allow.
func escape(text string) string {
	extra := 0
	for i := range len(text) {
		if !plain(text[i]) {
			extra += 2
		}
	}
	if extra == 0 {
		return text
	}
	var b strings.Builder
	b.Grow(len(text) + extra)
	for i := range len(text) {
		if c := text[i]; plain(c) {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'=', upperHex[c>>4], upperHex[c&15]})
		}
	}
	return b.String()
}

func plain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '/'
}

// unescape returns the key that escape makes token of, ok false if there is
// none: other programs can write such a token, and no key of KV reaches it.
func unescape(token string) (key string, ok bool) {
	key = token
	if strings.IndexByte(token, '=') >= 0 {
		if key, ok = decode(token); !ok {
			return "", false
		}
	}
	valid := key != "" && len(key) <= driver.MaxKey && utf8.ValidString(key) && strings.IndexByte(key, 0) < 0
	return key, valid && escape(key) == token
}

func decode(token string) (string, bool) {
	var b strings.Builder
	b.Grow(len(token))
	for i := 0; i < len(token); i++ {
		if token[i] != '=' {
			b.WriteByte(token[i])
			continue
		}
		if i+2 >= len(token) {
			return "", false
		}
		high, low := strings.IndexByte(upperHex, token[i+1]), strings.IndexByte(upperHex, token[i+2])
		if high < 0 || low < 0 {
			return "", false
		}
		b.WriteByte(byte(high<<4 | low))
		i += 2
	}
	return b.String(), true
}
