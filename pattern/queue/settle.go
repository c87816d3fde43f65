package queue

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	consumerv1 "github.com/prismgw/prism/api/prism/consumer/v1"
	queuev1 "github.com/prismgw/prism/api/prism/queue/v1"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
)

const (
	maxSettle      = 1000
	maxRejectDelay = 24 * time.Hour

	// burialLease is how long a task is kept in hand that goes to the dead
	// letters.
	burialLease = 30 * time.Second

	// maxBurials is how many tasks are in memory at once on their way there.
	maxBurials = 16
)

// A receipt is the driver's, with what a rejection needs to know of the task.
// Whoever changes that part deceives nobody but the queue whose tasks they may
// take out anyway: the driver's part alone says which task is settled.
type receipt struct {
	attempt  int
	position driver.Position
	driver   string
}

func (r receipt) String() string {
	return strconv.Itoa(r.attempt) + "." + strconv.FormatInt(int64(r.position), 36) + "." + r.driver
}

// parseReceipt reads what String returns.
func parseReceipt(text string) (r receipt, ok bool) {
	attempt, rest, _ := strings.Cut(text, ".")
	position, own, ok := strings.Cut(rest, ".")
	n, err := strconv.ParseInt(position, 36, 64)
	a, err2 := strconv.Atoi(attempt)
	r = receipt{a, driver.Position(n), own}
	return r, ok && err == nil && err2 == nil && a > 0 && own != ""
}

// Acknowledge implements queuev1.QueueServer.
func (q *queues) Acknowledge(ctx context.Context, r *queuev1.AcknowledgeRequest) (*queuev1.AcknowledgeResponse, error) {
	results, err := q.settleAll(ctx, r.GetQueue(), r.GetReceipts(), driver.Settlement{Kind: driver.Done})
	return &queuev1.AcknowledgeResponse{Results: results}, err
}

// Return implements queuev1.QueueServer.
func (q *queues) Return(ctx context.Context, r *queuev1.ReturnRequest) (*queuev1.ReturnResponse, error) {
	results, err := q.settleAll(ctx, r.GetQueue(), r.GetReceipts(), driver.Settlement{Kind: driver.Return, Uncounted: true})
	return &queuev1.ReturnResponse{Results: results}, err
}

// Extend implements queuev1.QueueServer.
func (q *queues) Extend(ctx context.Context, r *queuev1.ExtendRequest) (*queuev1.ExtendResponse, error) {
	by := r.GetBy().AsDuration()
	if by < driver.MinLease || by > driver.MaxLease {
		return nil, errs.Invalid(errs.Field{Path: "by", Text: "must be 1s to 12h"})
	}
	results, err := q.settleAll(ctx, r.GetQueue(), r.GetReceipts(), driver.Settlement{Kind: driver.Extend, After: by})
	return &queuev1.ExtendResponse{Results: results}, err
}

// settleAll says the same of many tasks, each by itself.
func (q *queues) settleAll(ctx context.Context, name string, receipts []string, how driver.Settlement) ([]*consumerv1.Settled, error) {
	p, err := q.settling(name, receipts)
	if err != nil {
		return nil, err
	}
	s := parse(receipts)
	s.settle(ctx, q.driver, p.name, s.valid(), func(receipt) driver.Settlement { return how })
	return s.answer(ctx), nil
}

func (q *queues) settling(name string, receipts []string) (*policy, error) {
	p, err := q.settings.policy(name)
	if err != nil {
		return nil, err
	}
	if len(receipts) == 0 || len(receipts) > maxSettle {
		return nil, errs.Invalid(errs.Field{Path: "receipts", Text: fmt.Sprintf("must be 1 to %d", maxSettle)})
	}
	return p, nil
}

// Settlements are what one request says of many tasks.
type settlements struct {
	texts    []string
	receipts []receipt
	errs     []error // the outcomes
}

func parse(texts []string) *settlements {
	s := &settlements{texts, make([]receipt, len(texts)), make([]error, len(texts))}
	for i, text := range texts {
		var ok bool
		if s.receipts[i], ok = parseReceipt(text); !ok {
			s.errs[i] = errs.StaleReceipt
		}
	}
	return s
}

// valid are the indices of those that have not failed.
func (s *settlements) valid() (of []int) {
	for i, err := range s.errs {
		if err == nil {
			of = append(of, i)
		}
	}
	return of
}

