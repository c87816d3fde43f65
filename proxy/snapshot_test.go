package proxy

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/memory"
	"github.com/prismgw/prism/namespace"
	"github.com/prismgw/prism/pattern"
	"github.com/prismgw/prism/pattern/keyvalue"
)

// A configuration that nobody uses any more is not kept, however often a new
// one is loaded.
func TestOldConfigurationsAreForgotten(t *testing.T) {
	t.Parallel()
	p, err := New(Options{Drivers: []driver.Driver{memory.Driver()}, Kinds: []pattern.Kind{keyvalue.Kind()}, Loopback: true})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop(t.Context())
	for i := range 100 {
		document := fmt.Sprintf(`{kind: Backend, name: memory, driver: memory, url: "memory:", region: r%d}`, i%2)
		if err := p.Load(namespace.File{Name: "test", Data: []byte(document)}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(p.retired); n > 1 {
		t.Errorf("%d old configurations are kept", n)
	}
	if n := len(p.pool.all); n != 1 {
		t.Errorf("%d backends are open", n)
	}
}

// A call that is the last user of a configuration is counted before that ends:
// afterwards it would bring back series that nobody deletes any more.
func TestLastCallIsCountedFirst(t *testing.T) {
	t.Parallel()
	p, err := New(Options{Drivers: []driver.Driver{memory.Driver()}, Kinds: []pattern.Kind{keyvalue.Kind()}, Loopback: true})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop(t.Context())
	load := func(more string) {
		t.Helper()
		document := `{kind: Backend, name: memory, driver: memory, url: "memory:"}` + more
		if err := p.Load(namespace.File{Name: "test", Data: []byte(document)}); err != nil {
			t.Fatal(err)
		}
	}
	held := func() bool {
		p.metrics.mu.Lock()
		defer p.metrics.mu.Unlock()
		return p.metrics.patterns[patternName{"brief", "data"}] != nil
	}
	load("\n---\n" + `{kind: Namespace, name: brief, stores: [data], needs: {durability: none}, auth: {anonymous: read_write}}`)
	c := &call{Context: t.Context(), method: p.kinds.methods[0]["Retrieve"], transport: overHTTP, selectors: selectors{namespace: "brief"}}
	var early bool
	_ = p.serve(c, func(context.Context, pattern.Instance) error {
		load("")
		return lookedAtError(func() {
			for end := time.Now().Add(50 * time.Millisecond); time.Now().Before(end); time.Sleep(time.Millisecond) {
				early = early || !held()
			}
		})
	})
	if early {
		t.Error("the configuration ended before its last call was counted")
	}
	for end := time.Now().Add(10 * time.Second); held(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the counters are still held")
		}
	}
	families, err := p.metrics.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "prism_requests_total" {
			t.Errorf("left: %v", f.GetMetric())
		}
	}
}

// lookedAtError is an outcome that takes its time when its reason is asked for.
type lookedAtError func()

func (f lookedAtError) Error() string { return "looked at" }

func (f lookedAtError) As(any) bool { f(); return false }
