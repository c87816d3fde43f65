package proxy_test

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	producerv1 "github.com/prismgw/prism/api/prism/producer/v1"
	"github.com/prismgw/prism/client"
	"github.com/prismgw/prism/client/prismtest"
	"github.com/prismgw/prism/errs"
)

const topical = `
{kind: Backend, name: local, driver: memory, url: "memory:"}
---
{kind: Namespace, name: shop, topics: [{name: orders, partitions: 4}, {name: bills, partitions: 1}], needs: {durability: none}, auth: {anonymous: read_write}}
---
{kind: Namespace, name: shut, topics: [{name: orders, partitions: 4}], needs: {durability: none}, auth: {anonymous: read_only}}
`

// publishStream opens a stream and takes its greeting.
func publishStream(t *testing.T, s *prismtest.Server, namespace string, opts ...grpc.DialOption) producerv1.Producer_PublishStreamClient {
	t.Helper()
	conn, err := grpc.NewClient(s.GRPC, append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	p, err := producerv1.NewProducerClient(conn).PublishStream(in(t, namespace))
	if err != nil {
		t.Fatal(err)
	}
	first, err := p.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if h := first.GetHello(); h.GetMaxInFlight() != 1024 || h.GetMaxInFlightBytes() != 4<<20 || h.GetMaxOperationBytes() != 256<<10 {
		t.Fatalf("greeting %v", first)
	}
	return p
}

func publishOp(id uint64, topic, key, text string) *producerv1.Operation {
	e := &envelopev1.PrismEnvelope{Metadata: &envelopev1.Metadata{PartitionKey: []byte(key), ContentType: envelopev1.ContentType_CONTENT_TYPE_TEXT}, Payload: []byte(text)}
	return &producerv1.Operation{Id: id, Op: &producerv1.Operation_Publish{Publish: &producerv1.PublishRequest{Topic: topic, Envelope: e}}}
}

// published receives n answers, by id.
func published(t *testing.T, p producerv1.Producer_PublishStreamClient, n int) map[uint64]*producerv1.Answer {
	t.Helper()
	got := make(map[uint64]*producerv1.Answer, n)
	for len(got) < n {
		r, err := p.Recv()
		if err != nil {
			t.Fatalf("after %d of %d answers: %v", len(got), n, err)
		}
		for _, a := range r.GetAnswers() {
			if got[a.GetId()] != nil {
				t.Fatalf("two answers to %d", a.GetId())
			}
			got[a.GetId()] = a
		}
	}
	return got
}

func outcomeOf(a *producerv1.Answer) string {
	if a.GetError() == nil {
		return ""
	}
	return errs.FromStatus(grpcstatus.ErrorProto(a.GetError())).Reason.String()
}

func TestPublishStream(t *testing.T) {
	t.Parallel()
	p := publishStream(t, prismtest.Start(t, topical), "shop")
	first, second := publishOp(1, "orders", "a", "one"), publishOp(2, "orders", "a", "one")
	first.GetPublish().Envelope.Metadata.MessageId = "01a20b6b-89db-70e1-86ab-b21a4cae1d9b"
	second.GetPublish().Envelope = proto.CloneOf(first.GetPublish().GetEnvelope())
	wrong := publishOp(6, "orders", "a", "")
	wrong.GetPublish().Envelope.Metadata.Topic = "bills"
	all := []*producerv1.Operation{
		first, second, publishOp(3, "none", "a", "one"),
		{Id: 4},
		publishOp(5, "bills", "a", strings.Repeat("x", 300<<10)), wrong,
		publishOp(7, "bills", "b", "two"),
		{Id: 8, Op: &producerv1.Operation_Publish{Publish: new(producerv1.PublishRequest)}},
	}
	if err := p.Send(&producerv1.PublishStreamRequest{Operations: all}); err != nil {
		t.Fatal(err)
	}
	got := published(t, p, len(all))
	for id, want := range map[uint64]string{
		1: "", 2: "", 3: "TOPIC_NOT_FOUND", 4: "UNSUPPORTED", 5: "PAYLOAD_TOO_LARGE", 6: "INVALID_FIELD", 7: "", 8: "INVALID_FIELD",
	} {
		if reason := outcomeOf(got[id]); reason != want {
			t.Errorf("operation %d: %q, want %q", id, reason, want)
		}
	}
	if one, two := got[1].GetPublish(), got[2].GetPublish(); one.GetDuplicate() || !two.GetDuplicate() || one.GetPosition() != two.GetPosition() || one.GetPosition() == 0 {
		t.Errorf("a message and its duplicate: %v, %v", one, two)
	}
}

// What is sent without waiting keeps its order by key, all of it is answered
// before the stream ends, and far more goes through than may be in flight.
func TestPublishStreamKeepsOrder(t *testing.T) {
	t.Parallel()
	s := prismtest.Start(t, topical)
	p := publishStream(t, s, "shop")
	const n = 6000
	go func() {
		for i := range n {
			if p.Send(&producerv1.PublishStreamRequest{Operations: []*producerv1.Operation{publishOp(uint64(i+1), "orders", fmt.Sprint("k", i%5), fmt.Sprint(i))}}) != nil {
				return
			}
		}
		_ = p.CloseSend()
	}()
	for id, a := range published(t, p, n) {
		if a.GetPublish() == nil {
			t.Fatalf("%d: %v", id, a)
		}
	}
	if _, err := p.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
	next := map[string]int{}
	for kept, err := range s.Client(t, "shop").Topics("shop").Browse(t.Context(), "orders", client.Browsing{}) {
		if err != nil {
			t.Fatal(err)
		}
		key := string(kept.Envelope.GetMetadata().GetPartitionKey())
		if want := fmt.Sprint(5*next[key] + int(key[1]-'0')); string(kept.Envelope.GetPayload()) != want {
			t.Fatalf("%s: %s stands where %s should", key, kept.Envelope.GetPayload(), want)
		}
		next[key]++
	}
	if got := slices.Sorted(maps.Values(next)); !slices.Equal(got, []int{n / 5, n / 5, n / 5, n / 5, n / 5}) {
		t.Errorf("%v messages of each key", got)
	}
}

func TestPublishStreamProtocolErrors(t *testing.T) {
	t.Parallel()
	s := prismtest.Start(t, topical)
	for name, ops := range map[string][]*producerv1.Operation{
		"no id":         {publishOp(0, "orders", "a", "b")},
		"an id twice":   {publishOp(1, "orders", "a", "b"), publishOp(2, "orders", "a", "b"), publishOp(2, "orders", "a", "b")},
		"an empty twin": {{Id: 1}, {Id: 0}},
	} {
		p := publishStream(t, s, "shop")
		var err error
		// An id that was answered may be used again: a hundred times they meet.
		for range 100 {
			if err = p.Send(&producerv1.PublishStreamRequest{Operations: ops}); err != nil {
				break
			}
		}
		for err = nil; err == nil; {
			_, err = p.Recv()
		}
		if e := errs.FromStatus(err); e.Reason != errs.InvalidField {
			t.Errorf("%s: the stream ended with %v", name, err)
		}
	}
	p := publishStream(t, s, "shut")
	if err := p.Send(&producerv1.PublishStreamRequest{Operations: []*producerv1.Operation{publishOp(1, "orders", "a", "b")}}); err != nil {
		t.Fatal(err)
	}
	if reason := outcomeOf(published(t, p, 1)[1]); reason != "UNAUTHENTICATED" {
		t.Errorf("who may not write publishes: %q", reason)
	}
}

// A publisher that reads no answers loses its stream, with what it was told kept.
func TestUnreadPublishStream(t *testing.T) {
	t.Parallel()
	s := prismtest.Start(t, topical)
	p := publishStream(t, s, "shop", grpc.WithInitialWindowSize(64<<10), grpc.WithInitialConnWindowSize(64<<10))
	go func() {
		for i := uint64(1); ; i++ {
			if p.Send(&producerv1.PublishStreamRequest{Operations: []*producerv1.Operation{publishOp(i, "orders", "a", "b")}}) != nil {
				return
			}
		}
	}()
	waitFor(t, "the stream ends", func() bool {
		return strings.Contains(metrics(t, s), `prism_streams_open{method="PublishStream"} 0`)
	})
	var err error
	for err == nil {
		_, err = p.Recv()
	}
	if e := errs.FromStatus(err); e.Reason != errs.SlowReader {
		t.Errorf("the stream ended with %v", err)
	}
}
