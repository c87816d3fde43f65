package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/prismgw/prism/driver"
)

var update = flag.Bool("update", false, "write testdata/page.md")

// made is a world of two technologies that nobody has.
func made() []technology {
	return []technology{
		{driver.Driver{
			Name: "paper", Summary: "sheets | in a drawer", Schemes: []string{"paper"},
			Acks: []driver.Ack{{Settings: "default", Process: true, OS: true, Why: "ink stays"}},
		}, "paper:drawer", "a sheet", `{"drawer": "old"}`},
		{driver.Driver{
			Name: "smoke", Summary: "signals", Schemes: []string{"smoke", "smokes"},
			Acks: []driver.Ack{{Settings: "default", Why: "the wind takes it"}},
		}, "smoke://hill", "in the air", ""},
	}
}

func results(t *testing.T) []result {
	t.Helper()
	found, err := read("testdata")
	if err != nil {
		t.Fatal(err)
	}
	var all []result
	for _, r := range found { // in any order: the page has its own
		all = append(all, r)
	}
	return all
}

func pick(all []result, name string) *result {
	return &all[slices.IndexFunc(all, func(r result) bool { return r.Name == name })]
}

func TestPage(t *testing.T) {
	t.Parallel()
	const golden = "testdata/page.md"
	text, err := page(made(), results(t))
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(golden, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || !bytes.Equal(text, want) {
		t.Errorf("%v; the page is not %s (go test ./internal/matrix -update writes it):\n%s", err, golden, text)
	}
}

// TestChangesAreSeen checks that whatever a run may find anew changes the page,
// and that the comparison says so.
func TestChangesAreSeen(t *testing.T) {
	t.Parallel()
	golden, err := os.ReadFile("testdata/page.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(technologies []technology, r *result){
		"a guarantee": func(_ []technology, r *result) { r.Guarantees.OrderedScan = !r.Guarantees.OrderedScan },
		"an ability":  func(_ []technology, r *result) { r.Watcher = !r.Watcher },
		"an exception": func(_ []technology, r *result) {
			r.Checks[0] = check{r.Checks[0].Name, "exception", "it broke"}
		},
		"a reason":               func(_ []technology, r *result) { r.Checks[1].Reason += " now" },
		"a guarantee of objects": func(_ []technology, r *result) { r.Blob.Conditional = !r.Blob.Conditional },
		"a guarantee of tasks":   func(_ []technology, r *result) { r.Queue.Shared = !r.Queue.Shared },
		"a check":                func(_ []technology, r *result) { r.Checks = append(r.Checks, check{"ttl/new", "pass", ""}) },
		"an ack":                 func(all []technology, _ *result) { all[0].Acks[0].OS = false },
		"a scheme":               func(all []technology, _ *result) { all[1].Schemes = append(all[1].Schemes, "smoke+dark") },
		"a harness":              func(_ []technology, r *result) { r.Name += " (north)" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all, found := made(), results(t)
			r := pick(found, "smoke")
			switch name {
			case "a harness":
				r = pick(found, "paper (adopted)")
			case "a guarantee of objects":
				r = pick(found, "paper (chest)")
			case "a guarantee of tasks":
				r = &found[slices.IndexFunc(found, func(r result) bool { return r.Suite == "queue" })]
			}
			change(all, r)
			text, err := page(all, found)
			if err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			file := filepath.Join(t.TempDir(), "backends.md")
			if err := os.WriteFile(file, golden, 0o600); err != nil {
				t.Fatal(err)
			}
			same, err := compare(t.Context(), &out, file, text, "make it so")
			if err != nil || same {
				t.Fatalf("the page is still the same (%v)", err)
			}
			for _, want := range []string{"\n+", "\n-", "run: make it so\n"} {
				if !strings.Contains(out.String(), want) {
					t.Errorf("%q is not in\n%s", want, out.String())
				}
			}
		})
	}
}

