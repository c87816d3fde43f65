package nats_test

import (
	"encoding/json"
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

func TestWeakerBucketIsRefused(t *testing.T) {
	t.Parallel()
	s := servers.NATS(t)
	js, err := jetstream.New(connect(t, s.URL))
	must(t, err)
	ctx := t.Context()
	for difference, c := range map[string]jetstream.StreamConfig{
		"storage is memory, not file":                 {Storage: jetstream.MemoryStorage},
		"history (max_msgs_per_subject) is 5, not 1":  {MaxMsgsPerSubject: 5},
		"max_age is 1h0m0s, not 0":                    {MaxAge: time.Hour},
		"allow_msg_ttl is off":                        {AllowDirect: true},
		"allow_direct is off":                         {AllowMsgTTL: true},
		"discard is old, not new":                     {MaxBytes: 1 << 20},
		"max_msg_size is 1000, not 1048576 or more":   {MaxMsgSize: 1000},
		"no_ack is on":                                {NoAck: true},
		"persist_mode is async, not default":          {PersistMode: jetstream.AsyncPersistMode},
		"subjects are [$KV.weak.*], not [$KV.weak.>]": {Subjects: []string{"$KV.weak.*"}},
	} {
		c.Name = "KV_weak"
		if c.Subjects == nil {
			c.Subjects = []string{"$KV.weak.>"}
		}
		c.MaxMsgsPerSubject = max(c.MaxMsgsPerSubject, 1)
		_, err := js.CreateStream(ctx, c)
		must(t, err)
		conn := open(t, driver.Config{URL: s.URL, Options: json.RawMessage(`{"bucket": "weak"}`)})
		kv := space(t, conn, orders)
		for what, err := range map[string]error{
			"ping": conn.Ping(ctx),
			"put":  apply(ctx, kv, driver.Op{Kind: driver.Put, Key: "k"}).Err,
		} {
			if err := wants(t, what+": "+difference, err, errs.InvalidConfiguration); !strings.Contains(err.Error(), difference) {
				t.Errorf("%s does not say %q: %v", what, difference, err)
			}
		}
		must(t, js.DeleteStream(ctx, "KV_weak"))
		await(t, "ping after the bucket has gone", func() bool { return conn.Ping(ctx) == nil })
		put(t, kv, "k", "v")
		must(t, js.DeleteStream(ctx, "KV_weak"))
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
	put(t, kv, "k", "again") // in a new one
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
