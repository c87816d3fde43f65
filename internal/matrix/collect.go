package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prismgw/prism/driver"
)

// A result is what a suite found in one run: one file of PRISM_MATRIX_DIR.
type result struct {
	column
	Checks     []check                 `json:"checks"`
	Guarantees driver.Guarantees       `json:"guarantees"`
	Watcher    bool                    `json:"watcher"`
	Blob       driver.BlobGuarantees   `json:"blob"`   // of suite blob, which has none of the others
	PubSub     driver.PubSubGuarantees `json:"pubsub"` // likewise, of suite pubsub
	Log        driver.LogGuarantees    `json:"log"`    // likewise, of suite log
	Queue      driver.QueueGuarantees  `json:"queue"`  // likewise, of suite queue
	written    time.Time
}

// A column names a run as the page's tables do.
type column struct {
	Suite string `json:"suite"`  // drivertest, blob, pubsub, log, queue or patterntest
	Name  string `json:"driver"` // "redis", "redis (cluster)"
}

// A check is one sentence of a contract; its result is pass or exception.
type check struct {
	Name   string `json:"name"`
	Result string `json:"result"`
	Reason string `json:"reason"`
}

// collect returns the result of every harness below root, as it lies in dir.
// Packages whose results are missing there, or older than the code, are run;
// what their tests say goes to log.
func collect(ctx context.Context, log io.Writer, root, dir string) ([]result, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, err
	}
	all, err := harnesses(root)
	if err != nil {
		return nil, err
	}
	if err := refresh(ctx, log, root, dir, all); err != nil {
		return nil, err
	}
	found, err := read(dir)
	if err != nil {
		return nil, err
	}
	results := make([]result, len(all))
	for i, h := range all {
		r, ok := found[h.column]
		if !ok {
			return nil, fmt.Errorf("%s in %s has passed and written no result for %q", h.test, h.dir, h.Name)
		}
		results[i] = r
	}
	return results, nil
}

// refresh runs what dir does not hold.
func refresh(ctx context.Context, log io.Writer, root, dir string, all []harness) error {
	found, err := read(dir)
	if err != nil {
		return err
	}
	packages := map[string][]harness{}
	for _, h := range all {
		packages[h.dir] = append(packages[h.dir], h)
	}
	for _, pkg := range slices.Sorted(maps.Keys(packages)) {
		changed, err := lastChange(ctx, root, pkg)
		if err != nil {
			return err
		}
		old := func(h harness) bool { return !found[h.column].written.After(changed) }
		if !slices.ContainsFunc(packages[pkg], old) {
			continue
		}
		if err := runTests(ctx, log, root, dir, pkg, packages[pkg]); err != nil {
			return err
		}
	}
	return nil
}

// read returns the results in a folder.
func read(dir string) (map[column]result, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	found := map[column]result{}
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			return nil, err
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		r := result{written: info.ModTime()}
		if err := driver.DecodeStrict(text, &r); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		r.Suite = cmp.Or(r.Suite, "drivertest")
		found[r.column] = r
	}
	return found, nil
}

// lastChange returns when the newest file was changed that a package's tests
// are made of.
func lastChange(ctx context.Context, root, pkg string) (newest time.Time, err error) {
	const format = `{{$in := .Dir}}{{if and .Module .Module.Main}}{{.Module.GoMod}}
{{range .GoFiles}}{{$in}}/{{.}}
{{end}}{{range .EmbedFiles}}{{$in}}/{{.}}
{{end}}{{end}}`
	list := exec.CommandContext(ctx, "go", "list", "-deps", "-test", "-f", format, "./"+pkg) //nolint:gosec // our own packages
	list.Dir, list.Stderr = root, os.Stderr
	out, err := list.Output()
	if err != nil {
		return newest, fmt.Errorf("go list of %s: %w", pkg, err)
	}
	for file := range strings.FieldsFuncSeq(string(out), func(r rune) bool { return r == '\n' }) {
		info, err := os.Stat(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the main package of the tests, which go makes up
		}
		if err != nil {
			return newest, err
		}
		if info.ModTime().After(newest) {
			newest = info.ModTime()
		}
	}
	return newest, nil
}

// runTests runs the tests of a package that run a suite.
func runTests(ctx context.Context, log io.Writer, root, dir, pkg string, all []harness) error {
	var tests []string
	for _, h := range all {
		tests = append(tests, h.test)
	}
	slices.Sort(tests)
	pattern := "^(" + strings.Join(slices.Compact(tests), "|") + ")$"
	test := exec.CommandContext(ctx, "go", "test", "-count=1", "-timeout=15m", "-run="+pattern, "./"+pkg) //nolint:gosec // our own packages
	test.Env = append(os.Environ(), "PRISM_MATRIX_DIR="+dir)
	test.Dir, test.Stdout, test.Stderr = root, log, log
	if err := test.Run(); err != nil {
		return fmt.Errorf("the tests of %s: %w", pkg, err)
	}
	return nil
}
