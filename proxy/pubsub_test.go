package proxy_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	pubsubv1 "github.com/prismgw/prism/api/prism/pubsub/v1"
	"github.com/prismgw/prism/client"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/memory"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/proxy"
)

// news are documents with messages; documents are to be loaded with them.
const news = `
{kind: Backend, name: bus, driver: memory, url: "memory://bus"}
---
{kind: Namespace, name: news, patterns: [{name: events, kind: pubsub, slots: {messages-pubsub: {backend: bus}}}], auth: {anonymous: read_write}}
---
{kind: Namespace, name: plain, patterns: [{name: events, kind: pubsub, settings: {layout: native}}], auth: {anonymous: read_write}, limits: {concurrency: 1}}
---
{kind: Namespace, name: quiet, patterns: [{name: events, kind: pubsub}], auth: {anonymous: read_only}}
`

// pubsub returns a client on a connection of its own, whose windows are
// fixed: what it leaves unread is bounded.
func (s *served) pubsub(t *testing.T) pubsubv1.PubSubClient {
	t.Helper()
	return pubsubv1.NewPubSubClient(s.conn(t, grpc.WithInitialWindowSize(64<<10), grpc.WithInitialConnWindowSize(64<<10)))
}

type subscription = grpc.ServerStreamingClient[pubsubv1.SubscribeResponse]

// subscribe returns a subscription that stands. It ends with the test's
// patience.
func subscribe(t *testing.T, ctx context.Context, c pubsubv1.PubSubClient, filter string) subscription { //nolint:revive // ctx belongs to the call
	t.Helper()
	if !*long {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 40*time.Second)
		t.Cleanup(cancel)
	}
	sub, err := c.Subscribe(ctx, &pubsubv1.SubscribeRequest{Filter: filter})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := sub.Recv(); err != nil || r.GetSubscribed() == nil {
		t.Fatalf("%v, %v", r, err)
	}
	return sub
}

func publish(t *testing.T, ctx context.Context, c pubsubv1.PubSubClient, subject, text string) { //nolint:revive // ctx belongs to the call
	t.Helper()
	if _, err := c.Publish(ctx, &pubsubv1.PublishRequest{Subject: subject, Envelope: &envelopev1.PrismEnvelope{Payload: []byte(text)}}); err != nil {
		t.Fatal(err)
	}
}

// hears waits for one message.
func hears(t *testing.T, sub subscription, want string) {
	t.Helper()
	r, err := sub.Recv()
	if err != nil || len(r.GetMessages()) != 1 || string(r.GetMessages()[0].GetPayload()) != want || r.GetMissed() != nil {
		t.Fatalf("%v, %v, want %q", r, err, want)
	}
}

// goesAway waits for the end of a subscription that is told to go.
func goesAway(t *testing.T, sub subscription) error {
	t.Helper()
	r, err := sub.Recv()
	if err != nil || r.GetGoingAway() == nil {
		t.Fatalf("%v, %v, want to be told to go", r, err)
	}
	_, err = sub.Recv()
	return err
}

// openSubscriptions returns what prism_streams_open says.
func (s *served) openSubscriptions(t *testing.T, n int) bool {
	t.Helper()
	return strings.Contains(get(t, "http://"+s.Ops+"/metrics"), fmt.Sprintf("prism_streams_open{method=\"Subscribe\"} %d\n", n))
}

