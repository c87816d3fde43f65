package driver_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/prismgw/prism/driver"
)

func TestSubjects(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", driver.MaxSubject)
	for s, want := range map[string][2]bool{ // a subject, a filter
		"a": {true, true}, "a.b-1._": {true, true}, long: {true, true},
		"a.*": {false, true}, "*": {false, true}, ">": {false, true}, "a.>": {false, true}, "*.*.>": {false, true},
		"": {}, ".": {}, "a.": {}, ".a": {}, "a..b": {}, "a.>.b": {}, "a*": {}, "a.>b": {}, "**": {},
		"a b": {}, "é": {}, "a\n": {}, "a%": {}, "$SYS.x": {}, "a:b": {}, long + "a": {}, "[a]": {},
	} {
		if got := driver.ValidSubject(s); got != want[0] {
			t.Errorf("ValidSubject(%q): %v", s, got)
		}
		if got := driver.ValidFilter(s); got != want[1] {
			t.Errorf("ValidFilter(%q): %v", s, got)
		}
	}
}

func TestMatches(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		filter, subject string
		want            bool
	}{
		{"a", "a", true},
		{"a", "b", false},
		{"a", "a.b", false},
		{"a.b", "a", false},
		{"*", "a", true},
		{"*", "a.b", false},
		{"a.*", "a.b", true},
		{"a.*", "a", false},
		{"a.*", "a.b.c", false},
		{"*.b", "a.b", true},
		{"*.b", "a.c", false},
		{"a.*.c", "a.b.c", true},
		{">", "a", true},
		{">", "a.b.c", true},
		{"a.>", "a", false},
		{"a.>", "a.b", true},
		{"a.>", "a.b.c", true},
		{"a.>", "ab.c", false},
		{"*.>", "a", false},
		{"*.>", "a.b", true},
	} {
		if got := driver.Matches(c.filter, c.subject); got != c.want {
			t.Errorf("Matches(%q, %q): %v", c.filter, c.subject, got)
		}
	}
}

// FuzzMatches holds Matches against a regular expression.
func FuzzMatches(f *testing.F) {
	f.Add("a.*.>", "a.b.c.d")
	f.Add(">", "a")
	f.Add("a-b._", "a-b._")
	f.Fuzz(func(t *testing.T, filter, subject string) {
		if !driver.ValidFilter(filter) || !driver.ValidSubject(subject) {
			return // callers check that
		}
		pattern := strings.NewReplacer(".", `\.`, "*", `[^.]+`, ">", `.+`).Replace(filter)
		want := regexp.MustCompile("^" + pattern + "$").MatchString(subject)
		if got := driver.Matches(filter, subject); got != want {
			t.Errorf("Matches(%q, %q): %v", filter, subject, got)
		}
	})
}
