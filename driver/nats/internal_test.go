package nats

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/nats-io/nats.go/jetstream"
	"pgregory.net/rapid"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
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

// TestSmallest checks that what was let go is told, and that it is larger than
// everything kept.
func TestSmallest(t *testing.T) {
	t.Parallel()
	value := make([]byte, stepBytes/2)
	rapid.Check(t, func(t *rapid.T) {
		s := smallest{most: rapid.IntRange(1, 5).Draw(t, "most")}
		last := map[string]uint64{}
		for i := range rapid.IntRange(1, 40).Draw(t, "writes") {
			key := rapid.StringMatching(`[a-c]{1,3}`).Draw(t, "key")
			s.put(key, record{seq: uint64(i), value: value})
			last[key] = uint64(i)
		}
		for key, seq := range last {
			if s.cut != "" && key >= s.cut {
				continue
			}
			if r, there := s.records[key]; !there || r.seq != seq {
				t.Fatalf("%s of sequence %d is kept as %d, %v; cut at %q", key, seq, r.seq, there, s.cut)
			}
		}
	})
}
