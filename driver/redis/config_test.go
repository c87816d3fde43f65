package redis_test

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/redis"
	"github.com/prismgw/prism/errs"
)

func TestConfigurationMistakes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		config driver.Config
		fields string // paths of the violations, "" for none
	}{
		{driver.Config{URL: "redis://localhost"}, ""},
		{driver.Config{URL: "redis://localhost:6379/3"}, ""},
		{driver.Config{URL: "redis://[::1]:6379"}, ""},
		{driver.Config{URL: "rediss://localhost", TLS: &tls.Config{MinVersion: tls.VersionTLS13}}, ""},
		{driver.Config{URL: "redis+cluster://a,b:7000,c"}, ""},
		{driver.Config{URL: "rediss+sentinel://a,b:26380/mymaster/1"}, ""},
		{driver.Config{URL: "redis://localhost", Options: json.RawMessage(`{"connections": 4, "connect_timeout": "1s", "answer_timeout": "5s", "max_value": 536870912}`)}, ""},
		{driver.Config{URL: "redis://localhost", Asserts: json.RawMessage(`{"appendonly": "yes", "appendfsync": "always"}`)}, ""},

		{driver.Config{}, "url"},
		{driver.Config{URL: "localhost:6379"}, "url"},
		{driver.Config{URL: "http://localhost"}, "url"},
		{driver.Config{URL: "redis+tls://localhost"}, "url"},
		{driver.Config{URL: "redis://"}, "url"},
		{driver.Config{URL: "redis://localhost:0"}, "url"},
		{driver.Config{URL: "redis://localhost:x"}, "url"},
		{driver.Config{URL: "redis://a,b"}, "url"},
		{driver.Config{URL: "redis://localhost/x"}, "url"},
		{driver.Config{URL: "redis://localhost/-1"}, "url"},
		{driver.Config{URL: "redis://localhost/01"}, "url"},
		{driver.Config{URL: "redis://localhost/0/1"}, "url"},
		{driver.Config{URL: "redis://localhost?db=1"}, "url"},
		{driver.Config{URL: "redis://:sesame@localhost"}, "url"},
		{driver.Config{URL: "redis://user@localhost"}, "url"},
		{driver.Config{URL: "redis+cluster://a,b/1"}, "url"},
		{driver.Config{URL: "redis+sentinel://a,b"}, "url"},
		{driver.Config{URL: "redis://localhost", TLS: &tls.Config{MinVersion: tls.VersionTLS13}}, "tls"},
		{driver.Config{URL: "redis://localhost", Options: json.RawMessage(`{"pool": 4}`)}, "options"},
		{driver.Config{URL: "redis://localhost", Options: json.RawMessage(`{"connections": 3}`)}, "options.connections"},
		{driver.Config{URL: "redis://localhost", Options: json.RawMessage(`{"connections": -2}`)}, "options.connections"},
		{
			driver.Config{URL: "redis://localhost", Options: json.RawMessage(`{"connect_timeout": "1ms", "answer_timeout": "1ms", "flush_delay": "2ms", "max_value": 536870913, "sentinel_credentials": true}`)},
			"options.connect_timeout options.answer_timeout options.flush_delay options.max_value options.sentinel_credentials",
		},
		{driver.Config{URL: "redis://localhost", Asserts: json.RawMessage(`{"appendfsync": "sometimes", "appendonly": "maybe"}`)}, "asserts.appendonly asserts.appendfsync"},
		{driver.Config{URL: "redis://localhost", Asserts: json.RawMessage(`{"appendfsync": "always"}`)}, "asserts.appendonly"},
		{driver.Config{URL: "redis://localhost", Asserts: json.RawMessage(`{"save": "1"}`)}, "asserts"},
		{driver.Config{URL: "redis://a,b", TLS: &tls.Config{MinVersion: tls.VersionTLS13}, Options: json.RawMessage(`{"x": 1}`)}, "url tls options"},
	} {
		conn, err := redis.Driver().Open(c.config)
		if err == nil {
			must(t, conn.Close())
		}
		var got []string
		var e *errs.Error
		if errors.As(err, &e) {
			for _, f := range e.Fields {
				got = append(got, f.Path)
			}
		}
		if strings.Join(got, " ") != c.fields || (err == nil) != (c.fields == "") {
			t.Errorf("%q %s %s: got %q (%v), want %q", c.config.URL, c.config.Options, c.config.Asserts, got, err, c.fields)
		}
		if err != nil && strings.Contains(err.Error(), "sesame") {
			t.Errorf("the error shows the password: %v", err)
		}
	}
}

func TestAcksFollowWhatIsAsserted(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		url, asserts string
		process, os  bool
	}{
		{"redis://a", ``, false, false},
		{"redis://a", `{"appendonly":"no"}`, false, false},
		{"redis://a", `{"appendonly":"yes"}`, false, false},
		{"redis://a", `{"appendonly":"yes","appendfsync":"no"}`, true, false},
		{"redis://a", `{"appendonly":"yes","appendfsync":"everysec"}`, false, false},
		{"redis://a", `{"appendonly":"yes","appendfsync":"always"}`, true, true},
		{"redis+cluster://a", `{"appendonly":"yes","appendfsync":"always"}`, false, false},
		{"redis+sentinel://a/m", `{"appendonly":"yes","appendfsync":"always"}`, false, false},
	} {
		kv := space(t, open(t, driver.Config{URL: c.url, Asserts: json.RawMessage(c.asserts)}), orders)
		if a := kv.Guarantees().Ack; a.Process != c.process || a.OS != c.os || a.Node || a.Why == "" {
			t.Errorf("%s %s: %+v", c.url, c.asserts, a)
		}
	}
}
