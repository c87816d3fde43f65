package proxy_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/metadata"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/errs"
)

// brief is a namespace that the tests remove, on a backend of its own.
const brief = `
{kind: Backend, name: passing, driver: tap, url: "tap:"}
---
{kind: Namespace, name: brief, patterns: [{name: data, kind: keyvalue, slots: {store-kv: {backend: passing}}}], needs: {durability: none}, auth: {anonymous: read_write}}`

// series returns the lines of /metrics that have one of the labels.
func series(t *testing.T, s *served, labels ...string) []string {
	t.Helper()
	var found []string
	for line := range strings.Lines(get(t, "http://"+s.Ops+"/metrics")) {
		for _, l := range labels {
			if strings.Contains(line, l) {
				found = append(found, strings.TrimSpace(line))
			}
		}
	}
	return found
}

// goneFrom waits until /metrics has none of the labels.
func goneFrom(t *testing.T, s *served, labels ...string) {
	t.Helper()
	waitFor(t, fmt.Sprint("no series has ", labels), func() bool { return len(series(t, s, labels...)) == 0 })
}

// useBrief calls the namespace in every way there is, with and without success.
func useBrief(t *testing.T, s *served, c keyvaluev1.KeyValueClient) {
	t.Helper()
	if _, err := c.Store(in(t, "brief"), &keyvaluev1.StoreRequest{Key: "k"}); err != nil {
		t.Fatal(err)
	}
	_, err := c.Retrieve(in(t, "brief"), &keyvaluev1.RetrieveRequest{Key: "nobody"})
	told(t, "nobody", err, errs.KeyNotFound)
	s.fail(errs.ReadOnly)
	_, err = c.Store(in(t, "brief"), &keyvaluev1.StoreRequest{Key: "k"})
	told(t, "a failure of the backend", err, errs.ReadOnly)
	s.fail(nil)
	if resp, err := http.Get("http://" + s.HTTP + "/v1/namespaces/brief/keyvalue/k"); err != nil || resp.Body.Close() != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp, err)
	}
	ctx, done := context.WithCancel(in(t, "brief"))
	defer done()
	p := pipeline(t, ctx, c)
	send(t, p, storeOp(1, "k", nil))
	answers(t, p, 1)
	if n := len(series(t, s, `namespace="brief"`)); n < 5 {
		t.Errorf("%d series of a namespace that was called in five ways", n)
	}
	if n := len(series(t, s, `prism_backend_failures_total{backend="passing"`, `prism_backend_circuit_open{backend="passing"`)); n != 2 {
		t.Errorf("%d series of the backend", n)
	}
}

