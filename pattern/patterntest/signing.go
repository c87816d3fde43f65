package patterntest

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	consumerv1 "github.com/prismgw/prism/api/prism/consumer/v1"
	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	producerv1 "github.com/prismgw/prism/api/prism/producer/v1"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/errs"
)

// The layouts of a topic with one partition whose messages are signed. What
// nobody believes counts as failed, so the group tries again soon.
const (
	signedEnvelopes = `{"topics": [{"name": "*", "partitions": 1}]}`
	signedNative    = `{"topics": [{"name": "*", "partitions": 1, "layout": "native"}]}`
	unsignedToo     = `{"topics": [{"name": "orders", "partitions": 1, "layout": "native", "unsigned": "deliver"}]}`
)

// signingChecks are the tests of what is signed and verified.
func signingChecks() []check {
	on := func(name, settings string, test func(*testing.T, *shop)) check {
		return check{"signing/" + name, needsLog, func(t *testing.T, s *suite) {
			test(t, s.signedShop(t, s.place(t, "signing").Namespace, settings, ringOf(t, "now", "before")))
		}}
	}
	listen := func(name, settings string, test func(*testing.T, *bus)) check {
		return check{"signing/" + name, needsPubSub, func(t *testing.T, s *suite) {
			place := driver.Space{Namespace: s.place(t, "signing").Namespace, Pattern: "events"}
			test(t, s.signedBus(t, place, settings, ringOf(t, "now", "before")))
		}}
	}
	return []check{
		on("envelope", signedEnvelopes, testSigned),
		on("native", signedNative, testSigned),
		on("poison-envelope", signedEnvelopes, testPoison),
		on("poison-native", signedNative, testPoison),
		on("native-parts", signedNative, testNativeParts),
		on("dead-letters", signedEnvelopes, testSignedDeadLetters),
		on("unsigned-delivered", unsignedToo, testUnsignedDelivered),
		on("unsigned-dead-letters", unsignedToo, testUnsignedDeadLetters),
		on("rotation", signedEnvelopes, testRotation),
		listen("pubsub", "", testSignedPubSub),
		listen("pubsub-unsigned-told", `{"unsigned": "deliver"}`, testUnsignedTold),
	}
}

