package patterntest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
	"github.com/prismgw/prism/pattern/keyvalue"
)

// keyValueChecks are the tests of the KeyValue pattern.
func keyValueChecks() []check {
	on := func(name string, needs func(*suite) string, test func(*testing.T, *kv)) check {
		return check{"keyvalue/" + name, needs, func(t *testing.T, s *suite) { test(t, s.keyValue(t, name)) }}
	}
	return []check{
		on("conditions", nil, testConditions),
		on("delete", nil, testDelete),
		on("ttl", needsTTL, testTTL),
		on("default-ttl", needsTTL, testDefaultTTL),
		on("expire", needsTTL, testExpire),
		on("ttl-refused", needsNoTTL, testTTLRefused),
		on("increment", nil, testIncrement),
		on("keys", nil, testKeys),
		on("values", nil, testValues),
		on("store-batch", nil, testStoreBatch),
		on("retrieve-batch", nil, testRetrieveBatch),
		on("delete-batch", nil, testDeleteBatch),
		on("scan", nil, testScan),
		on("cursors", nil, testCursors),
		on("idempotency", nil, testIdempotency),
		on("batch-idempotency", nil, testBatchIdempotency),
	}
}

func needsTTL(s *suite) string {
	if !s.found.Guarantees.TTL {
		return "entries cannot expire here"
	}
	return ""
}

func needsNoTTL(s *suite) string {
	if s.found.Guarantees.TTL {
		return "entries can expire"
	}
	return ""
}

// kv is the pattern of one namespace.
type kv struct {
	keyvaluev1.KeyValueServer
	s     *suite
	place driver.Space
	g     driver.Guarantees
}

// keyValue returns the pattern of a new namespace.
func (s *suite) keyValue(t *testing.T, name string) *kv {
	t.Helper()
	k := &kv{s: s, place: s.place(t, name), g: s.found.Guarantees}
	server, err := k.open(t, "")
	if err != nil {
		t.Fatal(err)
	}
	k.KeyValueServer = server
	return k
}

// open opens the pattern of the namespace under other settings.
func (k *kv) open(t *testing.T, settings string) (keyvaluev1.KeyValueServer, error) {
	t.Helper()
	config := pattern.Config{
		Namespace: k.place.Namespace, Name: k.place.Pattern,
		Slots: map[string]pattern.Filled{"store-kv": {Backend: k.s.space(t, k.place), ID: "one"}},
	}
	if settings != "" {
		config.Settings = []byte(settings)
	}
	kind := keyvalue.Kind()
	instance, err := kind.Open(config)
	if err != nil {
		return nil, err
	}
	server, ok := instance.(keyvaluev1.KeyValueServer)
	if !ok {
		t.Fatalf("the instance is a %T", instance)
	}
	return server, nil
}

func (k *kv) put(t *testing.T, key, value string) string {
	t.Helper()
	r, err := k.Store(t.Context(), &keyvaluev1.StoreRequest{Key: key, Value: []byte(value)})
	if err != nil {
		t.Fatalf("store %q: %v", key, err)
	}
	return r.GetVersion()
}

func (k *kv) want(t *testing.T, key, value string) {
	t.Helper()
	r, err := k.Retrieve(t.Context(), &keyvaluev1.RetrieveRequest{Key: key})
	if err != nil || string(r.GetValue()) != value {
		t.Errorf("retrieve %.40q: %.40q, %v; want %.40q", key, r.GetValue(), err, value)
	}
}

func (k *kv) wantNone(t *testing.T, key string) {
	t.Helper()
	r, err := k.Retrieve(t.Context(), &keyvaluev1.RetrieveRequest{Key: key})
	wantReason(t, "retrieve "+key, err, errs.KeyNotFound)
	if r != nil {
		t.Errorf("an answer beside the error")
	}
	if e, err := k.Exists(t.Context(), &keyvaluev1.ExistsRequest{Key: key}); err != nil || e.GetExists() {
		t.Errorf("exists %q: %v, %v", key, e.GetExists(), err)
	}
}

func wantReason(t *testing.T, what string, err error, want errs.Reason) {
	t.Helper()
	if got := errs.ReasonOf(err); err == nil || got != want {
		t.Errorf("%.60s: %s (%v), want %s", what, got.String(), err, want.String())
	}
}

