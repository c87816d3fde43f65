package brokers

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/prismgw/prism/internal/testutil/servers"
)

const pinned = "pinned" // the priority group of consumers that pin a member

func pin(ttl, ackWait time.Duration) func(*jetstream.ConsumerConfig) {
	return func(c *jetstream.ConsumerConfig) {
		c.PriorityPolicy, c.PriorityGroups, c.PinnedTTL, c.AckWait = jetstream.PriorityPolicyPinned, []string{pinned}, ttl, ackWait
	}
}

// The member that pulls first keeps the partition for as long as it pulls at
// least every PinnedTTL. After it has died another one gets the partition when
// PinnedTTL is over, not when the connection ends; and where AckWait is longer
// than that, it gets newer messages before those the dead one had in hand.
func TestNATSPinnedTakeoverOvertakes(t *testing.T) {
	t.Parallel()
	const ttl = 1500 * time.Millisecond
	s := newStream(t, servers.NATS(t).URL)
	group := s.group(t, "g", pin(ttl, time.Minute))
	s.publish(t, 0, texts(5)...)
	a, conn := s.member(t, "g")
	b, _ := s.member(t, "g")
	as := jetstream.FetchPriorityGroup(pinned)

	wantTold(t, take(t, a, 1, as), "m1#1")
	nothing(t, b, as)
	died := time.Now()
	wantTold(t, take(t, a, 1, as), "m2#1")
	conn.Close()

	got := take(t, b, 3, as)
	took := time.Since(died)
	wantTold(t, got, "m3#1", "m4#1", "m5#1")
	if t.Logf("taken over after %v", took); took < ttl {
		t.Errorf("taken over after %v, want PinnedTTL, %v", took, ttl)
	}
	if n := natsInfo(t, group).NumAckPending; n != 5 {
		t.Errorf("%d pending, want 5: what the dead one had is still its own", n)
	}
}

