package signing_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/signing"
)

// ring writes the text of a ring whose first id is the current one.
func ring(ids ...string) string {
	keys := make(map[string]string, len(ids))
	for _, id := range ids {
		keys[id] = base64.StdEncoding.EncodeToString(bytes.Repeat([]byte(id[:1]), 32))
	}
	text, err := json.Marshal(map[string]any{"current": ids[0], "keys": keys})
	if err != nil {
		panic(err)
	}
	return string(text)
}

// A file is a secret that changes.
type file struct {
	*testing.T
	path           string
	log            lockedBuffer
	taken, refused atomic.Int64
}

type lockedBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newFile(t *testing.T, text string) *file {
	t.Helper()
	f := &file{T: t, path: filepath.Join(t.TempDir(), "ring")}
	f.write(text)
	return f
}

// write replaces the file as tools that care do.
func (f *file) write(text string) {
	f.Helper()
	if err := os.WriteFile(f.path+".next", []byte(text), 0o600); err != nil {
		f.Fatal(err)
	}
	if err := os.Rename(f.path+".next", f.path); err != nil {
		f.Fatal(err)
	}
}

func (f *file) open() (*signing.Keys, error) {
	k, err := signing.Open(f.Context(), signing.Options{
		Ref: "file://" + f.path, Namespace: "shop", Log: slog.New(slog.NewTextHandler(&f.log, nil)),
		Taken: func(ok bool) {
			if ok {
				f.taken.Add(1)
				return
			}
			f.refused.Add(1)
		},
	})
	if err == nil {
		f.Cleanup(k.Close)
	}
	return k, err
}

func (f *file) must() *signing.Keys {
	f.Helper()
	k, err := f.open()
	if err != nil {
		f.Fatal(err)
	}
	return k
}

// signer returns the id of the key that signs now.
func signer(t *testing.T, k *signing.Keys) string {
	t.Helper()
	wire, err := k.Sign(envelope.New("shop", "orders", nil))
	if err != nil {
		t.Fatal(err)
	}
	h, err := k.Verify(wire)
	if err != nil {
		t.Fatal(err)
	}
	return string(h.SigningKeyID)
}

func waitFor(t *testing.T, what string, so func() bool) {
	t.Helper()
	for start := time.Now(); !so(); time.Sleep(5 * time.Millisecond) {
		if time.Since(start) > 20*time.Second {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// A change is taken up without anybody asking.
func TestKeysFollowTheirFile(t *testing.T) {
	t.Parallel()
	f := newFile(t, ring("a"))
	k := f.must()
	if id := signer(t, k); id != "a" {
		t.Fatal(id)
	}
	f.write(ring("b", "a"))
	waitFor(t, "the new current key signs", func() bool { return signer(t, k) == "b" })
	if f.taken.Load() != 1 || f.refused.Load() != 0 || !strings.Contains(f.log.String(), "signing keys taken") {
		t.Errorf("%d taken, %d refused, logged %s", f.taken.Load(), f.refused.Load(), &f.log)
	}
}

// What is no ring changes nothing, and is told once.
func TestTheLastGoodRingStays(t *testing.T) {
	t.Parallel()
	f := newFile(t, ring("a"))
	k := f.must()
	for _, text := range []string{"{", ring("b")[:60], ""} {
		f.write(text)
		for range 3 {
			if err := k.Refresh(); !errors.Is(err, errs.InvalidConfiguration) {
				t.Errorf("%q: %v", text, err)
			}
		}
		if id := signer(t, k); id != "a" {
			t.Errorf("signed with %q", id)
		}
	}
	if err := os.Remove(f.path); err != nil {
		t.Fatal(err)
	}
	if err := k.Refresh(); !errors.Is(err, errs.CredentialsUnavailable) {
		t.Error(err)
	}
	if n := f.refused.Load(); n < 2 || n > 4 || f.taken.Load() != 0 {
		t.Errorf("%d refused, %d taken", n, f.taken.Load())
	}
	f.write(ring("a"))
	if err := k.Refresh(); err != nil || f.taken.Load() != 1 {
		t.Errorf("when it is good again: %v, %d taken", err, f.taken.Load())
	}
	logs := f.log.String()
	if !strings.Contains(logs, "those from before stay") || strings.Contains(logs, strings.Repeat("a", 32)) || strings.Contains(logs, "YWFh") || strings.Contains(logs, "YmJi") {
		t.Errorf("logged %s", logs)
	}
}

// Open refuses what cannot be read, and shows nothing of it.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	f := newFile(t, `{"current": "a", "keys": {"a": "c2hvcnQ="}}`)
	if _, err := f.open(); !errors.Is(err, errs.InvalidConfiguration) || !strings.Contains(err.Error(), "ring: the key \"a\" has 5 bytes") {
		t.Error(err)
	}
	if err := os.Remove(f.path); err != nil {
		t.Fatal(err)
	}
	if _, err := f.open(); !errors.Is(err, errs.CredentialsUnavailable) {
		t.Error(err)
	}
	if _, err := signing.Open(t.Context(), signing.Options{Ref: "plain", Log: slog.Default()}); !errors.Is(err, errs.InvalidConfiguration) {
		t.Error(err)
	}
}

// Another proxy may have seen a change sooner: what it has signed since verifies
// at once.
func TestAnUnknownKeyIsLookedForOnceMore(t *testing.T) {
	t.Parallel()
	f := newFile(t, ring("a"))
	k := f.must()
	for i, id := range []string{"b", "c", "d", "e"} { // faster than anybody looks
		f.write(ring(id, "a"))
		ahead := f.must()
		wire, err := ahead.Sign(envelope.New("shop", "orders", nil))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.Verify(wire); err != nil {
			t.Errorf("change %d: %v", i, err)
		}
	}
}

// What is changed, or no envelope, verifies with no ring, and does no harm after Close.
func TestWhatVerifiesNever(t *testing.T) {
	t.Parallel()
	f := newFile(t, ring("a"))
	k := f.must()
	wire, err := k.Sign(envelope.New("shop", "orders", []byte("x")))
	if err != nil {
		t.Fatal(err)
	}
	k.Close()
	wire[len(wire)-1]++
	if _, err := k.Verify(wire); errs.ReasonOf(err) != errs.InvalidField {
		t.Error(err)
	}
	for _, wire := range [][]byte{nil, {0xff}, []byte("nothing")} {
		if _, err := k.Verify(wire); err == nil {
			t.Errorf("%q verifies", wire)
		}
	}
}

func TestKeysShowNoSecret(t *testing.T) {
	t.Parallel()
	k := newFile(t, ring("a")).must()
	if out := fmt.Sprintf("%v %+v", k, k); strings.Contains(out, "aaaa") || strings.Contains(out, "YWFh") || strings.Contains(out, "97 97") {
		t.Errorf("printed as %s", out)
	}
}
