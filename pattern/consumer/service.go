package consumer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	consumerv1 "github.com/prismgw/prism/api/prism/consumer/v1"
	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
	"github.com/prismgw/prism/pattern/topic"
)

// Limits of the wire contract, as documented.
const (
	maxReceive     = 1000
	defaultReceive = 10
	maxWait        = 20 * time.Second
	maxSettle      = 1000
	maxAnswer      = 4 << 20 // bytes of messages in one answer, but for the last of them
	maxExtend      = 12 * time.Hour
	maxRejectDelay = 24 * time.Hour

	// answerTime is what an answer takes on its way.
	answerTime = 200 * time.Millisecond

	// arriving is how long after joining a group the messages that are there may
	// need to come: who asks for them at once waits so long at most.
	arriving = time.Second
)

// Receive implements consumerv1.ConsumerServer.
func (c *consumer) Receive(ctx context.Context, r *consumerv1.ReceiveRequest) (*consumerv1.ReceiveResponse, error) {
	limit := cmp.Or(int(r.GetMaxMessages()), defaultReceive)
	if limit < 0 || limit > maxReceive {
		return nil, errs.Invalid(errs.Field{Path: "max_messages", Text: fmt.Sprintf("must be 1 to %d", maxReceive)})
	}
	wait := r.GetWait().AsDuration()
	if wait < 0 || wait > maxWait {
		return nil, errs.Invalid(errs.Field{Path: "wait", Text: "must be at most 20s"})
	}
	m, err := c.member(ctx, groupName{r.GetTopic(), r.GetGroup()})
	if err != nil {
		return nil, err
	}
	defer c.leave(m)
	wait = max(wait, time.Until(m.since.Add(arriving)))
	if at, ok := ctx.Deadline(); ok { // an answer without messages is better than none
		wait = min(wait, max(0, time.Until(at)-answerTime))
	}
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	deliveries, err := m.receive(waiting, limit, maxAnswer, nil)
	if errors.Is(err, errs.Deadline) && ctx.Err() == nil {
		err = nil // the wait is over, the call is not
	}
	if err != nil {
		return nil, err
	}
	return &consumerv1.ReceiveResponse{Deliveries: deliveries}, nil
}

// receive waits for messages. Those that cannot be read go to the dead letters
// and are not among them.
func (m *member) receive(ctx context.Context, limit, bytes int, s *session) ([]*consumerv1.Delivery, error) {
	for {
		hands, err := m.run.take(ctx, limit, bytes, s)
		if err != nil {
			return nil, err
		}
		deliveries, err := m.deliveries(ctx, hands)
		if len(deliveries) > 0 || err != nil {
			return deliveries, err
		}
	}
}

// deliveries makes messages of what is in hand. What does not fit an answer, or
// cannot be had from the backend now, goes back uncounted.
func (m *member) deliveries(ctx context.Context, hands []hand) ([]*consumerv1.Delivery, error) {
	out := make([]*consumerv1.Delivery, 0, len(hands))
	var back []settlement
	var failed error
	size := 0
	for i := range hands {
		h := &hands[i]
		if size >= maxAnswer || failed != nil {
			back = append(back, settlement{receipt: h.receipt, valid: true, verdict: giveBack})
			continue
		}
		d, verdict, err := m.delivery(ctx, h)
		switch {
		case d != nil:
			size += len(h.stored.Value)
			out = append(out, d)
			continue
		case verdict.verdict == giveBack:
			failed = err
		}
		back = append(back, verdict)
	}
	if len(back) > 0 {
		m.run.settle(ctx, back, make([]error, len(back)))
	}
	if len(out) > 0 {
		return out, nil
	}
	return nil, failed
}

// delivery makes a message of one record, or says what to do with it instead.
func (m *member) delivery(ctx context.Context, h *hand) (*consumerv1.Delivery, settlement, error) {
	verdict := settlement{receipt: h.receipt, valid: true}
	if !h.here {
		s, found, err := reread(ctx, m.topic, h.receipt.partition, h.receipt.at)
		if err != nil {
			verdict.verdict = giveBack
			return nil, verdict, err
		}
		if !found { // retention has deleted it
			verdict.verdict = acknowledge
			return nil, verdict, nil
		}
		h.stored = s
	}
	e, err := m.read(&h.stored)
	if err != nil && !topic.ForDeadLetters(m.name.topic, m.name.group) {
		verdict.verdict, verdict.why = refuse, "it cannot be read: "+errs.From(err).Message
		return nil, verdict, nil
	}
	return &consumerv1.Delivery{
		Unreadable: whyNot(err), Envelope: e, Receipt: h.receipt.String(), Attempt: int32(h.attempt),
		FirstDeliveredAt: timestamppb.New(h.first), Place: place(&h.stored), Headers: stories(h.stored.Headers),
	}, verdict, nil
}

