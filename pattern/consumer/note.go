package consumer

import (
	"encoding/base64"
	"encoding/binary"
	"slices"

	"github.com/prismgw/prism/driver"
)

// noteForm is the first character of a checkpoint's note, for the form below.
const noteForm = '1'

// The two ways to write down what is settled; the shorter one is taken.
const (
	asRuns   = 0 // how many, then for each the distance to it and its length
	asBitmap = 1 // how many bytes, then a bit for each position, the lowest first
)

// A note is what a group knows about the records of a partition from the
// checkpoint's position on. All positions are in order.
type note struct {
	settled  []span
	failures []failures
}

// A span is settled from first to last; what has no record in between never
// will.
type span struct{ first, last driver.Position }

// failures are how often a record that is not settled has failed.
type failures struct {
	at    driver.Position
	count int
}

// encode writes the note of a checkpoint as printable text. If that is longer
// than limit, what is known of the highest positions is left out: covered is
// the highest position whose record is described.
func (n *note) encode(next driver.Position, limit int) (text string, covered driver.Position) {
	if raw := n.bytes(next); 1+base64.RawURLEncoding.EncodedLen(len(raw)) <= limit {
		return textOf(raw), 1<<63 - 1
	}
	ends := n.ends()
	fits := firstOf(ends, func(end driver.Position) bool {
		return 1+base64.RawURLEncoding.EncodedLen(len(n.upTo(end).bytes(next))) > limit
	})
	if fits == 0 {
		return "", next - 1
	}
	covered = ends[fits-1]
	return textOf(n.upTo(covered).bytes(next)), covered
}

func textOf(raw []byte) string {
	if len(raw) == 0 {
		return ""
	}
	return string(noteForm) + base64.RawURLEncoding.EncodeToString(raw)
}

// firstOf returns the index of the first of which something is so that is so of
// all behind it, by halves.
func firstOf[T any](all []T, so func(T) bool) int {
	i, _ := slices.BinarySearchFunc(all, true, func(one T, _ bool) int {
		if so(one) {
			return 1
		}
		return -1
	})
	return i
}

// ends are the positions at which the note may be cut off.
func (n *note) ends() []driver.Position {
	ends := make([]driver.Position, 0, len(n.settled)+len(n.failures))
	for _, s := range n.settled {
		ends = append(ends, s.last)
	}
	for _, f := range n.failures {
		ends = append(ends, f.at)
	}
	slices.Sort(ends)
	return ends
}

// upTo returns the part of the note that ends with a position.
func (n *note) upTo(end driver.Position) *note {
	return &note{
		settled:  n.settled[:firstOf(n.settled, func(s span) bool { return s.last > end })],
		failures: n.failures[:firstOf(n.failures, func(f failures) bool { return f.at > end })],
	}
}

// bytes returns the note without its armour, nothing for an empty one.
func (n *note) bytes(next driver.Position) []byte {
	if len(n.settled) == 0 && len(n.failures) == 0 {
		return nil
	}
	out := n.runs(next)
	if bits := n.bitmap(next, len(out)); bits != nil {
		out = bits
	}
	at := next
	for _, f := range n.failures {
		out = appendNumber(out, f.at-at)
		out = binary.AppendUvarint(out, uint64(f.count))
		at = f.at
	}
	return out
}

func (n *note) runs(next driver.Position) []byte {
	out := binary.AppendUvarint([]byte{asRuns}, uint64(len(n.settled)))
	at := next
	for _, s := range n.settled {
		out = appendNumber(out, s.first-at)
		out = appendNumber(out, s.last-s.first)
		at = s.last
	}
	return out
}

// bitmap returns nil if it would not be shorter.
func (n *note) bitmap(next driver.Position, shorterThan int) []byte {
	if len(n.settled) == 0 {
		return nil
	}
	size := (n.settled[len(n.settled)-1].last - next) / 8
	if size+4 >= driver.Position(shorterThan) {
		return nil
	}
	out := binary.AppendUvarint([]byte{asBitmap}, uint64(size+1))
	bits := make([]byte, size+1)
	for _, s := range n.settled {
		for p := s.first - next; p <= s.last-next; p++ {
			bits[p/8] |= 1 << (p % 8)
		}
	}
	return append(out, bits...)
}

