package client_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	"github.com/prismgw/prism/client"
	"github.com/prismgw/prism/client/prismtest"
	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/secret"
)

// keyText is the secret of a payload key, as its id says it.
func keyText(id string) string {
	return id + ":" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte(id[:1]), 32))
}

// A keyFile is a secret with one key.
type keyFile struct {
	*testing.T
	path string
}

func newKey(t *testing.T, text string) *keyFile {
	t.Helper()
	f := &keyFile{t, filepath.Join(t.TempDir(), "key")}
	f.set(text)
	return f
}

func (f *keyFile) set(text string) {
	f.Helper()
	if err := os.WriteFile(f.path+".next", []byte(text+"\n"), 0o600); err != nil {
		f.Fatal(err)
	}
	if err := os.Rename(f.path+".next", f.path); err != nil {
		f.Fatal(err)
	}
}

// source is what a program reads it with.
func (f *keyFile) source() secret.Source {
	f.Helper()
	s, err := secret.Resolve("file://"+f.path, slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	return s
}

// shop starts a proxy that signs, with topics in files of the folder.
func shop(t *testing.T) (s *prismtest.Server, folder string) {
	t.Helper()
	folder = t.TempDir()
	ring := filepath.Join(t.TempDir(), "ring.json")
	text := fmt.Sprintf(`{"current": "a", "keys": {"a": %q}}`, base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("a"), 32)))
	if err := os.WriteFile(ring, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return prismtest.Start(t, `
{kind: Backend, name: files, driver: sqlite, url: "sqlite:`+folder+`/data.db"}
---
{kind: Backend, name: memory, driver: memory, url: "memory:"}
---
kind: Namespace
name: shop
topics: [{name: orders, partitions: 1}]
consumers: [{name: "*", ack_wait: 1s, max_deliveries: 2, backoff: 10ms}]
patterns: [{name: events, kind: pubsub, slots: {messages-pubsub: {backend: memory}}}]
needs: {durability: none}
auth: {anonymous: read_write}
signing: {keys: "file://`+ring+`"}
`), folder
}

// next returns what comes.
func next[T any](t *testing.T, from <-chan T) (one T) {
	t.Helper()
	select {
	case one = <-from:
	case <-time.After(20 * time.Second):
		t.Fatal("nothing comes")
	}
	return one
}