// A subscription stays through reloads that leave its namespace as it is, and
// ends with a status to begin again on when one changes or drops it.
func TestSubscriptionsAndReloads(t *testing.T) {
	t.Parallel()
	s := start(t, nil, documents, news)
	c := s.pubsub(t)
	sub := subscribe(t, in(t, "news"), c, ">")
	for _, unrelated := range []string{
		strings.Replace(news, "name: quiet", "name: silent", 1),
		strings.Replace(news, "layout: native", "layout: envelope", 1),
	} {
		if unrelated == news {
			t.Fatal("nothing is changed")
		}
		if err := s.load(documents, unrelated); err != nil {
			t.Fatal(err)
		}
		publish(t, in(t, "news"), c, "a", "still here")
		hears(t, sub, "still here")
	}
	for _, change := range [][3]string{
		{"a setting", "kind: pubsub, slots", "kind: pubsub, settings: {layout: native}, slots"},
		{"the backend", "memory://bus", "memory://other"},
		{"the slot", ", slots: {messages-pubsub: {backend: bus}}", ""},
		{"access", "{backend: bus}}}], auth: {anonymous: read_write}", "{backend: bus}}}], auth: {anonymous: read_only}"},
		{"the name", "name: events, kind: pubsub, slots", "name: others, kind: pubsub, slots"},
		{"all of it", "{kind: Namespace, name: news, patterns: [{name: events, kind: pubsub, slots: {messages-pubsub: {backend: bus}}}], auth: {anonymous: read_write}}\n---\n", ""},
	} {
		if err := s.load(documents, news); err != nil {
			t.Fatal(err)
		}
		sub := subscribe(t, in(t, "news"), c, ">")
		what, changed := change[0], strings.Replace(news, change[1], change[2], 1)
		if changed == news {
			t.Fatalf("%s is not changed", what)
		}
		if err := s.load(documents, changed); err != nil {
			t.Fatal(err)
		}
		told(t, "after a change of "+what, goesAway(t, sub), errs.Draining)
	}
	// The first one was told with the first change.
	told(t, "the one before", goesAway(t, sub), errs.Draining)
	_, err := subscribed(in(t, "news"), c)
	told(t, "what is gone", err, errs.NamespaceNotFound)
	waitFor(t, "nothing is open", func() bool { return s.openSubscriptions(t, 0) })
	goneFrom(t, s, `namespace="news"`)
}

// subscribed subscribes to everything and returns the first that is told.
func subscribed(ctx context.Context, c pubsubv1.PubSubClient) (*pubsubv1.SubscribeResponse, error) {
	sub, err := c.Subscribe(ctx, &pubsubv1.SubscribeRequest{Filter: ">"})
	if err != nil {
		return nil, err
	}
	return sub.Recv()
}

// What a reload drops is closed though subscriptions that began before it are
// open: they hold their own pattern's backend and nothing else.
func TestSubscriptionsHoldNoConfiguration(t *testing.T) {
	t.Parallel()
	s := start(t, nil, documents, news, brief)
	c := s.pubsub(t)
	sub := subscribe(t, in(t, "news"), c, ">")
	useBrief(t, s, s.dial(t))
	if err := s.load(documents, news); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the backend of another namespace is closed", func() bool { return s.closed.Load() == s.opened.Load() })
	goneFrom(t, s, `namespace="brief"`)
	publish(t, in(t, "news"), c, "a", "still here")
	hears(t, sub, "still here")
}

// When the proxy stops, subscriptions are told to go and end well. One that is
// left unread takes up the drain time, and no more.
func TestSubscriptionsDrain(t *testing.T) {
	t.Parallel()
	for _, leaveUnread := range []bool{false, true} {
		t.Run(fmt.Sprint("unread ", leaveUnread), func(t *testing.T) {
			t.Parallel()
			s := start(t, nil, documents, news)
			c := s.pubsub(t)
			sub := subscribe(t, in(t, "news"), c, "a")
			events := listenOverHTTP(t, s, "news", "a", nil)
			if leaveUnread {
				subscribe(t, in(t, "news"), s.pubsub(t), "b")
				for range 64 { // more than the windows hold
					publish(t, in(t, "news"), c, "b", strings.Repeat("x", 32<<10))
				}
			}
			began := time.Now()
			stopped := make(chan struct{})
			go func() { defer close(stopped); s.stop() }()
			if err := goesAway(t, sub); !errors.Is(err, io.EOF) {
				t.Errorf("ended with %v", err)
			}
			if e := events.next(t); e.name != "going-away" {
				t.Errorf("over HTTP: %+v", e)
			}
			if e, err := events.read(); !errors.Is(err, io.EOF) {
				t.Errorf("over HTTP, after it was told to go: %+v, %v", e, err)
			}
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("told to go after %v", took)
			}
			<-stopped
			most := 3 * time.Second
			if leaveUnread {
				most = 12 * time.Second // the time to drain is 10 s
			}
			if took := time.Since(began); took > most {
				t.Errorf("stopped after %v", took)
			}
		})
	}
}

