package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The echo server is this test program, run again.
func TestMain(m *testing.M) {
	if serveEcho() || serveNATS() {
		return
	}
	os.Exit(m.Run())
}

// TestSmoke runs what is quick on the memory driver, in windows too short to
// say anything, and looks whether every figure is there.
func TestSmoke(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "out.json")
	var out, progress bytes.Buffer
	err := run(t.Context(), []string{"-rounds", "1", "-window", "250ms", "-only", "(unary|stream|HTTP): .* 128 B, (1 caller|64 callers)$", "-json", file, "-quick"}, &out, &progress)
	if err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"P1", "P1_cpu", "P4", "P5", "P9", "P12", "P12_connections"} {
		if r.Ratios[id] <= 0 {
			t.Errorf("the ratio %s is missing\n%s%s", id, out.String(), strings.Join(r.Missing, "\n"))
		}
	}
	for _, row := range r.Rows {
		if row.PerSecond <= 0 || row.P50 <= 0 || row.P99 < row.P50 || row.Ops == 0 {
			t.Errorf("%s: %s measured nothing: %+v", row.Contest, row.Contender, row)
		}
		if row.CPU == nil || *row.CPU <= 0 {
			t.Errorf("%s: %s has no CPU", row.Contest, row.Contender)
		}
		if row.Allocs == nil && row.Contender != nameMany && row.Contender != nameEchoMany {
			t.Errorf("%s: %s has no allocations", row.Contest, row.Contender)
		}
	}
	for _, want := range []string{"gRPC echo", "CPU µs/op", "P1_cpu", "goals"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output lacks %q:\n%s", want, out.String())
		}
	}
}

// TestOpenLoopRuns lets some of the full set run once, with the open loop.
func TestOpenLoopRuns(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("TestSmoke is enough when time is short")
	}
	file := filepath.Join(t.TempDir(), "out.json")
	var out, progress bytes.Buffer
	err := run(t.Context(), []string{"-rounds", "1", "-window", "300ms", "-only", "stream: Retrieve 128 B, 64 callers$", "-json", file}, &out, &progress)
	if err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	if !strings.Contains(out.String(), "open: at/s") || !strings.Contains(progress.String(), "p99") {
		t.Errorf("no open loop was run:\n%s%s", progress.String(), out.String())
	}
}

func TestFlags(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ args, wrong string }{
		{"-quick extra", "no flag"},
		{"-only (", "-only"},
		{"-rounds 0", "-rounds"},
		{"-window -1s", "-window"},
		{"-fast", "not defined"},
	} {
		var usage bytes.Buffer
		if _, err := parse(strings.Fields(c.args), &usage); err == nil || !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%s: %v, which does not say %q", c.args, err, c.wrong)
		}
	}
}