// A namespace and a backend that a reload removes leave no series.
func TestRemovedNamespacesLeaveNoSeries(t *testing.T) {
	t.Parallel()
	s := start(t, nil, documents, brief)
	c := s.dial(t)
	for range 3 { // it may come back
		useBrief(t, s, c)
		if err := s.load(documents); err != nil {
			t.Fatal(err)
		}
		goneFrom(t, s, `namespace="brief"`, `backend="passing"`)
		if err := s.load(documents, brief); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(series(t, s, `backend="memory"`)); n == 0 {
		t.Error("the series of a backend that stays are gone")
	}
}

// What is still under way counts where it began, and does not bring back what
// is gone; a stream does so for all its time.
func TestSeriesStayForTheLastCall(t *testing.T) {
	t.Parallel()
	s := start(t, nil, documents, brief)
	c := s.dial(t)
	open := s.hold(false)
	defer open()
	call, stream := make(chan error, 1), pipeline(t, in(t, "brief"), c)
	go func() {
		_, err := c.Retrieve(in(t, "brief"), &keyvaluev1.RetrieveRequest{Key: "hang"})
		call <- err
	}()
	waitFor(t, "the call hangs", func() bool { return s.waiting.Load() == 1 })
	send(t, stream, storeOp(1, "k", nil))
	answers(t, stream, 1)
	if err := s.load(documents); err != nil {
		t.Fatal(err)
	}
	send(t, stream, storeOp(2, "k", nil))
	if a := answers(t, stream, 1)[2]; reasonOf(a) != "NAMESPACE_NOT_FOUND" {
		t.Errorf("an operation on what is gone: %v", a)
	}
	open()
	told(t, "the call", <-call, errs.KeyNotFound)
	const counted = `prism_requests_total{code="NotFound",method="Retrieve",namespace="brief",pattern="data",transport="grpc"} 1`
	if got := series(t, s, counted); len(got) != 1 {
		t.Errorf("the last call was not counted: %v", series(t, s, `namespace="brief"`))
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := stream.Recv(); err != nil {
			break
		}
	}
	goneFrom(t, s, `namespace="brief"`)
}

// A namespace that comes back while a call of before is under way goes on
// counting where it was: the end of that call takes nothing away.
func TestSeriesOfANamespaceThatCameBack(t *testing.T) {
	t.Parallel()
	s := start(t, nil, documents, brief)
	c := s.dial(t)
	open := s.hold(false)
	defer open()
	call := make(chan error, 1)
	go func() {
		_, err := c.Retrieve(in(t, "brief"), &keyvaluev1.RetrieveRequest{Key: "hang"})
		call <- err
	}()
	waitFor(t, "the call hangs", func() bool { return s.waiting.Load() == 1 })
	if err := s.load(documents); err != nil {
		t.Fatal(err)
	}
	if err := s.load(documents, brief); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Retrieve(in(t, "brief"), &keyvaluev1.RetrieveRequest{Key: "nobody"}); err == nil {
		t.Fatal("it is there")
	}
	open()
	<-call
	const counted = `prism_requests_total{code="NotFound",method="Retrieve",namespace="brief",pattern="data",transport="grpc"} 2`
	waitFor(t, "both calls are counted", func() bool { return len(series(t, s, counted)) == 1 })
	if _, err := c.Retrieve(in(t, "brief"), &keyvaluev1.RetrieveRequest{Key: "nobody"}); err == nil {
		t.Fatal("it is there")
	}
	if got := series(t, s, strings.TrimSuffix(counted, "2")+"3"); len(got) != 1 {
		t.Errorf("a third call: %v", series(t, s, `namespace="brief"`))
	}
}

// A thousand namespaces that come and go, called all the while, leave nothing.
func TestNamespacesComeAndGo(t *testing.T) {
	t.Parallel()
	s := start(t, nil, documents)
	c := s.dial(t)
	ctx, stop := context.WithCancel(t.Context())
	var round, served atomic.Int64
	var callers sync.WaitGroup
	defer callers.Wait()
	defer stop()
	for w := range 4 {
		callers.Go(func() {
			for i := w; ctx.Err() == nil; i++ {
				ctx := metadata.AppendToOutgoingContext(ctx, "x-prism-namespace", fmt.Sprintf("n%d-%d", round.Load(), i%50))
				if _, err := c.Store(ctx, &keyvaluev1.StoreRequest{Key: "k"}); err == nil {
					served.Add(1)
				}
			}
		})
	}
	for r := range 20 {
		var more strings.Builder
		for i := range 50 {
			fmt.Fprintf(&more, "---\n{kind: Namespace, name: n%d-%d, stores: [data], needs: {durability: none}, auth: {anonymous: read_write}}\n", r, i)
		}
		if err := s.load(documents + more.String()); err != nil {
			t.Fatal(err)
		}
		round.Store(int64(r))
		before := served.Load()
		waitFor(t, "all were called", func() bool { return served.Load() > before+100 })
	}
	if n := len(series(t, s, `namespace="n19-`)); n == 0 {
		t.Error("the namespaces that are there have no series")
	}
	if err := s.load(documents); err != nil {
		t.Fatal(err)
	}
	goneFrom(t, s, `namespace="n`)
	stop()
	callers.Wait()
	if left := series(t, s, `namespace="n`); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
