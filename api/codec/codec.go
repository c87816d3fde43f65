// Package codec marshals gRPC messages without reflection.
//
// A server or a connection uses it in place of gRPC's own codec, under the
// same name on the wire, so that either side may have it without the other:
//
//	grpc.NewServer(grpc.ForceServerCodecV2(codec.V2{}))
//	grpc.NewClient(target, grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec.V2{})))
//
// It is not registered globally: a program that imports Prism's client keeps
// its own codec for its other connections.
package codec

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// What protoc-gen-go and protoc-gen-go-vtproto generate together.
type (
	marshaler interface {
		SizeVT() int
		MarshalToSizedBufferVT(data []byte) (int, error)
	}
	unmarshaler interface {
		Reset()
		UnmarshalVT(data []byte) error
	}
)

// V2 is an encoding.CodecV2. Messages with generated code (SizeVT,
// MarshalToSizedBufferVT; Reset, UnmarshalVT) are marshalled by it into a
// pooled buffer; every other message is treated exactly as gRPC's own codec does.
//
// The one difference on the wire is that generated code does not check strings
// for valid UTF-8: who needs that checks it. An unmarshalled message shares no
// memory with the buffers it came from. V2 is safe for concurrent use.
type V2 struct{}

var _ encoding.CodecV2 = V2{}

// Name returns "proto", the name of gRPC's own codec.
func (V2) Name() string { return proto.Name }

// buffers is gRPC's own pool with more sizes: there, a message of 33 KiB takes
// a buffer of 1 MiB, for as long as its reader leaves it unread.
var buffers = func() mem.BufferPool {
	pool, err := mem.NewBinaryTieredBufferPool(8, 12, 14, 15, 16, 17, 18, 19, 20)
	if err != nil { // only for sizes that no machine has
		return mem.DefaultBufferPool()
	}
	return pool
}()

// Marshal returns v's bytes; the caller frees them. v may be changed as soon
// as Marshal has returned.
func (V2) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(marshaler)
	if !ok {
		return standard().Marshal(v)
	}
	size := m.SizeVT()
	if mem.IsBelowBufferPoolingThreshold(size) {
		data := make([]byte, size)
		if err := marshal(m, data); err != nil {
			return nil, err
		}
		return mem.BufferSlice{mem.SliceBuffer(data)}, nil
	}
	pool := buffers
	data := pool.Get(size)
	if err := marshal(m, *data); err != nil {
		pool.Put(data)
		return nil, err
	}
	return mem.BufferSlice{mem.NewBuffer(data, pool)}, nil
}

func marshal(m marshaler, data []byte) error {
	n, err := m.MarshalToSizedBufferVT(data)
	if err != nil {
		return fmt.Errorf("marshal %T: %w", m, err)
	}
	if n != len(data) { // it was changed while it was being sent
		return fmt.Errorf("marshal %T: %d bytes instead of %d", m, n, len(data))
	}
	return nil
}

// Unmarshal replaces what v holds by what data says. It keeps no reference to
// data, which stays the caller's.
func (V2) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(unmarshaler)
	if !ok {
		return standard().Unmarshal(data, v)
	}
	buf := data.MaterializeToBuffer(buffers)
	defer buf.Free()
	m.Reset() // generated code merges
	if err := m.UnmarshalVT(buf.ReadOnlyData()); err != nil {
		return fmt.Errorf("unmarshal %T: %w", m, err)
	}
	return nil
}

// standard is gRPC's own codec, which its package registers.
func standard() encoding.CodecV2 { return encoding.GetCodecV2(proto.Name) }
