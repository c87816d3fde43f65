package groups

import (
	"cmp"
	"slices"
	"strings"
)

// A plan is what one member has to do for all to have their share.
type plan struct {
	take    []int // free partitions, and those it is named the owner of without knowing
	release []int // those it is named the owner of without knowing, and has no use for
	leave   int   // so many of those it has are somebody else's share
}

// balance computes the plan of a member that knows itself to hold these
// partitions. All members that see the same view make plans that fit together.
func balance(v *View, self string, holds func(partition int) bool) plan {
	counts, free := v.count()
	quotas := shares(counts, len(v.Owners))
	var p plan
	surplus := counts[self] - quotas[self]
	for i, o := range v.Owners {
		switch {
		case o.ID != self || holds(i):
		case surplus > 0:
			p.release = append(p.release, i)
			surplus--
		default:
			p.take = append(p.take, i)
		}
	}
	p.leave = max(surplus, 0)
	p.take = append(p.take, allotment(self, free, counts, quotas)...)
	return p
}

// count returns how many partitions each living member has, and which are free.
func (v *View) count() (counts map[string]int, free []int) {
	counts = make(map[string]int, len(v.Alive))
	for _, id := range v.Alive {
		counts[id] = 0
	}
	for i, o := range v.Owners {
		if _, alive := counts[o.ID]; alive {
			counts[o.ID]++
		} else {
			free = append(free, i)
		}
	}
	return counts, free
}

// shares returns how many partitions each member should have. The larger
// shares go to those who have most.
func shares(counts map[string]int, partitions int) map[string]int {
	members := byID(counts)
	slices.SortStableFunc(members, func(a, b string) int { return cmp.Compare(counts[b], counts[a]) })
	quotas := make(map[string]int, len(members))
	for i, id := range members {
		quotas[id] = partitions / len(members)
		if i < partitions%len(members) {
			quotas[id]++
		}
	}
	return quotas
}

// allotment returns which of the free partitions a member should take: members
// stand in a line, and each gets as many as it lacks.
func allotment(self string, free []int, counts, quotas map[string]int) []int {
	for _, id := range byID(counts) {
		lacks := min(max(quotas[id]-counts[id], 0), len(free))
		if id == self {
			return free[:lacks]
		}
		free = free[lacks:]
	}
	return nil
}

func byID(counts map[string]int) []string {
	members := make([]string, 0, len(counts))
	for id := range counts {
		members = append(members, id)
	}
	slices.SortFunc(members, strings.Compare)
	return members
}
