package redis_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	goredis "github.com/redis/go-redis/v9"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/internal/testutil/servers"
)

var benchValue = make([]byte, 128)

func benchRecord(i int) driver.Record {
	return driver.Record{Partition: i % 16, Key: []byte("customer-4711"), Value: benchValue, Headers: []driver.Header{{Name: "type", Value: "order.created"}}}
}

func benchEntry(i int) *goredis.XAddArgs {
	return &goredis.XAddArgs{Stream: benchStreams[i%16], Values: []any{"key", "customer-4711", "h:type", "order.created", "value", benchValue}}
}

var benchStreams = func() (all []string) {
	for i := range 16 {
		all = append(all, "{orders.other."+strconv.Itoa(i)+"}")
	}
	return all
}()

// BenchmarkLogAppend compares appends with XADD of go-redis, and where there
// are several at once with that in its pipelines.
func BenchmarkLogAppend(b *testing.B) {
	s := servers.RedisWith(b)
	conn, other := open(b, driver.Config{URL: s.URL}), plain(b, s.Addr)
	plainTopic := topicOf(b, conn, driver.TopicSpec{Name: "plain", Partitions: 16})
	one := func(topic driver.Topic) func(context.Context, int) error {
		return func(ctx context.Context, i int) error {
			results := make([]driver.AppendResult, 1)
			topic.Append(ctx, []driver.Record{benchRecord(i)}, results)
			return results[0].Err
		}
	}
	theirs := func(ctx context.Context, i int) error { return other.XAdd(ctx, benchEntry(i)).Err() }
	for _, callers := range []int{1, 64} {
		for name, run := range map[string]func(context.Context, int) error{"driver": one(plainTopic), "go-redis": theirs} {
			b.Run(fmt.Sprintf("%d/%s", callers, name), func(b *testing.B) { benchCallers(b, callers, run) })
		}
	}
	b.Run("batches of 64/driver", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; i < b.N; i += 64 {
			records, results := make([]driver.Record, 64), make([]driver.AppendResult, 64)
			for j := range records {
				records[j] = benchRecord(i + j)
			}
			plainTopic.Append(b.Context(), records, results)
			must(b, results[0].Err)
		}
	})
	b.Run("batches of 64/go-redis", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; i < b.N; i += 64 {
			p := other.Pipeline()
			for j := range 64 {
				p.XAdd(b.Context(), benchEntry(i+j))
			}
			_, err := p.Exec(b.Context())
			must(b, err)
		}
	})
}

func benchCallers(b *testing.B, callers int, run func(context.Context, int) error) {
	b.Helper()
	b.ReportAllocs()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for i := int(next.Add(1)); i <= b.N; i = int(next.Add(1)) {
				if err := run(b.Context(), i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkLogConsume compares what a member is given with XREADGROUP NOACK of
// go-redis, of 16 partitions.
func BenchmarkLogConsume(b *testing.B) {
	s := servers.RedisWith(b)
	conn, other := open(b, driver.Config{URL: s.URL}), plain(b, s.Addr)
	topic := topicOf(b, conn, driver.TopicSpec{Name: "other", Partitions: 16})
	const all = 100_000
	for i := 0; i < all; i += 1000 {
		records, results := make([]driver.Record, 1000), make([]driver.AppendResult, 1000)
		for j := range records {
			records[j] = benchRecord(i + j)
		}
		topic.Append(b.Context(), records, results)
		must(b, results[999].Err)
	}
	rate := func(b *testing.B) { b.ReportMetric(float64(b.N)*all/b.Elapsed().Seconds(), "records/s") }
	b.Run("driver", func(b *testing.B) {
		b.ReportAllocs()
		events := make([]driver.LogEvent, 256)
		for b.Loop() {
			m, err := topic.Join(b.Context(), driver.JoinRequest{Group: rand.Text(), Name: "m"})
			must(b, err)
			for n := 0; n < all; {
				k, err := m.Next(b.Context(), events)
				must(b, err)
				for _, e := range events[:k] {
					if e.Kind == driver.Arrived {
						n++
					}
				}
			}
			must(b, m.Close(b.Context()))
		}
		rate(b)
	})
	b.Run("go-redis", func(b *testing.B) {
		b.ReportAllocs()
		streams := append([]string{}, benchStreams...)
		for range benchStreams {
			streams = append(streams, ">")
		}
		for b.Loop() {
			group := rand.Text()
			for _, name := range benchStreams {
				must(b, other.XGroupCreate(b.Context(), name, group, "0").Err())
			}
			for n := 0; n < all; {
				found, err := other.XReadGroup(b.Context(), &goredis.XReadGroupArgs{Group: group, Consumer: "c", Streams: streams, Count: 256, NoAck: true}).Result()
				must(b, err)
				for _, stream := range found {
					n += len(stream.Messages)
				}
			}
		}
		rate(b)
	})
}
