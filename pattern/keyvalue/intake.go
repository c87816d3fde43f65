package keyvalue

import (
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/prismgw/prism/api/codec"
	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
)

// An intake is a PipelineRequest with its operations side by side in memory,
// and those that retrieve in one piece each: to allocate a small operation bit
// by bit costs more than to carry it out.
type intake struct {
	operations []keyvaluev1.Operation
	cancels    []uint64
}

// The fields of PipelineRequest and Operation that are looked at before they
// are decoded.
const (
	fieldOperations protowire.Number = 1
	fieldCancels    protowire.Number = 2
	fieldStore      protowire.Number = 2 // of Operation, the first that says what it does
	fieldRetrieve   protowire.Number = 3
	fieldExpire     protowire.Number = 7 // the last
)

// Reset empties the intake. The operations of the message before stay as they
// are: they are being carried out.
func (in *intake) Reset() { in.operations, in.cancels = nil, in.cancels[:0] }

// UnmarshalVT reads a PipelineRequest.
func (in *intake) UnmarshalVT(data []byte) error {
	all, retrievals := 0, 0
	err := codec.Fields(data, func(field protowire.Number, value []byte, _ uint64) error {
		if field == fieldOperations && value != nil {
			all++
			if retrieves(value) {
				retrievals++
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	in.operations = make([]keyvaluev1.Operation, 0, all)
	pieces := make([]retrieval, retrievals)
	return codec.Fields(data, func(field protowire.Number, value []byte, _ uint64) error {
		switch {
		case value == nil:
		case field == fieldOperations:
			in.operations = in.operations[:len(in.operations)+1]
			op := &in.operations[len(in.operations)-1]
			if retrieves(value) {
				op.Op, pieces = pieces[0].op(), pieces[1:] // the generated code fills what is there
			}
			return op.UnmarshalVT(value)
		case field == fieldCancels:
			var c keyvaluev1.Cancel
			if err := c.UnmarshalVT(value); err != nil {
				return err
			}
			in.cancels = append(in.cancels, c.GetId())
		}
		return nil
	})
}

// retrieval is the most frequent kind of operation in one piece.
type retrieval struct {
	wrapper keyvaluev1.Operation_Retrieve
	request keyvaluev1.RetrieveRequest
}

func (r *retrieval) op() *keyvaluev1.Operation_Retrieve {
	r.wrapper.Retrieve = &r.request
	return &r.wrapper
}

// retrieves reports whether the first thing that an operation says to do is to
// retrieve. Whether it is an operation at all is found when it is decoded.
func retrieves(operation []byte) bool {
	var first protowire.Number
	_ = codec.Fields(operation, func(field protowire.Number, value []byte, _ uint64) error {
		if first == 0 && value != nil && field >= fieldStore && field <= fieldExpire {
			first = field
		}
		return nil
	})
	return first == fieldRetrieve
}
