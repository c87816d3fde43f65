package client_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/prismgw/prism/client"
	"github.com/prismgw/prism/client/prismtest"
	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/faultproxy"
)

// A reader takes messages of a subscription one by one.
type reader struct {
	t        *testing.T
	messages chan client.Message
	end      chan error
}

func read(t *testing.T, sub *client.Subscription) *reader {
	t.Helper()
	r := &reader{t, make(chan client.Message, 1000), make(chan error, 1)}
	go func() {
		for m, err := range sub.Messages() {
			if err != nil {
				r.end <- err
				return
			}
			r.messages <- m
		}
		r.end <- nil
	}()
	return r
}

func (r *reader) next() client.Message {
	r.t.Helper()
	select {
	case m := <-r.messages:
		return m
	case err := <-r.end:
		r.t.Fatalf("the messages end: %v", err)
	case <-time.After(20 * time.Second):
		r.t.Fatal("nothing comes")
	}
	return client.Message{}
}

func (r *reader) hears(want string) client.Message {
	r.t.Helper()
	m := r.next()
	if string(m.Payload) != want || m.Missed != 0 {
		r.t.Fatalf("heard %q, missed %d, want %q", m.Payload, m.Missed, want)
	}
	return m
}

// ends waits for the end of the messages.
func (r *reader) ends() error {
	r.t.Helper()
	select {
	case err := <-r.end:
		return err
	case <-time.After(20 * time.Second):
		r.t.Fatal("there is no end")
	}
	return nil
}

func subscribe(t *testing.T, p *client.PubSub, filter string, opts ...client.SubscribeOption) *client.Subscription {
	t.Helper()
	sub, err := p.Subscribe(t.Context(), filter, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Close() })
	return sub
}

