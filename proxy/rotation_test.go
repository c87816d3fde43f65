package proxy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pubsubv1 "github.com/prismgw/prism/api/prism/pubsub/v1"
	"github.com/prismgw/prism/client"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/memory"
	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/proxy"
)

// messages is a topic of the namespace shop as another program reaches it.
func messages(t *testing.T, on driver.Driver, r *ringFile, topic string) driver.Topic {
	t.Helper()
	conn, err := on.Open(driver.Config{URL: r.url()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	b, err := conn.Space(driver.Space{Namespace: "shop", Pattern: "producer"})
	if err != nil {
		t.Fatal(err)
	}
	open, err := b.Log.Topic(t.Context(), driver.TopicSpec{Name: topic, Partitions: 1, Dedup: 10 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return open
}

// answer sends a request to the namespace shop and returns the body of an OK.
func (s *served) answer(t *testing.T, verb, path, body string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), verb, "http://"+s.HTTP+"/v1/namespaces/shop/"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s %s %v", verb, path, resp.Status, text, err)
	}
	return string(text)
}

// What HTTP publishes is signed, and what another program has put beside it, or
// moved, reaches nobody over HTTP.
func TestSigningOverHTTP(t *testing.T) {
	t.Parallel()
	on, r := memory.Driver(), newRing(t, "a")
	s := start(t, func(o *proxy.Options) { withTopics(o); o.Drivers[0] = on }, strings.Replace(r.documents(), "partitions: 4", "partitions: 1", 1))
	for _, topic := range []string{"orders", "refunds"} {
		s.answer(t, http.MethodPost, "topics/"+topic+"/messages", "published to "+topic)
	}
	orders := messages(t, on, r, "orders")
	moved, err := messages(t, on, r, "refunds").Read(t.Context(), driver.ReadRequest{From: 1, Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	unsigned, err := envelope.Marshal(envelope.New("shop", "orders", []byte("nobody signed this")))
	if err != nil {
		t.Fatal(err)
	}
	orders.Append(t.Context(), []driver.Record{moved.Records[0].Record, {Value: unsigned}}, make([]driver.AppendResult, 2))
	s.answer(t, http.MethodPost, "topics/orders/messages", "published last")

	var got struct {
		Deliveries []struct {
			Data     string                     `json:"data"`
			Security map[string]json.RawMessage `json:"security"`
		} `json:"deliveries"`
	}
	body := s.answer(t, http.MethodPost, "topics/orders/groups/billing:receive?wait=5s", "")
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Deliveries) != 2 || strings.Contains(body, "nobody signed") || strings.Contains(body, "refunds") || strings.Count(body, `"signing_key_id":"a"`) != 2 {
		t.Errorf("received %s", body)
	}
	wrong := []string{"security.signature: is missing", "metadata.topic: is another topic"}
	for what, read := range map[string]func(topic string) string{
		"messages": func(topic string) string {
			return s.answer(t, http.MethodGet, "topics/"+topic+"/messages", "")
		},
		"events": func(topic string) string { return s.events(t, "topics/"+topic+"/messages", 2) },
	} {
		for _, topic := range []string{"orders", "orders.dlq"} {
			text := ""
			waitFor(t, what+" of "+topic+" tell both reasons", func() bool {
				text = read(topic)
				return strings.Contains(text, wrong[0]) && strings.Contains(text, wrong[1])
			})
			if strings.Contains(text, "nobody signed") || strings.Contains(text, "published to refunds") {
				t.Errorf("%s of %s: %s", what, topic, text)
			}
		}
	}
}

// events returns server-sent events until so many are unreadable.
func (s *served) events(t *testing.T, path string, n int) (all string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.HTTP+"/v1/namespaces/shop/"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", "text/event-stream")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	buffer := make([]byte, 4096)
	defer time.AfterFunc(20*time.Second, func() { resp.Body.Close() }).Stop()
	for strings.Count(all, `"unreadable"`) < n {
		got, err := resp.Body.Read(buffer)
		all += string(buffer[:got])
		if err != nil {
			t.Fatalf("%v after %s", err, all)
		}
	}
	return all
}

// publishers is how many publish at once.
const publishers = 4

// A trail is what was published and what was delivered.
type trail struct {
	mu        sync.Mutex // guards what follows
	published map[string]bool
	delivered map[string]string // the key that signed, by payload
	unsigned  int
}

func (r *trail) publish(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.published[text] = true
}

func (r *trail) deliver(d *client.Delivery) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := d.Envelope.GetSecurity()
	if len(s.GetSignature()) == 0 {
		r.unsigned++
	}
	r.delivered[string(d.Payload())] = s.GetSigningKeyId()
}

// keys returns how many messages each key has signed.
func (r *trail) keys() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	counts := make(map[string]int)
	for _, id := range r.delivered {
		counts[id]++
	}
	return counts
}

// all returns what has been published.
func (r *trail) all() map[string]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.published)
}

// missing returns those that have not been delivered.
func (r *trail) missing(of map[string]bool) (texts []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for text := range of {
		if _, ok := r.delivered[text]; !ok {
			texts = append(texts, text)
		}
	}
	return texts
}

// progress returns how many messages each publisher has published.
func (r *trail) progress() map[string]int {
	counts := make(map[string]int)
	for text := range r.all() {
		publisher, _, _ := strings.Cut(text, ":")
		counts[publisher]++
	}
	return counts
}

// beyond reports whether every publisher has published two more than that.
func (r *trail) beyond(than map[string]int) bool {
	now := r.progress()
	for publisher, n := range than {
		if now[publisher] < n+2 {
			return false
		}
	}
	return len(now) == publishers
}

