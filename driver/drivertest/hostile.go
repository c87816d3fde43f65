package drivertest

import (
	"maps"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/prismgw/prism/driver"
)

// hostileKeys are keys that mean something to somebody: separators, wildcards,
// escapes, paths, hash tags, quotes, control characters, beginnings of each
// other, keys of equal letters but other case or form, and the longest ones.
func hostileKeys() []string {
	keys := []string{
		"a", "ab", "abc", "abcd", "a:", "a:b", "a:b:c", ":a", ":", "::", "a/b", "/", "//", ".", "..", "../a", "a..b",
		"%", "%%", "a%", "%41", "_", "__", "a_c", "a%c", "*", "**", "a*", "a*c", "?", "a?c", "[", "]", "[a]", "[a-c]", "[^a]",
		"{", "}", "{}", "{a}", "{a}b", "a{b}c", `\`, `\\`, `a\`, `\*`, `\a`, `\x41`, `a\nb`, "\n", "a\nb", "\r\n", "\t", " ", "  ", " a", "a ",
		"'", "''", `"`, "`", "'; drop table prism_kv; --", "$1", "$a", "#", "a#b", "&", "+", "a+b", "~", "^", "|", "<", ">", "=", ",", ";", "@", "!",
		"A", "AB", "é", "e\u0301", "É", "ß", "ss", "İ", "日本", "日本語", "😀", "\u200b", "\ufeff", "a\u0001b", "\u007f", "\U0010ffff", "\ufffd",
		"null", "nil", "0", "00", "-1", "1e3", "true", "id", "key", "__prism",
		"a.b", "a.b.c", "a.*", "a.>", "$KV", "_INBOX",
	}
	return append(keys,
		strings.Repeat("k", driver.MaxKey),
		strings.Repeat("k", driver.MaxKey-1)+"l",
		strings.Repeat("k", driver.MaxKey-1),
		strings.Repeat("%", driver.MaxKey),
		strings.Repeat("😀", driver.MaxKey/4),
		strings.Repeat("日", driver.MaxKey/3))
}

// hostileValues are values of all kinds of bytes, and of sizes at which a
// technology may change how it keeps them, as far as they may be so long.
func (e *env) hostileValues() map[string][]byte {
	binary := make([]byte, 256)
	for i := range binary {
		binary[i] = byte(i)
	}
	all := map[string][]byte{
		"nil":       nil,
		"empty":     {},
		"zero":      {0},
		"zeroes":    make([]byte, 100),
		"binary":    binary,
		"not-utf-8": {0xff, 0xfe, 0xc0, 0x80},
		"newlines":  []byte("\r\n\r\n$5\r\nhello\n"),
		"json":      []byte(`{"a":[1,2,"\u0000"]}`),
		"quotes":    []byte(`'"\x00\\`),
		"unicode":   []byte("e\u0301 é 日本語 😀"),
		"spaces":    []byte("  \t "),
		"number":    []byte("0042"),
		"64KiB":     noise(64 << 10),
		"65KiB":     noise(65<<10 + 1),
		"1MiB":      noise(1 << 20),
	}
	maps.DeleteFunc(all, func(_ string, v []byte) bool { return len(v) > e.g.MaxValue })
	return all
}

// noise returns bytes that no one can compress.
func noise(n int) []byte {
	r := rand.New(rand.NewPCG(uint64(n), 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func quote(text string) string { return strconv.QuoteToASCII(text) }
