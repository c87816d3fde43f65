package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
)

// A report is the outcome of a run, as it is written to a file.
type report struct {
	Ratios  map[string]float64 `json:"ratios"`
	Rows    []row              `json:"rows"`
	Missing []string           `json:"missing,omitempty"` // what was left out, and why
	CPUs    int                `json:"cpus"`
	Go      string             `json:"go"`
	Seconds float64            `json:"seconds"`

	outcomes []outcome
}

// A row is one contender under one workload: medians of its rounds.
type row struct {
	Contest   string `json:"contest"`
	Contender string `json:"contender"`
	Verb      verb   `json:"verb"`
	Bytes     int    `json:"bytes"`
	Callers   int    `json:"callers"`

	// Of the closed loop: callers that call again when they are answered.
	PerSecond float64  `json:"per_second"`
	P50       float64  `json:"p50_us"`
	P99       float64  `json:"p99_us"`
	CPU       *float64 `json:"server_cpu_us"`  // per operation
	Allocs    *float64 `json:"server_allocs"`  // per operation
	Ratio     *float64 `json:"ratio"`          // of throughput to the contest's first
	RatioCPU  *float64 `json:"ratio_cpu"`      // likewise, of CPU
	Open      *open    `json:"open_loop"`      // nil if there was none
	Rounds    int      `json:"rounds"`         // that the medians are of
	Ops       int      `json:"measured_calls"` // in all rounds
}

// open is what calls took that came at a fixed rate, from when they were due.
type open struct {
	PerSecond float64 `json:"per_second"`
	P50       float64 `json:"p50_us"`
	P99       float64 `json:"p99_us"`
}

func newReport(p *plan) *report {
	r := &report{Ratios: make(map[string]float64), Missing: p.missing, CPUs: runtime.NumCPU(), Go: runtime.Version()}
	for _, t := range p.contests {
		for _, c := range t.contenders {
			res := t.results[c]
			switch {
			case res == nil:
			case res.err != nil:
				r.Missing = append(r.Missing, fmt.Sprintf("%s: %s: %v", t.title(), c.name, res.err))
			default:
				r.Rows = append(r.Rows, t.row(c, res))
			}
		}
	}
	r.outcomes = outcomes(p.contests, p.limits)
	for _, o := range r.outcomes {
		r.Ratios[o.id] = rounded(o.measured)
	}
	return r
}

func (t *contest) row(c *contender, res *result) row {
	out := row{
		Contest: t.family, Contender: c.name, Verb: t.work.verb, Bytes: t.work.size, Callers: t.work.callers,
		PerSecond: rounded(medianOf(res.closed, rateOf)), P50: rounded(medianOf(res.closed, p50Of)), P99: rounded(medianOf(res.closed, p99Of)),
		CPU: known(medianOf(res.closed, cpuOf)), Allocs: known(medianOf(res.closed, allocsOf)), Rounds: len(res.closed),
	}
	for _, s := range res.closed {
		out.Ops += s.ops
	}
	if first := t.results[t.contenders[0]]; first.err == nil && first != res {
		out.Ratio = known(ratioOf(res.closed, first.closed, rateOf))
		out.RatioCPU = known(ratioOf(res.closed, first.closed, cpuOf))
	}
	if len(res.open) > 0 {
		out.Open = &open{rounded(res.rate), rounded(medianOf(res.open, p50Of)), rounded(medianOf(res.open, p99Of))}
	}
	return out
}

// known is nil for what is not.
func known(x float64) *float64 {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return nil
	}
	x = rounded(x)
	return &x
}

// rounded keeps four digits: more would be noise.
func rounded(x float64) float64 {
	if x == 0 || math.IsNaN(x) || math.IsInf(x, 0) {
		return x
	}
	unit := math.Pow(10, math.Floor(math.Log10(math.Abs(x)))-3)
	return math.Round(math.Round(x/unit)*unit*1e6) / 1e6
}

func (r *report) write(path string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644) //nolint:gosec // results are for everybody
}

// print writes the tables for a person.
func (r *report) print(out io.Writer) error {
	if err := r.printRows(out); err != nil {
		return err
	}
	if err := r.printGoals(out); err != nil {
		return err
	}
	for _, m := range r.Missing {
		if _, err := fmt.Fprintln(out, "left out:", m); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(out, "\n%.0f s, %d CPUs, %s\n", r.Seconds, r.CPUs, r.Go)
	return err
}
