package proxy_test

import (
	"bytes"
	"context"
	"flag"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/memory"
	"github.com/prismgw/prism/driver/sqlite"
	"github.com/prismgw/prism/namespace"
	"github.com/prismgw/prism/pattern"
	"github.com/prismgw/prism/pattern/keyvalue"
	"github.com/prismgw/prism/pattern/pubsub"
	"github.com/prismgw/prism/pattern/queue"
	"github.com/prismgw/prism/proxy"
)

// tapped are documents on the test's own driver.
const tapped = `
{kind: Backend, name: tap, driver: tap, url: "tap:"}
---
{kind: Namespace, name: held, stores: [data], needs: {durability: none}, auth: {anonymous: read_write}}
---
{kind: Namespace, name: other, stores: [data], needs: {durability: none}, auth: {anonymous: read_write}}
---
{kind: Namespace, name: narrow, stores: [data], needs: {durability: none}, auth: {anonymous: read_write}, limits: {concurrency: 3}}
`

// served is a proxy with options of the test's own, on memory, sqlite and tap.
type served struct {
	*proxy.Proxy
	*tap
	GRPC, HTTP, Ops string

	dir  string
	log  logged
	stop func() // stops it; the test's end does so too
}

// start serves documents.
func start(t *testing.T, set func(*proxy.Options), documents ...string) *served {
	t.Helper()
	s := &served{tap: newTap(), dir: t.TempDir()}
	o := proxy.Options{
		Drivers:  []driver.Driver{memory.Driver(), sqlite.Driver(), s.Driver},
		Kinds:    []pattern.Kind{keyvalue.Kind(), pubsub.Kind(), queue.Kind()},
		Loopback: true, DrainTime: 10 * time.Second,
		Log: slog.New(slog.NewJSONHandler(&s.log, nil)),
	}
	o.GRPC, s.GRPC = listen(t)
	o.HTTP, s.HTTP = listen(t)
	o.Ops, s.Ops = listen(t)
	if set != nil {
		set(&o)
	}
	var err error
	if s.Proxy, err = proxy.New(o); err != nil {
		t.Fatal(err)
	}
	if err := s.load(documents...); err != nil {
		t.Fatal(err)
	}
	s.Start()
	s.stop = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		s.Stop(ctx)
	})
	t.Cleanup(s.stop)
	return s
}

func listen(t *testing.T) (net.Listener, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l, l.Addr().String()
}

func (s *served) load(documents ...string) error {
	return s.Load(namespace.File{Name: "test.yaml", Dir: s.dir, Data: []byte(strings.Join(documents, "\n---\n"))})
}

// dial returns a client on a connection of its own.
func (s *served) dial(t *testing.T, opts ...grpc.DialOption) keyvaluev1.KeyValueClient {
	t.Helper()
	return keyvaluev1.NewKeyValueClient(s.conn(t, opts...))
}

func (s *served) conn(t *testing.T, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(s.GRPC, append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// logged is a log that can be read while it is written.
type logged struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// long asks for the full counts. They want the machine for themselves.
var long = flag.Bool("long", os.Getenv("PRISM_TEST_LONG") != "", "run with the full counts, which takes minutes")

// scaled returns the full count in a long run, else the reduced one.
func scaled(full, reduced int) int {
	if *long {
		return full
	}
	return reduced
}

// heap returns the bytes that are still used after a collection.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
