package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

const (
	intro = `<!-- Written by internal/matrix, see make matrix; a change here is lost. -->

# Backends

Every backend keeps the whole contract of [contracts.md](contracts.md#keys-and-values). Where technologies differ, the
difference is a guarantee with a name, an exception with its reason, or a line about what an OK survives, and all of
them are on this page. It is made of what the drivers say of themselves and of what the conformance suites found on real
servers; CI fails if it is not what a fresh run gives. ` + "`prism check`" + ` tells the guarantees of your own documents.
`
	guaranteesAbout = "What differs and matters to a program. *Adopted* is data that was there before Prism, reached by a `layout`."
	driversAbout    = "The suite `driver/drivertest`, which checks each sentence of the contract between Prism and a technology.\n" +
		"✓: what was checked has passed. –: nothing was checked. A number tells which checks were not made, and why."
	patternsAbout = "The suite `pattern/patterntest`, which checks what programs see, on every technology and layout."
	objectsAbout  = "Beside keys and values, or instead of them: bytes of any length under a key. No pattern serves them yet."
	blobsAbout    = "The part of `driver/drivertest` for objects; the signs mean the same as above."
	tellingAbout  = "Messages for whoever listens at the moment, at most once, as the pattern PubSub serves them."
	pubsubsAbout  = "The part of `driver/drivertest` for these messages; the signs mean the same as above."
	keepingAbout  = "Messages that are kept in partitions, in an order that never changes, and groups that share the reading, as the\n" +
		"patterns Producer and Consumer serve them."
	logsAbout    = "The part of `driver/drivertest` for these messages; the signs mean the same as above."
	leasingAbout = "Work that is done once: leased, and gone when somebody says that it is done. No pattern serves it yet."
	queuesAbout  = "The part of `driver/drivertest` for tasks; the signs mean the same as above."
	acksAbout    = "Whether a write that was answered OK is still there after the crash of the backend's process (of Prism, where the\n" +
		"backend is embedded), of its operating system or power, and after the loss of the node with its disk."
)

// page returns the whole page. It depends on nothing but its arguments.
func page(all []technology, results []result) ([]byte, error) {
	results, err := inOrder(all, results)
	if err != nil {
		return nil, err
	}
	suites := map[string][]result{}
	var columns []result // one for each name
	for _, r := range results {
		suites[r.Suite] = append(suites[r.Suite], r)
		last := len(columns) - 1
		switch {
		case r.Suite == "blob", r.Suite == "pubsub", r.Suite == "log", r.Suite == "queue":
		case last < 0 || columns[last].Name != r.Name:
			columns = append(columns, r)
		case columns[last].Guarantees != r.Guarantees || columns[last].Watcher != r.Watcher:
			return nil, fmt.Errorf("the suites met different guarantees on %q", r.Name)
		}
	}
	drivers, err := byGroup(groups, suites["drivertest"])
	if err != nil {
		return nil, err
	}
	blobs, err := byGroup(blobGroups, suites["blob"])
	if err != nil {
		return nil, err
	}
	pubsubs, err := byGroup(pubsubGroups, suites["pubsub"])
	if err != nil {
		return nil, err
	}
	logs, err := byGroup(logGroups, suites["log"])
	if err != nil {
		return nil, err
	}
	queues, err := byGroup(queueGroups, suites["queue"])
	if err != nil {
		return nil, err
	}
	var w strings.Builder
	w.WriteString(intro)
	writeTechnologies(&w, all)
	writeGuarantees(&w, "Guarantees", guaranteesAbout, guarantees, columns)
	w.WriteString("\nThe rules they belong to are in [contracts.md](contracts.md#keys-and-values).\n")
	writeGuarantees(&w, "Guarantees for objects", objectsAbout, blobGuarantees, suites["blob"])
	writeGuarantees(&w, "Guarantees for messages that nobody keeps", tellingAbout, pubsubGuarantees, suites["pubsub"])
	writeGuarantees(&w, "Guarantees for messages that are kept", keepingAbout, logGuarantees, suites["log"])
	writeGuarantees(&w, "Guarantees for tasks", leasingAbout, queueGuarantees, suites["queue"])
	writeSuite(&w, "What drivers are checked for", driversAbout, drivers, suites["drivertest"])
	writeSuite(&w, "What drivers of objects are checked for", blobsAbout, blobs, suites["blob"])
	writeSuite(&w, "What drivers of messages that nobody keeps are checked for", pubsubsAbout, pubsubs, suites["pubsub"])
	writeSuite(&w, "What drivers of messages that are kept are checked for", logsAbout, logs, suites["log"])
	writeSuite(&w, "What drivers of tasks are checked for", queuesAbout, queues, suites["queue"])
	writeSuite(&w, "What patterns are checked for", patternsAbout, byCheck(suites["patterntest"]), suites["patterntest"])
	writeAcks(&w, all)
	writeChecks(&w, "The checks of a driver", "What a ✓ stands for; each is a test below `TestConformance/checks`.", drivers, suites["drivertest"])
	writeChecks(&w, "The checks of a driver of objects", "Each is a test of `driver/drivertest.RunBlob`.", blobs, suites["blob"])
	writeChecks(&w, "The checks of a driver of messages that nobody keeps", "Each is a test of `driver/drivertest.RunPubSub`.", pubsubs, suites["pubsub"])
	writeChecks(&w, "The checks of a driver of messages that are kept", "Each is a test of `driver/drivertest.RunLog`.", logs, suites["log"])
	writeChecks(&w, "The checks of a driver of tasks", "Each is a test of `driver/drivertest.RunQueue`.", queues, suites["queue"])
	return []byte(w.String()), nil
}

