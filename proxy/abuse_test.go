package proxy_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/errs"
)

// unchanged runs f and checks that it leaves nothing behind.
func unchanged(t *testing.T, f func()) {
	t.Helper()
	goroutines, before := runtime.NumGoroutine(), heap()
	f()
	waitFor(t, "the goroutines are gone", func() bool { return runtime.NumGoroutine() <= goroutines+10 })
	if grown := int64(heap()) - int64(before); grown > 4<<20 {
		t.Errorf("the heap has grown by %d KiB", grown>>10)
	}
}

func TestManyTinyRequests(t *testing.T) {
	s := start(t, nil, documents)
	n := scaled(100_000, 10_000)
	c := s.dial(t)
	ctx := in(t, "open")
	grpcCalls := func(n int) {
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for range n / 8 {
					if _, err := c.Exists(ctx, &keyvaluev1.ExistsRequest{Key: "k"}); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
	}
	conn, err := net.Dial("tcp", s.HTTP)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	httpCalls := func(n int) { // all on their way before the first is answered
		go func() {
			w := bufio.NewWriter(conn)
			defer w.Flush()
			for range n {
				fmt.Fprintf(w, "HEAD /v1/namespaces/open/keyvalue/k HTTP/1.1\r\nHost: localhost\r\n\r\n")
			}
		}()
		for range n {
			resp, err := http.ReadResponse(answers, &http.Request{Method: http.MethodHead})
			if err != nil || resp.StatusCode != http.StatusNotFound {
				t.Error(resp, err)
				return
			}
			resp.Body.Close()
		}
	}
	grpcCalls(1000)
	httpCalls(1000)
	t.Run("grpc", func(t *testing.T) { unchanged(t, func() { grpcCalls(n) }) })
	t.Run("http", func(t *testing.T) { unchanged(t, func() { httpCalls(n) }) })
}

// Calls that are cancelled as soon as they are made leave nothing behind.
func TestCancelStorm(t *testing.T) {
	s := start(t, nil, tapped)
	defer s.hold(true)()
	c := s.dial(t)
	unchanged(t, func() {
		for range scaled(20_000, 2000) {
			ctx, cancel := context.WithCancel(in(t, "held"))
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, _ = c.Retrieve(ctx, &keyvaluev1.RetrieveRequest{Key: "k"})
			}()
			runtime.Gosched()
			cancel()
			<-done
		}
		waitFor(t, "no call is left at the backend", func() bool { return s.waiting.Load() == 0 })
	})
}

// Clients that open connections and dawdle hurt nobody else.
func TestSlowConnections(t *testing.T) {
	s := start(t, nil, documents)
	for i := range scaled(500, 50) {
		for port, beginnings := range map[string][]string{
			s.HTTP: {
				"", "GET /v1/name", "GET /v1/namespaces/open/keyvalue/k HTTP/1.1\r\nHost: localhost\r\nX-A: ",
				"PUT /v1/namespaces/open/keyvalue/slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4194304\r\n\r\nx",
				"PUT /v1/namespaces/open/keyvalue/slow HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nx",
			},
			s.GRPC: {"", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "PRI * HT"},
			s.Ops:  {"GET /met"},
		} {
			conn, err := net.Dial("tcp", port)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, beginnings[i%len(beginnings)])
		}
	}
	c := s.dial(t)
	worst := time.Duration(0)
	for range 200 {
		began := time.Now()
		if _, err := c.Store(in(t, "open"), &keyvaluev1.StoreRequest{Key: "k", Value: []byte("v")}); err != nil {
			t.Fatal(err)
		}
		if text := get(t, "http://"+s.HTTP+"/v1/namespaces/open/keyvalue/k"); text != "v" {
			t.Fatal(text)
		}
		worst = max(worst, time.Since(began))
	}
	if worst > time.Second {
		t.Errorf("a caller waited %v beside them", worst)
	}
	get(t, "http://"+s.Ops+"/metrics")
}

