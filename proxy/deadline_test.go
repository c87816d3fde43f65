package proxy_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/errs"
)

// within fails the test unless f takes about d.
func within(t *testing.T, what string, d time.Duration, f func()) {
	t.Helper()
	began := time.Now()
	f()
	if took := time.Since(began); took < d-50*time.Millisecond || took > d+1500*time.Millisecond {
		t.Errorf("%s: answered after %v, due after %v", what, took, d)
	}
}

// A backend that hangs hangs nobody beyond the deadline: two seconds, unless
// the client says otherwise.
func TestDeadlines(t *testing.T) {
	t.Parallel()
	s := start(t, nil, tapped)
	t.Cleanup(s.hold(true))
	c := s.dial(t)
	ctx := in(t, "held")
	calls := map[string]func(context.Context) error{
		"Retrieve": func(ctx context.Context) error {
			_, err := c.Retrieve(ctx, &keyvaluev1.RetrieveRequest{Key: "k"})
			return err
		},
		"Store": func(ctx context.Context) error {
			_, err := c.Store(ctx, &keyvaluev1.StoreRequest{Key: "k"})
			return err
		},
		"Increment": func(ctx context.Context) error {
			_, err := c.Increment(ctx, &keyvaluev1.IncrementRequest{Key: "k"})
			return err
		},
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			within(t, "no deadline", 2*time.Second, func() { told(t, name, call(ctx), errs.Deadline) })
			within(t, "a shorter one", 300*time.Millisecond, func() {
				short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
				defer cancel()
				if e := errs.FromStatus(call(short)); e.Reason != errs.Deadline {
					t.Errorf("%s: %v", name, e)
				}
			})
		})
	}
	for _, request := range []string{"GET /v1/namespaces/held/keyvalue/k", "POST /v1/namespaces/held/keyvalue:scan"} {
		t.Run(request, func(t *testing.T) {
			t.Parallel()
			within(t, request, 2*time.Second, func() {
				x := exchange{at: request, request: []string{request, `"{}"`}}
				resp, body := roundTrip(t, s.HTTP, x.bytes(t, map[string]string{"address": s.HTTP}), false)
				x.compareProblem(t, []string{"DEADLINE"}, body)
				if resp.StatusCode != http.StatusGatewayTimeout {
					t.Error(resp.Status)
				}
			})
		})
	}
}

// Items of a batch have their own outcome when the time is over.
func TestDeadlineOfABatch(t *testing.T) {
	t.Parallel()
	s := start(t, nil, tapped)
	t.Cleanup(s.hold(true))
	batch, err := s.dial(t).RetrieveBatch(in(t, "held"), &keyvaluev1.RetrieveBatchRequest{Keys: []string{"a", "b"}})
	if err != nil || len(batch.GetResults()) != 2 {
		t.Fatal(batch, err)
	}
	for _, r := range batch.GetResults() {
		told(t, "an item", status.FromProto(r.GetError()).Err(), errs.Deadline)
	}
}

// A client that goes away frees its place at once.
func TestCancelledCallsFreeTheirPlace(t *testing.T) {
	t.Parallel()
	s := start(t, nil, tapped)
	open := s.hold(false)
	defer open()
	c := s.dial(t)
	ctx, cancel := context.WithCancel(in(t, "narrow"))
	for i := range 3 {
		go c.Retrieve(ctx, &keyvaluev1.RetrieveRequest{Key: fmt.Sprint("hang", i)})
	}
	waitFor(t, "three calls hang", func() bool { return s.waiting.Load() == 3 })
	_, err := c.Retrieve(in(t, "narrow"), &keyvaluev1.RetrieveRequest{Key: "k"})
	e := told(t, "a fourth of three", err, errs.Overloaded)
	if e.RetryAfter <= 0 || e.RetryAfter > time.Second {
		t.Errorf("retry after %v", e.RetryAfter)
	}
	cancel()
	waitFor(t, "a place is free", func() bool {
		_, err := c.Exists(in(t, "narrow"), &keyvaluev1.ExistsRequest{Key: "k"})
		return err == nil
	})
	waitFor(t, "no call waits at the backend", func() bool { return s.waiting.Load() == 0 })
}

// Clients that are slow to send take no places: over gRPC none at all, over
// HTTP for no longer than their deadline.
func TestSlowSenders(t *testing.T) {
	t.Parallel()
	s := start(t, nil, tapped)
	conn := s.conn(t)
	for range 10 {
		if _, err := conn.NewStream(in(t, "narrow"), &grpc.StreamDesc{ClientStreams: true}, "/prism.keyvalue.v1.KeyValue/Retrieve"); err != nil {
			t.Fatal(err)
		}
	}
	c := keyvaluev1.NewKeyValueClient(conn) // the same connection: what comes on it later is served later
	for range 20 {
		if _, err := c.Exists(in(t, "narrow"), &keyvaluev1.ExistsRequest{Key: "k"}); err != nil {
			t.Fatalf("beside calls that send no request: %v", err)
		}
	}
	var slow []net.Conn
	began := time.Now()
	for range 3 {
		conn, err := net.Dial("tcp", s.HTTP)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "PUT /v1/namespaces/narrow/keyvalue/k HTTP/1.1\r\nHost: %s\r\nContent-Length: 100\r\n\r\nx", s.HTTP)
		slow = append(slow, conn)
	}
	waitFor(t, "the places are taken or given back", func() bool {
		_, err := c.Exists(in(t, "narrow"), &keyvaluev1.ExistsRequest{Key: "k"})
		return err == nil && time.Since(began) > 2*time.Second
	})
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("three slow bodies held the namespace for %v", took)
	}
	for _, conn := range slow {
		answer := make([]byte, 1024)
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, err := conn.Read(answer); err != nil || !strings.Contains(string(answer[:n]), "504") {
			t.Errorf("a slow body was answered %q %v", answer[:n], err)
		}
	}
}
