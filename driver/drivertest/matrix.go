package drivertest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prismgw/prism/driver"
)

const (
	pass      = "pass"
	exception = "exception"
)

// result is what a check found.
type result struct {
	Name   string `json:"name"`
	Result string `json:"result"`
	Reason string `json:"reason,omitempty"`
}

// matrix is the file that a run writes.
type matrix struct {
	Suite      string                   `json:"suite,omitempty"` // "" for that of KV
	Driver     string                   `json:"driver"`
	Checks     []result                 `json:"checks"`
	Guarantees *driver.Guarantees       `json:"guarantees,omitempty"`
	Watcher    bool                     `json:"watcher"`
	Blob       *driver.BlobGuarantees   `json:"blob,omitempty"`
	PubSub     *driver.PubSubGuarantees `json:"pubsub,omitempty"`
	Log        *driver.LogGuarantees    `json:"log,omitempty"`
	Queue      *driver.QueueGuarantees  `json:"queue,omitempty"`
}

func (s *suite) record(name, what, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.results = append(s.results, result{name, what, reason})
}

// write writes the matrix if it is asked for and every check was run and
// passed.
func (s *suite) write(t *testing.T, m matrix) {
	t.Helper()
	dir := os.Getenv("PRISM_MATRIX_DIR")
	if dir == "" || s.h.Name == "" || t.Failed() {
		return
	}
	if want := len(s.checks); len(s.results) != want {
		t.Errorf("%d of %d checks were run; the matrix is written by a run without -run below %s", len(s.results), want, t.Name())
		return
	}
	slices.SortFunc(s.results, func(a, b result) int { return strings.Compare(a.Name, b.Name) })
	m.Checks = s.results
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	//nolint:gosec // the folder is the one that whoever runs the tests asked for
	if err := os.WriteFile(filepath.Join(dir, fileName(m.Suite+" "+s.h.Name)), append(text, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
}

// fileName makes a file's name of a harness's: "redis (cluster)" is
// redis-cluster.json.
func fileName(name string) string {
	words := strings.FieldsFunc(strings.ToLower(name), func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9')
	})
	return strings.Join(words, "-") + ".json"
}
