package proxy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	consumerv1 "github.com/prismgw/prism/api/prism/consumer/v1"
	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	queuev1 "github.com/prismgw/prism/api/prism/queue/v1"
	"github.com/prismgw/prism/errs"
)

// post are documents with queues; documents are to be loaded with them.
const post = `
{kind: Backend, name: tray, driver: memory, url: "memory://tray"}
---
{kind: Namespace, name: post, patterns: [{name: jobs, kind: queue, settings: {queues: [{name: mails, ack_wait: 1m}]}, slots: {messages-queue: {backend: tray}}}], auth: {anonymous: read_write}}
---
{kind: Namespace, name: seen, patterns: [{name: jobs, kind: queue, settings: {queues: [{name: "*"}]}, slots: {messages-queue: {backend: tray}}}], auth: {anonymous: read_only}}
---
{kind: Namespace, name: sparing, patterns: [{name: jobs, kind: queue, settings: {queues: [{name: "*"}]}, slots: {messages-queue: {backend: tray}}}], auth: {anonymous: read_write}, limits: {write_rps: 5}}
`

func mail(text string) *queuev1.NewTask {
	return &queuev1.NewTask{Envelope: &envelopev1.PrismEnvelope{Payload: []byte(text)}}
}

func enqueue(t *testing.T, c queuev1.QueueClient, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if _, err := c.Enqueue(in(t, "post"), &queuev1.EnqueueRequest{Queue: "mails", Task: mail(text)}); err != nil {
			t.Fatal(err)
		}
	}
}

func receiveOne(t *testing.T, c queuev1.QueueClient, want string) *queuev1.Delivery {
	t.Helper()
	r, err := c.Receive(in(t, "post"), &queuev1.ReceiveRequest{Queue: "mails", MaxMessages: 1})
	if err != nil || len(r.GetDeliveries()) != 1 || string(r.GetDeliveries()[0].GetEnvelope().GetPayload()) != want {
		t.Fatalf("received %v, %v; want %q", r, err, want)
	}
	return r.GetDeliveries()[0]
}

// Who may only read may look at a queue, and takes nothing from anybody.
func TestQueueAccess(t *testing.T) {
	t.Parallel()
	s := start(t, nil, documents, post)
	c := queuev1.NewQueueClient(s.conn(t))
	ctx := in(t, "seen")
	_, statErr := c.Stat(ctx, &queuev1.StatRequest{Queue: "a"})
	_, browseErr := c.Browse(ctx, &queuev1.BrowseRequest{Queue: "a"})
	if statErr != nil || browseErr != nil {
		t.Errorf("looking: %v, %v", statErr, browseErr)
	}
	for method, call := range map[string]func() error{
		"enqueue": func() error {
			_, err := c.Enqueue(ctx, &queuev1.EnqueueRequest{Queue: "a", Task: mail("x")})
			return err
		},
		"enqueue batch": func() error { _, err := c.EnqueueBatch(ctx, &queuev1.EnqueueBatchRequest{Queue: "a"}); return err },
		"receive":       func() error { _, err := c.Receive(ctx, &queuev1.ReceiveRequest{Queue: "a"}); return err },
		"acknowledge":   func() error { _, err := c.Acknowledge(ctx, &queuev1.AcknowledgeRequest{Queue: "a"}); return err },
		"reject":        func() error { _, err := c.Reject(ctx, &queuev1.RejectRequest{Queue: "a"}); return err },
		"return":        func() error { _, err := c.Return(ctx, &queuev1.ReturnRequest{Queue: "a"}); return err },
		"extend":        func() error { _, err := c.Extend(ctx, &queuev1.ExtendRequest{Queue: "a"}); return err },
	} {
		if got := errs.FromStatus(call()); got == nil || got.Reason != errs.Unauthenticated && got.Reason != errs.Forbidden {
			t.Errorf("%s: %v", method, got)
		}
	}
}

