package proxy_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/status"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/client"
	"github.com/prismgw/prism/errs"
)

// ready is what /readyz says.
type ready struct {
	Ready    bool
	Backends []struct {
		Name   string
		Ready  bool
		Reason string
	}
	Namespaces []struct {
		Name  string
		Ready bool
		Waits []string `json:"waits_for"`
	}
}

func readyz(t *testing.T, s *served, query string) ready {
	t.Helper()
	var r ready
	if err := json.Unmarshal([]byte(get(t, "http://"+s.Ops+"/readyz"+query)), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// A backend that is away does not keep the proxy from starting, nor other
// namespaces from being served, and its own heal by themselves.
func TestBackendAwayAtStart(t *testing.T) {
	t.Parallel()
	s := startAway(t)
	c := s.dial(t)
	_, err := c.Retrieve(in(t, "held"), &keyvaluev1.RetrieveRequest{Key: "k"})
	if e := told(t, "a read", err, errs.BackendUnavailable); e.RetryAfter <= 0 {
		t.Error("no advice when to retry")
	}
	_, err = c.Store(in(t, "held"), &keyvaluev1.StoreRequest{Key: "k"})
	told(t, "a write", err, errs.BackendUnavailable)
	p := pipeline(t, in(t, "held"), c)
	send(t, p, storeOp(1, "k", nil))
	if a := answers(t, p, 1)[1]; reasonOf(a) != "BACKEND_UNAVAILABLE" {
		t.Errorf("%v", a)
	}
	x := exchange{at: "http", request: []string{"GET /v1/namespaces/held/keyvalue/k"}}
	resp, body := roundTrip(t, s.HTTP, x.bytes(t, map[string]string{"address": s.HTTP}), false)
	x.always(t, resp, body)
	x.compareProblem(t, []string{"BACKEND_UNAVAILABLE"}, body)
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("%s, Retry-After %q", resp.Status, resp.Header.Get("Retry-After"))
	}
	if _, err := c.Store(in(t, "open"), &keyvaluev1.StoreRequest{Key: "k"}); err != nil {
		t.Errorf("another namespace: %v", err)
	}

	waitFor(t, "the ping has failed", func() bool {
		r := readyz(t, s, "")
		return r.Backends[1].Name == "tap" && r.Backends[1].Reason == "BACKEND_UNAVAILABLE" && r.Backends[0].Ready
	})
	for _, n := range readyz(t, s, "").Namespaces {
		if away := n.Name == "held" || n.Name == "other"; n.Ready == away || away && strings.Join(n.Waits, " ") != "tap" {
			t.Errorf("%+v", n)
		}
	}
	if r := readyz(t, s, ""); !r.Ready {
		t.Error("one backend that is away makes the whole proxy unready")
	}
	if r := readyz(t, s, "?namespace=held"); len(r.Namespaces) != 1 || r.Namespaces[0].Ready {
		t.Errorf("%+v", r)
	}

	s.smash(nil)
	waitFor(t, "it heals", func() bool {
		_, err := c.Store(in(t, "held"), &keyvaluev1.StoreRequest{Key: "k"})
		return err == nil
	})
	waitFor(t, "and says so", func() bool { return readyz(t, s, "").Backends[1].Ready })
}

// startAway starts a proxy whose backend tap is away.
func startAway(t *testing.T) *served {
	t.Helper()
	s := start(t, nil, `{kind: Backend, name: memory, driver: memory, url: "memory:"}`)
	s.smash(errs.BackendUnavailable)
	all := strings.Split(tapped, "---\n")
	if err := s.load(all[0], all[1], all[2], `{kind: Backend, name: memory, driver: memory, url: "memory:"}`,
		`{kind: Namespace, name: open, patterns: [{name: data, kind: keyvalue, slots: {store-kv: {backend: memory}}}], needs: {durability: none}, auth: {anonymous: read_write}}`); err != nil {
		t.Fatal(err)
	}
	return s
}

// A backend that fails is given a rest, and not called all the while; one
// caller that fails often is not what opens the circuit of another backend.
func TestCircuit(t *testing.T) {
	t.Parallel()
	s := startAway(t)
	c := s.dial(t)
	var opened *errs.Error
	waitFor(t, "the circuit opens", func() bool {
		_, err := c.Retrieve(in(t, "held"), &keyvaluev1.RetrieveRequest{Key: "k"})
		opened = errs.FromStatus(err)
		return opened.Reason == errs.CircuitOpen
	})
	if opened.RetryAfter <= 0 || opened.RetryAfter > 5*time.Second {
		t.Errorf("retry after %v", opened.RetryAfter)
	}
	began := s.begun.Load()
	for i := range 100 {
		_, err := c.Retrieve(in(t, []string{"held", "other"}[i%2]), &keyvaluev1.RetrieveRequest{Key: "k"})
		told(t, "while it is open", err, errs.CircuitOpen)
	}
	if n := s.begun.Load() - began; n > 2 {
		t.Errorf("a backend that rests was called %d times", n)
	}
	if _, err := c.Exists(in(t, "open"), &keyvaluev1.ExistsRequest{Key: "k"}); err != nil {
		t.Errorf("another backend: %v", err)
	}
	if m := get(t, "http://"+s.Ops+"/metrics"); !strings.Contains(m, `prism_backend_circuit_open{backend="tap"} 1`) || !strings.Contains(m, `prism_backend_circuit_open{backend="memory"} 0`) {
		t.Error("the metric does not say that the circuit is open")
	}
	s.smash(nil)
	healed := time.Now()
	waitFor(t, "it closes", func() bool {
		_, err := c.Exists(in(t, "held"), &keyvaluev1.ExistsRequest{Key: "k"})
		return err == nil
	})
	if took := time.Since(healed); took > 7*time.Second {
		t.Errorf("closed after %v", took)
	}
	if m := get(t, "http://"+s.Ops+"/metrics"); !strings.Contains(m, `prism_backend_circuit_open{backend="tap"} 0`) {
		t.Error("the metric does not say that the circuit is closed")
	}
}

// A backend that is down is not called much more often than callers ask:
// the driver's, the proxy's and the SDK's repeats together.
func TestNoRetryStorm(t *testing.T) {
	t.Parallel()
	s := startAway(t)
	s.smash(nil)
	s.fail(errs.OutcomeUnknown)
	c, err := client.Dial(s.GRPC, client.WithNamespace("held"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.KeyValue("").Store(t.Context(), "k", nil); !errors.Is(err, errs.OutcomeUnknown) {
		t.Errorf("%v", err)
	}
	if n := s.begun.Load(); n != 1 {
		t.Errorf("a write of unknown outcome was sent %d times", n)
	}
}

// A client that ignores GoingAway is left after its grace, and nothing that it
// sent in vain was begun.
func TestGoingAwayIgnored(t *testing.T) {
	t.Parallel()
	s := start(t, nil, tapped)
	p := pipeline(t, in(t, "held"), s.dial(t))
	stopped := make(chan struct{})
	go func() { defer close(stopped); s.stop() }()
	done, began := map[uint64]bool{}, time.Now()
	go func() {
		for id := uint64(1); p.Send(&keyvaluev1.PipelineRequest{Operations: []*keyvaluev1.Operation{storeOp(id, fmt.Sprint(id), nil)}}) == nil; id++ {
			time.Sleep(time.Millisecond)
		}
	}()
	for {
		m, err := p.Recv()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Errorf("the stream ended with %v", err)
			}
			break
		}
		for _, a := range m.GetAnswers() {
			if a.GetStore() != nil {
				done[a.GetId()] = true
			} else if reason := errs.FromStatus(status.FromProto(a.GetError()).Err()).Reason; reason != errs.Draining {
				t.Errorf("operation %d: %v", a.GetId(), reason)
			}
		}
	}
	<-stopped
	if took := time.Since(began); took < 4*time.Second || took > 9*time.Second {
		t.Errorf("left after %v", took)
	}
	if n := s.begun.Load(); n != int64(len(done)) || n == 0 {
		t.Errorf("%d operations begun, %d answered", n, len(done))
	}
}
