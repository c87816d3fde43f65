package wrap

import (
	"context"
	"time"

	"github.com/prismgw/prism/driver"
)

// ObservePubSub is Observe for a PubSub: o is told of what is published and of
// the beginning of each subscription, not of what subscriptions bring.
func ObservePubSub(ps driver.PubSub, backend string, o Observer) driver.PubSub {
	return &observedPubSub{ps, observation{backend, o}}
}

type observedPubSub struct {
	driver.PubSub
	observation
}

func (p *observedPubSub) Publish(ctx context.Context, messages []driver.Message, results []error) {
	began := time.Now()
	p.PubSub.Publish(ctx, messages, results)
	var failures []error
	for i := range results {
		failures = p.named(failures, "publish", &results[i])
	}
	p.observer.Observe(ctx, "publish", len(messages), began, failures)
}

func (p *observedPubSub) Subscribe(ctx context.Context, r driver.SubscribeRequest) (driver.Subscription, error) {
	began := time.Now()
	s, err := p.PubSub.Subscribe(ctx, r)
	p.one(ctx, "subscribe", began, &err)
	return s, err
}

// guardedPubSub is a PubSub behind a guard.
type guardedPubSub struct {
	driver.PubSub
	guard
}

func (p *guardedPubSub) Publish(ctx context.Context, messages []driver.Message, results []error) {
	leave, err := p.enter(ctx)
	if err != nil {
		for i := range results {
			results[i] = err
		}
		return
	}
	defer func() { leave(p.worst(len(results), func(i int) error { return results[i] })) }()
	p.PubSub.Publish(ctx, messages, results)
}

func (p *guardedPubSub) Subscribe(ctx context.Context, r driver.SubscribeRequest) (s driver.Subscription, err error) {
	leave, err := p.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { leave(err) }()
	s, err = p.PubSub.Subscribe(ctx, r)
	return s, err
}
