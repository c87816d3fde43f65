package test

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// A collector takes whatever a server sends to an OpenTelemetry collector.
type collector struct {
	addr string

	mu  sync.Mutex // guards got
	got []byte
}

func startCollector(t *testing.T) *collector {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{addr: l.Addr().String()}
	s := grpc.NewServer(grpc.ForceServerCodecV2(bare{}), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		var in []byte
		if err := stream.RecvMsg(&in); err != nil {
			return err
		}
		c.mu.Lock()
		c.got = append(c.got, in...)
		c.mu.Unlock()
		return stream.SendMsg(&[]byte{}) // an answer without fields
	}))
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return c
}

// has reports whether a text, or the bytes of an id, has been received.
func (c *collector) has(what []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Contains(c.got, what)
}

// bare is a codec for messages that stay bytes.
type bare struct{}

func (bare) Name() string { return proto.Name }

func (bare) Marshal(v any) (mem.BufferSlice, error) {
	b, _ := v.(*[]byte)
	return mem.BufferSlice{mem.SliceBuffer(*b)}, nil
}

func (bare) Unmarshal(data mem.BufferSlice, v any) error {
	b, _ := v.(*[]byte)
	*b = data.Materialize()
	return nil
}

// Traces reach the collector, those of a client under its own id, also the
// last ones before the server stops; what the client does not want traced is
// not.
func TestTracesReachTheCollector(t *testing.T) {
	t.Parallel()
	c := startCollector(t)
	s := startServer(t, t.TempDir(), "dev", "--grpc-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0", "--ephemeral",
		"--otlp-endpoint=http://"+c.addr, "--trace-ratio=0")
	ask := func(id, flags string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.HTTP+"/v1/namespaces/demo/keyvalue/nobody", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Traceparent", fmt.Sprintf("00-%s-00f067aa0ba902b7-%s", id, flags))
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	wanted, unwanted := strings.Repeat("4b", 16), strings.Repeat("5c", 16)
	ask(unwanted, "00")
	ask(wanted, "01")
	began := time.Now()
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	<-s.ended
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("stopped after %v", took)
	}
	for what, want := range map[string]bool{wanted: true, unwanted: false} {
		id, err := hex.DecodeString(what)
		if err != nil {
			t.Fatal(err)
		}
		if c.has(id) != want {
			t.Errorf("trace %s has arrived: %v, want %v\n%s", what, !want, want, s.log.String())
		}
	}
	for _, text := range []string{"prism.keyvalue.v1.KeyValue/Retrieve", "prism.namespace", "demo", "service.name"} {
		if !c.has([]byte(text)) {
			t.Errorf("no %q has arrived", text)
		}
	}
}

// A collector that is away hurts nobody: calls are served, and the server
// stops in time.
func TestCollectorThatIsAway(t *testing.T) {
	t.Parallel()
	s := startServer(t, t.TempDir(), "dev", "--grpc-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0", "--ephemeral",
		"--otlp-endpoint=http://127.0.0.1:1", "--trace-ratio=1")
	if err := s.put(t.Context(), "k", "v"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	<-s.ended
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("stopped after %v", took)
	}
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d\n%s", code, s.log.String())
	}
	if !strings.Contains(s.log.String(), "traces were lost") {
		t.Errorf("the log does not say that traces were lost:\n%s", s.log.String())
	}
}
