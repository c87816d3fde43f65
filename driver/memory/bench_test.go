package memory_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/memory"
)

const benchKeys = 100_000

func benchKV(b *testing.B) (driver.KV, []string) {
	b.Helper()
	kv := kvOf(b, open(b, memory.Driver(), driver.Config{URL: "memory:"}))
	keys := make([]string, benchKeys)
	for i := range keys {
		keys[i] = fmt.Sprintf("key-%06d", i*7919%benchKeys)
		apply(b, kv, driver.Op{Kind: driver.Put, Key: keys[i], Value: make([]byte, 128)})
	}
	b.ReportAllocs()
	b.ResetTimer()
	return kv, keys
}

func BenchmarkGet(b *testing.B) {
	kv, keys := benchKV(b)
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, err := kv.Get(context.Background(), keys[i%benchKeys], driver.WithExpiry); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkPut(b *testing.B) {
	for name, ttl := range map[string]time.Duration{"without-ttl": 0, "with-ttl": time.Hour} {
		b.Run(name, func(b *testing.B) {
			kv, keys := benchKV(b)
			b.RunParallel(func(pb *testing.PB) {
				ops, results := []driver.Op{{Kind: driver.Put, Value: make([]byte, 128), TTL: ttl}}, make([]driver.Result, 1)
				for i := 0; pb.Next(); i++ {
					ops[0].Key = keys[i%benchKeys]
					kv.Apply(context.Background(), ops, results)
				}
			})
		})
	}
}

func BenchmarkPutNewAndDelete(b *testing.B) {
	kv, _ := benchKV(b)
	ops := []driver.Op{{Kind: driver.Put}, {Kind: driver.Delete}}
	results := make([]driver.Result, 2)
	for i := range b.N {
		ops[0].Key = fmt.Sprintf("key-%06d-new", i%benchKeys)
		ops[1].Key = ops[0].Key
		kv.Apply(context.Background(), ops, results)
	}
}

func BenchmarkScanPage(b *testing.B) {
	kv, _ := benchKV(b)
	for range b.N {
		if p, err := kv.Scan(context.Background(), driver.ScanRequest{Prefix: "key-05", Limit: 100}); err != nil || len(p.Items) != 100 {
			b.Fatal(len(p.Items), err)
		}
	}
}
