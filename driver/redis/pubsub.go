package redis

import (
	"context"
	"strconv"

	"github.com/redis/rueidis"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

// maxMessage is what Redis, as it comes, lets wait for a subscriber however
// long that takes (client-output-buffer-limit pubsub 32mb 8mb 60): it cuts off
// one for whom more waits, and then everything that waits is lost.
const maxMessage = 8 << 20

// channelPrefix returns the beginning of the channels of a space: that of its
// keys. Redis does not keep the channels of its databases apart, so those of
// any other than 0 begin with its number. No names of spaces make the two meet:
// the one has two colons, the other three.
func channelPrefix(db int, s driver.Space) string {
	if db == 0 {
		return wrap.KeyPrefix(s)
	}
	return strconv.Itoa(db) + ":" + wrap.KeyPrefix(s)
}

// pubsub is the messages of one space.
type pubsub struct {
	link   *link
	prefix string // of channels
	max    int    // bytes of a payload
}

var _ driver.PubSub = (*pubsub)(nil)

// Guarantees implements driver.PubSub.
func (p *pubsub) Guarantees() driver.PubSubGuarantees {
	return driver.PubSubGuarantees{MaxPayload: p.max, Shared: true}
}

// Publish implements driver.PubSub. All messages go to one server, one after
// the other.
func (p *pubsub) Publish(ctx context.Context, messages []driver.Message, results []error) {
	at, err := p.link.station(ctx)
	if err != nil {
		err = p.link.fail(ctx, err, true)
	}
	cmds := make([]rueidis.Completed, 0, len(messages))
	for i, m := range messages {
		switch {
		case len(m.Payload) > p.max:
			results[i] = errs.TooLarge("payload", len(m.Payload), p.max)
		case err != nil:
			results[i] = err
		default: // copied: a call that was left may still send it
			results[i] = nil
			cmds = append(cmds, at.client.B().Publish().Channel(p.prefix+m.Subject).Message(string(m.Payload)).Build())
		}
	}
	if len(cmds) == 0 {
		return
	}
	answers := p.link.tell(ctx, at, cmds)
	for i := range results {
		if results[i] != nil {
			continue
		}
		if err := answers[0].Error(); err != nil {
			results[i] = p.link.fail(ctx, err, true)
		}
		answers = answers[1:]
	}
}

// tell carries out commands at a station, and leaves it if it fails to.
func (l *link) tell(ctx context.Context, at *station, cmds []rueidis.Completed) (answers []rueidis.RedisResult) {
	if len(cmds) == 1 {
		answers = []rueidis.RedisResult{l.one(ctx, at.client, cmds[0])}
	} else {
		answers = l.many(ctx, at.client, cmds)
	}
	if !answered(answers) && ctx.Err() == nil {
		l.leave(at)
	}
	return answers
}

// Subscribe implements driver.PubSub.
func (p *pubsub) Subscribe(ctx context.Context, r driver.SubscribeRequest) (driver.Subscription, error) {
	if r.Group != "" {
		return nil, errs.New(errs.Unsupported, "subscriptions on Redis cannot share messages; subscribe without a group")
	}
	if err := ctx.Err(); err != nil {
		return nil, p.link.fail(ctx, err, false)
	}
	h := p.link.hub
	l := &listener{filter: r.Filter, source: sourceOf(p.prefix, r.Filter), stood: make(chan error, 1)}
	l.Inbox = wrap.NewInbox(r.Buffer, func() { h.remove(l) })
	err := h.add(l)
	if err == nil {
		select {
		case err = <-l.stood:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if err != nil {
		_ = l.Close()
		return nil, p.link.fail(ctx, err, false)
	}
	return l, nil
}
