package redis_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

func TestOtherClientsSeePlainStrings(t *testing.T) {
	t.Parallel()
	_, kv, other := start(t)
	ctx := t.Context()
	put(t, kv, "a/b c", "x\x00y")
	if got, err := other.Get(ctx, "orders:carts:a/b c").Result(); err != nil || got != "x\x00y" {
		t.Fatalf("got %q, %v", got, err)
	}
	must(t, other.Set(ctx, "orders:carts:theirs", "41", time.Minute).Err())
	e, err := kv.Get(ctx, "theirs", driver.WithExpiry)
	must(t, err)
	if left := time.Until(e.Expires); string(e.Value) != "41" || left < 50*time.Second || left > time.Minute+time.Second {
		t.Fatalf("got %q, expires in %v", e.Value, left)
	}
	r := apply(ctx, kv, driver.Op{Kind: driver.Add, Key: "theirs", Delta: 1, IfVersion: e.Version})
	if r.Err != nil || r.Number != 42 || !r.Expires.Equal(e.Expires) {
		t.Fatalf("add: %+v", r)
	}
	if got := other.Get(ctx, "orders:carts:theirs").Val(); got != "42" {
		t.Fatalf("the other client reads %q", got)
	}
}

func TestDataOfAnotherType(t *testing.T) {
	t.Parallel()
	_, kv, other := start(t)
	ctx := t.Context()
	must(t, other.LPush(ctx, "orders:carts:list", "x").Err())
	_, err := kv.Get(ctx, "list", driver.WithExpiry)
	wants(t, "get", err, errs.WrongType)
	results := make([]driver.GetResult, 2)
	put(t, kv, "text", "1")
	kv.GetMany(ctx, []string{"list", "text"}, driver.WithExpiry, results)
	wants(t, "get many", results[0].Err, errs.WrongType)
	must(t, results[1].Err)
	for _, op := range []driver.Op{
		{Kind: driver.Delete},
		{Kind: driver.Add, Delta: 1},
		{Kind: driver.Expire, TTL: time.Minute},
		{Kind: driver.Put, IfAbsent: true},
		{Kind: driver.Put, IfVersion: "v"},
		{Kind: driver.Put, Once: &driver.Once{TTL: time.Minute}},
	} {
		op.Key = "list"
		wants(t, "operation", apply(ctx, kv, op).Err, errs.WrongType)
	}
	page, err := kv.Scan(ctx, driver.ScanRequest{Limit: 10})
	if err != nil || len(page.Items) != 1 || page.Items[0].Key != "text" {
		t.Fatalf("scan: %+v, %v", page, err)
	}
	if n := other.LLen(ctx, "orders:carts:list").Val(); n != 1 {
		t.Fatalf("the list has %d elements", n)
	}
}

func TestAdoptedLayout(t *testing.T) {
	t.Parallel()
	s, own, other := start(t)
	ctx := t.Context()
	adopted := driver.Space{Namespace: "shop", Pattern: "carts", Layout: json.RawMessage(`{"keys": "cart[*]:{key}:v1"}`)}
	kv := space(t, open(t, driver.Config{URL: s.URL}), adopted)
	must(t, other.MSet(ctx, "cart[*]:a:v1", "1", "cart*:a:v1", "2", "cart[*]:a:v2", "3", "cart[*]::v1", "4", "cart[*]:\xff:v1", "5").Err())
	must(t, other.SAdd(ctx, "cart[*]:set:v1", "x").Err())
	put(t, own, "a", "own")
	put(t, kv, "b", "b")
	if got := other.Get(ctx, "cart[*]:b:v1").Val(); got != "b" {
		t.Fatalf("it lies elsewhere: %q", got)
	}
	wants(t, "a put over a set", apply(ctx, kv, driver.Op{Kind: driver.Put, Key: "set"}).Err, errs.WrongType)
	found := map[string]string{}
	for _, i := range scanAll(t, kv, driver.ScanRequest{Limit: 1}) {
		found[i.Key] = string(i.Value)
	}
	if len(found) != 2 || found["a"] != "1" || found["b"] != "b" {
		t.Fatalf("scan: %v", found)
	}
}

