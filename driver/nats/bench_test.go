package nats_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/servers"
)

// BenchmarkAgainstKeyValue compares the driver with the KeyValue of the client
// library, on the same bucket, at 64 callers with values of 128 bytes.
func BenchmarkAgainstKeyValue(b *testing.B) {
	s := servers.NATSWith(b)
	kv := space(b, open(b, driver.Config{URL: s.URL}), orders)
	put(b, kv, "k0", "warm")
	other := bucket(b, s.URL)
	value := []byte(strings.Repeat("v", 128))
	const keys = 1024
	for i := range keys {
		put(b, kv, "k"+strconv.Itoa(i), string(value))
	}
	name := func(i uint64) string { return "k" + strconv.FormatUint(i%keys, 10) }
	for _, one := range []struct {
		name string
		run  func(ctx context.Context, i uint64) error
	}{
		{"get/driver", func(ctx context.Context, i uint64) error {
			_, err := kv.Get(ctx, name(i), driver.ValueOnly)
			return err
		}},
		{"get/nats.go", func(ctx context.Context, i uint64) error {
			_, err := other.Get(ctx, "orders.carts."+name(i))
			return err
		}},
		{"put/driver", func(ctx context.Context, i uint64) error {
			return apply(ctx, kv, driver.Op{Kind: driver.Put, Key: name(i), Value: value}).Err
		}},
		{"put/nats.go", func(ctx context.Context, i uint64) error {
			_, err := other.Put(ctx, "orders.carts."+name(i), value)
			return err
		}},
		{"add/driver", func(ctx context.Context, i uint64) error {
			return apply(ctx, kv, driver.Op{Kind: driver.Add, Key: "n" + strconv.FormatUint(i%keys, 10), Delta: 1}).Err
		}},
		{"get and update/driver", func(ctx context.Context, i uint64) error {
			e, err := kv.Get(ctx, name(i), driver.ValueOnly)
			if err == nil {
				err = apply(ctx, kv, driver.Op{Kind: driver.Put, Key: name(i), Value: value, IfVersion: e.Version}).Err
			}
			if errs.ReasonOf(err) == errs.VersionMismatch {
				return nil
			}
			return err
		}},
		{"get and update/nats.go", func(ctx context.Context, i uint64) error {
			e, err := other.Get(ctx, "orders.carts."+name(i))
			if err == nil {
				_, err = other.Update(ctx, "orders.carts."+name(i), value, e.Revision())
			}
			if errors.Is(err, jetstream.ErrKeyExists) {
				return nil
			}
			return err
		}},
		{"create/driver", func(ctx context.Context, i uint64) error {
			return apply(ctx, kv, driver.Op{Kind: driver.Put, Key: "new" + strconv.FormatUint(i, 10), Value: value, IfAbsent: true}).Err
		}},
		{"create/nats.go", func(ctx context.Context, i uint64) error {
			_, err := other.Create(ctx, "orders.carts.also"+strconv.FormatUint(i, 10), value)
			return err
		}},
	} {
		var next atomic.Uint64
		b.Run(one.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(32) // times GOMAXPROCS, which is 2 where this was measured
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					if err := one.run(b.Context(), next.Add(1)); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

// bucket returns the KeyValue of another program on the default bucket.
func bucket(t testing.TB, url string, options ...nats.Option) jetstream.KeyValue {
	t.Helper()
	nc, err := nats.Connect(url, options...)
	must(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	must(t, err)
	kv, err := js.KeyValue(t.Context(), "prism")
	must(t, err)
	return kv
}