// ringOf returns a ring whose first id is that of the current key. A key is as
// its id says: two rings that have an id have the same key for it.
func ringOf(t *testing.T, ids ...string) *envelope.Ring {
	t.Helper()
	keys := make([]envelope.SigningKey, len(ids))
	for i, id := range ids {
		keys[i] = envelope.SigningKey{ID: id, Secret: bytes.Repeat([]byte(id), 32)}
	}
	ring, err := envelope.NewRing(keys[0], keys[1:]...)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

// sign writes an envelope as a proxy with this key would; an empty id writes it
// without a signature.
func sign(t *testing.T, id, namespace, topic, text string) []byte {
	t.Helper()
	e := envelope.New(namespace, topic, []byte(text))
	if id == "" {
		return marshal(t, e)
	}
	wire, err := ringOf(t, id).Sign(e)
	if err != nil {
		t.Fatal(err)
	}
	return wire
}

func marshal(t *testing.T, e *envelopev1.PrismEnvelope) []byte {
	t.Helper()
	wire, err := e.MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	return wire
}

// changed is an envelope that somebody changed after it was signed.
func changed(t *testing.T, wire []byte, change func(*envelopev1.PrismEnvelope)) []byte {
	t.Helper()
	e, err := envelope.Unmarshal(wire)
	if err != nil {
		t.Fatal(err)
	}
	change(e)
	return marshal(t, e)
}

// tokened is an envelope to which somebody added a token, which no signature
// covers.
func tokened(t *testing.T, wire []byte) []byte {
	t.Helper()
	return changed(t, wire, func(e *envelopev1.PrismEnvelope) { e.Security.AuthToken = "hunter2" })
}

// native reports whether the records of the shop are payloads.
func (s *shop) native() bool { return strings.Contains(s.settings, `"native"`) }

// stands is how an envelope stands in the shop's topics.
func (s *shop) stands(wire []byte) driver.Record {
	s.Helper()
	if !s.native() {
		return driver.Record{Value: wire}
	}
	head, payload, err := envelope.Split(wire)
	if err != nil {
		s.Fatal(err)
	}
	return driver.Record{Value: payload, Headers: []driver.Header{{Name: "prism-envelope", Value: base64.RawURLEncoding.EncodeToString(head)}}}
}

// backend returns a topic as another program reaches it.
func (s *shop) backend(name string) driver.Topic {
	s.Helper()
	spec := s.spec(1)
	spec.Name = name
	topic, err := s.log.Topic(s.Context(), spec)
	if err != nil {
		s.Fatal(err)
	}
	return topic
}

// slip appends records as another program does.
func (s *shop) slip(name string, records ...driver.Record) {
	s.Helper()
	results := make([]driver.AppendResult, len(records))
	s.backend(name).Append(s.Context(), records, results)
	for _, r := range results {
		if r.Err != nil {
			s.Fatal(r.Err)
		}
	}
}

// kept returns the records of a topic as another program reads them, when there
// are so many.
func (s *shop) kept(name string, n int) []driver.Stored {
	s.Helper()
	topic := s.backend(name)
	var all []driver.Stored
	poll(s.T, fmt.Sprintf("%d records in %s", n, name), func() bool {
		r, err := topic.Read(s.Context(), driver.ReadRequest{From: 1, Limit: 100})
		if err != nil {
			s.Fatal(err)
		}
		all = r.Records
		return len(all) >= n
	})
	return all
}

// joined is the envelope of a record as it stands there.
func (s *shop) joined(r *driver.Stored) []byte {
	s.Helper()
	if !s.native() {
		return r.Value
	}
	i := slices.IndexFunc(r.Headers, func(h driver.Header) bool { return h.Name == "prism-envelope" })
	if i < 0 {
		s.Fatalf("%+v has no envelope", r)
	}
	head, err := base64.RawURLEncoding.DecodeString(r.Headers[i].Value)
	if err != nil {
		s.Fatal(err)
	}
	return envelope.Join(nil, head, r.Value)
}

// What is published is signed with the current key, has the publisher whom the
// proxy knows and no token, and is delivered as it was signed.
func testSigned(t *testing.T, s *shop) {
	e := message("k", "1")
	e.Security = &envelopev1.Security{AuthToken: "hunter2", PublisherId: "somebody else", Roles: []string{"admin"}}
	if _, err := s.Publish(t.Context(), &producerv1.PublishRequest{Topic: "orders", Envelope: e}); err != nil {
		t.Fatal(err)
	}
	batch, err := s.PublishBatch(t.Context(), &producerv1.PublishBatchRequest{Topic: "orders", Envelopes: []*envelopev1.PrismEnvelope{message("k", "2"), message("k", "3")}})
	if err != nil || batch.GetResults()[0].GetError() != nil || batch.GetResults()[1].GetError() != nil {
		t.Fatalf("%v, %v", batch, err)
	}
	ring := ringOf(t, "now")
	for _, r := range s.kept("orders", 3) {
		h, err := ring.Verify(s.joined(&r))
		if err != nil || string(h.Namespace) != s.namespace || string(h.Topic) != "orders" || string(h.PublisherID) != caller || len(h.AuthToken) > 0 {
			t.Errorf("it stands there as %+v, %v", h, err)
		}
		if bytes.Contains(r.Value, []byte("hunter2")) {
			t.Error("the token stands in the backend")
		}
	}
	for _, text := range []string{"1", "2", "3"} {
		d := s.receive("billing", 1)
		s.same("received", texts(d), []string{text})
		if sec := d[0].GetEnvelope().GetSecurity(); sec.GetSigningKeyId() != "now" || len(sec.GetSignature()) == 0 || sec.GetPublisherId() != caller || len(sec.GetRoles()) > 0 {
			t.Errorf("delivered with %v", sec)
		}
		s.done("billing", d...)
	}
	s.slip("orders", s.stands(tokened(t, sign(t, "now", s.namespace, "orders", "with a token"))))
	d := s.receive("billing", 1)
	if sec := d[0].GetEnvelope().GetSecurity(); sec.GetAuthToken() != "" || sec.GetSigningKeyId() != "now" {
		t.Errorf("another program added a token, and it was delivered: %v", sec)
	}
	_, err = s.Publish(t.Context(), &producerv1.PublishRequest{Topic: "orders", Envelope: &envelopev1.PrismEnvelope{
		Payload: []byte("x"), Security: &envelopev1.Security{Signature: []byte("mine"), SigningKeyId: "now", SignatureAlgorithm: 1},
	}})
	s.refused("a signature of the publisher's own", err, errs.InvalidField)
}

// A lie is an envelope that nobody may believe, and what is said of it.
type lie struct {
	name string
	wire []byte
	why  string
}

// lies are those that other programs can write, or move.
func lies(t *testing.T, namespace, topic string) []lie {
	t.Helper()
	good := func(text string) []byte { return sign(t, "now", namespace, topic, text) }
	return []lie{
		{"unsigned", sign(t, "", namespace, topic, "unsigned"), "security.signature: is missing"},
		{"an unknown key", sign(t, "theirs", namespace, topic, "theirs"), "security.signing_key_id: is not in the ring"},
		{"our id, their key", changed(t, sign(t, "theirs", namespace, topic, "forged"), func(e *envelopev1.PrismEnvelope) { e.Security.SigningKeyId = "now" }), "security.signature: does not belong"},
		{"no algorithm", changed(t, good("none"), func(e *envelopev1.PrismEnvelope) { e.Security.SignatureAlgorithm = 0 }), "security.signature_algorithm: is not one"},
		{"an unknown algorithm", changed(t, good("other"), func(e *envelopev1.PrismEnvelope) { e.Security.SignatureAlgorithm = 77 }), "security.signature_algorithm: is not one"},
		{"a changed payload", changed(t, good("one"), func(e *envelopev1.PrismEnvelope) { e.Payload = []byte("two") }), "security.signature: does not belong"},
		{"a changed publisher", changed(t, good("who"), func(e *envelopev1.PrismEnvelope) { e.Security.PublisherId = "admin" }), "security.signature: does not belong"},
		{"a changed topic", changed(t, sign(t, "now", namespace, "refunds", "topic"), func(e *envelopev1.PrismEnvelope) { e.Metadata.Topic = topic }), "security.signature: does not belong"},
		{"the signature cut short", changed(t, good("short"), func(e *envelopev1.PrismEnvelope) { e.Security.Signature = e.GetSecurity().GetSignature()[:31] }), "security.signature: does not belong"},
		{"a signature of nothing", changed(t, good("nothing"), func(e *envelopev1.PrismEnvelope) { e.Security.Signature = nil }), "security.signature: is missing"},
		{"moved from another topic", sign(t, "now", namespace, "refunds", "moved"), "metadata.topic: is another topic"},
		{"moved from another namespace", sign(t, "now", "elsewhere", topic, "moved"), "metadata.namespace: is another namespace"},
	}
}

// What is not signed by this namespace for this topic is never delivered, and is
// a dead letter at once, with the reason and as it was.
func testPoison(t *testing.T, s *shop) {
	// A record of another topic that really was published there.
	if _, err := s.Publish(t.Context(), &producerv1.PublishRequest{Topic: "refunds", Envelope: message("k", "refund")}); err != nil {
		t.Fatal(err)
	}
	all := lies(t, s.namespace, "orders")
	stolen := s.kept("refunds", 1)[0]
	all = append(all, lie{"a record that another program moved", s.joined(&stolen), "metadata.topic: is another topic"})
	records := make([]driver.Record, 0, 2*len(all))
	var want []string
	for i := range all {
		text := fmt.Sprint("good ", i)
		want = append(want, text)
		records = append(records, s.stands(all[i].wire), s.stands(sign(t, "before", s.namespace, "orders", text)))
	}
	s.slip("orders", records...)
	s.browsesLies("orders", all, len(want))

	f := s.subscribe("watching", 100) // a stream as well as a call
	f.has(len(want))
	s.same("streamed", texts(f.in), want)
	s.same("received", texts(s.receive("billing", len(want))), want)

	dead := s.kept("orders.dlq", 2*len(all))
	for i := range all {
		letter := slices.IndexFunc(dead, func(r driver.Stored) bool { return bytes.Equal(s.joined(&r), all[i].wire) })
		if letter < 0 {
			t.Errorf("%s is not among the dead letters as it was", all[i].name)
		}
	}
	s.browsesLies("orders.dlq", all, 0)
	f.leave()
}

// browsesLies expects that a Browse shows what is good, and says of each lie why
// it is none; of a dead letter its headers say so, too.
func (s *shop) browsesLies(topic string, all []lie, good int) {
	s.Helper()
	told := make(map[string]int)
	shown := 0
	s.browse(&consumerv1.BrowseRequest{Topic: topic}, func(b *consumerv1.Browsed) {
		if b.GetUnreadable() == "" {
			shown++
			return
		}
		if b.GetEnvelope() != nil {
			s.Errorf("%s shows %v, of which it says: %s", topic, b.GetEnvelope(), b.GetUnreadable())
		}
		told[b.GetUnreadable()]++
		if topic != "orders" && !strings.Contains(b.GetHeaders()["prism-dead-reason"], b.GetUnreadable()) {
			s.Errorf("a dead letter says %s, and its headers %v", b.GetUnreadable(), b.GetHeaders())
		}
	})
	if shown != good {
		s.Errorf("%s: %d shown, want %d", topic, shown, good)
	}
	for _, one := range all {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(told)), func(text string) bool { return strings.Contains(text, one.why) }) {
			s.Errorf("%s: %s is not told as %q, only %v", topic, one.name, one.why, told)
		}
	}
}

