package nats_test

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/internal/testutil/servers"
)

// benchTopic is a topic of 16 partitions, and its stream in the client library.
func benchTopic(b *testing.B) (driver.Topic, jetstream.JetStream, string) {
	b.Helper()
	s := servers.NATSWith(b)
	topic := topicOf(b, open(b, driver.Config{URL: s.URL}), driver.TopicSpec{Name: "t", Partitions: 16})
	js, err := jetstream.New(connect(b, s.URL), jetstream.WithPublishAsyncMaxPending(4096))
	must(b, err)
	return topic, js, "orders_t"
}

var benchValue = make([]byte, 128)

func benchRecord(i int) driver.Record {
	return driver.Record{Partition: i % 16, Key: []byte("customer-4711"), Value: benchValue, Headers: []driver.Header{{Name: "type", Value: "order.created"}}}
}

func benchMessage(i int) *nats.Msg {
	return &nats.Msg{Subject: subjects[i%16], Data: benchValue, Header: nats.Header{"Prism-Key": {"customer-4711"}, "type": {"order.created"}}}
}

var subjects = func() (all []string) {
	for i := range 16 {
		all = append(all, "orders.t."+strconv.Itoa(i))
	}
	return all
}()

// BenchmarkLogAppend compares appends with those of the client library.
func BenchmarkLogAppend(b *testing.B) {
	topic, js, _ := benchTopic(b)
	one := func(ctx context.Context, i int) error {
		results := make([]driver.AppendResult, 1)
		topic.Append(ctx, []driver.Record{benchRecord(i)}, results)
		return results[0].Err
	}
	other := func(ctx context.Context, i int) error {
		_, err := js.PublishMsg(ctx, benchMessage(i))
		return err
	}
	for _, x := range []struct {
		name    string
		callers int
		run     func(ctx context.Context, i int) error
	}{
		{"1/driver", 1, one}, {"1/nats.go", 1, other}, {"64/driver", 64, one}, {"64/nats.go", 64, other},
	} {
		b.Run(x.name, func(b *testing.B) {
			b.ReportAllocs()
			var next atomic.Int64
			var wg sync.WaitGroup
			for range x.callers {
				wg.Go(func() {
					for i := int(next.Add(1)); i <= b.N; i = int(next.Add(1)) {
						if err := x.run(b.Context(), i); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
	b.Run("batches of 64/driver", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; i < b.N; i += 64 {
			records, results := make([]driver.Record, 64), make([]driver.AppendResult, 64)
			for j := range records {
				records[j] = benchRecord(i + j)
			}
			topic.Append(b.Context(), records, results)
			for _, r := range results {
				must(b, r.Err)
			}
		}
	})
	b.Run("batches of 64/nats.go", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; i < b.N; i += 64 {
			acks := make([]jetstream.PubAckFuture, 64)
			for j := range acks {
				var err error
				acks[j], err = js.PublishMsgAsync(benchMessage(i + j))
				must(b, err)
			}
			for _, a := range acks {
				select {
				case <-a.Ok():
				case err := <-a.Err():
					b.Fatal(err)
				}
			}
		}
	})
}

// BenchmarkLogConsume compares what a member takes with an ordered consumer of
// the client library.
func BenchmarkLogConsume(b *testing.B) {
	topic, js, stream := benchTopic(b)
	const there = 200_000
	records, results := make([]driver.Record, 1000), make([]driver.AppendResult, 1000)
	for i := 0; i < there; i += len(records) {
		for j := range records {
			records[j] = benchRecord(i + j)
		}
		topic.Append(b.Context(), records, results)
		must(b, results[0].Err)
	}
	b.Run("driver", func(b *testing.B) {
		b.ReportAllocs()
		events := make([]driver.LogEvent, 1000)
		for taken := 0; taken < b.N; {
			m, err := topic.Join(b.Context(), driver.JoinRequest{Name: "m"})
			must(b, err)
			for came := 0; came < there && taken < b.N; {
				n, err := m.Next(b.Context(), events)
				must(b, err)
				for _, e := range events[:n] {
					if e.Kind == driver.Arrived {
						came++
						taken++
					}
				}
			}
			must(b, m.Close(b.Context()))
		}
	})
	b.Run("nats.go", func(b *testing.B) {
		b.ReportAllocs()
		for taken := 0; taken < b.N; {
			c, err := js.OrderedConsumer(b.Context(), stream, jetstream.OrderedConsumerConfig{})
			must(b, err)
			it, err := c.Messages(jetstream.PullMaxMessages(5000))
			must(b, err)
			for came := 0; came < there && taken < b.N; came++ {
				_, err := it.Next()
				must(b, err)
				taken++
			}
			it.Stop()
		}
	})
}
