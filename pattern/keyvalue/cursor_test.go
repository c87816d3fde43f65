package keyvalue

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prismgw/prism/errs"
)

var epoch = time.Unix(1_700_000_000, 0)

func cursorsAt(namespace, backend string, now time.Time) cursors {
	return newCursors(namespace, "data", backend, func() time.Time { return now })
}

// A cursor is good for the scan that gave it out, for an hour.
func TestCursorBindings(t *testing.T) {
	t.Parallel()
	own := []byte("where it stopped")
	c := cursorsAt("orders", "file", epoch)
	text := c.encode("a/", own)
	got, err := c.decode("a/", text)
	if err != nil || !bytes.Equal(got, own) {
		t.Fatalf("%q %v", got, err)
	}
	for what, x := range map[string]struct {
		by     cursors
		prefix string
		want   error
	}{
		"an hour later":         {cursorsAt("orders", "file", epoch.Add(time.Hour)), "a/", nil},
		"more than an hour":     {cursorsAt("orders", "file", epoch.Add(time.Hour+time.Second)), "a/", errs.StaleCursor},
		"a clock that is back":  {cursorsAt("orders", "file", epoch.Add(-time.Minute)), "a/", nil},
		"another prefix":        {c, "a", errs.InvalidCursor},
		"no prefix":             {c, "", errs.InvalidCursor},
		"another namespace":     {cursorsAt("order", "file", epoch), "a/", errs.InvalidCursor},
		"another pattern":       {newCursors("orders", "more", "file", func() time.Time { return epoch }), "a/", errs.InvalidCursor},
		"another backend":       {cursorsAt("orders", "redis", epoch), "a/", errs.StaleCursor},
		"names that run across": {newCursors("orders\x00data", "", "file", func() time.Time { return epoch }), "a/", errs.InvalidCursor},
	} {
		got, err := x.by.decode(x.prefix, text)
		if !errors.Is(err, x.want) || x.want == nil && !bytes.Equal(got, own) {
			t.Errorf("%s: %q %v, want %v", what, got, err, x.want)
		}
	}
}

// The beginning and the end of a scan have no cursor.
func TestCursorEnds(t *testing.T) {
	t.Parallel()
	c := cursorsAt("orders", "file", epoch)
	if text := c.encode("", nil); text != "" {
		t.Errorf("the end: %q", text)
	}
	if own, err := c.decode("", ""); own != nil || err != nil {
		t.Errorf("the beginning: %q %v", own, err)
	}
	if own, err := c.decode("", c.encode("", []byte{})); own == nil || len(own) != 0 || err != nil {
		t.Errorf("a driver's empty cursor: %q %v", own, err)
	}
}

// A cursor that was changed anywhere is refused, not understood.
func TestCursorMangled(t *testing.T) {
	t.Parallel()
	c := cursorsAt("orders", "file", epoch)
	text := c.encode("", []byte("somewhere"))
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		for bit := range 8 {
			raw[i] ^= 1 << bit
			if own, err := c.decode("", base64.RawURLEncoding.EncodeToString(raw)); !errors.Is(err, errs.InvalidCursor) {
				t.Errorf("bit %d of byte %d: %q %v", bit, i, own, err)
			}
			raw[i] ^= 1 << bit
		}
	}
	for _, other := range []string{text[1:], text[:len(text)-1], text + "A", text + "=", " " + text, text + "\n", "/" + text[1:], "made-up", strings.Repeat("A", cursorMax+1)} {
		if own, err := c.decode("", other); !errors.Is(err, errs.InvalidCursor) {
			t.Errorf("%.60q: %q %v", other, own, err)
		}
	}
}

// Whatever a driver's cursor is, what is given out can be taken back.
func TestCursorFits(t *testing.T) {
	t.Parallel()
	c := cursorsAt("orders", "file", epoch)
	own := bytes.Repeat([]byte{0xff}, 1024+64)
	if got, err := c.decode("p", c.encode("p", own)); err != nil || !bytes.Equal(got, own) {
		t.Errorf("%v", err)
	}
}

func FuzzCursor(f *testing.F) {
	c := cursorsAt("orders", "file", epoch)
	f.Add("", "", []byte(nil))
	f.Add("a/", c.encode("a/", []byte("x")), []byte("x"))
	f.Add("a/", "AAAA", []byte{0})
	f.Fuzz(func(t *testing.T, prefix, text string, own []byte) {
		if got, err := c.decode(prefix, text); err == nil && text != "" {
			if again := c.encode(prefix, got); again != text {
				t.Errorf("%q was taken and is not one of ours: %q", text, again)
			}
		} else if err != nil && !errors.Is(err, errs.InvalidCursor) && !errors.Is(err, errs.StaleCursor) {
			t.Errorf("%q: %v", text, err)
		}
		if own == nil || len(own) > 1024+64 {
			return
		}
		if got, err := c.decode(prefix, c.encode(prefix, own)); err != nil || !bytes.Equal(got, own) {
			t.Errorf("%q came back as %q %v", own, got, err)
		}
	})
}
