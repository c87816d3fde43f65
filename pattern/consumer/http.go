package consumer

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	consumerv1 "github.com/prismgw/prism/api/prism/consumer/v1"
	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/envelope/text"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
	"github.com/prismgw/prism/pattern/rest"
)

const eventStream = "text/event-stream"

// defaultBrowse is how many messages are browsed over HTTP unless it is said.
const defaultBrowse = 100

type handler func(c *consumer, ctx context.Context, w http.ResponseWriter, r *pattern.HTTPRequest) error

func routes() []pattern.Route {
	route := func(verb, path, method string, h handler, query ...string) pattern.Route {
		return pattern.Route{
			Verb: verb, Path: path, Method: method, Query: query,
			Handle: func(ctx context.Context, instance pattern.Instance, w http.ResponseWriter, r *pattern.HTTPRequest) error {
				c, ok := instance.(*consumer)
				if !ok {
					return errs.New(errs.Internal, "the instance of another kind")
				}
				return h(c, ctx, w, r)
			},
		}
	}
	const group = "topics/{topic}/groups/{group}"
	return []pattern.Route{
		route(http.MethodPost, group+":receive", "Receive", (*consumer).httpReceive, "max_messages", "wait"),
		route(http.MethodPost, group+":acknowledge", "Acknowledge", (*consumer).httpAcknowledge),
		route(http.MethodPost, group+":reject", "Reject", (*consumer).httpReject),
		route(http.MethodPost, group+":extend", "Extend", (*consumer).httpExtend),
		route(http.MethodPost, group+":seek", "Seek", (*consumer).httpSeek),
		route(http.MethodGet, "topics/{topic}/messages", "Browse", (*consumer).httpBrowse, "from", "partition", "limit"),
	}
}

