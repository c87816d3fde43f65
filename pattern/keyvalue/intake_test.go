package keyvalue

import (
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/prismgw/prism/api/codec"
	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
)

func retrieveOf(id uint64, key string) *keyvaluev1.Operation {
	return &keyvaluev1.Operation{Id: id, TimeoutMs: 250, Traceparent: "t", Op: &keyvaluev1.Operation_Retrieve{
		Retrieve: &keyvaluev1.RetrieveRequest{Key: key, WithExpiry: true},
	}}
}

// FuzzIntake holds an intake against the generated code. An intake may take
// what that refuses, such as a known field of another type, which is left out;
// and it refuses groups that are not closed, which that takes.
func FuzzIntake(f *testing.F) {
	store := &keyvaluev1.Operation{Id: 2, IdempotencyKey: "once", Op: &keyvaluev1.Operation_Store{
		Store: &keyvaluev1.StoreRequest{Key: "k", Value: []byte("v")},
	}}
	mixed := &keyvaluev1.PipelineRequest{
		Operations: []*keyvaluev1.Operation{retrieveOf(1, "a"), store, {Id: 3}, retrieveOf(4, "b")},
		Cancels:    []*keyvaluev1.Cancel{{Id: 7}, {}},
	}
	one, two := wire(f, retrieveOf(1, "a")), wire(f, store)
	for _, seed := range [][]byte{
		nil, wire(f, mixed), wire(f, mixed)[3:],
		append([]byte{0x0a, byte(2 * len(one))}, append(one, one...)...),        // twice the same thing to do
		append([]byte{0x0a, byte(len(one) + len(two))}, append(one, two...)...), // two things to do
		append([]byte{0x0a, byte(len(one) + len(two))}, append(two, one...)...), // the other way around
		{0x08, 0x01},
		{0x0a, 0x02, 0x1a, 0x05},
		{0x0a, 0x02, 0x18, 0x01},
		{0x7b, 0x7c},
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		want, got := new(keyvaluev1.PipelineRequest), &intake{cancels: []uint64{99}}
		got.Reset()
		err := got.UnmarshalVT(data)
		whole := codec.Fields(data, func(protowire.Number, []byte, uint64) error { return nil }) == nil
		if want.UnmarshalVT(data) != nil || !whole {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(got.operations) != len(want.Operations) || len(got.cancels) != len(want.Cancels) {
			t.Fatalf("%d operations and %d cancels, want %v", len(got.operations), len(got.cancels), want)
		}
		for i := range got.operations {
			if !proto.Equal(&got.operations[i], want.Operations[i]) {
				t.Errorf("operation %d: %v, want %v", i, &got.operations[i], want.Operations[i])
			}
		}
		for i, c := range want.Cancels {
			if got.cancels[i] != c.Id {
				t.Errorf("cancel %d: %d, want %d", i, got.cancels[i], c.Id)
			}
		}
	})
}

// What is being carried out stays as it is when the next message comes.
func TestIntakeKeepsItsHandsOff(t *testing.T) {
	t.Parallel()
	var in intake
	if err := in.UnmarshalVT(wire(t, &keyvaluev1.PipelineRequest{Operations: []*keyvaluev1.Operation{retrieveOf(1, "first")}})); err != nil {
		t.Fatal(err)
	}
	first := &in.operations[0]
	in.Reset()
	if err := in.UnmarshalVT(wire(t, &keyvaluev1.PipelineRequest{Operations: []*keyvaluev1.Operation{retrieveOf(2, "second")}})); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(first, retrieveOf(1, "first")) {
		t.Errorf("the first one is %v now", first)
	}
}

// Many small operations cost an allocation each, for the key, and a few for all.
//
//nolint:paralleltest // it counts allocations
func TestIntakeAllocations(t *testing.T) {
	many := &keyvaluev1.PipelineRequest{}
	for i := range 64 {
		o := retrieveOf(uint64(i+1), "key")
		o.Traceparent = ""
		many.Operations = append(many.Operations, o)
	}
	data := wire(t, many)
	var in intake
	if n := testing.AllocsPerRun(100, func() { in.Reset(); _ = in.UnmarshalVT(data) }); n > 64+4 {
		t.Errorf("%v allocations", n)
	}
}

func wire(t testing.TB, m proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
