package drivertest

import (
	"context"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// filler is the value of a record that nobody is told of: behind each record
// stands one, so that positions have gaps.
const filler = "a gap"

func isFiller(r *driver.Record) bool { return string(r.Value) == filler }

// sparse leaves gaps between positions, counts them as waiting, and knows
// neither duplicates nor who has consumed.
func sparse(f *fable) {
	own := f.Log
	f.guarantees = func(g *driver.LogGuarantees) { g.Sparse, g.Dedup, g.UntilConsumed = true, false, false }
	f.Log = pickLog{own, func(spec *driver.TopicSpec) driver.Log {
		if spec.Dedup > 0 || spec.UntilConsumed {
			return unable{own}
		}
		return own
	}}
	topic := f.topic
	f.topic = func(spec driver.TopicSpec, t *tale) {
		if topic != nil {
			topic(spec, t)
		}
		inner := *t
		leaveGaps(t, &inner)
	}
}

// unable has no topics.
type unable struct{ driver.Log }

func (unable) Topic(context.Context, driver.TopicSpec) (driver.Topic, error) {
	return nil, errs.Unsupported
}

func leaveGaps(t, inner *tale) {
	t.append = func(ctx context.Context, records []driver.Record, results []driver.AppendResult) {
		var all []driver.Record
		for _, r := range records {
			all = append(all, r, driver.Record{Partition: r.Partition, Value: []byte(filler)})
		}
		told := make([]driver.AppendResult, len(all))
		inner.Append(ctx, all, told)
		for i := range results {
			results[i] = told[2*i]
		}
	}
	t.read = func(ctx context.Context, r driver.ReadRequest) (driver.Records, error) {
		return readGaps(ctx, inner, r)
	}
	t.stat = func(ctx context.Context, group string) ([]driver.PartitionStat, error) {
		all, err := inner.Stat(ctx, group)
		for p := range all {
			s := &all[p]
			first, err := readGaps(ctx, inner, driver.ReadRequest{Partition: p, From: s.First, Limit: 1})
			if s.First = s.End; err == nil && len(first.Records) > 0 {
				s.First = first.Records[0].Position
			}
			oldest, err := readGaps(ctx, inner, driver.ReadRequest{Partition: p, From: s.Next, Limit: 1})
			if s.Known && err == nil && len(oldest.Records) > 0 {
				s.Oldest = oldest.Records[0].Time
			} else if len(oldest.Records) == 0 {
				s.Oldest = time.Time{}
			}
		}
		return all, err
	}
	t.join = func(ctx context.Context, r driver.JoinRequest) (driver.Member, error) {
		m, err := inner.Join(ctx, r)
		if err != nil {
			return nil, err
		}
		skipped := false // before a gap that nobody is told of
		return &puppet{Member: m, events: func(all []driver.LogEvent) []driver.LogEvent {
			told := all[:0]
			for _, ev := range all {
				skipped = skipped || ev.Skipped != 0
				if ev.Kind == driver.Arrived && isFiller(&ev.Stored.Record) {
					continue
				}
				if ev.Skipped = 0; skipped && ev.Kind == driver.Arrived {
					ev.Skipped, skipped = driver.SkippedUnknown, false
				}
				told = append(told, ev)
			}
			return told
		}}, nil
	}
}

// readGaps reads one record after the other and passes gaps over.
func readGaps(ctx context.Context, t *tale, r driver.ReadRequest) (found driver.Records, err error) {
	one := r
	one.Limit, one.MaxBytes = 1, 0
	size := 0
	for len(found.Records) < r.Limit && (r.MaxBytes == 0 || size < r.MaxBytes) {
		p, err := t.Read(ctx, one)
		if err != nil {
			return found, err
		}
		found.Next = p.Next
		if len(p.Records) == 0 {
			break
		}
		if s := p.Records[0]; !isFiller(&s.Record) {
			found.Records = append(found.Records, s)
			size += sizeOf(s.Record)
		}
		one.From = p.Next
		one.Time = time.Time{}
	}
	return found, nil
}

// TestSparseLog runs all checks on a technology whose positions have gaps, and
// that knows no duplicates.
func TestSparseLog(t *testing.T) {
	t.Parallel()
	manyAtOnce(t, logChecks(), checkName, func(t *testing.T, c check) {
		h := logHarness()
		spoilLog(sparse)(&h.Driver)
		if said := patientKit().record(t, h, c.name); len(said) > 0 {
			t.Errorf("fails: %q", said)
		}
	})
}
