package patterntest

import (
	"context"
	"errors"
	"io"
	"math"
	"slices"
	"testing"

	"google.golang.org/grpc"

	consumerv1 "github.com/prismgw/prism/api/prism/consumer/v1"
	"github.com/prismgw/prism/errs"
)

// browse calls f for what a Browse brings, until it ends.
func (s *shop) browse(r *consumerv1.BrowseRequest, f func(*consumerv1.Browsed)) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	stream, err := s.Browse(ctx, r)
	for err == nil {
		var page *consumerv1.BrowseResponse
		if page, err = stream.Recv(); err == nil {
			for _, one := range page.GetMessages() {
				f(one)
			}
		}
	}
	if !errors.Is(err, io.EOF) {
		s.Fatalf("browse: %v", err)
	}
}

func (s *shop) browsed(r *consumerv1.BrowseRequest) (texts []string) {
	s.Helper()
	s.browse(r, func(b *consumerv1.Browsed) { texts = append(texts, string(b.GetEnvelope().GetPayload())) })
	return texts
}

func testBrowse(t *testing.T, s *shop) {
	all := s.publish("k", "1", "2", "3", "4")
	partition := all[0].GetPartition()
	from := func(position int64) *consumerv1.Start {
		return &consumerv1.Start{From: &consumerv1.Start_Positions_{Positions: &consumerv1.Start_Positions{ByPartition: map[int32]int64{partition: position}}}}
	}
	s.same("all", s.browsed(&consumerv1.BrowseRequest{Topic: "orders"}), []string{"1", "2", "3", "4"})
	s.same("two", s.browsed(&consumerv1.BrowseRequest{Topic: "orders", Limit: 2}), []string{"1", "2"})
	s.same("from the third", s.browsed(&consumerv1.BrowseRequest{Topic: "orders", From: from(all[2].GetPosition())}), []string{"3", "4"})
	s.same("from the end", s.browsed(&consumerv1.BrowseRequest{Topic: "orders", From: &consumerv1.Start{From: &consumerv1.Start_Latest_{Latest: new(consumerv1.Start_Latest)}}}), nil)
	s.same("another partition", s.browsed(&consumerv1.BrowseRequest{Topic: "orders", Partitions: []int32{(partition + 1) % 4}}), nil)
	s.same("its partition", s.browsed(&consumerv1.BrowseRequest{Topic: "orders", Partitions: []int32{partition}}), []string{"1", "2", "3", "4"})
	for what, r := range map[string]*consumerv1.BrowseRequest{
		"a partition that is not there": {Topic: "orders", Partitions: []int32{99}},
		"a place outside the log":       {Topic: "orders", From: from(math.MaxInt64)},
		"a negative limit":              {Topic: "orders", Limit: -1},
		"a group without a name":        {Topic: "orders", From: &consumerv1.Start{From: new(consumerv1.Start_Group)}},
	} {
		stream, err := s.Browse(t.Context(), r)
		if err == nil {
			_, err = stream.Recv()
		}
		s.refused(what, err, errs.InvalidField)
	}
	for _, want := range []string{"1", "2", "3", "4"} { // nothing was taken from anybody
		d := s.receive("billing", 1)
		s.same("received", texts(d), []string{want})
		s.done("billing", d...)
	}
}

func testFollow(t *testing.T, s *shop) {
	s.publish("k", "1")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := s.Browse(ctx, &consumerv1.BrowseRequest{Topic: "orders", Follow: true, Limit: 3})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for {
		page, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("after %v: %v", got, err)
		}
		for _, b := range page.GetMessages() {
			got = append(got, string(b.GetEnvelope().GetPayload()))
		}
		if n := len(page.GetMessages()); n > 0 && len(got) < 3 {
			s.publish("k", string(rune('1'+len(got))))
		}
	}
	s.same("followed", got, []string{"1", "2", "3"})
}

