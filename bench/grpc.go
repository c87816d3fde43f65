package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/prismgw/prism/api/codec"
	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
)

// unaryConns is how many connections the callers of unary calls share.
const unaryConns = 8

// unary makes gRPC calls, the same against every server.
type unary struct {
	server     *process
	conns      int
	namespaces []string // which the calls are spread over
}

func newUnary(name, data string, server *process, conns int) *contender {
	u := &unary{server: server, conns: conns, namespaces: []string{namespaceName}}
	return &contender{name: name, data: data, server: server, open: u.open}
}

// newSpread spreads unary calls over many namespaces.
func newSpread(name, data string, server *process) *contender {
	u := &unary{server: server, conns: unaryConns}
	for i := range manyNamespaces {
		u.namespaces = append(u.namespaces, namespaceOf(i))
	}
	// Reading the metrics of so many costs more than a window's calls.
	return &contender{name: name, data: data, server: server, noAllocs: true, span: manyNamespaces, open: u.open}
}

func (u *unary) open(ctx context.Context, w workload) (session, error) {
	conns, err := dialAll(ctx, u.server.addrs.GRPC, u.conns)
	if err != nil {
		return session{}, err
	}
	clients := make([]keyvaluev1.KeyValueClient, len(conns))
	for i, c := range conns {
		clients[i] = keyvaluev1.NewKeyValueClient(c)
	}
	contexts := make([]context.Context, len(u.namespaces))
	for i, ns := range u.namespaces {
		contexts[i] = metadata.NewOutgoingContext(ctx, metadata.Pairs("x-prism-namespace", ns))
	}
	all, val := keys(w.size), value(w.size)
	// With few connections a caller keeps its own; with many, it uses them all.
	client := func(caller, n int) keyvaluev1.KeyValueClient {
		if u.conns > w.callers {
			caller += n * w.callers
		}
		return clients[caller%u.conns]
	}
	do := func(caller, n int) error { //nolint:contextcheck // the namespaces' contexts are made of it
		ctx, cancel := context.WithTimeout(contexts[n%len(contexts)], callTimeout)
		defer cancel()
		_, err := client(caller, n).Retrieve(ctx, &keyvaluev1.RetrieveRequest{Key: all[n%len(all)]})
		return err
	}
	if w.verb != retrieve {
		do = func(caller, n int) error { //nolint:contextcheck // likewise
			ctx, cancel := context.WithTimeout(contexts[n%len(contexts)], callTimeout)
			defer cancel()
			_, err := client(caller, n).Store(ctx, &keyvaluev1.StoreRequest{Key: all[n%len(all)], Value: val})
			return err
		}
	}
	return session{do, func() { closeAll(conns) }}, nil
}

// callTimeout is the deadline of a call, which every call over a network should
// have: the echo, too, then has to keep one.
const callTimeout = 10 * time.Second

func dial(addr string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:"+addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec.V2{})),
		grpc.WithDisableRetry(),
	)
}

// dialAll opens n connections and waits for them.
func dialAll(ctx context.Context, addr string, n int) ([]*grpc.ClientConn, error) {
	conns := make([]*grpc.ClientConn, 0, n)
	for range n {
		c, err := dial(addr)
		if err != nil {
			closeAll(conns)
			return nil, err
		}
		conns = append(conns, c)
		c.Connect()
	}
	for _, c := range conns {
		if err := connected(ctx, c); err != nil {
			closeAll(conns)
			return nil, err
		}
	}
	return conns, nil
}

func closeAll(conns []*grpc.ClientConn) {
	for _, c := range conns {
		_ = c.Close()
	}
}

// connected waits until c has its connection, so that no window pays for it.
func connected(ctx context.Context, c *grpc.ClientConn) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	for state := c.GetState(); state != connectivity.Ready; state = c.GetState() {
		if !c.WaitForStateChange(ctx, state) {
			return fmt.Errorf("connecting to %s: %w", c.Target(), ctx.Err())
		}
	}
	return nil
}

const (
	echoService = "prism.bench.Echo"
	echoBidi    = "Bidi"
)

// newBidi sends one message for each operation on a few streams: what a
// stream costs without the SDK and without batches.
func newBidi(name string, server *process) *contender {
	return &contender{name: name, server: server, open: func(ctx context.Context, w workload) (session, error) {
		if w.verb != retrieve {
			return session{}, errors.New("it only reads")
		}
		ctx, cancel := context.WithCancel(ctx)
		var pipes [2]*bidi
		for i := range pipes {
			p, err := openBidi(ctx, server.addrs.GRPC)
			if err != nil {
				cancel()
				return session{}, err
			}
			pipes[i] = p
		}
		all := keys(w.size)
		return session{
			call: func(caller, n int) error {
				return pipes[caller%len(pipes)].call(&keyvaluev1.RetrieveRequest{Key: all[n%len(all)]})
			},
			close: func() {
				cancel()
				for _, p := range pipes {
					_ = p.conn.Close()
				}
			},
		}, nil
	}}
}

// bidi matches answers to requests by their order.
type bidi struct {
	conn   *grpc.ClientConn
	stream grpc.ClientStream

	mu      sync.Mutex // guards sending and the fields below
	waiting []chan error
	err     error
}

func openBidi(ctx context.Context, addr string) (*bidi, error) {
	conn, err := dial(addr)
	if err != nil {
		return nil, err
	}
	desc := &grpc.StreamDesc{StreamName: echoBidi, ServerStreams: true, ClientStreams: true}
	stream, err := conn.NewStream(ctx, desc, "/"+echoService+"/"+echoBidi)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	b := &bidi{conn: conn, stream: stream}
	go b.receive()
	return b, nil
}

var waits = sync.Pool{New: func() any { return make(chan error, 1) }}

func (b *bidi) call(r *keyvaluev1.RetrieveRequest) error {
	done := waits.Get().(chan error) //nolint:errcheck,forcetypeassert // the pool holds nothing else
	b.mu.Lock()
	err := b.err
	if err == nil {
		b.waiting = append(b.waiting, done)
		err = b.stream.SendMsg(r)
	}
	b.mu.Unlock()
	if err != nil && !errors.Is(err, io.EOF) {
		return err // done may still be told something
	}
	err = <-done
	waits.Put(done)
	return err
}

func (b *bidi) receive() {
	in := new(keyvaluev1.RetrieveResponse)
	for {
		err := b.stream.RecvMsg(in)
		b.mu.Lock()
		if err != nil {
			b.err = err
			for _, done := range b.waiting {
				done <- err
			}
			b.waiting = nil
			b.mu.Unlock()
			return
		}
		done := b.waiting[0]
		b.waiting = b.waiting[1:]
		b.mu.Unlock()
		done <- nil
	}
}
