package patterntest

import (
	"context"
	"fmt"
	"maps"
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
)

// story checks what is told of a dead letter.
func (o *office) story(d *queuev1.Delivery, text, reason, attempts string) {
	o.Helper()
	h := d.GetHeaders()
	if string(d.GetEnvelope().GetPayload()) != text || h["prism-dead-reason"] != reason || h["prism-dead-attempts"] != attempts || h["prism-dead-topic"] != "mails" {
		o.Errorf("dead letter %q: %v; want %q, %q after %s", d.GetEnvelope().GetPayload(), h, text, reason, attempts)
	}
	if at, err := time.Parse(time.RFC3339Nano, h["prism-dead-at"]); err != nil || time.Since(at) > time.Minute || h["prism-dead-position"] == "" {
		o.Errorf("dead letter %q: %v", d.GetEnvelope().GetPayload(), h)
	}
}

func testDeadTasks(t *testing.T, o *office) {
	ids := o.put("1", "2", "3")
	for attempt := range int32(3) {
		all := o.take(1)
		for string(all[0].GetEnvelope().GetPayload()) != "1" { // while it rests, others come
			o.finishLater(all[0])
			all = o.take(1)
		}
		if all[0].GetAttempt() != attempt+1 {
			t.Fatalf("attempt %d, want %d", all[0].GetAttempt(), attempt+1)
		}
		o.reject(all[0], &consumerv1.Reject{Reason: "no stock\x01"})
	}
	second := o.take(1)[0]
	o.reject(second, &consumerv1.Reject{DeadLetter: true, Reason: "never"})
	o.reject(second, &consumerv1.Reject{DeadLetter: true, Reason: "again"}) // it is settled: nothing happens
	o.finish("mails", o.take(1)...)
	if s := o.stat("mails"); s.GetReady()+s.GetDelayed()+s.GetLeased() != 0 || s.GetDeadLetters() != 2 {
		t.Errorf("then: %v", s)
	}
	dead := o.takeFrom("mails.dlq", 2)
	o.story(dead[0], "1", "no stock?", "3")
	o.story(dead[1], string(second.GetEnvelope().GetPayload()), "never", "1")
	if dead[0].GetEnvelope().GetMetadata().GetMessageId() != ids[0].GetMessageId() || dead[0].GetAttempt() != 1 {
		t.Errorf("the first: %v", dead[0])
	}
	o.finish("mails.dlq", dead...)
	o.nothing("mails.dlq")
}

// finishLater returns a task.
func (o *office) finishLater(d *queuev1.Delivery) {
	o.Helper()
	if _, err := o.Return(o.Context(), &queuev1.ReturnRequest{Queue: "mails", Receipts: []string{d.GetReceipt()}}); err != nil {
		o.Fatal(err)
	}
}

// foreign puts a task there that no proxy has made.
func (o *office) foreign(value string) {
	o.Helper()
	result := make([]driver.EnqueueResult, 1)
	o.tasks.Enqueue(o.Context(), "mails", []driver.Task{{Priority: 5, Value: []byte(value)}}, result)
	if result[0].Err != nil {
		o.Fatal(result[0].Err)
	}
}

// What is not signed by this namespace for this queue is never handed out, and
// is a dead letter at once, as it was.
func testSignedTasks(t *testing.T, o *office) {
	all := lies(t, o.namespace, "mails")
	for i := range all {
		o.foreign(string(all[i].wire))
	}
	o.foreign(string(sign(t, "before", o.namespace, "mails", "of the key before")))
	o.put("signed")
	got := o.take(2)
	o.same("believed", taskTexts(got), []string{"of the key before", "signed"})
	o.finish("mails", got...)
	o.nothing("mails")
	dead := o.browse("mails.dlq", 0, 100).GetMessages()
	if len(dead) != len(all) {
		t.Fatalf("%d dead letters of %d", len(dead), len(all))
	}
	for i, b := range dead {
		if !strings.HasPrefix(b.GetUnreadable(), all[i].why) || !strings.Contains(b.GetHeaders()["prism-dead-reason"], all[i].why) || b.GetEnvelope() != nil {
			t.Errorf("%s: %v", all[i].name, b)
		}
	}
	// One that was believed is read among the dead letters too.
	o.put("refused")
	o.reject(o.take(1)[0], &consumerv1.Reject{DeadLetter: true})
	last := o.takeFrom("mails.dlq", len(all)+1)
	if text := string(last[len(all)].GetEnvelope().GetPayload()); text != "refused" || last[len(all)].GetUnreadable() != "" {
		t.Errorf("among the dead letters: %v", last[len(all)])
	}
}

