package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/client"
	"github.com/prismgw/prism/proxy"
)

const durable = `
{kind: Backend, name: file, driver: sqlite, url: "sqlite:data.db"}
---
{kind: Namespace, name: kept, stores: [data], auth: {anonymous: read_write}}
`

// record is what callers were told of their writes.
type record struct {
	mu              sync.Mutex // guards the fields below
	stored, refused []string
}

func (r *record) note(key string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.stored = append(r.stored, key)
	} else {
		r.refused = append(r.refused, key)
	}
}

func (r *record) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.stored)
}

// Stopping under load loses no write that was acknowledged, and whoever is
// refused can be sure that nothing was done.
func TestStopUnderLoad(t *testing.T) {
	for range scaled(10, 3) {
		before := goleak.IgnoreCurrent()
		s, r := start(t, nil, durable), &record{}
		var all sync.WaitGroup
		clients := []*grpc.ClientConn{s.conn(t), s.conn(t)}
		unaryLoad(t, keyvaluev1.NewKeyValueClient(clients[0]), r, &all, 200)
		streamLoad(t, keyvaluev1.NewKeyValueClient(clients[1]), r, &all, 20)
		httpLoad(t, s, r, &all, 20)
		waitFor(t, "writes are acknowledged", func() bool { return r.count() > 500 })
		began := time.Now()
		s.stop()
		if took := time.Since(began); took > 9*time.Second {
			t.Errorf("stopped after %v", took)
		}
		all.Wait()
		r.compare(t, s.dir)
		for _, conn := range clients {
			conn.Close()
		}
		goleak.VerifyNone(t, before)
	}
}

// compare checks what was told against what is there.
func (r *record) compare(t *testing.T, dir string) {
	t.Helper()
	s := start(t, nil, strings.Replace(durable, "data.db", dir+"/data.db", 1))
	defer s.stop()
	conn := s.conn(t)
	defer conn.Close()
	c, there := keyvaluev1.NewKeyValueClient(conn), map[string]bool{}
	stream, err := c.Scan(in(t, "kept"), &keyvaluev1.ScanRequest{KeysOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	for {
		page, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.GetEntries() {
			there[e.GetKey()] = true
		}
	}
	for _, key := range r.stored {
		if !there[key] {
			t.Errorf("%s was acknowledged and is lost", key)
		}
	}
	for _, key := range r.refused {
		if there[key] {
			t.Errorf("%s was refused and is there", key)
		}
	}
	t.Logf("%d acknowledged, %d refused", len(r.stored), len(r.refused))
}

func unaryLoad(t *testing.T, c keyvaluev1.KeyValueClient, r *record, all *sync.WaitGroup, n int) {
	for i := range n {
		all.Go(func() {
			for k := 0; ; k++ {
				key := fmt.Sprintf("unary/%d/%d", i, k)
				ctx, cancel := context.WithTimeout(in(t, "kept"), 20*time.Second)
				_, err := c.Store(ctx, &keyvaluev1.StoreRequest{Key: key})
				cancel()
				r.note(key, err)
				if err != nil {
					if status.Code(err) != codes.Unavailable {
						t.Errorf("%s: %v", key, err)
					}
					return
				}
			}
		})
	}
}

func httpLoad(t *testing.T, s *served, r *record, all *sync.WaitGroup, n int) {
	for i := range n {
		all.Go(func() {
			transport := &http.Transport{}
			defer transport.CloseIdleConnections()
			c := &http.Client{Transport: transport}
			for k := 0; ; k++ {
				key := fmt.Sprintf("http-%d-%d", i, k)
				q, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+s.HTTP+"/v1/namespaces/kept/keyvalue/"+key, strings.NewReader("v"))
				if err != nil {
					t.Error(err)
					return
				}
				resp, err := c.Do(q)
				if err != nil { // without an answer nobody knows whether it was done
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					t.Error(key, resp.Status)
					return
				}
				r.note(key, nil)
			}
		})
	}
}

// streamLoad sends on streams until they are asked to go; all that was sent is
// answered, and the streams end well.
func streamLoad(t *testing.T, c keyvaluev1.KeyValueClient, r *record, all *sync.WaitGroup, n int) {
	for i := range n {
		p := pipeline(t, in(t, "kept"), c)
		all.Go(func() {
			for k := uint64(1); ; k += 10 {
				var ops []*keyvaluev1.Operation
				for d := range uint64(10) {
					ops = append(ops, timed(storeOp(k+d, fmt.Sprintf("stream/%d/%d", i, k+d), nil), 20_000))
				}
				if err := p.Send(&keyvaluev1.PipelineRequest{Operations: ops}); err != nil {
					t.Errorf("stream %d: %v", i, err)
					return
				}
				going := false
				for left := len(ops); left > 0; {
					m, err := p.Recv()
					if err != nil {
						t.Errorf("stream %d ended with %d unanswered: %v", i, left, err)
						return
					}
					going = going || m.GetGoingAway() != nil
					for _, a := range m.GetAnswers() {
						if left--; a.GetStore() == nil {
							t.Errorf("stream %d: %v", i, a)
						}
						r.note(fmt.Sprintf("stream/%d/%d", i, a.GetId()), nil)
					}
				}
				if !going {
					continue
				}
				_ = p.CloseSend()
				if m, err := p.Recv(); !errors.Is(err, io.EOF) {
					t.Errorf("stream %d ended with %v %v", i, m, err)
				}
				return
			}
		})
	}
}

// While a proxy drains it says so, and goes on answering.
func TestDraining(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *proxy.Options) { o.LameDuck = 500 * time.Millisecond }, tapped)
	c, h := s.dial(t), healthv1.NewHealthClient(s.conn(t))
	if text := get(t, "http://"+s.Ops+"/readyz"); !strings.Contains(text, `"ready": true`) {
		t.Error(text)
	}
	open := s.hold(false)
	defer open()
	slow := make(chan error, 1)
	go func() {
		_, err := c.Store(in(t, "held"), &keyvaluev1.StoreRequest{Key: "hang"})
		slow <- err
	}()
	waitFor(t, "a call hangs", func() bool { return s.waiting.Load() == 1 })
	stopped := make(chan struct{})
	go func() { defer close(stopped); s.stop() }()
	waitFor(t, "it says that it drains", func() bool { return strings.Contains(get(t, "http://"+s.Ops+"/readyz"), `"draining": true`) })
	resp, err := http.Get("http://" + s.Ops + "/readyz")
	if err != nil || resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("%v %v", resp, err)
	} else {
		resp.Body.Close()
	}
	if r, err := h.Check(t.Context(), &healthv1.HealthCheckRequest{}); err != nil || r.GetStatus() != healthv1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("%v %v", r, err)
	}
	if _, err := c.Exists(in(t, "held"), &keyvaluev1.ExistsRequest{Key: "k"}); err != nil {
		t.Errorf("as a lame duck: %v", err)
	}
	if resp, err := http.Get("http://" + s.HTTP + "/v1/namespaces/held/keyvalue/k"); err != nil || !resp.Close {
		t.Errorf("over HTTP it does not say that the connection ends: %v %v", resp, err)
	} else {
		resp.Body.Close()
	}
	select {
	case <-stopped:
		t.Error("it stopped before its calls had ended")
	case <-time.After(700 * time.Millisecond):
	}
	open()
	if err := <-slow; err != nil {
		t.Errorf("a call in flight: %v", err)
	}
	<-stopped
	if o, cl := s.opened.Load(), s.closed.Load(); o != cl {
		t.Errorf("%d backends opened and %d closed", o, cl)
	}
}

