package redis

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/groups"
	"github.com/prismgw/prism/errs"
)

// logPrefix begins the keys of what is known of topics. Behind it the topic
// stands in braces, so that all that is known of one lies in one slot.
const logPrefix = reserved + "log:"

// A topic is a stream for each partition, and beside each of its own streams
// what keeps where records were removed and how many bytes there are.
type topic struct {
	*conn
	key       string // of what is known of it
	channel   string // through which appends are told
	adopted   bool
	spec      driver.TopicSpec // what it has; of an adopted one nothing but Partitions
	streams   []string
	trimmed   []string
	bytes     []string
	maxRecord int
	tail      tail
}

func newTopic(c *conn, name string) *topic {
	t := &topic{conn: c, key: logPrefix + "{" + name + "}", maxRecord: c.maxRecord()}
	t.channel = channelOf(c.set.db, t.key)
	return t
}

func (t *topic) addStream(name string) {
	t.streams = append(t.streams, name)
	t.trimmed = append(t.trimmed, reserved+"trimmed:"+name)
	t.bytes = append(t.bytes, reserved+"bytes:"+name)
	t.tail.add(t)
}

// makeStreams makes the streams that are not there.
func (t *topic) makeStreams(ctx context.Context, c rueidis.Client) error {
	all := make([]execution, len(t.streams))
	for i := range all {
		all[i] = execution{script: partitionScript, keys: t.streams[i : i+1]}
	}
	for _, answer := range t.link.execute(ctx, c, all...) {
		if err := answer.Error(); err != nil {
			return t.link.fail(ctx, err, true)
		}
	}
	return nil
}

// client returns what calls go through.
func (t *topic) client(ctx context.Context) (rueidis.Client, error) { return t.link.ready(ctx) }

// Partitions implements driver.Topic.
func (t *topic) Partitions() int { return len(t.streams) }

// check returns what is wrong with the number of a partition.
func (t *topic) check(partition int) error {
	if partition < 0 || partition >= len(t.streams) {
		return errs.Invalid(errs.Field{Path: "partition", Text: fmt.Sprintf("%d is not below %d, which is how many there are", partition, len(t.streams))})
	}
	return nil
}

// Read implements driver.Topic.
func (t *topic) Read(ctx context.Context, r driver.ReadRequest) (driver.Records, error) {
	if err := t.check(r.Partition); err != nil {
		return driver.Records{}, err
	}
	c, err := t.client(ctx)
	if err != nil {
		return driver.Records{}, t.link.fail(ctx, err, false)
	}
	found := driver.Records{Next: r.From}
	if !r.Time.IsZero() {
		found.Next = atTime(r.Time)
	}
	p, bytes := pace{}, 0
	for len(found.Records) < r.Limit && (r.MaxBytes == 0 || bytes < r.MaxBytes) {
		n := min(p.count(r.MaxBytes-bytes), int64(r.Limit-len(found.Records)))
		entries, err := t.entries(t.link.one(ctx, c, t.xrange(c, r.Partition, found.Next, n)), r.Partition)
		if err != nil {
			return driver.Records{}, t.link.fail(ctx, err, false)
		}
		p.learn(entries)
		for i := range entries {
			found.Records = append(found.Records, entries[i])
			found.Next = entries[i].Position + 1
			if bytes += payload(&entries[i].Record); r.MaxBytes > 0 && bytes >= r.MaxBytes {
				break
			}
		}
		if int64(len(entries)) < n {
			break
		}
	}
	if len(found.Records) == 0 {
		found.Next, err = t.end(ctx, c, r.Partition, found.Next)
	}
	return found, err
}

// end returns where one who has found nothing from a position on goes on.
func (t *topic) end(ctx context.Context, c rueidis.Client, partition int, from driver.Position) (driver.Position, error) {
	stands, err := t.look(ctx, c, []inquiry{{partition: partition}})
	if err != nil {
		return 0, err
	}
	return min(max(from, 1), stands[0].end), nil
}

func (t *topic) xrange(c rueidis.Client, partition int, from driver.Position, count int64) rueidis.Completed {
	return c.B().Xrange().Key(t.streams[partition]).Start(idOf(from)).End("+").Count(count).Build()
}