func publish(t *testing.T, p *client.PubSub, subject, text string, opts ...envelope.Option) string {
	t.Helper()
	id, err := p.Publish(t.Context(), subject, []byte(text), opts...)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestPubSub(t *testing.T) {
	t.Parallel()
	events := prismtest.New(t).PubSub("test/events")
	sub := subscribe(t, events, "orders.*")
	all := read(t, sub)
	id := publish(t, events, "orders.placed", "first", envelope.WithCorrelationID("flow"), envelope.WithPublisher("root", "board"))
	m := all.hears("first")
	if meta := m.Envelope.GetMetadata(); m.Subject != "orders.placed" || meta.GetMessageId() != id || len(id) != 36 || meta.GetCorrelationId() != "flow" || m.Envelope.GetSecurity().GetPublisherId() != "" {
		t.Errorf("%s %v", id, m.Envelope)
	}
	one, other := read(t, subscribe(t, events, "orders.>", client.Group("g"))), read(t, subscribe(t, events, "orders.>", client.Group("g")))
	for i := range 20 {
		publish(t, events, "orders.placed", fmt.Sprint(i))
		all.hears(fmt.Sprint(i))
		select {
		case m = <-one.messages:
		case m = <-other.messages:
		case <-time.After(20 * time.Second):
			t.Fatal("nobody of the group hears it")
		}
		if string(m.Payload) != fmt.Sprint(i) {
			t.Errorf("the group hears %q", m.Payload)
		}
	}
	if err := sub.Close(); err != nil {
		t.Fatal(err)
	}
	if err := all.ends(); err != nil {
		t.Errorf("closed: %v", err)
	}
	publish(t, events, "orders.placed", "after the end")
	if len(all.messages) > 0 {
		t.Error("a closed subscription hears")
	}
}

func TestPubSubErrors(t *testing.T) {
	t.Parallel()
	c := prismtest.New(t)
	for path, want := range map[string]errs.Reason{"test/events": errs.InvalidField, "nobody": errs.NamespaceNotFound, "test/data": errs.PatternNotFound, "a/b/c": errs.InvalidField} {
		p := c.PubSub(path)
		if _, err := p.Publish(t.Context(), "a.*", []byte("x")); !errors.Is(err, want) {
			t.Errorf("publish at %s: %v", path, err)
		}
		if _, err := p.Subscribe(t.Context(), "a..b"); !errors.Is(err, want) {
			t.Errorf("subscribe at %s: %v", path, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	sub, err := c.PubSub("test").Subscribe(ctx, ">")
	if err != nil {
		t.Fatal(err)
	}
	r := read(t, sub)
	cancel()
	if err := r.ends(); !errors.Is(err, errs.Cancelled) {
		t.Errorf("when its context ends: %v", err)
	}
	if err := read(t, sub).ends(); !errors.Is(err, errs.Cancelled) {
		t.Errorf("after its end: %v", err)
	}
	if _, err := c.PubSub("test").Subscribe(ctx, ">"); !errors.Is(err, errs.Cancelled) {
		t.Errorf("subscribe in vain: %v", err)
	}
	last := read(t, subscribe(t, c.PubSub("test"), ">"))
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := last.ends(); !errors.Is(err, errs.Cancelled) {
		t.Errorf("when the client is closed: %v", err)
	}
}

// A subscription is made again where its namespace was changed, and ends where
// it is gone.
func TestSubscriptionAndReloads(t *testing.T) {
	t.Parallel()
	const doc = `
{kind: Backend, name: memory, driver: memory, url: "memory:"}
---
{kind: Namespace, name: news, patterns: [{name: events, kind: pubsub, settings: {layout: %s}}], auth: {anonymous: read_write}}`
	s := prismtest.Start(t, fmt.Sprintf(doc, "envelope"))
	events := s.Client(t, "news").PubSub("")
	r := read(t, subscribe(t, events, ">"))
	publish(t, events, "a", "before")
	r.hears("before")
	for _, layout := range []string{"native", "envelope", "native"} {
		s.Load(t, fmt.Sprintf(doc, layout))
		if m := r.next(); m.Missed != client.MissedUnknown || m.Envelope != nil {
			t.Fatalf("%+v, want to be told", m)
		}
		if id := publish(t, events, "a", layout); (id == "") != (layout == "native") {
			t.Errorf("layout %s: id %q", layout, id)
		}
		r.hears(layout)
	}
	s.Load(t, `{kind: Backend, name: memory, driver: memory, url: "memory:"}`)
	if err := r.ends(); !errors.Is(err, errs.NamespaceNotFound) {
		t.Errorf("when the namespace is gone: %v", err)
	}
}

// A subscription whose connection breaks again and again goes on, and says
// where nobody knows what it missed.
func TestSubscriptionAndBrokenConnections(t *testing.T) {
	t.Parallel()
	s := prismtest.Start(t, `
{kind: Backend, name: memory, driver: memory, url: "memory:"}
---
{kind: Namespace, name: news, patterns: [{name: events, kind: pubsub}], auth: {anonymous: read_write}}`)
	p := faultproxy.Listen(t, s.GRPC)
	c, err := client.Dial(p.Addr, client.WithNamespace("news"), client.WithRetry(client.RetryPolicy{Tries: 3, BaseDelay: time.Millisecond, MaxDelay: 50 * time.Millisecond}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	near := s.Client(t, "news").PubSub("")
	r := read(t, subscribe(t, c.PubSub(""), "a"))
	for i := range 5 {
		publish(t, near, "a", fmt.Sprint(i))
		r.hears(fmt.Sprint(i))
		p.Set(faultproxy.Refuse)
		p.Set(faultproxy.Pass)
		if m := r.next(); m.Missed != client.MissedUnknown {
			t.Fatalf("%+v, want to be told", m)
		}
	}
	p.Set(faultproxy.Refuse)
	select {
	case m := <-r.messages:
		t.Errorf("without a server: %+v", m)
	case err := <-r.end:
		t.Fatalf("without a server: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	p.Set(faultproxy.Pass)
	if m := r.next(); m.Missed != client.MissedUnknown {
		t.Fatalf("%+v, want to be told", m)
	}
	publish(t, near, "a", "last")
	r.hears("last")
}
