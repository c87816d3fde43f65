package proxy_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/proxy"
)

// unsent returns how many bytes of answers the streams hold.
func unsent(t *testing.T, s *served) (n int64) {
	t.Helper()
	_, rest, _ := strings.Cut(get(t, "http://"+s.Ops+"/metrics"), "\nprism_streams_unsent_bytes ")
	var f float64
	if _, err := fmt.Sscan(rest, &f); err != nil {
		t.Fatal(err)
	}
	return int64(f)
}

// ask opens a stream, asks n times for a key and reads nothing. Its connection
// takes little that is not read.
func ask(t *testing.T, ctx context.Context, s *served, key string, n int) { //nolint:revive // ctx belongs to the stream
	t.Helper()
	p, err := s.dial(t, grpc.WithInitialWindowSize(64<<10), grpc.WithInitialConnWindowSize(64<<10)).Pipeline(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var ops []*keyvaluev1.Operation
	for id := range uint64(n) {
		ops = append(ops, timed(retrieveOp(id+1, key), 60_000))
	}
	if err := p.Send(&keyvaluev1.PipelineRequest{Operations: ops}); err != nil {
		t.Fatal(err)
	}
}

// Streams that do not read share the room that there is for answers, however
// many they are, and one that reads is served beside them.
func TestUnreadAnswersAreBounded(t *testing.T) {
	const limit, large = 16 << 20, 64 << 10
	s := start(t, func(o *proxy.Options) { o.MaxUnsent = limit }, documents)
	c := s.dial(t)
	for key, size := range map[string]int{"large": large, "small": 100} {
		if _, err := c.Store(in(t, "open"), &keyvaluev1.StoreRequest{Key: key, Value: make([]byte, size)}); err != nil {
			t.Fatal(err)
		}
	}
	streams := scaled(200, 40)
	before := heap()
	ctx, cancel := context.WithCancel(in(t, "open"))
	defer cancel()
	for range streams { // 16 MiB each, if they were let
		ask(t, ctx, s, "large", 256)
	}
	reader, most, grown := pipeline(t, in(t, "open"), c), int64(0), int64(0)
	for range 20 {
		var ops []*keyvaluev1.Operation
		for id := range uint64(16) {
			ops = append(ops, timed(retrieveOp(id+1, []string{"large", "small"}[id%2]), 5000))
		}
		send(t, reader, ops...)
		for id, a := range answers(t, reader, len(ops)) {
			if a.GetRetrieve() == nil {
				t.Errorf("%d: %.300v", id, a)
			}
		}
		most, grown = max(most, unsent(t, s)), max(grown, int64(heap()-before))
	}
	// Beside what is held there is what each stream costs in the transport, here
	// at both ends.
	if bound := int64(2*limit + streams<<20); most < limit/2 || most > 2*limit || grown > bound {
		t.Errorf("%d KiB were held of %d, the heap grew by %d KiB, and at most %d were expected", most>>10, limit>>10, grown>>10, bound>>10)
	} else {
		t.Logf("%d KiB were held of %d, the heap grew by %d KiB", most>>10, limit>>10, grown>>10)
	}
	cancel()
	waitFor(t, "all is given back", func() bool { return unsent(t, s) == 0 })
}

// Where far more is held than there is room for, answers that are large are
// refused, and nothing else is.
func TestNoRoomForLargeAnswers(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *proxy.Options) { o.MaxUnsent = 100 << 10 }, documents)
	c := s.dial(t)
	if _, err := c.Store(in(t, "open"), &keyvaluev1.StoreRequest{Key: "large", Value: make([]byte, 200<<10)}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(in(t, "open"))
	defer cancel()
	for range 2 {
		ask(t, ctx, s, "large", 8)
	}
	waitFor(t, "more than twice the room is held", func() bool { return unsent(t, s) > 200<<10 })
	p := pipeline(t, in(t, "open"), c)
	send(t, p, retrieveOp(1, "large"), retrieveOp(2, "none"), storeOp(3, "k", nil))
	got := answers(t, p, 3)
	if reasonOf(got[1]) != errs.Overloaded.String() || reasonOf(got[2]) != errs.KeyNotFound.String() || got[3].GetStore() == nil {
		t.Errorf("%.300v", got)
	}
	cancel()
	waitFor(t, "all is given back", func() bool { return unsent(t, s) == 0 })
	send(t, p, retrieveOp(1, "large"))
	if a := answers(t, p, 1)[1]; a.GetRetrieve() == nil {
		t.Errorf("when there is room: %.200v", a)
	}
}

// Whatever becomes of operations, what was held for them is given back.
func TestUnsentIsGivenBack(t *testing.T) {
	t.Parallel()
	s := start(t, nil, tapped)
	open := s.hold(false)
	defer open()
	c := s.dial(t)
	if n := unsent(t, s); n != 0 {
		t.Fatalf("%d bytes before anything is asked", n)
	}
	ctx, cancel := context.WithCancel(in(t, "held"))
	defer cancel()
	p := pipeline(t, ctx, c)
	send(t, p, retrieveOp(1, "none"), storeOp(2, "k", nil), retrieveOp(3, "k"), retrieveOp(4, ""), &keyvaluev1.Operation{Id: 5}, storeOp(6, "k", make([]byte, 300<<10)), retrieveOp(7, "panic"))
	answers(t, p, 7)
	waitFor(t, "what was answered is given back", func() bool { return unsent(t, s) == 0 })
	send(t, p, timed(retrieveOp(1, "hang"), 10), timed(storeOp(2, "hang", nil), 10), retrieveOp(3, "hang"), retrieveOp(4, "hang"))
	if err := p.Send(&keyvaluev1.PipelineRequest{Cancels: []*keyvaluev1.Cancel{{Id: 3}}}); err != nil {
		t.Fatal(err)
	}
	answers(t, p, 3)
	if unsent(t, s) == 0 {
		t.Error("nothing is held for an operation that is carried out")
	}
	cancel()
	waitFor(t, "a stream that breaks gives all back", func() bool { return unsent(t, s) == 0 })

	q := pipeline(t, in(t, "held"), c)
	send(t, q, timed(retrieveOp(1, "hang"), 20_000), retrieveOp(1, "twice"))
	_, err := q.Recv()
	told(t, "an id twice", err, errs.InvalidField)
	open()
	waitFor(t, "so does one that is ended", func() bool { return unsent(t, s) == 0 })
	waitFor(t, "nothing is left that could give back once more", func() bool {
		return s.waiting.Load() == 0 && strings.Contains(get(t, "http://"+s.Ops+"/metrics"), "prism_streams_open{method=\"Pipeline\"} 0\n")
	})
	if n := unsent(t, s); n != 0 {
		t.Errorf("%d bytes are held in the end", n)
	}
}
