package namespace

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	namespacev1 "github.com/prismgw/prism/api/prism/namespace/v1"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// Resolve decides which backend fills each slot of each namespace, or returns
// an *Error with every reason why that cannot be.
//
// A slot that names its backend gets it. Any other slot gets the first
// Backend, in the order of the documents, that has the slot's primitive and
// keeps what needs.durability asks for: strong is an OK that survives the
// crash of the machine, process one that survives the crash of the process,
// none no promise. Where the document says nothing, backends are chosen as
// if it said process, so that nobody loses data by having written little; a
// backend that the document names is taken as it is then, with a warning if
// it keeps less.
func Resolve(set *Set, catalog Catalog) (*Plan, error) {
	r := newReport()
	plan := resolve(set, catalog, r)
	if err := r.err(); err != nil {
		return nil, err
	}
	return plan, nil
}

// Load decodes files and resolves what is in them. Its *Error has the
// mistakes of both.
func Load(catalog Catalog, files ...File) (*Set, *Plan, error) {
	r := newReport()
	set := decode(files, r)
	plan := resolve(set, catalog, r)
	if err := r.err(); err != nil {
		return nil, nil, err
	}
	return set, plan, nil
}

// resolve resolves the documents without mistakes.
func resolve(set *Set, catalog Catalog, r *report) *Plan {
	v := &resolver{report: r, set: set, catalog: catalog, byName: make(map[string]*candidate)}
	v.open()
	plan := &Plan{Namespaces: make([]Placement, 0, len(set.Namespaces))}
	for _, n := range set.Namespaces {
		if !r.isBroken(&n.Origin) {
			plan.Namespaces = append(plan.Namespaces, v.namespace(n))
		}
	}
	v.checkOverlaps()
	return plan
}

type resolver struct {
	report     *report
	set        *Set
	catalog    Catalog
	candidates []*candidate // in the order of the documents
	byName     map[string]*candidate
	occupied   []occupant
}

// A candidate is a backend that slots can be given. conn is nil if its
// document has mistakes.
type candidate struct {
	doc  *Backend
	conn driver.Conn
}

func (v *resolver) open() {
	for _, b := range v.set.Backends {
		c := &candidate{doc: b}
		if !v.report.isBroken(&b.Origin) && v.known(b) {
			conn, err := v.catalog.Open(b)
			if err != nil {
				explainError(err, "", func(path, text string) { v.report.backend(b, path, "%s", text) })
			} else {
				c.conn = conn
			}
		}
		v.candidates = append(v.candidates, c)
		v.byName[b.Spec.GetName()] = c
	}
}

// known reports whether the document refers to what there is.
func (v *resolver) known(b *Backend) bool {
	if name := b.Spec.GetDriver(); !slices.Contains(v.catalog.Drivers, name) {
		v.report.backend(b, "driver", "unknown driver %s%s", quote(name), advise(name, v.catalog.Drivers))
	}
	if ref := b.Spec.GetCredentials(); ref != "" {
		if err := v.catalog.Credentials(ref); err != nil {
			explainError(err, "credentials", func(path, text string) { v.report.backend(b, path, "%s", text) })
		}
	}
	return !v.report.isBroken(&b.Origin)
}

// explainError tells err as mistakes below the path base: one for each of its
// fields, if it has any.
func explainError(err error, base string, say sayer) {
	var e *errs.Error
	if !errors.As(err, &e) || len(e.Fields) == 0 {
		say(base, oneLine(err.Error()))
		return
	}
	for _, f := range e.Fields {
		path := f.Path
		if base != "" {
			path = base + "." + path
		}
		say(path, oneLine(f.Text))
	}
}

func oneLine(s string) string { return strings.ReplaceAll(s, "\n", "; ") }