// entries reads an answer of XRANGE.
func (t *topic) entries(answer rueidis.RedisResult, partition int) ([]driver.Stored, error) {
	messages, err := answer.ToArray()
	if err != nil || len(messages) == 0 {
		return nil, err
	}
	all := make([]driver.Stored, len(messages))
	for i := range messages {
		if all[i], err = stored(&messages[i], partition); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// A pace is how many entries to ask for at once: nobody knows how large they
// are before they have come.
type pace struct {
	last    int64 // asked for
	largest int   // of those that came the last time
}

const (
	firstCount = 16
	mostCount  = 1000
	pageBytes  = 4 << 20
)

// count returns how many entries to ask for where so many bytes are wanted, 0
// for any.
func (p *pace) count(bytes int) int64 {
	if bytes <= 0 || bytes > pageBytes {
		bytes = pageBytes
	}
	n := int64(firstCount)
	if p.last > 0 {
		n = min(4*p.last, mostCount)
	}
	if p.largest > 0 {
		n = min(n, int64(bytes/p.largest+1))
	}
	return n
}

func (p *pace) learn(entries []driver.Stored) {
	if len(entries) == 0 {
		return
	}
	p.last, p.largest = max(int64(len(entries)), 1), 1
	for i := range entries {
		p.largest = max(p.largest, groups.Size(&entries[i].Record))
	}
}

// Join implements driver.Topic.
func (t *topic) Join(ctx context.Context, r driver.JoinRequest) (driver.Member, error) {
	for _, at := range r.At {
		if err := t.check(at.Partition); err != nil {
			return nil, err
		}
	}
	c, err := t.client(ctx)
	if err != nil {
		return nil, t.link.fail(ctx, err, true)
	}
	reads := groups.Topic{Source: newReader(t), Name: t.key, Partitions: len(t.streams), Buffer: r.Buffer, Log: t.slog}
	g := t.group(r.Group)
	if r.Group != "" {
		if known, err := g.known(ctx, c); err != nil {
			return nil, err
		} else if known {
			return t.members.Join(reads, groups.Group{Table: g, Name: r.Group, Member: r.Name, MaxNote: maxNote})
		}
	}
	from, err := t.starts(ctx, c, r.Start)
	if err != nil {
		return nil, err
	}
	if r.Group == "" {
		for _, at := range r.At {
			from[at.Partition] = at.Next
		}
		return t.members.Read(reads, from)
	}
	if err := g.know(ctx, c, from); err != nil {
		return nil, err
	}
	return t.members.Join(reads, groups.Group{Table: g, Name: r.Group, Member: r.Name, MaxNote: maxNote})
}

// starts returns where a start is in each partition.
func (t *topic) starts(ctx context.Context, c rueidis.Client, s driver.Start) ([]driver.Position, error) {
	inquiries := t.everything()
	if s.From == driver.StartTime {
		for i := range inquiries {
			inquiries[i].from = max(atTime(s.Time), 1)
		}
	}
	stands, err := t.look(ctx, c, inquiries)
	if err != nil {
		return nil, err
	}
	from := make([]driver.Position, len(stands))
	for i, x := range stands {
		switch {
		case s.From == driver.StartEarliest:
			from[i] = x.first
		case s.From == driver.StartTime && x.oldest != 0:
			from[i] = x.oldest
		default:
			from[i] = x.end
		}
	}
	return from, nil
}

// Seek implements driver.Topic.
func (t *topic) Seek(ctx context.Context, name string, to []driver.Target) error {
	args := make([]string, 0, 2*len(to))
	for _, target := range to {
		if err := t.check(target.Partition); err != nil {
			return err
		}
		args = append(args, strconv.Itoa(target.Partition), strconv.FormatInt(int64(target.Next), 10))
	}
	_, err := t.group(name).call(ctx, "seek", true, args...)
	t.members.Ring(t.key, name)
	return err
}

// Stat implements driver.Topic.
func (t *topic) Stat(ctx context.Context, name string) ([]driver.PartitionStat, error) {
	c, err := t.client(ctx)
	if err != nil {
		return nil, t.link.fail(ctx, err, false)
	}
	stats := make([]driver.PartitionStat, len(t.streams))
	if name != "" {
		if err := t.group(name).stand(ctx, stats); err != nil {
			return nil, err
		}
	}
	inquiries := t.everything()
	for i := range inquiries {
		if stats[i].Known {
			inquiries[i].from = max(stats[i].Next, 1)
		}
	}
	stands, err := t.look(ctx, c, inquiries)
	if err != nil {
		return nil, err
	}
	for i, x := range stands {
		s := &stats[i]
		s.First, s.End, s.Waiting = x.first, x.end, x.waiting
		if x.oldest != 0 {
			s.Oldest = timeOf(x.oldest)
		}
	}
	return stats, nil
}

// An inquiry asks how a partition stands.
type inquiry struct {
	partition int
	from      driver.Position // count from here; 0: nothing
	bytes     bool
}

// A stream is how a partition stands.
type stream struct {
	first, end driver.Position
	length     int64
	waiting    int64
	oldest     driver.Position // the first one that is waiting; 0: none is
	bytes      int64
	deleted    int64     // how many are there no more
	now        time.Time // by the server's clock
}

func (t *topic) everything() []inquiry {
	all := make([]inquiry, len(t.streams))
	for i := range all {
		all[i].partition = i
	}
	return all
}

// look asks how partitions stand.
func (t *topic) look(ctx context.Context, c rueidis.Client, inquiries []inquiry) ([]stream, error) {
	all := make([]execution, len(inquiries))
	for i, q := range inquiries {
		keys, from := []string{t.streams[q.partition]}, ""
		if q.from != 0 {
			from = idOf(q.from)
		}
		if q.bytes {
			keys = append(keys, t.bytes[q.partition])
		}
		all[i] = execution{lookScript, keys, []string{from}}
	}
	streams := make([]stream, len(all))
	for i, answer := range t.link.execute(ctx, c, all...) {
		texts, err := answer.AsStrSlice()
		switch {
		case rueidis.IsRedisNil(err):
			return nil, errs.TopicNotFound
		case err == nil:
			streams[i], err = readStream(texts)
		}
		if err != nil {
			return nil, t.link.fail(ctx, err, false)
		}
	}
	return streams, nil
}

// readStream reads what look.lua answers.
func readStream(texts []string) (s stream, err error) {
	if len(texts) != 8 {
		return s, errs.New(errs.Internal, "the backend answered an inquiry in an unknown form")
	}
	var last driver.Position
	for i, place := range []*driver.Position{&s.first, &last, nil, nil, &s.oldest} {
		if place == nil || texts[i] == "" {
			continue
		}
		if *place, err = positionOf(texts[i]); err != nil {
			return s, err
		}
	}
	var numbers [5]int64
	for i, text := range slices.Concat(texts[2:4], texts[5:]) {
		if numbers[i], err = strconv.ParseInt(text, 10, 64); err != nil {
			return s, errs.Wrap(err, errs.Internal, "the backend answered an inquiry in an unknown form")
		}
	}
	s.end = last + 1
	s.length, s.waiting, s.bytes, s.deleted, s.now = numbers[0], numbers[1], numbers[2], numbers[3], time.UnixMilli(numbers[4])
	if s.length == 0 {
		s.first = s.end
	}
	return s, nil
}
