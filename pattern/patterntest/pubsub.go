package patterntest

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/prismgw/prism/api/codec"
	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	pubsubv1 "github.com/prismgw/prism/api/prism/pubsub/v1"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
	"github.com/prismgw/prism/pattern/pubsub"
)

// pubsubChecks are the tests of the PubSub pattern.
func pubsubChecks() []check {
	on := func(name, settings string, test func(*testing.T, *bus)) check {
		return check{"pubsub/" + name, needsPubSub, func(t *testing.T, s *suite) { test(t, s.bus(t, name, settings)) }}
	}
	const native = `{"layout": "native"}`
	return []check{
		on("envelope", "", testEnvelope),
		on("identity", "", testIdentity),
		on("refused", "", testRefused),
		on("sizes", "", testSizes),
		on("subjects", "", testSubjects),
		on("filters", "", testFilters),
		on("order", "", testOrder),
		on("groups", "", testGroups),
		on("nothing-is-kept", "", testNothingIsKept),
		on("other-namespaces", "", testOtherNamespaces),
		on("unreadable", "", testUnreadable),
		on("slow-subscriber", "", testSlowSubscriber),
		on("native", native, testNative),
		on("native-refused", native, testNativeRefused),
	}
}

func needsPubSub(s *suite) string {
	if !s.pubsub {
		return "the technology tells nobody anything"
	}
	return ""
}

// patience is how long a test waits for what has to come.
const patience = 20 * time.Second

// bus is the pattern of one namespace, behind gRPC: what is told goes through
// its frames.
type bus struct {
	pubsubv1.PubSubClient
	s       *suite
	place   driver.Space
	backend driver.Backend
	counted []uint64 // as Kind.Counts
}

// caller is whom every call is of.
const caller = "service:prod/checkout"

// bus returns the pattern of a new namespace.
func (s *suite) bus(t *testing.T, name, settings string) *bus {
	t.Helper()
	return s.busAt(t, driver.Space{Namespace: s.place(t, name).Namespace, Pattern: "events"}, settings)
}

func (s *suite) busAt(t *testing.T, place driver.Space, settings string) *bus {
	t.Helper()
	return s.signedBus(t, place, settings, nil)
}

// signedBus is one whose namespace signs with these keys; nil: it does not.
func (s *suite) signedBus(t *testing.T, place driver.Space, settings string, keys pattern.Keys) *bus {
	t.Helper()
	kind := pubsub.Kind()
	b := &bus{s: s, place: place, counted: make([]uint64, len(kind.Counts))}
	var err error
	if b.backend, err = s.conn.Space(place); err != nil {
		t.Fatal(err)
	}
	config := pattern.Config{
		Namespace: place.Namespace, Name: place.Pattern, Keys: keys,
		Slots: map[string]pattern.Filled{"messages-pubsub": {Backend: b.backend, ID: "one"}},
		Count: func(i int, n uint64) {
			s.mu.Lock()
			defer s.mu.Unlock()
			b.counted[i] += n
		},
	}
	if settings != "" {
		config.Settings = []byte(settings)
	}
	instance, err := kind.Open(config)
	if err != nil {
		t.Fatal(err)
	}
	b.PubSubClient = pubsubv1.NewPubSubClient(serve(t, served{kind.Service, instance}))
	return b
}

// served is the instance of a pattern with its wire contract.
type served struct {
	service  *grpc.ServiceDesc
	instance pattern.Instance
}

// serve serves instances of patterns as the proxy does.
func serve(t *testing.T, all ...served) *grpc.ClientConn {
	t.Helper()
	known := func(ctx context.Context) context.Context {
		return context.WithValue(ctx, pattern.CallKey{}, &pattern.Call{Subject: caller})
	}
	server := grpc.NewServer(
		grpc.ForceServerCodecV2(codec.V2{}),
		grpc.UnaryInterceptor(func(ctx context.Context, r any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			answer, err := next(known(ctx), r)
			return answer, toldOf(err)
		}),
		grpc.StreamInterceptor(func(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			return toldOf(next(server, stream))
		}),
	)
	for _, one := range all {
		server.RegisterService(one.service, one.instance)
	}
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(l)
	}()
	// Fixed windows: what a client leaves unread is bounded.
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithInitialWindowSize(64<<10), grpc.WithInitialConnWindowSize(64<<10))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		<-served
	})
	return conn
}