// whyNot is what Unreadable says.
func whyNot(err error) string {
	if err == nil {
		return ""
	}
	return errs.From(err).Message
}

// stories are the headers of a dead letter that tell its story, nil for any other
// message.
func stories(headers []driver.Header) map[string]string {
	var out map[string]string
	for _, h := range headers {
		if strings.HasPrefix(h.Name, storyPrefix) {
			if out == nil {
				out = make(map[string]string)
			}
			out[h.Name] = h.Value
		}
	}
	return out
}

func place(s *driver.Stored) *consumerv1.Place {
	return &consumerv1.Place{
		Partition: int32(s.Partition), Position: int64(s.Position),
		AppendedAt: timestamppb.New(s.Time),
	}
}

// Acknowledge implements consumerv1.ConsumerServer.
func (c *consumer) Acknowledge(ctx context.Context, r *consumerv1.AcknowledgeRequest) (*consumerv1.AcknowledgeResponse, error) {
	results, err := c.settleAll(ctx, groupName{r.GetTopic(), r.GetGroup()}, r.GetReceipts(), settlement{verdict: acknowledge})
	return &consumerv1.AcknowledgeResponse{Results: results}, err
}

// Reject implements consumerv1.ConsumerServer.
func (c *consumer) Reject(ctx context.Context, r *consumerv1.RejectRequest) (*consumerv1.RejectResponse, error) {
	how, err := rejection(r.GetHow(), "how")
	if err != nil {
		return nil, err
	}
	results, err := c.settleAll(ctx, groupName{r.GetTopic(), r.GetGroup()}, r.GetReceipts(), how)
	return &consumerv1.RejectResponse{Results: results}, err
}

// Extend implements consumerv1.ConsumerServer.
func (c *consumer) Extend(ctx context.Context, r *consumerv1.ExtendRequest) (*consumerv1.ExtendResponse, error) {
	how, err := extension(r.GetBy(), "by")
	if err != nil {
		return nil, err
	}
	results, err := c.settleAll(ctx, groupName{r.GetTopic(), r.GetGroup()}, r.GetReceipts(), how)
	return &consumerv1.ExtendResponse{Results: results}, err
}

func rejection(r *consumerv1.Reject, path string) (settlement, error) {
	s := settlement{verdict: reject, delay: byPolicy, why: cmp.Or(r.GetReason(), "it was rejected")}
	if len(s.why) > maxWhy {
		return s, errs.Invalid(errs.Field{Path: path + ".reason", Text: fmt.Sprintf("must be at most %d bytes", maxWhy)})
	}
	if r.GetDeadLetter() {
		s.verdict = refuse
	}
	if r.GetDelay() == nil {
		return s, nil
	}
	s.delay = r.GetDelay().AsDuration()
	if s.delay < 0 || s.delay > maxRejectDelay || s.verdict == refuse {
		return s, errs.Invalid(errs.Field{Path: path + ".delay", Text: "must be at most 24h, and goes with no dead_letter"})
	}
	return s, nil
}

func extension(by *durationpb.Duration, path string) (settlement, error) {
	s := settlement{verdict: extend, delay: by.AsDuration()}
	if s.delay < time.Second || s.delay > maxExtend {
		return s, errs.Invalid(errs.Field{Path: path, Text: "must be 1s to 12h"})
	}
	return s, nil
}