func testSeek(t *testing.T, s *shop) {
	_, err := s.Seek(t.Context(), &consumerv1.SeekRequest{Topic: "orders", Group: "billing", To: &consumerv1.Start{From: &consumerv1.Start_Earliest_{Earliest: new(consumerv1.Start_Earliest)}}})
	s.refused("a group that nobody joined", err, errs.GroupNotFound)
	all := s.publish("k", "1", "2")
	left := func(group string) []string {
		return s.browsed(&consumerv1.BrowseRequest{Topic: "orders", From: &consumerv1.Start{From: &consumerv1.Start_Group{Group: group}}})
	}
	s.same("left before anybody joined", left("billing"), []string{"1", "2"})
	for i, want := range []string{"1", "2"} {
		d := s.receive("billing", 1)
		s.same("received", texts(d), []string{want})
		s.done("billing", d...)
		s.same("left", left("billing"), []string{"1", "2"}[i+1:])
	}
	s.same("left for another group", left("nobody"), []string{"1", "2"})
	seek := func(to *consumerv1.Start) {
		t.Helper()
		if _, err := s.Seek(t.Context(), &consumerv1.SeekRequest{Topic: "orders", Group: "billing", To: to}); err != nil {
			t.Fatalf("seek: %v", err)
		}
	}
	seek(&consumerv1.Start{From: &consumerv1.Start_Earliest_{Earliest: new(consumerv1.Start_Earliest)}})
	old := s.receive("billing", 1)
	s.same("from the beginning", texts(old), []string{"1"})
	seek(&consumerv1.Start{From: &consumerv1.Start_Positions_{Positions: &consumerv1.Start_Positions{ByPartition: map[int32]int64{all[1].GetPartition(): all[1].GetPosition()}}}})
	d := s.receive("billing", 1)
	s.same("from the second", texts(d), []string{"2"})
	if got := s.acknowledge("billing", old[0].GetReceipt()); got[0] == errs.Internal {
		t.Errorf("a receipt from before the seek: %v", got[0])
	}
	s.done("billing", d...)
	s.publish("k", "3")
	seek(&consumerv1.Start{From: &consumerv1.Start_Latest_{Latest: new(consumerv1.Start_Latest)}})
	s.none("billing")
	s.publish("k", "4")
	s.same("what is new", texts(s.receive("billing", 1)), []string{"4"})
}

// A feed is a stream of Subscribe.
type feed struct {
	*shop
	stream grpc.BidiStreamingClient[consumerv1.SubscribeRequest, consumerv1.SubscribeResponse]
	leave  context.CancelFunc
	in     []*consumerv1.Delivery
	told   []*consumerv1.Settled
	away   bool
}

func (s *shop) subscribe(group string, credit int32) *feed {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), 2*patience)
	s.Cleanup(cancel)
	stream, err := s.Subscribe(ctx)
	if err != nil {
		s.Fatal(err)
	}
	f := &feed{shop: s, stream: stream, leave: cancel}
	f.send(&consumerv1.SubscribeRequest{Open: &consumerv1.SubscribeRequest_Open{Topic: "orders", Group: group}, Credit: credit})
	r, err := stream.Recv()
	if err != nil || !r.GetOpened() {
		s.Fatalf("opened: %v, %v", r, err)
	}
	return f
}

func (f *feed) send(r *consumerv1.SubscribeRequest) {
	f.Helper()
	if err := f.stream.Send(r); err != nil {
		f.Fatalf("send: %v", err)
	}
}

// until receives until it is so.
func (f *feed) until(so func() bool) error {
	for !so() {
		r, err := f.stream.Recv()
		if err != nil {
			return err
		}
		f.in = append(f.in, r.GetDeliveries()...)
		f.told = append(f.told, r.GetSettled()...)
		f.away = f.away || r.GetGoingAway()
	}
	return nil
}

func (f *feed) has(n int) {
	f.Helper()
	if err := f.until(func() bool { return len(f.in) >= n }); err != nil {
		f.Fatalf("%d of %d came: %v", len(f.in), n, err)
	}
}

func (f *feed) settle(all ...*consumerv1.Settlement) []*consumerv1.Settled {
	f.Helper()
	f.told = nil
	f.send(&consumerv1.SubscribeRequest{Settlements: all})
	if err := f.until(func() bool { return len(f.told) >= len(all) }); err != nil {
		f.Fatalf("settle: %v", err)
	}
	return f.told
}

