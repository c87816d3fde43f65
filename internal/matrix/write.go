package main

import (
	"fmt"
	"slices"
	"strings"
)

func writeTechnologies(w *strings.Builder, all []technology) {
	w.WriteString("\n## What there is\n\n")
	table := [][]string{{"backend", "what it is", "`url`", "where `k` of `orders`/`carts` lies", "`layout` that adopts data"}}
	for _, t := range all {
		schemes := slices.DeleteFunc(slices.Clone(t.Schemes), func(s string) bool { return strings.HasPrefix(t.url, s+":") })
		url := code(t.url)
		if len(schemes) > 0 {
			url += ", also " + codes(schemes)
		}
		layout := "–"
		if t.layout != "" {
			layout = code(t.layout)
		}
		table = append(table, []string{t.Name, t.Summary, url, t.own, layout})
	}
	writeTable(w, table)
}

func writeGuarantees(w *strings.Builder, title, about string, guarantees []guarantee, columns []result) {
	if len(columns) == 0 {
		return
	}
	fmt.Fprintf(w, "\n## %s\n\n%s\n\n", title, about)
	table := [][]string{header("guarantee", columns)}
	for _, g := range guarantees {
		line := []string{g.name}
		for i := range columns {
			line = append(line, g.value(&columns[i]))
		}
		table = append(table, line)
	}
	writeTable(w, table)
	w.WriteString("\n")
	for _, g := range guarantees {
		fmt.Fprintf(w, "- *%s*: %s\n", g.name, g.about)
	}
}

// writeSuite writes which checks were made on which technology, and why others
// were not.
func writeSuite(w *strings.Builder, title, about string, rows []row, results []result) {
	if len(results) == 0 {
		return
	}
	fmt.Fprintf(w, "\n## %s\n\n%s\n\n", title, about)
	var notes []string
	table := [][]string{header("", results)}
	for _, r := range rows {
		line := []string{r.title}
		for _, found := range results {
			mark, reasons := cell(r, found)
			for _, text := range reasons {
				if !slices.Contains(notes, text) {
					notes = append(notes, text)
				}
				mark += " " + superscript(slices.Index(notes, text)+1)
			}
			line = append(line, mark)
		}
		table = append(table, line)
	}
	writeTable(w, table)
	if notes != nil {
		w.WriteString("\n")
	}
	for i, text := range notes {
		fmt.Fprintf(w, "- %s %s\n", superscript(i+1), text)
	}
}

// cell returns the mark of a row in one column, and a line for each reason why
// checks of it were not made.
func cell(r row, found result) (mark string, reasons []string) {
	var why []string
	names := map[string][]string{} // without the row's
	passed := false
	for _, c := range found.Checks {
		switch {
		case !r.has(c):
		case c.Result == "pass":
			passed = true
		default:
			if names[c.Reason] == nil {
				why = append(why, c.Reason)
			}
			names[c.Reason] = append(names[c.Reason], strings.TrimPrefix(c.Name, r.name+"/"))
		}
	}
	mark = "–"
	if passed {
		mark = "✓"
	}
	for _, reason := range why {
		text := reason + "."
		if passed || len(why) > 1 {
			text = fmt.Sprintf("*%s* %s: %s", r.name, strings.Join(names[reason], ", "), text)
		}
		reasons = append(reasons, text)
	}
	return mark, reasons
}

func writeAcks(w *strings.Builder, all []technology) {
	w.WriteString("\n## What an OK survives\n\n" + acksAbout + "\n\n")
	table := [][]string{{"backend", "settings", "process", "OS, power", "node", "why"}}
	for _, t := range all {
		for _, a := range t.Acks {
			table = append(table, []string{t.Name, a.Settings, yes(a.Process), yes(a.OS), yes(a.Node), a.Why + "."})
		}
	}
	writeTable(w, table)
}

// writeChecks names every check that some technology has passed.
func writeChecks(w *strings.Builder, title, about string, rows []row, results []result) {
	if len(results) == 0 {
		return
	}
	fmt.Fprintf(w, "\n## %s\n\n%s\n\n", title, about)
	for _, r := range rows {
		var names []string
		for _, found := range results {
			for _, c := range found.Checks {
				if r.has(c) && c.Result == "pass" {
					names = append(names, strings.TrimPrefix(c.Name, r.name+"/"))
				}
			}
		}
		slices.Sort(names)
		fmt.Fprintf(w, "- %s: %s\n", code(r.name), strings.Join(slices.Compact(names), ", "))
	}
}

func header(first string, columns []result) []string {
	line := []string{first}
	for _, c := range columns {
		line = append(line, c.Name)
	}
	return line
}

func writeTable(w *strings.Builder, table [][]string) {
	for i, line := range table {
		for _, c := range line {
			w.WriteString("| " + strings.ReplaceAll(c, "|", `\|`) + " ")
		}
		w.WriteString("|\n")
		if i == 0 {
			w.WriteString(strings.Repeat("|---", len(line)) + "|\n")
		}
	}
}

func code(text string) string { return "`" + text + "`" }

func codes(texts []string) string {
	quoted := make([]string, len(texts))
	for i, t := range texts {
		quoted[i] = code(t)
	}
	return strings.Join(quoted, ", ")
}

// superscript writes a number in small raised digits.
func superscript(n int) string {
	return strings.Map(func(r rune) rune { return []rune("⁰¹²³⁴⁵⁶⁷⁸⁹")[r-'0'] }, fmt.Sprint(n))
}
