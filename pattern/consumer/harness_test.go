package consumer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/memory"
	"github.com/prismgw/prism/errs"
)

// stage is a topic in memory with what happens on it.
type stage struct {
	*testing.T
	log   driver.Log
	topic driver.Topic

	mu   sync.Mutex
	dead []burial
}

func newStage(t *testing.T, partitions int) *stage {
	t.Helper()
	conn, err := memory.Driver().Open(driver.Config{Name: "memory", URL: "memory:"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	b, err := conn.Space(driver.Space{Namespace: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	topic, err := b.Log.Topic(t.Context(), driver.TopicSpec{Name: "orders", Partitions: partitions})
	if err != nil {
		t.Fatal(err)
	}
	return &stage{T: t, log: b.Log, topic: topic}
}

// publish appends n records to each partition, with the keys in turn.
func (s *stage) publish(n int, keys ...string) {
	s.Helper()
	var records []driver.Record
	for p := range s.topic.Partitions() {
		for i := range n {
			r := driver.Record{Partition: p, Value: fmt.Appendf(nil, "%d/%d", p, i)}
			if len(keys) > 0 {
				r.Key = []byte(keys[i%len(keys)])
			}
			records = append(records, r)
		}
	}
	results := make([]driver.AppendResult, len(records))
	s.topic.Append(s.Context(), records, results)
	for _, r := range results {
		if r.Err != nil {
			s.Fatal(r.Err)
		}
	}
}

var plain = policy{
	keyed: true, ackWait: 30 * time.Second, maxDeliveries: 3, backoff: time.Second, maxBackoff: time.Minute,
	memory: func() int { return 1 << 20 },
	held:   func(int) {},
}

// join makes a member of the group. It is stopped at the end of the test,
// unless that has been done.
func (s *stage) join(p policy) *running {
	s.Helper()
	m, err := s.topic.Join(s.Context(), driver.JoinRequest{Group: "billing"})
	if err != nil {
		s.Fatal(err)
	}
	r := start("billing", s.topic, m, s.log.Guarantees().MaxNote, p, s.bury, time.Now, new(counts))
	s.Cleanup(func() {
		select {
		case <-r.stopped:
		default:
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			if err := r.stop(ctx); err != nil {
				s.Error(err)
			}
		}
	})
	return r
}

func (s *stage) bury(_ context.Context, dead []burial, _ []error) {
	s.mu.Lock()
	s.dead = append(s.dead, dead...)
	s.mu.Unlock()
}

// take takes at most n messages, waiting a while for the first.
func (s *stage) take(r *running, n int) []hand {
	s.Helper()
	hands, err := s.try(r, n)
	if err != nil {
		s.Fatal(err)
	}
	return hands
}

// try is take, and returns none if there are none for a minute.
func (s *stage) try(r *running, n int) ([]hand, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	hands, err := r.take(ctx, n, 0, nil)
	if errors.Is(err, errs.Deadline) {
		err = nil
	}
	return hands, err
}

// settle returns the outcome of one settlement.
func (s *stage) settle(r *running, h hand, v verdict, delay time.Duration) error {
	results := make([]error, 1)
	r.settle(s.Context(), []settlement{{receipt: h.receipt, valid: true, verdict: v, delay: delay, why: "test"}}, results)
	return results[0]
}

// must settles and wants that to be well.
func (s *stage) must(r *running, h hand, v verdict, delay time.Duration) {
	s.Helper()
	if err := s.settle(r, h, v, delay); err != nil {
		s.Fatalf("%d/%d: %v", h.receipt.partition, h.receipt.at, err)
	}
}

// stop ends a member, with no time for what is in hand.
func (s *stage) stop(r *running) {
	s.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.stop(ctx); err != nil {
		s.Fatal(err)
	}
}

// left is how many messages the group has to settle.
func (s *stage) left() (n int64) {
	s.Helper()
	stats, err := s.topic.Stat(s.Context(), "billing")
	if err != nil {
		s.Fatal(err)
	}
	for _, one := range stats {
		if !one.Known {
			one.Waiting = int64(one.End - one.First)
		}
		n += one.Waiting
	}
	return n
}

func at(hands []hand) (positions []driver.Position) {
	for _, h := range hands {
		positions = append(positions, h.receipt.at)
	}
	return positions
}
