package redis

import (
	"strings"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/servers"
)

func TestPositions(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]driver.Position{"0-1": 1, "1-0": 1 << 20, "5-7": 5<<20 | 7, "8796093022207-1048575": 1<<63 - 1} {
		if p, err := positionOf(id); p != want || err != nil || idOf(p) != id {
			t.Errorf("%s is %d (%v), which is %s", id, p, err, idOf(p))
		}
	}
	for _, id := range []string{"8796093022208-0", "1-1048576", "18446744073709551615-18446744073709551615", "1", "x-1", "-"} {
		if p, err := positionOf(id); err == nil {
			t.Errorf("%s is %d", id, p)
		}
	}
	for _, p := range []driver.Position{-5, 0, 1} {
		if idOf(p) != "0-1" {
			t.Errorf("%d is %s", p, idOf(p))
		}
	}
	now := time.UnixMilli(1000)
	if atTime(now) != 1000<<20 || atTime(now.Add(1)) != 1001<<20 || atTime(time.Time{}.Add(1)) != 0 {
		t.Error("times and positions do not fit")
	}
}

func TestNamespacesInKeys(t *testing.T) {
	t.Parallel()
	for namespace, want := range map[string]string{"orders": "orders", "a.b": "a%2Eb", "{x}": "%7Bx%7D", "a:b": "a%3Ab"} {
		if got := namespaceName(namespace); got != want {
			t.Errorf("%q is %s", namespace, got)
		}
	}
}

// TestPaceIsBounded asks for few entries until it is known how large they are.
func TestPaceIsBounded(t *testing.T) {
	t.Parallel()
	var p pace
	if n := p.count(0); n != firstCount {
		t.Errorf("at first %d are asked for", n)
	}
	small := make([]driver.Stored, 16)
	p.learn(small)
	if n := p.count(1 << 20); n != 4*firstCount {
		t.Errorf("then %d", n)
	}
	big := make([]driver.Stored, 64)
	big[3].Value = []byte(strings.Repeat("x", 1<<20))
	p.learn(big)
	if n := p.count(0); n > pageBytes>>20+1 {
		t.Errorf("%d of a mebibyte each", n)
	}
	if n := p.count(1); n != 1 {
		t.Errorf("%d where one is wanted", n)
	}
}

// TestLateCommit has a commit arrive behind its successor, with the same claim.
func TestLateCommit(t *testing.T) {
	t.Parallel()
	c, err := Driver().Open(driver.Config{URL: servers.RedisWith(t).URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	b, err := c.Space(driver.Space{Namespace: "n", Pattern: "p"})
	if err != nil {
		t.Fatal(err)
	}
	opened, err := b.Log.Topic(t.Context(), driver.TopicSpec{Name: "t", Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	g := opened.(*topic).group("g") //nolint:forcetypeassert // this package's own
	say := func(what string, args ...string) string {
		t.Helper()
		said, err := g.call(t.Context(), what, true, args...)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		return strings.Join(said, " ")
	}
	if _, err := g.call(t.Context(), "beat", true, "me", "name", "1"); errs.ReasonOf(err) != errs.GroupNotFound {
		t.Errorf("beat in a group that is not known: %v", err)
	}
	say("know", "1")
	say("know", "9") // changes nothing
	say("beat", "me", "name", "1")
	for _, x := range []struct{ what, args, want string }{
		{"take", "me 0", "0 1 1 "},
		{"commit", "me 0 1 7 70  later", "ok"},
		{"commit", "me 0 1 6 60  late", "ok"},
		{"stand", "1", "70 name"},
		{"commit", "me 0 2 8 80  x", "stale"},
		{"commit", "you 0 1 8 80  x", "stale"},
		{"take", "you 0", ""},
		{"commit", "me 0 1 9 90 release ", "ok"},
		{"commit", "me 0 1 9 90 release ", "ok"},
		{"commit", "me 0 1 8 80  late", "stale"},
		{"stand", "1", "90 "},
		{"take", "you 0", "0 2 90 "},
		{"seek", "0 5", ""},
		{"commit", "you 0 2 10 95  ", "stale"},
		{"release", "you 0 2", ""},
		{"take", "me 0", "0 4 5 "},
		{"leave", "me", ""},
		{"take", "you 0", "0 5 5 "},
	} {
		if got := say(x.what, strings.Split(x.args, " ")...); got != x.want {
			t.Errorf("%s %s: %q, want %q", x.what, x.args, got, x.want)
		}
	}
}
