package pubsub

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	pubsubv1 "github.com/prismgw/prism/api/prism/pubsub/v1"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/memory"
	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
)

func newService(t *testing.T, settings string) *service {
	t.Helper()
	conn, err := memory.Driver().Open(driver.Config{URL: "memory:"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	b, err := conn.Space(driver.Space{Namespace: "n", Pattern: "p"})
	if err != nil {
		t.Fatal(err)
	}
	s, err := open(pattern.Config{Namespace: "n", Name: "p", Settings: []byte(settings), Slots: map[string]pattern.Filled{slot: {Backend: b}}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSettings(t *testing.T) {
	t.Parallel()
	for raw, ok := range map[string]bool{
		"": true, "{}": true, `{"layout": "envelope"}`: true, `{"layout": "native"}`: true,
		`{"layout": ""}`: false, `{"layout": "raw"}`: false, `{"layout": 1}`: false, `{"buffer": 1}`: false,
	} {
		if err := Kind().Check([]byte(raw)); (err == nil) != ok || err != nil && len(errs.From(err).Fields) != 1 {
			t.Errorf("%s: %v", raw, err)
		}
	}
	if _, err := open(pattern.Config{Slots: map[string]pattern.Filled{}}); !errors.Is(err, errs.InvalidConfiguration) {
		t.Errorf("without a backend: %v", err)
	}
}

// What a batch writes is what the contract's own message reads, byte for byte
// where the messages are.
func TestBatchIsAResponse(t *testing.T) {
	t.Parallel()
	odd, err := envelope.Marshal(envelope.New("n", "a", []byte("payload")))
	if err != nil {
		t.Fatal(err)
	}
	odd = append(odd, 0x98, 0x06, 0x01) // field 99, number 1: not known to anybody
	for _, b := range []batch{{}, {missed: 7}, {missed: driver.MissedUnknown}, {missed: 1 << 40, messages: [][]byte{odd, odd}}, {messages: [][]byte{odd}}} {
		data := make([]byte, b.SizeVT())
		if n, err := b.MarshalToSizedBufferVT(data); err != nil || n != len(data) {
			t.Fatalf("%d of %d bytes, %v", n, len(data), err)
		}
		var r pubsubv1.SubscribeResponse
		if err := proto.Unmarshal(data, &r); err != nil {
			t.Fatal(err)
		}
		count, told := r.GetMissed().GetCount(), r.GetMissed() != nil
		if told != (b.missed != 0) || count != uint64(max(b.missed, 0)) || told && (r.GetMissed().Count == nil) != (b.missed < 0) || len(r.GetMessages()) != len(b.messages) { //nolint:protogetter // whether it is there matters
			t.Errorf("%+v became %v", b, &r)
		}
	}
}

// A gap of which nobody knows swallows one that was counted.
func TestBatches(t *testing.T) {
	t.Parallel()
	s := newService(t, `{"layout": "native"}`)
	m := func(text string) driver.Event {
		return driver.Event{Message: driver.Message{Subject: "a", Payload: []byte(text)}}
	}
	missed := func(n int64) driver.Event { return driver.Event{Missed: n} }
	all := s.batches([]driver.Event{m("1"), m("2"), missed(3), missed(4), m("3"), missed(1), missed(driver.MissedUnknown), missed(2)})
	var got []string
	for _, b := range all {
		switch {
		case b.missed < 0:
			got = append(got, "?")
		case b.missed > 0:
			got = append(got, strings.Repeat("-", int(b.missed)))
		}
		for _, wire := range b.messages {
			e, err := envelope.Unmarshal(wire)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, string(e.GetPayload()))
		}
	}
	if text := strings.Join(got, " "); text != "1 2 ------- 3 ?" {
		t.Error(text)
	}
}

// Who listens over HTTP hears something though nothing is published.
func TestHeartbeat(t *testing.T) {
	t.Parallel()
	s := newService(t, "")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = s.listen(r.Context(), &pubsubv1.SubscribeRequest{Filter: "a"}, &overHTTP{w: w}, 5*time.Millisecond)
	}))
	defer server.Close()
	resp, err := http.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	const want = "event: subscribed\ndata: {}\n\n: heartbeat\n\n: heartbeat\n\n"
	got := make([]byte, len(want))
	for n := 0; n < len(got); {
		k, err := resp.Body.Read(got[n:])
		if err != nil {
			t.Fatal(err)
		}
		n += k
	}
	if string(got) != want {
		t.Errorf("%q", got)
	}
}

// deaf is a listener that nobody reaches.
type deaf struct{ heard []string }

func (d *deaf) stands() error     { d.heard = append(d.heard, "stands"); return nil }
func (d *deaf) tell(*batch) error { d.heard = append(d.heard, "message"); return nil }
func (d *deaf) beat() error       { d.heard = append(d.heard, "beat"); return nil }
func (d *deaf) going() error      { d.heard = append(d.heard, "going"); return nil }

// How a subscription ends is told by why its context did.
func TestEnds(t *testing.T) {
	t.Parallel()
	moved := errs.New(errs.Draining, "moved")
	for _, x := range []struct {
		cause error
		want  error
		heard string
	}{
		{pattern.ErrGoing, nil, "stands going"},
		{moved, moved, "stands going"},
		{nil, errs.Cancelled, "stands"},
		{errors.New("the client has left"), errs.Cancelled, "stands"},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(x.cause)
		d := &deaf{}
		s := newService(t, "")
		sub, err := s.subscribe(t.Context(), &pubsubv1.SubscribeRequest{Filter: "a"})
		if err != nil {
			t.Fatal(err)
		}
		_ = d.stands()
		err = s.end(ctx, true, s.pass(ctx, sub, d, 0), d)
		if !errors.Is(err, x.want) || strings.Join(d.heard, " ") != x.heard {
			t.Errorf("%v: %v, heard %v", x.cause, err, d.heard)
		}
		// One that had not begun is refused.
		d = &deaf{}
		err = s.listen(ctx, &pubsubv1.SubscribeRequest{Filter: "a"}, d, 0)
		if err == nil || len(d.heard) > 0 || errors.Is(x.cause, pattern.ErrGoing) != errors.Is(err, errs.Draining) && x.cause != moved { //nolint:errorlint // it is itself
			t.Errorf("%v before it began: %v, heard %v", x.cause, err, d.heard)
		}
	}
}
