package memory

import (
	"slices"
	"strings"
	"sync"
)

// fanout is the most keys of a leaf and the most children of a branch.
const fanout = 128

// An index holds the keys of a space in order: a B+ tree in which a node that
// has become empty is taken out, and others are not merged.
type index struct {
	mu   sync.RWMutex // guards root
	root node
}

// A node is a leaf with keys, or a branch whose child i holds the keys from
// keys[i-1] up to, and without, keys[i].
type node struct {
	keys     []string
	children []*node // len(keys)+1 of them; none in a leaf
}

// A position is where a scan goes on: at the first key that is not below key,
// or the first one above it.
type position struct {
	key   string
	after bool
}

func (x *index) add(key string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if right, separator := x.root.add(key); right != nil {
		left := x.root
		x.root = node{keys: []string{separator}, children: []*node{&left, right}}
	}
}

func (x *index) remove(key string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.root.remove(key)
	for len(x.root.children) == 1 {
		x.root = *x.root.children[0]
	}
}

// collect fills keys with those from a position on that begin with prefix, and
// returns the part that was filled.
func (x *index) collect(from position, prefix string, keys []string) []string {
	found := keys[:0]
	x.mu.RLock()
	defer x.mu.RUnlock()
	x.root.ascend(from, func(key string) bool {
		if len(found) == len(keys) || !strings.HasPrefix(key, prefix) {
			return false
		}
		found = append(found, key)
		return true
	})
	return found
}

// child returns which child may hold key.
func (n *node) child(key string) int {
	i, found := slices.BinarySearch(n.keys, key)
	if found {
		i++
	}
	return i
}

// add puts key in. A node that has grown too big keeps its left half and
// returns the right one with its least key.
func (n *node) add(key string) (right *node, separator string) {
	if n.children == nil {
		if i, found := slices.BinarySearch(n.keys, key); !found {
			n.keys = slices.Insert(n.keys, i, key)
		}
		if len(n.keys) <= fanout {
			return nil, ""
		}
		half := n.cut(key)
		right = &node{keys: slices.Clone(n.keys[half:])}
		n.keys = slices.Delete(n.keys, half, len(n.keys))
		return right, right.keys[0]
	}
	i := n.child(key)
	if grown, sep := n.children[i].add(key); grown != nil {
		n.keys = slices.Insert(n.keys, i, sep)
		n.children = slices.Insert(n.children, i+1, grown)
	}
	if len(n.children) <= fanout {
		return nil, ""
	}
	half := n.cut(key)
	separator = n.keys[half]
	right = &node{keys: slices.Clone(n.keys[half+1:]), children: slices.Clone(n.children[half+1:])}
	n.keys = slices.Delete(n.keys, half, len(n.keys))
	n.children = slices.Delete(n.children, half+1, len(n.children))
	return right, separator
}

// cut returns how many keys the left one of two halves gets. Keys that come in
// order leave full nodes behind them.
func (n *node) cut(added string) int {
	if added >= n.keys[len(n.keys)-1] {
		return len(n.keys) - 2
	}
	return len(n.keys) / 2
}

func (n *node) remove(key string) {
	if n.children == nil {
		if i, found := slices.BinarySearch(n.keys, key); found {
			n.keys = slices.Delete(n.keys, i, i+1)
		}
		return
	}
	i := n.child(key)
	n.children[i].remove(key)
	if !n.children[i].empty() {
		return
	}
	n.children = slices.Delete(n.children, i, i+1)
	if len(n.keys) > 0 {
		i = max(i-1, 0)
		n.keys = slices.Delete(n.keys, i, i+1)
	}
	if len(n.children) == 0 {
		n.children = nil
	}
}

func (n *node) empty() bool { return len(n.keys) == 0 && len(n.children) == 0 }

// ascend calls yield with the keys from a position on, until it returns false.
func (n *node) ascend(from position, yield func(string) bool) bool {
	i, found := slices.BinarySearch(n.keys, from.key)
	if n.children == nil {
		if found && from.after {
			i++
		}
		for ; i < len(n.keys); i++ {
			if !yield(n.keys[i]) {
				return false
			}
		}
		return true
	}
	if found {
		i++
	}
	for ; i < len(n.children); i++ {
		if !n.children[i].ascend(from, yield) {
			return false
		}
	}
	return true
}
