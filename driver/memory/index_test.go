package memory

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/prismgw/prism/driver"
)

// TestIndexIsASortedSet compares the index with a map, under long runs of
// additions and removals, so that it grows and shrinks by several levels.
func TestIndexIsASortedSet(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var x index
		model := map[string]bool{}
		key := func(i int) string { return fmt.Sprintf("%c%05d", 'a'+i%3, i) }
		for range rapid.IntRange(1, 6).Draw(t, "runs") {
			from, n := rapid.IntRange(0, 3000).Draw(t, "from"), rapid.IntRange(0, 3000).Draw(t, "keys")
			step := rapid.SampledFrom([]int{1, 7, 2999}).Draw(t, "step")
			remove := rapid.Bool().Draw(t, "remove")
			for i := range n {
				k := key((from + i*step) % 6000)
				if remove {
					x.remove(k)
					delete(model, k)
				} else {
					x.add(k)
					model[k] = true
				}
			}
		}
		var want []string
		for k := range model {
			want = append(want, k)
		}
		slices.Sort(want)
		if got := x.collect(position{}, "", make([]string, len(model)+1)); !slices.Equal(got, want) {
			t.Fatalf("got %d keys, want %d", len(got), len(want))
		}
		checkShape(t, &x.root, "", "\xff")
		p := position{key: key(rapid.IntRange(0, 6000).Draw(t, "position")), after: rapid.Bool().Draw(t, "after")}
		want = slices.DeleteFunc(want, func(k string) bool {
			return k < p.key || p.after && k == p.key || !strings.HasPrefix(k, "b")
		})
		got := x.collect(position{key: max(p.key, "b"), after: p.after}, "b", make([]string, 10))
		if p.key < "b" {
			got = x.collect(position{key: "b"}, "b", make([]string, 10))
		}
		if want = want[:min(10, len(want))]; !slices.Equal(got, want) {
			t.Fatalf("from %+v: got %q, want %q", p, got, want)
		}
	})
}

// checkShape checks what a B+ tree promises of each node.
func checkShape(t *rapid.T, n *node, least, most string) {
	t.Helper()
	if !slices.IsSorted(n.keys) || len(n.keys) > fanout {
		t.Fatalf("a node of %d keys, sorted %v", len(n.keys), slices.IsSorted(n.keys))
	}
	if len(n.keys) > 0 && (n.keys[0] < least || n.keys[len(n.keys)-1] >= most) {
		t.Fatalf("a node from %q up to %q, where %q to %q is to be", n.keys[0], n.keys[len(n.keys)-1], least, most)
	}
	if n.children == nil {
		return
	}
	if len(n.children) != len(n.keys)+1 {
		t.Fatalf("a branch of %d keys and %d children", len(n.keys), len(n.children))
	}
	bounds := append(append([]string{least}, n.keys...), most)
	for i, child := range n.children {
		if child.empty() {
			t.Fatal("an empty node")
		}
		checkShape(t, child, bounds[i], bounds[i+1])
	}
}

// TestIndexFillsNodes puts keys in order and looks at how full the tree is.
func TestIndexFillsNodes(t *testing.T) {
	t.Parallel()
	var x index
	const n = 100_000
	for i := range n {
		x.add(fmt.Sprintf("%07d", i))
	}
	if leaves := countLeaves(&x.root); leaves > n/fanout*11/10 {
		t.Errorf("%d keys in order take %d leaves of %d", n, leaves, fanout)
	}
}

func countLeaves(n *node) (leaves int) {
	if n.children == nil {
		return 1
	}
	for _, c := range n.children {
		leaves += countLeaves(c)
	}
	return leaves
}

// TestSweepFrees lets entries and records expire and looks for what is left of
// them.
func TestSweepFrees(t *testing.T) {
	t.Parallel()
	conn, err := Driver().Open(driver.Config{URL: "memory:"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	b, err := conn.Space(driver.Space{Namespace: "a"})
	if err != nil {
		t.Fatal(err)
	}
	const n = 5000
	ops, results := make([]driver.Op, n), make([]driver.Result, n)
	for i := range ops {
		ops[i] = driver.Op{Kind: driver.Put, Key: fmt.Sprint(i), TTL: time.Millisecond, Once: &driver.Once{TTL: time.Millisecond}}
		ops[i].Once.Token[0], ops[i].Once.Token[1] = byte(i), byte(i>>8)
		if i%10 == 0 {
			ops[i].TTL = time.Hour
		}
	}
	b.KV.Apply(t.Context(), ops, results)
	s := b.KV.(*kv).space //nolint:forcetypeassert // it is one
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		entries, records := s.held()
		if entries == n/10 && records == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d entries and %d records are left, want %d and none", entries, records, n/10)
		}
	}
	if got := len(s.index.collect(position{}, "", make([]string, n))); got != n/10 {
		t.Errorf("%d keys are left in the index, want %d", got, n/10)
	}
}

// held counts what is in memory, expired or not.
func (s *space) held() (entries, records int) {
	for i := range shards {
		sh, o := &s.shards[i], &s.onces[i]
		sh.mu.RLock()
		entries += len(sh.entries)
		sh.mu.RUnlock()
		o.mu.Lock()
		records += len(o.records)
		o.mu.Unlock()
	}
	return entries, records
}

// TestQueueKeepsOrder moves deadlines about and takes them out.
func TestQueueKeepsOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var q queue[int]
		all := make([]deadline[int], 20)
		for i := range all {
			all[i].key = i
		}
		for range rapid.IntRange(0, 60).Draw(t, "moves") {
			q.set(&all[rapid.IntRange(0, 19).Draw(t, "which")], int64(rapid.IntRange(0, 9).Draw(t, "to")))
		}
		now := int64(rapid.IntRange(0, 10).Draw(t, "now"))
		last := int64(0)
		popped := map[int]bool{}
		for {
			key, ok := q.pop(now)
			if !ok {
				break
			}
			if all[key].at < last || popped[key] {
				t.Fatalf("key %d of %d after %d, or twice", key, all[key].at, last)
			}
			last, popped[key] = all[key].at, true
		}
		for i := range all {
			if want := all[i].passed(now); popped[i] != want {
				t.Fatalf("key %d of %d: taken out %v at %d", i, all[i].at, popped[i], now)
			}
		}
	})
}
