package nats_test

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/servers"
)

// start opens a space on a server of its own, with another program's KeyValue
// beside it.
func start(t testing.TB) (*servers.Server, driver.KV, jetstream.KeyValue) {
	t.Helper()
	s := servers.NATS(t)
	conn := open(t, driver.Config{URL: s.URL})
	must(t, conn.Ping(t.Context()))
	return s, space(t, conn, orders), bucket(t, s.URL)
}

func TestAnotherProgramReads(t *testing.T) {
	t.Parallel()
	_, kv, other := start(t)
	for key, token := range map[string]string{
		"plain-Key_1/x":                    "plain-Key_1/x",
		"user:42":                          "user=3A42",
		"a.b":                              "a=2Eb",
		"=":                                "=3D",
		"*>":                               "=2A=3E",
		" é":                               "=20=C3=A9",
		strings.Repeat("%", driver.MaxKey): strings.Repeat("=25", driver.MaxKey),
	} {
		version := put(t, kv, key, "value of it").Version
		e, err := other.Get(t.Context(), "orders.carts."+token)
		must(t, err)
		if string(e.Value()) != "value of it" || strconv.FormatUint(e.Revision(), 10) != version {
			t.Errorf("%.20q: another program reads %q at revision %d, want version %s", key, e.Value(), e.Revision(), version)
		}
	}
	must(t, apply(t.Context(), kv, driver.Op{Kind: driver.Delete, Key: "a.b"}).Err)
	if _, err := other.Get(t.Context(), "orders.carts.a=2Eb"); !errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Errorf("after a delete another program reads: %v", err)
	}
	keys, err := other.Keys(t.Context())
	must(t, err)
	if len(keys) != 6 {
		t.Errorf("another program lists %q", keys)
	}
}

func TestAnotherProgramWrites(t *testing.T) {
	t.Parallel()
	_, kv, other := start(t)
	ctx := t.Context()
	is := func(key, value string, version uint64) {
		t.Helper()
		e, err := kv.Get(ctx, key, driver.WithExpiry)
		must(t, err)
		if string(e.Value) != value || e.Version != strconv.FormatUint(version, 10) || !e.Expires.IsZero() {
			t.Errorf("%s: %+v, want %q at %d", key, e, value, version)
		}
	}
	revision, err := other.PutString(ctx, "orders.carts.user=3A1", "41")
	must(t, err)
	is("user:1", "41", revision)
	r := apply(ctx, kv, driver.Op{Kind: driver.Add, Key: "user:1", Delta: 1})
	must(t, r.Err)
	is("user:1", "42", parseUint(t, r.Version))
	revision, err = other.Update(ctx, "orders.carts.user=3A1", []byte("50"), parseUint(t, r.Version))
	must(t, err)
	r = apply(ctx, kv, driver.Op{Kind: driver.Add, Key: "user:1", Delta: 1}) // what the driver remembers is out of date
	if r.Err != nil || r.Number != 51 || r.Version == strconv.FormatUint(revision, 10) {
		t.Errorf("add after an update by another program: %+v", r)
	}
	for _, remove := range []func() error{
		func() error { return other.Delete(ctx, "orders.carts.user=3A1") },
		func() error { return other.Purge(ctx, "orders.carts.user=3A1") },
	} {
		put(t, kv, "user:1", "x")
		must(t, remove())
		_, err = kv.Get(ctx, "user:1", driver.ValueOnly)
		wants(t, "get after another program's delete", err, errs.KeyNotFound)
		must(t, apply(ctx, kv, driver.Op{Kind: driver.Put, Key: "user:1", IfAbsent: true}).Err)
	}
	// Tokens that no key has are nobody's.
	for _, token := range []string{"=41", "a=zz", "a=", "=3a", "=00", "two.tokens"} {
		_, err := other.PutString(ctx, "orders.carts."+token, "x")
		must(t, err)
	}
	page, err := kv.Scan(ctx, driver.ScanRequest{Limit: 100})
	must(t, err)
	if len(page.Items) != 1 || page.Items[0].Key != "user:1" || page.Next != nil {
		t.Errorf("scan beside strange tokens: %+v", page)
	}
}

func parseUint(t testing.TB, text string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(text, 10, 64)
	must(t, err)
	return n
}

// TestServerRemovesExpired waits for the server's own removal, which leaves
// what does not expire.
func TestServerRemovesExpired(t *testing.T) {
	t.Parallel()
	_, kv, other := start(t)
	ctx := t.Context()
	for _, ttl := range []time.Duration{time.Millisecond, 900 * time.Millisecond, time.Hour, 0} {
		must(t, apply(ctx, kv, driver.Op{Kind: driver.Put, Key: ttl.String(), TTL: ttl}).Err)
	}
	await(t, "removal", func() bool {
		status, err := other.Status(ctx)
		must(t, err)
		return status.Values() == 2
	})
	keys, err := other.Keys(ctx)
	must(t, err)
	slices.Sort(keys)
	if !slices.Equal(keys, []string{"orders.carts.0s", "orders.carts.1h0m0s"}) {
		t.Errorf("left: %q", keys)
	}
}