// What cannot be read goes to the dead letters at once, and holds up nobody.
func testUnreadableTasks(t *testing.T, o *office) {
	o.foreign("\xff\xff")
	o.foreign("")
	o.put("1")
	o.same("readable", taskTexts(o.take(1)), []string{"1"})
	if s := o.stat("mails"); s.GetDeadLetters() != 2 || s.GetReady()+s.GetDelayed() != 0 {
		t.Errorf("then: %v", s)
	}
	all := o.browse("mails.dlq", 0, 10).GetMessages()
	for _, b := range all {
		if h := b.GetHeaders(); b.GetUnreadable() == "" || b.GetEnvelope() != nil || !strings.HasPrefix(h["prism-dead-reason"], "it cannot be read: ") || h["prism-dead-attempts"] != "0" {
			t.Errorf("browsed: %v", b)
		}
	}
	// They can be received where they are, to be done with.
	dead := o.takeFrom("mails.dlq", 2)
	for _, d := range dead {
		if d.GetUnreadable() == "" || d.GetEnvelope() != nil || d.GetHeaders()["prism-dead-reason"] == "" {
			t.Errorf("received: %v", d)
		}
	}
	o.finish("mails.dlq", dead...)
	o.nothing("mails.dlq")
}

// A task whose ttl has passed goes to the dead letters instead of a worker.
func testExpiredTasks(t *testing.T, o *office) {
	expired, lives := task("expired"), task("lives")
	expired.Envelope.Metadata = &envelopev1.Metadata{TtlSeconds: 60, PublishedAtMs: time.Now().Add(-61 * time.Second).UnixMilli()}
	lives.Envelope.Metadata = &envelopev1.Metadata{TtlSeconds: 60, PublishedAtMs: time.Now().Add(-30 * time.Second).UnixMilli()}
	o.putTask(expired)
	o.putTask(lives)
	o.same("received", taskTexts(o.take(1)), []string{"lives"})
	o.nothing("mails")
	if s := o.stat("mails"); s.GetDeadLetters() != 1 {
		t.Errorf("then: %v", s)
	}
	o.story(o.takeFrom("mails.dlq", 1)[0], "expired", "it expired: its ttl of 60s had passed", "0")
}

// Nothing dies twice: dead letters come again until somebody is done with them.
func testDeadLettersStay(t *testing.T, o *office) {
	o.put("1")
	o.reject(o.take(1)[0], &consumerv1.Reject{DeadLetter: true})
	for attempt := range int32(5) { // max_deliveries is 3
		d := o.takeFrom("mails.dlq", 1)[0]
		if d.GetAttempt() != attempt+1 || d.GetHeaders()["prism-dead-reason"] != "it was rejected" {
			t.Fatalf("attempt %d: %v", attempt+1, d)
		}
		r, err := o.Reject(t.Context(), &queuev1.RejectRequest{Queue: "mails.dlq", Receipts: []string{d.GetReceipt()}})
		if err != nil || outcomes(r.GetResults())[0] != errs.Unknown {
			t.Fatalf("reject: %v, %v", r, err)
		}
	}
	_, err := o.Reject(t.Context(), &queuev1.RejectRequest{Queue: "mails.dlq", Receipts: []string{"x"}, How: &consumerv1.Reject{DeadLetter: true}})
	o.refused("dead letters of dead letters", err, errs.InvalidField)
	if s := o.stat("mails.dlq"); s.GetReady()+s.GetDelayed() != 1 || s.GetDeadLetters() != 0 {
		t.Errorf("then: %v", s)
	}
}

