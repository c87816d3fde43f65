// Command budget measures this module against the budgets of its style and
// prints a table. Most rows are there to be looked at in review; four of them
// are enforced, because nothing speaks for breaking them.
package main

import (
	"cmp"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/prismgw/prism/internal/arch"
)

const (
	maxMethods      = 6
	maxChain        = 7
	maxDependencies = 45
)

func main() {
	root := flag.String("root", ".", "the module's folder")
	enforce := flag.Bool("enforce", false, "exit 1 if an enforced budget is broken")
	flag.Parse()

	broken, err := run(os.Stdout, *root)
	if err != nil {
		fmt.Fprintln(os.Stderr, "budget:", err)
		os.Exit(2)
	}
	if *enforce && broken {
		os.Exit(1)
	}
}

// run prints the table and what breaks an enforced budget.
func run(w io.Writer, root string) (broken bool, err error) {
	t, err := measure(root)
	if err != nil {
		return false, err
	}
	m, err := arch.Load(root)
	if err != nil {
		return false, err
	}
	printTable(w, append(t.rows(), moduleRows(m)...))
	for _, v := range t.violations() {
		broken = true
		fmt.Fprintln(w, "broken:", v)
	}
	return broken, nil
}

// A row is one line of the table.
type row struct {
	measure, budget, now string
	fits                 bool
	enforced             bool
}

func printTable(w io.Writer, rows []row) {
	const format = "%-2s %-44s %-34s %s\n"
	fmt.Fprintf(w, format, "", "measure (! is enforced)", "budget", "now")
	for _, r := range rows {
		mark, name := "ok", r.measure
		if !r.fits {
			mark = "--"
		}
		if r.enforced {
			name += " !"
		}
		fmt.Fprintf(w, format, mark, name, r.budget, r.now)
	}
}

func (t *tree) rows() []row {
	functions, files, interfaces := spread(t.functions), spread(t.files), spread(t.interfaces)
	exports := spread(t.exportSamples())
	undocumented := len(t.uncommentedPackages())
	contract, byContract := t.contractShare()
	implementation := t.implementation.share()
	tests := float64(t.testLines) / float64(max(t.codeLines, 1))
	return []row{
		{"packages with a package comment", "100 %", fmt.Sprintf("%d of %d", len(t.packages)-undocumented, len(t.packages)), undocumented == 0, true},
		{"exported identifiers without a comment", "0", fmt.Sprint(len(t.undocumented)), len(t.undocumented) == 0, true},
		{"func init()", "0", fmt.Sprint(len(t.inits)), len(t.inits) == 0, true},
		{"methods of the largest interface", fmt.Sprintf("<= %d", maxMethods), fmt.Sprintf("%d (%s)", interfaces.max.n, interfaces.max.at), interfaces.max.n <= maxMethods, true},
		{"methods per interface", "median <= 2", fmt.Sprint(interfaces.mid), interfaces.mid <= 2, false},
		{"lines per function", "median <= 10, p90 <= 40, max 100", functions.all(), functions.fits(10, 40, 100), false},
		{"lines per file", "median <= 150, p90 <= 400, max 700", files.all(), files.fits(150, 400, 700), false},
		{"exported names per package, contracts aside", "median <= 5, p90 <= 15", exports.all(), exports.fits(5, 15, exports.max.n), false},
		{"comment share of contracts", ">= 45 %", byContract, contract >= 45, false},
		{"comment share of implementations", "<= 20 %", fmt.Sprintf("%d %%", implementation), implementation <= 20, false},
		{"lines of tests / lines of code", "0.8 to 1.5", fmt.Sprintf("%.2f (%d / %d)", tests, t.testLines, t.codeLines), tests >= 0.8 && tests <= 1.5, false},
		{"go.mod files", "1", fmt.Sprint(t.modFiles), t.modFiles == 1, false},
	}
}

func moduleRows(m *arch.Module) []row {
	chain := m.LongestChain()
	imports := max(len(chain)-1, 0)
	return []row{
		{"longest chain of imports", fmt.Sprintf("<= %d", maxChain), fmt.Sprintf("%d (%s)", imports, strings.Join(chain, " -> ")), imports <= maxChain, false},
		{"direct dependencies", fmt.Sprintf("<= %d", maxDependencies), fmt.Sprint(len(m.Requires)), len(m.Requires) <= maxDependencies, false},
	}
}

// violations returns what breaks an enforced budget, and where.
func (t *tree) violations() []string {
	var found []string
	for _, pkg := range t.uncommentedPackages() {
		found = append(found, pkg+" has no package comment")
	}
	for _, where := range t.undocumented {
		found = append(found, where+" is exported without a comment")
	}
	for _, where := range t.inits {
		found = append(found, where+": init runs behind everybody's back; call it where it is needed")
	}
	for _, i := range t.interfaces {
		if i.n > maxMethods {
			found = append(found, fmt.Sprintf("%s has %d methods, more than %d", i.at, i.n, maxMethods))
		}
	}
	return found
}

func (t *tree) uncommentedPackages() []string {
	var found []string
	for pkg, commented := range t.packages {
		if !commented {
			found = append(found, pkg)
		}
	}
	slices.Sort(found)
	return found
}

func (t *tree) exportSamples() []sample {
	var all []sample
	for pkg := range t.packages {
		if !slices.Contains(contracts, pkg) {
			all = append(all, sample{t.exports[pkg], pkg})
		}
	}
	return all
}

// contractShare returns the share of comment of all contract packages, and a
// text that has each one's.
func (t *tree) contractShare() (share int, text string) {
	var all lines
	var each []string
	for _, pkg := range slices.Sorted(maps.Keys(t.contracts)) {
		all = all.plus(t.contracts[pkg])
		each = append(each, fmt.Sprintf("%s %d %%", pkg, t.contracts[pkg].share()))
	}
	return all.share(), fmt.Sprintf("%d %% (%s)", all.share(), strings.Join(each, ", "))
}

// distribution sums up samples.
type distribution struct {
	mid, p90 int
	max      sample
}

func spread(samples []sample) distribution {
	if len(samples) == 0 {
		return distribution{}
	}
	slices.SortFunc(samples, func(a, b sample) int { return cmp.Or(cmp.Compare(a.n, b.n), cmp.Compare(b.at, a.at)) })
	last := len(samples) - 1
	return distribution{mid: samples[last/2].n, p90: samples[last*9/10].n, max: samples[last]}
}

func (d distribution) fits(mid, p90, most int) bool {
	return d.mid <= mid && d.p90 <= p90 && d.max.n <= most
}

func (d distribution) all() string {
	return fmt.Sprintf("%d / %d / %d (%s)", d.mid, d.p90, d.max.n, d.max.at)
}
