package files

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// TestNames checks that every name fits every file system, and that no two keys
// have names that one could take for each other.
func TestNames(t *testing.T) {
	t.Parallel()
	keys := rapid.OneOf(
		rapid.StringN(1, -1, driver.MaxBlobKey),
		rapid.StringOfN(rapid.SampledFrom([]rune(`aAbB/.,^%~é `)), 1, driver.MaxBlobKey/2, -1),
	)
	rapid.Check(t, func(t *rapid.T) {
		a, b := keys.Draw(t, "key"), keys.Draw(t, "other key")
		name := objectName(a)
		switch {
		case len(name) > longestName:
			t.Errorf("%q has %d bytes", name, len(name))
		case strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_.^,%~") != "":
			t.Errorf("%q has characters that not every file system keeps", name)
		case name[0] == '.' || name[len(name)-1] == '.':
			t.Errorf("%q begins or ends with a dot", name)
		case (a == b) != strings.EqualFold(name, objectName(b)):
			t.Errorf("%q and %q are %q and %q", a, b, name, objectName(b))
		}
		key, whole, ok := decode(name)
		if !ok || whole && key != a || !strings.HasPrefix(a, key) || whole != (len(encode(a)) <= longestName) {
			t.Errorf("%q stands for %q (whole %v, ok %v), want %q", name, key, whole, ok, a)
		}
	})
}

func TestConfiguration(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		config driver.Config
		path   string // "": the fields that are reported instead
		fields string
	}{
		{driver.Config{URL: "file:objects", Dir: "/srv"}, "/srv/objects", ""},
		{driver.Config{URL: "file:///var/objects/", Dir: "/srv"}, "/var/objects", ""},
		{driver.Config{URL: "file:a%20b", Dir: "/srv", Options: []byte(`{"sync": "never"}`)}, "/srv/a b", ""},
		{driver.Config{URL: "file:"}, "", "url"},
		{driver.Config{URL: "files:a"}, "", "url"},
		{driver.Config{URL: "file://host/a"}, "", "url"},
		{driver.Config{URL: "file:a?sync=never"}, "", "url"},
		{driver.Config{URL: "file:a%zz"}, "", "url"},
		{driver.Config{URL: "file:a%00"}, "", "url"},
		{driver.Config{URL: "file:a", Options: []byte(`{"sync": "sometimes", "max_object": 0}`)}, "", "options.sync options.max_object"},
		{driver.Config{URL: "file:a", Options: []byte(`{"max_object": 5368709121}`)}, "", "options.max_object"},
		{driver.Config{URL: "file:a", Asserts: []byte(`{"local": true}`)}, "", "asserts"},
	} {
		s, err := parse(&x.config)
		if got := fields(err); got != x.fields {
			t.Errorf("%+v: the fields %q are reported, want %q (%v)", x.config, got, x.fields, err)
		}
		if err == nil && s.path != x.path {
			t.Errorf("%s: %q, want %q", x.config.URL, s.path, x.path)
		}
	}
}

func fields(err error) string {
	if err == nil {
		return ""
	}
	var paths []string
	for _, f := range errs.From(err).Fields {
		paths = append(paths, f.Path)
	}
	return strings.Join(paths, " ")
}
