package namespace

import (
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestAdversaries decodes the largest files of the worst shapes. None may
// take long or much memory, whatever it answers.
func TestAdversaries(t *testing.T) {
	most := MaxFile - 4096
	if raceEnabled || testing.Short() {
		most /= 16
	}
	fill := func(head, unit string) string { return head + strings.Repeat(unit, (most-len(head))/len(unit)) }
	backend := "kind: Backend\nname: a\ndriver: memory\noptions: "
	wide := strings.Repeat("{"+strings.Repeat("k", 64)+": ", 30)
	for name, text := range map[string]string{
		"comments":          fill("kind: Namespace\nname: a\n", "#\n"),
		"documents":         fill("", "---\n"),
		"bad documents":     fill("", "---\n*x\n"),
		"bad lines":         fill("", "a: b: c\n---\n"),
		"unknown keys":      fill("kind: Namespace\n", "k: 1\n"),
		"brackets":          fill(backend, "["),
		"braces":            fill(backend, "{a: "),
		"JSON brackets":     fill(`{"kind":"Backend","options":`, `[`),
		"JSON depth":        `{"kind":"Backend","options":{"a":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + "}}",
		"JSON list":         `{"kind":"Backend","name":"a","driver":"memory","options":{"a":[` + fill("", "1,") + "1]}}",
		"JSON documents":    fill("", "{}\n"),
		"deep wide keys":    backend + wide + fill("[", "017,") + "1]" + strings.Repeat("}", 30),
		"empty keys":        fill(backend+"\n", "  ? \n"),
		"aliases":           fill("a: &a [x]\nb: [", "*a,") + "]",
		"one line":          fill("kind: Namespace\nname: ", "x"),
		"one key":           fill("", "x") + ": 1\nkind: Namespace",
		"indents":           indents(1000),
		"quotes":            fill("kind: Namespace\nteam: \"", "\\x41"),
		"block":             fill("kind: Namespace\nteam: |\n", " x\n"),
		"question marks":    fill("", "? "),
		"dashes":            fill("", "- "),
		"tags":              fill("kind: !", "a"),
		"patterns":          fill("kind: Namespace\nname: a\npatterns:\n", "- {name: a, kind: keyvalue}\n"),
		"unknown backends":  fill("kind: Namespace\nname: a\npatterns:\n", "- {name: a, kind: keyvalue, slots: {store-kv: {backend: b}}}\n"),
		"directives":        fill("", "%YAML 1.2\n---\n"),
		"anchors":           fill("", "&a "),
		"colons":            fill("", ": "),
		"flow pairs":        fill("[", "a: b, "),
		"open quotes":       fill("", "'\n"),
		"comment each line": fill("kind: Namespace\nlabels:\n", " a: b # c\n"),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := cpuTime(t)
		_, _, err := Load(testCatalog(), File{Name: "a.yaml", Data: []byte(text)})
		took := cpuTime(t) - start
		runtime.ReadMemStats(&after)
		allocated := (after.TotalAlloc - before.TotalAlloc) >> 20
		t.Logf("%-18s %8v %6d MiB allocated", name, took.Round(time.Millisecond), allocated)
		if took > 10*time.Second || allocated > 4096 {
			t.Errorf("%s: %v, %d MiB allocated", name, took, allocated)
		}
		if err != nil && len(err.Error()) > 2<<20 {
			t.Errorf("%s: a message of %d bytes", name, len(err.Error()))
		}
	}
}

// indents nests mappings as deep as n lines allow.
func indents(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	return b.String()
}