// A subscription that is left unread through a reload that changes it is given
// up: nobody listens for it any more.
func TestUnreadSubscriptionIsGivenUp(t *testing.T) {
	t.Parallel()
	s := start(t, nil, documents, news)
	c := s.pubsub(t)
	unread := subscribe(t, in(t, "news"), s.pubsub(t), "b")
	for range 64 {
		publish(t, in(t, "news"), c, "b", strings.Repeat("x", 32<<10))
	}
	if err := s.load(documents); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "nothing is open", func() bool { return s.openSubscriptions(t, 0) })
	var err error
	for err == nil {
		_, err = unread.Recv()
	}
	told(t, "when it is read at last", err, errs.Draining)
}

// Subscribers that do not read hold a bounded number of messages each and hold
// up nobody.
func TestSlowSubscribers(t *testing.T) {
	t.Parallel()
	s := start(t, nil, documents, news)
	ctx := in(t, "news")
	c := s.pubsub(t)
	const size = 8 << 10
	many := scaled(5000, 600)
	slow := make([]subscription, scaled(1000, 20))
	for i := range slow {
		slow[i] = subscribe(t, ctx, s.pubsub(t), ">")
	}
	fast := make([]subscription, 3)
	var all sync.WaitGroup
	for i := range fast {
		fast[i] = subscribe(t, ctx, s.pubsub(t), "a")
	}
	text := strings.Repeat("x", size)
	step := make(chan struct{}, len(fast))
	for _, sub := range fast {
		all.Go(func() {
			for range many {
				r, err := sub.Recv()
				if err != nil || len(r.GetMessages()) != 1 || r.GetMissed() != nil {
					t.Errorf("a fast subscriber: %v, %d messages, %v", err, len(r.GetMessages()), r.GetMissed())
					return
				}
				step <- struct{}{}
			}
		})
	}
	for range many {
		publish(t, ctx, c, "a", text)
		for range fast {
			<-step
		}
	}
	all.Wait()
	const most = (2<<20 + 512<<10) / size // 1 MiB waits, as much is on its way, and the windows of the transport
	for _, sub := range slow {
		heard, missed := 0, 0
		for heard+missed < many {
			r, err := sub.Recv()
			if err != nil {
				t.Fatal(err)
			}
			heard += len(r.GetMessages())
			missed += int(r.GetMissed().GetCount())
		}
		if heard > most || heard+missed != many {
			t.Errorf("heard %d and missed %d of %d, want up to %d", heard, missed, many, most)
		}
	}
	if got := series(t, s, `prism_pubsub_missed_messages_total{namespace="news",pattern="events"}`); len(got) != 1 {
		t.Errorf("what was missed is not counted: %v", got)
	}
}

