package nats_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/servers"
)

// connect returns another program's connection.
func connect(t testing.TB, url string, options ...natsgo.Option) *natsgo.Conn {
	t.Helper()
	nc, err := natsgo.Connect(url, options...)
	must(t, err)
	t.Cleanup(nc.Close)
	return nc
}

func TestBucketIsMade(t *testing.T) {
	t.Parallel()
	s := servers.NATS(t)
	conn := open(t, driver.Config{URL: s.URL, Options: json.RawMessage(`{"bucket": "own"}`)})
	js, err := jetstream.New(connect(t, s.URL))
	must(t, err)
	if _, err := js.KeyValue(t.Context(), "own"); err == nil {
		t.Error("there is a bucket before anything was asked")
	}
	put(t, space(t, conn, orders), "k", "v")
	kv, err := js.KeyValue(t.Context(), "own")
	must(t, err)
	e, err := kv.Get(t.Context(), "orders.carts.k")
	if err != nil || string(e.Value()) != "v" {
		t.Errorf("%v, %v", e, err)
	}
}

// TestWeakerBucketIsRefused has a bucket for each difference, and they stay: a
// server that loses the last stream of an account removes the account's folder
// a moment later, and can do it under the next stream that is being made.
func TestWeakerBucketIsRefused(t *testing.T) {
	t.Parallel()
	s := servers.NATS(t)
	js, err := jetstream.New(connect(t, s.URL))
	must(t, err)
	ctx := t.Context()
	for bucket, one := range map[string]struct {
		difference string
		stream     jetstream.StreamConfig
	}{
		"memory":   {"storage is memory, not file", jetstream.StreamConfig{Storage: jetstream.MemoryStorage}},
		"history":  {"history (max_msgs_per_subject) is 5, not 1", jetstream.StreamConfig{MaxMsgsPerSubject: 5}},
		"age":      {"max_age is 1h0m0s, not 0", jetstream.StreamConfig{MaxAge: time.Hour}},
		"ttl":      {"allow_msg_ttl is off", jetstream.StreamConfig{AllowDirect: true}},
		"direct":   {"allow_direct is off", jetstream.StreamConfig{AllowMsgTTL: true}},
		"discard":  {"discard is old, not new", jetstream.StreamConfig{MaxBytes: 1 << 20}},
		"size":     {"max_msg_size is 1000, not 1048576 or more", jetstream.StreamConfig{MaxMsgSize: 1000}},
		"no_ack":   {"no_ack is on", jetstream.StreamConfig{NoAck: true}},
		"async":    {"persist_mode is async, not default", jetstream.StreamConfig{PersistMode: jetstream.AsyncPersistMode}},
		"subjects": {"subjects are [$KV.subjects.*], not [$KV.subjects.>]", jetstream.StreamConfig{Subjects: []string{"$KV.subjects.*"}}},
	} {
		c := one.stream
		c.Name = "KV_" + bucket
		if c.Subjects == nil {
			c.Subjects = []string{"$KV." + bucket + ".>"}
		}
		c.MaxMsgsPerSubject = max(c.MaxMsgsPerSubject, 1)
		_, err := js.CreateStream(ctx, c)
		must(t, err)
		conn := open(t, driver.Config{URL: s.URL, Options: json.RawMessage(`{"bucket": "` + bucket + `"}`)})
		kv := space(t, conn, orders)
		for what, err := range map[string]error{
			"ping": conn.Ping(ctx),
			"put":  apply(ctx, kv, driver.Op{Kind: driver.Put, Key: "k"}).Err,
		} {
			if err := wants(t, what+": "+one.difference, err, errs.InvalidConfiguration); !strings.Contains(err.Error(), one.difference) {
				t.Errorf("%s does not say %q: %v", what, one.difference, err)
			}
		}
		must(t, js.DeleteStream(ctx, c.Name))
		await(t, "ping after the bucket has gone", func() bool { return conn.Ping(ctx) == nil })
		put(t, kv, "k", "v")
	}
}