// A batch is charged by its tasks.
func TestQueueRate(t *testing.T) {
	t.Parallel()
	s := start(t, nil, documents, post)
	c := queuev1.NewQueueClient(s.conn(t))
	batch := func(n int) error {
		r := &queuev1.EnqueueBatchRequest{Queue: "a"}
		for range n {
			r.Tasks = append(r.Tasks, mail("x"))
		}
		_, err := c.EnqueueBatch(in(t, "sparing"), r)
		return err
	}
	if err := batch(5); err != nil {
		t.Errorf("a second's worth: %v", err)
	}
	if got := errs.FromStatus(batch(5)); got == nil || got.Reason != errs.RateLimited {
		t.Errorf("at once after it: %v", got)
	}
	if got := errs.FromStatus(batch(6)); got == nil || got.Reason != errs.PayloadTooLarge {
		t.Errorf("more than a second's worth: %v", got)
	}
}

// A proxy that stops does not wait for those who wait, hands nothing out any
// more, and takes nothing to the dead letters.
func TestQueueAndStop(t *testing.T) {
	t.Parallel()
	file := fmt.Sprintf(`{kind: Backend, name: disk, driver: sqlite, url: "sqlite:%s/queue.db"}
---
{kind: Namespace, name: post, queues: [{name: mails, ack_wait: 1m, max_deliveries: 1}], auth: {anonymous: read_write}}`, t.TempDir())
	s := start(t, nil, file)
	c := queuev1.NewQueueClient(s.conn(t))
	enqueue(t, c, "1")
	held := receiveOne(t, c, "1")
	ended := make(chan error, 1)
	ctx, cancel := context.WithTimeout(in(t, "post"), 30*time.Second)
	defer cancel()
	go func() {
		_, err := c.Receive(ctx, &queuev1.ReceiveRequest{Queue: "mails", Wait: durationpb.New(20 * time.Second)})
		ended <- err
	}()
	waitFor(t, "somebody waits", func() bool {
		return strings.Contains(get(t, "http://"+s.Ops+"/metrics"), `prism_backend_operation_duration_seconds_count{backend="disk",operation="wait"}`)
	})
	began := time.Now()
	s.stop()
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("it stopped after %s", took)
	}
	if got := errs.FromStatus(<-ended); got == nil || got.Reason != errs.Draining {
		t.Errorf("who waited got %v", got)
	}
	next := start(t, nil, file)
	c = queuev1.NewQueueClient(next.conn(t))
	r, err := c.Return(in(t, "post"), &queuev1.ReturnRequest{Queue: "mails", Receipts: []string{held.GetReceipt()}})
	if err != nil || r.GetResults()[0].GetError() != nil {
		t.Fatalf("return: %v, %v", r, err)
	}
	if again := receiveOne(t, c, "1"); again.GetAttempt() != 1 {
		t.Errorf("attempt %d", again.GetAttempt())
	}
	if stat, err := c.Stat(in(t, "post"), &queuev1.StatRequest{Queue: "mails"}); err != nil || stat.GetDeadLetters() != 0 {
		t.Errorf("%v, %v", stat, err)
	}
}

func TestQueueMetrics(t *testing.T) {
	t.Parallel()
	s := start(t, nil, documents, post)
	c := queuev1.NewQueueClient(s.conn(t))
	enqueue(t, c, "1")
	d := receiveOne(t, c, "1")
	if _, err := c.Reject(in(t, "post"), &queuev1.RejectRequest{Queue: "mails", Receipts: []string{d.GetReceipt()}, How: &consumerv1.Reject{DeadLetter: true}}); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`prism_queue_delivered_tasks_total{namespace="post",pattern="jobs",queue="mails"} 1`,
		`prism_queue_redelivered_tasks_total{namespace="post",pattern="jobs",queue="mails"} 0`,
		`prism_queue_dead_letters_total{namespace="post",pattern="jobs",queue="mails"} 1`,
		`prism_queue_leased_tasks{namespace="post",pattern="jobs",queue="mails"} `,
		`prism_backend_operation_duration_seconds_count{backend="tray",operation="enqueue"} 2`,
		`prism_backend_operation_duration_seconds_count{backend="tray",operation="receive"} 1`,
	} {
		waitFor(t, line, func() bool { return strings.Contains(get(t, "http://"+s.Ops+"/metrics"), line) })
	}
}

