package proxy_test

import (
	"runtime"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/errs"
)

// A message of two bytes for each of its parts would take a hundred times its
// size once it is decoded. It is refused before.
func TestCrowdedMessages(t *testing.T) {
	s := start(t, nil, documents)
	conn := s.conn(t)
	crowd := slices.Repeat([]byte{0x0a, 0x00}, 3_000_000-8)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	batch := conn.Invoke(in(t, "open"), keyvaluev1.KeyValue_StoreBatch_FullMethodName, &crowd, new([]byte), grpc.ForceCodecV2(raw{}))
	stream, err := conn.NewStream(in(t, "open"), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, keyvaluev1.KeyValue_Pipeline_FullMethodName, grpc.ForceCodecV2(raw{}))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.SendMsg(&crowd); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		err = stream.RecvMsg(new([]byte))
	}
	runtime.ReadMemStats(&after)
	for name, err := range map[string]error{"StoreBatch": batch, "Pipeline": err} {
		if e := errs.FromStatus(err); e == nil || e.Reason != errs.InvalidField || !strings.Contains(err.Error(), "request: has more than 16384 parts") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > 100<<20 {
		t.Errorf("the two took %d MiB", got>>20)
	}
	// As many as there may be are decoded, and judged by what they are.
	_, err = keyvaluev1.NewKeyValueClient(conn).StoreBatch(in(t, "open"), &keyvaluev1.StoreBatchRequest{Items: slices.Repeat([]*keyvaluev1.StoreRequest{{Key: "k", Value: []byte("v")}}, 16<<10)})
	if e := errs.FromStatus(err); e == nil || e.Reason != errs.PayloadTooLarge {
		t.Errorf("16,384 items: %v", err)
	}
}
