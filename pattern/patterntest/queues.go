package patterntest

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	consumerv1 "github.com/prismgw/prism/api/prism/consumer/v1"
	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	queuev1 "github.com/prismgw/prism/api/prism/queue/v1"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
	"github.com/prismgw/prism/pattern/queue"
)

// queueChecks are the tests of the pattern Queue.
func queueChecks() []check {
	const plain = `{"queues": [{"name": "mails"}, {"name": "*"}]}`
	const short = `{"queues": [{"name": "mails", "ack_wait": "1s", "max_deliveries": 3, "backoff": "10ms", "max_backoff": "20ms"}]}`
	const slow = `{"queues": [{"name": "mails", "backoff": "600ms", "max_backoff": "1s"}]}`
	const patient = `{"queues": [{"name": "mails", "ack_wait": "1s"}]}`
	on := func(name, settings string, test func(*testing.T, *office)) check {
		return check{"queues/" + name, needsQueue, func(t *testing.T, s *suite) { test(t, s.office(t, settings)) }}
	}
	return []check{
		on("enqueue-and-receive", plain, testEnqueueAndReceive),
		on("publisher", plain, testTaskPublisher),
		on("refused", short, testQueuesRefused),
		on("batch", plain, testEnqueueBatch),
		on("duplicates", plain, testTaskDuplicates),
		on("priorities", plain, testPriorities),
		on("delay", plain, testDelay),
		on("wait", plain, testWaitForTasks),
		on("settle-once", plain, testSettleTaskOnce),
		on("unanswered", short, testUnansweredTask),
		on("return", short, testReturn),
		on("backoff", slow, testBackoff),
		on("dead-letters", short, testDeadTasks),
		on("unreadable", short, testUnreadableTasks),
		{"queues/signed", needsQueue, func(t *testing.T, s *suite) {
			testSignedTasks(t, s.signedOffice(t, s.place(t, "queues").Namespace, plain, ringOf(t, "now", "before")))
		}},
		on("expired", plain, testExpiredTasks),
		on("dead-letters-stay", short, testDeadLettersStay),
		on("any-proxy", short, testAnyProxySettles),
		on("gone", plain, testReceiverGone),
		on("stop", plain, testQueueStop),
		on("browse", plain, testBrowseTasks),
		on("holders-die", patient, testHoldersDie),
	}
}

func needsQueue(s *suite) string {
	if !s.queue {
		return "the technology leases no tasks"
	}
	return ""
}

// office is a Queue of one namespace, behind gRPC.
type office struct {
	*testing.T
	queuev1.QueueClient

	s         *suite
	namespace string
	tasks     driver.Queue
	settings  string
	stop      func() // as the proxy does it
}

func (s *suite) office(t *testing.T, settings string) *office {
	t.Helper()
	return s.officeAt(t, s.place(t, "queues").Namespace, settings)
}

// officeAt is another process that serves the same namespace.
func (s *suite) officeAt(t *testing.T, namespace, settings string) *office {
	t.Helper()
	return s.signedOffice(t, namespace, settings, nil)
}

