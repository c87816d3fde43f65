package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const table = `# Evidence

| item | test | command |
|---|:--|---|
| a | TestA | ` + "`true`" + ` |
| b | TestB, TestC | ` + "`echo one \\| grep one` and `true`" + ` |
`

func TestExtract(t *testing.T) {
	t.Parallel()
	got, err := extract(table, "")
	if want := []string{"true", "echo one | grep one"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	if got, err := extract(table, "TestC"); err != nil || len(got) != 2 {
		t.Errorf("got %q, %v; want the two commands of one row", got, err)
	}
	if _, err := extract(table, "TestD"); err == nil {
		t.Error("a text that no row contains is no error")
	}
	if _, err := extract(table+"| c | `TestD` | later |\n", ""); err == nil || !strings.Contains(err.Error(), "line 7") {
		t.Errorf("got %v, want an error about the row without a command", err)
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "evidence.md")
	text := table + "| c | | `echo seen; exit 3` |\n| d | | `false \\| true` |\n| e | | `echo testing: warning: no tests to run` |\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	failed, err := run(t.Context(), &out, file, "")
	if err != nil || failed != 3 {
		t.Errorf("%d failed, %v; want 3", failed, err)
	}
	for _, want := range []string{"exit status 3\nseen", "it ran no test", "2 of 5 commands passed"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	if _, err := run(t.Context(), &out, file+".missing", ""); err == nil {
		t.Error("a missing file is no error")
	}
}
