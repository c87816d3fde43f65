package test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prismgw/prism/client"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/servers"
)

// Clients that repeat each call under its idempotency key until it is answered
// count every one exactly once, however often the proxy is killed meanwhile.
// Others do the same without keys, at the same time: as long as these have not
// counted anything twice, no kill came at a moment that matters, and the
// killing goes on.
func TestOnceUnderKills(t *testing.T) {
	t.Parallel()
	for name, backend := range map[string]func(t *testing.T) string{
		"sqlite": func(*testing.T) string { return `{kind: Backend, name: b, driver: sqlite, url: "sqlite:once.db"}` },
		"redis": func(t *testing.T) string {
			return fmt.Sprintf(`{kind: Backend, name: b, driver: redis, url: %q}`, servers.RedisWith(t).URL)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			least, most := 3, 100
			if *long {
				least, most = 40, 400
			}
			o := newOnce(t, backend(t)+`
---
{kind: Namespace, name: keyed, stores: [data], needs: {durability: none}, auth: {anonymous: read_write}}
---
{kind: Namespace, name: bare, stores: [data], needs: {durability: none}, auth: {anonymous: read_write}}
`)
			kills := o.killUnderIncrements(t, least, most)
			o.check(t, kills)
		})
	}
}

// once is a proxy on Unix sockets, which nobody else can take while it is away,
// and what was asked of it.
type once struct {
	dir    string
	server *server
	sdk    *client.Client
	http   *http.Client

	keyed, bare account
}

// account is what clients of one namespace asked for and were told.
type account struct {
	asked    atomic.Int64 // distinct requests
	answered atomic.Int64
	repeats  atomic.Int64 // requests that were sent again

	mu      sync.Mutex // guards the fields below
	counted map[string]int64
	numbers map[string][]int64 // what increments answered, by counter
	wrong   []string
}

func newOnce(t *testing.T, documents string) *once {
	t.Helper()
	dir, err := os.MkdirTemp("", "once") //nolint:usetesting // the path of a socket has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.WriteFile(filepath.Join(dir, "docs.yaml"), []byte(documents), 0o600); err != nil {
		t.Fatal(err)
	}
	o := &once{dir: dir}
	if o.sdk, err = client.Dial("unix://" + filepath.Join(dir, "grpc")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.sdk.Close() })
	o.http = &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{
		MaxIdleConnsPerHost: 16,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, "http"))
		},
	}}
	t.Cleanup(o.http.CloseIdleConnections)
	for _, a := range []*account{&o.keyed, &o.bare} {
		a.counted, a.numbers = map[string]int64{}, map[string][]int64{}
	}
	o.start(t)
	return o
}

func (o *once) start(t *testing.T) {
	t.Helper()
	o.server = startServer(t, o.dir, "proxy", "--grpc-addr=unix:grpc", "--http-addr=unix:http", "docs.yaml")
}

// killUnderIncrements lets clients count while it kills the proxy: least times,
// and on until the bare account has counted something twice, at most most
// times. When it returns, every request has been answered.
func (o *once) killUnderIncrements(t *testing.T, least, most int) (kills int) {
	t.Helper()
	stop := make(chan struct{})
	var counting sync.WaitGroup
	for w := range 24 {
		a, namespace := &o.keyed, "keyed"
		if w%2 == 1 {
			a, namespace = &o.bare, "bare"
		}
		send := []func(ctx context.Context, r *request) (int64, error){o.overStream, o.overStream, o.overHTTP, o.stored}[w/2%4]
		counting.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				r := &request{namespace: namespace, counter: fmt.Sprintf("counter-%d", n%3), own: fmt.Sprintf("own-%d-%d", w, n)}
				if namespace == "keyed" {
					r.key = fmt.Sprintf("request-%d-%d", w, n)
				}
				a.repeat(t.Context(), r, send)
			}
		})
	}
	for ; kills < least || kills < most && !o.twice(t); kills++ {
		o.awaitAnswers(t)
		time.Sleep(rand.N(50 * time.Millisecond))
		o.server.kill()
		o.start(t)
	}
	close(stop)
	counting.Wait()
	return kills
}

// awaitAnswers returns when clients of both kinds have been served for a while.
func (o *once) awaitAnswers(t *testing.T) {
	t.Helper()
	keyed, bare := o.keyed.answered.Load(), o.bare.answered.Load()
	for end := time.Now().Add(patience); o.keyed.answered.Load() < keyed+50 || o.bare.answered.Load() < bare+50; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("clients are not served:\n%s", o.server.log.String())
		}
	}
}

// twice reports whether the bare account has certainly counted something twice.
func (o *once) twice(t *testing.T) bool {
	t.Helper()
	have := o.read(t, "bare")
	o.bare.mu.Lock()
	defer o.bare.mu.Unlock()
	for counter, n := range o.bare.counted { // what is under way is among these
		if have[counter] > n {
			return true
		}
	}
	return false
}

