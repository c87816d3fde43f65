package drivertest

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

func pubsubKit() *kit {
	return &kit{pubsubChecks(), newPubSubSuite, memoryHarness, pubsubMistakes(), []string{
		"subscriptions are deaf to Close", "subscriptions outlive their connection", "payloads are cut",
		"subjects fold case", "all are one group", "missed messages are not told",
	}}
}

// TestBrokenPubSubsAreFound runs checks against PubSubs with one mistake each.
func TestBrokenPubSubsAreFound(t *testing.T) { pubsubKit().findMistakes(t) }

func TestEachPubSubCheckCanFail(t *testing.T) {
	t.Parallel()
	pubsubKit().canAllFail(t)
}

// hearsay is a PubSub with some of what it does replaced.
type hearsay struct {
	driver.PubSub
	publish   func(ctx context.Context, messages []driver.Message, results []error)
	subscribe func(ctx context.Context, r driver.SubscribeRequest) (driver.Subscription, error)
}

func (h *hearsay) Publish(ctx context.Context, messages []driver.Message, results []error) {
	if h.publish == nil {
		h.PubSub.Publish(ctx, messages, results)
		return
	}
	h.publish(ctx, messages, results)
}

func (h *hearsay) Subscribe(ctx context.Context, r driver.SubscribeRequest) (driver.Subscription, error) {
	if h.subscribe == nil {
		return h.PubSub.Subscribe(ctx, r)
	}
	return h.subscribe(ctx, r)
}

func spoilPubSub(spoil func(*hearsay)) func(*driver.Driver) {
	return spoilBackend(func(_ driver.Space, b *driver.Backend) {
		h := &hearsay{PubSub: b.PubSub}
		spoil(h)
		b.PubSub = h
	})
}

// spoilMessages changes what is published.
func spoilMessages(change func([]driver.Message) []driver.Message) func(*driver.Driver) {
	return spoilPubSub(func(h *hearsay) {
		h.publish = func(ctx context.Context, messages []driver.Message, results []error) {
			h.PubSub.Publish(ctx, change(slices.Clone(messages)), results)
		}
	})
}

// spoilRequest changes what is subscribed to.
func spoilRequest(change func(*driver.SubscribeRequest)) func(*driver.Driver) {
	return spoilPubSub(func(h *hearsay) {
		h.subscribe = func(ctx context.Context, r driver.SubscribeRequest) (driver.Subscription, error) {
			change(&r)
			return h.PubSub.Subscribe(ctx, r)
		}
	})
}

// garbled changes the events of a subscription.
type garbled struct {
	driver.Subscription
	change func([]driver.Event) []driver.Event
}

func (g *garbled) Next(ctx context.Context, events []driver.Event) (int, error) {
	for {
		n, err := g.Subscription.Next(ctx, events)
		if n = len(g.change(events[:n])); n > 0 || err != nil {
			return n, err
		}
	}
}

func spoilEvents(change func([]driver.Event) []driver.Event) func(*driver.Driver) {
	return spoilPubSub(func(h *hearsay) {
		h.subscribe = func(ctx context.Context, r driver.SubscribeRequest) (driver.Subscription, error) {
			s, err := h.PubSub.Subscribe(ctx, r)
			return &garbled{s, change}, err
		}
	})
}

// endless is never closed.
type endless struct{ driver.Subscription }

func (endless) Close() error { return nil }

// immortal does not end with its connection.
type immortal struct{ driver.Subscription }

func (i immortal) Next(ctx context.Context, events []driver.Event) (int, error) {
	n, err := i.Subscription.Next(ctx, events)
	if errs.ReasonOf(err) == errs.BackendUnavailable {
		<-ctx.Done()
		return 0, errs.ReasonOf(ctx.Err())
	}
	return n, err
}

// kept tells who comes what was told last.
func kept(h *hearsay) {
	var mu sync.Mutex
	var last []driver.Message
	h.publish = func(ctx context.Context, messages []driver.Message, results []error) {
		mu.Lock()
		last = messages
		mu.Unlock()
		h.PubSub.Publish(ctx, messages, results)
	}
	h.subscribe = func(ctx context.Context, r driver.SubscribeRequest) (driver.Subscription, error) {
		s, err := h.PubSub.Subscribe(ctx, r)
		mu.Lock()
		defer mu.Unlock()
		h.PubSub.Publish(ctx, last, make([]error, len(last)))
		return s, err
	}
}