// Any proxy settles what another one has handed out, and sees how often.
func testAnyProxySettles(t *testing.T, o *office) {
	other := o.s.officeAt(t, o.namespace, o.settings)
	o.put("1", "2", "3")
	all := o.take(3)
	other.finish("mails", all[0])
	other.reject(all[1], &consumerv1.Reject{DeadLetter: true, Reason: "elsewhere"})
	o.story(o.takeFrom("mails.dlq", 1)[0], "2", "elsewhere", "1")
	r, err := other.Extend(t.Context(), &queuev1.ExtendRequest{Queue: "mails", Receipts: []string{all[2].GetReceipt()}, By: durationpb.New(time.Minute)})
	if err != nil || outcomes(r.GetResults())[0] != errs.Unknown {
		t.Fatalf("extend: %v, %v", r, err)
	}
	other.reject(all[2], nil)
	again := other.take(1)[0]
	if again.GetAttempt() != 2 || string(again.GetEnvelope().GetPayload()) != "3" {
		t.Errorf("received there: %v", again)
	}
	o.finish("mails", again)
	o.nothing("mails")
}

// What is leased for a caller that has gone away goes back at once, uncounted.
func testReceiverGone(t *testing.T, o *office) {
	for i := range 10 {
		ctx, leave := context.WithCancel(t.Context())
		gone := make(chan error, 1)
		go func() {
			_, err := o.Receive(ctx, &queuev1.ReceiveRequest{Queue: "others", MaxMessages: 100, Wait: durationpb.New(20 * time.Second)})
			gone <- err
		}()
		o.nothing("mails") // by then the other one waits
		leave()
		o.refused("who left", <-gone, errs.Cancelled)
		// The proxy hears of that before it gets this, and waits on meanwhile.
		text := fmt.Sprint(i)
		if _, err := o.Enqueue(t.Context(), &queuev1.EnqueueRequest{Queue: "others", Task: task(text)}); err != nil {
			t.Fatal(err)
		}
		d := o.takeFrom("others", 1)[0] // long before a lease of 30s ends
		if got := string(d.GetEnvelope().GetPayload()); got != text || d.GetAttempt() != 1 {
			t.Errorf("%s came with attempt %d, want %s with 1", got, d.GetAttempt(), text)
		}
		o.finish("others", d)
	}
}

// A proxy that stops tells those who wait to go elsewhere; what was in hand is
// settled through another one, and none of it is a dead letter.
func testQueueStop(t *testing.T, o *office) {
	o.put("1")
	d := o.take(1)[0]
	ended := make(chan error, 1)
	go func() {
		_, err := o.Receive(t.Context(), &queuev1.ReceiveRequest{Queue: "mails", Wait: durationpb.New(20 * time.Second)})
		ended <- err
	}()
	o.nothing("mails") // by then the other one waits
	o.stop()
	o.refused("who waited", <-ended, errs.Draining)
	_, err := o.Receive(t.Context(), &queuev1.ReceiveRequest{Queue: "mails"})
	o.refused("receive while it stops", err, errs.Draining)
	other := o.s.officeAt(t, o.namespace, o.settings)
	other.finish("mails", d)
	other.put("2")
	next := other.take(1)[0]
	o.finish("mails", next) // who is still connected can settle
	if s := other.stat("mails"); next.GetAttempt() != 1 || s.GetReady()+s.GetDelayed()+s.GetLeased()+s.GetDeadLetters() != 0 {
		t.Errorf("attempt %d, then %v", next.GetAttempt(), s)
	}
}