// Under load on two proxies, keys change: no message is lost, none is delivered
// without a signature, and none becomes a dead letter. Between the changes the
// file is sometimes nothing at all.
func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	on, r := memory.Driver(), newRing(t, "a")
	shared := func(o *proxy.Options) { withTopics(o); o.Drivers[0] = on }
	proxies := []*served{start(t, shared, r.documents()), start(t, shared, r.documents())}
	seen := &trail{published: map[string]bool{}, delivered: map[string]string{}}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var publishing, consuming sync.WaitGroup
	var failed atomic.Value
	var publish atomic.Bool
	publish.Store(true)
	for i, s := range proxies {
		topics := s.client(t).Topics("shop")
		consuming.Go(func() {
			if err := topics.Consume(ctx, "orders", "billing", func(_ context.Context, d *client.Delivery) error {
				seen.deliver(d)
				return nil
			}); err != nil {
				failed.Store(err)
			}
		})
		for k := range publishers / len(proxies) {
			publishing.Go(func() {
				for n := 0; publish.Load(); n++ {
					text := fmt.Sprintf("%d-%d:%d", i, k, n)
					if _, err := topics.Publish(ctx, "orders", []byte(text)); err != nil {
						failed.Store(err)
						return
					}
					seen.publish(text)
				}
			})
		}
	}
	events := []pubsubv1.PubSubClient{proxies[0].pubsub(t), proxies[1].pubsub(t)}
	order := []string{"a", "b", "c", "d", "e"}
	for i, id := range order {
		if i > 0 {
			r.set(id, order[i-1]) // the current one and the one before
		}
		waitFor(t, "both proxies sign with "+id, func() bool { return seen.keys()[id] > scaled(500, 50) && allSign(t, events, id) })
		// What a key signed is out of the way before it goes.
		begun := seen.progress()
		waitFor(t, "every publisher has gone on", func() bool { return seen.beyond(begun) })
		before := seen.all()
		waitFor(t, "what was published before is delivered", func() bool { return len(seen.missing(before)) == 0 })
		r.write(`{"current": "half of it`)
		waitFor(t, "the proxy counts a ring that is none", func() bool {
			return strings.Contains(fmt.Sprint(series(t, proxies[0], `prism_signing_keys_changes_total{namespace="shop",result="refused"}`)), fmt.Sprintf("} %d]", i+1))
		})
	}
	publish.Store(false)
	publishing.Wait()
	waitFor(t, "all that was published is delivered", func() bool { return len(seen.missing(seen.all())) == 0 || failed.Load() != nil })
	stop()
	consuming.Wait()
	if err := failed.Load(); err != nil {
		t.Error(err)
	}
	if seen.unsigned > 0 {
		t.Errorf("%d delivered without a signature", seen.unsigned)
	}
	if dead := proxies[0].answer(t, http.MethodGet, "topics/orders.dlq/messages", ""); !strings.Contains(dead, `"messages":[]`) {
		t.Errorf("dead letters: %.2000s", dead)
	}
	t.Logf("%d messages, by key %v", len(seen.published), seen.keys())
}

// allSign reports whether each proxy signs with the key now.
func allSign(t *testing.T, proxies []pubsubv1.PubSubClient, id string) bool {
	t.Helper()
	for _, events := range proxies {
		ctx, leave := context.WithCancel(in(t, "shop"))
		sub := subscribe(t, ctx, events, "probe")
		publish(t, ctx, events, "probe", "x")
		m, err := sub.Recv()
		leave()
		if err != nil || len(m.GetMessages()) == 0 || m.GetMessages()[0].GetSecurity().GetSigningKeyId() != id {
			return false
		}
	}
	return true
}

// A key that is taken out of the ring makes what it signed poison.
func TestAKeyThatIsGone(t *testing.T) {
	t.Parallel()
	r := newRing(t, "a")
	s := start(t, withTopics, r.documents())
	topics := s.client(t).Topics("shop")
	for _, text := range []string{"one", "two"} {
		if _, err := topics.Publish(t.Context(), "orders", []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	r.set("b")
	events := []pubsubv1.PubSubClient{s.pubsub(t)}
	waitFor(t, "the new key signs", func() bool { return allSign(t, events, "b") })
	if _, err := topics.Publish(t.Context(), "orders", []byte("three")); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	got := make(chan string, 10)
	ended := make(chan error, 1)
	go func() {
		ended <- topics.Consume(ctx, "orders", "billing", func(_ context.Context, d *client.Delivery) error {
			got <- string(d.Payload())
			return nil
		})
	}()
	dead := 0
	for m, err := range topics.Browse(t.Context(), "orders.dlq", client.Browsing{Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(m.Headers["prism-dead-reason"], "is not in the ring of keys") || m.Unreadable == "" {
			t.Errorf("%+v", m)
		}
		if dead++; dead == 2 {
			break
		}
	}
	if text := soon(t, got); text != "three" {
		t.Errorf("delivered %q", text)
	}
	// The key is put back: the letters can be read again.
	r.set("b", "a")
	waitFor(t, "the dead letters are readable", func() bool {
		for m, err := range topics.Browse(t.Context(), "orders.dlq", client.Browsing{}) {
			if err != nil || m.Unreadable != "" {
				return false
			}
		}
		return true
	})
	stop()
	if err := soon(t, ended); err != nil {
		t.Error(err)
	}
}

// soon returns what comes.
func soon[T any](t *testing.T, from <-chan T) (one T) {
	t.Helper()
	select {
	case one = <-from:
	case <-time.After(20 * time.Second):
		t.Fatal("nothing comes")
	}
	return one
}
