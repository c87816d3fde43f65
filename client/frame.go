package client

import (
	"bytes"

	"google.golang.org/genproto/googleapis/rpc/status"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/prismgw/prism/api/codec"
	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/errs"
)

// The two messages of a stream are written and read here, field by field, and
// not through the generated types: callers encode their operations and decode
// their answers themselves, so that the one goroutine in the middle only
// copies bytes. frame_test.go compares both ways.

// An outgoing frame is a PipelineRequest.
type outgoing struct {
	operations []operation
	cancels    []uint64
	size       int // of operations and cancels
}

// An operation is a call under its id. The body is the call's.
type operation struct {
	id      uint64
	timeout uint32 // milliseconds
	body    []byte
}

func (o *outgoing) reset() {
	clear(o.operations)
	o.operations, o.cancels, o.size = o.operations[:0], o.cancels[:0], 0
}

func (o *outgoing) add(op operation) {
	o.operations = append(o.operations, op)
	o.size += 1 + protowire.SizeBytes(op.size())
}

func (o *outgoing) cancel(id uint64) {
	o.cancels = append(o.cancels, id)
	o.size += 1 + protowire.SizeBytes(1+protowire.SizeVarint(id))
}

func (op *operation) size() int {
	n := 1 + protowire.SizeVarint(op.id) + len(op.body)
	if op.timeout != 0 {
		n += 1 + protowire.SizeVarint(uint64(op.timeout))
	}
	return n
}

// SizeVT returns the frame's size in bytes.
func (o *outgoing) SizeVT() int { return o.size }

// MarshalToSizedBufferVT fills data, whose length is SizeVT.
func (o *outgoing) MarshalToSizedBufferVT(data []byte) (int, error) {
	b := data[:0]
	for i := range o.operations {
		op := &o.operations[i]
		b = protowire.AppendTag(b, fieldOperations, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(op.size()))
		b = protowire.AppendTag(b, fieldID, protowire.VarintType)
		b = protowire.AppendVarint(b, op.id)
		if op.timeout != 0 {
			b = protowire.AppendTag(b, fieldTimeout, protowire.VarintType)
			b = protowire.AppendVarint(b, uint64(op.timeout))
		}
		b = append(b, op.body...)
	}
	for _, id := range o.cancels {
		b = protowire.AppendTag(b, fieldCancels, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(1+protowire.SizeVarint(id)))
		b = protowire.AppendTag(b, fieldID, protowire.VarintType)
		b = protowire.AppendVarint(b, id)
	}
	return len(b), nil
}

// An incoming frame is a PipelineResponse. Its answers point into the buffer
// that it is read from, which is gone when UnmarshalVT returns: it gives them
// to deliver before.
type incoming struct {
	hello     *keyvaluev1.Hello
	answers   []answer
	goingAway bool

	deliver func(*incoming) error
}

// An answer is the result of the operation with this id.
type answer struct {
	id     uint64
	result protowire.Number // which field was set; 0 if none
	body   []byte
}

// Reset empties the frame.
func (in *incoming) Reset() {
	clear(in.answers)
	in.hello, in.answers, in.goingAway = nil, in.answers[:0], false
}

// UnmarshalVT reads data and delivers it.
func (in *incoming) UnmarshalVT(data []byte) error {
	err := codec.Fields(data, func(field protowire.Number, value []byte, _ uint64) error {
		switch field { //nolint:exhaustive // others are of later versions
		case fieldHello:
			in.hello = new(keyvaluev1.Hello)
			return in.hello.UnmarshalVT(value)
		case fieldAnswers:
			in.answers = append(in.answers, answer{})
			return in.answers[len(in.answers)-1].read(value)
		case fieldGoingAway:
			in.goingAway = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	return in.deliver(in)
}

// codeUnavailable is how a google.rpc.Status with that code begins.
const codeUnavailable = "\x08\x0e"

// draining reports whether the server refused the operation because it shuts
// down. Most errors are other ones, which a look at the code tells.
func (a *answer) draining() bool {
	if a.result != fieldError || !bytes.HasPrefix(a.body, []byte(codeUnavailable)) {
		return false
	}
	st := new(status.Status)
	return proto.Unmarshal(a.body, st) == nil && errs.ReasonOf(errs.FromStatus(grpcstatus.ErrorProto(st))) == errs.Draining
}

func (a *answer) read(data []byte) error {
	return codec.Fields(data, func(field protowire.Number, value []byte, number uint64) error {
		switch {
		case field == fieldID:
			a.id = number
		case field >= fieldError && field <= fieldLastResult:
			a.result, a.body = field, value
		}
		return nil
	})
}