func (v *resolver) namespace(n *Namespace) Placement {
	plan := Placement{
		Spec: n.Spec, Name: n.Spec.GetName(), File: n.Origin.File, Line: n.Origin.Line,
		Anonymous: n.Anonymous(), Signing: n.Spec.GetSigning().GetKeys(), Durability: durabilityProcess, Patterns: []PlacedPattern{},
	}
	if d := n.Spec.GetNeeds().GetDurability(); d != "" {
		plan.Durability = d
	}
	if n.Spec.GetSigning() != nil {
		if err := v.catalog.Keys(n); err != nil {
			explainError(err, "signing.keys", func(path, text string) { v.report.namespace(n, path, "%s", text) })
		}
	}
	patterns := patternsOf(n.Spec)
	if len(patterns) == 0 {
		plan.Warnings = append(plan.Warnings, "it has no pattern to serve; write stores: [NAME]")
	}
	if plan.Anonymous == AnonymousReadWrite {
		plan.Warnings = append(plan.Warnings, "anybody who reaches the proxy can write to it")
	}
	for _, p := range patterns {
		if got, ok := v.pattern(n, p); ok {
			plan.Patterns = append(plan.Patterns, got)
		}
	}
	if plan.Signing != "" && !v.hasMessages(&plan) {
		plan.Warnings = append(plan.Warnings, "there are no messages to sign, because it has no topics and no pattern of kind pubsub")
	}
	return plan
}

// hasMessages reports whether a pattern of the namespace has any.
func (v *resolver) hasMessages(plan *Placement) bool {
	return slices.ContainsFunc(plan.Patterns, func(p PlacedPattern) bool {
		i := slices.IndexFunc(v.catalog.Kinds, func(k Kind) bool { return k.Name == p.Kind })
		return v.catalog.Kinds[i].CheckSigning != nil
	})
}

func (v *resolver) pattern(n *Namespace, p pattern) (PlacedPattern, bool) {
	plan := PlacedPattern{Name: p.GetName(), Kind: p.GetKind(), Settings: rawJSON(p.GetSettings()), Slots: []PlacedSlot{}}
	kind := v.kind(n, p)
	if kind == nil {
		return plan, false
	}
	v.checkSettings(n, p, kind, plan.Settings)
	v.checkSlotNames(n, p, kind)
	for i := range kind.Slots {
		slot, ok := v.slot(n, p, &kind.Slots[i])
		if !ok {
			return plan, false
		}
		plan.Slots = append(plan.Slots, slot)
	}
	return plan, true
}

func (v *resolver) kind(n *Namespace, p pattern) *Kind {
	names := make([]string, len(v.catalog.Kinds))
	for i := range v.catalog.Kinds {
		if v.catalog.Kinds[i].Name == p.GetKind() {
			return &v.catalog.Kinds[i]
		}
		names[i] = v.catalog.Kinds[i].Name
	}
	path := p.path
	if !p.short {
		path += ".kind"
	}
	v.report.namespace(n, path, "unknown kind of pattern %s%s", quote(p.GetKind()), advise(p.GetKind(), names))
	return nil
}

func (v *resolver) checkSettings(n *Namespace, p pattern, kind *Kind, settings json.RawMessage) {
	path := p.path + ".settings"
	switch {
	case kind.CheckSettings != nil:
		err := kind.CheckSettings(settings)
		if err == nil && kind.CheckSigning != nil {
			err = kind.CheckSigning(settings, n.Spec.GetSigning() != nil)
		}
		if err != nil {
			base := p.path
			if len(errs.From(err).Fields) == 0 {
				base = path
			}
			explainError(err, base, func(path, text string) {
				if p.short { // the settings stand in the document itself
					path = strings.TrimPrefix(path, p.path+".settings.")
				}
				v.report.namespace(n, path, "%s", text)
			})
		}
	case len(p.GetSettings().GetFields()) > 0:
		v.report.namespace(n, path, "a pattern of kind %s has no settings; remove them", kind.Name)
	}
}