// holds reports whether a file of the folder has the bytes.
func holds(t *testing.T, folder, text string) (found bool) {
	t.Helper()
	err := fs.WalkDir(os.DirFS(folder), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(filepath.Join(folder, path))
		found = found || bytes.Contains(raw, []byte(text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// Payloads are plain in the programs alone: what the proxy signs and the backend
// keeps is encrypted.
func TestPayloadsAreSealed(t *testing.T) {
	t.Parallel()
	s, folder := shop(t)
	sealing := client.WithPayloadKeys(newKey(t, keyText("k1")).source())
	topics := s.Client(t, "shop", sealing).Topics("shop")
	if _, err := topics.Publish(t.Context(), "orders", []byte("the plain text of one")); err != nil {
		t.Fatal(err)
	}
	batch := []*envelopev1.PrismEnvelope{topics.Message("orders", []byte("the plain text of two")), {Payload: []byte("the plain text of three")}}
	results, err := topics.PublishBatch(t.Context(), "orders", batch)
	if err != nil || results[0].Err != nil || results[1].Err != nil {
		t.Fatal(results, err)
	}
	if string(batch[0].GetPayload()) != "the plain text of two" || batch[0].GetSecurity().GetEncryption() != nil {
		t.Errorf("the caller's message has become %v", batch[0])
	}
	if _, err := topics.Publish(t.Context(), "orders", nil, envelope.WithContentType(envelopev1.ContentType_CONTENT_TYPE_BYTES)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Client(t, "shop").Topics("shop").Publish(t.Context(), "orders", []byte("somebody without keys")); err != nil {
		t.Fatal(err)
	}

	got := make(chan string, 10)
	c := consume(t, topics, func(_ context.Context, d *client.Delivery) error {
		if sec := d.Envelope.GetSecurity(); len(sec.GetSignature()) == 0 || sec.GetEncryption() != nil {
			t.Errorf("handled with %v", sec)
		}
		got <- string(d.Payload()) + "|" + d.SealedWith
		return nil
	}, client.Concurrency(1))
	for _, want := range []string{"the plain text of one|k1", "the plain text of two|k1", "the plain text of three|k1", "|k1", "somebody without keys|"} {
		if text := next(t, got); text != want {
			t.Errorf("handled %q, want %q", text, want)
		}
	}
	c.finish()
	for m, err := range topics.Browse(t.Context(), "orders", client.Browsing{Limit: 1}) {
		if err != nil || string(m.Envelope.GetPayload()) != "the plain text of one" || m.SealedWith != "k1" || m.Unreadable != "" {
			t.Errorf("browsed %+v, %v", m, err)
		}
	}
	if !holds(t, folder, "somebody without keys") {
		t.Error("the payload that is not encrypted is not found: this test finds nothing")
	}
	if holds(t, folder, "the plain text") {
		t.Error("the backend holds the plain text")
	}
}

// A consumer without the key is told which one is missing. Its message is not
// handled, and a dead letter in the end that says so, too.
func TestThePayloadKeyIsMissing(t *testing.T) {
	t.Parallel()
	s, _ := shop(t)
	first := newKey(t, keyText("k1"))
	if _, err := s.Client(t, "shop", client.WithPayloadKeys(first.source())).Topics("shop").Publish(t.Context(), "orders", []byte("sealed")); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		opts   []client.Option
		reason errs.Reason
		text   string
	}{
		"no keys":       {nil, errs.InvalidConfiguration, `with the key "k1", and this client has no keys`},
		"another key":   {[]client.Option{client.WithPayloadKeys(newKey(t, keyText("k2")).source())}, errs.InvalidConfiguration, `with the key "k1", which this client does not have`},
		"the wrong key": {[]client.Option{client.WithPayloadKeys(newKey(t, "k1"+keyText("x")[1:]).source())}, errs.InvalidField, "cannot be decrypted"},
		"no secret":     {[]client.Option{client.WithPayloadKeys((&keyFile{t, "/nowhere/at/all"}).source())}, errs.CredentialsUnavailable, `with the key "k1", which is not among those`},
	} {
		topics := s.Client(t, "shop", c.opts...).Topics("shop")
		group := strings.ReplaceAll(name, " ", "-")
		told := make(chan error, 10)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- topics.Consume(ctx, "orders", group, func(context.Context, *client.Delivery) error {
				t.Errorf("%s: it was handled", name)
				return nil
			}, client.OnUnreadable(func(_ *client.Delivery, err error) { told <- err }))
		}()
		if err := next(t, told); errs.ReasonOf(err) != c.reason || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
		for m, err := range topics.Browse(t.Context(), "orders.dlq", client.Browsing{Follow: true}) {
			if err != nil {
				t.Fatal(err)
			}
			if m.Headers["prism-dead-group"] != group {
				continue
			}
			if why := m.Headers["prism-dead-reason"]; !strings.Contains(why, c.text) || strings.Contains(why, "nowhere") {
				t.Errorf("%s: the dead letter says %s", name, why)
			}
			if !strings.Contains(m.Unreadable, c.text) || strings.Contains(string(m.Envelope.GetPayload()), "sealed") {
				t.Errorf("%s: browsed %+v", name, m)
			}
			break
		}
		stop()
		if err := next(t, ended); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A client whose key cannot be had publishes nothing, in no other form.
func TestWithoutItsKeyNothingIsPublished(t *testing.T) {
	t.Parallel()
	s, folder := shop(t)
	for text, want := range map[string]errs.Reason{
		"":                              errs.CredentialsUnavailable,
		"k1:hunter2":                    errs.InvalidConfiguration,
		keyText("k1")[3:]:               errs.InvalidConfiguration, // no id
		"k1:" + keyText("k1")[3:] + "x": errs.InvalidConfiguration,
	} {
		c := s.Client(t, "shop", client.WithPayloadKeys(newKey(t, text).source()))
		_, err1 := c.Topics("shop").Publish(t.Context(), "orders", []byte("the plain text"))
		_, err2 := c.Topics("shop").PublishBatch(t.Context(), "orders", []*envelopev1.PrismEnvelope{c.Topics("shop").Message("orders", []byte("the plain text"))})
		_, err3 := c.PubSub("shop").Publish(t.Context(), "a", []byte("the plain text"))
		for _, err := range []error{err1, err2, err3} {
			if errs.ReasonOf(err) != want || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "a2tr") {
				t.Errorf("%q: %v", text, err)
			}
		}
	}
	if holds(t, folder, "the plain text") {
		t.Error("it was published")
	}
}

// A new key is first given to everybody, and then made the current one.
func TestPayloadKeysRotate(t *testing.T) {
	t.Parallel()
	s, _ := shop(t)
	current, other := newKey(t, keyText("k1")), newKey(t, keyText("k2"))
	topics := s.Client(t, "shop", client.WithPayloadKeys(current.source(), other.source())).Topics("shop")
	reader := s.Client(t, "shop", client.WithPayloadKeys(current.source(), other.source())).Topics("shop")
	with := make(chan string, 10000)
	c := consume(t, reader, func(_ context.Context, d *client.Delivery) error {
		if string(d.Payload()) != "x" {
			return errors.New("it is no x")
		}
		with <- d.SealedWith
		return nil
	}, client.OnUnreadable(func(_ *client.Delivery, err error) { t.Error(err) }))
	sealedWith := func(want string) {
		t.Helper()
		until(t, "messages are sealed with "+want, func() bool {
			if _, err := topics.Publish(t.Context(), "orders", []byte("x")); err != nil {
				t.Fatal(err)
			}
			return next(t, with) == want
		})
	}
	sealedWith("k1")
	other.set(keyText("k1"))
	current.set(keyText("k2"))
	sealedWith("k2")
	other.set(keyText("k2"))
	current.set(keyText("k3")) // nobody was given it before
	sealedWith("k3")
	c.finish()
}

// Messages for whoever listens are encrypted, too.
func TestPubSubIsSealed(t *testing.T) {
	t.Parallel()
	s, _ := shop(t)
	events := s.Client(t, "shop", client.WithPayloadKeys(newKey(t, keyText("k1")).source())).PubSub("shop")
	with, err := events.Subscribe(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	without, err := s.Client(t, "shop").PubSub("shop").Subscribe(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := events.Publish(t.Context(), "a", []byte("sealed")); err != nil {
		t.Fatal(err)
	}
	if m := read(t, with).hears("sealed"); m.SealedWith != "k1" || m.Unreadable != nil {
		t.Errorf("%+v", m)
	}
	m := read(t, without).next()
	if m.Payload != nil || m.SealedWith != "k1" || m.Unreadable == nil || !strings.Contains(m.Unreadable.Error(), `"k1"`) || bytes.Contains(m.Envelope.GetPayload(), []byte("sealed")) {
		t.Errorf("%+v", m)
	}
}