func testConditions(t *testing.T, k *kv) {
	ctx := t.Context()
	store := func(value string, change func(*keyvaluev1.StoreRequest)) (*keyvaluev1.StoreResponse, error) {
		r := &keyvaluev1.StoreRequest{Key: "a", Value: []byte(value)}
		change(r)
		return k.Store(ctx, r)
	}
	ifVersion := func(v string) func(*keyvaluev1.StoreRequest) {
		return func(r *keyvaluev1.StoreRequest) { r.IfVersion = &v }
	}
	ifAbsent := func(r *keyvaluev1.StoreRequest) { r.IfAbsent = true }

	_, err := store("1", ifVersion("nope"))
	wantReason(t, "if_version on an absent key", err, errs.VersionMismatch)
	k.wantNone(t, "a")
	first, err := store("1", ifAbsent)
	if err != nil {
		t.Fatal(err)
	}
	_, err = store("2", ifAbsent)
	wantReason(t, "if_absent on a present key", err, errs.AlreadyExists)
	if got := errs.From(err).Meta["version"]; got != first.GetVersion() {
		t.Errorf("ALREADY_EXISTS tells version %q, want %q", got, first.GetVersion())
	}
	second, err := store("3", ifVersion(first.GetVersion()))
	if err != nil {
		t.Fatal(err)
	}
	_, err = store("4", ifVersion(first.GetVersion()))
	wantReason(t, "an old version", err, errs.VersionMismatch)
	if got := errs.From(err).Meta["current"]; got != second.GetVersion() {
		t.Errorf("VERSION_MISMATCH tells current %q, want %q", got, second.GetVersion())
	}
	k.want(t, "a", "3")
	_, err = store("5", func(r *keyvaluev1.StoreRequest) { ifAbsent(r); ifVersion("x")(r) })
	wantReason(t, "both conditions", err, errs.InvalidField)
	_, err = store("5", ifVersion(""))
	wantReason(t, "an empty version", err, errs.InvalidField)
	_, err = store("5", ifVersion(strings.Repeat("v", 65)))
	wantReason(t, "a long version", err, errs.InvalidField)
	k.want(t, "a", "3")
}

func testDelete(t *testing.T, k *kv) {
	ctx := t.Context()
	if _, err := k.Delete(ctx, &keyvaluev1.DeleteRequest{Key: "none"}); err != nil {
		t.Errorf("deleting an absent key: %v", err)
	}
	v := k.put(t, "a", "1")
	_, err := k.Delete(ctx, &keyvaluev1.DeleteRequest{Key: "a", IfVersion: proto.String("other")})
	wantReason(t, "another version", err, errs.VersionMismatch)
	k.want(t, "a", "1")
	if _, err := k.Delete(ctx, &keyvaluev1.DeleteRequest{Key: "a", IfVersion: &v}); err != nil {
		t.Error(err)
	}
	k.wantNone(t, "a")
	_, err = k.Delete(ctx, &keyvaluev1.DeleteRequest{Key: "a", IfVersion: &v})
	wantReason(t, "if_version on an absent key", err, errs.VersionMismatch)
}

// poll waits until a condition holds.
func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (k *kv) absent(t *testing.T, key string) bool {
	_, err := k.Retrieve(t.Context(), &keyvaluev1.RetrieveRequest{Key: key})
	return errs.ReasonOf(err) == errs.KeyNotFound
}

