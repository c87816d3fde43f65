package namespace

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/prismgw/prism/driver"
)

// Explain writes the plan for people to read: every namespace, its patterns
// and their slots, what fills them and why, and what there is to be warned of.
func (p *Plan) Explain(w io.Writer) error {
	var b bytes.Buffer
	for i := range p.Namespaces {
		if i > 0 {
			b.WriteByte('\n')
		}
		p.Namespaces[i].explain(&b)
	}
	_, err := w.Write(b.Bytes())
	return err
}

// line writes one aligned line of a slot's description.
func line(b *bytes.Buffer, name, format string, args ...any) {
	fmt.Fprintf(b, "      %-12s %s\n", name, fmt.Sprintf(format, args...))
}

func (n *Placement) explain(b *bytes.Buffer) {
	fmt.Fprintf(b, "namespace %s", n.Name)
	if n.File != "" {
		fmt.Fprintf(b, " (%s:%d)", n.File, n.Line)
	}
	fmt.Fprintf(b, "\n  anonymous callers: %s\n", strings.ReplaceAll(n.Anonymous, "_", " "))
	if n.Signing != "" {
		fmt.Fprintf(b, "  messages: signed, and verified before they are delivered, with the keys of %s\n", n.Signing)
	}
	for _, warning := range n.Warnings {
		fmt.Fprintf(b, "  warning: %s\n", warning)
	}
	for i := range n.Patterns {
		p := &n.Patterns[i]
		fmt.Fprintf(b, "  pattern %s, %s\n", p.Name, p.Kind)
		for j := range p.Slots {
			p.Slots[j].explain(b)
		}
	}
}

func (s *PlacedSlot) explain(b *bytes.Buffer) {
	fmt.Fprintf(b, "    %s: %s (%s)\n", s.Name, s.Backend, s.Driver)
	line(b, "why", "%s", s.Reason)
	switch s.Primitive {
	case PrimitiveKV:
		explainKV(b, &s.Guarantees)
	case PrimitivePubSub:
		explainPubSub(b, s.PubSub)
	case PrimitiveLog:
		explainLog(b, &s.Log)
	case PrimitiveQueue:
		explainQueue(b, &s.Queue)
	}
	if s.Space.Layout != nil {
		line(b, "adopts", "%s", extent(s.Extent))
	}
	for _, r := range s.Rejected {
		line(b, "not", "%s: %s", r.Backend, r.Reason)
	}
	for _, warning := range s.Warnings {
		line(b, "warning", "%s", warning)
	}
}

func explainKV(b *bytes.Buffer, g *driver.Guarantees) {
	line(b, "durability", "%s", survives(g.Ack))
	line(b, "versions", "%s", versions(g.Version))
	line(b, "scan", "%s", scan(g))
	line(b, "values", "up to %s", size(g.MaxValue))
}

func explainPubSub(b *bytes.Buffer, g driver.PubSubGuarantees) {
	reach, groups := "whoever listens through any proxy", "share messages"
	if !g.Shared {
		reach = "whoever listens through the same proxy"
	}
	if !g.Groups {
		groups = "there are none"
	}
	line(b, "durability", "nothing is kept: a message comes at most once")
	line(b, "reach", "%s", reach)
	line(b, "groups", "%s", groups)
	line(b, "messages", "up to %s", size(g.MaxPayload))
}

func explainLog(b *bytes.Buffer, g *driver.LogGuarantees) {
	line(b, "durability", "%s", survives(g.Ack))
	repeats := "a message that is published again stands in its topic twice"
	if g.Dedup {
		repeats = "a message_id that comes again within ten minutes is not added again"
	}
	line(b, "repeats", "%s", repeats)
	others := "of Prism's own consumers only"
	if g.Foreign {
		others = "of Prism's consumers and of those of other programs"
	}
	line(b, "groups", "%s", others)
	line(b, "messages", "up to %s", size(g.MaxRecord))
}

func explainQueue(b *bytes.Buffer, g *driver.QueueGuarantees) {
	reach := "of all proxies"
	if !g.Shared {
		reach = "of this proxy alone"
	}
	line(b, "durability", "%s", survives(g.Ack))
	line(b, "workers", "%s share the tasks", reach)
	line(b, "tasks", "up to %s", size(g.MaxTask))
}

func survives(a driver.Ack) string {
	var what []string
	if a.Process {
		what = append(what, "the crash of the process")
	}
	if a.OS {
		what = append(what, "the crash of the machine")
	}
	if a.Node {
		what = append(what, "the loss of the node")
	}
	text := "an OK survives no crash"
	if len(what) > 0 {
		text = "an OK survives " + strings.Join(what, " and ")
	}
	if a.Settings != "" && a.Settings != "default" {
		text += ", by " + a.Settings
	}
	return text + because(a)
}

func size(bytes int) string {
	if bytes > 0 && bytes%(1<<20) == 0 {
		return fmt.Sprintf("%d MiB", bytes>>20)
	}
	return fmt.Sprintf("%d bytes", bytes)
}

func versions(v driver.VersionKind) string {
	if v == driver.ContentVersions {
		return "of the content: compare-and-set does not see a value change there and back"
	}
	return "of the write: compare-and-set sees every change"
}

func scan(g *driver.Guarantees) string {
	order := "in no order"
	if g.OrderedScan {
		order = "in the order of the keys"
	}
	if g.ScanCost == driver.ScanKeyspace {
		return order + ", at the cost of all keys of the backend"
	}
	return order + ", at the cost of the keys below the prefix"
}

func extent(e driver.Extent) string {
	keys := "all keys"
	switch {
	case e.Prefix != "" && e.Suffix != "":
		keys = fmt.Sprintf("keys that begin with %q and end with %q", e.Prefix, e.Suffix)
	case e.Prefix != "":
		keys = fmt.Sprintf("keys that begin with %q", e.Prefix)
	case e.Suffix != "":
		keys = fmt.Sprintf("keys that end with %q", e.Suffix)
	}
	if e.Container == "" {
		return keys
	}
	return fmt.Sprintf("%s of %s", keys, e.Container)
}
