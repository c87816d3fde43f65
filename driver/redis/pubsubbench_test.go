package redis_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/redis/rueidis"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/internal/testutil/servers"
)

// BenchmarkPublish compares a publish of 128 bytes with that of the client
// library, to nobody and to one listener, at 1 and 64 callers.
func BenchmarkPublish(b *testing.B) {
	s := servers.RedisWith(b)
	p := topics(b, open(b, driver.Config{URL: s.URL}), orders)
	publish(b, p, "warm", "")
	direct, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{s.Addr}, DisableCache: true, AlwaysPipelining: true})
	must(b, err)
	b.Cleanup(direct.Close)
	payload := strings.Repeat("v", 128)
	for _, callers := range []int{1, 64} {
		for _, one := range []struct {
			name string
			run  func() error
		}{
			{"driver", func() error { return tryPublish(b.Context(), p, "a.b", payload) }},
			{"rueidis", func() error {
				return direct.Do(b.Context(), direct.B().Publish().Channel("orders:carts:a.b").Message(payload).Build()).Error()
			}},
		} {
			b.Run(fmt.Sprintf("%d callers/%s", callers, one.name), func(b *testing.B) {
				b.ReportAllocs()
				if callers == 1 {
					for b.Loop() {
						must(b, one.run())
					}
					return
				}
				b.SetParallelism(callers / 2) // times GOMAXPROCS, which is 2 where this was measured
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if err := one.run(); err != nil {
							b.Error(err)
							return
						}
					}
				})
			})
		}
	}
}

// BenchmarkFanOut publishes a message that a thousand subscriptions of one
// connection take.
func BenchmarkFanOut(b *testing.B) {
	const all = 1000
	for _, filter := range []string{"a.b", "a.*"} {
		b.Run(filter, func(b *testing.B) {
			p := topics(b, open(b, driver.Config{URL: servers.RedisWith(b).URL}), orders)
			listeners := make([]driver.Subscription, all)
			for i := range listeners {
				listeners[i] = listen(b, p, filter)
			}
			events := make([]driver.Event, 1)
			for b.Loop() {
				publish(b, p, "a.b", "payload")
				for _, l := range listeners {
					if _, err := l.Next(b.Context(), events); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(b.N)*all/b.Elapsed().Seconds(), "messages/s")
		})
	}
}

// BenchmarkSubscribe makes and ends a subscription beside a thousand others.
func BenchmarkSubscribe(b *testing.B) {
	for _, filter := range []string{"s%d", "s%d.*"} {
		b.Run(filter, func(b *testing.B) {
			p := topics(b, open(b, driver.Config{URL: servers.RedisWith(b).URL}), orders)
			for i := range 1000 {
				listen(b, p, fmt.Sprintf(filter, i))
			}
			for i := 1000; b.Loop(); i++ {
				s, err := p.Subscribe(b.Context(), driver.SubscribeRequest{Filter: fmt.Sprintf(filter, i)})
				must(b, err)
				must(b, s.Close())
			}
		})
	}
}
