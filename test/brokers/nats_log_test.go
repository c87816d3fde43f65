package brokers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/prismgw/prism/internal/testutil/servers"
)

// advisory reads which message an advisory is about and how often it was
// delivered.
func advisory(t *testing.T, data []byte) (seq, deliveries uint64) {
	t.Helper()
	var a struct {
		StreamSeq  uint64 `json:"stream_seq"`
		Deliveries uint64 `json:"deliveries"`
	}
	must(t, json.Unmarshal(data, &a))
	return a.StreamSeq, a.Deliveries
}

// A settlement names the message, not the delivery: one from before a
// redelivery settles it under the hands of who has it now, and is confirmed.
func TestNATSStaleReceiptSettles(t *testing.T) {
	t.Parallel()
	s := newStream(t, servers.NATS(t).URL)
	group := s.group(t, "g", func(c *jetstream.ConsumerConfig) { c.AckWait = 200 * time.Millisecond })
	s.publish(t, 0, "m1")
	a, _ := s.member(t, "g")
	b, _ := s.member(t, "g")

	old := take(t, a, 1)[0]
	current := take(t, b, 1)
	wantTold(t, current, "m1#2")
	settle(t, old)
	if info := natsInfo(t, group); info.NumAckPending != 0 || info.AckFloor.Stream != 1 {
		t.Fatalf("%d pending, the floor at %d; want 0 and 1: the stale receipt settled it", info.NumAckPending, info.AckFloor.Stream)
	}

	// The current one is confirmed too, and so is giving back what is settled;
	// nothing comes again.
	settle(t, current...)
	giveBack(t, s.js.Conn(), current[0], 0)
	nothing(t, group)
}

// Giving back with a stale receipt takes the message from who has it now.
func TestNATSStaleReceiptGivesBack(t *testing.T) {
	t.Parallel()
	s := newStream(t, servers.NATS(t).URL)
	c := s.group(t, "g", nil)
	s.publish(t, 0, "m1")

	old := take(t, c, 1)[0]
	giveBack(t, s.js.Conn(), old, 0)
	wantTold(t, take(t, c, 1), "m1#2")
	giveBack(t, s.js.Conn(), old, 0)
	wantTold(t, take(t, c, 1), "m1#3")
}

// A receipt of a message that was never delivered settles nothing, and is not
// answered; a plain acknowledgement would not know.
func TestNATSForgedReceiptIsNotAnswered(t *testing.T) {
	t.Parallel()
	s := newStream(t, servers.NATS(t).URL)
	c := s.group(t, "g", nil)
	s.publish(t, 0, "m1", "m2")
	take(t, c, 1)

	ctx, cancel := context.WithTimeout(t.Context(), never)
	defer cancel()
	_, err := s.js.Conn().RequestWithContext(ctx, fmt.Sprintf("$JS.ACK.%s.g.1.2.2.%d.0", s.name, time.Now().UnixNano()), []byte("+ACK"))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("answered with %v, want no answer", err)
	}
	wantTold(t, take(t, c, 1), "m2#1")
}

// A Nats-Msg-Id is remembered for the whole stream: a second message with it is
// not stored, whatever its subject and payload, and its answer names the first.
func TestNATSDedup(t *testing.T) {
	t.Parallel()
	s := newStream(t, servers.NATS(t).URL, func(c *jetstream.StreamConfig) { c.Duplicates = 2 * time.Second })
	publish := func(partition int) *jetstream.PubAck {
		ack, err := s.js.Publish(t.Context(), s.subject(partition), []byte("x"), jetstream.WithMsgID("id"))
		must(t, err)
		return ack
	}
	if first := publish(0); first.Duplicate || first.Sequence != 1 {
		t.Errorf("the first: %+v", first)
	}
	if other := publish(1); !other.Duplicate || other.Sequence != 1 {
		t.Errorf("the same id under another subject: %+v, want a duplicate of 1", other)
	}
	must(t, s.DeleteMsg(t.Context(), 1))
	if gone := publish(0); !gone.Duplicate || gone.Sequence != 1 {
		t.Errorf("after the first was deleted: %+v, want a duplicate of 1, which is no more", gone)
	}
	eventually(t, "the window is over", func() bool { return !publish(0).Duplicate })
}