// A drain ends when its time is over, whatever hangs.
func TestDrainTimeEnds(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *proxy.Options) { o.DrainTime = 300 * time.Millisecond }, tapped)
	defer s.hold(true)()
	c := s.dial(t)
	p := pipeline(t, in(t, "held"), c)
	send(t, p, timed(retrieveOp(1, "k"), 60_000))
	ctx, cancel := context.WithTimeout(in(t, "held"), time.Minute)
	defer cancel()
	slow := make(chan error, 1)
	go func() {
		_, err := c.Retrieve(ctx, &keyvaluev1.RetrieveRequest{Key: "k"})
		slow <- err
	}()
	go http.Get("http://" + s.HTTP + "/v1/namespaces/held/keyvalue/k")
	waitFor(t, "three hang", func() bool { return s.waiting.Load() == 3 })
	began := time.Now()
	s.stop()
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("stopped after %v", took)
	}
	if err := <-slow; status.Code(err) != codes.Unavailable && status.Code(err) != codes.Canceled {
		t.Errorf("%v", err)
	}
	if o, cl := s.opened.Load(), s.closed.Load(); o != cl {
		t.Errorf("%d backends opened and %d closed", o, cl)
	}
}

// Callers of the SDK see nothing of a proxy that stops while there is another.
func TestSDKMovesToAnotherProxy(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"pipeline", "unary"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			a, b := start(t, nil, tapped), start(t, nil, tapped)
			addresses := manual.NewBuilderWithScheme("both")
			addresses.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: a.GRPC}, {Addr: b.GRPC}}})
			opts := []client.Option{client.WithNamespace("held"), client.WithInsecure(), client.WithDialOptions(grpc.WithResolvers(addresses))}
			if mode == "unary" {
				opts = append(opts, client.WithUnary())
			}
			c, err := client.Dial("both:///proxies", opts...)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			var calls atomic.Int64
			var done atomic.Bool
			var all sync.WaitGroup
			for i := range 32 {
				all.Go(func() {
					for k := 0; !done.Load(); k++ {
						if _, err := c.KeyValue("").Store(t.Context(), fmt.Sprint(i, k), nil); err != nil {
							t.Error(err)
							return
						}
						calls.Add(1)
					}
				})
			}
			waitFor(t, "calls", func() bool { return calls.Load() > 500 })
			a.stop()
			at := calls.Load()
			waitFor(t, "calls at the other one", func() bool { return t.Failed() || calls.Load() > at+500 })
			done.Store(true)
			all.Wait()
		})
	}
}
