package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/prismgw/prism/client"
	"github.com/prismgw/prism/envelope"
)

// What is measured of messages: publishing one until it is kept, and until a
// consumer has it as well.
const (
	publish verb = "Publish"
	deliver verb = "End to end"
)

const (
	benchTopic  = "orders"
	roundTopic  = "rounds" // from which all is consumed
	benchGroup  = "billing"
	benchStream = "direct"
)

// The names of contenders, which goals compare.
const (
	nameNATS      = "nats.go"
	nameNATSAsync = "nats.go, asynchronous"
)

func nameCalls(backend string) string  { return "Prism, a call each, " + backend }
func nameStream(backend string) string { return "Prism PublishStream, " + backend }

// newPublisher is the SDK that publishes over streams, or with a call for each.
func newPublisher(name string, server *process, opts ...client.Option) *contender {
	return &contender{name: name, server: server, open: func(ctx context.Context, w workload) (session, error) {
		c, err := client.Dial(server.addrs.GRPC, opts...)
		if err != nil {
			return session{}, err
		}
		topics, val := c.Topics(namespaceName), value(w.size)
		stop := func() { _ = c.Close() }
		if w.verb == publish {
			return session{func(int, int) error {
				_, err := topics.Publish(ctx, benchTopic, val)
				return err
			}, stop}, nil
		}
		a := newArrivals()
		consuming, done := context.WithCancel(ctx)
		var over sync.WaitGroup
		over.Go(func() {
			a.fail(topics.Consume(consuming, roundTopic, benchGroup, func(_ context.Context, d *client.Delivery) error {
				a.came(d.Envelope.GetMetadata().GetCorrelationId())
				return nil
			}, client.Concurrency(w.callers)))
		})
		return session{func(int, int) error {
			return a.round(ctx, func(id string) error {
				_, err := topics.Publish(ctx, roundTopic, val, envelope.WithCorrelationID(id))
				return err
			})
		}, func() { done(); over.Wait(); stop() }}, nil
	}}
}

// newNATS is the broker's own client, with what Prism has of it: a stream of the
// same kind, and an id by which duplicates are known.
func newNATS(name string, server *process, async bool) *contender {
	return &contender{name: name, open: func(ctx context.Context, w workload) (session, error) {
		nc, err := nats.Connect("nats://" + server.addrs.GRPC)
		if err != nil {
			return session{}, err
		}
		js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(4096))
		if err == nil {
			_, err = js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: benchStream, Subjects: []string{benchStream + ".*"}, Storage: jetstream.FileStorage, Duplicates: 10 * time.Minute, AllowDirect: true})
		}
		if err != nil {
			nc.Close()
			return session{}, err
		}
		val := value(w.size)
		message := func(id string) *nats.Msg {
			m := nats.NewMsg(benchStream + ".0")
			m.Data = val
			m.Header.Set(nats.MsgIdHdr, nats.NewInbox())
			m.Header.Set("id", id)
			return m
		}
		send := func(m *nats.Msg) error {
			_, err := js.PublishMsg(ctx, m)
			return err
		}
		if async {
			send = func(m *nats.Msg) error {
				f, err := js.PublishMsgAsync(m)
				if err != nil {
					return err
				}
				select {
				case <-f.Ok():
					return nil
				case err := <-f.Err():
					return err
				}
			}
		}
		if w.verb == publish {
			return session{func(int, int) error { return send(message("")) }, nc.Close}, nil
		}
		a := newArrivals()
		consumer, err := js.CreateOrUpdateConsumer(ctx, benchStream, jetstream.ConsumerConfig{Durable: benchGroup + strconv.Itoa(w.size), AckPolicy: jetstream.AckExplicitPolicy, DeliverPolicy: jetstream.DeliverNewPolicy, MaxAckPending: 4096})
		if err != nil {
			nc.Close()
			return session{}, err
		}
		following, err := consumer.Consume(func(m jetstream.Msg) {
			a.came(m.Headers().Get("id"))
			_ = m.Ack() // what is not acknowledged comes again, to nobody
		})
		if err != nil {
			nc.Close()
			return session{}, err
		}
		return session{func(int, int) error {
			return a.round(ctx, func(id string) error { return send(message(id)) })
		}, func() { following.Stop(); nc.Close() }}, nil
	}}
}

// arrivals are the messages that are on their way.
type arrivals struct {
	next   atomic.Int64
	way    sync.Map // of chan struct{}, by id
	failed chan error
}

func newArrivals() *arrivals { return &arrivals{failed: make(chan error, 1)} }

// came takes note of a message, once: it may come again.
func (a *arrivals) came(id string) {
	if there, ok := a.way.LoadAndDelete(id); ok {
		close(there.(chan struct{})) //nolint:errcheck,forcetypeassert // nothing else is in it
	}
}

func (a *arrivals) fail(err error) {
	if err != nil {
		a.failed <- err
	}
}

// round publishes a message and waits until it has come.
func (a *arrivals) round(ctx context.Context, send func(id string) error) error {
	id, there := fmt.Sprint("b-", a.next.Add(1), "-", time.Now().UnixNano()), make(chan struct{})
	a.way.Store(id, there)
	if err := send(id); err != nil {
		return err
	}
	select {
	case <-there:
		return nil
	case err := <-a.failed:
		a.fail(err)
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(30 * time.Second):
		return errors.New("a message that was published did not come")
	}
}

// messages are Prism on a broker, and that broker's own client.
func (p *plan) messages(w workload) []*contender {
	broker := p.nats()
	if broker == nil {
		return nil
	}
	all := []*contender{newNATS(nameNATSAsync, broker, true)}
	if w.verb == publish {
		all = []*contender{newUnary(nameEcho, "", p.echo(), unaryConns), newNATS(nameNATS, broker, false), newNATS(nameNATSAsync, broker, true)}
	}
	for _, backend := range []string{"nats", "memory"} {
		for _, s := range p.prism(backend) {
			if w.verb == publish {
				all = append(all, newPublisher(nameCalls(backend)+s.suffix, s.server, client.WithUnary()))
			}
			all = append(all, newPublisher(nameStream(backend)+s.suffix, s.server))
		}
	}
	return all
}

func (p *plan) nats() *process { return p.server("NATS", p.bench.startNATS) }
