package test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	consumerv1 "github.com/prismgw/prism/api/prism/consumer/v1"
	"github.com/prismgw/prism/client"
)

// A thousand groups whose consumers take all that they are given and read none
// of it keep nobody from consuming, and their messages stay in the backend: the
// proxy's memory stays within its bound.
func TestSlowConsumers(t *testing.T) {
	t.Parallel()
	const (
		slow     = 1000
		messages = 8000
		size     = 8 << 10 // of a message: 64 MiB in all, of which each group would like all
		mib      = 1 << 20
		// What groups share and what each of them has beside that, as
		// docs/contracts.md says, twice for the collector.
		bound = 2 * (128*mib + slow*384<<10)
	)
	dir := t.TempDir()
	documents := filepath.Join(dir, "docs.yaml")
	if err := os.WriteFile(documents, []byte(`
{kind: Backend, name: disk, driver: sqlite, url: "sqlite:messages.db"}
---
{kind: Namespace, name: shop, auth: {anonymous: read_write}, topics: [{name: orders, partitions: 4}]}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	s := startServer(t, dir, "GOGC=100", "proxy", "--grpc-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0", documents)
	c, err := client.Dial(s.GRPC)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	topics := c.Topics("shop")
	var publishing sync.WaitGroup
	for p := range 32 {
		publishing.Go(func() {
			for n := p; n < messages; n += 32 {
				if _, err := topics.Publish(t.Context(), "orders", make([]byte, size)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	publishing.Wait()
	alone := consumeAll(t, topics, "alone", messages)
	before := resident(t, s)
	for i := range slow {
		beSlow(t, s.GRPC, fmt.Sprint("slow-", i))
	}
	full := consumeAll(t, topics, "among-slow-ones", messages)
	grown := resident(t, s) - before
	t.Logf("%d slow consumers: memory grew by %d MiB (bound %d MiB); a fast group took %v alone, %v among them", slow, grown/mib, bound/mib, alone, full)
	if grown > bound {
		t.Errorf("memory grew by %d MiB, which is more than %d", grown/mib, bound/mib)
	}
}

// consumeAll consumes all messages of the topic in a new group, and returns how
// long that took.
func consumeAll(t *testing.T, topics *client.Topics, group string, messages int64) time.Duration {
	t.Helper()
	ctx, done := context.WithTimeout(t.Context(), 2*time.Minute)
	defer done()
	began := time.Now()
	var got atomic.Int64
	err := topics.Consume(ctx, "orders", group, func(context.Context, *client.Delivery) error {
		if got.Add(1) == messages {
			done()
		}
		return nil
	}, client.Concurrency(64))
	if err != nil || got.Load() < messages {
		t.Fatalf("%s: %d of %d messages, %v", group, got.Load(), messages, err)
	}
	return time.Since(began)
}

// beSlow gives credit for everything, and reads nothing but the first answer.
func beSlow(t *testing.T, addr, group string) {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithInitialWindowSize(64<<10), grpc.WithInitialConnWindowSize(64<<10))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	stream, err := consumerv1.NewConsumerClient(conn).Subscribe(metadata.AppendToOutgoingContext(t.Context(), "x-prism-namespace", "shop"))
	if err != nil {
		t.Fatal(err)
	}
	err = stream.Send(&consumerv1.SubscribeRequest{Open: &consumerv1.SubscribeRequest_Open{Topic: "orders", Group: group}, Credit: 100_000})
	if err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if first, err := stream.Recv(); err != nil || !first.GetOpened() {
		t.Fatalf("%s: %v %v", group, first, err)
	}
}

// resident is the memory of a server, in bytes.
func resident(t *testing.T, s *server) int64 {
	t.Helper()
	resp, err := http.Get("http://" + s.Ops + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "process_resident_memory_bytes "); ok {
			bytes, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return int64(bytes)
		}
	}
	t.Fatal("the server does not say how much memory it has")
	return 0
}