// In the native layout the payload stands beside what was signed, and nothing
// else of a record is believed.
func testNativeParts(t *testing.T, s *shop) {
	one, two := s.stands(sign(t, "now", s.namespace, "orders", "one")), s.stands(sign(t, "now", s.namespace, "orders", "two"))
	swapped := driver.Record{Value: two.Value, Headers: one.Headers}
	plain := driver.Record{Value: []byte("plain"), Headers: []driver.Header{{Name: "prism-publisher-id", Value: "admin"}}}
	copied := driver.Record{Value: one.Value, Headers: append([]driver.Header{{Name: "prism-publisher-id", Value: "admin"}}, one.Headers...)}
	s.slip("orders", swapped, plain, copied, two)
	all := s.receive("billing", 2)
	s.same("received", texts(all), []string{"one", "two"})
	if e := all[0].GetEnvelope(); e.GetSecurity().GetPublisherId() != "" || len(e.GetExtensions()) > 0 {
		t.Errorf("what stands in readable headers was believed: %v", e)
	}
	if n := len(s.kept("orders.dlq", 2)); n != 2 {
		t.Errorf("%d dead letters", n)
	}
}

// A good message that a consumer refuses can be consumed among the dead letters.
// Poison there is passed over once and stays for who looks; nothing loops.
func testSignedDeadLetters(t *testing.T, s *shop) {
	s.slip("orders", s.stands(sign(t, "", s.namespace, "orders", "poison")))
	s.publish("k", "refused")
	d := s.receive("billing", 1)[0]
	if _, err := s.Reject(t.Context(), &consumerv1.RejectRequest{Topic: "orders", Group: "billing", Receipts: []string{d.GetReceipt()}, How: &consumerv1.Reject{DeadLetter: true, Reason: "never"}}); err != nil {
		t.Fatal(err)
	}
	s.kept("orders.dlq", 2)
	letters := s.receiveFrom("orders.dlq", "people", 1)
	s.same("what can be consumed", texts(letters), []string{"refused"})
	if letters[0].GetHeaders()["prism-dead-reason"] != "never" {
		t.Errorf("its story: %v", letters[0].GetHeaders())
	}
	if _, err := s.Acknowledge(t.Context(), &consumerv1.AcknowledgeRequest{Topic: "orders.dlq", Group: "people", Receipts: receipts(letters)}); err != nil {
		t.Fatal(err)
	}
	poll(t, "all dead letters are settled", func() bool {
		stats, err := s.backend("orders.dlq").Stat(t.Context(), "people")
		if err != nil {
			t.Fatal(err)
		}
		return stats[0].Waiting == 0
	})
	if n := len(s.kept("orders.dlq", 2)); n != 2 {
		t.Errorf("%d dead letters; those of dead letters go nowhere", n)
	}
	// Put back by another program, the good one is itself once more, and a
	// letter from another topic's dead letters is not.
	s.slip("orders.dlq", s.stands(sign(t, "now", s.namespace, "refunds", "moved")))
	s.browse(&consumerv1.BrowseRequest{Topic: "orders.dlq", From: &consumerv1.Start{From: &consumerv1.Start_Positions_{Positions: &consumerv1.Start_Positions{ByPartition: map[int32]int64{0: int64(s.kept("orders.dlq", 3)[2].Position)}}}}}, func(b *consumerv1.Browsed) {
		if !strings.Contains(b.GetUnreadable(), "metadata.topic") {
			t.Errorf("moved among the dead letters: %v", b)
		}
	})
}