// read returns the counters of a namespace.
func (o *once) read(t *testing.T, namespace string) map[string]int64 {
	t.Helper()
	have := map[string]int64{}
	kv := o.sdk.KeyValue(namespace)
	for n := range 3 {
		name := fmt.Sprintf("counter-%d", n)
		var text []byte
		for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
			e, err := kv.Retrieve(t.Context(), name)
			if text = e.Value; err == nil {
				break
			}
			if time.Now().After(end) {
				t.Fatal(err)
			}
		}
		var err error
		if have[name], err = strconv.ParseInt(string(text), 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	return have
}

// request is one request, however often it is sent.
type request struct {
	namespace, counter, own, key string
}

// repeat sends a request until it is answered.
func (a *account) repeat(ctx context.Context, r *request, send func(context.Context, *request) (int64, error)) {
	a.asked.Add(1)
	a.mu.Lock()
	a.counted[r.counter]++
	a.mu.Unlock()
	for try := 0; ; try++ {
		if try > 0 {
			a.repeats.Add(1)
			time.Sleep(rand.N(10 * time.Millisecond))
		}
		attempt, cancel := context.WithTimeout(ctx, 2*time.Second)
		number, err := send(attempt, r)
		cancel()
		if ctx.Err() != nil {
			return
		}
		switch errs.ReasonOf(err) { //nolint:exhaustive // the others are no answer to a kill
		case errs.BackendUnavailable, errs.OutcomeUnknown, errs.Deadline, errs.Cancelled, errs.Draining, errs.CircuitOpen, errs.Overloaded:
			continue
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		if err != nil {
			a.wrong = append(a.wrong, fmt.Sprintf("%+v, try %d: %v", *r, try, err))
		}
		a.numbers[r.counter] = append(a.numbers[r.counter], number)
		a.answered.Add(1)
		return
	}
}

// overStream increments over the SDK's streams.
func (o *once) overStream(ctx context.Context, r *request) (int64, error) {
	var opts []client.WriteOption
	if r.key != "" {
		opts = append(opts, client.IdempotencyKey(r.key))
	}
	return o.sdk.KeyValue(r.namespace).Increment(ctx, r.counter, 1, opts...)
}

// stored stores a key of its own where nobody may be, and increments: a store
// that meets itself says ALREADY_EXISTS.
func (o *once) stored(ctx context.Context, r *request) (int64, error) {
	opts := []client.StoreOption{client.IfAbsent()}
	if r.key != "" {
		opts = append(opts, client.IdempotencyKey(r.key+"-store"))
	}
	_, err := o.sdk.KeyValue(r.namespace).Store(ctx, r.own, []byte(r.own), opts...)
	if err != nil && (r.key != "" || errs.ReasonOf(err) != errs.AlreadyExists) {
		return 0, err
	}
	return o.overStream(ctx, r)
}

// overHTTP increments over HTTP.
func (o *once) overHTTP(ctx context.Context, r *request) (int64, error) {
	body := fmt.Sprintf(`{"key": %q}`, r.counter)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localhost/v1/namespaces/"+r.namespace+"/keyvalue:increment", bytes.NewReader([]byte(body)))
	if err != nil {
		return 0, err
	}
	if r.key != "" {
		req.Header.Set("Idempotency-Key", r.key)
	}
	resp, err := o.http.Do(req)
	if err != nil {
		return 0, errs.Wrap(err, errs.OutcomeUnknown, "no answer")
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, errs.Wrap(err, errs.OutcomeUnknown, "half an answer")
	}
	var answer struct {
		Value  int64 `json:",string"`
		Reason string
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return 0, err
	}
	if i := slices.IndexFunc(errs.All(), func(r errs.Reason) bool { return r.String() == answer.Reason }); i >= 0 {
		return 0, errs.New(errs.All()[i], "%s", text)
	}
	return answer.Value, nil
}

// check compares the counters with what was asked for.
func (o *once) check(t *testing.T, kills int) {
	t.Helper()
	t.Logf("%d kills; with keys %d requests, sent again %d times; without %d and %d",
		kills, o.keyed.asked.Load(), o.keyed.repeats.Load(), o.bare.asked.Load(), o.bare.repeats.Load())
	for _, a := range []*account{&o.keyed, &o.bare} {
		for _, wrong := range a.wrong {
			t.Error(wrong)
		}
	}
	if o.keyed.repeats.Load() == 0 {
		t.Error("no request had to be sent again; the test shows nothing")
	}
	have := o.read(t, "keyed")
	if !maps.Equal(have, o.keyed.counted) {
		t.Errorf("with keys: counted %v, want %v", have, o.keyed.counted)
	}
	for counter, numbers := range o.keyed.numbers {
		slices.Sort(numbers)
		for i, n := range numbers {
			if n != int64(i+1) {
				t.Errorf("%s: the answers are not 1, 2, 3 and so on: %d stands at %d", counter, n, i+1)
				break
			}
		}
	}
	if have := o.read(t, "bare"); maps.Equal(have, o.bare.counted) {
		t.Errorf("without keys everything was counted once too, after %d kills; the test shows nothing", kills)
	}
}