func (v *resolver) checkSlotNames(n *Namespace, p pattern, kind *Kind) {
	names := make([]string, len(kind.Slots))
	for i, s := range kind.Slots {
		names[i] = s.Name
	}
	for _, name := range slices.Sorted(maps.Keys(p.GetSlots())) {
		if !slices.Contains(names, name) {
			v.report.namespace(n, slotPath(p, name), "a pattern of kind %s has no slot %s%s", kind.Name, quote(name), advise(name, names))
		}
	}
}

func slotPath(p pattern, name string) string {
	if p.short {
		return p.path
	}
	return join(p.path+".slots", name)
}

// slot fills one slot.
func (v *resolver) slot(n *Namespace, p pattern, need *SlotNeed) (PlacedSlot, bool) {
	spec := p.GetSlots()[need.Name]
	path := slotPath(p, need.Name)
	space := driver.Space{Namespace: n.Spec.GetName(), Pattern: p.GetName(), Layout: rawJSON(spec.GetLayout())}
	plan := PlacedSlot{Name: need.Name, Primitive: need.Primitive, Space: space}
	if spec.GetBackend() == "" {
		if space.Layout != nil {
			v.report.namespace(n, path, "a slot with a layout names its backend, because data that is there already is in one place; add backend: NAME")
			return plan, false
		}
		return plan, v.choose(n, &plan, need, path)
	}
	return plan, v.named(n, &plan, need, spec, path)
}

// named fills a slot with the backend that the document names.
func (v *resolver) named(n *Namespace, plan *PlacedSlot, need *SlotNeed, spec *namespacev1.Slot, path string) bool {
	path += ".backend"
	c, found := v.byName[spec.GetBackend()]
	switch {
	case !found:
		if !v.set.incomplete {
			names := slices.Sorted(maps.Keys(v.byName))
			v.report.namespace(n, path, "there is no Backend %s%s", quote(spec.GetBackend()), advise(spec.GetBackend(), names))
		}
		return false
	case c.conn == nil:
		return false
	}
	b, err := c.conn.Space(plan.Space)
	if err != nil {
		explainError(err, strings.TrimSuffix(path, ".backend"), func(path, text string) { v.report.namespace(n, path, "%s", text) })
		return false
	}
	asked := n.Spec.GetNeeds().GetDurability()
	if why := need.unfit(b, asked); why != "" {
		advice := ""
		switch {
		case !has(b, need.Primitive):
			advice = v.whoHas(need.Primitive, plan.Space)
		case need.unfit(b, durabilityNone) == "":
			advice = orAskLess(asked)
		}
		v.report.namespace(n, path, "%s cannot fill the slot: %s; name another backend%s", quote(spec.GetBackend()), why, advice)
		return false
	}
	plan.Reason = "the document names it"
	v.take(n, plan, c, b, path)
	if ack := plan.ack(); need.keeps() && asked == "" && !ack.Process {
		plan.Warnings = append(plan.Warnings, "an OK does not survive the crash of the process"+because(ack)+"; write needs: {durability: process} to be refused instead")
	}
	return true
}

const whoHasIt = "docs/backends.md says which technologies have it"

// whoHas names the backends of the documents that have a primitive.
func (v *resolver) whoHas(primitive string, s driver.Space) string {
	s.Layout = nil
	var names []string
	for _, c := range v.candidates {
		if c.conn == nil {
			continue
		}
		if b, err := c.conn.Space(s); err == nil && has(b, primitive) {
			names = append(names, quote(c.doc.Spec.GetName()))
		}
	}
	switch len(names) {
	case 0:
		return "; none of these documents has it, and " + whoHasIt
	case 1:
		return "; " + names[0] + " has it"
	}
	return "; " + strings.Join(names, " and ") + " have it"
}

func orAskLess(durability string) string {
	switch durability {
	case durabilityStrong:
		return ", or ask for less than durability: strong"
	case durabilityProcess:
		return ", or write durability: none if the data may be lost"
	}
	return ""
}

