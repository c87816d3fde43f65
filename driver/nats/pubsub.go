package nats

import (
	"bytes"
	"context"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

// subjectPrefix returns the beginning of the subjects that a space's messages
// have; like those of its keys, no two spaces meet below it.
func subjectPrefix(bucket string, s driver.Space) string {
	return "prism." + bucket + "." + nameToken(s.Namespace) + "." + nameToken(s.Pattern) + "."
}

// pubsub is one space of core NATS: no stream has to do with it.
type pubsub struct {
	link   *link
	set    *settings
	prefix string
}

var _ driver.PubSub = (*pubsub)(nil)

// Guarantees implements driver.PubSub.
func (p *pubsub) Guarantees() driver.PubSubGuarantees {
	return driver.PubSubGuarantees{Groups: true, MaxPayload: p.set.maxValue, Shared: true}
}

// Publish sends the messages and one more to the connection itself: the server
// handles what comes on one connection in its order, so that when that comes
// back the others have been told to all who listen.
func (p *pubsub) Publish(ctx context.Context, messages []driver.Message, results []error) {
	s, err := p.link.online(ctx)
	c := &call{told: []*nats.Msg{}}
	for i, m := range messages {
		results[i] = nil
		switch most := p.most(s); {
		case err != nil:
		case len(m.Payload) > most:
			results[i] = errs.TooLarge("payload", len(m.Payload), most)
		default: // copied: a call may be written after its context has ended
			c.told = append(c.told, &nats.Msg{Subject: p.prefix + m.Subject, Data: bytes.Clone(m.Payload)})
			c.size += len(m.Payload)
		}
	}
	if err == nil && len(c.told) > 0 {
		_, err = s.ask(ctx, c)
	}
	for i := range results {
		if results[i] == nil {
			results[i] = p.link.fail(ctx, err, true)
		}
	}
}

// most returns how large a payload may be.
func (p *pubsub) most(s *session) int {
	if s == nil {
		return p.set.maxValue
	}
	return min(p.set.maxValue, int(s.nc.MaxPayload()))
}

// online returns a session that is connected, whatever its bucket is like.
func (l *link) online(ctx context.Context) (*session, error) {
	if err := ctx.Err(); err != nil {
		return nil, &lostError{cause: err}
	}
	if s := l.session.Load(); s.alive() {
		return s, nil
	}
	_, err := l.get(ctx)
	if s := l.session.Load(); s.alive() {
		return s, nil
	}
	if err == nil {
		err = &lostError{cause: errEnded}
	}
	return nil, err
}

func (s *session) alive() bool {
	if s == nil {
		return false
	}
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// Subscribe implements driver.PubSub. The subscription is made again on each
// new connection, and what was missed between them nobody knows.
func (p *pubsub) Subscribe(ctx context.Context, r driver.SubscribeRequest) (driver.Subscription, error) {
	live, cancel := context.WithCancel(p.link.ctx) //nolint:contextcheck // ctx bounds the beginning only
	b := &subscription{pubsub: p, Inbox: wrap.NewInbox(r.Buffer, cancel), subject: p.prefix + r.Filter, ctx: live}
	if r.Group != "" {
		// Members with other filters would share with these: a queue is one
		// for all subjects.
		b.queue = r.Group + "." + escape(r.Filter)
	}
	s, err := b.follow(ctx)
	if err == nil {
		err = p.link.work(func() { b.run(s) })
	}
	if err != nil {
		_ = b.Close()
		return nil, p.link.fail(ctx, err, false)
	}
	return b, nil
}

type subscription struct {
	*wrap.Inbox
	*pubsub
	subject, queue string
	ctx            context.Context // ends with the subscription
	sub            *nats.Subscription
}

// run keeps the subscription on a session until it or the link ends.
func (b *subscription) run(s *session) {
	for s != nil {
		select {
		case <-b.ctx.Done():
		case <-s.done:
			b.Miss(driver.MissedUnknown)
		}
		b.leave(s)
		s = b.again()
	}
	b.End(errs.Wrap(errClosed, errs.BackendUnavailable, "the backend cannot be reached"))
}

// again subscribes once more, trying until the subscription ends.
func (b *subscription) again() *session {
	for rest := againAfter; b.ctx.Err() == nil; rest = min(2*rest, againAtMost) {
		ctx, cancel := context.WithTimeout(b.ctx, b.set.connect)
		s, err := b.follow(ctx)
		cancel()
		if err == nil {
			return s
		}
		select {
		case <-b.ctx.Done():
		case <-time.After(rest):
		}
	}
	return nil
}

// follow subscribes on the session of the moment and waits until the server
// has taken note.
func (b *subscription) follow(ctx context.Context) (*session, error) {
	s, err := b.link.online(ctx)
	if err != nil {
		return nil, err
	}
	s.listen(b)
	if b.sub, err = s.nc.QueueSubscribe(b.subject, b.queue, b.take); err == nil {
		err = b.sub.SetPendingLimits(-1, -1) // the inbox has a bound
	}
	if err != nil {
		b.leave(s)
		return nil, &lostError{cause: err}
	}
	if _, err = s.ask(ctx, &call{told: []*nats.Msg{}}); err != nil {
		b.leave(s)
		return nil, err
	}
	return s, nil
}

// leave ends what follow has begun.
func (b *subscription) leave(s *session) {
	s.unlisten(b)
	if b.sub != nil {
		_ = b.sub.Unsubscribe() // fails if the connection has ended
	}
}

func (b *subscription) take(m *nats.Msg) {
	// Other programs may publish here as well; what no subject of ours can be
	// is not told.
	if subject := strings.TrimPrefix(m.Subject, b.prefix); driver.ValidSubject(subject) {
		b.Tell(driver.Message{Subject: subject, Payload: m.Data})
	}
}

// listen remembers a subscription, to be told if the server refuses it.
func (s *session) listen(b *subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listeners == nil {
		s.listeners = make(map[*subscription]struct{})
	}
	s.listeners[b] = struct{}{}
}

func (s *session) unlisten(b *subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, b)
}