// settle settles some of the tasks in one call.
func (s *settlements) settle(ctx context.Context, d driver.Queue, name string, of []int, how func(receipt) driver.Settlement) {
	if len(of) == 0 {
		return
	}
	all := make([]driver.Settlement, len(of))
	for k, i := range of {
		all[k] = how(s.receipts[i])
		all[k].Receipt = s.receipts[i].driver
	}
	results := make([]error, len(of))
	d.Settle(ctx, name, all, results)
	for k, i := range of {
		s.errs[i] = results[k]
	}
}

func (s *settlements) answer(ctx context.Context) []*consumerv1.Settled {
	out := make([]*consumerv1.Settled, len(s.texts))
	for i, err := range s.errs {
		out[i] = &consumerv1.Settled{Receipt: s.texts[i]}
		if err != nil {
			out[i].Error = pattern.StatusOf(ctx, err)
		}
	}
	return out
}

// Reject implements queuev1.QueueServer.
func (q *queues) Reject(ctx context.Context, r *queuev1.RejectRequest) (*queuev1.RejectResponse, error) {
	p, err := q.settling(r.GetQueue(), r.GetReceipts())
	if err != nil {
		return nil, err
	}
	if err := checkReject(p, r.GetHow()); err != nil {
		return nil, err
	}
	s := parse(r.GetReceipts())
	var again, dead []int
	for _, i := range s.valid() {
		if !p.dead && (r.GetHow().GetDeadLetter() || s.receipts[i].attempt >= p.maxDeliveries) {
			dead = append(dead, i)
		} else {
			again = append(again, i)
		}
	}
	s.settle(ctx, q.driver, p.name, again, func(one receipt) driver.Settlement {
		return driver.Settlement{Kind: driver.Return, After: p.pause(r.GetHow().GetDelay(), one.attempt)}
	})
	for len(dead) > 0 {
		some := dead[:min(len(dead), maxBurials)]
		q.reject(ctx, p, s, some, cmp.Or(r.GetHow().GetReason(), whyRejected))
		dead = dead[len(some):]
	}
	return &queuev1.RejectResponse{Results: s.answer(ctx)}, nil
}

func checkReject(p *policy, how *consumerv1.Reject) error {
	var c checker
	c.ok(len(how.GetReason()) <= maxWhy, "how.reason", fmt.Sprintf("must be at most %d bytes", maxWhy))
	c.ok(!p.dead || !how.GetDeadLetter(), "how.dead_letter", "has no meaning here: these are the dead letters; acknowledge what is done with")
	if how.GetDelay() != nil {
		d := how.GetDelay().AsDuration()
		c.ok(d >= 0 && d <= maxRejectDelay && !how.GetDeadLetter(), "how.delay", "must be at most 24h, and goes with no dead_letter")
	}
	if len(c) > 0 {
		return errs.Invalid(c...)
	}
	return nil
}

// pause is how long a task rests that has failed so often: as long as was asked
// for, or else the backoff, doubled each time, less up to a fifth.
func (p *policy) pause(asked *durationpb.Duration, failures int) time.Duration {
	if asked != nil {
		return asked.AsDuration()
	}
	d := p.maxBackoff
	if shift := failures - 1; shift < 30 {
		d = min(d, p.backoff<<shift)
	}
	return d - time.Duration(rand.Int64N(int64(d)/5+1))
}

// reject moves tasks to the dead letters that have been rejected for the last
// time. First their leases are made longer, which only their holder can do.
func (q *queues) reject(ctx context.Context, p *policy, s *settlements, of []int, why string) {
	s.settle(ctx, q.driver, p.name, of, func(receipt) driver.Settlement {
		return driver.Settlement{Kind: driver.Extend, After: burialLease}
	})
	var dead []corpse
	var whose []int
	for _, i := range of {
		if s.errs[i] != nil {
			continue
		}
		r := s.receipts[i]
		w, found, err := q.find(ctx, p.name, r.position)
		s.errs[i] = err
		if found { // else it is settled already
			dead, whose = append(dead, corpse{w, r.driver, why, r.attempt}), append(whose, i)
		}
	}
	if len(dead) == 0 {
		return
	}
	results := make([]error, len(dead))
	q.bury(ctx, p, dead, results)
	for k, i := range whose {
		s.errs[i] = results[k]
	}
}

// find reads one task again.
func (q *queues) find(ctx context.Context, name string, at driver.Position) (w driver.Waiting, found bool, err error) {
	all, err := q.driver.Browse(ctx, driver.BrowseRequest{Queue: name, From: at, Limit: 1})
	if err != nil || len(all) == 0 || all[0].Position != at {
		return w, false, err
	}
	return all[0], true, nil
}
