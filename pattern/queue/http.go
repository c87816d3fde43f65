package queue

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	queuev1 "github.com/prismgw/prism/api/prism/queue/v1"
	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/envelope/text"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
	"github.com/prismgw/prism/pattern/rest"
)

// maxHTTPWait is shorter than what one request and its answer may take.
const maxHTTPWait = 8 * time.Second

type handler func(q *queues, ctx context.Context, w http.ResponseWriter, r *pattern.HTTPRequest) error

func routes() []pattern.Route {
	route := func(verb, path, method string, h handler, query ...string) pattern.Route {
		return pattern.Route{
			Verb: verb, Path: path, Method: method, Query: query,
			Handle: func(ctx context.Context, instance pattern.Instance, w http.ResponseWriter, r *pattern.HTTPRequest) error {
				q, ok := instance.(*queues)
				if !ok {
					return errs.New(errs.Internal, "the instance of another kind")
				}
				return h(q, ctx, w, r)
			},
		}
	}
	const one = "queues/{queue}"
	return []pattern.Route{
		route(http.MethodPost, one+"/messages", "Enqueue", (*queues).httpEnqueue, "delay"),
		route(http.MethodGet, one+"/messages", "Browse", (*queues).httpBrowse, "from", "limit"),
		route(http.MethodGet, one, "Stat", (*queues).httpStat),
		route(http.MethodPost, one+":receive", "Receive", (*queues).httpReceive, "max_messages", "wait"),
		route(http.MethodPost, one+":acknowledge", "Acknowledge", (*queues).httpAcknowledge),
		route(http.MethodPost, one+":reject", "Reject", (*queues).httpReject),
		route(http.MethodPost, one+":return", "Return", (*queues).httpReturn),
		route(http.MethodPost, one+":extend", "Extend", (*queues).httpExtend),
	}
}

// httpEnqueue enqueues the body of the request; the fields of the envelope are
// its headers.
func (q *queues) httpEnqueue(ctx context.Context, w http.ResponseWriter, r *pattern.HTTPRequest) error {
	task := &queuev1.NewTask{Envelope: new(envelopev1.PrismEnvelope)}
	if err := text.FromHTTP(task.Envelope, r.Header); err != nil {
		return err
	}
	var err error
	if task.Delay, err = durationOf(r, "delay"); err != nil {
		return err
	}
	if task.Envelope.Payload, err = rest.Body(ctx, w, r, "payload", envelope.MaxSize); err != nil {
		return err
	}
	out, err := q.Enqueue(ctx, &queuev1.EnqueueRequest{Queue: r.Names[0], Task: task})
	return write(w, out, err)
}

