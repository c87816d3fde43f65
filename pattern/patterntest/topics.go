package patterntest

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	consumerv1 "github.com/prismgw/prism/api/prism/consumer/v1"
	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	producerv1 "github.com/prismgw/prism/api/prism/producer/v1"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
	"github.com/prismgw/prism/pattern/consumer"
	"github.com/prismgw/prism/pattern/producer"
)

// topicChecks are the tests of the patterns Producer and Consumer.
func topicChecks() []check {
	const plain = `{"topics": [{"name": "orders", "partitions": 4}, {"name": "*", "partitions": 1}]}`
	const native = `{"topics": [{"name": "orders", "partitions": 2, "layout": "native"}]}`
	const short = `{"topics": [{"name": "orders", "partitions": 1}],
		"consumers": [{"name": "*", "ack_wait": "1s", "max_deliveries": 3, "backoff": "10ms", "max_backoff": "20ms"}]}`
	on := func(name, settings string, test func(*testing.T, *shop)) check {
		return check{"topics/" + name, needsLog, func(t *testing.T, s *suite) { test(t, s.shop(t, settings)) }}
	}
	return []check{
		on("publish-and-receive", plain, testPublishAndReceive),
		on("publisher", plain, testPublisher),
		on("refused", `{"topics": [{"name": "orders"}], "consumers": [{"name": "billing"}]}`, testTopicsRefused),
		on("batch", plain, testPublishBatch),
		on("duplicates", plain, testDuplicates),
		on("groups", plain, testGroupsAreIndependent),
		on("order", plain, testOrderOfKeys),
		on("settle-once", plain, testSettleOnce),
		on("unanswered", short, testUnanswered),
		on("dead-letters", short, testDeadLetters),
		on("unreadable", short, testUnreadableRecords),
		on("native", native, testNativeTopic),
		on("browse", plain, testBrowse),
		on("follow", plain, testFollow),
		on("seek", plain, testSeek),
		on("subscribe", plain, testSubscribe),
		on("subscribe-returns", plain, testSubscribeReturns),
		on("stop", plain, testStop),
	}
}

func needsLog(s *suite) string {
	if !s.log {
		return "the technology keeps no topics"
	}
	return ""
}

// shop is a producer and a consumer of one namespace, behind gRPC.
type shop struct {
	*testing.T
	producerv1.ProducerClient
	consumerv1.ConsumerClient

	s         *suite
	namespace string
	log       driver.Log
	settings  string
	stop      func() // stops the consumer as the proxy does
}

func (s *suite) shop(t *testing.T, settings string) *shop {
	t.Helper()
	return s.shopAt(t, s.place(t, "topics").Namespace, settings)
}

// shopAt is another process that serves the same namespace.
func (s *suite) shopAt(t *testing.T, namespace, settings string) *shop {
	t.Helper()
	return s.signedShop(t, namespace, settings, nil)
}