func ack(id uint64, receipt string) *consumerv1.Settlement {
	return &consumerv1.Settlement{Id: id, Receipt: receipt, Verdict: &consumerv1.Settlement_Acknowledge_{Acknowledge: &consumerv1.Settlement_Acknowledge{}}}
}

func testSubscribe(t *testing.T, s *shop) {
	for i := range 10 {
		s.publish(string(rune('a'+i)), "m")
	}
	f := s.subscribe("billing", 3)
	f.has(3)
	told := f.settle(ack(7, f.in[0].GetReceipt()), ack(8, "x"), &consumerv1.Settlement{Id: 9, Receipt: f.in[1].GetReceipt()})
	slices.SortFunc(told, func(a, b *consumerv1.Settled) int { return int(a.GetId()) - int(b.GetId()) })
	if got := outcomes(told); told[0].GetId() != 7 || got[0] != errs.Unknown || got[1] != errs.StaleReceipt || got[2] != errs.InvalidField {
		t.Errorf("settled: %v", told)
	}
	if len(f.in) != 3 {
		t.Errorf("%d came for a credit of 3", len(f.in))
	}
	f.send(&consumerv1.SubscribeRequest{Credit: 100})
	f.has(10)
	var rest []*consumerv1.Settlement
	for i, d := range f.in[1:] {
		rest = append(rest, ack(uint64(i+1), d.GetReceipt()))
	}
	for _, one := range outcomes(f.settle(rest...)) {
		if one != errs.Unknown {
			t.Errorf("acknowledge: %v", one)
		}
	}
	if err := f.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := f.until(func() bool { return false }); !errors.Is(err, io.EOF) {
		t.Errorf("the end: %v", err)
	}
	s.none("billing")
	for what, first := range map[string]*consumerv1.SubscribeRequest{
		"nothing opened":    {Credit: 1},
		"a bad topic":       {Open: &consumerv1.SubscribeRequest_Open{Topic: "*", Group: "g"}},
		"a negative credit": {Open: &consumerv1.SubscribeRequest_Open{Topic: "orders", Group: "g"}, Credit: -1},
	} {
		stream, err := s.Subscribe(t.Context())
		if err == nil {
			err = stream.Send(first)
		}
		for err == nil {
			_, err = stream.Recv()
		}
		s.refused(what, err, errs.InvalidField)
	}
}

// When a stream ends, what was in hand comes to others at once, uncounted.
func testSubscribeReturns(t *testing.T, s *shop) {
	s.publish("k", "1")
	for range 5 {
		f := s.subscribe("billing", 1)
		f.has(1)
		if f.in[0].GetAttempt() != 1 {
			t.Errorf("attempt %d", f.in[0].GetAttempt())
		}
		f.leave()
	}
	d := s.receive("billing", 1)
	if d[0].GetAttempt() != 1 {
		t.Errorf("attempt %d", d[0].GetAttempt())
	}
	s.done("billing", d...)
}

// A proxy that stops asks its consumers to go; another one has their messages
// at once, and none of them is a dead letter.
func testStop(t *testing.T, s *shop) {
	s.publish("k", "1", "2")
	f := s.subscribe("billing", 10)
	f.has(1)
	s.stop()
	if err := f.until(func() bool { return false }); errs.FromStatus(err).Reason != errs.Draining || !f.away {
		t.Errorf("the stream ended with %v, going away: %v", err, f.away)
	}
	_, err := s.Receive(t.Context(), &consumerv1.ReceiveRequest{Topic: "orders", Group: "billing"})
	s.refused("receive while it stops", err, errs.Draining)
	other := s.s.shopAt(t, s.namespace, s.settings)
	for _, want := range []string{"1", "2"} {
		d := other.receive("billing", 1)
		s.same("elsewhere", texts(d), []string{want})
		if d[0].GetAttempt() != 1 {
			t.Errorf("%s: attempt %d", want, d[0].GetAttempt())
		}
		other.done("billing", d...)
	}
	s.same("dead letters", other.browsed(&consumerv1.BrowseRequest{Topic: "orders.dlq"}), nil)
}
