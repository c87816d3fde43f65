package namespace

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "write what is answered now into testdata/*.txtar")

// TestGolden loads the files of each testdata/*.txtar and compares the answer
// with its section "want": the mistakes, or the plan that prism check prints.
func TestGolden(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob(filepath.Join("testdata", "*.txtar"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no testdata: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			t.Parallel()
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			files, want := split(archive)
			got := answer(t, files)
			if *update {
				archive.Files = append(archive.Files[:len(files):len(files)], txtar.File{Name: "want", Data: []byte(got)})
				if err := os.WriteFile(path, txtar.Format(archive), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// split returns the input files and the wanted answer, which comes last.
func split(a *txtar.Archive) (files []File, want string) {
	for _, f := range a.Files {
		if f.Name == "want" {
			return files, string(f.Data)
		}
		files = append(files, File{Name: f.Name, Data: f.Data})
	}
	return files, ""
}

func answer(t *testing.T, files []File) string {
	t.Helper()
	_, plan, err := Load(testCatalog(), files...)
	if err != nil {
		return err.Error() + "\n"
	}
	var out bytes.Buffer
	if err := plan.Explain(&out); err != nil {
		t.Fatal(err)
	}
	if raw, err := json.Marshal(plan); err != nil || !json.Valid(raw) {
		t.Errorf("the plan is no JSON: %v", err)
	}
	return out.String()
}