// inOrder sorts results as the technologies stand, by name and by suite, and
// checks that each belongs to a technology and each technology was checked.
func inOrder(all []technology, results []result) ([]result, error) {
	place := func(r result) int {
		return slices.IndexFunc(all, func(t technology) bool { return r.Name == t.Name || strings.HasPrefix(r.Name, t.Name+" ") })
	}
	checked := make([]bool, len(all))
	for _, r := range results {
		i := place(r)
		if i < 0 {
			return nil, fmt.Errorf("%q is of no technology in internal/matrix/tables.go", r.Name)
		}
		checked[i] = checked[i] || r.Suite != "patterntest"
	}
	if i := slices.Index(checked, false); i >= 0 {
		return nil, fmt.Errorf("no test runs drivertest on %s", all[i].Name)
	}
	return slices.SortedFunc(slices.Values(results), func(a, b result) int {
		return cmp.Or(cmp.Compare(place(a), place(b)), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Suite, b.Suite))
	}), nil
}

// A row is some checks of a suite.
type row struct {
	title string
	name  string // before the names of its checks
	has   func(check) bool
}

// byGroup makes a row of each group of checks that occurs.
func byGroup(groups []group, results []result) (rows []row, err error) {
	for _, r := range results {
		for _, c := range r.Checks {
			prefix, _, _ := strings.Cut(c.Name, "/")
			if !slices.ContainsFunc(groups, func(g group) bool { return g.prefix == prefix }) {
				return nil, fmt.Errorf("check %s: say in internal/matrix/tables.go what %s is about", c.Name, prefix)
			}
		}
	}
	for _, g := range groups {
		has := func(c check) bool { return strings.HasPrefix(c.Name, g.prefix+"/") }
		if slices.ContainsFunc(results, func(r result) bool { return slices.ContainsFunc(r.Checks, has) }) {
			rows = append(rows, row{g.about, g.prefix, has})
		}
	}
	return rows, nil
}

// byCheck makes a row of each check.
func byCheck(results []result) (rows []row) {
	var names []string
	for _, r := range results {
		for _, c := range r.Checks {
			names = append(names, c.Name)
		}
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		pattern, what, _ := strings.Cut(name, "/")
		title := pattern + ": " + strings.ReplaceAll(what, "-", " ")
		rows = append(rows, row{title, name, func(c check) bool { return c.Name == name }})
	}
	return rows
}
