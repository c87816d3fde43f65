package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/prismgw/prism/client"
	"github.com/prismgw/prism/internal/testutil/servers"
)

// startNews starts a proxy on a NATS server, with a namespace of each layout,
// and returns what reaches them.
func startNews(t *testing.T, url string) (wrapped, plain *client.PubSub) {
	t.Helper()
	dir := t.TempDir()
	documents := fmt.Sprintf(`
{kind: Backend, name: bus, driver: nats, url: "%s"}
---
{kind: Namespace, name: news, patterns: [{name: events, kind: pubsub}], auth: {anonymous: read_write}}
---
{kind: Namespace, name: plain, patterns: [{name: events, kind: pubsub, settings: {layout: native}}], auth: {anonymous: read_write}}
`, url)
	file := filepath.Join(dir, "docs.yaml")
	if err := os.WriteFile(file, []byte(documents), 0o600); err != nil {
		t.Fatal(err)
	}
	s := startServer(t, dir, "proxy", "--grpc-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0", file)
	c, err := client.Dial(s.GRPC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.PubSub("news"), c.PubSub("plain")
}

// A hearer has what a subscription hears.
type hearer chan client.Message

func hear(t *testing.T, p *client.PubSub, filter string, opts ...client.SubscribeOption) hearer {
	t.Helper()
	sub, err := p.Subscribe(t.Context(), filter, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Close() })
	h := make(hearer, 10_000)
	go func() {
		defer close(h)
		for m, err := range sub.Messages() {
			if err != nil {
				return // at the end of the test; otherwise next tells
			}
			h <- m
		}
	}()
	return h
}

func (h hearer) next(t *testing.T) client.Message {
	t.Helper()
	select {
	case m, ok := <-h:
		if !ok {
			t.Fatal("the subscription has ended")
		}
		return m
	case <-time.After(patience):
		t.Fatal("nothing is heard")
	}
	return client.Message{}
}

// awaits publishes until a message is heard: what is said between two proxies
// takes a moment to get around.
func (h hearer) awaits(t *testing.T, publish func(text string)) {
	t.Helper()
	for i := range 1000 {
		publish(fmt.Sprint("hello? ", i))
		select {
		case m := <-h:
			for m.Missed != 0 {
				m = h.next(t)
			}
			for text := fmt.Sprint("hello? ", i); string(m.Payload) != text; m = h.next(t) {
				if !strings.HasPrefix(string(m.Payload), "hello? ") {
					t.Fatalf("%q", m.Payload)
				}
			}
			return
		case <-time.After(patience / 1000):
		}
	}
	t.Fatal("nobody hears")
}

func publishText(t *testing.T, p *client.PubSub, subject, text string) {
	t.Helper()
	if _, err := p.Publish(t.Context(), subject, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

// Messages go from one proxy to another, groups span both, and the server's
// crash is a gap of which subscribers are told.
func TestMessagesBetweenProxies(t *testing.T) {
	t.Parallel()
	bus := servers.NATSWith(t)
	one, _ := startNews(t, bus.URL)
	other, _ := startNews(t, bus.URL)
	far := hear(t, other, "orders.*")
	group := []hearer{hear(t, one, "orders.*", client.Group("g")), hear(t, other, "orders.*", client.Group("g"))}
	far.awaits(t, func(text string) { publishText(t, one, "orders.placed", text) })
	const many = 200
	for i := range many {
		publishText(t, one, "orders.placed", fmt.Sprint("message ", i))
	}
	for i := range many {
		if m := far.next(t); string(m.Payload) != fmt.Sprint("message ", i) || m.Envelope.GetMetadata().GetNamespace() != "news" {
			t.Fatalf("heard %v as number %d", m, i)
		}
	}
	shared := map[string]int{}
	for len(shared) < many {
		var m client.Message
		select {
		case m = <-group[0]:
		case m = <-group[1]:
		case <-time.After(patience):
			t.Fatalf("the group has heard %d", len(shared))
		}
		if strings.HasPrefix(string(m.Payload), "message ") {
			shared[string(m.Payload)]++
		}
	}
	for text, n := range shared {
		if n != 1 {
			t.Errorf("the group has heard %s %d times", text, n)
		}
	}
	bus.Kill()
	bus.Start()
	if m := far.next(t); m.Missed != client.MissedUnknown {
		t.Errorf("after a crash: %+v", m)
	}
	far.awaits(t, func(text string) { _, _ = one.Publish(t.Context(), "orders.placed", []byte(text)) })
}

// In the layout native, programs that know nothing of Prism publish and listen
// on the server itself.
func TestForeignProgramsAndMessages(t *testing.T) {
	t.Parallel()
	bus := servers.NATSWith(t)
	_, plain := startNews(t, bus.URL)
	nc, err := nats.Connect(bus.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	const prefix = "prism.prism.plain.events."
	foreign, err := nc.SubscribeSync(prefix + "orders.>")
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	publishText(t, plain, "orders.eu.placed", `{"items": 3}`)
	if m, err := foreign.NextMsg(patience); err != nil || string(m.Data) != `{"items": 3}` || m.Subject != prefix+"orders.eu.placed" || len(m.Header) > 0 {
		t.Fatalf("%+v, %v", m, err)
	}
	heard := hear(t, plain, "orders.*.placed")
	for _, payload := range []string{"of another program", "", "\x00\xff"} {
		if err := nc.Publish(prefix+"orders.us.placed", []byte(payload)); err != nil {
			t.Fatal(err)
		}
		m := heard.next(t)
		meta := m.Envelope.GetMetadata()
		if string(m.Payload) != payload || m.Subject != "orders.us.placed" || meta.GetNamespace() != "plain" || meta.GetMessageId() != "" {
			t.Errorf("%+v", m)
		}
	}
}
