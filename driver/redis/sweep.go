package redis

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// How topics are swept.
const (
	sweepEvery = 2 * time.Second
	sweepTime  = 30 * time.Second // one pass over one topic

	sweepSteps   = 200     // scripts of one pass over one topic
	sweepEntries = 1000    // that one script may remove
	sweepBytes   = 4 << 20 // likewise: a script reads what it removes

	// Of several partitions, that with the oldest entries is cut first, to so
	// much behind the beginning of the next.
	sweepAhead = time.Second
)

// A sweeper removes what the topics of a connection need not keep. Of several
// processes, the first one sweeps a topic; it does no harm if two do.
type sweeper struct {
	link *link
	log  *slog.Logger

	mu      sync.Mutex // guards what follows
	topics  map[string]*topic
	running bool
}

// add makes the sweeper know a topic.
func (s *sweeper) add(t *topic) {
	if t.spec.MaxAge == 0 && t.spec.MaxBytes == 0 && !t.spec.UntilConsumed {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.topics == nil {
		s.topics = make(map[string]*topic)
	}
	s.topics[t.key] = t
	if !s.running {
		s.running = s.link.work(s.run) == nil
	}
}

func (s *sweeper) forget(t *topic) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.topics[t.key] == t {
		delete(s.topics, t.key)
	}
}

func (s *sweeper) all() []*topic {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.topics))
}

func (s *sweeper) run() {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-s.link.ctx.Done():
			return
		case <-tick.C:
		}
		err := s.pass()
		if s.link.ctx.Err() == nil && (err != nil) != failing {
			failing = err != nil
			if failing {
				s.log.Warn("records that are no longer kept cannot be removed", slog.Any("error", err))
			} else {
				s.log.Info("records that are no longer kept are removed again")
			}
		}
	}
}

// pass sweeps all topics that nobody else has just swept.
func (s *sweeper) pass() (err error) {
	topics := s.all()
	ctx, cancel := context.WithTimeout(s.link.ctx, sweepTime)
	defer cancel()
	c, err := s.link.ready(ctx)
	if err != nil {
		return err
	}
	cmds := make([]rueidis.Completed, len(topics))
	for i, t := range topics {
		cmds[i] = c.B().Set().Key(t.key + ":swept").Value("").Nx().PxMilliseconds(sweepEvery.Milliseconds() - 100).Build()
	}
	for i, answer := range s.link.many(ctx, c, cmds) {
		failed := answer.Error()
		if failed == nil {
			failed = s.sweep(ctx, c, topics[i])
		}
		if failed != nil && !rueidis.IsRedisNil(failed) && !isGone(failed) {
			err = failed
		}
	}
	return err
}

func isGone(err error) bool { return errs.ReasonOf(err) == errs.TopicNotFound }

// sweep removes from a topic what it need not keep.
func (s *sweeper) sweep(ctx context.Context, c rueidis.Client, t *topic) error {
	ctx, cancel := context.WithTimeout(ctx, sweepTime)
	defer cancel()
	kept, err := t.link.one(ctx, c, c.B().Hgetall().Key(t.key).Build()).AsStrMap()
	if err != nil {
		return t.link.fail(ctx, err, false)
	}
	if spec, err := readSpec(kept); err != nil || spec != t.spec {
		s.forget(t) // another one of this name was made, which keeps other records
		return nil  //nolint:nilerr // there is nothing to remove
	}
	consumed, err := t.consumed(ctx, kept)
	if err != nil {
		return err
	}
	stands, err := t.measure(ctx, c)
	if err != nil {
		return err
	}
	cut := cutting{topic: t, client: c, steps: sweepSteps}
	for i := range stands {
		below := consumed[i]
		if age := t.spec.MaxAge; age > 0 {
			below = max(below, atTime(stands[i].now.Add(-age)))
		}
		if err := cut.below(ctx, i, &stands[i], below); err != nil {
			return err
		}
	}
	if t.spec.MaxBytes == 0 {
		return nil
	}
	return cut.shrink(ctx)
}

// measure asks how all partitions stand, and how many bytes they have.
func (t *topic) measure(ctx context.Context, c rueidis.Client) ([]stream, error) {
	all := t.everything()
	for i := range all {
		all[i].bytes = true
	}
	return t.look(ctx, c, all)
}

// consumed returns below which position every group is done with a partition,
// 0 where that does not matter.
func (t *topic) consumed(ctx context.Context, kept map[string]string) ([]driver.Position, error) {
	least := make([]driver.Position, len(t.streams))
	if !t.spec.UntilConsumed {
		return least, nil
	}
	first := true
	for field := range kept {
		name, ok := strings.CutPrefix(field, "group:")
		if !ok {
			continue
		}
		stats := make([]driver.PartitionStat, len(least))
		if err := t.group(name).stand(ctx, stats); err != nil {
			return nil, err
		}
		for i, s := range stats {
			if s.Known && (first || s.Next < least[i]) {
				least[i] = s.Next
			}
		}
		first = first && !stats[0].Known
	}
	return least, nil
}

// A cutting is one pass over a topic.
type cutting struct {
	topic  *topic
	client rueidis.Client
	steps  int
}

// entries returns how many entries of a stream a script may remove.
func (s *stream) entries() int64 {
	return min(max(sweepBytes/max(s.bytes/max(s.length, 1), 1), 1), sweepEntries)
}

// below removes what stands before a position.
func (x *cutting) below(ctx context.Context, partition int, s *stream, position driver.Position) error {
	if s.length == 0 || s.first >= position {
		return nil
	}
	for most := s.entries(); x.steps > 0; {
		n, err := x.trim(ctx, partition, position, most)
		if err != nil || n < most {
			return err
		}
	}
	return nil
}

// trim removes the oldest entries before a position, most of them at most.
func (x *cutting) trim(ctx context.Context, partition int, below driver.Position, most int64) (int64, error) {
	t := x.topic
	x.steps--
	end := "(" + idOf(below)
	n, err := t.link.execute(ctx, x.client, execution{trimScript, []string{t.streams[partition], t.trimmed[partition], t.bytes[partition]}, []string{end, strconv.FormatInt(most, 10)}})[0].AsInt64()
	if err != nil {
		return 0, t.link.fail(ctx, err, true)
	}
	return n, nil
}

// shrink removes the oldest entries while the streams take more than they may.
func (x *cutting) shrink(ctx context.Context) error {
	stands, err := x.topic.measure(ctx, x.client)
	for err == nil && x.steps > 0 {
		oldest, next, excess := survey(stands)
		excess -= x.topic.spec.MaxBytes
		if excess <= 0 || oldest < 0 {
			return nil
		}
		s := &stands[oldest]
		most := min(s.entries(), 1+excess/max(s.bytes/s.length, 1))
		below := s.end
		if next >= 0 {
			below = min(below, stands[next].first+driver.Position(sweepAhead.Milliseconds())<<seqBits)
		}
		if _, err = x.trim(ctx, oldest, below, most); err != nil {
			return err
		}
		var again []stream
		if again, err = x.topic.look(ctx, x.client, []inquiry{{partition: oldest, bytes: true}}); err == nil {
			stands[oldest] = again[0]
		}
	}
	return err
}

// survey returns which streams have the oldest entries, -1 for none, and what
// all of them take.
func survey(stands []stream) (oldest, next int, bytes int64) {
	oldest, next = -1, -1
	for i, s := range stands {
		bytes += s.bytes
		switch {
		case s.length == 0:
		case oldest < 0 || s.first < stands[oldest].first:
			oldest, next = i, oldest
		case next < 0 || s.first < stands[next].first:
			next = i
		}
	}
	return oldest, next, bytes
}