// With unsigned: deliver, what has no signature passes, as nobody's; what has a
// wrong one does not.
func testUnsignedDelivered(t *testing.T, s *shop) {
	who := func(e *envelopev1.PrismEnvelope) {
		e.Security = &envelopev1.Security{PublisherId: "admin", UserId: "root", TenantId: "all", PublisherTeam: "us", SessionId: "s", Roles: []string{"admin"}, AuthToken: "hunter2", ContainsPii: true}
	}
	s.slip("orders",
		driver.Record{Value: []byte("foreign"), Headers: []driver.Header{{Name: "tenant", Value: "acme"}}},
		s.stands(changed(t, sign(t, "", s.namespace, "orders", "unsigned"), who)),
		s.stands(sign(t, "now", s.namespace, "orders", "signed")),
	)
	var all []lie
	for _, one := range lies(t, s.namespace, "orders") {
		if one.name == "unsigned" {
			continue
		}
		all = append(all, one)
		s.slip("orders", s.stands(one.wire))
	}
	s.publish("k", "published")
	got := s.receive("billing", 4)
	s.same("delivered", texts(got), []string{"foreign", "unsigned", "signed", "published"})
	if e := got[0].GetEnvelope(); string(e.GetExtensions()["x-header-tenant"]) != "acme" {
		t.Errorf("another program's: %v", e)
	}
	if sec := got[1].GetEnvelope().GetSecurity(); !proto.Equal(sec, &envelopev1.Security{ContainsPii: true}) {
		t.Errorf("nobody vouches for %v", sec)
	}
	if sec := got[3].GetEnvelope().GetSecurity(); sec.GetPublisherId() != caller || sec.GetSigningKeyId() != "now" {
		t.Errorf("published with %v", sec)
	}
	s.browsesLies("orders", all, 4)
	s.kept("orders.dlq", len(all))
}

