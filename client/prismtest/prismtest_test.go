package prismtest_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/prismgw/prism/client"
	"github.com/prismgw/prism/client/prismtest"
	"github.com/prismgw/prism/errs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNew(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]client.Option{"multiplexed": nil, "unary": {client.WithUnary()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			kv := prismtest.New(t, opts...).KeyValue("test/data")
			ctx := t.Context()
			version, err := kv.Store(ctx, "a", []byte("1"), client.TTL(time.Hour))
			if err != nil || version == "" {
				t.Fatal(version, err)
			}
			e, err := kv.Retrieve(ctx, "a", client.WithExpiry())
			if err != nil || string(e.Value) != "1" || e.Version != version || e.Expires.IsZero() {
				t.Fatalf("%+v %v", e, err)
			}
			if _, err := kv.Store(ctx, "a", []byte("2"), client.IfAbsent()); !errors.Is(err, errs.AlreadyExists) {
				t.Error(err)
			}
			if _, err := kv.Retrieve(ctx, "b"); !errors.Is(err, errs.KeyNotFound) {
				t.Error(err)
			}
			n, err := kv.Increment(ctx, "a", 41)
			if err != nil || n != 42 {
				t.Error(n, err)
			}
			if err := kv.Delete(ctx, "a"); err != nil {
				t.Error(err)
			}
			if there, err := kv.Exists(ctx, "a"); err != nil || there {
				t.Error(there, err)
			}
		})
	}
}

// A reload under load loses no call, on either transport.
func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	const doc = `
kind: Backend
name: b
driver: sqlite
url: sqlite:%s
---
kind: Namespace
name: test
stores: [data]
limits: {concurrency: %d}
auth: {anonymous: read_write}
`
	path := t.TempDir() + "/a.db"
	s := prismtest.Start(t, fmt.Sprintf(doc, path, 1000))
	patient := client.WithTimeout(time.Minute) // of a slow disk, which is not what is tested
	multiplexed, unary := s.Client(t, "test", patient), s.Client(t, "test", patient, client.WithUnary())
	stop := make(chan struct{})
	var calls sync.WaitGroup
	for i := range 16 {
		c := multiplexed
		if i%2 == 0 {
			c = unary
		}
		calls.Go(func() {
			kv := c.KeyValue("test")
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				key := fmt.Sprintf("k%d", i)
				if _, err := kv.Store(t.Context(), key, fmt.Append(nil, n)); err != nil {
					t.Errorf("store: %v", err)
					return
				}
				if e, err := kv.Retrieve(t.Context(), key); err != nil || string(e.Value) != fmt.Sprint(n) {
					t.Errorf("retrieve: %v %q, want %d", err, e.Value, n)
					return
				}
			}
		})
	}
	reloads := 200
	if testing.Short() {
		reloads = 50
	}
	for i := range reloads {
		s.Load(t, fmt.Sprintf(doc, path, 1000+i%2))
	}
	close(stop)
	calls.Wait()
}