func TestCompare(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "page.md")
	var out strings.Builder
	if same, err := compare(t.Context(), &out, file, []byte("new\n"), "make it so"); err != nil || same {
		t.Errorf("a missing page is the same: %v", err)
	}
	if err := os.WriteFile(file, []byte("new\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out.Reset()
	if same, err := compare(t.Context(), &out, file, []byte("new\n"), "make it so"); err != nil || !same || out.Len() > 0 {
		t.Errorf("the same page differs: %v\n%s", err, out.String())
	}
}

func TestWhatThePageRefuses(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func([]result){
		"of no technology":     func(all []result) { pick(all, "smoke").Name = "steam" },
		"what dance is about":  func(all []result) { pick(all, "smoke").Checks[0].Name = "dance/waltz" },
		"different guarantees": func(all []result) { pick(all, "paper (adopted)").Name = "paper" },
		"no test runs":         func(all []result) { pick(all, "smoke").Suite = "patterntest" },
	} {
		found := results(t)
		change(found)
		if _, err := page(made(), found); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// TestTables checks what stands beside the drivers in tables.go.
func TestTables(t *testing.T) {
	t.Parallel()
	for _, tech := range technologies() {
		if !slices.ContainsFunc(tech.Schemes, func(s string) bool { return strings.HasPrefix(tech.url, s+":") }) {
			t.Errorf("%s: %s has none of its schemes", tech.Name, tech.url)
		}
		conn, err := tech.Open(driver.Config{Name: "test", URL: tech.url, Dir: t.TempDir()})
		if err != nil {
			t.Errorf("%s: %s: %v", tech.Name, tech.url, err)
			continue
		}
		space := driver.Space{Namespace: "orders", Pattern: "carts"}
		if _, err := conn.Space(space); err != nil {
			t.Errorf("%s: %v", tech.Name, err)
		}
		space.Layout = json.RawMessage(tech.layout)
		if tech.layout == "" {
			space.Layout = json.RawMessage(`{"keys": "{key}"}`)
		}
		if _, err := conn.Space(space); (err == nil) != (tech.layout != "") {
			t.Errorf("%s: layout %s: %v", tech.Name, space.Layout, err)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
	if fields := reflect.TypeFor[driver.Guarantees]().NumField(); len(guarantees) != fields+1 { // and the Watcher
		t.Errorf("%d rows of guarantees for %d fields", len(guarantees), fields)
	}
	if fields := reflect.TypeFor[driver.BlobGuarantees]().NumField(); len(blobGuarantees) != fields {
		t.Errorf("%d rows of guarantees for objects for %d fields", len(blobGuarantees), fields)
	}
	if fields := reflect.TypeFor[driver.LogGuarantees]().NumField(); len(logGuarantees) != fields {
		t.Errorf("%d rows of guarantees for kept messages for %d fields", len(logGuarantees), fields)
	}
	if fields := reflect.TypeFor[driver.PubSubGuarantees]().NumField(); len(pubsubGuarantees) != fields {
		t.Errorf("%d rows of guarantees for messages for %d fields", len(pubsubGuarantees), fields)
	}
	if fields := reflect.TypeFor[driver.QueueGuarantees]().NumField(); len(queueGuarantees) != fields {
		t.Errorf("%d rows of guarantees for tasks for %d fields", len(queueGuarantees), fields)
	}
}

func TestHarnesses(t *testing.T) {
	t.Parallel()
	all, err := harnesses("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []harness{
		{column{"drivertest", "memory"}, "driver/memory", "TestConformance"},
		{column{"blob", "memory"}, "driver/memory", "TestBlobConformance"},
		{column{"log", "memory"}, "driver/memory", "TestLogConformance"},
		{column{"pubsub", "nats"}, "driver/nats", "TestPubSubConformance"},
		{column{"queue", "postgres"}, "driver/postgres", "TestQueueConformance"},
		{column{"drivertest", "redis (cluster)"}, "driver/redis", "TestConformanceCluster"},
		{column{"patterntest", "sqlite (adopted)"}, "pattern/patterntest", "TestSQLiteAdopted"},
	} {
		if !slices.Contains(all, want) {
			t.Errorf("%+v is not among %+v", want, all)
		}
	}
}

// module makes a module with one driver whose conformance test counts its runs.
func module(t *testing.T, test string) (root string) {
	t.Helper()
	root = t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module example.com/m\n\ngo 1.24\n",
		"driver/drivertest/drivertest.go": `package drivertest

type Harness struct{ Name string }
`,
		"driver/paper/paper.go":      "package paper\n",
		"driver/paper/paper_test.go": test,
		"pattern/pattern.go":         "package pattern\n",
	} {
		file := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

const paperTest = `package paper

import (
	"os"
	"testing"

	"example.com/m/driver/drivertest"
)

func TestConformance(t *testing.T) {
	h := drivertest.Harness{Name: "paper"}
	runs, _ := os.ReadFile("runs")
	if err := os.WriteFile("runs", append(runs, 'x'), 0o600); err != nil {
		t.Fatal(err)
	}
	text := "{\"driver\": \"" + h.Name + "\", \"checks\": []}"
	if err := os.WriteFile(os.Getenv("PRISM_MATRIX_DIR")+"/paper.json", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestOther(t *testing.T) { t.Error("nobody asked for it") }
`

func TestCollectRunsWhatIsMissingOrOld(t *testing.T) {
	t.Parallel()
	root, dir := module(t, paperTest), t.TempDir()
	collects := func(runs string) {
		t.Helper()
		found, err := collect(t.Context(), t.Output(), root, dir)
		if err != nil || len(found) != 1 || found[0].Name != "paper" || found[0].Suite != "drivertest" {
			t.Fatalf("%+v, %v", found, err)
		}
		if got, err := os.ReadFile(filepath.Join(root, "driver/paper/runs")); err != nil || string(got) != runs {
			t.Errorf("the runs are %q, want %q (%v)", got, runs, err)
		}
	}
	collects("x") // nothing was there
	collects("x") // it is there
	source := filepath.Join(root, "driver/drivertest/drivertest.go")
	info, err := os.Stat(filepath.Join(dir, "paper.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(source, info.ModTime(), info.ModTime()); err != nil { // what it is made of is as new
		t.Fatal(err)
	}
	collects("xx")
	if err := os.Remove(filepath.Join(dir, "paper.json")); err != nil {
		t.Fatal(err)
	}
	collects("xxx")
}

func TestCollectFails(t *testing.T) {
	t.Parallel()
	for want, test := range map[string]string{
		"exit status 1":       strings.Replace(paperTest, "runs, _ :=", "t.Error(\"broken\")\n\truns, _ :=", 1),
		"written no result":   strings.Replace(paperTest, `+ h.Name +`, `+ h.Name + "2" +`, 1),
		"is no literal":       strings.Replace(paperTest, `{Name: "paper"}`, `{Name: t.Name()}`, 1),
		"two harnesses of":    strings.Replace(paperTest, `h := `, "_ = drivertest.Harness{Name: \"paper\"}\n\th := ", 1),
		"cannot unmarshal ":   strings.Replace(paperTest, `[]}`, `1}`, 1),
		"unknown field \"x\"": strings.Replace(paperTest, `\"checks\": []}`, `\"x\": 1}`, 1),
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			if test == paperTest {
				t.Fatal("the test is not broken")
			}
			if _, err := collect(t.Context(), t.Output(), module(t, test), t.TempDir()); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
		})
	}
}
