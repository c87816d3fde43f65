package test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prismgw/prism/client"
)

var long = flag.Bool("long", os.Getenv("PRISM_TEST_LONG") != "", "kill servers ten times as often")

// What prism dev has acknowledged is there after it was killed, and what is
// there is what somebody wrote.
func TestKilledUnderWrites(t *testing.T) {
	t.Parallel()
	rounds := 3
	if *long {
		rounds = 30
	}
	dir := t.TempDir()
	l := newLedger()
	var killedBusy int
	for round := range rounds {
		s := startDev(t, dir)
		l.check(t, s) // what all rounds before have left
		if t.Failed() {
			return
		}
		if killUnderWrites(t, s, l, round) {
			killedBusy++
		}
	}
	s := startDev(t, dir)
	l.check(t, s)
	s.kill()
	t.Logf("%d kills, %d of them with writes under way; %d writes acknowledged, %d unknown, %d keys",
		rounds, killedBusy, l.acknowledged.Load(), l.unknown.Load(), len(l.keys))
	if killedBusy < (rounds+1)/2 {
		t.Errorf("only %d of %d kills came while writes were under way; the test shows too little", killedBusy, rounds)
	}
	if l.acknowledged.Load() < int64(rounds)*50 {
		t.Errorf("only %d writes were acknowledged; the test shows too little", l.acknowledged.Load())
	}
}

// killUnderWrites writes from many sides, kills the server at a random moment
// and reports whether writes were under way.
func killUnderWrites(t *testing.T, s *server, l *ledger, round int) (busy bool) {
	t.Helper()
	const writers = 16
	c, err := client.Dial(s.GRPC, client.WithRetry(client.RetryPolicy{Tries: 1}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	kv := c.KeyValue("demo")
	var began, writing sync.WaitGroup
	began.Add(2 * writers)
	for w := range writers {
		writing.Go(func() {
			l.write(ctx, fmt.Sprintf("sdk-%d-%d", round, w), began.Done, func(key, value string) error {
				_, err := kv.Store(ctx, key, []byte(value))
				return err
			})
		})
		writing.Go(func() {
			l.write(ctx, fmt.Sprintf("http-%d-%d", round, w), began.Done, func(key, value string) error {
				return s.put(ctx, key, value)
			})
		})
	}
	began.Wait() // every writer has had an answer
	time.Sleep(rand.N(400 * time.Millisecond))
	busy = l.underWay.Load() > 0
	s.kill()
	cancel()
	writing.Wait()
	return busy
}

// A ledger knows what was acknowledged. Each writer has keys of its own, so
// that the last acknowledged value of a key, or one that was sent after it, is
// the only one that may be there.
type ledger struct {
	acknowledged, unknown, underWay atomic.Int64

	mu   sync.Mutex // guards keys
	keys map[string]entry
}

type entry struct {
	acknowledged string
	sent         string // afterwards, and perhaps done; empty: nothing
}

func newLedger() *ledger { return &ledger{keys: map[string]entry{}} }

// keysPerWriter makes writers overwrite their own values too.
const keysPerWriter = 50

// write stores one value after the other until a write fails.
func (l *ledger) write(ctx context.Context, name string, began func(), store func(key, value string) error) {
	defer func() { began() }()
	for n := 0; ctx.Err() == nil; n++ {
		key := fmt.Sprintf("%s-%d", name, n%keysPerWriter)
		value := fmt.Sprintf("%s=%d %s", key, n, bytes.Repeat([]byte("."), rand.N(2000)))
		l.note(key, func(e *entry) { e.sent = value })
		l.underWay.Add(1)
		err := store(key, value)
		l.underWay.Add(-1)
		if err != nil {
			l.unknown.Add(1)
			return
		}
		l.acknowledged.Add(1)
		l.note(key, func(e *entry) { *e = entry{acknowledged: value} })
		began()
		began = func() {}
	}
}

func (l *ledger) note(key string, change func(*entry)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.keys[key]
	change(&e)
	l.keys[key] = e
}

// check compares what the server has with what it may have. A write that was
// not acknowledged and is there counts as done from now on.
func (l *ledger) check(t *testing.T, s *server) {
	t.Helper()
	c, err := client.Dial(s.GRPC)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	have := map[string]string{}
	for e, err := range c.KeyValue("demo").Scan(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		have[e.Key] = string(e.Value)
	}
	for _, wrong := range l.compare(have) {
		t.Error(wrong)
	}
}

// compare returns what is lost and what is corrupt, and takes what is there
// for done.
func (l *ledger) compare(have map[string]string) (wrong []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(l.keys)) {
		e := l.keys[key]
		value, there := have[key]
		switch {
		case there && value != "" && (value == e.acknowledged || value == e.sent):
		case !there && e.acknowledged == "":
		case !there:
			wrong = append(wrong, key+": an acknowledged write is lost")
		default:
			wrong = append(wrong, fmt.Sprintf("%s: corrupt: %.60q is neither what was acknowledged nor what was sent after it", key, value))
		}
		l.keys[key] = entry{acknowledged: value}
	}
	for _, key := range slices.Sorted(maps.Keys(have)) {
		if _, known := l.keys[key]; !known {
			wrong = append(wrong, fmt.Sprintf("%q: corrupt: nobody wrote it", key))
		}
	}
	return wrong
}

// The ledger finds what TestKilledUnderWrites looks for.
func TestLedgerNotices(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		have map[string]string
		want string
	}{
		{"acknowledged", map[string]string{"a": "1", "b": "1"}, ""},
		{"sent afterwards", map[string]string{"a": "2", "b": "1", "c": "1"}, ""},
		{"lost", map[string]string{"a": "1"}, "b: an acknowledged write is lost"},
		{"older value", map[string]string{"a": "0", "b": "1"}, `a: corrupt: "0"`},
		{"torn value", map[string]string{"a": "1", "b": ""}, `b: corrupt: ""`},
		{"strange key", map[string]string{"a": "1", "b": "1", "d": "1"}, `"d": corrupt`},
	} {
		l := newLedger()
		l.keys["a"], l.keys["b"], l.keys["c"] = entry{"1", "2"}, entry{"1", ""}, entry{"", "1"}
		got := strings.Join(l.compare(tt.have), "\n")
		if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
			t.Errorf("%s: found %q, want %q", tt.name, got, tt.want)
		}
	}
}

