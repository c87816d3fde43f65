package consumer

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern/topic"
)

// The headers of a dead letter beside its own: why it is there, when it came, how
// often it had failed, and where it stood.
const (
	headerWhy       = "prism-dead-reason"
	headerAt        = "prism-dead-at"
	headerAttempts  = "prism-dead-attempts"
	headerTopic     = "prism-dead-topic"
	headerGroup     = "prism-dead-group"
	headerPartition = "prism-dead-partition"
	headerPosition  = "prism-dead-position"
	headerLeft      = "prism-dead-left-behind" // "true": it was too large to be moved

	storyPrefix = "prism-dead-"
)

const maxWhy = 512

// An undertaker moves records of one group to the dead letters of their topic.
type undertaker struct {
	topics *topic.Topics
	topic  *topic.Open
	group  string
	now    func() time.Time
}

// bury adds the records to the dead letters and puts each outcome into the
// result of the same index. A record that retention has deleted meanwhile is
// buried already.
func (u *undertaker) bury(ctx context.Context, dead []burial, results []error) {
	if strings.HasSuffix(u.topic.Name, topic.DeadSuffix) {
		return // dead letters that fail once more have nowhere to go: they are done with
	}
	letters, err := u.topics.Open(ctx, u.topic.Name+topic.DeadSuffix)
	records := make([]driver.Record, 0, len(dead))
	of := make([]int, 0, len(dead))
	for i := range dead {
		if err != nil {
			results[i] = err
			continue
		}
		s, found, err := reread(ctx, u.topic, dead[i].part, dead[i].at)
		results[i] = err
		if found {
			records, of = append(records, u.letter(s, &dead[i])), append(of, i)
		}
	}
	if len(records) == 0 {
		return
	}
	outcomes := make([]driver.AppendResult, len(records))
	letters.Append(ctx, records, outcomes)
	for k, o := range outcomes {
		if errors.Is(o.Err, errs.PayloadTooLarge) { // with its story it does not fit any more
			o.Err = u.leaveBehind(ctx, letters, records[k])
		}
		results[of[k]] = o.Err
		if errs.ReasonOf(o.Err) == errs.TopicNotFound {
			u.topics.Forget(letters.Name)
		}
	}
}

// leaveBehind buries a record that is too large for it: its story tells where
// it still stands.
func (u *undertaker) leaveBehind(ctx context.Context, letters *topic.Open, r driver.Record) error {
	story := make([]driver.Header, 0, 8)
	for _, h := range r.Headers {
		if strings.HasPrefix(h.Name, storyPrefix) {
			story = append(story, h)
		}
	}
	r.Headers, r.Value = append(story, driver.Header{Name: headerLeft, Value: "true"}), nil
	var outcome [1]driver.AppendResult
	letters.Append(ctx, []driver.Record{r}, outcome[:])
	return outcome[0].Err
}

// letter is the record with the story of its death. Its id says whose death of
// which record it is, so that a repeat is known.
func (u *undertaker) letter(s driver.Stored, b *burial) driver.Record {
	r := s.Record
	r.Partition, r.ID = 0, ""
	if u.topic.Guarantees.Dedup {
		r.ID = fmt.Sprintf("%.32s/%d/%d", u.group, b.part, b.at)
	}
	r.Headers = append(withoutStory(r.Headers),
		driver.Header{Name: headerWhy, Value: printable(b.why)},
		driver.Header{Name: headerAt, Value: u.now().UTC().Format(time.RFC3339Nano)},
		driver.Header{Name: headerAttempts, Value: strconv.Itoa(b.attempts)},
		driver.Header{Name: headerTopic, Value: u.topic.Name},
		driver.Header{Name: headerGroup, Value: u.group},
		driver.Header{Name: headerPartition, Value: strconv.Itoa(b.part)},
		driver.Header{Name: headerPosition, Value: strconv.FormatInt(int64(b.at), 10)},
	)
	return r
}

// withoutStory leaves out what an earlier death has written, and what Append
// does not take of other programs' headers.
func withoutStory(headers []driver.Header) []driver.Header {
	kept := make([]driver.Header, 0, len(headers)+7)
	for _, h := range headers {
		if !strings.HasPrefix(h.Name, storyPrefix) && driver.ValidHeader(h) {
			kept = append(kept, h)
		}
	}
	return kept
}

// printable makes text that a header takes.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	return strings.TrimSpace(s[:min(len(s), maxWhy)])
}

// reread reads one record again. It is not found if it has been deleted.
func reread(ctx context.Context, t driver.Topic, partition int, at driver.Position) (s driver.Stored, found bool, err error) {
	r, err := t.Read(ctx, driver.ReadRequest{Partition: partition, From: at, Limit: 1})
	if err != nil || len(r.Records) == 0 || r.Records[0].Position != at {
		return s, false, err
	}
	return r.Records[0], true, nil
}
