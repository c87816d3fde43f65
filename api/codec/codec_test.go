package codec_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/prismgw/prism/api/codec"
	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
)

func standard() encoding.CodecV2 { return encoding.GetCodecV2(grpcproto.Name) }

func messages() map[string]proto.Message {
	version := "v1"
	return map[string]proto.Message{
		"empty":          &keyvaluev1.DeleteResponse{},
		"empty pipeline": &keyvaluev1.PipelineResponse{},
		"store": &keyvaluev1.StoreRequest{
			Key: "a/b", Value: []byte("v"), Ttl: durationpb.New(1500e6), IfVersion: &version,
		},
		"large":  &keyvaluev1.StoreRequest{Key: "k", Value: bytes.Repeat([]byte{7}, 300_000)},
		"binary": &keyvaluev1.StoreRequest{Key: "k", Value: []byte{0, 255, 1}},
		"pipeline": &keyvaluev1.PipelineRequest{
			Operations: []*keyvaluev1.Operation{
				{Id: 1, Op: &keyvaluev1.Operation_Retrieve{Retrieve: &keyvaluev1.RetrieveRequest{Key: "k"}}, TimeoutMs: 20},
				{Id: 2, Op: &keyvaluev1.Operation_Increment{Increment: &keyvaluev1.IncrementRequest{Key: "n", Delta: proto.Int64(-3)}}},
			},
			Cancels: []*keyvaluev1.Cancel{{Id: 9}},
		},
		"answers": &keyvaluev1.PipelineResponse{Answers: []*keyvaluev1.Answer{
			{Id: 1, Result: &keyvaluev1.Answer_Error{Error: &status.Status{Code: 5, Message: "no such key"}}},
			{Id: 2, Result: &keyvaluev1.Answer_Delete{Delete: &keyvaluev1.DeleteResponse{}}},
		}},
		"without generated code": wrapperspb.String(strings.Repeat("x", 2000)),
	}
}

// Both codecs read what either wrote.
func TestInterchangeable(t *testing.T) {
	t.Parallel()
	codecs := []encoding.CodecV2{codec.V2{}, standard()}
	for name, m := range messages() {
		for w, writer := range codecs {
			for r, reader := range codecs {
				t.Run(fmt.Sprintf("%s/%d to %d", name, w, r), func(t *testing.T) {
					t.Parallel()
					data, err := writer.Marshal(m)
					if err != nil {
						t.Fatal(err)
					}
					defer data.Free()
					got := m.ProtoReflect().New().Interface()
					if err := reader.Unmarshal(data, got); err != nil {
						t.Fatal(err)
					}
					if !proto.Equal(got, m) {
						t.Errorf("got %v, want %v", got, m)
					}
				})
			}
		}
	}
}

