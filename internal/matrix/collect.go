package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prismgw/prism/driver"
)

// A harness is one place in a test file that runs a suite: a literal such as
// drivertest.Harness{Name: "redis", …}.
type harness struct {
	column
	dir  string // of the package, below the root
	test string // the function
}

// A column names one run in the page's tables.
type column struct {
	Suite string `json:"suite"`  // drivertest or patterntest
	Name  string `json:"driver"` // "redis", "redis (cluster)"
}

// A result is what a suite found in one run: one file of PRISM_MATRIX_DIR.
type result struct {
	column
	Checks     []check           `json:"checks"`
	Guarantees driver.Guarantees `json:"guarantees"`
	Watcher    bool              `json:"watcher"`
	written    time.Time
}

// A check is one row of a suite; its result is pass or exception.
type check struct {
	Name   string `json:"name"`
	Result string `json:"result"`
	Reason string `json:"reason"`
}

var suites = []string{"drivertest", "patterntest"}

// collect returns the result of every harness below root, as it lies in dir.
// Packages whose results are missing there, or older than the code, are run.
func collect(ctx context.Context, root, dir string) ([]result, error) {
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
	packages := map[string][]harness{}
	for _, h := range all {
		packages[h.dir] = append(packages[h.dir], h)
	}
	found, err := read(dir)
	if err != nil {
		return nil, err
	}
	for _, pkg := range slices.Sorted(maps.Keys(packages)) {
		changed, err := lastChange(ctx, root, pkg)
		if err != nil {
			return nil, err
		}
		usable := func(h harness) bool { return found[h.column].written.After(changed) }
		if !all2(packages[pkg], usable) {
			if err := runTests(ctx, root, dir, pkg, packages[pkg]); err != nil {
				return nil, err
			}
		}
	}
	if found, err = read(dir); err != nil {
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
