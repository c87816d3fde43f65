//go:build unix

package proxy

import (
	"context"
	"net"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/tap"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/memory"
	"github.com/prismgw/prism/namespace"
	"github.com/prismgw/prism/pattern"
	"github.com/prismgw/prism/pattern/keyvalue"
)

const pathDocuments = `
{kind: Backend, name: m, driver: memory, url: "memory:"}
---
{kind: Namespace, name: orders, stores: [carts], needs: {durability: none}, auth: {anonymous: read_write}}`

// BenchmarkUnaryPath is what the proxy adds to a unary call: all between the
// transport's having read the headers and its writing the answer.
func BenchmarkUnaryPath(b *testing.B) {
	p, err := New(Options{Drivers: []driver.Driver{memory.Driver()}, Kinds: []pattern.Kind{keyvalue.Kind()}, Loopback: true})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { p.Stop(b.Context()) })
	if err := p.Load(namespace.File{Name: "bench.yaml", Data: []byte(pathDocuments)}); err != nil {
		b.Fatal(err)
	}
	ctx := arrived(b.Context())
	do := map[string]func(message []byte) error{}
	for _, m := range p.wrap(0).Methods {
		do[m.MethodName] = func(request []byte) error {
			_, err := m.Handler(nil, again(ctx), func(into any) error { return into.(*message).UnmarshalVT(request) }, nil) //nolint:forcetypeassert // it is one
			return err
		}
	}
	store, _ := (&keyvaluev1.StoreRequest{Key: "key", Value: make([]byte, 128)}).MarshalVT()
	get, _ := (&keyvaluev1.RetrieveRequest{Key: "key"}).MarshalVT()
	if err := do["Store"](store); err != nil {
		b.Fatal(err)
	}
	retrieve := do["Retrieve"]
	b.ReportAllocs()
	before := cpu()
	defer func() { b.ReportMetric(float64(cpu()-before)/float64(b.N), "cpu-ns/op") }()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := retrieve(get); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// arrived returns a context as the transport makes one.
func arrived(ctx context.Context) context.Context {
	md := metadata.MD{
		":authority": {"localhost:8980"}, "content-type": {"application/grpc"}, "user-agent": {"grpc-go/1.85.0"},
		"x-prism-namespace": {"orders"},
	}
	ctx = metadata.NewIncomingContext(peer.NewContext(ctx, &peer.Peer{Addr: &net.TCPAddr{}}), md)
	ctx, _ = keepHeaders(ctx, &tap.Info{Header: md})
	return ctx
}

// again makes what the transport makes for each request.
func again(ctx context.Context) context.Context {
	ctx, _ = keepHeaders(ctx, &tap.Info{Header: headersOf(ctx)})
	return ctx
}

// cpu is the time that this process has computed, which depends less than the
// time that has passed on who else uses the machine.
func cpu() time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		panic(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