// Subscriptions that stand take no place among the calls in flight.
func TestSubscriptionsTakeNoPlace(t *testing.T) {
	t.Parallel()
	s := start(t, nil, documents, news)
	c := s.pubsub(t)
	for range 10 {
		subscribe(t, in(t, "plain"), c, "a")
	}
	listenOverHTTP(t, s, "plain", "a", nil)
	publish(t, in(t, "plain"), c, "a", "x")
	if !s.openSubscriptions(t, 11) {
		t.Errorf("not counted: %v", series(t, s, "prism_streams_open"))
	}
	for _, line := range []string{
		`prism_requests_total{code="OK",method="Publish",namespace="plain",pattern="events",transport="grpc"} 1`,
		`prism_backend_operation_duration_seconds_count{backend="memory",operation="publish"} 1`,
		`prism_backend_operation_duration_seconds_count{backend="memory",operation="subscribe"} 11`,
	} {
		if len(series(t, s, line)) != 1 {
			t.Errorf("no %s", line)
		}
	}
	_, err := subscribed(in(t, "quiet"), c)
	told(t, "who may only read", err, errs.Unauthenticated)
	_, err = subscribed(in(t, "open"), c)
	told(t, "a namespace without messages", err, errs.PatternNotFound)
}

// A rolling restart of every proxy asks subscriptions of the SDK to move, which
// say so and go on.
func TestSubscriptionsAndRollingRestarts(t *testing.T) {
	t.Parallel()
	shared := memory.Driver() // what a broker is to real proxies
	run := func() *served {
		return start(t, func(o *proxy.Options) { o.Drivers[0], o.LameDuck = shared, 20*time.Millisecond }, documents, news)
	}
	f := &fleet{}
	f.change(run(), nil)
	c, err := client.Dial("fleet:///proxies", client.WithNamespace("news"), client.WithInsecure(), client.WithDialOptions(grpc.WithResolvers(f)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	events := c.PubSub("")
	sub, err := events.Subscribe(t.Context(), ">")
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	heard := make(chan client.Message, 100)
	go func() {
		defer close(heard)
		for m, err := range sub.Messages() {
			if err != nil {
				t.Errorf("the subscription ends: %v", err)
				return
			}
			heard <- m
		}
	}()
	next := func() client.Message {
		t.Helper()
		select {
		case m, ok := <-heard:
			if ok {
				return m
			}
		case <-time.After(20 * time.Second):
		}
		t.Fatal("nothing is heard")
		return client.Message{}
	}
	for i := range 3 {
		if _, err := events.Publish(t.Context(), "a", []byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
		if m := next(); len(m.Payload) != 1 || m.Payload[0] != byte(i) {
			t.Fatalf("%+v", m)
		}
		old := f.proxies[0]
		f.change(run(), nil)
		f.change(nil, old)
		old.stop()
		if m := next(); m.Missed != client.MissedUnknown {
			t.Fatalf("%+v, want to be told of the gap", m)
		}
	}
	if len(heard) != 0 {
		t.Errorf("%d more, such as %+v", len(heard), <-heard)
	}
}

// serverEvents reads server-sent events as they come.
type serverEvents struct {
	*http.Response
	lines *bufio.Reader
}

// A serverEvent is one of them.
type serverEvent struct{ name, data string }

func listenOverHTTP(t *testing.T, s *served, namespace, filter string, h http.Header) *serverEvents {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.HTTP+"/v1/namespaces/"+namespace+"/pubsub/"+filter, nil)
	if err != nil {
		t.Fatal(err)
	}
	if h != nil {
		r.Header = h
	}
	r.Header.Set("Accept", "text/event-stream")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" || resp.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%s %v", resp.Status, resp.Header)
	}
	e := &serverEvents{resp, bufio.NewReader(resp.Body)}
	if first := e.next(t); first != (serverEvent{"subscribed", "{}"}) {
		t.Fatalf("first comes %+v", first)
	}
	return e
}

func (s *serverEvents) next(t *testing.T) serverEvent {
	t.Helper()
	defer time.AfterFunc(20*time.Second, func() { s.Body.Close() }).Stop()
	e, err := s.read()
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (s *serverEvents) read() (e serverEvent, err error) {
	for {
		line, err := s.lines.ReadString('\n')
		if err != nil {
			return e, err
		}
		if line == "\n" {
			if e == (serverEvent{}) { // after a comment
				continue
			}
			return e, nil
		}
		switch name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": "); name {
		case "event":
			e.name = value
		case "data":
			e.data = value
		}
	}
}