// ask makes a request with a body and reads the answer's JSON.
func (s *served) ask(t *testing.T, verb, path, body string) (status int, answer map[string]any) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), verb, "http://"+s.HTTP+"/v1/namespaces/post/"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || json.Unmarshal(raw, &answer) != nil || resp.Header.Get("Server-Timing") == "" {
		t.Fatalf("%s %s: %d %s, %v", verb, path, resp.StatusCode, raw, err)
	}
	return resp.StatusCode, answer
}

// A task's whole way over HTTP.
func TestQueueOverHTTP(t *testing.T) {
	t.Parallel()
	s := start(t, nil, documents, post)
	receive := func(queue string) map[string]any {
		t.Helper()
		_, answer := s.ask(t, "POST", "queues/"+queue+":receive?max_messages=1&wait=8s", "")
		all, _ := answer["deliveries"].([]any)
		if len(all) != 1 {
			t.Fatalf("received %v", answer)
		}
		d, _ := all[0].(map[string]any)
		return d
	}
	settle := func(how, queue string, d map[string]any, more string) {
		t.Helper()
		status, answer := s.ask(t, "POST", "queues/"+queue+":"+how, fmt.Sprintf(`{"receipts": [%q]%s}`, d["receipt"], more))
		results, _ := answer["results"].([]any)
		if status != http.StatusOK || len(results) != 1 || strings.Contains(fmt.Sprint(results), "error") {
			t.Fatalf("%s: %d %v", how, status, answer)
		}
	}
	began := time.Now()
	if _, answer := s.ask(t, "POST", "queues/mails:receive?wait=2500ms", ""); time.Since(began) < 2400*time.Millisecond {
		t.Errorf("it waited %s, and then answered %v", time.Since(began), answer)
	}
	_, sent := s.ask(t, "POST", "queues/mails/messages", "one")
	s.ask(t, "POST", "queues/mails/messages?delay=1h", "two")
	if _, stat := s.ask(t, "GET", "queues/mails", ""); stat["ready"] != "1" || stat["delayed"] != "1" || stat["oldest"] == nil {
		t.Errorf("stat: %v", stat)
	}
	_, page := s.ask(t, "GET", "queues/mails/messages?limit=1", "")
	if all, _ := page["messages"].([]any); len(all) != 1 || page["next"] == nil {
		t.Errorf("browsed: %v", page)
	}
	_, page = s.ask(t, "GET", fmt.Sprintf("queues/mails/messages?from=%.0f", page["next"]), "")
	if text := fmt.Sprint(page["messages"]); !strings.Contains(text, "data:two") || !strings.Contains(text, "delay:59m") || page["next"] != nil {
		t.Errorf("browsed on: %v", page)
	}
	d := receive("mails")
	metadata, _ := d["metadata"].(map[string]any)
	if d["data"] != "one" || metadata["message_id"] != sent["message_id"] || d["attempt"] != 1.0 || d["until"] == nil || d["place"] == nil || d["headers"] != nil || d["unreadable"] != nil {
		t.Errorf("received: %v", d)
	}
	settle("extend", "mails", d, `, "by": "60s"`)
	settle("return", "mails", d, "")
	d = receive("mails")
	settle("reject", "mails", d, `, "how": {"dead_letter": true, "reason": "never"}`)
	d = receive("mails.dlq")
	if h, _ := d["headers"].(map[string]any); d["data"] != "one" || h["prism-dead-reason"] != "never" {
		t.Errorf("dead letter: %v", d)
	}
	settle("acknowledge", "mails.dlq", d, "")
	if _, stat := s.ask(t, "GET", "queues/mails", ""); stat["dead_letters"] != nil || stat["ready"] != nil {
		t.Errorf("stat: %v", stat)
	}
	if _, answer := s.ask(t, "POST", "patterns/jobs/queues/mails:receive", ""); len(answer["deliveries"].([]any)) != 0 { //nolint:forcetypeassert // it is an array, or the test fails
		t.Errorf("received %v", answer)
	}
}