// choose fills a slot with the first backend that fits.
func (v *resolver) choose(n *Namespace, plan *PlacedSlot, need *SlotNeed, path string) bool {
	asked, stated := n.Spec.GetNeeds().GetDurability(), ""
	if asked == "" {
		asked, stated = durabilityProcess, " (the default)"
	}
	unsure, less := v.set.incomplete, false
	for _, c := range v.candidates {
		if c.conn == nil {
			unsure = true // it might have fitted
			continue
		}
		b, err := c.conn.Space(plan.Space)
		var why string
		if err != nil {
			why = oneLine(err.Error())
		} else {
			why = need.unfit(b, asked)
			less = less || need.unfit(b, durabilityNone) == ""
		}
		if why == "" {
			plan.Reason = "the first backend with " + need.Primitive
			if need.keeps() {
				plan.Reason += " that keeps durability " + asked + stated
			}
			v.take(n, plan, c, b, path)
			return true
		}
		plan.Rejected = append(plan.Rejected, Rejection{c.doc.Spec.GetName(), why})
	}
	if !unsure {
		v.report.namespace(n, path, "%s", noneFits(plan, need, asked, stated, less))
	}
	return false
}

// noneFits says why no backend fills a slot. less tells whether one would if less
// durability were asked for.
func noneFits(plan *PlacedSlot, need *SlotNeed, durability, stated string, less bool) string {
	if len(plan.Rejected) == 0 {
		return "there is no backend to fill the slot " + plan.Name + "; add a document of kind: Backend"
	}
	why := make([]string, len(plan.Rejected))
	lacking := true
	for i, r := range plan.Rejected {
		why[i] = quote(r.Backend) + ": " + r.Reason
		lacking = lacking && r.Reason == need.lacking()
	}
	advice := "; add one that does"
	if lacking {
		advice += "; " + whoHasIt
	}
	if !need.keeps() {
		return fmt.Sprintf("no backend fills the slot %s; %s%s", plan.Name, strings.Join(why, "; "), advice)
	}
	switch {
	case !less:
	case stated != "":
		advice += ", name one in the slot to take it as it is, or write needs: {durability: none} if the data may be lost"
	case durability != durabilityNone:
		advice += ", or ask for less than durability: " + durability
	}
	return fmt.Sprintf("no backend fills the slot %s with durability %s%s; %s%s", plan.Name, durability, stated, strings.Join(why, "; "), advice)
}

// take notes that c fills the slot.
func (v *resolver) take(n *Namespace, plan *PlacedSlot, c *candidate, b driver.Backend, path string) {
	plan.Backend, plan.Driver, plan.Extent = c.doc.Spec.GetName(), c.doc.Spec.GetDriver(), b.Extent
	v.promise(n, plan, b)
	v.occupied = append(v.occupied, occupant{
		namespace: n, path: path, backend: c.doc, pattern: plan.Space.Pattern,
		extent: b.Extent, adopted: plan.Space.Layout != nil,
	})
}

// promise notes what the slot's primitive promises, and what to be warned of.
func (v *resolver) promise(n *Namespace, plan *PlacedSlot, b driver.Backend) {
	switch plan.Primitive {
	case PrimitiveKV:
		plan.Guarantees = b.KV.Guarantees()
		if plan.Guarantees.ScanCost == driver.ScanKeyspace {
			plan.Warnings = append(plan.Warnings, "a scan reads every key of the backend, not only those asked for; keep big keyspaces apart")
		}
	case PrimitiveLog:
		plan.Log = b.Log.Guarantees()
	case PrimitiveQueue:
		plan.Queue = b.Queue.Guarantees()
	case PrimitivePubSub:
		plan.PubSub = b.PubSub.Guarantees()
		if d := n.Spec.GetNeeds().GetDurability(); d == durabilityStrong || d == durabilityProcess {
			plan.Warnings = append(plan.Warnings, "durability: "+d+" does not hold for its messages, which nobody keeps")
		}
	}
}
