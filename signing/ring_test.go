package signing

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/errs"
)

// secretOf is a key of n bytes in base64, each time the same.
func secretOf(seed byte, n int) string {
	key := make([]byte, n)
	for i := range key {
		key[i] = seed ^ byte(i*7)
	}
	return base64.StdEncoding.EncodeToString(key)
}

func TestRing(t *testing.T) {
	t.Parallel()
	a, b := secretOf(1, 32), secretOf(2, 64)
	old, err := parse(fmt.Sprintf(`{"current": "2026-10", "keys": {"2026-10": %q}}`, a))
	if err != nil {
		t.Fatal(err)
	}
	both, err := parse(fmt.Sprintf(" {\"keys\": {\"2026-10\": %q, \"2026-11\": %q}, \"current\": \"2026-11\"}\n", a, b))
	if err != nil {
		t.Fatal(err)
	}
	first, err := old.Sign(envelope.New("shop", "orders", nil))
	if err != nil {
		t.Fatal(err)
	}
	second, err := both.Sign(envelope.New("shop", "orders", nil))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := both.Verify(first); err != nil {
		t.Errorf("the previous key: %v", err)
	}
	if h, err := both.Verify(second); err != nil || string(h.SigningKeyID) != "2026-11" {
		t.Errorf("the current key: %s %v", h.SigningKeyID, err)
	}
	if _, err := old.Verify(second); err == nil {
		t.Error("a key that is not there verifies")
	}
}

func TestRingsThatAreNone(t *testing.T) {
	t.Parallel()
	good, other := secretOf(1, 32), secretOf(2, 32)
	unpadded := strings.TrimRight(good, "=")
	for _, c := range []struct {
		text string
		want []string
	}{
		{``, []string{`not a ring of keys`, `write {"current"`}},
		{`current: a`, []string{"not a ring of keys"}},
		{`[]`, []string{"not a ring of keys"}},
		{good, []string{"not a ring of keys"}},
		{`{"current": "a", "keys": {"a": "` + good + `"}} {}`, []string{"not a ring of keys"}},
		{`{"current": "a", "keys": {"a": "` + good + `"}`, []string{"not a ring of keys"}},
		{`{"current": 7, "keys": {"a": "` + good + `"}}`, []string{"not a ring of keys"}},
		{`{"current": "a", "keys": {"a": 7}}`, []string{"not a ring of keys"}},
		{`{"current": "a", "keys": ["` + good + `"]}`, []string{"not a ring of keys"}},
		{`{}`, []string{"there are no keys"}},
		{`{"current": "a", "keys": {}}`, []string{"there are no keys"}},
		{`{"keys": {"a": "` + good + `"}}`, []string{"current is missing"}},
		{`{"current": "b", "keys": {"a": "` + good + `"}}`, []string{`current is "b", which is none of the keys`}},
		{`{"current": "` + good + `", "keys": {"a": "` + good + `"}}`, []string{"which is none of the keys"}},
		{`{"current": "a", "keys": {"a": "` + good + `"}, "kyes": {"b": ["` + good + `"]}}`, []string{`"kyes" is unknown`}},
		{`{"current": "a", "keys": {"a": "` + good + `", "` + other + `": "b"}}`, []string{"is no id of a key"}},
		{`{"current": "a", "keys": {"a": "` + good + `", "` + strings.Repeat("b", 33) + `": "` + other + `"}}`, []string{"is no id of a key"}},
		{`{"current": "a", "keys": {"a": "` + good + `", "a": "` + other + `"}}`, []string{`"a" is there twice`}},
		{`{"current": "a", "current": "b", "keys": {"a": "` + good + `"}}`, []string{`"current" is there twice`}},
		{`{"current": "a", "keys": {"a": "` + good + `", "b": "` + good + `"}}`, []string{`the keys "a" and "b" are the same`}},
		{`{"current": "a", "keys": {"a": "` + unpadded + `"}}`, []string{`"a" is not base64`}},
		{`{"current": "a", "keys": {"a": "hunter2!"}}`, []string{`"a" is not base64`}},
		{
			`{"current": "c", "keys": {"a": "` + secretOf(1, 31) + `", "b": "` + secretOf(1, 65) + `"}, "x": 1}`,
			[]string{`"a" has 31 bytes`, `"b" has 65 bytes`, `"x" is unknown`, `current is "c"`},
		},
	} {
		ring, err := parse(c.text)
		if ring != nil || errs.ReasonOf(err) != errs.InvalidConfiguration {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %s", c.text, err, want)
			}
		}
		for _, secret := range []string{good, unpadded, other, secretOf(1, 31), secretOf(1, 65), "hunter2"} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%s: a key is shown: %v", c.text, err)
			}
		}
	}
}

func FuzzRing(f *testing.F) {
	f.Add(`{"current": "a", "keys": {"a": "` + secretOf(1, 32) + `"}}`)
	f.Add(`{"keys": {"a": 1}, "current": null}`)
	f.Fuzz(func(t *testing.T, text string) {
		ring, err := parse(text)
		if (ring == nil) == (err == nil) || err != nil && errs.ReasonOf(err) != errs.InvalidConfiguration {
			t.Errorf("%v, %v", ring, err)
		}
	})
}
