// Package prismtest runs a real Prism inside a test: the proxy that production
// runs, on its memory driver, over loopback. There is nothing to mock.
//
//	func TestCheckout(t *testing.T) {
//		c := prismtest.New(t)
//		carts := client.Store[Cart](c, "test/data")
//		…
//	}
package prismtest

import (
	"context"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/prismgw/prism/client"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/memory"
	"github.com/prismgw/prism/driver/sqlite"
	"github.com/prismgw/prism/namespace"
	"github.com/prismgw/prism/pattern"
	"github.com/prismgw/prism/pattern/consumer"
	"github.com/prismgw/prism/pattern/keyvalue"
	"github.com/prismgw/prism/pattern/producer"
	"github.com/prismgw/prism/pattern/pubsub"
	"github.com/prismgw/prism/pattern/queue"
	"github.com/prismgw/prism/proxy"
)

// Namespace is the namespace that New's client uses.
const Namespace = "test"

// documents are what New serves.
const documents = `
kind: Backend
name: memory
driver: memory
url: "memory:"
---
kind: Namespace
name: test
stores: [data]
topics: [{name: "*", partitions: 4}]
queues: [{name: "*"}]
patterns: [{name: events, kind: pubsub}]
needs: {durability: none}
auth: {anonymous: read_write}
`

// New starts a Prism with the namespace "test", which has the store "data", topics
// and queues of any name and the messages "events" in memory, and returns a client of it.
// Both end with the test.
func New(t testing.TB, opts ...client.Option) *client.Client {
	t.Helper()
	return Start(t, documents).Client(t, Namespace, opts...)
}

// A Server is a Prism that runs in the test's process.
type Server struct {
	GRPC, HTTP, Ops string // addresses

	proxy *proxy.Proxy
	dir   string
}

// Start serves Backend and Namespace documents, on the drivers memory and
// sqlite. It ends with the test.
func Start(t testing.TB, documents ...string) *Server {
	t.Helper()
	s, err := start(t.TempDir(), documents...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	return s
}

// Serve serves what New does, for examples and programs without a testing.TB.
// It returns the address for client.Dial; stop ends it. It panics if loopback
// cannot be listened on.
func Serve() (addr string, stop func()) {
	s, err := start("", documents)
	if err != nil {
		panic(err) //nolint:forbidigo // there is nobody to return it to
	}
	return s.GRPC, s.stop
}

func start(dir string, documents ...string) (*Server, error) {
	s := &Server{dir: dir}
	o := proxy.Options{
		Drivers:  []driver.Driver{memory.Driver(), sqlite.Driver()},
		Kinds:    []pattern.Kind{keyvalue.Kind(), producer.Kind(), consumer.Kind(), pubsub.Kind(), queue.Kind()},
		Loopback: true, DrainTime: 5 * time.Second,
	}
	var err error
	for _, l := range []struct {
		listener *net.Listener
		addr     *string
	}{{&o.GRPC, &s.GRPC}, {&o.HTTP, &s.HTTP}, {&o.Ops, &s.Ops}} {
		if *l.listener, err = new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0"); err != nil {
			return nil, err
		}
		*l.addr = (*l.listener).Addr().String()
	}
	if s.proxy, err = proxy.New(o); err != nil {
		return nil, err
	}
	if err := s.load(documents...); err != nil {
		return nil, err
	}
	s.proxy.Start()
	return s, nil
}

// Load serves other documents in place of those before; one that is wrong
// changes nothing and fails the test.
func (s *Server) Load(t testing.TB, documents ...string) {
	t.Helper()
	if err := s.load(documents...); err != nil {
		t.Fatal(err)
	}
}

func (s *Server) load(documents ...string) error {
	files := make([]namespace.File, len(documents))
	for i, d := range documents {
		files[i] = namespace.File{Name: "documents " + strconv.Itoa(i+1), Dir: s.dir, Data: []byte(d)}
	}
	return s.proxy.Load(files...)
}

// Client returns a client of a namespace. It ends with the test.
func (s *Server) Client(t testing.TB, namespace string, opts ...client.Option) *client.Client {
	t.Helper()
	c, err := client.Dial(s.GRPC, append([]client.Option{client.WithNamespace(namespace)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // the server is about to go as well
	return c
}

func (s *Server) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s.proxy.Stop(ctx)
}