func TestListenOverHTTP(t *testing.T) {
	t.Parallel()
	var bus driver.Driver
	s := start(t, func(o *proxy.Options) { bus = o.Drivers[0] }, documents, news)
	events := listenOverHTTP(t, s, "news", "orders.*", nil)
	post := func(subject, contentType, body string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.HTTP+"/v1/namespaces/news/pubsub/"+subject, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", contentType)
		r.Header.Set("Prism-Correlation-Id", "flow")
		resp, err := http.DefaultClient.Do(r)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatal(resp, err)
		}
		resp.Body.Close()
	}
	post("other", "text/plain", "not listened to")
	post("orders.placed", "application/json", "{\"n\":\n 12345678901234567890}")
	post("orders.placed", "text/plain", "two\nlines")
	post("orders.placed", "application/octet-stream", "\xff")
	type message struct {
		Metadata struct {
			Namespace, Topic string
			Correlation      string `json:"correlation_id"`
			ID               string `json:"message_id"`
		}
		Data   json.RawMessage
		Base64 string `json:"data_base64"`
	}
	for _, want := range []string{`{"n":12345678901234567890} `, `"two\nlines" `, ` /w==`} {
		e := events.next(t)
		var m message
		if err := json.Unmarshal([]byte(e.data), &m); err != nil || e.name != "" {
			t.Fatalf("%+v: %v", e, err)
		}
		if got := string(m.Data) + " " + m.Base64; got != want || m.Metadata.Namespace != "news" || m.Metadata.Topic != "orders.placed" || m.Metadata.Correlation != "flow" || len(m.Metadata.ID) != 36 {
			t.Errorf("%s, want %s", e.data, want)
		}
	}
	// Another program beside the proxy tells what is no envelope.
	garbage(t, bus, "orders.placed")
	if e := events.next(t); e != (serverEvent{"missed", `{"count":1}`}) {
		t.Errorf("%+v", e)
	}
	if got := series(t, s, `prism_pubsub_unreadable_messages_total{namespace="news",pattern="events"} 1`); len(got) != 1 {
		t.Error("what cannot be read is not counted")
	}
	if err := s.load(documents); err != nil {
		t.Fatal(err)
	}
	if e := events.next(t); e != (serverEvent{"going-away", "{}"}) {
		t.Errorf("%+v", e)
	}
	if _, err := events.read(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	waitFor(t, "nothing is open", func() bool { return s.openSubscriptions(t, 0) })
}

// garbage publishes what is no envelope, beside the proxy.
func garbage(t *testing.T, bus driver.Driver, subject string) {
	t.Helper()
	conn, err := bus.Open(driver.Config{URL: "memory://bus"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b, err := conn.Space(driver.Space{Namespace: "news", Pattern: "events"})
	if err != nil {
		t.Fatal(err)
	}
	results := make([]error, 1)
	b.PubSub.Publish(t.Context(), []driver.Message{{Subject: subject, Payload: []byte("garbage")}}, results)
	if results[0] != nil {
		t.Fatal(results[0])
	}
}

// Listening over HTTP outlasts every timeout of the server, which are a minute
// at most, and says so now and then.
func TestListenOverHTTPForLong(t *testing.T) {
	t.Parallel()
	if !*long {
		t.Skip("takes more than a minute; run with -long")
	}
	s := start(t, nil, documents, news)
	events := listenOverHTTP(t, s, "news", "a", nil)
	for range 5 { // each of 15 s
		if line, err := events.lines.ReadString('\n'); err != nil || line != ": heartbeat\n" {
			t.Fatalf("%q, %v", line, err)
		}
		if _, err := events.lines.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	publish(t, in(t, "news"), s.pubsub(t), "a", "late")
	if e := events.next(t); !strings.Contains(e.data, `"data":"late"`) {
		t.Errorf("%+v", e)
	}
}
