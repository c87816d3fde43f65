package nats

import (
	"context"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// How much one request asks for. A server reads it in one go, during which it
// looks at nothing else that comes on the connection.
const (
	pullCount = 1000
	pullBytes = 1 << 20
)

// A pull is a request for several messages of a stream on its way, which any
// replica may answer, also one that is behind.
type pull struct {
	call
	messages []*nats.Msg
	end      bool // none follows, as far as whoever answered knows
	pending  int64
	err      error
}

// pull puts a request on its way.
func (s *session) pull(ctx context.Context, stream string, get messageGet) (*pull, error) {
	body, err := get.encode()
	if err != nil {
		return nil, err
	}
	p := &pull{call: call{subject: api + "DIRECT.GET." + stream, data: body}}
	p.more = p.take
	return p, s.begin(ctx, &p.call)
}

// take takes one message and tells whether it was the last.
func (p *pull) take(m *nats.Msg) bool {
	status := ""
	if len(m.Data) == 0 { // a record may have a header of this name
		status = latest(m.Header, "Status")
	}
	if status == "" || len(m.Header[jetstream.SequenceHeader]) > 0 {
		p.messages = append(p.messages, m)
		return false
	}
	switch status {
	case "204":
		p.pending, p.err = strconv.ParseInt(latest(m.Header, pendingHeader), 10, 64)
		p.end = p.pending == 0
	case "404":
		p.end = true
	case "503":
		p.err = errNoLeader
	default:
		p.err = fmt.Errorf("status %s", status)
	}
	return true
}

// found waits for a pull and returns the records of its partition. end says
// that nothing follows, as far as whoever answered knows.
func (t *topic) found(ctx context.Context, s *session, p *pull, partition int) (found []driver.Stored, end bool, err error) {
	if _, err := s.wait(ctx, &p.call); err != nil {
		return nil, false, err
	}
	if p.err != nil {
		return nil, false, p.err
	}
	found = make([]driver.Stored, 0, len(p.messages))
	for _, m := range p.messages {
		if latest(m.Header, jetstream.StreamHeader) != t.stream {
			t.leading.Store(true) // a mirror has answered, or the message's headers cannot be read
		}
		r, err := directStored(m, partition)
		if err != nil {
			return found, true, nil // it is asked for by itself, like whatever follows an end
		}
		found = append(found, r)
	}
	return found, p.end || len(found) == 0, nil
}

// following asks the leader for the record that stands next; ok is false if
// there is none.
func (t *topic) following(ctx context.Context, s *session, partition int, get messageGet) (r driver.Stored, ok bool, err error) {
	get.NextFor, get.Batch, get.MaxBytes = t.filters[partition], 0, 0
	r, err = t.leader(ctx, s, partition, get)
	if errs.ReasonOf(err) == errs.KeyNotFound {
		return r, false, nil
	}
	return r, err == nil, err
}

// Read implements driver.Topic.
func (t *topic) Read(ctx context.Context, r driver.ReadRequest) (driver.Records, error) {
	if err := t.check(r.Partition); err != nil {
		return driver.Records{}, err
	}
	s, err := t.link.online(ctx)
	if err != nil {
		return driver.Records{}, t.link.fail(ctx, err, false)
	}
	found, err := t.read(ctx, s, &r)
	if err != nil {
		return driver.Records{}, t.fail(ctx, s, err, false)
	}
	return found, nil
}

func (t *topic) read(ctx context.Context, s *session, r *driver.ReadRequest) (driver.Records, error) {
	next := max(r.From, 1)
	get := messageGet{Seq: uint64(next)}
	c := collection{request: r}
	if !r.Time.IsZero() || t.leading.Load() { // a replica may still have what the leader has deleted
		first, end, err := t.ends(ctx, s)
		if err != nil {
			return driver.Records{}, err
		}
		next = max(next, first)
		get, c.first = messageGet{Seq: uint64(next)}, first
		if !r.Time.IsZero() {
			next, get = end, messageGet{Time: &r.Time}
		}
	}
	for end := false; !end && !c.full(); {
		found, last, err := t.page(ctx, s, r.Partition, get, &c)
		if err != nil {
			return driver.Records{}, err
		}
		c.add(found)
		if end = last; len(found) > 0 {
			next = found[len(found)-1].Position + 1
			get = messageGet{Seq: uint64(next)}
		}
	}
	if n := len(c.records); n > 0 {
		return driver.Records{Records: c.records, Next: c.records[n-1].Position + 1}, nil
	}
	_, end, err := t.ends(ctx, s)
	return driver.Records{Next: min(next, end)}, err
}

// ends are the positions of the stream's first record, and of the next one that
// comes, as the leader knows them.
func (t *topic) ends(ctx context.Context, s *session) (first, end driver.Position, err error) {
	info, err := t.state(ctx, s)
	if err != nil {
		return 0, 0, err
	}
	return max(driver.Position(info.State.FirstSeq), 1), driver.Position(info.State.LastSeq) + 1, nil
}

// page reads some records. end says that nothing follows.
func (t *topic) page(ctx context.Context, s *session, partition int, get messageGet, c *collection) (found []driver.Stored, end bool, err error) {
	get.NextFor, get.Batch, get.MaxBytes = t.filters[partition], min(c.room(), pullCount), pullBytes
	if most := c.request.MaxBytes; most > 0 {
		get.MaxBytes = min(most-c.bytes, pullBytes)
	}
	p, err := s.pull(ctx, t.stream, get)
	if err != nil {
		return nil, false, err
	}
	found, end, err = t.found(ctx, s, p, partition)
	if err != nil || !end || !t.leading.Load() {
		return found, end, err
	}
	if n := len(found); n > 0 {
		get = messageGet{Seq: uint64(found[n-1].Position) + 1}
	}
	r, more, err := t.following(ctx, s, partition, get)
	if more {
		found = append(found, r)
	}
	return found, !more, err
}

// collection gathers the records of a read until it is full.
type collection struct {
	request *driver.ReadRequest
	first   driver.Position // what stands before it is not wanted
	records []driver.Stored
	bytes   int
}

func (c *collection) full() bool {
	return c.room() <= 0 || c.request.MaxBytes > 0 && c.bytes >= c.request.MaxBytes
}

func (c *collection) room() int { return c.request.Limit - len(c.records) }

func (c *collection) add(found []driver.Stored) {
	for i := range found {
		if c.full() {
			return
		}
		if found[i].Position < c.first {
			continue
		}
		c.records = append(c.records, found[i])
		c.bytes += payload(&found[i].Record)
	}
}