// Ids are read back from the stored messages when the server starts: nothing is
// forgotten within the window, however it ended, except ids of messages that
// were deleted.
func TestNATSDedupAfterCrash(t *testing.T) {
	t.Parallel()
	server := servers.NATSWith(t)
	s := newStream(t, server.URL, func(c *jetstream.StreamConfig) { c.Duplicates = time.Minute })
	for i := range 20 {
		_, err := s.js.Publish(t.Context(), s.subject(0), nil, jetstream.WithMsgID(fmt.Sprint(i)))
		must(t, err)
	}
	must(t, s.DeleteMsg(t.Context(), 7))
	server.Restart() // kills
	again := natsClient(t, server.URL)
	for i := range 20 {
		ack, err := again.Publish(t.Context(), s.subject(0), nil, jetstream.WithMsgID(fmt.Sprint(i)))
		must(t, err)
		if deleted := i == 6; ack.Duplicate == deleted {
			t.Errorf("id %d, deleted %v: duplicate %v of %d", i, deleted, ack.Duplicate, ack.Sequence)
		}
	}
}

// Positions become visible in order and without gaps while many publish.
func TestNATSPositionsAppearInOrder(t *testing.T) {
	t.Parallel()
	const writers, each = 8, 100
	s := newStream(t, servers.NATS(t).URL)
	c, err := s.OrderedConsumer(t.Context(), jetstream.OrderedConsumerConfig{})
	must(t, err)
	messages, err := c.Messages()
	must(t, err)
	defer messages.Stop()

	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for range each {
				if _, err := s.js.Publish(t.Context(), s.subject(w), nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for want := uint64(1); want <= writers*each; want++ {
		m, err := messages.Next(jetstream.NextMaxWait(soon))
		must(t, err)
		meta, err := m.Metadata()
		must(t, err)
		if meta.Sequence.Stream != want {
			t.Fatalf("position %d came, want %d", meta.Sequence.Stream, want)
		}
	}
	wg.Wait()
}

// A message can be read by its position, or the next one of a partition from a
// position on, without a consumer and without taking it. What was deleted is
// told apart from what has not come yet only by the stream's own numbers.
func TestNATSBrowse(t *testing.T) {
	t.Parallel()
	s := newStream(t, servers.NATS(t).URL)
	group := s.group(t, "g", nil)
	s.publish(t, 0, "m1")
	s.publish(t, 1, "n1")
	s.publish(t, 0, "m2", "m3")
	must(t, s.DeleteMsg(t.Context(), 3)) // m2

	next, err := s.GetMsg(t.Context(), 2, jetstream.WithGetMsgSubject(s.subject(0)))
	must(t, err)
	if next.Sequence != 4 || string(next.Data) != "m3" {
		t.Errorf("from position 2 on comes %s at %d, want m3 at 4", next.Data, next.Sequence)
	}
	for what, seq := range map[string]uint64{"deleted": 3, "not there yet": 5} {
		if _, err := s.GetMsg(t.Context(), seq); !errors.Is(err, jetstream.ErrMsgNotFound) {
			t.Errorf("a message that is %s answers %v, want %v", what, err, jetstream.ErrMsgNotFound)
		}
	}
	info, err := s.Info(t.Context(), jetstream.WithDeletedDetails(true))
	must(t, err)
	if st := info.State; st.FirstSeq != 1 || st.LastSeq != 4 || len(st.Deleted) != 1 || st.Deleted[0] != 3 {
		t.Errorf("the stream says %+v, want 1 to 4 without 3", st)
	}
	// The group got nothing taken away, and does not notice what was deleted.
	wantTold(t, take(t, group, 2), "m1#1", "m3#1")
}

// Many messages of a partition can be read in one request, from a position or a
// time on; the client library has no call for it.
func TestNATSBrowseMany(t *testing.T) {
	t.Parallel()
	s := newStream(t, servers.NATS(t).URL)
	s.publish(t, 0, "m1")
	s.publish(t, 1, "n1")
	s.publish(t, 0, "m2", "m3", "m4")
	third, err := s.GetMsg(t.Context(), 4)
	must(t, err)

	for what, c := range map[string]struct{ request, want string }{
		"from a position": {fmt.Sprintf(`{"seq":2,"batch":2,"next_by_subj":%q}`, s.subject(0)), "[3:m2 4:m3]"},
		"from a time": {fmt.Sprintf(`{"start_time":%q,"batch":9,"next_by_subj":%q}`,
			third.Time.Format(time.RFC3339Nano), s.subject(0)), "[4:m3 5:m4]"},
	} {
		if got := fmt.Sprint(browse(t, s, c.request)); got != c.want {
			t.Errorf("%s: got %s, want %s", what, got, c.want)
		}
	}
}

// browse sends a direct get for many messages and reads its answers up to the
// one that says that this was all.
func browse(t *testing.T, s *natsStream, request string) (got []string) {
	t.Helper()
	conn := s.js.Conn()
	inbox, err := conn.SubscribeSync(conn.NewInbox())
	must(t, err)
	must(t, conn.PublishMsg(&natsgo.Msg{Subject: "$JS.API.DIRECT.GET." + s.name, Reply: inbox.Subject, Data: []byte(request)}))
	for {
		m, err := inbox.NextMsg(soon)
		must(t, err)
		if status := m.Header.Get("Status"); status != "" {
			if status != "204" {
				t.Fatalf("status %s %s", status, m.Header.Get("Description"))
			}
			return got
		}
		got = append(got, m.Header.Get("Nats-Sequence")+":"+string(m.Data))
	}
}

// A group may start at a time, and later ones of that very time are its first.
func TestNATSStartByTime(t *testing.T) {
	t.Parallel()
	s := newStream(t, servers.NATS(t).URL)
	s.publish(t, 0, texts(3)...)
	second, err := s.GetMsg(t.Context(), 2)
	must(t, err)
	c := s.group(t, "g", func(c *jetstream.ConsumerConfig) {
		c.DeliverPolicy, c.OptStartTime = jetstream.DeliverByStartTimePolicy, &second.Time
	})
	wantTold(t, take(t, c, 2), "m2#1", "m3#1")
}

// Limits delete what groups have not read, also what they have in hand. It can
// be told from the numbers: the group's next delivery jumps, and the stream's
// first position is beyond the group's floor.
func TestNATSLimitsDeleteUnread(t *testing.T) {
	t.Parallel()
	s := newStream(t, servers.NATS(t).URL, func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 3 })
	c := s.group(t, "g", nil)
	s.publish(t, 0, "m1", "m2")
	inHand := take(t, c, 1)
	s.publish(t, 0, "m3", "m4", "m5", "m6")

	info, err := s.Info(t.Context())
	must(t, err)
	if st := info.State; st.FirstSeq != 4 || st.Msgs != 3 {
		t.Errorf("the stream begins at %d with %d messages, want 4 and 3", st.FirstSeq, st.Msgs)
	}
	if n := natsInfo(t, c).NumPending; n != 3 {
		t.Errorf("%d to come, want 3: what was deleted is not counted any more", n)
	}
	eventually(t, "what is in hand and deleted is not pending any more", func() bool { return natsInfo(t, c).NumAckPending == 0 })
	settle(t, inHand...) // confirmed all the same
	wantTold(t, take(t, c, 3), "m4#1", "m5#1", "m6#1")
}

// Age and size are limits of the stream, so of all topics in it. For a topic
// alone there are a time to live on each message, in whole seconds, and a purge
// of a subject up to a sequence.
func TestNATSRetentionOfATopic(t *testing.T) {
	t.Parallel()
	s := newStream(t, servers.NATS(t).URL, func(c *jetstream.StreamConfig) { c.AllowMsgTTL = true })
	for partition, text := range []string{"lives a second", "lives on"} {
		opts := []jetstream.PublishOpt{jetstream.WithMsgTTL(time.Second)}[:1-partition]
		_, err := s.js.Publish(t.Context(), s.subject(partition), []byte(text), opts...)
		must(t, err)
	}
	kept := func() string {
		return fmt.Sprint(browse(t, s, fmt.Sprintf(`{"seq":1,"batch":9,"next_by_subj":"%s.>"}`, s.name)))
	}
	if got := kept(); got != "[1:lives a second 2:lives on]" {
		t.Errorf("kept at first: %s", got)
	}
	eventually(t, "only the other topic's is left", func() bool { return kept() == "[2:lives on]" })

	s.publish(t, 0, "m3", "m4")
	must(t, s.Purge(t.Context(), jetstream.WithPurgeSubject(s.subject(0)), jetstream.WithPurgeSequence(4)))
	if got := kept(); got != "[2:lives on 4:m4]" {
		t.Errorf("kept after a purge below 4: %s", got)
	}
	if _, err := s.js.Publish(t.Context(), s.subject(0), nil, jetstream.WithMsgTTL(500*time.Millisecond)); err == nil {
		t.Error("half a second is taken as a time to live")
	}
}

// Under interest retention a message is kept until every group that was there
// when it came, or has come since, has settled it. With no group for its
// subject it is confirmed and dropped.
func TestNATSInterestRetention(t *testing.T) {
	t.Parallel()
	s := newStream(t, servers.NATS(t).URL, func(c *jetstream.StreamConfig) { c.Retention = jetstream.InterestPolicy })
	kept := func() uint64 {
		info, err := s.Info(t.Context())
		must(t, err)
		return info.State.Msgs
	}
	s.publish(t, 0, "nobody's")
	if n := kept(); n != 0 {
		t.Errorf("%d kept without a group, want 0", n)
	}

	a, b := s.group(t, "a", nil), s.group(t, "b", nil)
	s.publish(t, 0, "m1", "m2", "m3")
	s.publish(t, 1, "of a partition without a consumer")
	settle(t, take(t, a, 3)...)
	settle(t, take(t, b, 1)...)
	eventually(t, "m1, settled by both, is gone", func() bool { return kept() == 2 })

	late := s.group(t, "late", nil)
	settle(t, take(t, b, 2)...)
	wantTold(t, take(t, late, 1), "m2#1") // not m1
	if n := kept(); n != 2 {
		t.Errorf("%d kept, want 2: they wait for the late group too", n)
	}
	must(t, s.DeleteConsumer(t.Context(), "late"))
	eventually(t, "nobody is left to wait for", func() bool { return kept() == 0 })
}

// The numbers of a group count its partition only, and whoever pulls: members
// of other programs are in the same ones.
func TestNATSLag(t *testing.T) {
	t.Parallel()
	s := newStream(t, servers.NATS(t).URL)
	c := s.group(t, "g", nil)
	s.publish(t, 0, texts(10)...)
	s.publish(t, 1, texts(5)...)
	mine, _ := s.member(t, "g")
	others, _ := s.member(t, "g")

	got := take(t, mine, 3)
	take(t, others, 2)
	giveBack(t, s.js.Conn(), got[2], 0)
	settle(t, got[0])
	info := natsInfo(t, c)
	if info.NumPending != 5 || info.NumAckPending != 4 || info.NumRedelivered != 0 {
		t.Errorf("%d to come, %d in hand, %d redelivered; want 5, 4, 0", info.NumPending, info.NumAckPending, info.NumRedelivered)
	}
	wantTold(t, take(t, others, 1), "m3#2")
	if n := natsInfo(t, c).NumRedelivered; n != 1 {
		t.Errorf("%d redelivered, want 1", n)
	}
}