func appendNumber(b []byte, n driver.Position) []byte {
	return binary.AppendUvarint(b, uint64(n))
}

// decodeNote reads the note of a checkpoint. Of a text that is none of ours
// nothing is known, as if it were empty: some record may come twice.
func decodeNote(c driver.Checkpoint) note {
	if len(c.Note) < 2 || c.Note[0] != noteForm {
		return note{}
	}
	raw, err := base64.RawURLEncoding.DecodeString(c.Note[1:])
	if err != nil {
		return note{}
	}
	r := reader{raw: raw, at: c.Next}
	n := r.note()
	if r.bad || len(r.raw) > 0 {
		return note{}
	}
	return n
}

// A reader takes a note apart. at is the position up to which it has come.
type reader struct {
	raw []byte
	at  driver.Position
	bad bool
}

func (r *reader) number() uint64 {
	n, size := binary.Uvarint(r.raw)
	if size <= 0 {
		r.bad, r.raw = true, nil
		return 0
	}
	r.raw = r.raw[size:]
	return n
}

// move goes on by a distance.
func (r *reader) move() driver.Position {
	d := r.number()
	if d > uint64(1<<63-1-r.at) {
		r.bad = true
		return r.at
	}
	r.at += driver.Position(d)
	return r.at
}

func (r *reader) note() note {
	var n note
	start := r.at
	switch form := r.number(); form {
	case asRuns:
		n.settled = r.readRuns()
	case asBitmap:
		n.settled = r.readBitmap()
	default:
		r.bad = true
	}
	r.at = start
	for len(r.raw) > 0 && !r.bad {
		at := r.move()
		count := r.number()
		r.bad = r.bad || count == 0 || count > maxCount || len(n.failures) > 0 && at <= n.failures[len(n.failures)-1].at
		n.failures = append(n.failures, failures{at, int(count)})
	}
	return n
}

func (r *reader) readRuns() []span {
	count := r.number()
	if count > uint64(len(r.raw)) { // each takes two bytes at least
		r.bad = true
		return nil
	}
	spans := make([]span, 0, count)
	for range count {
		first := r.move()
		r.bad = r.bad || len(spans) > 0 && first <= spans[len(spans)-1].last
		spans = append(spans, span{first, r.move()})
	}
	return spans
}

func (r *reader) readBitmap() []span {
	size := r.number()
	if size > uint64(len(r.raw)) || r.at > 1<<62 {
		r.bad = true
		return nil
	}
	bits := r.raw[:size]
	r.raw = r.raw[size:]
	var spans []span
	for i := range driver.Position(len(bits) * 8) {
		if bits[i/8]&(1<<(i%8)) == 0 {
			continue
		}
		p := r.at + i
		if last := len(spans) - 1; last >= 0 && spans[last].last == p-1 {
			spans[last].last = p
		} else {
			spans = append(spans, span{p, p})
		}
	}
	return spans
}

// holds reports whether a position is settled.
func (n *note) holds(p driver.Position) bool {
	i := firstOf(n.settled, func(s span) bool { return s.last >= p })
	return i < len(n.settled) && n.settled[i].first <= p
}

// count returns how often the record at a position has failed.
func (n *note) count(p driver.Position) int {
	i := firstOf(n.failures, func(f failures) bool { return f.at >= p })
	if i < len(n.failures) && n.failures[i].at == p {
		return n.failures[i].count
	}
	return 0
}

// after returns what is known of positions above p.
func (n *note) after(p driver.Position) note {
	settled := n.settled[firstOf(n.settled, func(s span) bool { return s.last > p }):]
	if len(settled) > 0 && settled[0].first <= p {
		settled = append([]span{{p + 1, settled[0].last}}, settled[1:]...)
	}
	return note{settled, n.failures[firstOf(n.failures, func(f failures) bool { return f.at > p }):]}
}
