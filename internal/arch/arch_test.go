package arch

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The rules are worth something only if breaking one is found: each row is one
// import that somebody might well write.
func TestViolationsAreFound(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		from, to string
		test     bool   // the import stands in a test file
		want     string // part of the violation; empty: allowed
	}{
		{from: "driver/redis", to: "driver"},
		{from: "driver/redis", to: "driver/wrap"},
		{from: "driver/redis", to: "context"},
		{from: "driver/redis", to: "github.com/redis/rueidis/rueidiscompat"},
		{from: "driver/redis", to: "driver/memory", want: "no other technology"},
		{from: "driver/redis", to: "driver/drivertest", want: "nothing that serves tests"},
		{from: "driver/redis", to: "driver/drivertest", test: true},
		{from: "driver/redis", to: "testing", want: "only tests"},
		{from: "driver/redis", to: "pattern", want: "no other technology"},
		{from: "driver/redis", to: "google.golang.org/grpc/codes", want: "its backend's protocol"},
		{from: "driver/wrap", to: "github.com/redis/rueidis", want: "SDK stays with its technology"},
		{from: "driver", to: "driver/memory", want: "knows no technology"},
		{from: "errs", to: "driver", want: "stands on nothing"},
		{from: "pattern/keyvalue", to: "pattern"},
		{from: "pattern/keyvalue", to: "driver/sqlite", want: "no technology"},
		{from: "pattern/keyvalue", to: "pattern/producer", want: "no other pattern"},
		{from: "proxy", to: "driver/redis", want: "knows none of it"},
		{from: "proxy", to: "pattern/keyvalue", want: "knows none of it"},
		{from: "proxy", to: "client/prismtest", want: "nothing that serves tests"},
		{from: "client", to: "driver", want: "nothing of the server"},
		{from: "client", to: "github.com/prometheus/client_golang/prometheus", want: "where operations are observed"},
		{from: "client/prismtest", to: "driver/sqlite"},
		{from: "cmd/prismctl", to: "proxy", want: "no server"},
		{from: "cmd/prismctl", to: "cmd/prism", want: "nothing imports a command"},
		{from: "test", to: "cmd/prism", test: true, want: "nothing imports a command"},
		{from: "proxy", to: "example.com/left-pad", want: "no row"},
		{from: "utils", to: "errs", want: "without a rule"},
	} {
		m := &Module{Packages: map[string]Package{tt.from: {Imports: []string{tt.to}}}}
		if tt.test {
			m.Packages[tt.from] = Package{TestImports: []string{tt.to}}
		}
		first, _, _ := strings.Cut(tt.to, "/")
		if ours := []string{"errs", "driver", "pattern", "proxy", "client", "cmd"}; slices.Contains(ours, first) {
			m.Packages[tt.to] = Package{}
		}
		got := strings.Join(violations(m), "\n")
		if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
			t.Errorf("%s imports %s: got %q, want %q", tt.from, tt.to, got, tt.want)
		}
	}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":             "module example.com/m\n\nrequire example.com/a v1.0.0\n\nrequire example.com/b v1.0.0 // indirect\n",
		"m.go":               "package m\n\nimport _ \"example.com/m/one\"\n",
		"one/one.go":         "package one\n\nimport (\n\t_ \"fmt\"\n\t_ \"example.com/m/two\"\n)\n",
		"one/more.go":        "//go:build plan9\n\npackage one\n\nimport (\n\t_ \"fmt\"\n\t_ \"example.com/a/x\"\n)\n",
		"one/one_test.go":    "package one_test\n\nimport _ \"testing\"\n",
		"two/two.go":         "package two\n",
		"two/testdata/no.go": "package no\n",
		".tools/no.go":       "package no\n",
		"nested/go.mod":      "module example.com/nested\n",
		"nested/no.go":       "package no\n",
	} {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m, err := Load(root)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"example.com/a"}; !slices.Equal(m.Requires, want) {
		t.Errorf("requires %v, want %v", m.Requires, want)
	}
	if len(m.Packages) != 3 {
		t.Errorf("packages %v, want three of them", m.Packages)
	}
	if got, want := m.Packages["one"].Imports, []string{"example.com/a/x", "fmt", "two"}; !slices.Equal(got, want) {
		t.Errorf("one imports %v, want %v", got, want)
	}
	if got, want := m.Packages["one"].TestImports, []string{"testing"}; !slices.Equal(got, want) {
		t.Errorf("the tests of one import %v, want %v", got, want)
	}
	if got, want := m.LongestChain(), []string{".", "one", "two"}; !slices.Equal(got, want) {
		t.Errorf("longest chain %v, want %v", got, want)
	}
}

func TestMatch(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		pattern, pkg string
		want         bool
	}{
		{"driver", "driver", true},
		{"driver", "driver/redis", false},
		{"driver/*", "driver", false},
		{"driver/*", "driver/redis", true},
		{"driver/*", "driver/redis/script", false},
		{"driver/...", "driver", true},
		{"driver/...", "driver/redis/script", true},
		{"driver/...", "drivers", false},
	} {
		if got := Match(tt.pattern, tt.pkg); got != tt.want {
			t.Errorf("Match(%q, %q) = %v", tt.pattern, tt.pkg, got)
		}
	}
}
