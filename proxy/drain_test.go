package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/client"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/proxy"
)

// Operations that come when the clients' time to go is over are told so, over
// streams and not, and have no effect. What came before is served, what is in
// flight is answered, and a client that goes on sending keeps nothing up.
func TestDrainingIsTold(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *proxy.Options) { o.DrainTime = 6 * time.Second }, tapped)
	open := s.hold(false)
	defer open()
	conn := s.conn(t)
	c := keyvaluev1.NewKeyValueClient(conn)
	p := pipeline(t, in(t, "held"), c)
	send(t, p, timed(storeOp(1, "hang", nil), 20_000))
	waitFor(t, "it hangs", func() bool { return s.waiting.Load() == 1 })
	late, err := conn.NewStream(in(t, "held"), &grpc.StreamDesc{}, keyvaluev1.KeyValue_Store_FullMethodName)
	if err != nil {
		t.Fatal(err)
	}
	// The late one has come as far as its metadata when something that was asked
	// after it is answered.
	if _, err := c.Exists(in(t, "held"), &keyvaluev1.ExistsRequest{Key: "k"}); err != nil {
		t.Fatal(err)
	}

	stopped := make(chan struct{})
	began := time.Now()
	go func() { defer close(stopped); s.stop() }()
	if m, err := p.Recv(); err != nil || m.GetGoingAway() == nil {
		t.Fatalf("%v %v", m, err)
	}
	id, served := uint64(1), 0
	for ; ; served++ {
		id++
		send(t, p, storeOp(id, "late", nil))
		a := answers(t, p, 1)[id]
		if a.GetStore() != nil {
			continue
		}
		if e := told(t, "on the stream", status.ErrorProto(a.GetError()), errs.Draining); e.RetryAfter <= 0 || e.RetryAfter > time.Second {
			t.Errorf("advice: %v", e.RetryAfter)
		}
		break
	}
	if took := time.Since(began); served == 0 || took < 2900*time.Millisecond || took > 5500*time.Millisecond {
		t.Errorf("%d operations were served after GoingAway, then refused after %v", served, took)
	}
	effects := s.begun.Load()
	if err := errors.Join(late.SendMsg(&keyvaluev1.StoreRequest{Key: "late"}), late.CloseSend()); err != nil {
		t.Fatal(err)
	}
	told(t, "unary", late.RecvMsg(&keyvaluev1.StoreResponse{}), errs.Draining)
	var all sync.WaitGroup
	all.Go(func() { // ever more, until the stream has ended
		for k := id + 1; p.Send(&keyvaluev1.PipelineRequest{Operations: []*keyvaluev1.Operation{storeOp(k, "late", nil)}}) == nil; k++ {
		}
	})
	got := map[uint64]*keyvaluev1.Answer{}
	for err == nil {
		var m *keyvaluev1.PipelineResponse
		m, err = p.Recv()
		for _, a := range m.GetAnswers() {
			if got[a.GetId()] = a; a.GetId() == 1 {
				continue
			}
			if reasonOf(a) != "DRAINING" {
				t.Errorf("%v", a)
			}
			open() // now the operation in flight comes to its end
		}
	}
	if !errors.Is(err, io.EOF) || got[1].GetStore() == nil {
		t.Errorf("the stream ended with %v, the operation in flight with %v", err, got[1])
	}
	all.Wait()
	<-stopped
	if n := s.begun.Load() - effects; n != 0 {
		t.Errorf("%d operations that were refused came to the backend", n)
	}
}

// A fleet is the proxies that there are, for clients to find.
type fleet struct {
	mu      sync.Mutex // guards the fields below
	proxies []*served
	seekers []resolver.ClientConn
}

// Build implements resolver.Builder.
func (f *fleet) Build(_ resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seekers = append(f.seekers, cc)
	return seeker{}, cc.UpdateState(f.state())
}

// Scheme implements resolver.Builder.
func (f *fleet) Scheme() string { return "fleet" }

