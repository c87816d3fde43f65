package kafka_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"strings"
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/kafka"
	"github.com/prismgw/prism/errs"
)

func TestMistakes(t *testing.T) {
	t.Parallel()
	for _, one := range []struct {
		config driver.Config
		path   string
		text   string
	}{
		{driver.Config{URL: "localhost"}, "url", "kafka://localhost:9092"},
		{driver.Config{URL: "redis://localhost"}, "url", "none of kafka, kafkas"},
		{driver.Config{URL: "kafka://user:secret@localhost"}, "url", "credentials"},
		{driver.Config{URL: "kafka://localhost/topic"}, "url", "more than hosts"},
		{driver.Config{URL: "kafka://a,,b"}, "url", "host"},
		{driver.Config{URL: "kafka://a:0"}, "url", "port 0"},
		{driver.Config{URL: "kafka://a", TLS: new(tls.Config)}, "tls", "write kafkas"},
		{driver.Config{URL: "kafka://a", Options: json.RawMessage(`{"client_id": "a b"}`)}, "options.client_id", "A-Z"},
		{driver.Config{URL: "kafka://a", Options: json.RawMessage(`{"replicas": -1}`)}, "options.replicas", "1 to 100"},
		{driver.Config{URL: "kafka://a", Options: json.RawMessage(`{"min_insync_replicas": 2}`)}, "options.min_insync_replicas", "number of replicas"},
		{driver.Config{URL: "kafka://a", Options: json.RawMessage(`{"replicas": 1, "min_insync_replicas": 2}`)}, "options.min_insync_replicas", "number of replicas"},
		{driver.Config{URL: "kafka://a", Options: json.RawMessage(`{"max_record": 16777217}`)}, "options.max_record", "16777216"},
		{driver.Config{URL: "kafka://a", Options: json.RawMessage(`{"session": "13s"}`)}, "options.session", "1s to 12s"},
		{driver.Config{URL: "kafka://a", Options: json.RawMessage(`{"session": "45"}`)}, "options", "duration"},
		{driver.Config{URL: "kafka://a", Options: json.RawMessage(`{"sasl": "scram-sha-512"}`)}, "options.sasl", "no credentials"},
		{driver.Config{URL: "kafka://a", Credentials: login("u", "p").get, Options: json.RawMessage(`{"sasl": "gssapi"}`)}, "options.sasl", "plain, scram"},
		{driver.Config{URL: "kafka://a", Options: json.RawMessage(`{"connect_timeout": "1ms"}`)}, "options.connect_timeout", "10ms"},
		{driver.Config{URL: "kafka://a", Options: json.RawMessage(`{"answer_timeout": "1ms"}`)}, "options.answer_timeout", "1s"},
		{driver.Config{URL: "kafka://a", Options: json.RawMessage(`{"no_such": 1}`)}, "options", "no_such"},
		{driver.Config{URL: "kafka://a", Asserts: json.RawMessage(`{"no_such": 1}`)}, "asserts", "no_such"},
		{driver.Config{URL: "kafka://a", Asserts: json.RawMessage(`{"flush": "often"}`)}, "asserts.flush", "always"},
	} {
		_, err := kafka.Driver().Open(one.config)
		e := wants(t, one.config.URL, err, errs.InvalidField)
		if len(e.Fields) != 1 || e.Fields[0].Path != one.path || !strings.Contains(e.Fields[0].Text, one.text) {
			t.Errorf("%s %s %s: %+v, want %s: %s", one.config.URL, one.config.Options, one.config.Asserts, e.Fields, one.path, one.text)
		}
		if strings.Contains(e.Error(), "secret") {
			t.Errorf("the error shows the password: %v", e)
		}
	}
	bad := driver.Config{URL: "kafka://a/b", Options: json.RawMessage(`{"replicas": 101, "session": "1ms"}`), Asserts: json.RawMessage(`{"flush": "no"}`)}
	_, err := kafka.Driver().Open(bad)
	if e := wants(t, "four mistakes", err, errs.InvalidField); len(e.Fields) != 4 {
		t.Errorf("of four mistakes these are told: %+v", e.Fields)
	}
}

func TestAcks(t *testing.T) {
	t.Parallel()
	for _, one := range []struct {
		options, asserts string
		want             driver.Ack
	}{
		{``, ``, driver.Ack{Process: true}},
		{`{"replicas": 3}`, ``, driver.Ack{Process: true}},
		{`{"replicas": 3, "min_insync_replicas": 1}`, ``, driver.Ack{Process: true}},
		{``, `{"flush": "always"}`, driver.Ack{Process: true, OS: true}},
		{`{"replicas": 3, "min_insync_replicas": 2}`, ``, driver.Ack{Process: true, OS: true, Node: true}},
		{`{"replicas": 3, "min_insync_replicas": 2}`, `{"flush": "always"}`, driver.Ack{Process: true, OS: true, Node: true}},
	} {
		conn := open(t, driver.Config{URL: "kafka://127.0.0.1:1", Options: json.RawMessage(one.options), Asserts: json.RawMessage(one.asserts)})
		got := logOf(t, conn).Guarantees().Ack
		if got.Process != one.want.Process || got.OS != one.want.OS || got.Node != one.want.Node {
			t.Errorf("%s %s: %+v", one.options, one.asserts, got)
		}
	}
}

// TestExtents: a document of the same brokers in another order is one of the
// same place, and no namespace's topics begin like another one's.
func TestExtents(t *testing.T) {
	t.Parallel()
	extent := func(url, namespace string) driver.Extent {
		b, err := open(t, driver.Config{URL: url}).Space(driver.Space{Namespace: namespace, Pattern: "p"})
		must(t, err)
		return b.Extent
	}
	a := extent("kafka://a,b:9093", "orders")
	if b := extent("kafka://b:9093,a:9092", "orders"); !a.Overlaps(b) {
		t.Errorf("%+v and %+v are one place", a, b)
	}
	for _, other := range []string{"order", "orders-", "orders.x", "Orders", strings.Repeat("o", 200)} {
		if b := extent("kafka://a,b:9093", other); a.Overlaps(b) {
			t.Errorf("%+v and %+v of %q meet", a, b, other)
		}
	}
	_, err := open(t, driver.Config{URL: "kafka://a"}).Space(driver.Space{Namespace: "n", Layout: json.RawMessage(`{}`)})
	wants(t, "a layout", err, errs.InvalidField)
}

// credentials that can be changed.
type credentials struct{ user, password string }

func login(user, password string) *credentials { return &credentials{user, password} }

func (c *credentials) get(context.Context) (string, driver.Secret, error) {
	return c.user, driver.Secret(c.password), nil
}
