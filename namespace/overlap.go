package namespace

import (
	"cmp"
	"slices"
	"strings"

	"github.com/prismgw/prism/driver"
)

// An occupant is one slot and the part of a backend that it takes.
type occupant struct {
	namespace *Namespace
	path      string
	backend   *Backend
	pattern   string
	extent    driver.Extent
	adopted   bool
}

// where identifies the container of an occupant. Backend documents with the
// same driver and url mean the same place; urls without "://" are paths that
// may be relative to the document's folder, and without a url every backend
// is a place of its own.
func (o *occupant) where() string {
	spec := o.backend.Spec
	where := spec.GetDriver() + "\x00" + spec.GetUrl() + "\x00" + o.extent.Container
	switch {
	case spec.GetUrl() == "":
		where += "\x00" + spec.GetName()
	case !strings.Contains(spec.GetUrl(), "://"):
		where += "\x00" + o.backend.Origin.Dir
	}
	return where
}

// checkOverlaps tells the slots whose adopted data could also be another
// slot's. Prism's own layouts never meet each other, by the driver's contract.
func (v *resolver) checkOverlaps() {
	groups := make(map[string][]*occupant)
	var order []string
	for i := range v.occupied {
		o := &v.occupied[i]
		where := o.where()
		if groups[where] == nil {
			order = append(order, where)
		}
		groups[where] = append(groups[where], o)
	}
	for _, where := range order {
		if group := groups[where]; slices.ContainsFunc(group, func(o *occupant) bool { return o.adopted }) {
			v.checkGroup(group)
		}
	}
}

// checkGroup goes through the prefixes in order, so that an extent has to be
// compared only with those whose prefix its own begins with.
func (v *resolver) checkGroup(group []*occupant) {
	slices.SortStableFunc(group, func(a, b *occupant) int { return cmp.Compare(a.extent.Prefix, b.extent.Prefix) })
	var around []*occupant
	for _, o := range group {
		for len(around) > 0 && !strings.HasPrefix(o.extent.Prefix, around[len(around)-1].extent.Prefix) {
			around = around[:len(around)-1]
		}
		for _, other := range around {
			if (o.adopted || other.adopted) && o.extent.Overlaps(other.extent) {
				v.tellOverlap(o, other)
				break
			}
		}
		around = append(around, o)
	}
}

// tellOverlap reports the pair at the one that adopts.
func (v *resolver) tellOverlap(o, other *occupant) {
	if !o.adopted {
		o, other = other, o
	}
	v.report.namespace(o.namespace, o.path, "pattern %s of namespace %s and pattern %s of namespace %s%s would share data on backend %s; choose a layout whose keys cannot meet the other's",
		quote(o.pattern), quote(o.namespace.Spec.GetName()), quote(other.pattern), quote(other.namespace.Spec.GetName()), other.namespace.Origin.in(), quote(o.backend.Spec.GetName()))
}