// TestForeignTTL reads an entry that another program stored with a ttl.
func TestForeignTTL(t *testing.T) {
	t.Parallel()
	s := servers.NATS(t)
	nc := connect(t, s.URL)
	js, err := jetstream.New(nc)
	must(t, err)
	other, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "prism", LimitMarkerTTL: time.Minute, History: 1})
	must(t, err)
	before := time.Now()
	_, err = other.Create(t.Context(), "orders.carts.k", []byte("7"), jetstream.KeyTTL(time.Hour))
	must(t, err)
	kv := space(t, open(t, driver.Config{URL: s.URL}), orders)
	e, err := kv.Get(t.Context(), "k", driver.WithExpiry)
	must(t, err)
	if left := e.Expires.Sub(before); left < time.Hour-time.Second || left > time.Hour+patience {
		t.Errorf("it expires in %v, want an hour", left)
	}
	r := apply(t.Context(), kv, driver.Op{Kind: driver.Add, Key: "k", Delta: 1})
	if r.Err != nil || !r.Expires.Equal(e.Expires) {
		t.Errorf("add keeps the expiry %v: %+v", e.Expires, r)
	}
}

// TestScanWhileEverythingIsRewritten rewrites all keys between all pages, so
// that the end of the stream never comes nearer.
func TestScanWhileEverythingIsRewritten(t *testing.T) {
	t.Parallel()
	_, kv, _ := start(t)
	const keys = 300
	write := func() {
		ops, results := make([]driver.Op, keys), make([]driver.Result, keys)
		for i := range ops {
			ops[i] = driver.Op{Kind: driver.Put, Key: "k" + strconv.Itoa(i)}
		}
		kv.Apply(t.Context(), ops, results)
		for _, r := range results {
			must(t, r.Err)
		}
	}
	write()
	times := map[string]int{}
	r := driver.ScanRequest{Limit: 7, KeysOnly: true}
	for pages := 0; ; pages++ {
		page, err := kv.Scan(t.Context(), r)
		must(t, err)
		for _, item := range page.Items {
			times[item.Key]++
		}
		if r.Cursor = page.Next; r.Cursor == nil {
			break
		}
		if pages > 3*keys {
			t.Fatal("the scan does not end")
		}
		write()
	}
	for i := range keys {
		if n := times["k"+strconv.Itoa(i)]; n == 0 {
			t.Errorf("k%d did not come", i)
		}
	}
}

// TestMirrorAnswers has a mirror answer direct gets that is behind: it is never
// believed.
func TestMirrorAnswers(t *testing.T) {
	t.Parallel()
	s, kv, _ := start(t)
	js, err := jetstream.New(connect(t, s.URL))
	must(t, err)
	put(t, kv, "k", "old")
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "copy", Mirror: &jetstream.StreamSource{Name: "KV_prism"}, MirrorDirect: true, AllowDirect: true, Storage: jetstream.MemoryStorage,
	})
	must(t, err)
	stream, err := js.Stream(t.Context(), "copy")
	must(t, err)
	await(t, "the mirror", func() bool {
		info, err := stream.Info(t.Context())
		return err == nil && info.State.Msgs > 0
	})
	for i := range 60 {
		value := strconv.Itoa(i)
		put(t, kv, "k", value)
		e, err := kv.Get(t.Context(), "k", driver.ValueOnly)
		must(t, err)
		if string(e.Value) != value {
			t.Fatalf("get after put of %s: %s", value, e.Value)
		}
		page, err := kv.Scan(t.Context(), driver.ScanRequest{Limit: 10})
		must(t, err)
		if len(page.Items) != 1 || string(page.Items[0].Value) != value {
			t.Fatalf("scan after put of %s: %+v", value, page.Items)
		}
	}
}

func TestWatchTellsOfAnotherProgram(t *testing.T) {
	t.Parallel()
	s, _, other := start(t)
	conn := open(t, driver.Config{URL: s.URL})
	b, err := conn.Space(orders)
	must(t, err)
	w, err := b.Watcher.Watch(t.Context(), "user:")
	must(t, err)
	_, err = other.PutString(t.Context(), "orders.carts.other", "x")
	must(t, err)
	_, err = other.PutString(t.Context(), "orders.carts.user=3A9", "x")
	must(t, err)
	change, err := w.Next(t.Context())
	if err != nil || change.Lost || !slices.Equal(change.Keys, []string{"user:9"}) {
		t.Errorf("told: %+v, %v", change, err)
	}
	must(t, w.Close())
}
