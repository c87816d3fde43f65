package codec

import "google.golang.org/protobuf/encoding/protowire"

// Fields calls f for each field of a message, in the order on the wire, without
// allocating anything: with the bytes, never nil, of a field that has a length,
// or with the number of a varint. Fields of other types are left out. The bytes
// are data's own. An error is f's, or says that data is no message.
func Fields(data []byte, f func(field protowire.Number, value []byte, number uint64) error) error {
	for len(data) > 0 {
		field, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		var value []byte
		var number uint64
		switch kind {
		case protowire.BytesType:
			value, n = protowire.ConsumeBytes(data)
		case protowire.VarintType:
			number, n = protowire.ConsumeVarint(data)
		default:
			n = protowire.ConsumeFieldValue(field, kind, data)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		if kind != protowire.BytesType && kind != protowire.VarintType {
			continue
		}
		if err := f(field, value, number); err != nil {
			return err
		}
	}
	return nil
}
