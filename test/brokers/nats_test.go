package brokers

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/prismgw/prism/internal/testutil/servers"
)

const (
	soon  = 20 * time.Second       // what must come, comes within
	never = 150 * time.Millisecond // what must not come, has not come by then
	poll  = 10 * time.Millisecond
)

// natsStream is one stream of a server that other tests may share.
type natsStream struct {
	jetstream.Stream
	url  string
	name string
	js   jetstream.JetStream
}

// newStream makes the stream that a namespace would have: subjects
// <namespace>.<topic>.<partition>.
func newStream(t *testing.T, url string, change ...func(*jetstream.StreamConfig)) *natsStream {
	t.Helper()
	name := strings.NewReplacer("/", "-", " ", "-").Replace(t.Name())
	cfg := jetstream.StreamConfig{Name: name, Subjects: []string{name + ".>"}, AllowDirect: true}
	for _, c := range change {
		c(&cfg)
	}
	js := natsClient(t, url)
	s, err := js.CreateStream(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		if err := js.DeleteStream(ctx, name); err != nil {
			t.Logf("the stream stays behind: %v", err)
		}
	})
	return &natsStream{Stream: s, url: url, name: name, js: js}
}

func natsClient(t *testing.T, url string) jetstream.JetStream {
	t.Helper()
	conn, err := natsgo.Connect(url, natsgo.MaxReconnects(-1), natsgo.ReconnectWait(poll), natsgo.ReconnectJitter(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func (s *natsStream) subject(partition int) string {
	return fmt.Sprintf("%s.orders.%d", s.name, partition)
}

// publish publishes messages to a partition, each with its text as the payload.
func (s *natsStream) publish(t *testing.T, partition int, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if _, err := s.js.Publish(t.Context(), s.subject(partition), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
}

// group makes the durable pull consumer of a group for partition 0.
func (s *natsStream) group(t *testing.T, name string, change func(*jetstream.ConsumerConfig)) jetstream.Consumer {
	t.Helper()
	cfg := jetstream.ConsumerConfig{
		Durable: name, FilterSubject: s.subject(0), AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Minute,
	}
	if change != nil {
		change(&cfg)
	}
	c, err := s.CreateConsumer(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// member is one more program, with a connection of its own, in a group.
func (s *natsStream) member(t *testing.T, group string) (jetstream.Consumer, *natsgo.Conn) {
	t.Helper()
	js := natsClient(t, s.url)
	c, err := js.Consumer(t.Context(), s.name, group)
	if err != nil {
		t.Fatal(err)
	}
	return c, js.Conn()
}

// take pulls n messages and fails if they do not come.
func take(t *testing.T, c jetstream.Consumer, n int, opts ...jetstream.FetchOpt) []jetstream.Msg {
	t.Helper()
	got := pull(t, c, n, soon, opts...)
	if len(got) != n {
		t.Fatalf("%d messages came, want %d: %v", len(got), n, told(got))
	}
	return got
}

// nothing fails if a pull brings a message.
func nothing(t *testing.T, c jetstream.Consumer, opts ...jetstream.FetchOpt) {
	t.Helper()
	if got := pull(t, c, 1, never, opts...); len(got) != 0 {
		t.Fatalf("%v came, want nothing", told(got))
	}
}

func pull(t *testing.T, c jetstream.Consumer, n int, wait time.Duration, opts ...jetstream.FetchOpt) (got []jetstream.Msg) {
	t.Helper()
	batch, err := c.Fetch(n, append(opts, jetstream.FetchMaxWait(wait))...)
	if err != nil {
		t.Fatal(err)
	}
	for m := range batch.Messages() {
		got = append(got, m)
	}
	if err := batch.Error(); err != nil {
		t.Fatal(err)
	}
	return got
}

// told says of each message its text and which delivery it is: "m1#2".
func told(msgs []jetstream.Msg) (all []string) {
	for _, m := range msgs {
		meta, err := m.Metadata()
		if err != nil {
			all = append(all, err.Error())
			continue
		}
		all = append(all, fmt.Sprintf("%s#%d", m.Data(), meta.NumDelivered))
	}
	return all
}

// wantTold fails unless these messages are these deliveries, in this order.
func wantTold(t *testing.T, got []jetstream.Msg, want ...string) {
	t.Helper()
	if !slices.Equal(told(got), want) {
		t.Fatalf("got %v, want %v", told(got), want)
	}
}

// settle acknowledges and waits until the server has confirmed it.
func settle(t *testing.T, msgs ...jetstream.Msg) {
	t.Helper()
	for _, m := range msgs {
		if err := m.DoubleAck(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// giveBack gives a message back, after a delay if there is one, and waits until
// the server has done it: it takes settlements and pulls from two queues, so a
// pull may overtake what was sent before it.
func giveBack(t *testing.T, conn *natsgo.Conn, m jetstream.Msg, delay time.Duration) {
	t.Helper()
	body := "-NAK"
	if delay > 0 {
		body = fmt.Sprintf("-NAK {\"delay\": %d}", delay.Nanoseconds())
	}
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	if _, err := conn.RequestWithContext(ctx, m.Reply(), []byte(body)); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func natsInfo(t *testing.T, c jetstream.Consumer) *jetstream.ConsumerInfo {
	t.Helper()
	info, err := c.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// eventually polls until what it is waited for holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(soon); !holds(); time.Sleep(poll) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", soon, what)
		}
	}
}

func texts(n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprintf("m%d", i+1))
	}
	return all
}

// Every waiting pull of a shared durable gets a message in turn, so two members
// have neighbours of one partition in hand at once.
func TestNATSMembersShareAPartition(t *testing.T) {
	t.Parallel()
	s := newStream(t, servers.NATS(t).URL)
	group := s.group(t, "g", nil)
	members := make([]jetstream.MessageBatch, 2)
	for i := range members {
		c, _ := s.member(t, "g")
		var err error
		members[i], err = c.Fetch(5, jetstream.FetchMaxWait(soon))
		must(t, err)
		eventually(t, "the pull waits", func() bool { return natsInfo(t, group).NumWaiting == i+1 })
	}
	s.publish(t, 1, "of another partition")
	s.publish(t, 0, texts(10)...)

	for i, want := range [][]string{
		{"m1#1", "m3#1", "m5#1", "m7#1", "m9#1"},
		{"m2#1", "m4#1", "m6#1", "m8#1", "m10#1"},
	} {
		var got []jetstream.Msg
		for m := range members[i].Messages() {
			got = append(got, m)
		}
		wantTold(t, got, want...)
		settle(t, got[1:]...)
	}
	info := natsInfo(t, group)
	if info.NumAckPending != 2 || info.AckFloor.Stream != 0 || info.Delivered.Stream != 11 {
		t.Errorf("the ack floor is at %d, delivered to %d, %d pending; want 0, 11, 2: the floor stays below the oldest unsettled",
			info.AckFloor.Stream, info.Delivered.Stream, info.NumAckPending)
	}
}

// With MaxAckPending 1 a partition has one message in hand, whichever member
// has it: the order is kept, one message per round trip, and a message in
// backoff holds every key of its partition.
func TestNATSOneAckPendingKeepsOrder(t *testing.T) {
	t.Parallel()
	s := newStream(t, servers.NATS(t).URL)
	s.group(t, "g", func(c *jetstream.ConsumerConfig) { c.MaxAckPending = 1 })
	s.publish(t, 0, texts(3)...)
	a, _ := s.member(t, "g")
	b, _ := s.member(t, "g")

	first := take(t, a, 1)
	wantTold(t, first, "m1#1")
	nothing(t, b)
	settle(t, first...)
	second := take(t, b, 1)
	wantTold(t, second, "m2#1")

	began := time.Now()
	giveBack(t, s.js.Conn(), second[0], 400*time.Millisecond)
	nothing(t, a)
	again := take(t, a, 1)
	wantTold(t, again, "m2#2")
	if waited := time.Since(began); waited < 390*time.Millisecond {
		t.Errorf("the delayed one came again after %v, want at least 400ms", waited)
	}
	settle(t, again...)
	wantTold(t, take(t, b, 1), "m3#1")
}

// With MaxAckPending over 1 the messages behind one in backoff go past it, also
// those of its subject: no setting of the server holds a key and no other.
func TestNATSBackoffHoldsNothing(t *testing.T) {
	t.Parallel()
	s := newStream(t, servers.NATS(t).URL)
	c := s.group(t, "g", func(c *jetstream.ConsumerConfig) { c.MaxAckPending = 10 })
	s.publish(t, 0, texts(4)...)

	first := take(t, c, 1)
	giveBack(t, s.js.Conn(), first[0], time.Second)
	wantTold(t, take(t, c, 2), "m2#1", "m3#1")
	wantTold(t, pull(t, c, 2, soon), "m4#1", "m1#2")
}

// What is given back at once comes again before what was never delivered, but
// after what other pulls hold already.
func TestNATSNakComesBeforeNewer(t *testing.T) {
	t.Parallel()
	s := newStream(t, servers.NATS(t).URL)
	c := s.group(t, "g", nil)
	s.publish(t, 0, texts(4)...)

	got := take(t, c, 2)
	giveBack(t, s.js.Conn(), got[1], 0)
	giveBack(t, s.js.Conn(), got[0], 0)
	// In the order in which they were given back, not in the order of the log.
	wantTold(t, take(t, c, 3), "m2#2", "m1#2", "m3#1")
}

// A message that a member keeps in hand and says so about stays its own beyond
// AckWait, without another attempt: what lets a driver hold the next message of
// a key itself.
func TestNATSProgressKeepsAMessage(t *testing.T) {
	t.Parallel()
	const ackWait = time.Second
	s := newStream(t, servers.NATS(t).URL)
	c := s.group(t, "g", func(c *jetstream.ConsumerConfig) { c.AckWait = ackWait })
	s.publish(t, 0, "m1", "m2")
	got := take(t, c, 2)

	for began := time.Now(); time.Since(began) < 2*ackWait; {
		must(t, got[1].InProgress())
		settled := pull(t, c, 1, 50*time.Millisecond)
		for _, m := range settled {
			if string(m.Data()) != "m1" {
				t.Fatalf("%v came, which was in progress", told(settled))
			}
			settle(t, m)
		}
	}
	if info := natsInfo(t, c); info.NumAckPending != 1 || info.NumRedelivered != 0 {
		t.Errorf("%d pending, %d redelivered; want the one in progress, never redelivered", info.NumAckPending, info.NumRedelivered)
	}
	wantTold(t, pull(t, c, 1, soon), "m2#2") // nobody says so any more
}

// The server takes settlements and pulls from two queues: a pull may pass what
// the same connection has given back before it.
func TestNATSPullPassesANak(t *testing.T) {
	t.Parallel()
	s := newStream(t, servers.NATS(t).URL)
	c := s.group(t, "g", nil)
	for round := range 500 {
		s.publish(t, 0, "first", "second")
		first := take(t, c, 1)
		must(t, first[0].Nak())
		next := take(t, c, 2)
		settle(t, next...)
		if string(next[0].Data()) == "second" {
			t.Logf("the pull passed in round %d", round+1)
			return
		}
	}
	t.Error("no pull passed what was given back before it; the server has got better")
}
