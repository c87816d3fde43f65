package namespace

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	namespacev1 "github.com/prismgw/prism/api/prism/namespace/v1"
	"github.com/prismgw/prism/driver"
)

func TestExposed(t *testing.T) {
	t.Parallel()
	set := decodeString(t, `kind: Namespace
name: silent
---
kind: Namespace
name: open
auth: {anonymous: read_write}
---
kind: Namespace
name: readable
auth: {anonymous: read_only}
---
kind: Namespace
name: shut
auth: {}
`)
	silent := `a.yaml:1:1: auth: the namespace "silent" is served beyond loopback and does not say who may call it; add the line auth: {anonymous: deny}`
	open := `a.yaml:6:19: auth.anonymous: anybody could write to the namespace "open", which is served beyond loopback; write anonymous: deny or read_only here, listen on loopback only, or start with --allow-anonymous-writes`
	for _, c := range []struct {
		name            string
		loopback, allow bool
		want            []string
	}{
		{"loopback", true, false, nil},
		{"beyond", false, false, []string{silent, open}},
		{"allowed", false, true, []string{silent}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := ""
			if err := set.Exposed(c.loopback, c.allow); err != nil {
				got = err.Error()
			}
			if want := strings.Join(c.want, "\n"); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestAnonymousIsDeniedByDefault(t *testing.T) {
	t.Parallel()
	for _, spec := range []*namespacev1.Namespace{{}, {Auth: &namespacev1.Auth{}}, {Auth: &namespacev1.Auth{Anonymous: "deny"}}} {
		if got := (&Namespace{Spec: spec}).Anonymous(); got != AnonymousDeny {
			t.Errorf("%v: %q", spec, got)
		}
	}
}

// TestHandMadeSet resolves documents that were read from no file.
func TestHandMadeSet(t *testing.T) {
	t.Parallel()
	set := &Set{Namespaces: []*Namespace{{Spec: &namespacev1.Namespace{Name: "orders", Stores: []string{"carts"}}}}}
	_, err := Resolve(set, testCatalog())
	if want := "Namespace orders: stores[0]: there is no backend to fill the slot store-kv; add a document of kind: Backend"; err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
	set.Backends = []*Backend{{Spec: &namespacev1.Backend{Name: "db", Driver: "sqlite"}}}
	plan, err := Resolve(set, testCatalog())
	if err != nil {
		t.Fatal(err)
	}
	slot := plan.Namespaces[0].Patterns[0].Slots[0]
	if slot.Backend != "db" || slot.Space.Namespace != "orders" || slot.Space.Pattern != "carts" || slot.Space.Layout != nil || slot.Guarantees.Version != driver.WriteVersions {
		t.Errorf("slot %+v", slot)
	}
}

func TestPlanAsJSON(t *testing.T) {
	t.Parallel()
	_, plan, err := Load(testCatalog(), File{Name: "a.yaml", Data: []byte(`kind: Backend
name: mem
driver: memory
---
kind: Backend
name: r
driver: redis
url: redis://r
asserts: {appendfsync: everysec}
---
kind: Namespace
name: orders
stores: [carts]
`)})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(plan)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"namespaces":[{"name":"orders","file":"a.yaml","line":11,"anonymous":"deny","durability":"process","patterns":[{"name":"carts","kind":"keyvalue",` +
		`"slots":[{"name":"store-kv","primitive":"kv","backend":"r","driver":"redis","reason":"the first backend with kv that keeps durability process (the default)",` +
		`"versions":"content","clock":"proxy","ordered_scan":false,"scan_cost":"keyspace","idempotency":"atomic","max_value":4194304,"shared":false,` +
		`"ack":{"settings":"appendfsync: everysec","process":true,"os":false,"node":false,"why":"synced each second"},` +
		`"rejected":[{"backend":"mem","reason":"an OK does not survive the crash of the process (memory is gone with the process)"}],` +
		`"warnings":["a scan reads every key of the backend, not only those asked for; keep big keyspaces apart"]}]}]}]}`
	if string(raw) != want {
		t.Errorf("got\n%s\nwant\n%s", raw, want)
	}
}

// TestEachBackendIsOpenedOnce also for many namespaces, and not at all if its
// document has mistakes.
func TestEachBackendIsOpenedOnce(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	text.WriteString("{kind: Backend, name: db, driver: sqlite}\n---\n{kind: Backend, name: bad, driver: sqlite, url: 'x://u:p@h'}\n")
	for i := range 5 {
		fmt.Fprintf(&text, "---\n{kind: Namespace, name: n%d, stores: [a, b]}\n", i)
	}
	catalog := testCatalog()
	opened := make(map[string]int)
	open := catalog.Open
	catalog.Open = func(b *Backend) (driver.Conn, error) {
		opened[b.Spec.GetName()]++
		return open(b)
	}
	_, _, err := Load(catalog, File{Name: "a.yaml", Data: []byte(text.String())})
	var list *Error
	if !errors.As(err, &list) || len(list.Mistakes) != 1 || list.Mistakes[0].Path != "url" {
		t.Errorf("mistakes: %v", err)
	}
	if opened["db"] != 1 || opened["bad"] != 0 {
		t.Errorf("opened %v", opened)
	}
}

// TestOverlapsAreAllFound compares with looking at every pair.
func TestOverlapsAreAllFound(t *testing.T) {
	t.Parallel()
	parts := []string{"", "a", "ab", "b", "ba"}
	for _, p1 := range parts {
		for _, s1 := range parts {
			for _, p2 := range parts {
				for _, s2 := range parts {
					checkPair(t, driver.Extent{Prefix: p1, Suffix: s1}, driver.Extent{Prefix: p2, Suffix: s2})
				}
			}
		}
	}
}

func checkPair(t *testing.T, a, b driver.Extent) {
	t.Helper()
	backend := &Backend{Spec: &namespacev1.Backend{Name: "r", Driver: "redis", Url: "redis://r"}}
	n := &Namespace{Spec: &namespacev1.Namespace{Name: "n"}}
	for _, adopted := range []bool{true, false} {
		v := &resolver{report: newReport(), occupied: []occupant{
			{namespace: n, backend: backend, pattern: "apart", extent: driver.Extent{Container: "other"}, adopted: true},
			{namespace: n, backend: backend, pattern: "a", extent: a, adopted: adopted},
			{namespace: n, backend: backend, pattern: "between", extent: driver.Extent{Prefix: a.Prefix + "aa", Suffix: "x"}},
			{namespace: n, backend: backend, pattern: "b", extent: b},
		}}
		want := adopted && (a.Overlaps(b) || a.Overlaps(v.occupied[2].extent))
		v.checkOverlaps()
		if found := len(v.report.list) > 0; found != want {
			t.Errorf("%+v and %+v, adopted %v: %v", a, b, adopted, found)
		}
	}
}

func TestPasswordsInURLs(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]bool{
		"redis://u:p@h":                     true,
		"redis://:p@h":                      true,
		"redis://u:p%40@h/0?x=1":            true,
		"redis://u:p@a:1,b:2":               true,
		"u:p@h:6379":                        true,
		"postgres://h/db?password=p":        true,
		"postgres://h/db?a=1;sslpassword=p": true,
		"postgres://h/db?PASSWORD=p#x":      true,
		"host=h PassWord = p":               true,
		"redis://h:6379/0?password":         false,
		"redis://u@h:6379":                  false,
		"redis://u:@h:6379":                 false,
		"redis://a:6379,b:6379":             false,
		"sqlite:///a:b@c/x.db":              false,
		"postgres://h/db?passfile=/x":       false,
		"":                                  false,
	} {
		if got := holdsPassword(url); got != want {
			t.Errorf("holdsPassword(%q) = %v", url, got)
		}
	}
}