func testTTL(t *testing.T, k *kv) {
	ctx := t.Context()
	for text, ttl := range map[string]*durationpb.Duration{
		"zero": {}, "negative": durationpb.New(-time.Second), "too short": durationpb.New(time.Microsecond),
		"too long": durationpb.New(driver.MaxTTL + time.Second), "no duration": {Seconds: 1, Nanos: -1},
	} {
		_, err := k.Store(ctx, &keyvaluev1.StoreRequest{Key: "bad", Ttl: ttl})
		wantReason(t, text, err, errs.InvalidField)
	}
	k.wantNone(t, "bad")
	began := time.Now()
	if _, err := k.Store(ctx, &keyvaluev1.StoreRequest{Key: "a", Value: []byte("1"), Ttl: durationpb.New(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	r, err := k.Retrieve(ctx, &keyvaluev1.RetrieveRequest{Key: "a", WithExpiry: true})
	if err != nil {
		t.Fatal(err)
	}
	if left := r.GetExpiresAt().AsTime().Sub(began); left < time.Hour-time.Minute || left > time.Hour+time.Minute {
		t.Errorf("expires after %v, want an hour", left)
	}
	if r, err := k.Retrieve(ctx, &keyvaluev1.RetrieveRequest{Key: "a"}); err != nil || r.GetExpiresAt() != nil {
		t.Errorf("an expiry that nobody asked for: %v %v", r.GetExpiresAt(), err)
	}
	k.put(t, "a", "2") // without a ttl: it is removed
	if r, err := k.Retrieve(ctx, &keyvaluev1.RetrieveRequest{Key: "a", WithExpiry: true}); err != nil || r.GetExpiresAt() != nil {
		t.Errorf("after a store without ttl it still expires: %v %v", r.GetExpiresAt(), err)
	}
	if _, err := k.Store(ctx, &keyvaluev1.StoreRequest{Key: "short", Value: []byte("1"), Ttl: durationpb.New(20 * time.Millisecond)}); err != nil {
		t.Fatal(err)
	}
	poll(t, "the key expires", func() bool { return k.absent(t, "short") })
	if _, err := k.Store(ctx, &keyvaluev1.StoreRequest{Key: "short", IfAbsent: true}); err != nil {
		t.Errorf("if_absent on an expired key: %v", err)
	}
}

func testDefaultTTL(t *testing.T, k *kv) {
	server, err := k.open(t, `{"default_ttl": "1h"}`)
	if err != nil {
		t.Fatal(err)
	}
	d := &kv{server, k.s, k.place, k.g}
	d.put(t, "a", "1")
	r, err := d.Retrieve(t.Context(), &keyvaluev1.RetrieveRequest{Key: "a", WithExpiry: true})
	if err != nil || r.GetExpiresAt() == nil {
		t.Errorf("the default ttl was not given: %v %v", r.GetExpiresAt(), err)
	}
}

// testTTLRefused is for backends on which nothing expires: what was to be
// forgotten must not be kept for good.
func testTTLRefused(t *testing.T, k *kv) {
	ctx := t.Context()
	_, err := k.Store(ctx, &keyvaluev1.StoreRequest{Key: "a", Value: []byte("1"), Ttl: durationpb.New(time.Hour)})
	wantReason(t, "store with a ttl", err, errs.Unsupported)
	k.wantNone(t, "a")
	k.put(t, "b", "1")
	_, err = k.Expire(ctx, &keyvaluev1.ExpireRequest{Key: "b", Ttl: durationpb.New(time.Hour)})
	wantReason(t, "expire", err, errs.Unsupported)
	k.want(t, "b", "1")
	_, err = k.open(t, `{"default_ttl": "1h"}`)
	wantReason(t, "default_ttl", err, errs.InvalidField)
}

func testIncrement(t *testing.T, k *kv) {
	ctx := t.Context()
	add := func(key string, by *int64) (*keyvaluev1.IncrementResponse, error) {
		return k.Increment(ctx, &keyvaluev1.IncrementRequest{Key: key, Delta: by})
	}
	r, err := add("n", nil)
	if err != nil || r.GetValue() != 1 || r.GetVersion() == "" {
		t.Fatal(r, err)
	}
	if r, err = add("n", proto.Int64(-43)); err != nil || r.GetValue() != -42 {
		t.Fatal(r, err)
	}
	k.want(t, "n", "-42")
	if g, err := k.Retrieve(ctx, &keyvaluev1.RetrieveRequest{Key: "n"}); err != nil || g.GetVersion() != r.GetVersion() {
		t.Errorf("version %q, want that of the increment %q (%v)", g.GetVersion(), r.GetVersion(), err)
	}
	for _, bad := range []string{"", "x", "1.5", "+1", " 1", "1 ", "0x10", "1e3", "12345678901234567890123"} {
		k.put(t, "bad", bad)
		_, err := add("bad", nil)
		wantReason(t, "increment of "+strconv.Quote(bad), err, errs.NotANumber)
		k.want(t, "bad", bad)
	}
	for value, by := range map[string]int64{"9223372036854775807": 1, "-9223372036854775808": -1, "9223372036854775808": -1} {
		k.put(t, "edge", value)
		_, err := add("edge", &by)
		wantReason(t, "past the edge", err, errs.OutOfRange)
		k.want(t, "edge", value)
	}
	k.put(t, "edge", "9223372036854775806")
	if r, err := add("edge", nil); err != nil || r.GetValue() != 9223372036854775807 {
		t.Error(r, err)
	}
}

func testExpire(t *testing.T, k *kv) {
	ctx := t.Context()
	_, err := k.Expire(ctx, &keyvaluev1.ExpireRequest{Key: "none", Ttl: durationpb.New(time.Hour)})
	wantReason(t, "an absent key", err, errs.KeyNotFound)
	k.put(t, "a", "1")
	for _, ttl := range []*durationpb.Duration{nil, {}, durationpb.New(-1)} {
		_, err = k.Expire(ctx, &keyvaluev1.ExpireRequest{Key: "a", Ttl: ttl})
		wantReason(t, "ttl <= 0", err, errs.InvalidField)
	}
	r, err := k.Expire(ctx, &keyvaluev1.ExpireRequest{Key: "a", Ttl: durationpb.New(time.Hour)})
	if err != nil || r.GetExpiresAt() == nil || r.GetVersion() == "" {
		t.Fatal(r, err)
	}
	if _, err := k.Increment(ctx, &keyvaluev1.IncrementRequest{Key: "a"}); err != nil {
		t.Fatal(err)
	}
	g, err := k.Retrieve(ctx, &keyvaluev1.RetrieveRequest{Key: "a", WithExpiry: true})
	if err != nil || !g.GetExpiresAt().AsTime().Equal(r.GetExpiresAt().AsTime()) {
		t.Errorf("an increment changed the expiry from %v to %v (%v)", r.GetExpiresAt().AsTime(), g.GetExpiresAt().AsTime(), err)
	}
}

func testKeys(t *testing.T, k *kv) {
	ctx := t.Context()
	good := []string{
		"a", "a/b", "a:b", "%", "%25", "_", "*", "?", "[x]", "..", ".", "../..", "\n", "\r\n", " ", "{a}", "ключ", "🔑", `\`, `"`, "'", "--",
		strings.Repeat("k", driver.MaxKey), strings.Repeat("é", driver.MaxKey/2), "\u202e", "\u0001",
	}
	for i, key := range good {
		k.put(t, key, strconv.Itoa(i))
	}
	for i, key := range good {
		k.want(t, key, strconv.Itoa(i))
	}
	for _, key := range []string{"", "\x00", "a\x00b", "\xff", strings.Repeat("k", driver.MaxKey+1)} {
		_, err := k.Store(ctx, &keyvaluev1.StoreRequest{Key: key})
		wantReason(t, "store of a bad key", err, errs.InvalidKey)
		_, err = k.Retrieve(ctx, &keyvaluev1.RetrieveRequest{Key: key})
		wantReason(t, "retrieve of a bad key", err, errs.InvalidKey)
		_, err = k.Delete(ctx, &keyvaluev1.DeleteRequest{Key: key})
		wantReason(t, "delete of a bad key", err, errs.InvalidKey)
		_, err = k.Increment(ctx, &keyvaluev1.IncrementRequest{Key: key})
		wantReason(t, "increment of a bad key", err, errs.InvalidKey)
	}
	for _, key := range good {
		if _, err := k.Delete(ctx, &keyvaluev1.DeleteRequest{Key: key}); err != nil {
			t.Error(err)
		}
		k.wantNone(t, key)
	}
}

func testValues(t *testing.T, k *kv) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for name, value := range map[string][]byte{"empty": {}, "binary": all, "large": bytes.Repeat(all, (1<<20)/256)} {
		k.put(t, name, string(value))
		k.want(t, name, string(value))
	}
	over := make([]byte, min(4<<20, k.g.MaxValue)+1)
	_, err := k.Store(t.Context(), &keyvaluev1.StoreRequest{Key: "over", Value: over})
	wantReason(t, "a value over the limit", err, errs.PayloadTooLarge)
	if e := errs.From(err); e.Meta["limit"] != strconv.Itoa(len(over)-1) || e.Meta["limit_of"] != "value" {
		t.Errorf("metadata %v", e.Meta)
	}
	k.wantNone(t, "over")
}

func testStoreBatch(t *testing.T, k *kv) {
	ctx := t.Context()
	k.put(t, "there", "1")
	r, err := k.StoreBatch(ctx, &keyvaluev1.StoreBatchRequest{Items: []*keyvaluev1.StoreRequest{
		{Key: "a", Value: []byte("1")},
		{Key: "there", IfAbsent: true},
		{Key: ""},
		{Key: "b", Value: []byte("2"), IfVersion: proto.String("nope")},
		{Key: "c", Ttl: durationpb.New(-1)},
		{Key: "d", Value: []byte("4")},
	}})
	if err != nil || len(r.GetResults()) != 6 {
		t.Fatal(r, err)
	}
	for i, want := range []string{"", "ALREADY_EXISTS", "INVALID_KEY", "VERSION_MISMATCH", "INVALID_FIELD", ""} {
		if got := itemReason(r.GetResults()[i].GetError()); got != want {
			t.Errorf("item %d: %q, want %q", i, got, want)
		}
	}
	k.want(t, "a", "1")
	k.want(t, "d", "4")
	k.want(t, "there", "1")
	_, err = k.StoreBatch(ctx, &keyvaluev1.StoreBatchRequest{})
	wantReason(t, "an empty batch", err, errs.InvalidField)
	_, err = k.StoreBatch(ctx, &keyvaluev1.StoreBatchRequest{Items: []*keyvaluev1.StoreRequest{{Key: "x"}, {Key: "y"}, {Key: "x"}}})
	wantReason(t, "a key twice", err, errs.InvalidField)
	k.wantNone(t, "y")
	many := make([]*keyvaluev1.StoreRequest, 1001)
	for i := range many {
		many[i] = &keyvaluev1.StoreRequest{Key: fmt.Sprint(i)}
	}
	_, err = k.StoreBatch(ctx, &keyvaluev1.StoreBatchRequest{Items: many})
	wantReason(t, "too many items", err, errs.PayloadTooLarge)
	if r, err := k.StoreBatch(ctx, &keyvaluev1.StoreBatchRequest{Items: many[:1000]}); err != nil || len(r.GetResults()) != 1000 {
		t.Errorf("1,000 items: %v", err)
	}
}

func testRetrieveBatch(t *testing.T, k *kv) {
	k.put(t, "a", "1")
	k.put(t, "b", "2")
	r, err := k.RetrieveBatch(t.Context(), &keyvaluev1.RetrieveBatchRequest{Keys: []string{"b", "none", "a", "\xff"}})
	if err != nil || len(r.GetResults()) != 4 {
		t.Fatal(r, err)
	}
	if string(r.GetResults()[0].GetFound().GetValue()) != "2" || string(r.GetResults()[2].GetFound().GetValue()) != "1" {
		t.Errorf("wrong values or order: %v", r)
	}
	if itemReason(r.GetResults()[1].GetError()) != "KEY_NOT_FOUND" || itemReason(r.GetResults()[3].GetError()) != "INVALID_KEY" {
		t.Errorf("wrong errors: %v", r)
	}
	_, err = k.RetrieveBatch(t.Context(), &keyvaluev1.RetrieveBatchRequest{Keys: []string{"a", "a"}})
	wantReason(t, "a key twice", err, errs.InvalidField)

	// Six values of 1 MiB do not fit an answer of 4; what does not can be read alone.
	big := strings.Repeat("x", 1<<20)
	var keys []string
	for i := range 6 {
		keys = append(keys, fmt.Sprintf("big%d", i))
		k.put(t, keys[i], big)
	}
	r, err = k.RetrieveBatch(t.Context(), &keyvaluev1.RetrieveBatchRequest{Keys: append(keys, "a")})
	if err != nil {
		t.Fatal(err)
	}
	found, refused := 0, 0
	for _, one := range r.GetResults()[:6] {
		switch {
		case len(one.GetFound().GetValue()) == len(big):
			found++
		case itemReason(one.GetError()) == "PAYLOAD_TOO_LARGE":
			refused++
		}
	}
	if found != 3 || refused != 3 || proto.Size(r) > 4<<20 {
		t.Errorf("%d found, %d too large, %d bytes", found, refused, proto.Size(r))
	}
	if string(r.GetResults()[6].GetFound().GetValue()) != "1" {
		t.Errorf("a small value behind the large ones: %v", r.GetResults()[6].GetError())
	}
}

func testDeleteBatch(t *testing.T, k *kv) {
	k.put(t, "a", "1")
	k.put(t, "b", "1")
	r, err := k.DeleteBatch(t.Context(), &keyvaluev1.DeleteBatchRequest{Items: []*keyvaluev1.DeleteRequest{
		{Key: "a"}, {Key: "b", IfVersion: proto.String("other")}, {Key: "none"},
	}})
	if err != nil || len(r.GetResults()) != 3 {
		t.Fatal(r, err)
	}
	if r.GetResults()[0].GetError() != nil || itemReason(r.GetResults()[1].GetError()) != "VERSION_MISMATCH" || r.GetResults()[2].GetError() != nil {
		t.Errorf("%v", r)
	}
	k.wantNone(t, "a")
	k.want(t, "b", "1")
}

// scanned collects what a scan sends.
type scanned struct {
	ctx   context.Context //nolint:containedctx // a stream has one
	pages []*keyvaluev1.ScanResponse
}

func (s *scanned) Send(r *keyvaluev1.ScanResponse) error { s.pages = append(s.pages, r); return nil }
func (s *scanned) Context() context.Context              { return s.ctx }
func (*scanned) SetHeader(metadata.MD) error             { return nil }
func (*scanned) SendHeader(metadata.MD) error            { return nil }
func (*scanned) SetTrailer(metadata.MD)                  {}
func (*scanned) SendMsg(any) error                       { return errs.Internal }
func (*scanned) RecvMsg(any) error                       { return errs.Internal }

func (k *kv) scan(t *testing.T, r *keyvaluev1.ScanRequest) (pages []*keyvaluev1.ScanResponse, keys []string) {
	t.Helper()
	s := &scanned{ctx: t.Context()}
	if err := k.Scan(r, s); err != nil {
		t.Fatalf("scan: %v", err)
	}
	for _, p := range s.pages {
		for _, e := range p.GetEntries() {
			keys = append(keys, e.GetKey())
		}
	}
	return s.pages, keys
}

func testScan(t *testing.T, k *kv) {
	var want []string
	for i := range 100 {
		key := fmt.Sprintf("p/%03d", i)
		want = append(want, key)
		k.put(t, key, strconv.Itoa(i))
	}
	for _, other := range []string{"p", "p0", "q/1", "P/1", "p%", "p_1"} {
		k.put(t, other, "other")
	}
	pages, keys := k.scan(t, &keyvaluev1.ScanRequest{Prefix: "p/", PageSize: 7})
	for _, p := range pages {
		if len(p.GetEntries()) > 7 {
			t.Errorf("a page of %d, 7 were asked for", len(p.GetEntries()))
		}
		for _, e := range p.GetEntries() {
			if want := strings.TrimLeft(strings.TrimPrefix(e.GetKey(), "p/"), "0"); string(e.GetValue()) != want && want != "" {
				t.Errorf("%s has %q", e.GetKey(), e.GetValue())
			}
			if e.GetVersion() == "" {
				t.Errorf("%s has no version", e.GetKey())
			}
		}
	}
	if k.g.OrderedScan && !slices.Equal(keys, want) {
		t.Errorf("ordered scan: %v", keys)
	}
	slices.Sort(keys)
	if !slices.Equal(slices.Compact(keys), want) {
		t.Errorf("%d keys, want 100", len(keys))
	}
	if last := pages[len(pages)-1]; last.GetCursor() != "" {
		t.Errorf("the last page has a cursor")
	}
	// Every message can be gone on from.
	mid := pages[len(pages)/2]
	_, rest := k.scan(t, &keyvaluev1.ScanRequest{Prefix: "p/", PageSize: 100, Cursor: mid.GetCursor()})
	seen := map[string]bool{}
	for _, p := range pages[:len(pages)/2+1] {
		for _, e := range p.GetEntries() {
			seen[e.GetKey()] = true
		}
	}
	for _, key := range rest {
		seen[key] = true
	}
	if len(seen) != 100 {
		t.Errorf("resuming in the middle: %d of 100 keys", len(seen))
	}
	if _, keys := k.scan(t, &keyvaluev1.ScanRequest{Prefix: "none"}); len(keys) != 0 {
		t.Errorf("below an absent prefix: %v", keys)
	}
	if pages, keys := k.scan(t, &keyvaluev1.ScanRequest{KeysOnly: true}); len(slices.Compact(slices.Sorted(slices.Values(keys)))) != 106 || len(pages[0].GetEntries()[0].GetValue()) != 0 {
		t.Errorf("keys only: %d keys, value %q", len(keys), pages[0].GetEntries()[0].GetValue())
	}
}

func testCursors(t *testing.T, k *kv) {
	for i := range 20 {
		k.put(t, fmt.Sprintf("c%02d", i), "v")
	}
	pages, _ := k.scan(t, &keyvaluev1.ScanRequest{Prefix: "c", PageSize: 3})
	cursor := pages[0].GetCursor()
	try := func(k *kv, r *keyvaluev1.ScanRequest) error { return k.Scan(r, &scanned{ctx: t.Context()}) }
	wantReason(t, "another prefix", try(k, &keyvaluev1.ScanRequest{Prefix: "c0", Cursor: cursor}), errs.InvalidCursor)
	wantReason(t, "another namespace", try(k.s.keyValue(t, "other"), &keyvaluev1.ScanRequest{Prefix: "c", Cursor: cursor}), errs.InvalidCursor)
	for _, bad := range []string{"x", "====", strings.Repeat("A", 5000), cursor[:len(cursor)-2], "B" + cursor[1:], cursor + "AA"} {
		wantReason(t, "a mangled cursor", try(k, &keyvaluev1.ScanRequest{Prefix: "c", Cursor: bad}), errs.InvalidCursor)
	}
	for _, r := range []*keyvaluev1.ScanRequest{{PageSize: -1}, {PageSize: 1001}, {PageBytes: -1}, {PageBytes: 2 << 20}, {Prefix: "\xff"}} {
		wantReason(t, "a bad request", try(k, r), errs.InvalidField)
	}
}

func withKey(t *testing.T, key string) context.Context {
	return context.WithValue(t.Context(), pattern.CallKey{}, &pattern.Call{IdempotencyKey: key})
}

func testIdempotency(t *testing.T, k *kv) {
	ctx := withKey(t, "once")
	first, err := k.Increment(ctx, &keyvaluev1.IncrementRequest{Key: "n"})
	if err != nil {
		t.Fatal(err)
	}
	again, err := k.Increment(ctx, &keyvaluev1.IncrementRequest{Key: "n"})
	if err != nil || again.GetValue() != 1 || again.GetVersion() != first.GetVersion() {
		t.Errorf("the repeat answered %v, %v; want the first answer", again, err)
	}
	k.want(t, "n", "1")
	_, err = k.Increment(ctx, &keyvaluev1.IncrementRequest{Key: "n", Delta: proto.Int64(2)})
	wantReason(t, "another request under the key", err, errs.IdempotencyMismatch)
	_, err = k.Increment(ctx, &keyvaluev1.IncrementRequest{Key: "m"})
	wantReason(t, "another key of data under the key", err, errs.IdempotencyMismatch)
	k.want(t, "n", "1")
	k.wantNone(t, "m")
	other := context.WithValue(t.Context(), pattern.CallKey{}, &pattern.Call{IdempotencyKey: "once", Subject: "somebody else"})
	if r, err := k.Increment(other, &keyvaluev1.IncrementRequest{Key: "n"}); err != nil || r.GetValue() != 2 {
		t.Errorf("another subject's key: %v, %v", r, err)
	}
	_, err = k.Increment(withKey(t, strings.Repeat("k", 257)), &keyvaluev1.IncrementRequest{Key: "n"})
	wantReason(t, "a long idempotency key", err, errs.InvalidField)
}

func testBatchIdempotency(t *testing.T, k *kv) {
	ctx := withKey(t, "batch")
	r := &keyvaluev1.StoreBatchRequest{Items: []*keyvaluev1.StoreRequest{
		{Key: "a", Value: []byte("1"), IfAbsent: true}, {Key: "b", Value: []byte("2"), IfAbsent: true},
	}}
	first, err := k.StoreBatch(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	again, err := k.StoreBatch(ctx, r)
	if err != nil || !proto.Equal(first, again) {
		t.Errorf("the repeat answered %v, want %v (%v)", again, first, err)
	}
}

// itemReason returns the reason in an item's status, empty for none.
func itemReason(s *rpcstatus.Status) string {
	if s == nil {
		return ""
	}
	return errs.FromStatus(status.ErrorProto(s)).Reason.String()
}
