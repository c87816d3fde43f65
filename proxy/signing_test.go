package proxy_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prismgw/prism/client"
	"github.com/prismgw/prism/pattern"
	"github.com/prismgw/prism/pattern/consumer"
	"github.com/prismgw/prism/pattern/keyvalue"
	"github.com/prismgw/prism/pattern/producer"
	"github.com/prismgw/prism/pattern/pubsub"
	"github.com/prismgw/prism/proxy"
)

// A ringFile is the secret of a namespace that signs.
type ringFile struct {
	*testing.T
	path string
}

// newRing makes a ring whose first id is the current one.
func newRing(t *testing.T, ids ...string) *ringFile {
	t.Helper()
	r := &ringFile{t, filepath.Join(t.TempDir(), "ring.json")}
	r.set(ids...)
	return r
}

// set replaces the ring.
func (r *ringFile) set(ids ...string) {
	r.Helper()
	keys := make(map[string]string, len(ids))
	for _, id := range ids {
		keys[id] = base64.StdEncoding.EncodeToString(bytes.Repeat([]byte(id[:1]), 32))
	}
	text, err := json.Marshal(map[string]any{"current": ids[0], "keys": keys})
	if err != nil {
		r.Fatal(err)
	}
	r.write(string(text))
}

func (r *ringFile) write(text string) {
	r.Helper()
	if err := os.WriteFile(r.path+".next", []byte(text), 0o600); err != nil {
		r.Fatal(err)
	}
	if err := os.Rename(r.path+".next", r.path); err != nil {
		r.Fatal(err)
	}
}

// url is of a backend of the test's own.
func (r *ringFile) url() string {
	return "memory://" + strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(r.Name()))
}

// documents are a namespace on memory with topics and messages, which signs.
func (r *ringFile) documents() string {
	return `{kind: Backend, name: memory, driver: memory, url: "` + r.url() + `"}
---
{kind: Namespace, name: shop, topics: [{name: orders, partitions: 4}, {name: "*", partitions: 1}],
 patterns: [{name: events, kind: pubsub}],
 needs: {durability: none}, auth: {anonymous: read_write}, signing: {keys: "file://` + r.path + `"}}`
}

// withTopics serves all kinds of patterns.
func withTopics(o *proxy.Options) {
	o.Kinds = []pattern.Kind{keyvalue.Kind(), producer.Kind(), consumer.Kind(), pubsub.Kind()}
}

// client returns a client of the proxy.
func (s *served) client(t *testing.T, opts ...client.Option) *client.Client {
	t.Helper()
	c, err := client.Dial(s.GRPC, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// A configuration with a ring that cannot be read is refused, with the place in
// the document; so a proxy that runs can be started again.
func TestRingsOfDocuments(t *testing.T) {
	t.Parallel()
	r := newRing(t, "a")
	s := start(t, withTopics, r.documents())
	for what, text := range map[string]string{
		"no JSON":     "hunter2-hunter2-hunter2-hunter2-",
		"a short key": `{"current": "a", "keys": {"a": "aHVudGVyMg=="}}`,
		"no current":  `{"current": "b", "keys": {"a": "` + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("a"), 32)) + `"}}`,
	} {
		r.write(text)
		for _, document := range []string{r.documents(), strings.ReplaceAll(r.documents(), "name: shop", "name: other")} { // a reload, and a first time
			err := s.load(document)
			if err == nil || !strings.Contains(err.Error(), "signing.keys: file://"+r.path) || !strings.Contains(err.Error(), "test.yaml:5:") {
				t.Errorf("%s: %v", what, err)
			}
			if err != nil && (strings.Contains(err.Error(), "unter2") || strings.Contains(err.Error(), "aHVud")) {
				t.Errorf("%s: a key is shown: %v", what, err)
			}
		}
	}
	if n := len(series(t, s, `namespace="other"`)); n != 0 {
		t.Errorf("a namespace that was refused has %d series", n)
	}
	c := s.client(t)
	topics := c.Topics("shop")
	if _, err := topics.Publish(t.Context(), "orders", []byte("x")); err != nil {
		t.Errorf("with the ring from before: %v %s", err, &s.log)
	}
	if err := os.Remove(r.path); err != nil {
		t.Fatal(err)
	}
	if err := s.load(r.documents()); err == nil || !strings.Contains(err.Error(), "cannot be read") {
		t.Error(err)
	}
	r.set("b", "a")
	if err := s.load(r.documents()); err != nil {
		t.Error(err)
	}
	if _, err := topics.Publish(t.Context(), "orders", []byte("x")); err != nil {
		t.Error(err)
	}
	if got := series(t, s, "prism_signing_keys_changes_total{"); len(got) != 2 {
		t.Errorf("counted %s", got)
	}
	if err := s.load(documents); err != nil {
		t.Fatal(err)
	}
	_ = c.Close() // a stream holds its series until it ends
	goneFrom(t, s, `namespace="shop"`)
}

// signs returns the key that a message of the topic is signed with, empty: none.
func signs(t *testing.T, topics *client.Topics, text string) string {
	t.Helper()
	if _, err := topics.Publish(t.Context(), "orders", []byte(text)); err != nil {
		t.Fatal(err)
	}
	for m, err := range topics.Browse(t.Context(), "orders", client.Browsing{}) {
		if err != nil {
			t.Fatal(err)
		}
		if string(m.Envelope.GetPayload()) == text {
			return m.Envelope.GetSecurity().GetSigningKeyId()
		}
	}
	t.Fatalf("%s is not there", text)
	return ""
}

// Signing, and other keys, hold from the reload on that brings them.
func TestSigningIsTurnedOn(t *testing.T) {
	t.Parallel()
	r, other := newRing(t, "a"), newRing(t, "b", "a")
	plain, _, _ := strings.Cut(r.documents(), ", signing:")
	plain += "}"
	s := start(t, withTopics, plain)
	topics := s.client(t).Topics("shop")
	for i, step := range []struct{ document, key string }{
		{plain, ""}, {r.documents(), "a"}, {strings.Replace(r.documents(), r.path, other.path, 1), "b"}, {plain, ""},
	} {
		if err := s.load(step.document); err != nil {
			t.Fatal(err)
		}
		if key := signs(t, topics, string(rune('1'+i))); key != step.key {
			t.Errorf("step %d: signed with %q, want %q", i, key, step.key)
		}
	}
}

// A layout without room for a signature is refused, unless the document says that
// it is meant.
func TestNativeMessagesAndSigning(t *testing.T) {
	t.Parallel()
	r := newRing(t, "a")
	s := start(t, withTopics, r.documents())
	native := func(settings string) error {
		return s.load(strings.Replace(r.documents(), "kind: pubsub}", "kind: pubsub, settings: {"+settings+"}}", 1))
	}
	if err := native("layout: native"); err == nil || !strings.Contains(err.Error(), "patterns[0].settings.layout: native carries no signature") {
		t.Error(err)
	}
	if err := native("layout: native, unsigned: always"); err == nil || !strings.Contains(err.Error(), "must be deliver") {
		t.Error(err)
	}
	if err := native("layout: native, unsigned: deliver"); err != nil {
		t.Error(err)
	}
	sub := subscribe(t, in(t, "shop"), s.pubsub(t), "a")
	publish(t, in(t, "shop"), s.pubsub(t), "a", "x")
	hears(t, sub, "x")
}
