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

	// Keys says what is wrong with the signing keys of a namespace whose
	// document has signing, or only with their reference, as Credentials does.
	Keys func(n *Namespace) error

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

	// CheckSigning checks what settings without mistakes mean in a namespace
	// that signs, or does not. nil: the kind has no messages.
	CheckSigning func(settings json.RawMessage, signs bool) error
}

// A SlotNeed is one slot of a kind and what has to fill it.
type SlotNeed struct {
	Name      string             // "store-kv"
	Primitive string             // PrimitiveKV, ...
	Versions  driver.VersionKind // of a KV; empty: any
}

// The primitives that a slot can ask for.
const (
	PrimitiveKV     = "kv"     // driver.KV
	PrimitivePubSub = "pubsub" // driver.PubSub
	PrimitiveLog    = "log"    // driver.Log
	PrimitiveQueue  = "queue"  // driver.Queue
)

// has reports whether b has a primitive.
func has(b driver.Backend, primitive string) bool {
	switch primitive {
	case PrimitiveKV:
		return b.KV != nil
	case PrimitivePubSub:
		return b.PubSub != nil
	case PrimitiveLog:
		return b.Log != nil
	case PrimitiveQueue:
		return b.Queue != nil
	}
	return false
}

// keeps reports whether what fills the slot keeps anything, so that durability
// means something there.
func (s *SlotNeed) keeps() bool { return s.Primitive != PrimitivePubSub }

func (s *SlotNeed) lacking() string { return "it has no primitive " + s.Primitive }

// unfit says why b cannot fill a slot; empty: it can.
func (s *SlotNeed) unfit(b driver.Backend, durability string) string {
	if !has(b, s.Primitive) {
		return s.lacking()
	}
	switch s.Primitive {
	case PrimitiveKV:
		g := b.KV.Guarantees()
		if s.Versions != "" && s.Versions != g.Version {
			return "its versions identify the " + string(g.Version) + ", where " + string(s.Versions) + " versions are needed"
		}
		return weaker(g.Ack, durability)
	case PrimitiveLog:
		return weaker(b.Log.Guarantees().Ack, durability)
	case PrimitiveQueue:
		return weaker(b.Queue.Guarantees().Ack, durability)
	}
	return ""
}

// weaker says why an acknowledgement does not survive what it should.
func weaker(a driver.Ack, durability string) string {
	switch {
	case durability == durabilityStrong && !a.OS:
		return "an OK does not survive the crash of the machine" + because(a)
	case durability == durabilityProcess && !a.Process:
		return "an OK does not survive the crash of the process" + because(a)
	}
	return ""
}

func because(a driver.Ack) string {
	if a.Why == "" {
		return ""
	}
	return " (" + a.Why + ")"
}