// Promises of large bodies that never come cost little memory.
func TestPromisedBodies(t *testing.T) {
	s := start(t, nil, documents)
	const n = 200
	before := heap()
	for range n {
		conn, err := net.Dial("tcp", s.HTTP)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "PUT /v1/namespaces/open/keyvalue/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4194304\r\n\r\nx")
	}
	waitFor(t, "all are being read", func() bool { return inFlight(t, s, "open") == n })
	if each := int64(heap()-before) / n; each > 256<<10 {
		t.Errorf("%d KiB for each", each>>10)
	}
}

// inFlight returns how many calls of a namespace have a place.
func inFlight(t *testing.T, s *served, name string) int {
	t.Helper()
	text := get(t, "http://"+s.Ops+"/readyz?namespace="+name)
	_, rest, _ := strings.Cut(text, `"in_flight": `)
	var n int
	_, _ = fmt.Sscan(strings.Trim(strings.SplitN(rest, "\n", 2)[0], ","), &n)
	return n
}

// Whatever bytes come to a port, it goes on serving.
func TestRandomBytes(t *testing.T) {
	t.Parallel()
	s := start(t, nil, documents)
	preface := "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	for i := range scaled(500, 100) {
		for _, port := range []string{s.GRPC, s.HTTP, s.Ops} {
			conn, err := net.Dial("tcp", port)
			if err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 1+i*7%5000)
			_, _ = rand.Read(b)
			if i%2 == 0 {
				_, _ = io.WriteString(conn, preface)
			}
			if i%3 == 0 {
				b = append([]byte("GET / HTTP/1.1\r\nHost: "), b...)
			}
			_, _ = conn.Write(b)
			conn.Close()
		}
	}
	if _, err := s.dial(t).Store(in(t, "open"), &keyvaluev1.StoreRequest{Key: "k"}); err != nil {
		t.Error(err)
	}
	if text := get(t, "http://"+s.HTTP+"/v1/namespaces/open/keyvalue/k"); text != "" {
		t.Error(text)
	}
}

// What clients make up never becomes a time series.
func TestMetricSeriesAreBounded(t *testing.T) {
	t.Parallel()
	s := start(t, nil, documents)
	conn := s.conn(t, grpc.WithInitialWindowSize(1<<20))
	c := keyvaluev1.NewKeyValueClient(conn)
	series := func() (int, string) {
		text := get(t, "http://"+s.Ops+"/metrics")
		n := 0
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "prism_") {
				n++
			}
		}
		return n, text
	}
	if _, err := c.Exists(in(t, "open"), &keyvaluev1.ExistsRequest{Key: "k"}); err != nil {
		t.Fatal(err)
	}
	before, _ := series()
	transport := &http.Client{}
	for i := range scaled(10_000, 1000) {
		name := fmt.Sprintf("made-up-%d", i)
		_, _ = c.Retrieve(in(t, name), &keyvaluev1.RetrieveRequest{Key: "k"})
		_, _ = c.Retrieve(in(t, "open", "request-id", name, "user-agent", name), &keyvaluev1.RetrieveRequest{Key: name})
		_, _ = c.Retrieve(in(t, "open", "x-prism-pattern", name), &keyvaluev1.RetrieveRequest{Key: name})
		_ = conn.Invoke(in(t, "open"), "/prism.keyvalue.v1.KeyValue/"+name, &keyvaluev1.RetrieveRequest{}, &keyvaluev1.RetrieveResponse{})
		for _, path := range []string{"/" + name, "/v1/namespaces/" + name + "/keyvalue/k", "/v1/namespaces/open/keyvalue/" + name, "/v1/namespaces/open/keyvalue:" + name} {
			resp, err := transport.Get("http://" + s.HTTP + path)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	}
	began := time.Now()
	after, text := series()
	if took := time.Since(began); after-before > 20 || took > 5*time.Second || len(text) > 2<<20 {
		t.Errorf("%d series more, scraped in %v, %d bytes", after-before, took, len(text))
	}
	if strings.Contains(text, "made-up") {
		t.Error("a made-up name is in the metrics")
	}
	_, err := c.Retrieve(in(t, "made-up"), &keyvaluev1.RetrieveRequest{Key: "k"})
	told(t, "afterwards", err, errs.NamespaceNotFound)
}