// toldOf is what a client is told of an outcome.
func toldOf(err error) error {
	if err == nil {
		return nil
	}
	return errs.From(err).Status("request").Err()
}

// publish publishes a text and returns its id.
func (b *bus) publish(t *testing.T, subject, text string) string {
	t.Helper()
	r, err := b.Publish(t.Context(), &pubsubv1.PublishRequest{Subject: subject, Envelope: &envelopev1.PrismEnvelope{Payload: []byte(text)}})
	if err != nil {
		t.Fatalf("publish under %s: %v", subject, err)
	}
	return r.GetMessageId()
}

// refuses publishes and expects an error at exactly these fields.
func (b *bus) refuses(t *testing.T, subject string, e *envelopev1.PrismEnvelope, fields ...string) {
	t.Helper()
	_, err := b.Publish(t.Context(), &pubsubv1.PublishRequest{Subject: subject, Envelope: e})
	var paths []string
	told := errs.FromStatus(err)
	if told != nil {
		for _, f := range told.Fields {
			paths = append(paths, f.Path)
		}
	}
	if told == nil || told.Reason != errs.InvalidField || strings.Join(paths, " ") != strings.Join(fields, " ") {
		t.Errorf("publish of %.80v under %.40q: %v at %q, want INVALID_FIELD at %q", e, subject, err, paths, fields)
	}
}

// An ear is a subscription with what it has heard and not yet been asked for.
type ear struct {
	stream grpc.ServerStreamingClient[pubsubv1.SubscribeResponse]
	leave  context.CancelFunc
	heard  []*envelopev1.PrismEnvelope // nil: something was missed here
	missed uint64
	vague  bool // somewhere nobody knows how many
}