func TestManyBuffers(t *testing.T) {
	t.Parallel()
	want := messages()["pipeline"]
	whole, err := codec.V2{}.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var pieces mem.BufferSlice
	for _, b := range whole.Materialize() {
		pieces = append(pieces, mem.SliceBuffer([]byte{b}), mem.SliceBuffer(nil))
	}
	got := &keyvaluev1.PipelineRequest{}
	if err := (codec.V2{}).Unmarshal(pieces, got); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// A message that is read into twice holds only the second.
func TestUnmarshalReplaces(t *testing.T) {
	t.Parallel()
	got := &keyvaluev1.PipelineRequest{}
	for _, id := range []uint64{1, 2} {
		data, err := codec.V2{}.Marshal(&keyvaluev1.PipelineRequest{Cancels: []*keyvaluev1.Cancel{{Id: id}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := (codec.V2{}).Unmarshal(data, got); err != nil {
			t.Fatal(err)
		}
	}
	if len(got.GetCancels()) != 1 || got.GetCancels()[0].GetId() != 2 {
		t.Errorf("got %v, want only cancel 2", got)
	}
}

func TestUnmarshalCopies(t *testing.T) {
	t.Parallel()
	data, err := proto.Marshal(&keyvaluev1.StoreRequest{Key: "key", Value: []byte("value")})
	if err != nil {
		t.Fatal(err)
	}
	got := &keyvaluev1.StoreRequest{}
	if err := (codec.V2{}).Unmarshal(mem.BufferSlice{mem.SliceBuffer(data)}, got); err != nil {
		t.Fatal(err)
	}
	clear(data)
	if got.GetKey() != "key" || string(got.GetValue()) != "value" {
		t.Errorf("the message changed with its buffer: %v", got)
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	if _, err := (codec.V2{}).Marshal("no message"); err == nil {
		t.Error("marshalled a string")
	}
	if _, err := (codec.V2{}).Marshal(nil); err == nil {
		t.Error("marshalled nil")
	}
	garbage := mem.BufferSlice{mem.SliceBuffer([]byte{0xff, 0xff, 0xff})}
	if err := (codec.V2{}).Unmarshal(garbage, &keyvaluev1.StoreRequest{}); err == nil {
		t.Error("unmarshalled garbage")
	}
	if err := (codec.V2{}).Unmarshal(garbage, new(string)); err == nil {
		t.Error("unmarshalled into a string")
	}
}

func benchmarkMessages() map[string]proto.Message {
	request, response := &keyvaluev1.PipelineRequest{}, &keyvaluev1.PipelineResponse{}
	for id := range uint64(64) {
		request.Operations = append(request.Operations, &keyvaluev1.Operation{
			Id: id + 1, Op: &keyvaluev1.Operation_Retrieve{Retrieve: &keyvaluev1.RetrieveRequest{Key: "user:0123456789"}}, TimeoutMs: 2000,
		})
		response.Answers = append(response.Answers, &keyvaluev1.Answer{
			Id: id + 1, Result: &keyvaluev1.Answer_Retrieve{Retrieve: &keyvaluev1.RetrieveResponse{Value: make([]byte, 128), Version: "0123456789"}},
		})
	}
	return map[string]proto.Message{
		"store 128 B":  &keyvaluev1.StoreRequest{Key: "user:0123456789", Value: make([]byte, 128)},
		"store 4 KiB":  &keyvaluev1.StoreRequest{Key: "user:0123456789", Value: make([]byte, 4096)},
		"64 retrieves": request,
		"64 answers":   response,
	}
}

func BenchmarkMarshal(b *testing.B) {
	each(b, func(b *testing.B, c encoding.CodecV2, m proto.Message) {
		for b.Loop() {
			data, err := c.Marshal(m)
			if err != nil {
				b.Fatal(err)
			}
			data.Free()
		}
	})
}

func BenchmarkUnmarshal(b *testing.B) {
	each(b, func(b *testing.B, c encoding.CodecV2, m proto.Message) {
		data, err := c.Marshal(m)
		if err != nil {
			b.Fatal(err)
		}
		into := m.ProtoReflect().New().Interface()
		for b.Loop() {
			if err := c.Unmarshal(data, into); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func each(b *testing.B, run func(*testing.B, encoding.CodecV2, proto.Message)) {
	for name, m := range benchmarkMessages() {
		for of, c := range map[string]encoding.CodecV2{"prism": codec.V2{}, "grpc": standard()} {
			b.Run(name+"/"+of, func(b *testing.B) {
				b.ReportAllocs()
				run(b, c, m)
			})
		}
	}
}

// A message that its reader leaves unread must not hold many times its size.
func TestBuffersFit(t *testing.T) {
	t.Parallel()
	for _, size := range []int{2 << 10, 33 << 10, 70 << 10, 250 << 10, 600 << 10} {
		data, err := codec.V2{}.Marshal(&keyvaluev1.StoreRequest{Key: "k", Value: make([]byte, size)})
		if err != nil {
			t.Fatal(err)
		}
		if c := cap(data[0].ReadOnlyData()); c > 2*(size+16) {
			t.Errorf("%d bytes take a buffer of %d", size, c)
		}
		data.Free()
	}
}