// durationOf reads a parameter of the query, nil if it is not there.
func durationOf(r *pattern.HTTPRequest, name string) (*durationpb.Duration, error) {
	v := r.URL.Query().Get(name)
	if v == "" {
		return nil, nil //nolint:nilnil // none was given
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 {
		return nil, errs.Invalid(errs.Field{Path: name, Text: "must be a duration such as 5s"})
	}
	return durationpb.New(d), nil
}

// numberOf reads a parameter of the query, 0 if it is not there.
func numberOf(r *pattern.HTTPRequest, name string, bits int) (int64, error) {
	v := r.URL.Query().Get(name)
	if v == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(v, 10, bits)
	if err != nil || n < 1 {
		return 0, errs.Invalid(errs.Field{Path: name, Text: "must be a whole number of at least 1"})
	}
	return n, nil
}

// write answers with a message, or returns why there is none.
func write(w http.ResponseWriter, out proto.Message, err error) error {
	if err != nil {
		return err
	}
	return rest.WriteProto(w, out)
}

func (q *queues) httpReceive(ctx context.Context, w http.ResponseWriter, r *pattern.HTTPRequest) error {
	wait, err := durationOf(r, "wait")
	if err != nil {
		return err
	}
	if wait.AsDuration() > maxHTTPWait {
		wait = durationpb.New(maxHTTPWait)
	}
	limit, err := numberOf(r, "max_messages", 32)
	if err != nil {
		return err
	}
	out, err := q.Receive(ctx, &queuev1.ReceiveRequest{Queue: r.Names[0], MaxMessages: int32(limit), Wait: wait})
	if err != nil {
		return err
	}
	all := make([]json.RawMessage, len(out.GetDeliveries()))
	for i, d := range out.GetDeliveries() {
		if all[i], err = deliveryJSON(d); err != nil {
			return err
		}
	}
	return rest.WriteJSON(w, "application/json", map[string]any{"deliveries": all})
}

// deliveryJSON is the envelope with what belongs to the delivery beside its
// fields.
func deliveryJSON(d *queuev1.Delivery) (json.RawMessage, error) {
	return withFields(d.GetEnvelope(), map[string]any{
		"receipt": d.GetReceipt(), "attempt": d.GetAttempt(), "first_delivered_at": d.GetFirstDeliveredAt().AsTime(),
		"until": d.GetUntil().AsTime(), "place": placeJSON(d.GetPlace()), "headers": d.GetHeaders(), "unreadable": d.GetUnreadable(),
	})
}

func browsedJSON(b *queuev1.Browsed) (json.RawMessage, error) {
	delay := ""
	if b.GetDelay() != nil {
		delay = b.GetDelay().AsDuration().String()
	}
	return withFields(b.GetEnvelope(), map[string]any{
		"place": placeJSON(b.GetPlace()), "attempts": b.GetAttempts(), "delay": delay, "headers": b.GetHeaders(), "unreadable": b.GetUnreadable(),
	})
}

func placeJSON(p *queuev1.Place) map[string]any {
	return map[string]any{"position": p.GetPosition(), "enqueued_at": p.GetEnqueuedAt().AsTime()}
}

// withFields is the envelope, if there is one, with more fields beside its own.
// Empty texts and maps are left out.
func withFields(e *envelopev1.PrismEnvelope, more map[string]any) (json.RawMessage, error) {
	fields := map[string]json.RawMessage{}
	if e != nil {
		raw, err := text.JSON(e)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(raw, &fields); err != nil {
			return nil, err
		}
	}
	for name, v := range more {
		if headers, ok := v.(map[string]string); v == "" || ok && len(headers) == 0 {
			continue
		}
		raw, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		fields[name] = raw
	}
	return json.Marshal(fields)
}

func (q *queues) httpAcknowledge(ctx context.Context, w http.ResponseWriter, r *pattern.HTTPRequest) error {
	in := new(queuev1.AcknowledgeRequest)
	if err := rest.ReadJSON(ctx, w, r, in); err != nil {
		return err
	}
	in.Queue = r.Names[0]
	out, err := q.Acknowledge(ctx, in)
	return write(w, out, err)
}

func (q *queues) httpReject(ctx context.Context, w http.ResponseWriter, r *pattern.HTTPRequest) error {
	in := new(queuev1.RejectRequest)
	if err := rest.ReadJSON(ctx, w, r, in); err != nil {
		return err
	}
	in.Queue = r.Names[0]
	out, err := q.Reject(ctx, in)
	return write(w, out, err)
}

func (q *queues) httpReturn(ctx context.Context, w http.ResponseWriter, r *pattern.HTTPRequest) error {
	in := new(queuev1.ReturnRequest)
	if err := rest.ReadJSON(ctx, w, r, in); err != nil {
		return err
	}
	in.Queue = r.Names[0]
	out, err := q.Return(ctx, in)
	return write(w, out, err)
}

func (q *queues) httpExtend(ctx context.Context, w http.ResponseWriter, r *pattern.HTTPRequest) error {
	in := new(queuev1.ExtendRequest)
	if err := rest.ReadJSON(ctx, w, r, in); err != nil {
		return err
	}
	in.Queue = r.Names[0]
	out, err := q.Extend(ctx, in)
	return write(w, out, err)
}

func (q *queues) httpStat(ctx context.Context, w http.ResponseWriter, r *pattern.HTTPRequest) error {
	out, err := q.Stat(ctx, &queuev1.StatRequest{Queue: r.Names[0]})
	return write(w, out, err)
}

func (q *queues) httpBrowse(ctx context.Context, w http.ResponseWriter, r *pattern.HTTPRequest) error {
	from, err := numberOf(r, "from", 64)
	if err != nil {
		return err
	}
	limit, err := numberOf(r, "limit", 32)
	if err != nil {
		return err
	}
	out, err := q.Browse(ctx, &queuev1.BrowseRequest{Queue: r.Names[0], From: from, Limit: int32(limit)})
	if err != nil {
		return err
	}
	all := make([]json.RawMessage, len(out.GetMessages()))
	for i, b := range out.GetMessages() {
		if all[i], err = browsedJSON(b); err != nil {
			return err
		}
	}
	answer := map[string]any{"messages": all}
	if out.GetNext() > 0 {
		answer["next"] = out.GetNext()
	}
	return rest.WriteJSON(w, "application/json", answer)
}