func (b *bus) listen(t *testing.T, filter, group string) *ear {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	stream, err := b.Subscribe(ctx, &pubsubv1.SubscribeRequest{Filter: filter, Group: group})
	if err != nil {
		t.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil || first.GetSubscribed() == nil {
		t.Fatalf("subscribe to %s: %v, %v", filter, first, err)
	}
	return &ear{stream: stream, leave: cancel}
}

// next returns the next message, nil where some were missed.
func (e *ear) next(t *testing.T) *envelopev1.PrismEnvelope {
	t.Helper()
	for len(e.heard) == 0 {
		e.receive(t)
	}
	m := e.heard[0]
	e.heard = e.heard[1:]
	return m
}

func (e *ear) receive(t *testing.T) {
	t.Helper()
	defer time.AfterFunc(patience, e.leave).Stop()
	r, err := e.stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if m := r.GetMissed(); m != nil {
		e.heard = append(e.heard, nil)
		e.missed += m.GetCount()
		e.vague = e.vague || m.Count == nil //nolint:protogetter // whether it is there matters
	}
	e.heard = append(e.heard, r.GetMessages()...)
}

// hears waits for exactly these payloads, "" for missed ones.
func (e *ear) hears(t *testing.T, want ...string) {
	t.Helper()
	for i, text := range want {
		if got := string(e.next(t).GetPayload()); got != text {
			t.Fatalf("heard %.40q as number %d, want %.40q", got, i+1, text)
		}
	}
}

func testEnvelope(t *testing.T, b *bus) {
	e := b.listen(t, "orders.>", "")
	began := time.Now().UnixMilli()
	id := b.publish(t, "orders.eu.placed", "first")
	m := e.next(t).GetMetadata()
	if m.GetMessageId() != id || id == "" || m.GetNamespace() != b.place.Namespace || m.GetTopic() != "orders.eu.placed" || m.GetPublishedAtMs() < began {
		t.Errorf("%v, want it complete, with id %s", m, id)
	}
	full := envelope.New(b.place.Namespace, "orders.eu.placed", []byte{0, 0xff},
		envelope.WithPriority(7), envelope.WithCorrelationID("flow"), envelope.WithPartitionKey([]byte("k")), envelope.WithTTL(time.Minute),
		envelope.WithCustomContentType("application/cbor"), envelope.WithPII(true), envelope.WithLabel("tier", "gold"), envelope.WithExtension("x-shop", []byte{1}))
	r, err := b.Publish(t.Context(), &pubsubv1.PublishRequest{Subject: "orders.eu.placed", Envelope: full})
	if err != nil || r.GetMessageId() != full.GetMetadata().GetMessageId() {
		t.Fatalf("%v, %v", r, err)
	}
	full.Security.PublisherId = caller
	if got := e.next(t); got.String() != full.String() {
		t.Errorf("%v, want %v", got, full)
	}
}

// Who published is what was verified, whatever the message says, and nobody
// gets its token.
func testIdentity(t *testing.T, b *bus) {
	e := b.listen(t, "a", "")
	_, err := b.Publish(t.Context(), &pubsubv1.PublishRequest{Subject: "a", Envelope: &envelopev1.PrismEnvelope{
		Payload: []byte("x"),
		Security: &envelopev1.Security{
			PublisherId: "root", PublisherTeam: "board", UserId: "alice", TenantId: "other", Roles: []string{"admin"}, SessionId: "s",
			AuthToken: "hush", DataClassification: envelopev1.DataClassification_DATA_CLASSIFICATION_INTERNAL,
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := &envelopev1.Security{PublisherId: caller, DataClassification: envelopev1.DataClassification_DATA_CLASSIFICATION_INTERNAL}
	if got := e.next(t).GetSecurity(); got.String() != want.String() {
		t.Errorf("%v, want %v", got, want)
	}
}

func testRefused(t *testing.T, b *bus) {
	payload := []byte("x")
	meta := func(m *envelopev1.Metadata) *envelopev1.PrismEnvelope {
		return &envelopev1.PrismEnvelope{Metadata: m, Payload: payload}
	}
	b.refuses(t, "a", nil, "payload")
	b.refuses(t, "a", meta(&envelopev1.Metadata{Namespace: "another"}), "metadata.namespace")
	b.refuses(t, "a", meta(&envelopev1.Metadata{Topic: "b"}), "metadata.topic")
	b.refuses(t, "a", meta(&envelopev1.Metadata{MessageId: "7"}), "metadata.message_id")
	b.refuses(t, "a.*", meta(&envelopev1.Metadata{Topic: "b", Namespace: "another", Priority: 11}), "subject", "metadata.namespace", "metadata.topic", "metadata.priority")
	b.refuses(t, "a", &envelopev1.PrismEnvelope{Payload: payload, Security: &envelopev1.Security{Signature: []byte{1}}}, "security.signature")
	b.refuses(t, "a", &envelopev1.PrismEnvelope{Payload: payload, Extensions: map[string][]byte{"": nil}}, "extensions")
}

// What fits comes whole; what does not is refused as too large.
func testSizes(t *testing.T, b *bus) {
	e := b.listen(t, "a", "")
	most := min(envelope.MaxSize, b.backend.PubSub.Guarantees().MaxPayload) - 512 // for all but the payload
	large := strings.Repeat("p", most)
	b.publish(t, "a", large)
	e.hears(t, large)
	_, err := b.Publish(t.Context(), &pubsubv1.PublishRequest{Subject: "a", Envelope: &envelopev1.PrismEnvelope{Payload: make([]byte, most+513)}})
	if told := errs.FromStatus(err); told == nil || told.Reason != errs.PayloadTooLarge {
		t.Errorf("too large: %v", err)
	}
}

// hostile are subjects that are none.
var hostile = []string{
	"", ".", "..", "a.", ".a", "a..b", "a b", "a\nb", "a\x00b", "é", "$SYS.a", "a/b", "_INBOX.a", "-a",
	strings.Repeat("a", driver.MaxSubject+1), strings.Repeat("a.", 150),
}

func testSubjects(t *testing.T, b *bus) {
	e := b.listen(t, ">", "")
	for _, subject := range append(hostile, "*", ">", "a.*", "a.>", "*.a", "a*") {
		b.refuses(t, subject, &envelopev1.PrismEnvelope{Payload: []byte("x")}, "subject")
	}
	for _, subject := range []string{"a", "0", "A.b-c.d_e.9", strings.Repeat("a", driver.MaxSubject), "a." + strings.Repeat("b", 120)} {
		b.publish(t, subject, "under "+subject)
		e.hears(t, "under "+subject) // and none of those that were refused
	}
}

func testFilters(t *testing.T, b *bus) {
	ears := map[string]*ear{"a.b": b.listen(t, "a.b", ""), "a.*": b.listen(t, "a.*", ""), "*.b.>": b.listen(t, "*.b.>", ""), ">": b.listen(t, ">", "")}
	subjects := []string{"a.b", "a.c", "a.b.c", "x.b.y.z", "b", "a"}
	for _, subject := range subjects {
		b.publish(t, subject, subject)
	}
	b.publish(t, "a.b", "last")
	b.publish(t, "x.b.y", "last")
	for filter, e := range ears {
		var want []string
		for _, subject := range subjects {
			if driver.Matches(filter, subject) {
				want = append(want, subject)
			}
		}
		e.hears(t, append(want, "last")...)
	}
	for _, filter := range append(hostile, "a.>.b", "a*", "a.b*", ">.a", "**") {
		stream, err := b.Subscribe(t.Context(), &pubsubv1.SubscribeRequest{Filter: filter, Group: "a.b"})
		if err == nil {
			_, err = stream.Recv()
		}
		if told := errs.FromStatus(err); told == nil || told.Reason != errs.InvalidField || len(told.Fields) != 2 {
			t.Errorf("filter %q and a wrong group: %v", filter, err)
		}
	}
}

func testOrder(t *testing.T, b *bus) {
	e := b.listen(t, "a", "")
	want := make([]string, 500)
	for i := range want {
		want[i] = fmt.Sprint(i)
		b.publish(t, "a", want[i])
	}
	e.hears(t, want...)
}

// Each message comes to one member of a group, and to everybody beside it.
func testGroups(t *testing.T, b *bus) {
	if !b.backend.PubSub.Guarantees().Groups {
		stream, err := b.Subscribe(t.Context(), &pubsubv1.SubscribeRequest{Filter: "a", Group: "g"})
		if err == nil {
			_, err = stream.Recv()
		}
		if told := errs.FromStatus(err); told == nil || told.Reason != errs.Unsupported {
			t.Errorf("where messages cannot be shared, a group is answered %v, want UNSUPPORTED", err)
		}
		return
	}
	all, one, other := b.listen(t, "a", ""), b.listen(t, "a", "g"), b.listen(t, "a", "g")
	const many = 200
	for i := range many {
		b.publish(t, "a", fmt.Sprint(i))
	}
	for i := range many {
		all.hears(t, fmt.Sprint(i))
	}
	seen := map[string]int{}
	share := make(chan string, many)
	for _, e := range []*ear{one, other} {
		go func() {
			for {
				r, err := e.stream.Recv()
				if err != nil {
					return
				}
				for _, m := range r.GetMessages() {
					share <- string(m.GetPayload())
				}
			}
		}()
	}
	for range many {
		select {
		case text := <-share:
			seen[text]++
		case <-time.After(patience):
			t.Fatalf("the group has heard %d of %d", len(seen), many)
		}
	}
	if len(seen) != many {
		t.Errorf("the group has heard %d messages of %d, some twice", len(seen), many)
	}
}

func testNothingIsKept(t *testing.T, b *bus) {
	b.publish(t, "a", "nobody listens")
	e := b.listen(t, "a", "")
	b.publish(t, "a", "somebody listens")
	e.hears(t, "somebody listens")
}

func testOtherNamespaces(t *testing.T, b *bus) {
	namespace := b.s.busAt(t, driver.Space{Namespace: b.place.Namespace + "x", Pattern: "events"}, "")
	other := b.s.busAt(t, driver.Space{Namespace: b.place.Namespace, Pattern: "others"}, "")
	e := b.listen(t, ">", "")
	namespace.publish(t, "a", "of another namespace")
	other.publish(t, "a", "of another pattern")
	b.publish(t, "a", "own")
	e.hears(t, "own")
}

// What is no envelope of this namespace and subject is not delivered, and told.
func testUnreadable(t *testing.T, b *bus) {
	e := b.listen(t, "a", "")
	raw := func(e *envelopev1.PrismEnvelope) []byte {
		wire, err := envelope.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		return wire
	}
	bad := [][]byte{
		[]byte("no envelope"),
		{},
		{0x0a},
		raw(envelope.New("another", "a", []byte("x"))), raw(envelope.New(b.place.Namespace, "b", []byte("x"))),
	}
	messages := []driver.Message{{Subject: "a", Payload: raw(envelope.New(b.place.Namespace, "a", []byte("first")))}}
	for _, payload := range bad {
		messages = append(messages, driver.Message{Subject: "a", Payload: payload})
	}
	messages = append(messages, driver.Message{Subject: "a", Payload: raw(envelope.New(b.place.Namespace, "a", []byte("last")))})
	results := make([]error, len(messages))
	b.backend.PubSub.Publish(t.Context(), messages, results)
	for _, err := range results {
		if err != nil {
			t.Fatal(err)
		}
	}
	e.hears(t, "first")
	for m := e.next(t); m != nil || e.missed != uint64(len(bad)); m = e.next(t) {
		if m != nil {
			t.Fatalf("%v, missed %d", m, e.missed)
		}
	}
	e.hears(t, "last")
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	if got := fmt.Sprint(b.counted); got != fmt.Sprintf("[0 0 %d 0]", len(bad)) {
		t.Errorf("counted %s", got)
	}
}

// A subscriber that does not read misses what is over its buffer, knows how
// much, and holds up nobody.
func testSlowSubscriber(t *testing.T, b *bus) {
	slow, fast := b.listen(t, "a", ""), b.listen(t, "a", "")
	const many, size = 1500, 8 << 10
	for i := range many {
		text := fmt.Sprintf("%d %s", i, strings.Repeat("x", size))
		b.publish(t, "a", text)
		fast.hears(t, text)
	}
	heard := 0
	for uint64(heard)+slow.missed < many {
		if slow.next(t) != nil {
			heard++
		}
	}
	if uint64(heard)+slow.missed > many {
		t.Fatalf("heard %d and missed %d of %d", heard, slow.missed, many)
	}
	// 1 MiB waits, as much is on its way, and the transport has its windows.
	const most = (2<<20 + 512<<10) / size
	if heard > most || heard < (1<<20)/(size+1024) || slow.vague {
		t.Errorf("heard %d of %d, want up to %d; vague %v", heard, many, most, slow.vague)
	}
	t.Logf("heard %d of %d messages of 8 KiB that were not read", heard, many)
	if fast.missed > 0 || fast.vague {
		t.Errorf("a fast subscriber missed %d", fast.missed)
	}
}

// In the layout native, payloads travel alone.
func testNative(t *testing.T, b *bus) {
	e := b.listen(t, "a.*", "")
	foreign, err := b.backend.PubSub.Subscribe(t.Context(), driver.SubscribeRequest{Filter: "a.b"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = foreign.Close() })
	for _, payload := range []string{"text", "\x00\xff", ""} {
		if id := b.publish(t, "a.b", payload); id != "" {
			t.Errorf("an id that nobody gets: %q", id)
		}
		got := e.next(t)
		want := &envelopev1.PrismEnvelope{Metadata: &envelopev1.Metadata{Namespace: b.place.Namespace, Topic: "a.b"}, Payload: []byte(payload)}
		if got.String() != want.String() {
			t.Errorf("%v, want %v", got, want)
		}
		events := make([]driver.Event, 1)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		if _, err := foreign.Next(ctx, events); err != nil || string(events[0].Payload) != payload {
			t.Errorf("another program reads %q, %v, want %q", events[0].Payload, err, payload)
		}
		cancel()
	}
	results := make([]error, 2)
	b.backend.PubSub.Publish(t.Context(), []driver.Message{{Subject: "_odd", Payload: []byte("x")}, {Subject: "a.c", Payload: []byte("of another program")}}, results)
	e.hears(t, "of another program")
}

// What cannot travel is refused by its name.
func testNativeRefused(t *testing.T, b *bus) {
	own := &envelopev1.Metadata{Namespace: b.place.Namespace, Topic: "a"}
	b.refuses(t, "a", &envelopev1.PrismEnvelope{
		Payload:       []byte("x"),
		Metadata:      &envelopev1.Metadata{Namespace: b.place.Namespace, Topic: "a", Priority: 3, ContentType: envelopev1.ContentType_CONTENT_TYPE_TEXT},
		Security:      &envelopev1.Security{UserId: "alice", Encryption: &envelopev1.Encryption{KeyId: "k"}},
		Observability: &envelopev1.Observability{Labels: map[string]string{"a": "b"}},
		Extensions:    map[string][]byte{"x-a": nil},
	}, "extensions", "metadata.content_type", "metadata.priority", "observability.labels", "security.encryption.key_id", "security.user_id")
	b.refuses(t, "a.*", &envelopev1.PrismEnvelope{Metadata: &envelopev1.Metadata{Topic: "b"}}, "subject", "metadata.topic")
	if _, err := b.Publish(t.Context(), &pubsubv1.PublishRequest{Subject: "a", Envelope: &envelopev1.PrismEnvelope{
		Metadata: own, Security: &envelopev1.Security{AuthToken: "hush"},
	}}); err != nil {
		t.Errorf("what says nothing more, and a token for the proxy: %v", err)
	}
}