// aliased gives out the publisher's own memory.
func aliased(h *hearsay) {
	var mu sync.Mutex
	var given []byte
	h.publish = func(ctx context.Context, messages []driver.Message, results []error) {
		mu.Lock()
		given = messages[len(messages)-1].Payload
		mu.Unlock()
		h.PubSub.Publish(ctx, messages, results)
	}
	h.subscribe = func(ctx context.Context, r driver.SubscribeRequest) (driver.Subscription, error) {
		s, err := h.PubSub.Subscribe(ctx, r)
		return &garbled{s, func(events []driver.Event) []driver.Event {
			mu.Lock()
			defer mu.Unlock()
			for i := range events {
				events[i].Payload = given
			}
			return events
		}}, err
	}
}

func pubsubMistakes() []mistake {
	return []mistake{
		{"subjects fold case", spoilMessages(func(all []driver.Message) []driver.Message {
			for i := range all {
				all[i].Subject = strings.ToLower(all[i].Subject)
			}
			return all
		}), []string{"listen/filters"}},
		{"a star is any text", spoilRequest(func(r *driver.SubscribeRequest) {
			if strings.HasSuffix(r.Filter, "*") {
				r.Filter = strings.TrimSuffix(r.Filter, "*") + ">"
			}
		}), []string{"listen/filters"}},
		{"batches are turned around", spoilMessages(func(all []driver.Message) []driver.Message { slices.Reverse(all); return all }), []string{"listen/order", "listen/everyone-is-told"}},
		{"messages are doubled", spoilMessages(func(all []driver.Message) []driver.Message { return append(all, all...) }), []string{"listen/everyone-is-told"}},
		{"outcomes are left out", spoilPubSub(func(h *hearsay) {
			h.publish = func(ctx context.Context, messages []driver.Message, _ []error) {
				h.PubSub.Publish(ctx, messages, make([]error, len(messages)))
			}
		}), []string{"payloads/any-bytes"}},
		{"payloads are cut", spoilMessages(func(all []driver.Message) []driver.Message {
			for i := range all {
				all[i].Payload = all[i].Payload[:min(len(all[i].Payload), 1<<20)]
			}
			return all
		}), []string{"payloads/any-bytes"}},
		{"messages are kept", spoilPubSub(kept), []string{"listen/nothing-is-kept"}},
		{"messages are the publisher's", spoilPubSub(aliased), []string{"payloads/memory-is-not-shared"}},
		{"groups are ignored", spoilRequest(func(r *driver.SubscribeRequest) { r.Group = "" }), []string{"groups/share"}},
		{"all are one group", spoilRequest(func(r *driver.SubscribeRequest) { r.Group = "g" }), []string{"listen/everyone-is-told", "groups/of-others"}},
		{"missed messages are not told", spoilEvents(func(all []driver.Event) []driver.Event {
			return slices.DeleteFunc(all, func(e driver.Event) bool { return e.Missed != 0 })
		}), []string{"listen/slow-subscriber"}},
		{"buffers have no bounds", spoilRequest(func(r *driver.SubscribeRequest) { r.Buffer = 1 << 30 }), []string{"listen/slow-subscriber"}},
		{"subscriptions are deaf to Close", spoilPubSub(func(h *hearsay) {
			h.subscribe = func(ctx context.Context, r driver.SubscribeRequest) (driver.Subscription, error) {
				s, err := h.PubSub.Subscribe(ctx, r)
				return endless{s}, err
			}
		}), []string{"listen/close", "groups/member-leaves"}},
		{"subscriptions outlive their connection", spoilPubSub(func(h *hearsay) {
			h.subscribe = func(ctx context.Context, r driver.SubscribeRequest) (driver.Subscription, error) {
				s, err := h.PubSub.Subscribe(ctx, r)
				return immortal{s}, err
			}
		}), []string{"listen/connection-closes"}},
		{"subscribers share a space", spoilConn(func(c driver.Conn) driver.Conn { return gossip{c} }), []string{"listen/other-spaces"}},
		{"publishing ignores its context", spoilPubSub(func(h *hearsay) {
			h.publish = func(_ context.Context, messages []driver.Message, results []error) {
				h.PubSub.Publish(context.Background(), messages, results)
			}
		}), []string{"listen/context"}},
	}
}

// gossip has one PubSub for all spaces.
type gossip struct{ driver.Conn }

func (c gossip) Space(s driver.Space) (driver.Backend, error) {
	b, err := c.Conn.Space(s)
	if err != nil {
		return b, err
	}
	all, err := c.Conn.Space(driver.Space{Namespace: "all"})
	b.PubSub = all.PubSub
	return b, err
}
