package namespace

import (
	"encoding/json"

	"github.com/prismgw/prism/driver"
)

// A Catalog tells what there is in this build: the tables of cmd/prism, as
// far as documents refer to them.
type Catalog struct {
	Drivers []string // names
	Kinds   []Kind

	// Credentials checks the form of a reference such as env://NAME. It
	// neither reads what the reference names nor repeats it in its error.
	Credentials func(ref string) error

	// Open opens a connection as the driver of the document does it, which
	// checks the document's url, tls and options and talks to nobody. It is
	// called once for each Backend. The connection stays the caller's, to
	// keep or to close; Resolve asks it for spaces only.
	Open func(b *Backend) (driver.Conn, error)
}

// A Kind is what documents need to know of one kind of pattern.
type Kind struct {
	Name  string // "keyvalue"
	Slots []SlotNeed

	// CheckSettings checks a pattern's settings (nil: none were written)
	// and reports every mistake as an errs.Field below "settings". nil: the
	// kind has no settings.
	CheckSettings func(settings json.RawMessage) error
}

// A SlotNeed is one slot of a kind and what has to fill it.
type SlotNeed struct {
	Name      string             // "store-kv"
	Primitive string             // PrimitiveKV
	Versions  driver.VersionKind // empty: any
}

// PrimitiveKV is the primitive of keys and values, driver.KV.
const PrimitiveKV = "kv"

// has reports whether b has a primitive.
func has(b driver.Backend, primitive string) bool {
	return primitive == PrimitiveKV && b.KV != nil
}

// unfit says why b cannot fill a slot; empty: it can.
func (s *SlotNeed) unfit(b driver.Backend, durability string) string {
	if !has(b, s.Primitive) {
		return "it has no primitive " + s.Primitive
	}
	g := b.KV.Guarantees()
	switch {
	case s.Versions != "" && s.Versions != g.Version:
		return "its versions identify the " + string(g.Version) + ", where " + string(s.Versions) + " versions are needed"
	case durability == durabilityStrong && !g.Ack.OS:
		return "an OK does not survive the crash of the machine" + because(g.Ack)
	case durability == durabilityProcess && !g.Ack.Process:
		return "an OK does not survive the crash of the process" + because(g.Ack)
	}
	return ""
}

func because(a driver.Ack) string {
	if a.Why == "" {
		return ""
	}
	return " (" + a.Why + ")"
}
