package driver_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/prismgw/prism/driver"
)

func TestLocalPath(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for text, want := range map[string]string{
		"file:a.db": filepath.Join(dir, "a.db"), "file:sub/a": filepath.Join(dir, "sub/a"), "file:../a": filepath.Join(filepath.Dir(dir), "a"),
		"file:///var/a": "/var/a", "file:/var/a": "/var/a", "file:a%3Fb%23c": filepath.Join(dir, "a?b#c"), "file:a b": filepath.Join(dir, "a b"),
	} {
		if got, err := driver.LocalPath(text, "file", dir); err != nil || got != want {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
	for text, says := range map[string]string{
		"sqlite:a": "not of this driver", "a": "not of this driver", ":": "not of this driver",
		"file://host/a": "names a host", "file://u@/a": "names a host",
		"file:a?b": "has a query", "file:a?": "has a query", "file:a#b": "has a query",
		"file:a%zz": "", "file:": "names nothing", "file:a%00b": "NUL",
	} {
		if got, err := driver.LocalPath(text, "file", dir); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %q, %v, want %q", text, got, err, says)
		}
	}
}
