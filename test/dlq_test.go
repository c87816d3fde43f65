package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prismgw/prism/client"
	"github.com/prismgw/prism/internal/testutil/faultproxy"
)

const deadDocuments = `
{kind: Backend, name: mem, driver: memory, url: "memory:"}
---
kind: Namespace
name: shop
topics: [{name: orders, partitions: 1}]
consumers: [{name: billing}]
needs: {durability: none}
auth: {anonymous: read_write}
`

// startWithDead starts a server on which n messages have died.
func startWithDead(t *testing.T, n int) (*server, *client.Topics) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "docs.yaml")
	if err := os.WriteFile(file, []byte(deadDocuments), 0o600); err != nil {
		t.Fatal(err)
	}
	s := startServer(t, dir, "proxy", "--grpc-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0", file)
	c, err := client.Dial(s.GRPC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	topics := c.Topics("shop")
	for i := range n {
		if _, err := topics.Publish(t.Context(), "orders", fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, enough := context.WithCancel(t.Context())
	defer enough()
	go func() { // when all are where they belong
		defer enough()
		dead := 0
		for _, err := range topics.Browse(ctx, "orders.dlq", client.Browsing{Follow: true}) {
			if dead++; dead == n || err != nil {
				return
			}
		}
	}()
	refuse := func(context.Context, *client.Delivery) error { return client.Refuse(errors.New("no")) }
	if err := topics.Consume(ctx, "orders", "billing", refuse); err != nil {
		t.Fatal(err)
	}
	return s, topics
}

func standing(t *testing.T, topics *client.Topics, topic string, from client.Start) (payloads []string) {
	t.Helper()
	for k, err := range topics.Browse(t.Context(), topic, client.Browsing{From: from}) {
		if err != nil {
			t.Fatal(err)
		}
		payloads = append(payloads, string(k.Envelope.GetPayload()))
	}
	return payloads
}

// However often its connection breaks, and if it is killed and started again, a
// redrive makes one message of each dead letter and leaves none.
func TestRedriveThroughBrokenConnections(t *testing.T) {
	t.Parallel()
	const dead = 50 // more would make the group pause
	s, topics := startWithDead(t, dead)
	cut := faultproxy.Listen(t, s.GRPC)
	redrive := func() (*exec.Cmd, *bytes.Buffer) {
		said := new(bytes.Buffer)
		c := exec.Command(filepath.Join(bin, "prismctl"), "--addr", cut.Addr, "-n", "shop", "dlq", "redrive", "orders", "--rate", "25/s")
		c.Stdout, c.Stderr = said, said
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		return c, said
	}
	reaches := func(n int) {
		t.Helper()
		for end := time.Now().Add(patience); len(standing(t, topics, "orders", client.Start{})) < dead+n; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d are not reached", n)
			}
		}
	}
	killed, _ := redrive()
	reaches(10)
	_ = killed.Process.Kill()
	_ = killed.Wait()
	c, said := redrive()
	for n := 15; n < dead; n += 10 {
		reaches(n)
		cut.Set(faultproxy.Refuse)
		cut.Set(faultproxy.Pass)
	}
	if err := c.Wait(); err != nil {
		t.Fatalf("redrive: %v\n%s", err, said)
	}
	want := standing(t, topics, "orders.dlq", client.Start{})
	if again := standing(t, topics, "orders", client.Start{})[dead:]; !slices.Equal(again, want) {
		t.Errorf("redriven: %v, want %v\n%s", again, want, said)
	}
	if left := standing(t, topics, "orders.dlq", client.AtGroup("prism-dlq")); len(left) > 0 {
		t.Errorf("left: %v\n%s", left, said)
	}
	if !strings.Contains(said.String(), "trying again") {
		t.Errorf("no connection has broken, and nothing was shown:\n%s", said)
	}
}