func TestAdoptedLayoutHidesRecords(t *testing.T) {
	t.Parallel()
	s, kv, other := start(t)
	ctx := t.Context()
	everything := space(t, open(t, driver.Config{URL: s.URL}), driver.Space{Namespace: "x", Pattern: "y", Layout: json.RawMessage(`{"keys": "{key}"}`)})
	must(t, apply(ctx, kv, driver.Op{Kind: driver.Put, Key: "k", Once: &driver.Once{TTL: time.Minute}}).Err)
	records := other.Keys(ctx, "prism!once:*").Val()
	if len(records) != 1 {
		t.Fatalf("records: %q", records)
	}
	items := scanAll(t, everything, driver.ScanRequest{Limit: 10, KeysOnly: true})
	if len(items) != 1 || items[0].Key != "orders:carts:k" {
		t.Fatalf("scan: %v", items)
	}
	_, err := everything.Get(ctx, records[0], driver.WithExpiry)
	wants(t, "reading a record", err, errs.KeyNotFound)
	wants(t, "writing a record", apply(ctx, everything, driver.Op{Kind: driver.Delete, Key: records[0]}).Err, errs.InvalidKey)
}

func TestBadLayouts(t *testing.T) {
	t.Parallel()
	conn := open(t, driver.Config{URL: "redis://127.0.0.1:1"})
	for _, layout := range []string{`{}`, `{"keys": "a"}`, `{"keys": "{key}{key}"}`, `{"key": "{key}"}`, `{"keys": 1}`, `{"keys":"prism!once:{key}"}`, `[]`} {
		_, err := conn.Space(driver.Space{Namespace: "n", Pattern: "p", Layout: json.RawMessage(layout)})
		e := wants(t, layout, err, errs.InvalidField)
		if !strings.HasPrefix(e.Fields[0].Path, "layout") {
			t.Errorf("%s: field %q", layout, e.Fields[0].Path)
		}
	}
	b, err := conn.Space(driver.Space{Namespace: "n", Pattern: "p", Layout: json.RawMessage(`{"keys": "a{key}z"}`)})
	must(t, err)
	if want := (driver.Extent{Container: "127.0.0.1:1//0", Prefix: "a", Suffix: "z"}); b.Extent != want {
		t.Fatalf("extent %+v, want %+v", b.Extent, want)
	}
}

func TestNumbersOfOtherForms(t *testing.T) {
	t.Parallel()
	_, kv, other := start(t)
	ctx := t.Context()
	for _, c := range []struct {
		text  string
		delta int64
		want  string // the sum; the text itself if it fails
		err   errs.Reason
	}{
		{"007", 1, "8", 0},
		{"-0", -5, "-5", 0},
		{"-007", 7, "0", 0},
		{"0000000000000000000", 3, "3", 0},
		{"9007199254740993", 2, "9007199254740995", 0}, // beyond 2^53
		{"9223372036854775807", 0, "9223372036854775807", 0},
		{"-9223372036854775808", 0, "-9223372036854775808", 0},
		{"0", -9223372036854775808, "-9223372036854775808", 0},
		{"9223372036854775807", 1, "9223372036854775807", errs.OutOfRange},
		{"-9223372036854775808", -1, "-9223372036854775808", errs.OutOfRange},
		{"0223372036854775807", 9223372036854775807, "0223372036854775807", errs.OutOfRange},
		{"9223372036854775808", -1, "9223372036854775808", errs.OutOfRange},
		{"-9999999999999999999", 0, "-9999999999999999999", errs.OutOfRange},
		{"00000000000000000000", 1, "00000000000000000000", errs.NotANumber},
		{" 1", 1, " 1", errs.NotANumber},
		{"1\n", 1, "1\n", errs.NotANumber},
		{"+1", 1, "+1", errs.NotANumber},
		{"1.0", 1, "1.0", errs.NotANumber},
		{"--1", 1, "--1", errs.NotANumber},
		{"-", 1, "-", errs.NotANumber},
		{"", 1, "", errs.NotANumber},
		{"1\x00", 1, "1\x00", errs.NotANumber},
	} {
		must(t, other.Set(ctx, "orders:carts:n", c.text, time.Hour).Err())
		before := other.PExpireTime(ctx, "orders:carts:n").Val()
		r := apply(ctx, kv, driver.Op{Kind: driver.Add, Key: "n", Delta: c.delta})
		if c.err != 0 {
			wants(t, c.text, r.Err, c.err)
		} else {
			must(t, r.Err)
		}
		if got := other.Get(ctx, "orders:carts:n").Val(); got != c.want {
			t.Errorf("%q + %d: %q lies there, want %q", c.text, c.delta, got, c.want)
		}
		if after := other.PExpireTime(ctx, "orders:carts:n").Val(); after != before {
			t.Errorf("%q + %d: the expiry went from %v to %v", c.text, c.delta, before, after)
		}
	}
}
