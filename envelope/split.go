package envelope

import "encoding/binary"

// payloadTag is the tag of field 99, of the wire type of bytes.
const payloadTag = 99<<3 | 2

// Split takes an envelope apart for layouts in which the payload stands by
// itself: head is the envelope without it, in the order in which its fields
// came. It refuses what Scan refuses. The payload is a part of wire; head is
// too where the payload came last, as most encoders write it.
func Split(wire []byte) (head, payload []byte, err error) {
	h, err := Scan(wire)
	if err != nil {
		return nil, nil, err
	}
	if !h.payload.there() {
		return wire, nil, nil
	}
	before, after := wire[:h.payload.start], wire[h.payload.end:]
	if len(after) == 0 {
		return before[:len(before):len(before)], h.Payload, nil
	}
	return append(append(make([]byte, 0, len(before)+len(after)), before...), after...), h.Payload, nil
}

// Join puts an envelope together again. It has the signature of the one that
// was split, since that does not cover where the payload stands. A head with a
// payload of its own makes an envelope that Scan refuses. It appends to dst and
// does not look at what head is.
func Join(dst, head, payload []byte) []byte {
	dst = append(dst, head...)
	if len(payload) == 0 {
		return dst
	}
	dst = binary.AppendUvarint(dst, payloadTag)
	dst = binary.AppendUvarint(dst, uint64(len(payload)))
	return append(dst, payload...)
}
