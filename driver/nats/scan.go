package nats

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

const (
	stepMin   = 64      // messages that are asked for at once, at least
	stepMax   = 1000    // at most
	stepBytes = 4 << 20 // of their bytes
	pageSteps = 50      // a page of a prefix with few keys may end up empty
)

// Scan goes through the messages of the space; a prefix is looked for here. The
// keys alone cost as much as the values: the server sends whole messages.
func (k *kv) Scan(ctx context.Context, r driver.ScanRequest) (driver.Page, error) {
	s, err := k.link.get(ctx)
	if err != nil {
		return driver.Page{}, k.link.fail(ctx, err, false)
	}
	c := &scan{kv: k, session: s, request: r, bound: k.prefix + "\x00" + r.Prefix}
	if err := c.begin(ctx); err != nil {
		return driver.Page{}, k.link.fail(ctx, err, false)
	}
	page, err := c.page(ctx)
	return page, k.link.fail(ctx, err, false)
}

// scan makes one page.
type scan struct {
	kv      *kv
	session *session
	request driver.ScanRequest
	bound   string // what the cursor is bound to

	at    cursor
	items []driver.Item
	bytes int
}

func (c *scan) begin(ctx context.Context) error {
	created := c.session.created.Load()
	if len(c.request.Cursor) > 0 {
		var err error
		if c.at, err = decodeCursor(c.request.Cursor, c.bound); err == nil && c.at.stream != created {
			err = errs.StaleCursor
		}
		return err
	}
	info, err := c.session.info(ctx, c.kv.set.stream())
	if err != nil {
		return err
	}
	c.at = cursor{stream: created, end: info.State.LastSeq, next: 1}
	return nil
}

func (c *scan) page(ctx context.Context) (driver.Page, error) {
	for range pageSteps {
		if c.at.next > c.at.end {
			return c.rest(ctx)
		}
		found, end, err := c.list(ctx, c.at.next, c.step())
		if err != nil {
			return driver.Page{}, err
		}
		current, err := c.settle(ctx, found)
		if err != nil {
			return driver.Page{}, err
		}
		end = end && len(current) == len(found)
		for i := range current {
			if found[i].seq > c.at.end {
				end = true
				break
			}
			if c.full() {
				return c.cut(), nil
			}
			c.at.next = found[i].seq + 1
			if item, ok := c.item(&current[i]); ok {
				c.add(item)
			}
		}
		if end {
			c.at.next = c.at.end + 1
		}
		if c.full() {
			break
		}
	}
	return c.cut(), nil
}

// cut ends the page here.
func (c *scan) cut() driver.Page {
	return driver.Page{Items: c.items, Next: c.at.encode(c.bound)}
}

func (c *scan) full() bool {
	return len(c.items) >= c.request.Limit || c.request.MaxBytes > 0 && c.bytes >= c.request.MaxBytes
}

// step returns how many messages to ask for.
func (c *scan) step() int {
	return min(max(c.request.Limit-len(c.items), stepMin), stepMax)
}

func (c *scan) add(i driver.Item) {
	c.items = append(c.items, i)
	c.bytes += len(i.Key) + len(i.Value)
}

// item returns what a record is in the page, ok false if it is nothing.
func (c *scan) item(r *record) (i driver.Item, ok bool) {
	key, ok := c.kv.key(r.subject)
	if !ok || !strings.HasPrefix(key, c.request.Prefix) || !r.live(c.kv.now()) {
		return driver.Item{}, false
	}
	i.Key = key
	if !c.request.KeysOnly {
		i.Entry = r.entry()
	}
	return i, true
}

// rest is a page of the second phase: of the keys that were written since the
// scan began, the first ones after those that were given.
func (c *scan) rest(ctx context.Context) (driver.Page, error) {
	var firsts smallest
	firsts.most = max(c.request.Limit-len(c.items)+1, stepMax) // many may be markers
	for next, end := c.at.end+1, false; !end; {
		var found []record
		var err error
		if found, end, err = c.list(ctx, next, stepMax); err != nil {
			return driver.Page{}, err
		}
		for i := range found {
			next = found[i].seq + 1
			if key, ok := c.kv.key(found[i].subject); ok && key > c.at.after && strings.HasPrefix(key, c.request.Prefix) {
				firsts.put(key, found[i])
			}
		}
	}
	keys := firsts.keys()
	told := make([]record, len(keys))
	for i, key := range keys {
		told[i] = firsts.records[key]
	}
	current, err := c.settle(ctx, told)
	if err != nil {
		return driver.Page{}, err
	}
	for i := range current {
		if c.full() {
			return c.cut(), nil
		}
		c.at.after = keys[i]
		if item, ok := c.item(&current[i]); ok {
			c.add(item)
		}
	}
	if firsts.cut != "" || len(current) < len(told) {
		return c.cut(), nil
	}
	return driver.Page{Items: c.items}, nil
}