// signedOffice signs what is enqueued, and believes nothing else.
func (s *suite) signedOffice(t *testing.T, namespace, settings string, keys pattern.Keys) *office {
	t.Helper()
	b, err := s.conn.Space(driver.Space{Namespace: namespace, Pattern: "queue"})
	if err != nil {
		t.Fatal(err)
	}
	kind := queue.Kind()
	instance, err := kind.Open(pattern.Config{
		Namespace: namespace, Name: kind.Name, Settings: []byte(settings), Keys: keys,
		Slots: map[string]pattern.Filled{"messages-queue": {Backend: b, ID: "one"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	closer, ok := instance.(pattern.Closer)
	if !ok {
		t.Fatal("the pattern cannot be closed")
	}
	stop := sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		closer.Close(ctx)
		if ctx.Err() != nil {
			t.Error("it did not close in time")
		}
	})
	t.Cleanup(stop)
	conn := serve(t, served{kind.Service, instance})
	return &office{T: t, QueueClient: queuev1.NewQueueClient(conn), s: s, namespace: namespace, tasks: b.Queue, settings: settings, stop: stop}
}

func task(text string) *queuev1.NewTask { return &queuev1.NewTask{Envelope: message("", text)} }

// put enqueues texts, one after the other.
func (o *office) put(texts ...string) (all []*queuev1.EnqueueResponse) {
	o.Helper()
	for _, text := range texts {
		all = append(all, o.putTask(task(text)))
	}
	return all
}

func (o *office) putTask(n *queuev1.NewTask) *queuev1.EnqueueResponse {
	o.Helper()
	r, err := o.Enqueue(o.Context(), &queuev1.EnqueueRequest{Queue: "mails", Task: n})
	if err != nil {
		o.Fatalf("enqueue: %v", err)
	}
	return r
}

// take receives until there are n.
func (o *office) take(n int) []*queuev1.Delivery {
	o.Helper()
	return o.takeFrom("mails", n)
}

func (o *office) takeFrom(name string, n int) (all []*queuev1.Delivery) {
	o.Helper()
	for start := time.Now(); len(all) < n; {
		r, err := o.Receive(o.Context(), &queuev1.ReceiveRequest{Queue: name, MaxMessages: int32(n - len(all)), Wait: durationpb.New(5 * time.Second)})
		if err != nil {
			o.Fatalf("receive: %v", err)
		}
		all = append(all, r.GetDeliveries()...)
		if time.Since(start) > patience {
			o.Fatalf("%d of %d tasks came: %v", len(all), n, taskTexts(all))
		}
	}
	return all
}

// nothing expects that there is nothing to receive.
func (o *office) nothing(name string) {
	o.Helper()
	r, err := o.Receive(o.Context(), &queuev1.ReceiveRequest{Queue: name, Wait: durationpb.New(300 * time.Millisecond)})
	if err != nil || len(r.GetDeliveries()) > 0 {
		o.Errorf("received %v, %v; want nothing", taskTexts(r.GetDeliveries()), err)
	}
}

func taskTexts(all []*queuev1.Delivery) (out []string) {
	for _, d := range all {
		out = append(out, string(d.GetEnvelope().GetPayload()))
	}
	return out
}

func (o *office) acknowledge(name string, receipts ...string) []errs.Reason {
	o.Helper()
	r, err := o.Acknowledge(o.Context(), &queuev1.AcknowledgeRequest{Queue: name, Receipts: receipts})
	if err != nil {
		o.Fatalf("acknowledge: %v", err)
	}
	return outcomes(r.GetResults())
}

func (o *office) finish(name string, all ...*queuev1.Delivery) {
	o.Helper()
	for _, d := range all {
		if got := o.acknowledge(name, d.GetReceipt()); got[0] != errs.Unknown {
			o.Fatalf("acknowledge %s: %v", d.GetEnvelope().GetPayload(), got[0])
		}
	}
}

func (o *office) reject(d *queuev1.Delivery, how *consumerv1.Reject) {
	o.Helper()
	r, err := o.Reject(o.Context(), &queuev1.RejectRequest{Queue: "mails", Receipts: []string{d.GetReceipt()}, How: how})
	if err != nil || outcomes(r.GetResults())[0] != errs.Unknown {
		o.Fatalf("reject: %v, %v", r, err)
	}
}

func (o *office) stat(name string) *queuev1.StatResponse {
	o.Helper()
	s, err := o.Stat(o.Context(), &queuev1.StatRequest{Queue: name})
	if err != nil {
		o.Fatalf("stat: %v", err)
	}
	return s
}

func (o *office) refused(what string, err error, want errs.Reason) {
	o.Helper()
	if got := errs.FromStatus(err); got == nil || got.Reason != want {
		o.Errorf("%.40q: %v, want %v", what, err, want)
	}
}

func (o *office) same(what string, got, want []string) {
	o.Helper()
	if !slices.Equal(got, want) {
		o.Errorf("%s: %v, want %v", what, got, want)
	}
}

func testEnqueueAndReceive(t *testing.T, o *office) {
	sent := &envelopev1.PrismEnvelope{
		Metadata:      &envelopev1.Metadata{ContentType: envelopev1.ContentType_CONTENT_TYPE_JSON, CorrelationId: "c", TtlSeconds: 60},
		Observability: &envelopev1.Observability{Labels: map[string]string{"a": "b"}},
		Extensions:    map[string][]byte{"x-y": {1}},
		Payload:       []byte(`{"n":1}`),
	}
	before := time.Now()
	p := o.putTask(&queuev1.NewTask{Envelope: sent})
	d := o.take(1)[0]
	m := d.GetEnvelope().GetMetadata()
	switch {
	case m.GetMessageId() != p.GetMessageId() || m.GetTopic() != "mails" || m.GetNamespace() != o.namespace || p.GetDuplicate():
		t.Errorf("metadata: %v, duplicate %v", m, p.GetDuplicate())
	case m.GetCorrelationId() != "c" || m.GetTtlSeconds() != 60 || d.GetEnvelope().GetObservability().GetLabels()["a"] != "b" || string(d.GetEnvelope().GetExtensions()["x-y"]) != "\x01":
		t.Errorf("the rest: %v", d.GetEnvelope())
	case string(d.GetEnvelope().GetPayload()) != `{"n":1}`:
		t.Errorf("payload: %s", d.GetEnvelope().GetPayload())
	case d.GetAttempt() != 1 || d.GetUnreadable() != "" || len(d.GetHeaders()) > 0:
		t.Errorf("attempt %d, unreadable %q, headers %v", d.GetAttempt(), d.GetUnreadable(), d.GetHeaders())
	}
	for what, at := range map[string]time.Time{"first delivered": d.GetFirstDeliveredAt().AsTime(), "enqueued": d.GetPlace().GetEnqueuedAt().AsTime(), "published": time.UnixMilli(m.GetPublishedAtMs())} {
		if at.Before(before.Add(-time.Minute)) || at.After(time.Now().Add(time.Minute)) {
			t.Errorf("%s at %s", what, at)
		}
	}
	if left := d.GetUntil().AsTime().Sub(d.GetFirstDeliveredAt().AsTime()); left < 25*time.Second || left > 35*time.Second {
		t.Errorf("it is in hand for %s; ack_wait is 30s unless it is said", left)
	}
	o.finish("mails", d)
	o.nothing("mails")
	// The same on a queue that only "*" lists, whose name is another's with more.
	if _, err := o.Enqueue(t.Context(), &queuev1.EnqueueRequest{Queue: "mails.eu", Task: task("2")}); err != nil {
		t.Fatal(err)
	}
	o.nothing("mails")
	o.same("another queue", taskTexts(o.takeFrom("mails.eu", 1)), []string{"2"})
}

// Who enqueues is what the proxy knows, whatever the message says, and the token
// goes no further.
func testTaskPublisher(t *testing.T, o *office) {
	n := task("x")
	n.Envelope.Security = &envelopev1.Security{PublisherId: "mallory", UserId: "root", Roles: []string{"admin"}, AuthToken: "secret", ContainsPii: true}
	o.putTask(n)
	got := o.take(1)[0].GetEnvelope().GetSecurity()
	if got.GetPublisherId() != caller || got.GetUserId()+got.GetAuthToken() != "" || len(got.GetRoles()) > 0 || !got.GetContainsPii() {
		t.Errorf("security: %v", got)
	}
}

func testQueuesRefused(t *testing.T, o *office) {
	for _, name := range []string{"", ".", "..", "*", ">", "a b", "a/b", "é", "a\n", "-a", strings.Repeat("a", 129), ".dlq", "a\x00b"} {
		_, err := o.Enqueue(t.Context(), &queuev1.EnqueueRequest{Queue: name, Task: task("x")})
		o.refused("enqueue into "+name, err, errs.InvalidField)
		_, err = o.Receive(t.Context(), &queuev1.ReceiveRequest{Queue: name})
		o.refused("receive from "+name, err, errs.InvalidField)
		_, err = o.Stat(t.Context(), &queuev1.StatRequest{Queue: name})
		o.refused("stat of "+name, err, errs.InvalidField)
	}
	for _, name := range []string{"sms", "sms.dlq"} {
		_, err := o.Receive(t.Context(), &queuev1.ReceiveRequest{Queue: name})
		o.refused("a queue that is not listed", err, errs.QueueNotFound)
		_, err = o.Browse(t.Context(), &queuev1.BrowseRequest{Queue: name})
		o.refused("a queue that is not listed", err, errs.QueueNotFound)
	}
	_, err := o.Enqueue(t.Context(), &queuev1.EnqueueRequest{Queue: "mails.dlq", Task: task("x")})
	o.refused("the dead letters", err, errs.InvalidField)
	for what, n := range map[string]*queuev1.NewTask{
		"nothing":              nil,
		"no payload":           {Envelope: new(envelopev1.PrismEnvelope)},
		"another namespace":    {Envelope: &envelopev1.PrismEnvelope{Metadata: &envelopev1.Metadata{Namespace: "other"}, Payload: []byte("x")}},
		"another queue":        {Envelope: &envelopev1.PrismEnvelope{Metadata: &envelopev1.Metadata{Topic: "other"}, Payload: []byte("x")}},
		"a bad id":             {Envelope: &envelopev1.PrismEnvelope{Metadata: &envelopev1.Metadata{MessageId: "1"}, Payload: []byte("x")}},
		"a delay too long":     {Envelope: message("", "x"), Delay: durationpb.New(driver.MaxDelay + time.Second)},
		"a negative delay":     {Envelope: message("", "x"), Delay: durationpb.New(-time.Second)},
		"a priority too high":  {Envelope: message("", "x"), Priority: 11},
		"a priority too low":   {Envelope: message("", "x"), Priority: -1},
		"two priorities":       {Envelope: &envelopev1.PrismEnvelope{Metadata: &envelopev1.Metadata{Priority: 3}, Payload: []byte("x")}, Priority: 4},
		"an envelope's, wrong": {Envelope: &envelopev1.PrismEnvelope{Metadata: &envelopev1.Metadata{Priority: 11}, Payload: []byte("x")}},
	} {
		_, err := o.Enqueue(t.Context(), &queuev1.EnqueueRequest{Queue: "mails", Task: n})
		o.refused(what, err, errs.InvalidField)
	}
	_, err = o.Enqueue(t.Context(), &queuev1.EnqueueRequest{Queue: "mails", Task: task(strings.Repeat("x", 1<<20))})
	o.refused("a payload too large", err, errs.PayloadTooLarge)
	for what, r := range map[string]*queuev1.ReceiveRequest{
		"too many": {Queue: "mails", MaxMessages: 1001}, "fewer than none": {Queue: "mails", MaxMessages: -1},
		"a wait too long": {Queue: "mails", Wait: durationpb.New(21 * time.Second)}, "a negative wait": {Queue: "mails", Wait: durationpb.New(-1)},
	} {
		_, err := o.Receive(t.Context(), r)
		o.refused(what, err, errs.InvalidField)
	}
	_, err = o.Extend(t.Context(), &queuev1.ExtendRequest{Queue: "mails", Receipts: []string{"x"}, By: durationpb.New(time.Millisecond)})
	o.refused("an extension too short", err, errs.InvalidField)
	_, err = o.Acknowledge(t.Context(), &queuev1.AcknowledgeRequest{Queue: "mails"})
	o.refused("no receipt", err, errs.InvalidField)
	for what, how := range map[string]*consumerv1.Reject{
		"a reason too long": {Reason: strings.Repeat("x", 513)}, "a delay and the dead letters": {DeadLetter: true, Delay: durationpb.New(1)},
		"a delay too long": {Delay: durationpb.New(25 * time.Hour)},
	} {
		_, err := o.Reject(t.Context(), &queuev1.RejectRequest{Queue: "mails", Receipts: []string{"x"}, How: how})
		o.refused(what, err, errs.InvalidField)
	}
	o.nothing("mails")
}

func testEnqueueBatch(t *testing.T, o *office) {
	wrong := task("x")
	wrong.Envelope.Metadata = &envelopev1.Metadata{MessageId: "1"}
	all := []*queuev1.NewTask{task("1"), wrong, task("2"), task("3")}
	r, err := o.EnqueueBatch(t.Context(), &queuev1.EnqueueBatchRequest{Queue: "mails", Tasks: all})
	if err != nil || len(r.GetResults()) != len(all) {
		t.Fatalf("%v, %v", r, err)
	}
	for i, one := range r.GetResults() {
		if bad := i == 1; bad != (one.GetError() != nil) || !bad && one.GetEnqueued().GetMessageId() == "" {
			t.Errorf("task %d: %v", i, one)
		}
	}
	if got := reasonOf(r.GetResults()[1].GetError()); got != errs.InvalidField {
		t.Errorf("the wrong one: %v", got)
	}
	for _, want := range []string{"1", "2", "3"} { // in the order of the batch
		o.same("next", taskTexts(o.take(1)), []string{want})
	}
	_, err = o.EnqueueBatch(t.Context(), &queuev1.EnqueueBatchRequest{Queue: "mails"})
	o.refused("an empty batch", err, errs.InvalidField)
	_, err = o.EnqueueBatch(t.Context(), &queuev1.EnqueueBatchRequest{Queue: "mails", Tasks: slices.Repeat([]*queuev1.NewTask{task("x")}, 1001)})
	o.refused("a batch too long", err, errs.InvalidField)
}

// A message_id that comes again is not enqueued again, also when its task is done
// meanwhile; in another queue it is another task.
func testTaskDuplicates(t *testing.T, o *office) {
	first := o.put("1")[0]
	again := func() *queuev1.NewTask {
		n := task("2")
		n.Envelope.Metadata = &envelopev1.Metadata{MessageId: first.GetMessageId()}
		return n
	}
	if r := o.putTask(again()); !r.GetDuplicate() || r.GetMessageId() != first.GetMessageId() {
		t.Errorf("the second: %v", r)
	}
	o.finish("mails", o.take(1)...)
	if r := o.putTask(again()); !r.GetDuplicate() {
		t.Errorf("after it was done: %v", r)
	}
	o.nothing("mails")
	r, err := o.Enqueue(t.Context(), &queuev1.EnqueueRequest{Queue: "others", Task: again()})
	if err != nil || r.GetDuplicate() {
		t.Errorf("in another queue: %v, %v", r, err)
	}
}

// The highest priority comes first, and among the same the oldest.
func testPriorities(_ *testing.T, o *office) {
	o.put("middle")
	apart, within := task("low"), task("high")
	apart.Priority = 1
	within.Envelope.Metadata = &envelopev1.Metadata{Priority: 10}
	o.putTask(apart)
	o.putTask(within)
	o.put("middle 2")
	both := task("high 2")
	both.Priority, both.Envelope.Metadata = 10, &envelopev1.Metadata{Priority: 10}
	o.putTask(both)
	all := o.take(5)
	o.same("received", taskTexts(all), []string{"high", "high 2", "middle", "middle 2", "low"})
	if got := all[4].GetEnvelope().GetMetadata().GetPriority(); got != 1 {
		o.Errorf("the priority that was given apart stands in the envelope as %d", got)
	}
}

func testDelay(t *testing.T, o *office) {
	const delay = 1200 * time.Millisecond
	late := task("late")
	late.Delay = durationpb.New(delay)
	began := time.Now()
	o.putTask(late)
	o.put("now")
	o.same("first", taskTexts(o.take(1)), []string{"now"})
	if s := o.stat("mails"); s.GetDelayed() != 1 || s.GetReady() != 0 || s.GetLeased() != 1 {
		t.Errorf("meanwhile: %v", s)
	}
	o.same("then", taskTexts(o.take(1)), []string{"late"})
	if took := time.Since(began); took < delay-50*time.Millisecond || took > delay+3*time.Second {
		t.Errorf("a delay of %s took %s", delay, took)
	}
}

// Who waits is given what comes, and without a wait there is an answer at once.
func testWaitForTasks(t *testing.T, o *office) {
	began := time.Now()
	r, err := o.Receive(t.Context(), &queuev1.ReceiveRequest{Queue: "mails"})
	if err != nil || len(r.GetDeliveries()) > 0 || time.Since(began) > 5*time.Second {
		t.Errorf("without a wait: %v, %v, after %s", r, err, time.Since(began))
	}
	came := make(chan []string, 1)
	go func() {
		r, _ := o.Receive(t.Context(), &queuev1.ReceiveRequest{Queue: "mails", Wait: durationpb.New(20 * time.Second)})
		came <- taskTexts(r.GetDeliveries())
	}()
	time.Sleep(1500 * time.Millisecond) // longer than the backend is asked to wait in one call
	o.put("1")
	began = time.Now()
	o.same("who waited", <-came, []string{"1"})
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it came after %s", took)
	}
	// A call's own deadline ends the wait with an answer, unless that is late.
	until := func() (*queuev1.ReceiveResponse, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return o.Receive(ctx, &queuev1.ReceiveRequest{Queue: "mails", Wait: durationpb.New(20 * time.Second)})
	}
	r, err = until()
	for try := 1; err != nil && try < 5; try++ {
		r, err = until()
	}
	if err != nil || len(r.GetDeliveries()) > 0 {
		t.Errorf("until its deadline: %v, %v", r, err)
	}
}

func testSettleTaskOnce(t *testing.T, o *office) {
	o.put("1", "2")
	d := o.take(1)[0]
	good := d.GetReceipt()
	cut := strings.LastIndexByte(good, '.')
	forged := []string{"", "x", "1.1.x", good[:len(good)-2], good + "AA", strings.Repeat("A", len(good)), good[:cut+1] + strings.Repeat("A", len(good)-cut-1), "0" + strings.TrimLeft(good, "123456789")}
	for i, reason := range o.acknowledge("mails", forged...) {
		if reason != errs.StaleReceipt {
			t.Errorf("forged receipt %q: %v", forged[i], reason)
		}
	}
	if s := o.stat("mails"); s.GetLeased() != 1 || s.GetReady() != 1 {
		t.Errorf("after forged receipts: %v", s)
	}
	for range 2 { // the second time is no error
		o.finish("mails", d)
	}
	if got := o.acknowledge("mails", good, "x"); got[0] != errs.Unknown || got[1] != errs.StaleReceipt {
		t.Errorf("a third time, beside another: %v", got)
	}
	o.reject(d, &consumerv1.Reject{DeadLetter: true}) // it is done: nothing happens
	o.same("next", taskTexts(o.take(1)), []string{"2"})
	if s := o.stat("mails"); s.GetDeadLetters() != 0 {
		t.Errorf("a task that was done is a dead letter: %v", s)
	}
}

// A task that nobody settles comes again, with its old receipt stale; Extend keeps
// it in hand.
func testUnansweredTask(t *testing.T, o *office) {
	o.put("1")
	first := o.take(1)[0]
	second := o.take(1)[0]
	if second.GetAttempt() != 2 || second.GetReceipt() == first.GetReceipt() || !second.GetFirstDeliveredAt().AsTime().Equal(first.GetFirstDeliveredAt().AsTime()) {
		t.Errorf("the second delivery: %v, after %v", second, first)
	}
	if got := o.acknowledge("mails", first.GetReceipt()); got[0] != errs.StaleReceipt {
		t.Errorf("the first receipt: %v", got[0])
	}
	for _, how := range []*consumerv1.Reject{{}, {DeadLetter: true}} {
		r, err := o.Reject(t.Context(), &queuev1.RejectRequest{Queue: "mails", Receipts: []string{first.GetReceipt()}, How: how})
		if err != nil || outcomes(r.GetResults())[0] != errs.StaleReceipt {
			t.Errorf("rejected with the first receipt: %v, %v", r, err)
		}
	}
	r, err := o.Extend(t.Context(), &queuev1.ExtendRequest{Queue: "mails", Receipts: []string{second.GetReceipt()}, By: durationpb.New(time.Minute)})
	if err != nil || outcomes(r.GetResults())[0] != errs.Unknown {
		t.Fatalf("extend: %v, %v", r, err)
	}
	r2, err := o.Receive(t.Context(), &queuev1.ReceiveRequest{Queue: "mails", Wait: durationpb.New(1500 * time.Millisecond)})
	if err != nil || len(r2.GetDeliveries()) > 0 {
		t.Errorf("it was extended and came again: %v, %v", r2, err)
	}
	o.finish("mails", second)
	o.put("2") // nobody settles it, as often as is allowed
	for attempt := range int32(3) {
		if d := o.take(1)[0]; d.GetAttempt() != attempt+1 {
			t.Errorf("attempt %d, want %d", d.GetAttempt(), attempt+1)
		}
	}
	wait := &queuev1.ReceiveRequest{Queue: "mails", Wait: durationpb.New(3 * time.Second)}
	if r, err := o.Receive(t.Context(), wait); err != nil || len(r.GetDeliveries()) > 0 {
		t.Errorf("after the last time: %v, %v", r, err)
	}
	o.story(o.takeFrom("mails.dlq", 1)[0], "2", "it was not acknowledged in time", "3")
}

// What is returned comes to others at once and is not counted, however often.
func testReturn(t *testing.T, o *office) {
	o.put("1")
	for range 5 {
		d := o.take(1)[0]
		if d.GetAttempt() != 1 {
			t.Fatalf("attempt %d", d.GetAttempt())
		}
		r, err := o.Return(t.Context(), &queuev1.ReturnRequest{Queue: "mails", Receipts: []string{d.GetReceipt()}})
		if err != nil || outcomes(r.GetResults())[0] != errs.Unknown {
			t.Fatalf("return: %v, %v", r, err)
		}
	}
	if s := o.stat("mails"); s.GetDeadLetters() != 0 || s.GetReady() != 1 {
		t.Errorf("then: %v", s)
	}
}

// What is rejected rests: after the first failure for the backoff, less up to a
// fifth, then twice that, no more than max_backoff; or as long as was asked for.
func testBackoff(t *testing.T, o *office) {
	o.put("1")
	rested := func(how *consumerv1.Reject, least, most time.Duration) {
		t.Helper()
		d := o.take(1)[0]
		began := time.Now()
		o.reject(d, how)
		next := o.take(1)[0]
		if took := time.Since(began); took < least-20*time.Millisecond || took > most+2500*time.Millisecond || next.GetAttempt() != d.GetAttempt()+1 {
			t.Errorf("it rested for %s, attempt %d after %d; want %s to %s", took, next.GetAttempt(), d.GetAttempt(), least, most)
		}
		r, err := o.Return(t.Context(), &queuev1.ReturnRequest{Queue: "mails", Receipts: []string{next.GetReceipt()}})
		if err != nil || outcomes(r.GetResults())[0] != errs.Unknown {
			t.Fatalf("return: %v, %v", r, err)
		}
	}
	rested(&consumerv1.Reject{}, 480*time.Millisecond, 600*time.Millisecond)
	rested(nil, 800*time.Millisecond, time.Second)
	rested(&consumerv1.Reject{Delay: durationpb.New(0)}, 0, 0)
	rested(&consumerv1.Reject{Delay: durationpb.New(1300 * time.Millisecond)}, 1300*time.Millisecond, 1300*time.Millisecond)
}
