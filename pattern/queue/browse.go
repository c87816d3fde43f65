package queue

import (
	"cmp"
	"context"
	"fmt"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	queuev1 "github.com/prismgw/prism/api/prism/queue/v1"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

const (
	maxBrowse     = 1000
	defaultBrowse = 100

	// browseStep is how many tasks are read at once, so that an answer that is
	// full has not read much more.
	browseStep = 16
)

// Stat implements queuev1.QueueServer.
func (q *queues) Stat(ctx context.Context, r *queuev1.StatRequest) (*queuev1.StatResponse, error) {
	p, err := q.settings.policy(r.GetQueue())
	if err != nil {
		return nil, err
	}
	s, err := q.driver.Stat(ctx, p.name)
	if err != nil {
		return nil, err
	}
	out := &queuev1.StatResponse{Ready: s.Ready, Delayed: s.Delayed, Leased: s.Leased}
	if !s.Oldest.IsZero() {
		out.Oldest = timestamppb.New(s.Oldest)
	}
	if p.dead {
		return out, nil
	}
	dead, err := q.driver.Stat(ctx, p.name+deadSuffix)
	if err != nil {
		return nil, err
	}
	out.DeadLetters = dead.Ready + dead.Delayed + dead.Leased
	return out, nil
}

// Browse implements queuev1.QueueServer.
func (q *queues) Browse(ctx context.Context, r *queuev1.BrowseRequest) (*queuev1.BrowseResponse, error) {
	p, err := q.settings.policy(r.GetQueue())
	if err != nil {
		return nil, err
	}
	limit := cmp.Or(int(r.GetLimit()), defaultBrowse)
	var c checker
	c.ok(limit > 0 && limit <= maxBrowse, "limit", fmt.Sprintf("must be 1 to %d", maxBrowse))
	c.ok(r.GetFrom() >= 0, "from", "must be the next of an earlier answer")
	if len(c) > 0 {
		return nil, errs.Invalid(c...)
	}
	return q.browse(ctx, p.name, driver.Position(r.GetFrom()), limit)
}

func (q *queues) browse(ctx context.Context, name string, from driver.Position, limit int) (*queuev1.BrowseResponse, error) {
	out := new(queuev1.BrowseResponse)
	for size := 0; ; {
		step := min(browseStep, limit-len(out.Messages))
		all, err := q.driver.Browse(ctx, driver.BrowseRequest{Queue: name, From: from, Limit: step})
		if err != nil {
			return nil, err
		}
		for i := range all {
			from = all[i].Position + 1
			size += len(all[i].Value)
			out.Messages = append(out.Messages, q.browsed(name, &all[i]))
			if len(out.Messages) == limit || size >= maxAnswer {
				out.Next = int64(from)
				return out, nil
			}
		}
		if len(all) < step {
			return out, nil
		}
	}
}

func (q *queues) browsed(name string, w *driver.Waiting) *queuev1.Browsed {
	b := &queuev1.Browsed{Place: place(w), Attempts: int32(w.Attempt), Headers: stories(w.Headers)}
	if w.Delay > 0 {
		b.Delay = durationpb.New(w.Delay)
	}
	var err error
	if b.Envelope, err = q.read(name, w.Value); err != nil {
		b.Unreadable = errs.From(err).Message
	}
	return b
}
