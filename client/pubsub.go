package client

import (
	"context"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	pubsubv1 "github.com/prismgw/prism/api/prism/pubsub/v1"
	"github.com/prismgw/prism/envelope"
)

// PubSub reaches the messages of one namespace: whoever listens at the moment
// hears them, at most once each. It is safe for concurrent use.
//
// A subject is 1 to 128 of A-Z a-z 0-9 _ - in tokens with single dots between:
// "orders.eu.placed". A filter is a subject in which a token may be *, which is
// any one token, and the last may be >, which is one or more.
type PubSub struct{ place }

// Publish publishes a message and returns its id, which is empty where the
// namespace's messages have none (layout native). nil says that the backend
// has taken it for whoever listens, which may be nobody. The proxy fills the id,
// the namespace, the topic and the time where no option does. A Publish whose
// answer is lost fails with errs.OutcomeUnknown and is not repeated.
func (p *PubSub) Publish(ctx context.Context, subject string, payload []byte, opts ...envelope.Option) (id string, err error) {
	if p.invalid != nil {
		return "", p.invalid
	}
	e := &envelopev1.PrismEnvelope{Metadata: new(envelopev1.Metadata), Security: new(envelopev1.Security), Payload: payload}
	for _, opt := range opts {
		opt(e)
	}
	if keys := p.client.opts.payload; keys != nil {
		envelope.Fill(e, p.namespace, subject)
		if err := keys.seal(ctx, e); err != nil {
			return "", err
		}
	}
	answer := new(pubsubv1.PublishResponse)
	err = p.client.run(ctx, &invocation{
		method:   publishMethod,
		request:  &pubsubv1.PublishRequest{Subject: subject, Envelope: e},
		response: answer,
	}, p)
	return answer.GetMessageId(), err
}

func (p *PubSub) try(ctx context.Context, i *invocation) error {
	key, err := p.key(ctx)
	if err != nil {
		return err
	}
	return p.client.unary(ctx, key, i)
}

// A Message is what a subscription hears, or, where Missed is not 0, the place
// of messages that it missed.
type Message struct {
	Subject  string
	Payload  []byte
	Envelope *envelopev1.PrismEnvelope // all that came, Payload included; nil where Missed is not 0
	Missed   int64                     // how many; MissedUnknown: nobody knows

	SealedWith string // the id of the key that the payload was encrypted with; empty: none
	Unreadable error  // why it could not be decrypted; Payload is nil then, and that of the Envelope as it came
}

// MissedUnknown is the number of missed messages that nobody counted, such as
// those of a time without a connection. There may have been none.
const MissedUnknown = -1

// A SubscribeOption is a Group.
type SubscribeOption interface {
	subscribe(r *pubsubv1.SubscribeRequest)
}

// Group shares the messages: each comes to one of the subscriptions that have
// the same group and the same filter. It has the form of one token.
type Group string

func (g Group) subscribe(r *pubsubv1.SubscribeRequest) { r.Group = string(g) }
