package keyvalue

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

func TestCheckKey(t *testing.T) {
	t.Parallel()
	for key, ok := range map[string]bool{
		"": false, "a": true, "\x00": false, "a\x00b": false, "\xff": false, "\xed\xa0\x80": false, "a\xc3": false,
		"\x01": true, "\n": true, "/": true, "..": true, "%00": true, "\u2028": true, "\U0010FFFF": true, "\uFFFD": true,
		strings.Repeat("k", 1024): true, strings.Repeat("k", 1025): false, strings.Repeat("é", 512): true, strings.Repeat("é", 513): false,
	} {
		err := checkKey(key)
		if (err == nil) != ok || !ok && !errors.Is(err, errs.InvalidKey) {
			t.Errorf("%.40q: %v", key, err)
		}
	}
}

func FuzzCheckKey(f *testing.F) {
	for _, key := range []string{"", "a", "\x00", "\xff", "é", strings.Repeat("k", 1024), strings.Repeat("k", 1025)} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		err := checkKey(key)
		good := len(key) >= 1 && len(key) <= 1024 && utf8.ValidString(key) && !strings.ContainsRune(key, 0)
		if (err == nil) != good {
			t.Errorf("%q: %v", key, err)
		}
		if err != nil && len(key) > 3 && strings.Contains(err.Error(), key) {
			t.Errorf("the key is in its error: %v", err)
		}
	})
}

func TestCheckTTL(t *testing.T) {
	t.Parallel()
	for ttl, ok := range map[time.Duration]bool{
		0: false, -1: false, time.Millisecond - 1: false, time.Millisecond: true, driver.MaxTTL: true, driver.MaxTTL + 1: false,
	} {
		if f, got := checkTTL(ttl); got != ok || !ok && (f.Path != "ttl" || f.Text == "") {
			t.Errorf("%v: %v %v", ttl, got, f)
		}
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	for text, field := range map[string]string{
		"": "", "{}": "", `{"default_ttl": "30s"}`: "",
		`{"default_ttl": "-30s"}`: "settings.default_ttl", `{"default_ttl": "1us"}`: "settings.default_ttl",
		`{"default_ttl": 30}`: "settings", `{"ttl": "30s"}`: "settings", `[]`: "settings", `{} {}`: "settings",
	} {
		_, err := decodeSettings(json.RawMessage(text))
		var fields []string
		if err != nil {
			for _, f := range errs.From(err).Fields {
				fields = append(fields, f.Path)
			}
		}
		if strings.Join(fields, " ") != field {
			t.Errorf("%s: %v, want %q", text, err, field)
		}
	}
}

func TestCheckBatch(t *testing.T) {
	t.Parallel()
	same := func(int) string { return "k" }
	err := errs.From(checkBatch("items", 1000, 0, same))
	if err == nil || len(err.Fields) != maxViolations {
		t.Errorf("%d violations are told", len(err.Fields))
	}
	if err := checkBatch("items", 1000, 4<<20, func(i int) string { return fmt.Sprint(i) }); err != nil {
		t.Error(err)
	}
	if err := checkBatch("items", 1, 4<<20+1, same); !errors.Is(err, errs.PayloadTooLarge) || errs.From(err).Meta["limit_of"] != "batch" {
		t.Error(err)
	}
}

func TestParameters(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]string{
		"": "<nil> false", "ttl=30s": "30s false", "ttl=1m30s&x=1": "1m30s false", "ttl=": "ttl", "ttl=1": "ttl", "ttl=1s&ttl=1s": "ttl",
		"with_expiry=true": "<nil> true", "with_expiry=false": "<nil> false", "with_expiry": "with_expiry", "with_expiry=yes": "with_expiry", "with_expiry=true&with_expiry=true": "with_expiry",
	} {
		u := &url.URL{RawQuery: query}
		ttl, err := ttlParameter(u)
		expiry, err2 := flag(u, "with_expiry")
		got := "<nil> "
		if ttl != nil {
			got = ttl.AsDuration().String() + " "
		}
		got += fmt.Sprint(expiry)
		if err := errors.Join(err, err2); err != nil {
			got = errs.From(err).Fields[0].Path
		}
		if got != want {
			t.Errorf("%q: %s, want %s", query, got, want)
		}
	}
}

func TestIfNoneMatch(t *testing.T) {
	t.Parallel()
	for list, want := range map[string]bool{
		`"v"`: true, `W/"v"`: true, `*`: true, `"a", "v"`: true, `"a","v" ,"b"`: true, `"a"`: false, `v`: false, ``: false, `"V"`: false, `"v`: false, `"vv"`: false,
	} {
		if got := known(http.Header{"If-None-Match": {list}}, "v"); got != want {
			t.Errorf("%s: %v", list, got)
		}
	}
}

// A value is shown as what it is: nothing is lost in the JSON form.
func TestDescribe(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		"": "text", "1": "json", `{"a":[1,2]}`: "json", "null": "json", `"x"`: "json", "word": "text", "{": "text", "\xff": "base64", "\"\xff\"": "base64", "\x00": "text",
		strings.Repeat("[", 20000): "text",
	} {
		d := describe("k", &driver.Entry{Value: []byte(value), Version: "v"})
		b, err := json.Marshal(d)
		if err != nil || d.Encoding != want || !utf8.Valid(b) {
			t.Errorf("%.20q: %s %v", value, d.Encoding, err)
		}
	}
}
