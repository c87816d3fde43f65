package pubsub

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	pubsubv1 "github.com/prismgw/prism/api/prism/pubsub/v1"
	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/envelope/text"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
	"github.com/prismgw/prism/pattern/rest"
)

// eventStream is the one form in which messages are told over HTTP.
const eventStream = "text/event-stream"

func routes() []pattern.Route {
	return []pattern.Route{
		{Verb: http.MethodPost, Method: "Publish", Handle: on((*service).httpPublish)},
		{Verb: http.MethodGet, Method: "Subscribe", Query: []string{"group"}, Handle: on((*service).httpSubscribe)},
	}
}

func on(h func(*service, context.Context, http.ResponseWriter, *pattern.HTTPRequest) error) func(context.Context, pattern.Instance, http.ResponseWriter, *pattern.HTTPRequest) error {
	return func(ctx context.Context, instance pattern.Instance, w http.ResponseWriter, r *pattern.HTTPRequest) error {
		s, ok := instance.(*service)
		if !ok {
			return errs.New(errs.Internal, "the instance of another kind")
		}
		return h(s, ctx, w, r)
	}
}

// httpPublish publishes the body. Every client says of what type its body is,
// so in the layout native that is no field that was asked for.
func (s *service) httpPublish(ctx context.Context, w http.ResponseWriter, r *pattern.HTTPRequest) error {
	e, fields := new(envelopev1.PrismEnvelope), r.Header
	if s.native {
		fields = fields.Clone()
		fields.Del("Content-Type")
	}
	if err := text.FromHTTP(e, fields); err != nil {
		return err
	}
	var err error
	if e.Payload, err = rest.Body(ctx, w, r, "payload", envelope.MaxSize); err != nil {
		return err
	}
	out, err := s.Publish(ctx, &pubsubv1.PublishRequest{Subject: r.Item, Envelope: e})
	if err != nil {
		return err
	}
	return rest.WriteProto(w, out)
}

func (s *service) httpSubscribe(ctx context.Context, w http.ResponseWriter, r *pattern.HTTPRequest) error {
	if !strings.Contains(r.Header.Get("Accept"), eventStream) {
		return errs.Invalid(errs.Field{Path: "accept", Text: "must be " + eventStream + ", in which form messages come as long as the client listens"})
	}
	groups := r.URL.Query()["group"]
	if len(groups) > 1 {
		return errs.Invalid(errs.Field{Path: "group", Text: "was given more than once; give it once"})
	}
	request := &pubsubv1.SubscribeRequest{Filter: r.Item}
	if len(groups) == 1 {
		request.Group = groups[0]
	}
	return s.listen(ctx, request, &overHTTP{w: w}, rest.Heartbeat)
}

// overHTTP is a listener behind a stream of events.
type overHTTP struct {
	w      http.ResponseWriter
	events *rest.Events
}

func (o *overHTTP) stands() (err error) {
	if o.events, err = rest.NewEvents(o.w); err != nil {
		return err
	}
	o.events.Send("subscribed", []byte("{}"))
	return o.events.Flush()
}

func (o *overHTTP) tell(b *batch) error {
	if m := b.told(); m != nil {
		o.missed(m.Count) //nolint:protogetter // whether it is there matters
	}
	for _, wire := range b.messages {
		data, err := asJSON(wire)
		if err != nil {
			one := uint64(1)
			o.missed(&one)
			continue
		}
		o.events.Send("", data)
	}
	return o.events.Flush()
}

// missed tells how many; null says that nobody knows.
func (o *overHTTP) missed(count *uint64) {
	data, _ := json.Marshal(map[string]*uint64{"count": count}) // cannot fail for this type
	o.events.Send("missed", data)
}

func (o *overHTTP) beat() error {
	o.events.Beat()
	return o.events.Flush()
}

func (o *overHTTP) going() error {
	if o.events == nil {
		return nil
	}
	o.events.Send("going-away", []byte("{}"))
	return o.events.Flush()
}

func asJSON(wire []byte) ([]byte, error) {
	e, err := envelope.Unmarshal(wire)
	if err != nil {
		return nil, err
	}
	return text.JSON(e)
}
