package consumer

import (
	"cmp"
	"context"
	"slices"

	consumerv1 "github.com/prismgw/prism/api/prism/consumer/v1"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
	"github.com/prismgw/prism/pattern/rest"
	"github.com/prismgw/prism/pattern/topic"
)

// What one message of a Browse holds at most.
const (
	browseRecords = 256
	browseBytes   = 1 << 20
)

// Browse implements consumerv1.ConsumerServer.
func (c *consumer) Browse(r *consumerv1.BrowseRequest, stream consumerv1.Consumer_BrowseServer) error {
	ctx := stream.Context()
	b, err := c.browser(ctx, r, func(all []*consumerv1.Browsed) error {
		return stream.Send(&consumerv1.BrowseResponse{Messages: all})
	})
	if err != nil {
		return err
	}
	begins := make(map[int32]int64, len(b.from))
	for _, at := range b.from {
		begins[int32(at.Partition)] = int64(at.Next)
	}
	if err := stream.Send(&consumerv1.BrowseResponse{Begins: begins}); err != nil {
		return err
	}
	err = b.run(ctx, c, r.GetFollow())
	if why := c.leaving(ctx); why != nil {
		return away(why, stream.Send(&consumerv1.BrowseResponse{GoingAway: true}))
	}
	return err
}

// away is what a stream ends with that was asked to go, and was told so or not.
func away(why, told error) error {
	if told != nil {
		return told
	}
	return ended(why)
}

// A browser reads a topic for one client.
type browser struct {
	topic *topic.Open
	from  []driver.Target // where to go on, in the partitions that are wanted
	tell  func(all []*consumerv1.Browsed) error
	beat  func() error // says something when nothing has come for a while; nil: that is not needed
	left  int64        // messages that the client still wants
}

func (c *consumer) browser(ctx context.Context, r *consumerv1.BrowseRequest, tell func([]*consumerv1.Browsed) error) (*browser, error) {
	if err := topic.CheckName(r.GetTopic()); err != nil {
		return nil, err
	}
	if r.GetLimit() < 0 {
		return nil, errs.Invalid(errs.Field{Path: "limit", Text: "must not be negative"})
	}
	t, err := c.topics.Open(ctx, r.GetTopic())
	if err != nil {
		return nil, err
	}
	for _, p := range r.GetPartitions() {
		if p < 0 || int(p) >= t.Partitions() {
			return nil, errs.Invalid(errs.Field{Path: "partitions", Text: "names one that the topic does not have"})
		}
	}
	from, err := targets(ctx, t, r.GetFrom(), r.GetPartitions())
	return &browser{topic: t, from: from, tell: tell, left: cmp.Or(r.GetLimit(), 1<<62)}, err
}

func (b *browser) run(ctx context.Context, c *consumer, follow bool) error {
	if !follow {
		return b.read(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.life, cancel)()
	return b.follow(ctx, c.name)
}

// leaving returns why the stream that the context belongs to should end,
// although its client has not ended it.
func (c *consumer) leaving(ctx context.Context) error {
	if why := pattern.Leaving(ctx); why != nil {
		return why
	}
	if ctx.Err() == nil && c.life.Err() != nil {
		return errs.Draining
	}
	return nil
}

// read tells what is there now, one partition after the other.
func (b *browser) read(ctx context.Context) error {
	stats, err := b.topic.Stat(ctx, "")
	if err != nil {
		return err
	}
	for i := range b.from {
		at := &b.from[i]
		end := stats[at.Partition].End
		for b.left > 0 && at.Next < end {
			r, err := b.topic.Read(ctx, driver.ReadRequest{
				Partition: at.Partition, From: at.Next, Limit: int(min(b.left, browseRecords)), MaxBytes: browseBytes,
			})
			if err != nil {
				return err
			}
			if len(r.Records) == 0 {
				break
			}
			if err := b.tellAll(r.Records); err != nil {
				return err
			}
		}
	}
	return nil
}

// follow tells what is there and what comes, as a reader without a group.
func (b *browser) follow(ctx context.Context, name string) error {
	m, err := b.topic.Join(ctx, driver.JoinRequest{Name: name, At: b.from, Start: driver.Start{From: driver.StartLatest}, Buffer: minMemory})
	if err != nil {
		return err
	}
	defer func() { _ = m.Close(context.WithoutCancel(ctx)) }() // nothing is kept of it
	events := make([]driver.LogEvent, browseRecords)
	records := make([]driver.Stored, 0, browseRecords)
	for b.left > 0 {
		n, err := b.next(ctx, m, events)
		if err != nil {
			return err
		}
		records = records[:0]
		for i := range events[:n] {
			switch e := &events[i]; {
			case b.place(e.Partition) == nil:
				m.Hold(e.Partition, true)
			case e.Kind == driver.Arrived && int64(len(records)) < b.left:
				records = append(records, e.Stored)
			}
		}
		if err := b.tellAll(records); err != nil {
			return err
		}
	}
	return nil
}

// next waits for events, and says something now and then.
func (b *browser) next(ctx context.Context, m driver.Member, events []driver.LogEvent) (int, error) {
	if b.beat == nil {
		return m.Next(ctx, events)
	}
	waiting, cancel := context.WithTimeout(ctx, rest.Heartbeat)
	defer cancel()
	n, err := m.Next(waiting, events)
	if err != nil && ctx.Err() == nil && waiting.Err() != nil {
		return 0, b.beat()
	}
	return n, err
}

// place returns where the browser is in a partition, nil if that is not wanted.
func (b *browser) place(partition int) *driver.Target {
	i := slices.IndexFunc(b.from, func(t driver.Target) bool { return t.Partition == partition })
	if i < 0 {
		return nil
	}
	return &b.from[i]
}

// tellAll tells records, in messages that are not too large.
func (b *browser) tellAll(records []driver.Stored) error {
	var out []*consumerv1.Browsed
	size := 0
	for i := range records {
		s := &records[i]
		out = append(out, b.browsed(s))
		b.left--
		b.place(s.Partition).Next = s.Position + 1
		if size += len(s.Value); size >= browseBytes || i == len(records)-1 {
			if err := b.tell(out); err != nil {
				return err
			}
			out, size = nil, 0
		}
	}
	return nil
}

func (b *browser) browsed(s *driver.Stored) *consumerv1.Browsed {
	one := &consumerv1.Browsed{Place: place(s), Headers: stories(s.Headers)}
	wire, err := b.topic.Envelope(s)
	if err == nil {
		one.Envelope, err = unmarshal(wire)
	}
	one.Unreadable = whyNot(err)
	return one
}
