package producer

import (
	"context"
	"net/http"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	producerv1 "github.com/prismgw/prism/api/prism/producer/v1"
	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/envelope/text"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
	"github.com/prismgw/prism/pattern/rest"
)

func routes() []pattern.Route {
	return []pattern.Route{
		{Verb: http.MethodPost, Path: "topics/{topic}/messages", Method: "Publish", Handle: publishBody},
	}
}

// publishBody publishes the body of the request; the fields of the envelope are
// its headers.
func publishBody(ctx context.Context, instance pattern.Instance, w http.ResponseWriter, r *pattern.HTTPRequest) error {
	p, ok := instance.(*producer)
	if !ok {
		return errs.New(errs.Internal, "the instance of another kind")
	}
	e := new(envelopev1.PrismEnvelope)
	if err := text.FromHTTP(e, r.Header); err != nil {
		return err
	}
	var err error
	if e.Payload, err = rest.Body(ctx, w, r, "payload", envelope.MaxSize); err != nil {
		return err
	}
	out, err := p.Publish(ctx, &producerv1.PublishRequest{Topic: r.Names[0], Envelope: e})
	if err != nil {
		return err
	}
	return rest.WriteJSON(w, "application/json", published{out.GetMessageId(), out.GetPartition(), out.GetPosition(), out.GetDuplicate()})
}

// published is a PublishResponse with the partition 0 in it. The position is a
// text, as everywhere: it may be larger than the numbers that JavaScript keeps.
type published struct {
	MessageID string `json:"message_id"`
	Partition int32  `json:"partition"`
	Position  int64  `json:"position,string"`
	Duplicate bool   `json:"duplicate,omitempty"`
}