// With AckWait below PinnedTTL what the dead member had in hand has run out
// when another one takes over, and comes to it before anything newer, counted
// as attempts; but not in the log's order: while only members without the pin
// wait, each thing that happens moves the oldest redelivery to the end.
func TestNATSPinnedTakeoverRotates(t *testing.T) {
	t.Parallel()
	s := newStream(t, servers.NATS(t).URL)
	s.group(t, "g", pin(2*time.Second, time.Second))
	s.publish(t, 0, texts(7)...)
	a, conn := s.member(t, "g")
	b, _ := s.member(t, "g")
	as := jetstream.FetchPriorityGroup(pinned)

	take(t, a, 5, as)
	conn.Close()
	got := told(take(t, b, 7, as))
	inOrder := []string{"m1#2", "m2#2", "m3#2", "m4#2", "m5#2"}
	if slices.Equal(got[:5], inOrder) {
		t.Errorf("the redeliveries came in order; the server has got better: %v", got)
	}
	first := max(0, slices.Index(inOrder, got[0]))
	want := append(slices.Concat(inOrder[first:], inOrder[:first]), "m6#1", "m7#1")
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// A member that takes over may reset the consumer: then everything from the
// oldest unsettled message on comes in order, at once, and as a first attempt.
func TestNATSPinnedTakeoverWithReset(t *testing.T) {
	t.Parallel()
	s := newStream(t, servers.NATS(t).URL)
	s.group(t, "g", pin(500*time.Millisecond, time.Minute))
	s.publish(t, 0, texts(5)...)
	a, conn := s.member(t, "g")
	b, _ := s.member(t, "g")
	as := jetstream.FetchPriorityGroup(pinned)

	settle(t, take(t, a, 3, as)[0])
	conn.Close()
	wantTold(t, take(t, b, 1, as), "m4#1")
	_, err := s.ResetConsumer(t.Context(), "g")
	must(t, err)
	wantTold(t, take(t, b, 4, as), "m2#1", "m3#1", "m4#1", "m5#1")
}

// Only the start of a pull keeps the pin: a member that waits in one pull for
// longer than PinnedTTL loses the partition while it waits.
func TestNATSLongPullLosesThePin(t *testing.T) {
	t.Parallel()
	s := newStream(t, servers.NATS(t).URL)
	s.group(t, "g", pin(300*time.Millisecond, time.Minute))
	s.publish(t, 0, "m1")
	a, _ := s.member(t, "g")
	as := jetstream.FetchPriorityGroup(pinned)
	take(t, a, 1, as)

	waiting, err := a.Fetch(1, as, jetstream.FetchMaxWait(soon))
	must(t, err)
	b, _ := s.member(t, "g")
	eventually(t, "the pin is gone", func() bool { return natsInfo(t, b).PriorityGroups[0].PinnedClientID == "" })
	s.publish(t, 0, "m2")
	for m := range waiting.Messages() {
		t.Errorf("%s came", m.Data())
	}
	if err := waiting.Error(); !errors.Is(err, jetstream.ErrPinIDMismatch) {
		t.Errorf("it ends with %v, want %v", err, jetstream.ErrPinIDMismatch)
	}
	wantTold(t, take(t, b, 1, as), "m2#1")
}

// A member that leaves in order gives back what it has and unpins itself;
// the next one goes on at once, in order, with one attempt more.
func TestNATSPinnedHandover(t *testing.T) {
	t.Parallel()
	s := newStream(t, servers.NATS(t).URL)
	s.group(t, "g", pin(time.Minute, time.Minute))
	s.publish(t, 0, texts(4)...)
	a, _ := s.member(t, "g")
	b, _ := s.member(t, "g")
	as := jetstream.FetchPriorityGroup(pinned)

	got := take(t, a, 2, as)
	for _, m := range got {
		giveBack(t, s.js.Conn(), m, 0)
	}
	must(t, s.UnpinConsumer(t.Context(), "g", pinned))
	wantTold(t, take(t, b, 4, as), "m1#2", "m2#2", "m3#1", "m4#1")
}

// A member that has lost the partition while it stood still is told so at its
// next pull. What it had in hand it can still settle: nothing fences it.
func TestNATSPinLostIsTold(t *testing.T) {
	t.Parallel()
	s := newStream(t, servers.NATS(t).URL)
	group := s.group(t, "g", pin(time.Minute, time.Minute))
	s.publish(t, 0, texts(3)...)
	a, _ := s.member(t, "g")
	b, _ := s.member(t, "g")
	as := jetstream.FetchPriorityGroup(pinned)

	late := take(t, a, 1, as)
	must(t, s.UnpinConsumer(t.Context(), "g", pinned))
	wantTold(t, take(t, b, 1, as), "m2#1")

	batch, err := a.Fetch(1, as, jetstream.FetchMaxWait(soon))
	must(t, err)
	for m := range batch.Messages() {
		t.Errorf("%s came to the member that is no longer pinned", m.Data())
	}
	if err := batch.Error(); !errors.Is(err, jetstream.ErrPinIDMismatch) {
		t.Errorf("it is told %v, want %v", err, jetstream.ErrPinIDMismatch)
	}
	settle(t, late...)
	if n := natsInfo(t, group).NumAckPending; n != 1 {
		t.Errorf("%d pending, want 1: the late settlement counted", n)
	}
}

// A member that disconnects with messages in hand gives nothing back: they are
// offered again after AckWait, and that counts.
func TestNATSDisconnectGivesNothingBack(t *testing.T) {
	t.Parallel()
	const ackWait = 1500 * time.Millisecond
	s := newStream(t, servers.NATS(t).URL)
	group := s.group(t, "g", func(c *jetstream.ConsumerConfig) { c.AckWait = ackWait })
	s.publish(t, 0, texts(3)...)
	a, conn := s.member(t, "g")
	began := time.Now()
	take(t, a, 3)
	conn.Close()

	nothing(t, group)
	if n := natsInfo(t, group).NumAckPending; n != 3 {
		t.Errorf("%d pending, want 3", n)
	}
	wantTold(t, take(t, group, 3), "m1#2", "m2#2", "m3#2")
	if waited := time.Since(began); waited < ackWait {
		t.Errorf("offered again after %v, want AckWait, %v", waited, ackWait)
	}
}

// Whatever brings a message again counts one attempt: giving it back at once or
// with a delay, and running out of AckWait.
func TestNATSEveryRedeliveryCounts(t *testing.T) {
	t.Parallel()
	s := newStream(t, servers.NATS(t).URL)
	c := s.group(t, "g", func(c *jetstream.ConsumerConfig) { c.AckWait = 300 * time.Millisecond })
	s.publish(t, 0, "m1")

	got := take(t, c, 1)
	wantTold(t, got, "m1#1")
	giveBack(t, s.js.Conn(), got[0], 0)
	got = take(t, c, 1)
	wantTold(t, got, "m1#2")
	giveBack(t, s.js.Conn(), got[0], 50*time.Millisecond)
	wantTold(t, take(t, c, 1), "m1#3")
	wantTold(t, take(t, c, 1), "m1#4") // ran out
}

// Resetting a consumer is the one way to give back without counting. It gives
// back everything in hand, of every member, and forgets all attempts; and what
// was settled above the oldest unsettled message comes again as well.
func TestNATSResetGivesBackUncounted(t *testing.T) {
	t.Parallel()
	s := newStream(t, servers.NATS(t).URL)
	c := s.group(t, "g", nil)
	s.publish(t, 0, texts(5)...)

	got := take(t, c, 4)
	settle(t, got[0], got[2])
	giveBack(t, s.js.Conn(), got[1], 0)
	again := take(t, c, 1)
	wantTold(t, again, "m2#2")

	reset, err := s.ResetConsumer(t.Context(), "g")
	must(t, err)
	if reset.ResetSeq != 2 {
		t.Errorf("reset to %d, want 2, the oldest unsettled", reset.ResetSeq)
	}
	redone := take(t, c, 4)
	wantTold(t, redone, "m2#1", "m3#1", "m4#1", "m5#1")

	// A settlement from before the reset still settles: it names the message only.
	settle(t, again...)
	if n := natsInfo(t, c).NumAckPending; n != 3 {
		t.Errorf("%d pending, want 3", n)
	}
}

// Moving a known group is possible the same way, backwards only if the consumer
// was made to start at the beginning or below.
func TestNATSResetToSequence(t *testing.T) {
	t.Parallel()
	s := newStream(t, servers.NATS(t).URL)
	s.publish(t, 0, texts(3)...)
	c := s.group(t, "all", nil)
	settle(t, take(t, c, 3)...)
	_, err := s.ResetConsumerToSequence(t.Context(), "all", 2)
	must(t, err)
	wantTold(t, take(t, c, 2), "m2#1", "m3#1")

	s.group(t, "new", func(c *jetstream.ConsumerConfig) { c.DeliverPolicy = jetstream.DeliverNewPolicy })
	if _, err := s.ResetConsumerToSequence(t.Context(), "new", 2); !errors.Is(err, jetstream.ErrConsumerInvalidReset) {
		t.Errorf("a group that started with new messages answers %v, want %v", err, jetstream.ErrConsumerInvalidReset)
	}
}

// At MaxDeliver a message is offered no more: the server says so once, to whoever
// listens at that moment, and forgets that it was pending. It stays in the
// stream, unsettled, and no number of the consumer shows it.
func TestNATSMaxDeliver(t *testing.T) {
	t.Parallel()
	s := newStream(t, servers.NATS(t).URL)
	c := s.group(t, "g", func(c *jetstream.ConsumerConfig) { c.MaxDeliver = 2 })
	advisories, err := s.js.Conn().SubscribeSync("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES." + s.name + ".g")
	must(t, err)
	s.publish(t, 0, "m1", "m2")

	for range 2 {
		giveBack(t, s.js.Conn(), take(t, c, 1)[0], 0)
	}
	wantTold(t, take(t, c, 1), "m2#1") // the pull that finds m1 to be over
	if m, err := advisories.NextMsg(soon); err != nil {
		t.Errorf("no advisory: %v", err)
	} else if seq, deliveries := advisory(t, m.Data); seq != 1 || deliveries != 2 {
		t.Errorf("the advisory names message %d after %d deliveries, want 1 after 2", seq, deliveries)
	}
	info := natsInfo(t, c)
	if info.NumAckPending != 1 || info.NumPending != 0 {
		t.Errorf("%d in hand, %d to come; want 1 (m2) and 0", info.NumAckPending, info.NumPending)
	}
	if _, err := s.GetMsg(t.Context(), 1); err != nil {
		t.Errorf("the message is not in the stream any more: %v", err)
	}
}

// Under interest retention such a message is kept for ever: nobody can settle
// it, and the stream goes on waiting.
func TestNATSMaxDeliverUnderInterest(t *testing.T) {
	t.Parallel()
	s := newStream(t, servers.NATS(t).URL, func(c *jetstream.StreamConfig) { c.Retention = jetstream.InterestPolicy })
	c := s.group(t, "g", func(c *jetstream.ConsumerConfig) { c.MaxDeliver = 1 })
	s.publish(t, 0, "m1", "m2")
	giveBack(t, s.js.Conn(), take(t, c, 1)[0], 0)
	settle(t, take(t, c, 1)...)
	eventually(t, "m2 is gone and m1 is not", func() bool {
		info, err := s.Info(t.Context())
		must(t, err)
		return info.State.Msgs == 1 && info.State.FirstSeq == 1
	})
	if info := natsInfo(t, c); info.NumAckPending != 0 || info.NumPending != 0 {
		t.Errorf("%d in hand, %d to come; want 0 and 0: no number of the group shows it", info.NumAckPending, info.NumPending)
	}
}
