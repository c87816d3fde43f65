package brokers

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

// The tables name tests that there are, and every test stands in a table.
func TestTablesNameTests(t *testing.T) {
	t.Parallel()
	tables := found(t, "README*.md", "`(Test\\w+)`")
	tests := found(t, "*_test.go", `(?m)^func (Test\w+)\(`)
	for _, name := range tables {
		if !slices.Contains(tests, name) {
			t.Errorf("a table names %s, which is no test", name)
		}
	}
	for _, name := range tests {
		if name != t.Name() && !slices.Contains(tables, name) {
			t.Errorf("%s stands in no table", name)
		}
	}
}

func found(t *testing.T, files, pattern string) (all []string) {
	t.Helper()
	names, err := filepath.Glob(files)
	must(t, err)
	for _, name := range names {
		text, err := os.ReadFile(name)
		must(t, err)
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(text), -1) {
			all = append(all, m[1])
		}
	}
	return all
}
