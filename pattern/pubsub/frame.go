package pubsub

import (
	"google.golang.org/protobuf/encoding/protowire"

	pubsubv1 "github.com/prismgw/prism/api/prism/pubsub/v1"
)

// The fields of SubscribeResponse that a batch writes.
const (
	fieldMissed   protowire.Number = 2
	fieldMessages protowire.Number = 3
)

// told returns what was missed as the contract says it; nil for nothing.
func (b *batch) told() *pubsubv1.Missed {
	switch {
	case b.missed == 0:
		return nil
	case b.missed < 0:
		return new(pubsubv1.Missed)
	}
	n := uint64(b.missed)
	return &pubsubv1.Missed{Count: &n}
}

// SizeVT serves the codec.
func (b *batch) SizeVT() int {
	size := 0
	if m := b.told(); m != nil {
		size += protowire.SizeTag(fieldMissed) + protowire.SizeBytes(m.SizeVT())
	}
	for _, wire := range b.messages {
		size += protowire.SizeTag(fieldMessages) + protowire.SizeBytes(len(wire))
	}
	return size
}

// MarshalToSizedBufferVT serves the codec; data has the size that SizeVT says.
func (b *batch) MarshalToSizedBufferVT(data []byte) (int, error) {
	to := data[:0]
	if m := b.told(); m != nil {
		wire, err := m.MarshalVT()
		if err != nil {
			return 0, err
		}
		to = protowire.AppendBytes(protowire.AppendTag(to, fieldMissed, protowire.BytesType), wire)
	}
	for _, wire := range b.messages {
		to = protowire.AppendBytes(protowire.AppendTag(to, fieldMessages, protowire.BytesType), wire)
	}
	return len(to), nil
}