// A server is a running prism.
type server struct {
	addresses

	cmd   *exec.Cmd
	ended chan struct{}
	log   bytes.Buffer
}

// startDev starts prism dev in a folder, on free ports, until the test ends.
func startDev(t *testing.T, dir string) *server {
	t.Helper()
	return startServer(t, dir, "dev", "--grpc-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0")
}

// startServer starts prism in a folder until the test ends.
func startServer(t *testing.T, dir string, args ...string) *server {
	t.Helper()
	return startServerAt(t, dir, filepath.Join(t.TempDir(), "ready.json"), args...)
}

// startServerAt is startServer for a server whose addresses others look up.
// Arguments that are NAME=VALUE are of its environment.
func startServerAt(t *testing.T, dir, readyFile string, args ...string) *server {
	t.Helper()
	env := slices.Clone(os.Environ())
	args = slices.DeleteFunc(slices.Clone(args), func(a string) bool {
		set := !strings.HasPrefix(a, "-") && strings.Contains(a, "=")
		if set {
			env = append(env, a)
		}
		return set
	})
	_ = os.Remove(readyFile) // of a server that was killed, if there is one
	s := &server{ended: make(chan struct{})}
	s.cmd = exec.Command(filepath.Join(bin, "prism"), append(args, "--ops-addr=127.0.0.1:0", "--ready-file="+readyFile)...)
	s.cmd.Dir, s.cmd.Env = dir, env
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(s.ended)
		_ = s.cmd.Wait()
	}()
	t.Cleanup(s.kill)
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if at, err := readReady(readyFile); err == nil {
			s.addresses = at
			return s
		}
		select {
		case <-s.ended:
			t.Fatalf("prism has ended:\n%s", s.log.String())
		default:
		}
		if time.Now().After(end) {
			s.kill()
			t.Fatalf("prism is not ready after %v:\n%s", patience, s.log.String())
		}
	}
}

type addresses struct{ GRPC, HTTP, Ops string }

// readReady returns what a server has written into its ready file.
func readReady(file string) (at addresses, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return at, err
	}
	return at, json.Unmarshal(data, &at)
}

// kill ends the server with SIGKILL and returns when it is gone.
func (s *server) kill() {
	_ = s.cmd.Process.Kill() // fails if it has ended already
	<-s.ended
}

// terminate asks the server to stop and returns when it is gone.
func (s *server) terminate() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // likewise
	<-s.ended
}

var errRefused = errors.New("the write was refused")

func (s *server) put(ctx context.Context, key, value string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+s.HTTP+"/v1/namespaces/demo/keyvalue/"+key, bytes.NewReader([]byte(value)))
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errRefused
	}
	return nil
}
