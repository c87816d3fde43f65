package client

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// BenchmarkRetrieve compares one call per stream with calls that share
// streams. Client and server are in this process; cpu-µs/op is for both.
func BenchmarkRetrieve(b *testing.B) {
	for _, callers := range []int{1, 16, 64, 256} {
		for _, mode := range []string{"unary", "shared"} {
			b.Run(fmt.Sprintf("%s/%d", mode, callers), func(b *testing.B) {
				s := newServer(b)
				s.put("key", string(make([]byte, 128)))
				var opts []Option
				if mode == "unary" {
					opts = append(opts, WithUnary())
				}
				kv := s.dial(b, opts...).KeyValue("")
				drive(b, callers, func(ctx context.Context) error {
					_, err := kv.Retrieve(ctx, "key")
					return err
				})
				if n := s.messages.Load(); n > 0 {
					b.ReportMetric(float64(s.pipelined.Load())/float64(n), "ops/msg")
				}
				b.ReportMetric(float64(s.opened.Load()), "streams")
			})
		}
	}
}

func drive(b *testing.B, callers int, call func(context.Context) error) {
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	if err := call(ctx); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	before := cpu()
	var left atomic.Int64
	left.Store(int64(b.N))
	var group sync.WaitGroup
	for range callers {
		group.Go(func() {
			for left.Add(-1) >= 0 {
				if err := call(ctx); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	b.StopTimer()
	b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-µs/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1000, "kops/s")
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
