package nats

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"pgregory.net/rapid"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/servers"
)

func TestOldServersAreRefused(t *testing.T) {
	t.Parallel()
	for version, good := range map[string]bool{
		"2.9.10": false, "2.10.29": false, "1.4.1": false, "": false, "x": false,
		"2.11.0": true, "2.11.0-RC.1": true, "2.15.2": true, "3.0.0": true,
	} {
		err := checkVersion(version)
		if (err == nil) != good || err != nil && errs.ReasonOf(err) != errs.InvalidConfiguration {
			t.Errorf("version %q: %v", version, err)
		}
	}
}

// TestEscape checks that every key has one legal token and comes back from it,
// and that the longest subject fits a line of the protocol.
func TestEscape(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.StringN(1, -1, driver.MaxKey).Filter(func(s string) bool { return !strings.Contains(s, "\x00") && utf8.ValidString(s) }).Draw(t, "key")
		token := escape(key)
		if strings.Trim(token, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_/=") != "" || token == "" {
			t.Fatalf("%q has the token %q", key, token)
		}
		if back, ok := unescape(token); !ok || back != key {
			t.Fatalf("%q comes back from %q as %q, %v", key, token, back, ok)
		}
	})
	bucket := strings.Repeat("b", maxBucket)
	long := spacePrefix(bucket, driver.Space{Namespace: strings.Repeat("é", 500), Pattern: strings.Repeat("n", maxName)}) + escape(strings.Repeat("%", driver.MaxKey))
	line := "HPUB " + api + "DIRECT.GET.KV_" + bucket + "." + long + " _INBOX.0123456789012345678901.3w5e11264sgsf 123456 1234567"
	if len(line) > 4096 {
		t.Errorf("the longest line has %d bytes", len(line))
	}
}

func TestAcknowledgements(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]uint64{
		`{"stream":"KV_prism","seq":7}`:                   7,
		`{"stream":"KV_prism", "seq":18}`:                 18,
		`{"stream":"KV_prism", "domain":"hub", "seq":18}`: 0,
		`{"stream":"KV_prism2","seq":7}`:                  0,
		`{"stream":"KV_prism","seq":7x}`:                  0,
		`{"stream":"KV_prism","seq":`:                     0,
		`{"error":{"code":400}}`:                          0,
		`+OK`:                                             0,
	} {
		if seq, ok := quickAck([]byte(text), "KV_prism"); seq != want && ok || ok != (want != 0) {
			t.Errorf("%s: %d, %v", text, seq, ok)
		}
	}
	if err := ofAPI(&jetstream.APIError{Code: 503, ErrorCode: 10999}); errs.ReasonOf(err) != errs.BackendUnavailable {
		t.Errorf("an unknown error of code 503: %v", err)
	}
}

// TestSmallest checks that what was let go is told, and is larger than what was
// kept.
func TestSmallest(t *testing.T) {
	t.Parallel()
	const n = 3*maxLeftovers + 10
	var s smallest
	for i := range n {
		s.put(fmt.Sprintf("%06d", i*7919%n))
	}
	keys := s.sorted()
	if len(keys) < maxLeftovers || len(keys) >= 2*maxLeftovers || s.cut == "" {
		t.Fatalf("%d keys are kept, cut at %q", len(keys), s.cut)
	}
	for i, key := range keys {
		if want := fmt.Sprintf("%06d", i); key != want || key >= s.cut {
			t.Fatalf("key %d is %s, want %s; cut at %s", i, key, want, s.cut)
		}
	}
}