// signedShop is one whose namespace signs with these keys; nil: it does not.
func (s *suite) signedShop(t *testing.T, namespace, settings string, keys pattern.Keys) *shop {
	t.Helper()
	b, err := s.conn.Space(driver.Space{Namespace: namespace, Pattern: "topics"})
	if err != nil {
		t.Fatal(err)
	}
	var all []served
	var stop func()
	for _, kind := range []pattern.Kind{producer.Kind(), consumer.Kind()} {
		set := settings
		if kind.Name == "producer" {
			set = ofProducer(t, settings)
		}
		instance, err := kind.Open(pattern.Config{
			Namespace: namespace, Name: kind.Name, Settings: []byte(set), Keys: keys,
			Slots: map[string]pattern.Filled{"messages-log": {Backend: b, ID: "one"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if c, ok := instance.(pattern.Closer); ok {
			stop = func() {
				ctx, cancel := context.WithCancel(context.Background())
				cancel()
				c.Close(ctx)
			}
			t.Cleanup(stop)
		}
		all = append(all, served{kind.Service, instance})
	}
	conn := serve(t, all...)
	return &shop{
		T: t, ProducerClient: producerv1.NewProducerClient(conn), ConsumerClient: consumerv1.NewConsumerClient(conn),
		s: s, namespace: namespace, log: b.Log, settings: settings, stop: stop,
	}
}

// ofProducer leaves out what belongs to a consumer.
func ofProducer(t *testing.T, settings string) string {
	t.Helper()
	var set struct {
		Topics []map[string]any `json:"topics"`
	}
	if err := json.Unmarshal([]byte(settings), &set); err != nil {
		t.Fatal(err)
	}
	for _, topic := range set.Topics {
		delete(topic, "unsigned")
	}
	out, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func message(key, text string) *envelopev1.PrismEnvelope {
	e := &envelopev1.PrismEnvelope{Payload: []byte(text)}
	if key != "" {
		e.Metadata = &envelopev1.Metadata{PartitionKey: []byte(key)}
	}
	return e
}

// publish publishes texts under a key, one after the other.
func (s *shop) publish(key string, texts ...string) (all []*producerv1.PublishResponse) {
	s.Helper()
	for _, text := range texts {
		r, err := s.Publish(s.Context(), &producerv1.PublishRequest{Topic: "orders", Envelope: message(key, text)})
		if err != nil {
			s.Fatalf("publish %s: %v", text, err)
		}
		all = append(all, r)
	}
	return all
}

// receive takes messages until there are n.
func (s *shop) receive(group string, n int) (all []*consumerv1.Delivery) {
	s.Helper()
	return s.receiveFrom("orders", group, n)
}

func (s *shop) receiveFrom(topic, group string, n int) (all []*consumerv1.Delivery) {
	s.Helper()
	for start := time.Now(); len(all) < n; {
		r, err := s.Receive(s.Context(), &consumerv1.ReceiveRequest{Topic: topic, Group: group, MaxMessages: int32(n - len(all)), Wait: durationpb.New(5 * time.Second)})
		if err != nil {
			s.Fatalf("receive: %v", err)
		}
		all = append(all, r.GetDeliveries()...)
		if time.Since(start) > patience {
			s.Fatalf("%d of %d messages came: %v", len(all), n, texts(all))
		}
	}
	return all
}

// none expects that there is nothing to receive.
func (s *shop) none(group string) {
	s.Helper()
	r, err := s.Receive(s.Context(), &consumerv1.ReceiveRequest{Topic: "orders", Group: group, Wait: durationpb.New(300 * time.Millisecond)})
	if err != nil || len(r.GetDeliveries()) > 0 {
		s.Errorf("received %v, %v; want nothing", texts(r.GetDeliveries()), err)
	}
}

func texts(all []*consumerv1.Delivery) (out []string) {
	for _, d := range all {
		out = append(out, string(d.GetEnvelope().GetPayload()))
	}
	return out
}

func receipts(all []*consumerv1.Delivery) (out []string) {
	for _, d := range all {
		out = append(out, d.GetReceipt())
	}
	return out
}

// acknowledge returns the outcomes, Unknown for an OK.
func (s *shop) acknowledge(group string, receipts ...string) []errs.Reason {
	s.Helper()
	r, err := s.Acknowledge(s.Context(), &consumerv1.AcknowledgeRequest{Topic: "orders", Group: group, Receipts: receipts})
	if err != nil {
		s.Fatalf("acknowledge: %v", err)
	}
	return outcomes(r.GetResults())
}

func (s *shop) done(group string, all ...*consumerv1.Delivery) {
	s.Helper()
	for _, reason := range s.acknowledge(group, receipts(all)...) {
		if reason != errs.Unknown {
			s.Fatalf("acknowledge %v: %v", texts(all), reason)
		}
	}
}

func outcomes(results []*consumerv1.Settled) []errs.Reason {
	var out []errs.Reason
	for _, r := range results {
		reason := errs.Unknown
		if r.GetError() != nil {
			reason = reasonOf(r.GetError())
		}
		out = append(out, reason)
	}
	return out
}

func reasonOf(st *rpcstatus.Status) errs.Reason { return errs.FromStatus(status.ErrorProto(st)).Reason }

func (s *shop) same(what string, got, want []string) {
	s.Helper()
	if !slices.Equal(got, want) {
		s.Errorf("%s: %v, want %v", what, got, want)
	}
}

func testPublishAndReceive(t *testing.T, s *shop) {
	sent := &envelopev1.PrismEnvelope{
		Metadata:      &envelopev1.Metadata{ContentType: envelopev1.ContentType_CONTENT_TYPE_JSON, PartitionKey: []byte{0, 255}, CorrelationId: "c", TtlSeconds: 60},
		Observability: &envelopev1.Observability{Labels: map[string]string{"a": "b"}},
		Schema:        &envelopev1.Schema{Subject: "order"},
		Extensions:    map[string][]byte{"x-y": {1}},
		Payload:       []byte(`{"n":1}`),
	}
	before := time.Now()
	p, err := s.Publish(t.Context(), &producerv1.PublishRequest{Topic: "orders", Envelope: sent})
	if err != nil {
		t.Fatal(err)
	}
	d := s.receive("billing", 1)[0]
	m := d.GetEnvelope().GetMetadata()
	switch {
	case m.GetMessageId() != p.GetMessageId() || m.GetTopic() != "orders" || m.GetNamespace() != s.namespace:
		t.Errorf("metadata: %v", m)
	case string(m.GetPartitionKey()) != "\x00\xff" || m.GetCorrelationId() != "c" || m.GetTtlSeconds() != 60:
		t.Errorf("metadata: %v", m)
	case d.GetEnvelope().GetObservability().GetLabels()["a"] != "b" || d.GetEnvelope().GetSchema().GetSubject() != "order" || string(d.GetEnvelope().GetExtensions()["x-y"]) != "\x01":
		t.Errorf("the rest: %v", d.GetEnvelope())
	case string(d.GetEnvelope().GetPayload()) != `{"n":1}`:
		t.Errorf("payload: %s", d.GetEnvelope().GetPayload())
	case d.GetAttempt() != 1 || d.GetPlace().GetPartition() != p.GetPartition() || d.GetPlace().GetPosition() != p.GetPosition():
		t.Errorf("attempt %d, place %v, published at %v", d.GetAttempt(), d.GetPlace(), p)
	}
	for what, at := range map[string]time.Time{"first delivered": d.GetFirstDeliveredAt().AsTime(), "appended": d.GetPlace().GetAppendedAt().AsTime(), "published": time.UnixMilli(m.GetPublishedAtMs())} {
		if at.Before(before.Add(-time.Minute)) || at.After(time.Now().Add(time.Minute)) {
			t.Errorf("%s at %s", what, at)
		}
	}
	s.done("billing", d)
	s.none("billing")
}

// Who publishes is what the proxy knows, whatever the message says, and the token
// goes no further.
func testPublisher(t *testing.T, s *shop) {
	e := message("", "x")
	e.Security = &envelopev1.Security{PublisherId: "mallory", UserId: "root", TenantId: "all", Roles: []string{"admin"}, SessionId: "s", AuthToken: "secret", ContainsPii: true}
	if _, err := s.Publish(t.Context(), &producerv1.PublishRequest{Topic: "orders", Envelope: e}); err != nil {
		t.Fatal(err)
	}
	got := s.receive("billing", 1)[0].GetEnvelope().GetSecurity()
	if got.GetPublisherId() != caller || got.GetUserId()+got.GetTenantId()+got.GetSessionId()+got.GetAuthToken() != "" || len(got.GetRoles()) > 0 || !got.GetContainsPii() {
		t.Errorf("security: %v", got)
	}
}

func testTopicsRefused(t *testing.T, s *shop) {
	names := []string{"", ".", "..", "*", ">", "a b", "a/b", "a*", "orders.>", "é", "a\n", "-a", strings.Repeat("a", 300), "a\x00b"}
	for _, name := range names {
		_, err := s.Publish(t.Context(), &producerv1.PublishRequest{Topic: name, Envelope: message("", "x")})
		s.refused("publish to "+name, err, errs.InvalidField)
		_, err = s.Receive(t.Context(), &consumerv1.ReceiveRequest{Topic: name, Group: "billing"})
		s.refused("receive from "+name, err, errs.InvalidField)
		_, err = s.Receive(t.Context(), &consumerv1.ReceiveRequest{Topic: "orders", Group: name})
		s.refused("receive for "+name, err, errs.InvalidField)
	}
	_, err := s.Publish(t.Context(), &producerv1.PublishRequest{Topic: "carts", Envelope: message("", "x")})
	s.refused("a topic that is not listed", err, errs.TopicNotFound)
	_, err = s.Receive(t.Context(), &consumerv1.ReceiveRequest{Topic: "orders", Group: "shipping"})
	s.refused("a group that is not listed", err, errs.GroupNotFound)
	_, err = s.Receive(t.Context(), &consumerv1.ReceiveRequest{Topic: "orders", Group: "prism-dlq"})
	s.refused("the group of the dead letters, for others", err, errs.GroupNotFound)
	_, err = s.Receive(t.Context(), &consumerv1.ReceiveRequest{Topic: "orders.dlq", Group: "prism-dlq"})
	if err != nil {
		t.Errorf("the group that every namespace has: %v", err)
	}
	_, err = s.Publish(t.Context(), &producerv1.PublishRequest{Topic: "orders.dlq", Envelope: message("", "x")})
	s.refused("the dead letters", err, errs.InvalidField)
	for what, e := range map[string]*envelopev1.PrismEnvelope{
		"nothing":           nil,
		"no payload":        {},
		"another namespace": {Metadata: &envelopev1.Metadata{Namespace: "other"}, Payload: []byte("x")},
		"another topic":     {Metadata: &envelopev1.Metadata{Topic: "other"}, Payload: []byte("x")},
		"a bad id":          {Metadata: &envelopev1.Metadata{MessageId: "1"}, Payload: []byte("x")},
		"a key too long":    message(strings.Repeat("k", driver.MaxRecordKey+1), "x"),
	} {
		_, err := s.Publish(t.Context(), &producerv1.PublishRequest{Topic: "orders", Envelope: e})
		s.refused(what, err, errs.InvalidField)
	}
	_, err = s.Publish(t.Context(), &producerv1.PublishRequest{Topic: "orders", Envelope: message("", strings.Repeat("x", 1<<20))})
	s.refused("a payload too large", err, errs.PayloadTooLarge)
	s.none("billing")
}

func (s *shop) refused(what string, err error, want errs.Reason) {
	s.Helper()
	if got := errs.FromStatus(err); got == nil || got.Reason != want {
		s.Errorf("%.40q: %v, want %v", what, err, want)
	}
}

func testPublishBatch(t *testing.T, s *shop) {
	all := []*envelopev1.PrismEnvelope{message("k", "1"), {Metadata: &envelopev1.Metadata{MessageId: "1"}, Payload: []byte("x")}, message("k", "2"), message("k", "3")}
	r, err := s.PublishBatch(t.Context(), &producerv1.PublishBatchRequest{Topic: "orders", Envelopes: all})
	if err != nil || len(r.GetResults()) != len(all) {
		t.Fatalf("%v, %v", r, err)
	}
	last := int64(0)
	for i, one := range r.GetResults() {
		if bad := i == 1; bad != (one.GetError() != nil) {
			t.Errorf("message %d: %v", i, one)
		}
		if at := one.GetPublished().GetPosition(); one.GetError() == nil && at <= last {
			t.Errorf("message %d at %d, after %d", i, at, last)
		}
		last = max(last, one.GetPublished().GetPosition())
	}
	if r.GetResults()[1].GetError() != nil && reasonOf(r.GetResults()[1].GetError()) != errs.InvalidField {
		t.Errorf("the wrong one: %v", r.GetResults()[1].GetError())
	}
	for _, want := range []string{"1", "2", "3"} {
		d := s.receive("billing", 1)
		s.same("next", texts(d), []string{want})
		s.done("billing", d...)
	}
	_, err = s.PublishBatch(t.Context(), &producerv1.PublishBatchRequest{Topic: "orders"})
	s.refused("an empty batch", err, errs.InvalidField)
	_, err = s.PublishBatch(t.Context(), &producerv1.PublishBatchRequest{Topic: "orders", Envelopes: slices.Repeat([]*envelopev1.PrismEnvelope{message("", "x")}, 1001)})
	s.refused("a batch too long", err, errs.InvalidField)
}

// A message_id that comes again is not added again, where the backend can tell.
func testDuplicates(t *testing.T, s *shop) {
	first := s.publish("", "1")[0]
	again := message("", "2")
	again.Metadata = &envelopev1.Metadata{MessageId: first.GetMessageId()}
	second, err := s.Publish(t.Context(), &producerv1.PublishRequest{Topic: "orders", Envelope: again})
	if err != nil {
		t.Fatal(err)
	}
	if second.GetDuplicate() != s.log.Guarantees().Dedup {
		t.Errorf("duplicate %v, and the backend says %v", second.GetDuplicate(), s.log.Guarantees().Dedup)
	}
	want := 1
	if !s.log.Guarantees().Dedup {
		want = 2
	}
	s.done("billing", s.receive("billing", want)...)
	s.none("billing")
}

func testGroupsAreIndependent(t *testing.T, s *shop) {
	s.publish("k", "1", "2")
	for _, group := range []string{"billing", "Billing", "b.i-l_l"} {
		for _, want := range []string{"1", "2"} {
			d := s.receive(group, 1)
			s.same(group, texts(d), []string{want})
			s.done(group, d...)
		}
		s.none(group)
	}
}

// Several consumers share the keys: of each, the messages come in order, one
// after the other is settled; other keys go on meanwhile.
func testOrderOfKeys(t *testing.T, s *shop) {
	const keys, each = 5, 4
	for k := range keys {
		key := string(rune('a' + k))
		s.publish(key, key+"1", key+"2", key+"3", key+"4")
	}
	last := map[byte]string{}
	slow := s.receive("billing", 1)[0] // its key waits
	held := slow.GetEnvelope().GetPayload()[0]
	for range (keys - 1) * each {
		d := s.receive("billing", 1)[0]
		text := string(d.GetEnvelope().GetPayload())
		if text[0] == held {
			t.Fatalf("%s came before %s was settled", text, slow.GetEnvelope().GetPayload())
		}
		if text <= last[text[0]] {
			t.Errorf("%s came after %s", text, last[text[0]])
		}
		last[text[0]] = text
		s.done("billing", d)
	}
	s.none("billing")
	s.done("billing", slow)
	s.same("then", texts(s.receive("billing", 1)), []string{string(held) + "2"})
}

func testSettleOnce(t *testing.T, s *shop) {
	s.publish("k", "1", "2")
	d := s.receive("billing", 1)[0]
	good := d.GetReceipt()
	forged := []string{"", "x", good[:len(good)-2], good + "AA", strings.Repeat("A", len(good)), strings.Map(func(r rune) rune {
		if r == 'A' {
			return 'B'
		}
		return r
	}, good)}
	for i, reason := range s.acknowledge("billing", forged...) {
		if reason != errs.StaleReceipt {
			t.Errorf("forged receipt %q: %v", forged[i], reason)
		}
	}
	if got := s.acknowledge("other", good); got[0] != errs.StaleReceipt {
		t.Errorf("the receipt of another group: %v", got[0])
	}
	s.none("billing")
	for range 2 { // the second time is no error
		s.done("billing", d)
	}
	if got := s.acknowledge("billing", good, "x"); got[0] != errs.Unknown || got[1] != errs.StaleReceipt {
		t.Errorf("a third time, beside another: %v", got)
	}
	s.same("next", texts(s.receive("billing", 1)), []string{"2"})
	_, err := s.Acknowledge(t.Context(), &consumerv1.AcknowledgeRequest{Topic: "orders", Group: "billing"})
	s.refused("no receipt", err, errs.InvalidField)
}

func testUnanswered(t *testing.T, s *shop) {
	s.publish("k", "1")
	first := s.receive("billing", 1)[0]
	second := s.receive("billing", 1)[0]
	if second.GetAttempt() != 2 || second.GetReceipt() == first.GetReceipt() {
		t.Errorf("attempt %d, the same receipt: %v", second.GetAttempt(), second.GetReceipt() == first.GetReceipt())
	}
	if got := s.acknowledge("billing", first.GetReceipt()); got[0] != errs.StaleReceipt {
		t.Errorf("the first receipt: %v", got[0])
	}
	r, err := s.Extend(t.Context(), &consumerv1.ExtendRequest{Topic: "orders", Group: "billing", Receipts: []string{second.GetReceipt()}, By: durationpb.New(time.Minute)})
	if err != nil || outcomes(r.GetResults())[0] != errs.Unknown {
		t.Fatalf("extend: %v, %v", r, err)
	}
	r2, err := s.Receive(t.Context(), &consumerv1.ReceiveRequest{Topic: "orders", Group: "billing", Wait: durationpb.New(1500 * time.Millisecond)})
	if err != nil || len(r2.GetDeliveries()) > 0 {
		t.Errorf("it was extended and came again: %v, %v", r2, err)
	}
	s.done("billing", second)
	_, err = s.Extend(t.Context(), &consumerv1.ExtendRequest{Topic: "orders", Group: "billing", Receipts: []string{"x"}, By: durationpb.New(time.Millisecond)})
	s.refused("too short", err, errs.InvalidField)
}

func testDeadLetters(t *testing.T, s *shop) {
	published := s.publish("k", "1", "2", "3")
	reject := func(d *consumerv1.Delivery, how *consumerv1.Reject) {
		t.Helper()
		r, err := s.Reject(t.Context(), &consumerv1.RejectRequest{Topic: "orders", Group: "billing", Receipts: []string{d.GetReceipt()}, How: how})
		if err != nil || outcomes(r.GetResults())[0] != errs.Unknown {
			t.Fatalf("reject: %v, %v", r, err)
		}
	}
	for attempt := range int32(3) {
		d := s.receive("billing", 1)[0]
		if d.GetAttempt() != attempt+1 || string(d.GetEnvelope().GetPayload()) != "1" {
			t.Fatalf("%s, attempt %d", d.GetEnvelope().GetPayload(), d.GetAttempt())
		}
		reject(d, &consumerv1.Reject{Reason: "no stock\x01"})
	}
	reject(s.receive("billing", 1)[0], &consumerv1.Reject{DeadLetter: true, Reason: "never"})
	s.done("billing", s.receive("billing", 1)...)

	var dead []*consumerv1.Delivery
	for range 2 { // they have the same key
		d := s.receiveFrom("orders.dlq", "people", 1)[0]
		dead = append(dead, d)
		if _, err := s.Acknowledge(t.Context(), &consumerv1.AcknowledgeRequest{Topic: "orders.dlq", Group: "people", Receipts: []string{d.GetReceipt()}}); err != nil {
			t.Fatal(err)
		}
	}
	s.same("dead letters", texts(dead), []string{"1", "2"})
	for i, want := range []map[string]string{
		{"prism-dead-reason": "no stock?", "prism-dead-attempts": "3"}, {"prism-dead-reason": "never", "prism-dead-attempts": "1"},
	} {
		d := dead[i]
		want["prism-dead-topic"], want["prism-dead-group"] = "orders", "billing"
		for name, value := range want {
			if got := d.GetHeaders()[name]; got != value {
				t.Errorf("%s of %s: %q, want %q", name, d.GetEnvelope().GetPayload(), got, value)
			}
		}
		if d.GetEnvelope().GetMetadata().GetMessageId() != published[i].GetMessageId() || d.GetHeaders()["prism-dead-position"] == "" || d.GetHeaders()["prism-dead-at"] == "" {
			t.Errorf("%s: %v", d.GetEnvelope().GetPayload(), d.GetHeaders())
		}
	}
	_, err := s.Reject(t.Context(), &consumerv1.RejectRequest{Topic: "orders", Group: "billing", Receipts: []string{"x"}, How: &consumerv1.Reject{Reason: strings.Repeat("x", 513)}})
	s.refused("a reason too long", err, errs.InvalidField)
}

// spec is the topic as the patterns ask for it.
func (s *shop) spec(partitions int) driver.TopicSpec {
	spec := driver.TopicSpec{Name: "orders", Partitions: partitions}
	if s.log.Guarantees().Dedup {
		spec.Dedup = 10 * time.Minute
	}
	return spec
}

// What cannot be read goes to the dead letters at once, and holds up nobody.
func testUnreadableRecords(t *testing.T, s *shop) {
	topic, err := s.log.Topic(t.Context(), s.spec(1))
	if err != nil {
		t.Fatal(err)
	}
	result := make([]driver.AppendResult, 2)
	topic.Append(t.Context(), []driver.Record{{Key: []byte("k"), Value: []byte("\xff\xff")}, {Value: nil}}, result)
	if result[0].Err != nil {
		t.Fatal(result[0].Err)
	}
	s.publish("k", "1")
	s.same("readable", texts(s.receive("billing", 1)), []string{"1"})
	var headers map[string]string
	s.browse(&consumerv1.BrowseRequest{Topic: "orders.dlq", Limit: 1, Follow: true}, func(b *consumerv1.Browsed) {
		headers = b.GetHeaders()
		if b.GetUnreadable() == "" || b.GetEnvelope() != nil {
			t.Errorf("browsed: %v", b)
		}
	})
	if !strings.Contains(headers["prism-dead-reason"], "cannot be read") || headers["prism-dead-attempts"] != "1" {
		t.Errorf("its story: %v", headers)
	}
	d := s.receiveFrom("orders.dlq", "prism-dlq", 1)[0]
	if d.GetUnreadable() == "" || d.GetEnvelope() != nil || d.GetHeaders()["prism-dead-reason"] != headers["prism-dead-reason"] {
		t.Errorf("delivered as a dead letter: %v", d)
	}
}

// In the native layout a record is the payload; what other programs append gets
// an envelope that is always the same.
func testNativeTopic(t *testing.T, s *shop) {
	p := s.publish("k", "1")[0]
	topic, err := s.log.Topic(t.Context(), s.spec(2))
	if err != nil {
		t.Fatal(err)
	}
	stored, err := topic.Read(t.Context(), driver.ReadRequest{Partition: int(p.GetPartition()), From: 1, Limit: 10})
	if err != nil || len(stored.Records) != 1 || string(stored.Records[0].Value) != "1" || string(stored.Records[0].Key) != "k" || len(stored.Records[0].Headers) != 1 {
		t.Fatalf("it stands there as %+v, %v", stored, err)
	}
	head := stored.Records[0].Headers[0]
	foreign := driver.Record{Partition: int(p.GetPartition()), Key: []byte("k"), Value: []byte{0, 1}, Headers: []driver.Header{{Name: "tenant", Value: "acme"}}}
	twice := driver.Record{Partition: int(p.GetPartition()), Value: []byte("2"), Headers: []driver.Header{head, head}}
	results := make([]driver.AppendResult, 2)
	topic.Append(t.Context(), []driver.Record{foreign, twice}, results)
	if results[0].Err != nil || results[1].Err != nil {
		t.Fatal(results)
	}
	for _, group := range []string{"billing", "shipping"} {
		d := s.receive(group, 1)[0]
		if m := d.GetEnvelope().GetMetadata(); string(d.GetEnvelope().GetPayload()) != "1" || m.GetMessageId() != p.GetMessageId() || string(m.GetPartitionKey()) != "k" {
			t.Errorf("ours: %v", d.GetEnvelope())
		}
		s.done(group, d)
	}
	var ids []string
	for _, group := range []string{"billing", "shipping"} {
		d := s.receive(group, 1)[0]
		e := d.GetEnvelope()
		if string(e.GetPayload()) != "\x00\x01" || string(e.GetMetadata().GetPartitionKey()) != "k" || string(e.GetExtensions()["x-header-tenant"]) != "acme" || e.GetMetadata().GetTopic() != "orders" {
			t.Errorf("another program's: %v", e)
		}
		ids = append(ids, e.GetMetadata().GetMessageId())
		s.done(group, d)
	}
	if ids[0] != ids[1] || len(ids[0]) != 36 {
		t.Errorf("its ids: %v", ids)
	}
	s.none("billing") // the one with two heads is unreadable
}