type seeker struct{}

func (seeker) ResolveNow(resolver.ResolveNowOptions) {}
func (seeker) Close()                                {}

func (f *fleet) state() (s resolver.State) {
	for _, p := range f.proxies {
		s.Addresses = append(s.Addresses, resolver.Address{Addr: p.GRPC})
	}
	return s
}

// change puts proxies in and takes one out, and says so, as discovery does
// with a rolling update.
func (f *fleet) change(in, out *served) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if in != nil {
		f.proxies = append(f.proxies, in)
	}
	f.proxies = slices.DeleteFunc(f.proxies, func(p *served) bool { return p == out })
	for _, cc := range f.seekers {
		_ = cc.UpdateState(f.state()) // of a connection that was closed meanwhile
	}
}

// A rolling restart of every proxy under load shows in no call of the SDK, and
// as many increments happened as were acknowledged.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	shared := newTap()
	run := func() *served {
		return start(t, func(o *proxy.Options) { o.Drivers[2], o.LameDuck = shared.Driver, 20*time.Millisecond }, tapped)
	}
	f := &fleet{}
	f.change(run(), nil)
	f.change(run(), nil)
	var sdk, plain, refused atomic.Int64
	var done atomic.Bool
	var all sync.WaitGroup
	var counts sync.Map // of acknowledged increments, by key
	load := func(name string, total *atomic.Int64, increment func(ctx context.Context, key string) (happened bool, err error)) {
		for i := range 16 {
			key, n := fmt.Sprint(name, i), new(atomic.Int64)
			counts.Store(key, n)
			all.Go(func() {
				for !done.Load() {
					happened, err := increment(t.Context(), key)
					if err != nil {
						t.Errorf("%s: %v", key, err)
						return
					}
					if happened {
						n.Add(1)
						total.Add(1)
					}
				}
			})
		}
	}
	for name, opts := range map[string][]client.Option{"stream": nil, "unary": {client.WithUnary()}} {
		c, err := client.Dial("fleet:///proxies", append(opts, client.WithNamespace("held"), client.WithInsecure(), client.WithDialOptions(grpc.WithResolvers(f)))...)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		load(name, &sdk, func(ctx context.Context, key string) (bool, error) {
			_, err := c.KeyValue("").Increment(ctx, key, 1)
			return true, err
		})
	}
	conn, err := grpc.NewClient("fleet:///proxies", grpc.WithResolvers(f), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw := keyvaluev1.NewKeyValueClient(conn)
	load("plain", &plain, func(ctx context.Context, key string) (bool, error) {
		_, err := raw.Increment(metadata.AppendToOutgoingContext(ctx, "x-prism-namespace", "held"), &keyvaluev1.IncrementRequest{Key: key})
		if status.Code(err) == codes.Unavailable { // nothing was done, and a plain client tries again
			refused.Add(1)
			return false, nil
		}
		return true, err
	})
	for range scaled(20, 4) {
		a, b := sdk.Load(), plain.Load()
		waitFor(t, "calls go on", func() bool { return t.Failed() || sdk.Load() > a+500 && plain.Load() > b+200 })
		old := f.proxies[0]
		f.change(run(), nil)
		old.stop() // clients that were not told yet find out
		f.change(nil, old)
	}
	done.Store(true)
	all.Wait()
	kv := f.proxies[0].dial(t)
	counts.Range(func(key, n any) bool {
		r, err := kv.Retrieve(in(t, "held"), &keyvaluev1.RetrieveRequest{Key: key.(string)})
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := strconv.ParseInt(string(r.GetValue()), 10, 64); got != n.(*atomic.Int64).Load() {
			t.Errorf("%v: %d increments happened, %d were acknowledged", key, got, n.(*atomic.Int64).Load())
		}
		return true
	})
	t.Logf("%d calls of the SDK, %d others and %d refused ones", sdk.Load(), plain.Load(), refused.Load())
}
