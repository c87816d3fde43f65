package kafka_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/prismgw/prism/driver"
)

// Each benchmark has a twin that uses franz-go directly, in the same run and on
// the same broker: the ratio is what the driver costs.

const (
	benchPartitions = 8
	benchSize       = 1000
)

func benchTopic(b *testing.B) (topic driver.Topic, brokers []string, name string) {
	b.Helper()
	k, err := kfake.NewCluster(kfake.NumBrokers(1)) // in memory: no disk that others use too
	must(b, err)
	b.Cleanup(k.Close)
	topic = topicOf(b, open(b, driver.Config{URL: url(k.ListenAddrs()...)}), driver.TopicSpec{Name: "t", Partitions: benchPartitions})
	return topic, k.ListenAddrs(), "orders.t"
}

func benchRecord(i int) driver.Record {
	return driver.Record{Partition: i % benchPartitions, Key: []byte("key"), Value: make([]byte, benchSize)}
}

func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 64} {
		for _, size := range []int{1, 100} {
			topic, brokers, name := benchTopic(b)
			cl := plainClient(b, brokers)
			run := func(b *testing.B, call func(i int) error) {
				b.SetBytes(int64(size * benchSize))
				b.SetParallelism((callers + 1) / 2) // of two processors
				var n atomic.Int64
				if callers == 1 {
					for b.Loop() {
						must(b, call(int(n.Add(1))))
					}
					return
				}
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if err := call(int(n.Add(1))); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			b.Run(fmt.Sprintf("callers=%d/records=%d/prism", callers, size), func(b *testing.B) {
				run(b, func(i int) error {
					records, results := make([]driver.Record, size), make([]driver.AppendResult, size)
					for j := range records {
						records[j] = benchRecord(i)
					}
					topic.Append(b.Context(), records, results)
					return results[0].Err
				})
			})
			b.Run(fmt.Sprintf("callers=%d/records=%d/franz", callers, size), func(b *testing.B) {
				run(b, func(i int) error {
					records := make([]*kgo.Record, size)
					for j := range records {
						r := benchRecord(i)
						records[j] = &kgo.Record{Topic: name, Partition: int32(r.Partition), Key: r.Key, Value: r.Value}
					}
					return cl.ProduceSync(b.Context(), records...).FirstErr()
				})
			})
		}
	}
}

func BenchmarkConsume(b *testing.B) {
	topic, brokers, name := benchTopic(b)
	const spare = 1000 // more than comes at first
	fill := 0
	grow := func(b *testing.B, to int) {
		b.Helper()
		for ; fill < to; fill += 1000 {
			records := make([]driver.Record, 1000)
			for j := range records {
				records[j] = benchRecord(fill + j)
			}
			put(b, topic, records...)
		}
	}
	// What comes with the first records is the making of connections.
	consume := func(b *testing.B, next func() int) {
		b.Helper()
		b.SetBytes(benchSize)
		next()
		b.ResetTimer()
		for got := 0; got < b.N; {
			got += next()
		}
	}
	b.Run("prism", func(b *testing.B) {
		grow(b, b.N+spare)
		m, err := topic.Join(b.Context(), driver.JoinRequest{})
		must(b, err)
		defer func() { must(b, m.Close(context.Background())) }()
		events := make([]driver.LogEvent, 256)
		consume(b, func() (got int) {
			for got == 0 {
				n, err := m.Next(b.Context(), events)
				must(b, err)
				for _, ev := range events[:n] {
					if ev.Kind == driver.Arrived {
						got++
					}
				}
			}
			return got
		})
	})
	b.Run("franz", func(b *testing.B) {
		grow(b, b.N+spare)
		from := map[int32]kgo.Offset{}
		for p := range int32(benchPartitions) {
			from[p] = kgo.NewOffset().AtStart()
		}
		reader := plainClient(b, brokers, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{name: from}))
		defer reader.Close()
		consume(b, func() (got int) {
			for got == 0 {
				got = reader.PollRecords(b.Context(), 256).NumRecords()
			}
			return got
		})
	})
}
