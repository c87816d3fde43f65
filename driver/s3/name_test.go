package s3

import (
	"cmp"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/prismgw/prism/driver"
)

// anyKey makes up keys of the bytes that matter to names, and of others.
var anyKey = rapid.Custom(func(t *rapid.T) string {
	few := rapid.SampledFrom([]string{"a", "b", "/", "//", ".", "..", "-", "!", " ", "\n", "\x01", "'", "\"", "0", "~", "é", "日", "😀", "\u00ff", strings.Repeat("k", 60), strings.Repeat("/", 40), strings.Repeat(" ", 70)})
	key := strings.Join(rapid.SliceOfN(few, 1, 30).Draw(t, "parts"), "")
	if rapid.IntRange(0, 3).Draw(t, "any") == 0 {
		key = rapid.StringN(1, 100, driver.MaxBlobKey).Draw(t, "text")
	}
	key = strings.ReplaceAll(key, "\x00", "0")
	return wholeRunes(key[:min(len(key), driver.MaxBlobKey)])
})

// worst are keys of the length and the bytes that names grow by most.
var worst = []string{
	strings.Repeat("/", driver.MaxBlobKey), strings.Repeat(" ", driver.MaxBlobKey), strings.Repeat("\x01", driver.MaxBlobKey), strings.Repeat("!", driver.MaxBlobKey),
	strings.Repeat(" /", driver.MaxBlobKey/2), strings.Repeat("../", driver.MaxBlobKey/3), strings.Repeat("-/", driver.MaxBlobKey/2),
	strings.Repeat("k", driver.MaxBlobKey-64) + strings.Repeat(" ", 64), strings.Repeat("😀", driver.MaxBlobKey/4), strings.Repeat("k", driver.MaxBlobKey), strings.Repeat("k", 199) + "é" + strings.Repeat("k", 300),
}

func checkName(t interface{ Fatalf(string, ...any) }, key string) {
	name := objectName(key)
	if got, ok := keyOf(name); !ok || got != key {
		t.Fatalf("%q is %q, which is the key %q, %v", key, name, got, ok)
	}
	if len(name) > 1024-2*(longestName+1)-longestPrefix-1 {
		t.Fatalf("the name of %q has %d bytes", key, len(name))
	}
	if !utf8.ValidString(name) {
		t.Fatalf("%q is %q, which is no text", key, name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." || len(part) > 225 {
			t.Fatalf("%q is %q, of which a part is no name of a file", key, name)
		}
	}
	for i, c := range []byte(name) {
		if c <= ' ' {
			t.Fatalf("%q is %q, with a control character at %d", key, name, i)
		}
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	for _, key := range worst {
		checkName(t, key)
	}
	for key, want := range map[string]string{
		"orders/2024/a.pdf": "orders/2024/a.pdf!", "my file": "my!20file!", "a//b": "a/-/b!", "../a": "-../a!", "a/": "a/!", "/": "-/!", ".": "-.!", "-": "--!", "100%": "100%!",
	} {
		if got := objectName(key); got != want {
			t.Errorf("%q is %q, want %q", key, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) { checkName(t, anyKey.Draw(t, "key")) })
}

func TestNamesKeepTheOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b := anyKey.Draw(t, "a"), anyKey.Draw(t, "b")
		if rapid.Bool().Draw(t, "alike") {
			b = wholeRunes(a[:rapid.IntRange(0, len(a)).Draw(t, "cut")]) + b
			b = wholeRunes(b[:min(len(b), driver.MaxBlobKey)])
		}
		if cmp.Compare(a, b) != cmp.Compare(objectName(a), objectName(b)) {
			t.Fatalf("%q and %q are %q and %q, in another order", a, b, objectName(a), objectName(b))
		}
		if folder := objectName(b) + "/"; strings.HasPrefix(objectName(a), folder) {
			t.Fatalf("%q needs a folder where %q is a file", objectName(a), objectName(b))
		}
	})
}

func TestNamesOfAPrefix(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		key := anyKey.Draw(t, "key")
		prefix := key[:rapid.IntRange(0, len(key)).Draw(t, "cut")]
		if got := namePrefix(prefix); !strings.HasPrefix(objectName(key), got) || !utf8.ValidString(got) {
			t.Fatalf("the name of %q is %q, which does not begin with %q", key, objectName(key), got)
		}
		if keep := wholeRunes(prefix); len(keep) < 30 && namePrefix(prefix) != strings.TrimSuffix(objectName(keep), "!") {
			t.Fatalf("%q is %q, which is shorter than it could be", prefix, namePrefix(prefix))
		}
	})
}

func TestNamesOfOthers(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "!", "a", "a b!", "a//b!", "!0g!", "!41!", "-a!", "a!20", "a!2!", ".a!", strings.Repeat("k", 300) + "!", "\xff!", "a/-b!"} {
		if key, ok := keyOf(name); ok {
			t.Errorf("%q is taken for the name of %q", name, key)
		}
	}
}

func TestFolders(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("n", 100)
	names := []string{"a", "A", "a/b", "a!", "!a", "", ".", "..", "-", "!-", ".a", "a.b", "é", " ", "!2E", long, long + "n", "!-" + strings.Repeat("0", 64), "!probe"}
	seen := map[string]string{}
	for _, name := range names {
		got := folderName(name)
		if other, there := seen[got]; there || got == "" || len(got) > longestName || strings.ContainsAny(got, "/ ") || strings.Trim(got, ".") == "" {
			t.Errorf("the folder of %q is %q, that of %q", name, got, other)
		}
		seen[got] = name
	}
}