// settleAll carries out one verdict on many messages, each by itself.
func (c *consumer) settleAll(ctx context.Context, name groupName, receipts []string, how settlement) ([]*consumerv1.Settled, error) {
	if len(receipts) == 0 || len(receipts) > maxSettle {
		return nil, errs.Invalid(errs.Field{Path: "receipts", Text: fmt.Sprintf("must be 1 to %d", maxSettle)})
	}
	m, err := c.member(ctx, name)
	if err != nil {
		return nil, err
	}
	defer c.leave(m)
	all := make([]settlement, len(receipts))
	for i, text := range receipts {
		all[i] = how
		all[i].receipt, all[i].valid = parseReceipt(text)
	}
	outcomes := make([]error, len(all))
	m.run.settle(ctx, all, outcomes)
	results := make([]*consumerv1.Settled, len(all))
	for i, err := range outcomes {
		results[i] = &consumerv1.Settled{Receipt: receipts[i]}
		if err != nil {
			results[i].Error = pattern.StatusOf(ctx, err)
		}
	}
	return results, nil
}

// Seek implements consumerv1.ConsumerServer.
func (c *consumer) Seek(ctx context.Context, r *consumerv1.SeekRequest) (*consumerv1.SeekResponse, error) {
	if err := topic.CheckName(r.GetTopic()); err != nil {
		return nil, err
	}
	if err := topic.CheckGroup(r.GetGroup()); err != nil {
		return nil, err
	}
	t, err := c.topics.Open(ctx, r.GetTopic())
	if err != nil {
		return nil, err
	}
	to, err := targets(ctx, t, r.GetTo(), nil)
	if err != nil {
		return nil, err
	}
	// The owners hear of it in their own time. Here, nothing from before the
	// seek is handed out after it.
	forsake := c.owned(groupName{r.GetTopic(), r.GetGroup()})
	if err := t.Seek(ctx, r.GetGroup(), to); err != nil {
		return nil, err
	}
	forsake()
	return &consumerv1.SeekResponse{}, nil
}

// targets says where a start is in the partitions, all if none is named.
func targets(ctx context.Context, t *topic.Open, start *consumerv1.Start, only []int32) ([]driver.Target, error) {
	group := start.GetGroup()
	if _, named := start.GetFrom().(*consumerv1.Start_Group); named {
		if err := topic.CheckGroup(group); err != nil {
			return nil, err
		}
	}
	stats, err := t.Stat(ctx, group)
	if err != nil {
		return nil, err
	}
	positions := start.GetPositions().GetByPartition()
	for p, at := range positions {
		if p < 0 || int(p) >= len(stats) || at < 1 || driver.Position(at) > stats[p].End {
			return nil, errs.Invalid(errs.Field{Path: "positions.by_partition", Text: fmt.Sprintf("%d is no place in the topic: it has %d partitions, and a position is 1 to where the partition ends", p, len(stats))})
		}
	}
	var out []driver.Target
	for p := range stats {
		if len(only) > 0 && !has(only, p) {
			continue
		}
		at := driver.Target{Partition: p, Next: stats[p].First}
		switch from := start.GetFrom().(type) {
		case *consumerv1.Start_Latest_:
			at.Next = stats[p].End
		case *consumerv1.Start_Group:
			if stats[p].Known {
				at.Next = max(at.Next, stats[p].Next)
			}
		case *consumerv1.Start_Time:
			r, err := t.Read(ctx, driver.ReadRequest{Partition: p, Time: from.Time.AsTime(), Limit: 1})
			if err != nil {
				return nil, err
			}
			at.Next = r.Next
			if len(r.Records) > 0 {
				at.Next = r.Records[0].Position
			}
		case *consumerv1.Start_Positions_:
			if given, ok := positions[int32(p)]; ok {
				at.Next = driver.Position(given)
			}
		}
		out = append(out, at)
	}
	return out, nil
}

func has(only []int32, p int) bool {
	for _, one := range only {
		if int(one) == p {
			return true
		}
	}
	return false
}

// unmarshal reads an envelope that has been scanned.
func unmarshal(wire []byte) (*envelopev1.PrismEnvelope, error) {
	e := new(envelopev1.PrismEnvelope)
	if err := e.UnmarshalVT(wire); err != nil {
		return nil, errs.Wrap(err, errs.InvalidField, "envelope: is not a valid message")
	}
	return e, nil
}

func (m *member) read(s *driver.Stored) (*envelopev1.PrismEnvelope, error) {
	wire, err := m.topic.Envelope(s)
	if err != nil {
		return nil, err
	}
	return unmarshal(wire)
}