// smallest keeps the records of the smallest keys: of at most so many, and of
// about stepBytes.
type smallest struct {
	most    int
	bytes   int
	records map[string]record
	cut     string // the smallest key that was let go; "" for none
}

func (s *smallest) put(key string, r record) {
	if s.cut != "" && key >= s.cut {
		return
	}
	if s.records == nil {
		s.records = make(map[string]record)
	}
	s.bytes += len(r.value) - len(s.records[key].value)
	s.records[key] = r
	if len(s.records) >= 2*s.most+stepMax || s.bytes >= 2*stepBytes {
		s.trim()
	}
}

func (s *smallest) trim() {
	kept := 0
	s.bytes = 0
	for _, key := range s.keys() {
		if kept >= s.most || kept > 0 && s.bytes >= stepBytes {
			if s.cut == "" || key < s.cut {
				s.cut = key
			}
			delete(s.records, key)
			continue
		}
		kept++
		s.bytes += len(s.records[key].value)
	}
}

func (s *smallest) keys() []string {
	keys := make([]string, 0, len(s.records))
	for key := range s.records {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// list returns messages of the space from a sequence on, in their order, each
// the last of its subject as far as whoever answers knows. end says that nothing
// follows at the moment.
func (c *scan) list(ctx context.Context, from uint64, n int) (found []record, end bool, err error) {
	body, err := messageGet{Seq: from, NextFor: c.kv.prefix + "*", Batch: n, MaxBytes: stepBytes}.encode()
	if err != nil {
		return nil, false, err
	}
	b := &batch{stream: c.kv.set.stream()}
	if _, err = c.session.ask(ctx, &call{subject: api + "DIRECT.GET." + b.stream, data: body, more: b.take}); err != nil {
		return nil, false, err // b may still grow
	}
	if b.foreign {
		c.session.direct.Store(false)
	}
	if errors.Is(b.err, errNoStream) {
		c.session.stale.Store(true)
	}
	if b.err != nil || !b.end || c.session.direct.Load() {
		return b.found, b.end, b.err
	}
	if len(b.found) > 0 {
		from = b.found[len(b.found)-1].seq + 1
	}
	r, err := c.following(ctx, from)
	if err != nil || r.seq == 0 {
		return b.found, true, err
	}
	return append(b.found, r), false, nil
}

// following asks the leader for the first message from a sequence on: a replica
// that has come to its end may be behind.
func (c *scan) following(ctx context.Context, from uint64) (record, error) {
	body, err := messageGet{Seq: from, NextFor: c.kv.prefix + "*"}.encode()
	if err != nil {
		return record{}, err
	}
	m, err := c.session.ask(ctx, &call{subject: api + "STREAM.MSG.GET." + c.kv.set.stream(), data: body})
	if err != nil {
		return record{}, err
	}
	r, err := c.session.storedRecord(m)
	return r, absentIsNone(err)
}

// batch is the answer to a request for several messages.
type batch struct {
	stream  string
	found   []record
	end     bool // nothing follows
	foreign bool // another stream has answered
	err     error
}

// take takes one message and tells whether it was the last.
func (b *batch) take(m *nats.Msg) bool {
	switch status := first(m.Header, "Status"); status {
	case "":
		r, foreign, err := directRecord(m, b.stream)
		b.found = append(b.found, r)
		b.foreign, b.err = b.foreign || foreign, firstError(b.err, err)
		return false
	case "204":
		b.end = first(m.Header, "Nats-Num-Pending") == "0"
	case "404":
		b.end = true
	case "503":
		b.err = errNoStream
	default:
		b.err = fmt.Errorf("status %s", status)
	}
	return true
}

// settle returns what was told as it is now, up to as many items as the page has
// room for. Where a replica may have told it, the leader is asked again for each
// item: a message that it had and the replica lacks follows later, or is the
// last one.
func (c *scan) settle(ctx context.Context, told []record) ([]record, error) {
	if c.session.direct.Load() {
		return told, nil
	}
	reads := make([]*read, 0, len(told))
	for room := c.request.Limit - len(c.items); len(reads) < len(told); {
		var r *read
		if _, ok := c.item(&told[len(reads)]); ok {
			if room == 0 {
				break
			}
			room--
			var err error
			if r, err = c.kv.begin(ctx, c.session, told[len(reads)].subject); err != nil {
				return nil, err
			}
		}
		reads = append(reads, r)
	}
	current := make([]record, len(reads)) // the zero record is no item
	for i, r := range reads {
		if r == nil {
			continue
		}
		var err error
		if current[i], err = c.kv.finish(ctx, c.session, r); err != nil {
			return nil, err
		}
	}
	return current, nil
}
