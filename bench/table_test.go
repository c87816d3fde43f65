package main

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"
)

func TestTable(t *testing.T) {
	t.Parallel()
	tbl := &table{title: "title", head: []string{"", "µs", "ratio"}}
	tbl.add("short", "1.0", "")
	tbl.add("much longer", "100.0", "0.90")
	var out bytes.Buffer
	if err := tbl.write(&out); err != nil {
		t.Fatal(err)
	}
	want := "\ntitle\n" +
		"                  µs  ratio\n" +
		"  short          1.0       \n" +
		"  much longer  100.0   0.90\n"
	if out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

func TestTexts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ got, want string }{
		{countText(31_234), "31.2 k"},
		{countText(512_345), "512 k"},
		{countText(1234), "1.23 k"},
		{countText(12.34), "12.3"},
		{timeText(127 * time.Microsecond), "127 µs"},
		{timeText(1790 * time.Microsecond), "1.79 ms"},
		{bytesText(128), "128 B"},
		{bytesText(4096), "4 KiB"},
		{callersText(1), "1 caller"},
		{callersText(64), "64 callers"},
		{numberText(nil), "-"},
		{ratioText(nil), ""},
		{at64.String(), "Retrieve 128 B, 64 callers"},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
}

func TestRounded(t *testing.T) {
	t.Parallel()
	for in, want := range map[float64]float64{123456: 123500, 0.912345: 0.9123, 0: 0, 1: 1, 17.126: 17.13} {
		if got := rounded(in); got != want {
			t.Errorf("%v is rounded to %v, want %v", in, got, want)
		}
	}
	if known(math.NaN()) != nil || known(math.Inf(1)) != nil {
		t.Error("what is not known has a number")
	}
}

// TestVerdicts checks the goals' table, and that a goal is only compared where
// both of its contenders ran.
func TestVerdicts(t *testing.T) {
	t.Parallel()
	echo, memory := &contender{name: nameEcho}, &contender{name: nameUnary("memory")}
	c := &contest{family: "unary", work: at64, contenders: []*contender{echo, memory}, results: map[*contender]*result{
		echo:   {closed: []sample{{rate: 100, cpu: 10 * time.Microsecond, p50: time.Millisecond}}},
		memory: {closed: []sample{{rate: 95, cpu: 13 * time.Microsecond, p50: time.Millisecond}}},
	}}
	r := newReport(&plan{contests: []*contest{c}, limits: limits{idle: 20 << 20, ready: 2 * time.Second}})
	if r.Ratios["P1"] != 0.95 || r.Ratios["P1_cpu"] != 1.3 || r.Ratios["P11"] != 20 || r.Ratios["P11_ready"] != 2 {
		t.Errorf("%v", r.Ratios)
	}
	for _, id := range []string{"P2", "P4", "P5", "P8", "P11_namespaces", "P12"} {
		if _, there := r.Ratios[id]; there {
			t.Errorf("%s is there although nothing measured it", id)
		}
	}
	var out bytes.Buffer
	if err := r.print(&out); err != nil {
		t.Fatal(err)
	}
	for id, verdict := range map[string]string{"P1 ": "met", "P1_cpu ": "over", "P11 ": "met", "P11_ready ": "over"} {
		if line := lineOf(out.String(), id); !strings.HasSuffix(line, verdict) {
			t.Errorf("%q does not end with %s", line, verdict)
		}
	}
}

func lineOf(text, id string) string {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "  "+id) {
			return strings.TrimSpace(line)
		}
	}
	return ""
}
