package client

import (
	"fmt"
	"testing"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
)

// What is written by hand is what the generated types read.
func TestOutgoingFrame(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var out outgoing
		want := &keyvaluev1.PipelineRequest{}
		for range rapid.IntRange(0, 5).Draw(t, "operations") {
			op := &keyvaluev1.Operation{
				Id:             rapid.Uint64Min(1).Draw(t, "id"),
				TimeoutMs:      rapid.Uint32().Draw(t, "timeout"),
				IdempotencyKey: rapid.String().Draw(t, "key"),
				Traceparent:    rapid.String().Draw(t, "trace"),
			}
			i := &invocation{idempotency: op.IdempotencyKey, traceparent: op.Traceparent}
			if rapid.Bool().Draw(t, "store") {
				r := &keyvaluev1.StoreRequest{Key: rapid.String().Draw(t, "k"), Value: rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "v")}
				i.method, i.request = storeMethod, r
				op.Op = &keyvaluev1.Operation_Store{Store: r}
			} else {
				r := &keyvaluev1.ExistsRequest{Key: rapid.String().Draw(t, "k")}
				i.method, i.request = existsMethod, r
				op.Op = &keyvaluev1.Operation_Exists{Exists: r}
			}
			var c call
			if err := c.encode(i); err != nil {
				t.Fatal(err)
			}
			if size := op.SizeVT(); c.size() < size {
				t.Fatalf("a call of %d bytes counts as %d", size, c.size())
			}
			out.add(operation{id: op.Id, timeout: op.TimeoutMs, body: c.body})
			want.Operations = append(want.Operations, op)
		}
		for range rapid.IntRange(0, 3).Draw(t, "cancels") {
			id := rapid.Uint64Min(1).Draw(t, "id")
			out.cancel(id)
			want.Cancels = append(want.Cancels, &keyvaluev1.Cancel{Id: id})
		}
		data := make([]byte, out.SizeVT())
		if n, err := out.MarshalToSizedBufferVT(data); err != nil || n != len(data) {
			t.Fatalf("wrote %d of %d bytes, %v", n, len(data), err)
		}
		got := &keyvaluev1.PipelineRequest{}
		if err := proto.Unmarshal(data, got); err != nil || !proto.Equal(got, want) {
			t.Fatalf("got %v, %v, want %v", got, err, want)
		}
	})
}

func TestIncomingFrame(t *testing.T) {
	t.Parallel()
	sent := &keyvaluev1.PipelineResponse{
		Hello: &keyvaluev1.Hello{MaxInFlight: 7},
		Answers: []*keyvaluev1.Answer{
			{Id: 1 << 40, Result: &keyvaluev1.Answer_Retrieve{Retrieve: &keyvaluev1.RetrieveResponse{Value: []byte("v"), Version: "1"}}},
			{Id: 2, Result: &keyvaluev1.Answer_Error{Error: &spb.Status{Code: 5}}},
			{Id: 3, Result: &keyvaluev1.Answer_Delete{Delete: &keyvaluev1.DeleteResponse{}}},
			{Id: 4},
		},
		GoingAway: &keyvaluev1.GoingAway{},
	}
	data, err := proto.Marshal(sent)
	if err != nil {
		t.Fatal(err)
	}
	data = protowire.AppendFixed64(protowire.AppendTag(data, 99, protowire.Fixed64Type), 1) // of a later version
	var got []string
	in := incoming{deliver: func(in *incoming) error {
		for _, a := range in.answers {
			got = append(got, fmt.Sprint(a.id, " ", a.result, " ", len(a.body)))
		}
		if in.hello.GetMaxInFlight() != 7 || !in.goingAway {
			t.Errorf("got %v, %v", in.hello, in.goingAway)
		}
		return nil
	}}
	if err := in.UnmarshalVT(data); err != nil {
		t.Fatal(err)
	}
	want := []string{"1099511627776 4 6", "2 2 2", "3 5 0", "4 0 0"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %q, want %q", got, want)
	}
	in.Reset()
	if in.hello != nil || len(in.answers) != 0 || in.goingAway {
		t.Error("Reset left something")
	}
}

// Results that came after the ones that this version knows are no result.
func TestAnswerOfLaterVersion(t *testing.T) {
	t.Parallel()
	data, err := proto.Marshal(&keyvaluev1.Answer{Id: 1, Result: &keyvaluev1.Answer_Exists{Exists: &keyvaluev1.ExistsResponse{Exists: true}}})
	if err != nil {
		t.Fatal(err)
	}
	data = protowire.AppendString(protowire.AppendTag(data, 40, protowire.BytesType), "new")
	var a answer
	if err := a.read(data); err != nil || a.result != existsMethod.answer {
		t.Errorf("got %+v, %v", a, err)
	}
}

func FuzzIncoming(f *testing.F) {
	f.Add([]byte{0x12, 2, 8, 1})
	f.Add([]byte{0x0a, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		in := incoming{deliver: func(*incoming) error { return nil }}
		ours, theirs := in.UnmarshalVT(data), proto.Unmarshal(data, &keyvaluev1.PipelineResponse{})
		if ours != nil && theirs == nil {
			t.Errorf("refused what is valid: %v", ours)
		}
	})
}

func TestSlots(t *testing.T) {
	t.Parallel()
	var s slots
	seen := map[uint64]bool{}
	var before uint64
	for range 1000 {
		a, b := &call{}, &call{}
		ia, ib := s.put(a), s.put(b)
		if ia == 0 || ib == 0 || seen[ia] || seen[ib] || ia == ib {
			t.Fatalf("ids %d and %d", ia, ib)
		}
		seen[ia], seen[ib] = true, true
		if s.get(before) != nil || s.take(ia) != a || s.take(ia) != nil || s.get(ib) != b || s.take(ib) != b || s.take(1<<40) != nil {
			t.Fatal("an id is another call's")
		}
		before = ia
	}
	if len(s.calls) != 2 {
		t.Errorf("%d slots for 2 calls at a time", len(s.calls))
	}
}