// Dead letters of a topic that other programs write are delivered as its messages
// are.
func testUnsignedDeadLetters(t *testing.T, s *shop) {
	s.slip("orders", driver.Record{Value: []byte("foreign")})
	d := s.receive("billing", 1)[0]
	if _, err := s.Reject(t.Context(), &consumerv1.RejectRequest{Topic: "orders", Group: "billing", Receipts: []string{d.GetReceipt()}, How: &consumerv1.Reject{DeadLetter: true, Reason: "never"}}); err != nil {
		t.Fatal(err)
	}
	letters := s.receiveFrom("orders.dlq", "people", 1)
	s.same("dead letters", texts(letters), []string{"foreign"})
	if letters[0].GetHeaders()["prism-dead-reason"] != "never" || letters[0].GetEnvelope().GetMetadata().GetTopic() != "orders" {
		t.Errorf("%v", letters[0])
	}
}

// What a key signed is delivered as long as the key is in the ring.
func testRotation(t *testing.T, s *shop) {
	s.publish("k", "first")
	after := func(ids ...string) *shop { return s.s.signedShop(t, s.namespace, s.settings, ringOf(t, ids...)) }
	next := after("next", "now")
	next.publish("k", "second")
	var keys []string
	for _, d := range next.receive("both", 1) {
		keys = append(keys, d.GetEnvelope().GetSecurity().GetSigningKeyId())
		next.done("both", d)
	}
	for _, d := range next.receive("both", 1) {
		keys = append(keys, d.GetEnvelope().GetSecurity().GetSigningKeyId())
	}
	s.same("signed with", keys, []string{"now", "next"})
	next.stop()
	last := after("next")
	s.same("without the first key", texts(last.receive("late", 1)), []string{"second"})
	last.browse(&consumerv1.BrowseRequest{Topic: "orders.dlq", Limit: 1, Follow: true}, func(b *consumerv1.Browsed) {
		if !strings.Contains(b.GetHeaders()["prism-dead-reason"], "is not in the ring") {
			t.Errorf("%v", b)
		}
	})
}

