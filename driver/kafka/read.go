package kafka

import (
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

const (
	readBytes = 1 << 20 // of one fetch
	readTries = 20      // fetches in a row that find nothing new before the read gives up
)

// Read implements driver.Topic.
func (t *topic) Read(ctx context.Context, r driver.ReadRequest) (driver.Records, error) {
	if err := t.conn.ready(ctx); err != nil {
		return driver.Records{}, err
	}
	if r.Partition < 0 || r.Partition >= t.partitions {
		return driver.Records{}, errs.New(errs.InvalidField, "the topic has no partition %d", r.Partition)
	}
	found, err := t.read(ctx, r)
	return found, t.conn.fail(ctx, err, false)
}

// read fetches until there is enough, or the end is reached.
func (t *topic) read(ctx context.Context, r driver.ReadRequest) (found driver.Records, err error) {
	from := offset(r.From)
	if !r.Time.IsZero() {
		if from, err = t.offsetAt(ctx, int32(r.Partition), r.Time.UnixMilli()); err != nil {
			return found, err
		}
	}
	size := 0
	for tries := 1; tries <= readTries; tries++ {
		page, end, err := t.page(ctx, int32(r.Partition), from)
		if err != nil {
			if _, ended := endOf(ctx); ended || !passing(err, tries) {
				return found, err
			}
			t.forget()
			if err := pause(ctx, rest(tries)); err != nil {
				return found, err
			}
			continue
		}
		for _, s := range page.Records {
			found.Records = append(found.Records, s)
			found.Next, size = s.Position+1, size+sizeOf(&s.Record)
			if len(found.Records) == r.Limit || r.MaxBytes > 0 && size >= r.MaxBytes {
				return found, nil
			}
		}
		if found.Next = page.Next; end {
			return found, nil
		}
		from, tries = offset(page.Next), 0 // what was there may have been taken back
	}
	return found, kerr.LeaderNotAvailable
}

// passing reports whether an error is one of a topic that moves. A broker that
// does not know a topic may just have become its leader.
func passing(err error, tries int) bool {
	var e *kerr.Error
	if !errors.As(err, &e) || !moved(e.Code) {
		return false
	}
	return tries < 4 || e != kerr.UnknownTopicOrPartition && e != kerr.UnknownTopicID
}

// page fetches once. end says that nothing was behind it; a page without
// records and not at the end only goes on.
func (t *topic) page(ctx context.Context, partition int32, from int64) (page driver.Records, end bool, err error) {
	leader, err := t.leader(ctx, partition)
	if err != nil {
		return page, false, err
	}
	answers, err := t.fetch(ctx, leader, []want{{partition, from}}, readBytes, readBytes, 0)
	if err != nil {
		t.forget()
		return page, false, err
	}
	if len(answers) != 1 {
		return page, false, errs.New(errs.Internal, "the backend answered for other partitions")
	}
	a := &answers[0]
	if a.ErrorCode == kerr.OffsetOutOfRange.Code {
		return t.clamp(ctx, partition, from)
	}
	if err := kerr.ErrorForCode(a.ErrorCode); err != nil {
		return page, false, err
	}
	records, next, err := t.decode(a, from)
	if err != nil {
		return page, false, err
	}
	for _, r := range records {
		page.Records = append(page.Records, decodeRecord(r))
	}
	page.Next = position(next)
	return page, next >= stable(a) || next == from, nil
}

// stable is the offset behind what is committed.
func stable(a *kmsg.FetchResponseTopicPartition) int64 {
	if a.LastStableOffset >= 0 {
		return a.LastStableOffset
	}
	return a.HighWatermark
}

// clamp answers a read from where there is nothing: it goes on at the first
// record, or ends at the end.
func (t *topic) clamp(ctx context.Context, partition int32, from int64) (page driver.Records, end bool, err error) {
	first, last, err := t.bounds(ctx, partition)
	if err != nil {
		return page, false, err
	}
	if from < first {
		return driver.Records{Next: position(first)}, first == last, nil
	}
	return driver.Records{Next: position(min(from, last))}, true, nil
}

// bounds returns the offset of the first record and that behind the last one.
func (r *route) bounds(ctx context.Context, partition int32) (first, last int64, err error) {
	one := []int32{partition}
	ends, err := r.offsets(ctx, atEnd, one)
	if err != nil {
		return 0, 0, err
	}
	starts, err := r.offsets(ctx, atStart, one)
	if err != nil {
		return 0, 0, err
	}
	return starts[partition], max(ends[partition], starts[partition]), nil
}

// offsetAt returns the offset of the first record that is not older than a time,
// or the end.
func (t *topic) offsetAt(ctx context.Context, partition int32, ms int64) (int64, error) {
	one := []int32{partition}
	ends, err := t.offsets(ctx, atEnd, one) // first: what is appended meanwhile is not older
	if err != nil {
		return 0, err
	}
	found, err := t.offsets(ctx, max(ms, 0), one)
	if err != nil {
		return 0, err
	}
	if at := found[partition]; at >= 0 {
		return at, nil
	}
	return ends[partition], nil
}