func (o *office) browse(name string, from int64, limit int32) *queuev1.BrowseResponse {
	o.Helper()
	r, err := o.Browse(o.Context(), &queuev1.BrowseRequest{Queue: name, From: from, Limit: limit})
	if err != nil {
		o.Fatalf("browse: %v", err)
	}
	return r
}

// Stat counts and Browse shows; neither takes anything from anybody.
func testBrowseTasks(t *testing.T, o *office) {
	if s := o.stat("mails"); s.GetReady()+s.GetDelayed()+s.GetLeased()+s.GetDeadLetters() != 0 || s.GetOldest() != nil {
		t.Errorf("nothing: %v", s)
	}
	var want []string
	for i := range 40 {
		want = append(want, fmt.Sprint(i))
	}
	o.put(want...)
	late := task("late")
	late.Delay = durationpb.New(time.Hour)
	o.putTask(late)
	want = append(want, "late")
	o.take(2)
	var got []string
	pages := 0
	for from := int64(0); ; pages++ {
		page := o.browse("mails", from, 15)
		for _, b := range page.GetMessages() {
			got = append(got, string(b.GetEnvelope().GetPayload()))
			if i := len(got); (b.GetAttempts() == 1) != (i <= 2) || (b.GetDelay() != nil) != (i == 41) || b.GetPlace().GetEnqueuedAt() == nil {
				t.Errorf("browsed: %v", b)
			}
		}
		if from = page.GetNext(); from == 0 {
			break
		}
	}
	o.same("browsed", got, want)
	if pages != 2 {
		t.Errorf("it took %d pages more than one", pages)
	}
	if s := o.stat("mails"); s.GetReady() != 38 || s.GetDelayed() != 1 || s.GetLeased() != 2 || time.Since(s.GetOldest().AsTime()) > time.Minute {
		t.Errorf("stat: %v", s)
	}
	if all := o.take(38); all[0].GetAttempt() != 1 {
		t.Errorf("browsing counted: %v", all[0])
	}
	_, err := o.Browse(t.Context(), &queuev1.BrowseRequest{Queue: "mails", Limit: 1001})
	o.refused("too many", err, errs.InvalidField)
	_, err = o.Browse(t.Context(), &queuev1.BrowseRequest{Queue: "mails", From: -1})
	o.refused("from nowhere", err, errs.InvalidField)
}

// Workers that die with tasks in hand lose none of them, and none is a dead
// letter: each task is done by somebody.
func testHoldersDie(t *testing.T, o *office) {
	const tasks, workers = 60, 6
	var want []string
	for i := range tasks {
		want = append(want, fmt.Sprint(i))
	}
	o.put(want...)
	var mu sync.Mutex
	done := map[string]int{}
	again := 0
	left := func() int {
		mu.Lock()
		defer mu.Unlock()
		return tasks - len(done)
	}
	deadline := time.Now().Add(patience)
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			for turn := w; left() > 0 && time.Now().Before(deadline); turn++ {
				r, err := o.Receive(t.Context(), &queuev1.ReceiveRequest{Queue: "mails", MaxMessages: 5, Wait: durationpb.New(time.Second)})
				if err != nil {
					t.Errorf("receive: %v", err)
					return
				}
				if turn%3 == 0 {
					continue // this one dies with what it has
				}
				for _, d := range r.GetDeliveries() {
					got := o.acknowledge("mails", d.GetReceipt())[0]
					mu.Lock()
					if got == errs.Unknown {
						done[string(d.GetEnvelope().GetPayload())]++
					}
					if d.GetAttempt() > 1 {
						again++
					}
					mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	slices.Sort(want)
	o.same("done", slices.Sorted(maps.Keys(done)), want)
	for text, n := range done {
		if n != 1 {
			t.Errorf("%s was done %d times", text, n)
		}
	}
	if s := o.stat("mails"); s.GetReady()+s.GetDelayed()+s.GetLeased()+s.GetDeadLetters() != 0 || again == 0 {
		t.Errorf("then: %v; %d came again", s, again)
	}
}