func TestLeftovers(t *testing.T) {
	t.Parallel()
	var l leftovers
	at := cursor{next: 7, after: "b"}
	if _, _, ok := l.behind("space", &at); ok {
		t.Error("something is known of nothing")
	}
	l.keep(l.generation(), "space", &at, []string{"c", "d", "e"}, true)
	for _, one := range []struct {
		bound string
		at    cursor
		want  int // -1: not known
	}{
		{"space", cursor{next: 7, after: "b"}, 3},
		{"space", cursor{next: 7, after: "c"}, 2},
		{"space", cursor{next: 7, after: "cc"}, 2},
		{"space", cursor{next: 7, after: "a"}, -1},
		{"space", cursor{next: 8, after: "b"}, -1},
		{"other", cursor{next: 7, after: "b"}, -1},
		{"space", cursor{next: 7, after: "e"}, -1}, // there are more, which have to be listed
	} {
		keys, _, ok := l.behind(one.bound, &one.at)
		if ok != (one.want >= 0) || ok && len(keys) != one.want {
			t.Errorf("%s %+v: %q, %v", one.bound, one.at, keys, ok)
		}
	}
	l.keep(l.generation(), "space", &at, []string{"c"}, false)
	if keys, more, ok := l.behind("space", &cursor{next: 7, after: "c"}); !ok || more || len(keys) != 0 {
		t.Errorf("the end: %q, %v, %v", keys, more, ok)
	}
}

// TestGapsAreNoticed leaves out messages of a consumer.
func TestGapsAreNoticed(t *testing.T) {
	t.Parallel()
	w := &watch{kv: &kv{prefix: "$KV.prism.n.p."}, Changes: wrap.NewChanges("", func() {})}
	news := func(n int) *nats.Msg {
		return &nats.Msg{Subject: "$KV.prism.n.p.k", Reply: fmt.Sprintf("$JS.ACK.KV_prism.c.1.%d.%d.1700000000000000000.0", 100+n, n), Sub: new(nats.Subscription)}
	}
	idle := func(n int) *nats.Msg {
		return &nats.Msg{Header: nats.Header{"Status": {"100"}, "Nats-Last-Consumer": {strconv.Itoa(n)}}}
	}
	for name, one := range map[string]struct {
		messages []*nats.Msg
		broken   bool
	}{
		"none":          {[]*nats.Msg{idle(0), news(1), news(2), idle(2), news(3)}, false},
		"in the middle": {[]*nats.Msg{news(1), news(3)}, true},
		"at the start":  {[]*nats.Msg{news(2)}, true},
		"at the end":    {[]*nats.Msg{news(1), idle(2)}, true},
	} {
		f := &feed{broken: make(chan struct{}, 1), applied: 1000, tell: w.told}
		for _, m := range one.messages {
			f.take(m)
		}
		if broken := len(f.broken) > 0; broken != one.broken {
			t.Errorf("gap %s: noticed is %v", name, broken)
		}
	}
}

// TestBucketMadeAnewUnderAWatch has the bucket go while a feed is being made:
// one that begins at a sequence of the old bucket would tell nothing.
func TestBucketMadeAnewUnderAWatch(t *testing.T) {
	t.Parallel()
	opened, err := open(driver.Config{URL: servers.NATS(t).URL})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = opened.Close() }()
	c := opened.(*conn)
	s, err := c.link.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	info, err := s.info(t.Context(), c.set.stream())
	if err != nil {
		t.Fatal(err)
	}
	f := &feed{session: s, stream: c.set.stream()}
	if err := f.sameSince(t.Context(), info.Created); err != nil {
		t.Errorf("the same bucket: %v", err)
	}
	if err := f.sameSince(t.Context(), info.Created.Add(-time.Second)); errs.ReasonOf(err) != errs.BackendUnavailable {
		t.Errorf("another bucket: %v", err)
	}
}

// A list that was begun before another one was kept, or before a scan wanted a
// new one, serves nobody.
func TestLeftoversOfOthers(t *testing.T) {
	t.Parallel()
	var l leftovers
	at := cursor{next: 7}
	for what, other := range map[string]func(){
		"another list": func() { l.keep(l.generation(), "space", &at, []string{"new"}, false) },
		"a new scan":   l.forget,
	} {
		began := l.generation()
		other()
		l.keep(began, "space", &at, []string{"old"}, false)
		if keys, _, ok := l.behind("space", &at); ok {
			t.Errorf("after %s there is %v", what, keys)
		}
	}
}