func (c *consumer) httpReceive(ctx context.Context, w http.ResponseWriter, r *pattern.HTTPRequest) error {
	q := r.URL.Query()
	in := &consumerv1.ReceiveRequest{Topic: r.Names[0], Group: r.Names[1]}
	if v := q.Get("max_messages"); v != "" {
		n, err := strconv.ParseInt(v, 10, 32)
		if err != nil || n < 1 {
			return errs.Invalid(errs.Field{Path: "max_messages", Text: "must be 1 to 1000"})
		}
		in.MaxMessages = int32(n)
	}
	if v := q.Get("wait"); v != "" {
		d, err := time.ParseDuration(v)
		if err != nil || d < 0 {
			return errs.Invalid(errs.Field{Path: "wait", Text: "must be a duration such as 5s"})
		}
		in.Wait = durationpb.New(min(d, maxHTTPWait))
	}
	out, err := c.Receive(ctx, in)
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

// maxHTTPWait is shorter than what one request and its answer may take.
const maxHTTPWait = 8 * time.Second

// deliveryJSON is the envelope with what belongs to the delivery beside its
// fields.
func deliveryJSON(d *consumerv1.Delivery) (json.RawMessage, error) {
	return envelopeJSON(d.GetEnvelope(), d.GetUnreadable(), map[string]any{
		"receipt": d.GetReceipt(), "attempt": d.GetAttempt(), "first_delivered_at": d.GetFirstDeliveredAt().AsTime(),
		"place": placeJSON(d.GetPlace()), "headers": d.GetHeaders(),
	})
}

func browsedJSON(b *consumerv1.Browsed) (json.RawMessage, error) {
	return envelopeJSON(b.GetEnvelope(), b.GetUnreadable(), map[string]any{"place": placeJSON(b.GetPlace()), "headers": b.GetHeaders()})
}

// envelopeJSON is an envelope, or why it cannot be read, with more fields.
func envelopeJSON(e *envelopev1.PrismEnvelope, unreadable string, more map[string]any) (json.RawMessage, error) {
	if unreadable != "" {
		more["unreadable"] = unreadable
		return withFields(func() ([]byte, error) { return []byte("{}"), nil }, more)
	}
	return withFields(func() ([]byte, error) { return text.JSON(e) }, more)
}

// placeJSON writes the position as a text: it may be larger than the numbers
// that JavaScript keeps.
func placeJSON(p *consumerv1.Place) map[string]any {
	return map[string]any{"partition": p.GetPartition(), "position": strconv.FormatInt(p.GetPosition(), 10), "appended_at": p.GetAppendedAt().AsTime()}
}

func withFields(inner func() ([]byte, error), more map[string]any) (json.RawMessage, error) {
	raw, err := inner()
	if err != nil {
		return nil, err
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, err
	}
	for name, v := range more {
		if headers, ok := v.(map[string]string); ok && len(headers) == 0 {
			continue
		}
		if fields[name], err = json.Marshal(v); err != nil {
			return nil, err
		}
	}
	return json.Marshal(fields)
}

func (c *consumer) httpAcknowledge(ctx context.Context, w http.ResponseWriter, r *pattern.HTTPRequest) error {
	in := new(consumerv1.AcknowledgeRequest)
	if err := rest.ReadJSON(ctx, w, r, in); err != nil {
		return err
	}
	in.Topic, in.Group = r.Names[0], r.Names[1]
	out, err := c.Acknowledge(ctx, in)
	if err != nil {
		return err
	}
	return rest.WriteProto(w, out)
}

func (c *consumer) httpReject(ctx context.Context, w http.ResponseWriter, r *pattern.HTTPRequest) error {
	in := new(consumerv1.RejectRequest)
	if err := rest.ReadJSON(ctx, w, r, in); err != nil {
		return err
	}
	in.Topic, in.Group = r.Names[0], r.Names[1]
	out, err := c.Reject(ctx, in)
	if err != nil {
		return err
	}
	return rest.WriteProto(w, out)
}

func (c *consumer) httpExtend(ctx context.Context, w http.ResponseWriter, r *pattern.HTTPRequest) error {
	in := new(consumerv1.ExtendRequest)
	if err := rest.ReadJSON(ctx, w, r, in); err != nil {
		return err
	}
	in.Topic, in.Group = r.Names[0], r.Names[1]
	out, err := c.Extend(ctx, in)
	if err != nil {
		return err
	}
	return rest.WriteProto(w, out)
}

func (c *consumer) httpSeek(ctx context.Context, w http.ResponseWriter, r *pattern.HTTPRequest) error {
	in := new(consumerv1.SeekRequest)
	if err := rest.ReadJSON(ctx, w, r, in); err != nil {
		return err
	}
	in.Topic, in.Group = r.Names[0], r.Names[1]
	out, err := c.Seek(ctx, in)
	if err != nil {
		return err
	}
	return rest.WriteProto(w, out)
}

// httpBrowse answers what is there, or goes on as events for who asks for that.
func (c *consumer) httpBrowse(ctx context.Context, w http.ResponseWriter, r *pattern.HTTPRequest) error {
	in, err := browseRequest(r)
	if err != nil {
		return err
	}
	if strings.Contains(r.Header.Get("Accept"), eventStream) {
		return c.httpFollow(ctx, w, in)
	}
	if in.Limit == 0 {
		in.Limit = defaultBrowse
	}
	if in.Limit > maxReceive {
		return errs.Invalid(errs.Field{Path: "limit", Text: "must be at most 1000"})
	}
	all := []json.RawMessage{}
	b, err := c.browser(ctx, in, func(some []*consumerv1.Browsed) error {
		for _, one := range some {
			raw, err := browsedJSON(one)
			if err != nil {
				return err
			}
			all = append(all, raw)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := b.read(ctx); err != nil {
		return err
	}
	return rest.WriteJSON(w, "application/json", map[string]any{"messages": all, "next": b.cursor()})
}

func (c *consumer) httpFollow(ctx context.Context, w http.ResponseWriter, in *consumerv1.BrowseRequest) error {
	var events *rest.Events
	var sent *browser // as far as events have been sent
	b, err := c.browser(ctx, in, func(some []*consumerv1.Browsed) error {
		for _, one := range some {
			raw, err := browsedJSON(one)
			if err != nil {
				return err
			}
			sent.place(int(one.GetPlace().GetPartition())).Next = driver.Position(one.GetPlace().GetPosition() + 1)
			events.ID(sent.cursor())
			events.Send("", raw)
		}
		return events.Flush()
	})
	if err != nil {
		return err
	}
	sent = &browser{from: slices.Clone(b.from)}
	if events, err = rest.NewEvents(w); err != nil {
		return err
	}
	if err := events.Flush(); err != nil { // the headers: a client knows that it listens
		return err
	}
	b.beat = func() error {
		events.Beat()
		return events.Flush()
	}
	err = b.run(ctx, c, true)
	if why := c.leaving(ctx); why != nil {
		events.Send("going-away", []byte("{}"))
		return away(why, events.Flush())
	}
	return err
}

// cursor says where to go on, as the query parameter from takes it.
func (b *browser) cursor() string {
	places := make([]string, len(b.from))
	for i, at := range b.from {
		places[i] = strconv.Itoa(at.Partition) + ":" + strconv.FormatInt(int64(at.Next), 10)
	}
	return strings.Join(places, ",")
}

func browseRequest(r *pattern.HTTPRequest) (*consumerv1.BrowseRequest, error) {
	q := r.URL.Query()
	in := &consumerv1.BrowseRequest{Topic: r.Names[0]}
	from := q.Get("from")
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		from = id
	}
	var err error
	if in.From, err = startOf(from); err != nil {
		return nil, err
	}
	for _, v := range q["partition"] {
		p, err := strconv.ParseInt(v, 10, 32)
		if err != nil {
			return nil, errs.Invalid(errs.Field{Path: "partition", Text: "must be the number of a partition"})
		}
		in.Partitions = append(in.Partitions, int32(p))
	}
	if v := q.Get("limit"); v != "" {
		if in.Limit, err = strconv.ParseInt(v, 10, 64); err != nil || in.Limit < 1 {
			return nil, errs.Invalid(errs.Field{Path: "limit", Text: "must be a whole number of at least 1"})
		}
	}
	return in, nil
}

// startOf reads where to begin: earliest, latest, a time, or the cursor of an
// earlier answer.
func startOf(s string) (*consumerv1.Start, error) {
	switch s {
	case "", "earliest":
		return nil, nil //nolint:nilnil // where everything begins
	case "latest":
		return &consumerv1.Start{From: &consumerv1.Start_Latest_{Latest: new(consumerv1.Start_Latest)}}, nil
	}
	if at, err := time.Parse(time.RFC3339, s); err == nil {
		return &consumerv1.Start{From: &consumerv1.Start_Time{Time: timestamppb.New(at)}}, nil
	}
	places := map[int32]int64{}
	for one := range strings.SplitSeq(s, ",") {
		partition, position, _ := strings.Cut(one, ":")
		p, err := strconv.ParseInt(partition, 10, 32)
		at, err2 := strconv.ParseInt(position, 10, 64)
		if err != nil || err2 != nil {
			return nil, errs.Invalid(errs.Field{Path: "from", Text: "must be earliest, latest, a time such as 2026-01-31T12:00:00Z, or the next of an earlier answer"})
		}
		places[int32(p)] = at
	}
	return &consumerv1.Start{From: &consumerv1.Start_Positions_{Positions: &consumerv1.Start_Positions{ByPartition: places}}}, nil
}
