package nats_test

import (
	"crypto/tls"
	"encoding/json"
	"strings"
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/nats"
	"github.com/prismgw/prism/errs"
)

func TestMistakes(t *testing.T) {
	t.Parallel()
	for _, one := range []struct {
		config driver.Config
		path   string
		text   string
	}{
		{driver.Config{URL: "localhost"}, "url", "nats://localhost:4222"},
		{driver.Config{URL: "redis://localhost"}, "url", "none of nats, tls"},
		{driver.Config{URL: "nats://user:secret@localhost"}, "url", "credentials"},
		{driver.Config{URL: "nats://localhost/bucket"}, "url", "more than hosts"},
		{driver.Config{URL: "nats://a,,b"}, "url", "host"},
		{driver.Config{URL: "nats://a:0"}, "url", "port 0"},
		{driver.Config{URL: "nats://a", TLS: new(tls.Config)}, "tls", "write tls"},
		{driver.Config{URL: "nats://a", Options: json.RawMessage(`{"bucket": "a.b"}`)}, "options.bucket", "A-Z"},
		{driver.Config{URL: "nats://a", Options: json.RawMessage(`{"bucket": ""}`)}, "options.bucket", "1 to 64"},
		{driver.Config{URL: "nats://a", Options: json.RawMessage(`{"max_value": 4194305}`)}, "options.max_value", "4194304"},
		{driver.Config{URL: "nats://a", Options: json.RawMessage(`{"connect_timeout": "1ms"}`)}, "options.connect_timeout", "10ms"},
		{driver.Config{URL: "nats://a", Options: json.RawMessage(`{"answer_timeout": "1ms"}`)}, "options.answer_timeout", "100ms"},
		{driver.Config{URL: "nats://a", Options: json.RawMessage(`{"no_such": 1}`)}, "options", "no_such"},
		{driver.Config{URL: "nats://a", Asserts: json.RawMessage(`{"no_such": 1}`)}, "asserts", "no_such"},
		{driver.Config{URL: "nats://a", Asserts: json.RawMessage(`{"sync_interval": "2m"}`)}, "asserts.sync_interval", "always"},
		{driver.Config{URL: "nats://a", Asserts: json.RawMessage(`{"replicas": 2}`)}, "asserts.replicas", "1, 3 or 5"},
	} {
		_, err := nats.Driver().Open(one.config)
		e := wants(t, one.config.URL, err, errs.InvalidField)
		if len(e.Fields) != 1 || e.Fields[0].Path != one.path || !strings.Contains(e.Fields[0].Text, one.text) {
			t.Errorf("%s %s %s: %+v, want %s: %s", one.config.URL, one.config.Options, one.config.Asserts, e.Fields, one.path, one.text)
		}
		if strings.Contains(e.Error(), "secret") {
			t.Errorf("the error shows the password: %v", e)
		}
	}
}

func TestAcks(t *testing.T) {
	t.Parallel()
	for asserts, want := range map[string]driver.Ack{
		``:                            {Process: true},
		`{"sync_interval": "always"}`: {Process: true, OS: true},
		`{"replicas": 3}`:             {Process: true, Node: true},
		`{"replicas": 5, "sync_interval": "always"}`: {Process: true, OS: true, Node: true},
	} {
		got := space(t, open(t, driver.Config{URL: "nats://127.0.0.1:1", Asserts: json.RawMessage(asserts)}), orders).Guarantees().Ack
		if got.Process != want.Process || got.OS != want.OS || got.Node != want.Node {
			t.Errorf("%s: %+v", asserts, got)
		}
	}
}

func TestExtents(t *testing.T) {
	t.Parallel()
	extent := func(url, options string, s driver.Space) driver.Extent {
		b, err := open(t, driver.Config{URL: url, Options: json.RawMessage(options)}).Space(s)
		must(t, err)
		return b.Extent
	}
	one := extent("nats://b:4222,a", "", orders)
	if same := extent("tls://a,b", "", orders); one != same {
		t.Errorf("%+v and %+v are one place", one, same)
	}
	for _, other := range []driver.Extent{
		extent("nats://a,b", `{"bucket": "other"}`, orders),
		extent("nats://a,b", "", driver.Space{Namespace: "orders", Pattern: "cart"}),
	} {
		if one.Overlaps(other) {
			t.Errorf("%+v overlaps %+v", one, other)
		}
	}
}

func TestOnceIsRefused(t *testing.T) {
	t.Parallel()
	_, kv, _ := start(t)
	for _, op := range []driver.Op{{Kind: driver.Put}, {Kind: driver.Add, Delta: 1}, {Kind: driver.Delete}} {
		op.Key, op.Once = "k", new(driver.Once)
		wants(t, "once", apply(t.Context(), kv, op).Err, errs.Unsupported)
	}
	_, err := kv.Get(t.Context(), "k", driver.ValueOnly)
	wants(t, "get", err, errs.KeyNotFound)
}