// TestPingNoticesChanges weakens the bucket and takes it away while it is used.
func TestPingNoticesChanges(t *testing.T) {
	t.Parallel()
	s := servers.NATS(t)
	conn := open(t, driver.Config{URL: s.URL})
	kv := space(t, conn, orders)
	put(t, kv, "k", "v")
	js, err := jetstream.New(connect(t, s.URL))
	must(t, err)
	ctx := t.Context()
	stream, err := js.Stream(ctx, "KV_prism")
	must(t, err)
	weaker, good := stream.CachedInfo().Config, stream.CachedInfo().Config
	weaker.MaxAge = time.Hour
	_, err = js.UpdateStream(ctx, weaker)
	must(t, err)
	wants(t, "ping", conn.Ping(ctx), errs.InvalidConfiguration)
	_, err = kv.Get(ctx, "k", driver.ValueOnly)
	wants(t, "get after ping", err, errs.InvalidConfiguration)
	_, err = js.UpdateStream(ctx, good)
	must(t, err)
	await(t, "ping after the repair", func() bool { return conn.Ping(ctx) == nil })
	if _, err := kv.Get(ctx, "k", driver.ValueOnly); err != nil {
		t.Errorf("get after the repair: %v", err)
	}

	put(t, kv, "k2", "v")
	page, err := kv.Scan(ctx, driver.ScanRequest{Limit: 1})
	must(t, err)
	must(t, js.DeleteStream(ctx, "KV_prism"))
	wants(t, "put without a bucket", apply(ctx, kv, driver.Op{Kind: driver.Put, Key: "k"}).Err, errs.BackendUnavailable)
	await(t, "a new bucket", func() bool { return apply(ctx, kv, driver.Op{Kind: driver.Put, Key: "k"}).Err == nil })
	if page.Next == nil {
		t.Fatal("a page of one item of two has no Next")
	}
	_, err = kv.Scan(ctx, driver.ScanRequest{Limit: 1, Cursor: page.Next})
	wants(t, "a cursor of the old one", err, errs.StaleCursor)
}

func TestBucketThatIsNotMade(t *testing.T) {
	t.Parallel()
	s := servers.NATS(t)
	conn := open(t, driver.Config{URL: s.URL, Asserts: json.RawMessage(`{"replicas": 3}`)})
	err := wants(t, "three replicas on one server", conn.Ping(t.Context()), errs.InvalidConfiguration)
	if !strings.Contains(err.Error(), "does not make it: replicas > 1 not supported in non-clustered mode") {
		t.Errorf("message: %v", err)
	}
	put(t, space(t, open(t, driver.Config{URL: s.URL}), orders), "k", "v")
	await(t, "three replicas of one", func() bool {
		err := wants(t, "three replicas of one", conn.Ping(t.Context()), errs.InvalidConfiguration)
		return strings.Contains(err.Error(), "replicas are 1, not 3")
	})
}

// TestBucketThatIsNotMadeYet has something in the way of the bucket's files,
// which the server itself removes when it has failed: the next attempt is good.
func TestBucketThatIsNotMadeYet(t *testing.T) {
	t.Parallel()
	s := servers.NATSWith(t)
	streams := filepath.Join(s.Dir, "data", "jetstream", "$G", "streams")
	must(t, os.MkdirAll(streams, 0o700))
	must(t, os.WriteFile(filepath.Join(streams, "KV_prism"), nil, 0o600))
	conn := open(t, driver.Config{URL: s.URL})
	wants(t, "the first attempt", conn.Ping(t.Context()), errs.BackendUnavailable)
	await(t, "the next attempt", func() bool { return conn.Ping(t.Context()) == nil })
	put(t, space(t, conn, orders), "k", "v")
}

func TestLimits(t *testing.T) {
	t.Parallel()
	s := servers.NATSWith(t, "max_payload: 102400")
	ctx := t.Context()
	conn := open(t, driver.Config{URL: s.URL})
	err := wants(t, "ping with the default max_value", conn.Ping(ctx), errs.InvalidConfiguration)
	if !strings.Contains(err.Error(), "options.max_value is 1040384 bytes, but the backend's max_payload is 102400") {
		t.Errorf("message: %v", err)
	}
	kv := space(t, open(t, driver.Config{URL: s.URL, Options: json.RawMessage(`{"max_value": 94208}`)}), orders)
	key := strings.Repeat("%", driver.MaxKey)
	r := apply(ctx, kv, driver.Op{Kind: driver.Put, Key: key, Value: make([]byte, 94208), TTL: time.Hour, IfAbsent: true})
	must(t, r.Err)
	must(t, apply(ctx, kv, driver.Op{Kind: driver.Expire, Key: key, TTL: 2 * time.Hour, IfVersion: r.Version}).Err)
	wants(t, "one byte more", apply(ctx, kv, driver.Op{Kind: driver.Put, Key: key, Value: make([]byte, 94209)}).Err, errs.PayloadTooLarge)

	js, err2 := jetstream.New(connect(t, s.URL))
	must(t, err2)
	stream, err2 := js.Stream(ctx, "KV_prism")
	must(t, err2)
	c := stream.CachedInfo().Config
	c.MaxBytes = 1000
	_, err2 = js.UpdateStream(ctx, c)
	must(t, err2)
	wants(t, "put into a full bucket", apply(ctx, kv, driver.Op{Kind: driver.Put, Key: "more"}).Err, errs.ReadOnly)
}
