package proxy

import (
	"fmt"
	"testing"

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