// tell publishes as another program does.
func (b *bus) tell(t *testing.T, subject string, payloads ...[]byte) {
	t.Helper()
	messages := make([]driver.Message, len(payloads))
	for i, payload := range payloads {
		messages[i] = driver.Message{Subject: subject, Payload: payload}
	}
	results := make([]error, len(messages))
	b.backend.PubSub.Publish(t.Context(), messages, results)
	for _, err := range results {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// counts waits until the pattern has counted so.
func (b *bus) counts(t *testing.T, missed, gaps, unreadable, unverified uint64) {
	t.Helper()
	want := []uint64{missed, gaps, unreadable, unverified}
	poll(t, fmt.Sprint("it counts ", want), func() bool {
		b.s.mu.Lock()
		defer b.s.mu.Unlock()
		return slices.Equal(b.counted, want)
	})
}

// A message that nobody signed is not told; it is missed, and counted.
func testSignedPubSub(t *testing.T, b *bus) {
	e := b.listen(t, "a", "")
	b.publish(t, "a", "first")
	all := lies(t, b.place.Namespace, "a")
	elsewhere := uint64(0)
	for _, one := range all {
		b.tell(t, "a", one.wire)
		if strings.HasPrefix(one.why, "metadata.") {
			elsewhere++
		}
	}
	b.tell(t, "a", tokened(t, sign(t, "before", b.place.Namespace, "a", "previous key")))
	b.publish(t, "a", "last")
	var heard []string
	for len(heard) < 3 {
		if m := e.next(t); m != nil {
			heard = append(heard, string(m.GetPayload()))
			if m.GetSecurity().GetSigningKeyId() == "" || m.GetSecurity().GetAuthToken() != "" || len(m.GetSecurity().GetSignature()) == 0 {
				t.Errorf("heard without a signature: %v", m)
			}
		}
	}
	if !slices.Equal(heard, []string{"first", "previous key", "last"}) || e.missed != uint64(len(all)) {
		t.Errorf("heard %v, missed %d of %d", heard, e.missed, len(all))
	}
	b.counts(t, 0, 0, elsewhere, uint64(len(all))-elsewhere)
}

// With unsigned: deliver, what has no signature is told, as nobody's.
func testUnsignedTold(t *testing.T, b *bus) {
	e := b.listen(t, "a", "")
	b.tell(t, "a", changed(t, sign(t, "", b.place.Namespace, "a", "unsigned"), func(e *envelopev1.PrismEnvelope) {
		e.Security = &envelopev1.Security{PublisherId: "admin", AuthToken: "hunter2"}
	}), sign(t, "theirs", b.place.Namespace, "a", "theirs"))
	b.publish(t, "a", "last")
	m := e.next(t)
	if string(m.GetPayload()) != "unsigned" || m.GetSecurity().GetPublisherId() != "" || m.GetSecurity().GetAuthToken() != "" {
		t.Errorf("told: %v", m)
	}
	e.hears(t, "", "last")
	b.counts(t, 0, 0, 0, 1)
}
