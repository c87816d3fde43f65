package wrap_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/drivertest"
	"github.com/prismgw/prism/driver/memory"
	"github.com/prismgw/prism/driver/wrap"
)

func TestKeyPrefix(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ namespace, pattern, want string }{
		{"orders", "carts", "orders:carts:"},
		{"", "", "::"},
		{"a-b_c.d", "E9", "a-b_c.d:E9:"},
		{"a:b", "%", "a%3Ab:%25:"},
		{"é", "a b\n", "%C3%A9:a%20b%0A:"},
		{"*?[]{}\\", "\x00\xff", "%2A%3F%5B%5D%7B%7D%5C:%00%FF:"},
	} {
		if got := wrap.KeyPrefix(driver.Space{Namespace: c.namespace, Pattern: c.pattern}); got != c.want {
			t.Errorf("%q, %q: got %q, want %q", c.namespace, c.pattern, got, c.want)
		}
	}
}

// TestPrefixesNeverMeet draws names that are likely to meet if they are joined
// carelessly.
func TestPrefixesNeverMeet(t *testing.T) {
	t.Parallel()
	name := rapid.OneOf(rapid.StringOfN(rapid.SampledFrom([]rune("ab:%3A2.5é\x00")), 0, 5, -1), rapid.String())
	rapid.Check(t, func(t *rapid.T) {
		a := driver.Space{Namespace: name.Draw(t, "a.namespace"), Pattern: name.Draw(t, "a.pattern")}
		b := driver.Space{Namespace: name.Draw(t, "b.namespace"), Pattern: name.Draw(t, "b.pattern")}
		same := a.Namespace == b.Namespace && a.Pattern == b.Pattern
		if got := strings.HasPrefix(wrap.KeyPrefix(a), wrap.KeyPrefix(b)); got != same {
			t.Fatalf("%q begins with %q: %v", wrap.KeyPrefix(a), wrap.KeyPrefix(b), got)
		}
	})
}

// flat carves all spaces out of one, as a technology with flat keys does.
type flat struct{ driver.Conn }

func (f flat) Space(s driver.Space) (driver.Backend, error) {
	b, err := f.Conn.Space(driver.Space{Layout: s.Layout})
	if err != nil {
		return b, err
	}
	prefix := wrap.KeyPrefix(s)
	return driver.Backend{
		KV:      wrap.Prefix(b.KV, prefix),
		Watcher: wrap.PrefixWatcher(b.Watcher, prefix),
		Extent:  driver.Extent{Prefix: prefix},
	}, nil
}

func TestPrefixConformance(t *testing.T) {
	d := memory.Driver()
	open := d.Open
	d.Open = func(c driver.Config) (driver.Conn, error) {
		conn, err := open(c)
		if err != nil {
			return nil, err
		}
		return flat{conn}, nil
	}
	drivertest.Run(t, drivertest.Harness{
		Driver: d,
		Config: driver.Config{Name: "test", URL: "memory://flat"},
	})
}
