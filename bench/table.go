package main

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// A table has a title and rows of cells; the first column stands left, the
// others right.
type table struct {
	title string
	head  []string
	rows  [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) write(out io.Writer) error {
	widths := make([]int, len(t.head))
	for _, row := range append([][]string{t.head}, t.rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	b.WriteString("\n" + t.title + "\n")
	for _, row := range append([][]string{t.head}, t.rows...) {
		b.WriteString(" ")
		for i, cell := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i == 0 {
				b.WriteString(" " + cell + pad)
			} else {
				b.WriteString("  " + pad + cell)
			}
		}
		b.WriteString("\n")
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func (r *report) printRows(out io.Writer) error {
	for at := 0; at < len(r.Rows); {
		end := at + 1
		for end < len(r.Rows) && r.Rows[end].sameContest(&r.Rows[at]) {
			end++
		}
		if err := contestTable(r.Rows[at:end]).write(out); err != nil {
			return err
		}
		at = end
	}
	return nil
}

func (r *row) sameContest(o *row) bool {
	return r.Contest == o.Contest && r.Verb == o.Verb && r.Bytes == o.Bytes && r.Callers == o.Callers
}

func contestTable(rows []row) *table {
	w := workload{rows[0].Verb, rows[0].Bytes, rows[0].Callers}
	t := &table{
		title: rows[0].Contest + ": " + w.String(),
		head:  []string{"", "op/s", "ratio", "p50", "p99", "CPU µs/op", "ratio", "allocs/op"},
	}
	open := rows[0].Open != nil
	if open {
		t.head = append(t.head, "open: at/s", "p50", "p99")
	}
	for _, r := range rows {
		cells := []string{
			r.Contender, countText(r.PerSecond), ratioText(r.Ratio), microsText(r.P50), microsText(r.P99),
			numberText(r.CPU), ratioText(r.RatioCPU), numberText(r.Allocs),
		}
		if r.Open != nil {
			cells = append(cells, countText(r.Open.PerSecond), microsText(r.Open.P50), microsText(r.Open.P99))
		}
		t.add(cells...)
	}
	return t
}

func (r *report) printGoals(out io.Writer) error {
	t := &table{title: "goals", head: []string{"", "measured", "wanted", ""}}
	for _, o := range r.outcomes {
		sign, verdict := ">=", "short"
		if o.atMost {
			sign, verdict = "<=", "over"
		}
		if o.met() {
			verdict = "met"
		}
		wanted := fmt.Sprintf("%s %.2f", sign, o.want)
		if math.IsNaN(o.want) {
			wanted, verdict = "", ""
		}
		t.add(fmt.Sprintf("%-15s %s", o.id, o.text), fmt.Sprintf("%.2f", o.measured), wanted, verdict)
	}
	if len(t.rows) == 0 {
		return nil
	}
	return t.write(out)
}

// countText writes a rate with three digits.
func countText(x float64) string {
	if x >= 1000 {
		return shortText(x/1000) + " k"
	}
	return shortText(x)
}

func shortText(x float64) string {
	switch {
	case x >= 100:
		return strconv.FormatFloat(x, 'f', 0, 64)
	case x >= 10:
		return strconv.FormatFloat(x, 'f', 1, 64)
	}
	return strconv.FormatFloat(x, 'f', 2, 64)
}

func microsText(x float64) string {
	if x >= 1000 {
		return shortText(x/1000) + " ms"
	}
	return strconv.FormatFloat(x, 'f', 0, 64) + " µs"
}

func timeText(d time.Duration) string { return microsText(micros(d)) }

func ratioText(x *float64) string {
	if x == nil {
		return ""
	}
	return strconv.FormatFloat(*x, 'f', 2, 64)
}

func numberText(x *float64) string {
	if x == nil {
		return "-"
	}
	return strconv.FormatFloat(*x, 'f', 1, 64)
}

func bytesText(n int) string {
	if n >= 1024 && n%1024 == 0 {
		return fmt.Sprintf("%d KiB", n/1024)
	}
	return fmt.Sprintf("%d B", n)
}

func callersText(n int) string {
	if n == 1 {
		return "1 caller"
	}
	return fmt.Sprintf("%d callers", n)
}
