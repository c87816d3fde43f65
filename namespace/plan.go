package namespace

import (
	"encoding/json"

	namespacev1 "github.com/prismgw/prism/api/prism/namespace/v1"
	"github.com/prismgw/prism/driver"
)

// A Plan says which backend serves each slot of each namespace, and why. It
// is never changed; encoding/json writes it as prism check -o json does.
type Plan struct {
	Namespaces []Placement `json:"namespaces"` // in the order of the documents
}

// A Placement is how one namespace is served.
type Placement struct {
	Spec *namespacev1.Namespace `json:"-"` // the document

	Name       string          `json:"name"`
	File       string          `json:"file,omitempty"`
	Line       int             `json:"line,omitempty"`
	Anonymous  string          `json:"anonymous"`         // AnonymousDeny, ...
	Signing    string          `json:"signing,omitempty"` // where the keys of its messages are; empty: they are not signed
	Durability string          `json:"durability"`        // what the namespace asks for; "process" where it says nothing
	Patterns   []PlacedPattern `json:"patterns"`
	Warnings   []string        `json:"warnings,omitempty"`
}

// A PlacedPattern is how one pattern of a namespace is served.
type PlacedPattern struct {
	Name     string          `json:"name"`
	Kind     string          `json:"kind"`
	Settings json.RawMessage `json:"settings,omitempty"` // nil: none
	Slots    []PlacedSlot    `json:"slots"`              // in the order of the Kind
}

// A PlacedSlot is what fills one slot.
type PlacedSlot struct {
	Name       string
	Primitive  string
	Backend    string // the document's name
	Driver     string
	Space      driver.Space // to open on the backend's connection
	Extent     driver.Extent
	Guarantees driver.Guarantees       // of a KV
	PubSub     driver.PubSubGuarantees // of a PubSub
	Log        driver.LogGuarantees    // of a Log
	Queue      driver.QueueGuarantees  // of a Queue
	Reason     string                  // why this backend
	Rejected   []Rejection             // the backends that came first and do not fit
	Warnings   []string
}

// ack is what an acknowledgement of what the slot keeps survives.
func (s *PlacedSlot) ack() driver.Ack {
	switch s.Primitive {
	case PrimitiveLog:
		return s.Log.Ack
	case PrimitiveQueue:
		return s.Queue.Ack
	}
	return s.Guarantees.Ack
}

// A Rejection is a backend that was looked at and not taken.
type Rejection struct {
	Backend string `json:"backend"`
	Reason  string `json:"reason"`
}

// slotJSON is the JSON form of a PlacedSlot, with the guarantees of its
// primitive.
type slotJSON struct {
	Name      string          `json:"name"`
	Primitive string          `json:"primitive"`
	Backend   string          `json:"backend"`
	Driver    string          `json:"driver"`
	Reason    string          `json:"reason"`
	Layout    json.RawMessage `json:"layout,omitempty"`
	*kvJSON
	*pubsubJSON
	*logJSON
	*queueJSON
	Shared   bool        `json:"shared"`
	Ack      *ackJSON    `json:"ack,omitempty"` // of what keeps anything
	Rejected []Rejection `json:"rejected,omitempty"`
	Warnings []string    `json:"warnings,omitempty"`
}

type kvJSON struct {
	Versions    string `json:"versions"`
	Clock       string `json:"clock"`
	OrderedScan bool   `json:"ordered_scan"`
	ScanCost    string `json:"scan_cost"`
	Idempotency string `json:"idempotency"`
	MaxValue    int    `json:"max_value"`
}

type ackJSON struct {
	Settings string `json:"settings"`
	Process  bool   `json:"process"`
	OS       bool   `json:"os"`
	Node     bool   `json:"node"`
	Why      string `json:"why,omitempty"`
}

type pubsubJSON struct {
	Groups     bool `json:"groups"`
	MaxPayload int  `json:"max_payload"`
}

type logJSON struct {
	Dedup         bool `json:"dedup"`
	UntilConsumed bool `json:"until_consumed"`
	SeekLive      bool `json:"seek_live"`
	Foreign       bool `json:"foreign_members"`
	MaxRecord     int  `json:"max_record"`
}

type queueJSON struct {
	MaxTask int `json:"max_task"`
}

// MarshalJSON writes the slot with its guarantees.
func (s PlacedSlot) MarshalJSON() ([]byte, error) {
	out := slotJSON{
		Name: s.Name, Primitive: s.Primitive, Backend: s.Backend, Driver: s.Driver, Reason: s.Reason, Layout: s.Space.Layout,
		Rejected: s.Rejected, Warnings: s.Warnings,
	}
	switch g := s.Guarantees; s.Primitive {
	case PrimitiveKV:
		out.Shared, out.Ack = g.Shared, (*ackJSON)(&g.Ack)
		out.kvJSON = &kvJSON{
			Versions: string(g.Version), Clock: string(g.Clock), OrderedScan: g.OrderedScan, ScanCost: string(g.ScanCost),
			Idempotency: string(g.Idempotency), MaxValue: g.MaxValue,
		}
	case PrimitivePubSub:
		out.Shared = s.PubSub.Shared
		out.pubsubJSON = &pubsubJSON{Groups: s.PubSub.Groups, MaxPayload: s.PubSub.MaxPayload}
	case PrimitiveLog:
		l := s.Log
		out.Shared, out.Ack = l.Shared, (*ackJSON)(&l.Ack)
		out.logJSON = &logJSON{Dedup: l.Dedup, UntilConsumed: l.UntilConsumed, SeekLive: l.SeekLive, Foreign: l.Foreign, MaxRecord: l.MaxRecord}
	case PrimitiveQueue:
		out.Shared, out.Ack = s.Queue.Shared, (*ackJSON)(&s.Queue.Ack)
		out.queueJSON = &queueJSON{MaxTask: s.Queue.MaxTask}
	}
	return json.Marshal(out)
}
