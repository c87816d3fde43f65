package nats

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

const (
	stepMin   = 64      // messages that are asked for at once, at least
	stepMax   = 1000    // at most
	stepBytes = 4 << 20 // of their bytes
	pageLooks = 5000    // messages after which a page ends, if need be empty: a server that is busy has to answer in time
)

// Scan goes through the messages of the space in the order of the stream; a
// prefix is looked for here. A key that is written again meanwhile moves to the
// end, where it is found once more. If so much is written that no end comes in
// sight, the rest is given in the order of the keys, which no write changes.
//
// The keys alone cost as much as the values: the server sends whole messages.
func (k *kv) Scan(ctx context.Context, r driver.ScanRequest) (driver.Page, error) {
	s, err := k.link.get(ctx)
	if err != nil {
		return driver.Page{}, k.link.fail(ctx, err, false)
	}
	c := &scan{kv: k, session: s, request: r, bound: k.prefix + "\x00" + r.Prefix}
	if err := c.begin(); err != nil {
		return driver.Page{}, err
	}
	page := c.inTurn
	if c.at.rest {
		page = c.inOrder
	}
	done, err := page(ctx)
	if err != nil {
		return driver.Page{}, k.link.fail(ctx, err, false)
	}
	p := driver.Page{Items: c.items}
	if !done {
		p.Next = c.at.encode(c.bound)
	}
	return p, nil
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

func (c *scan) begin() error {
	created := c.session.created.Load()
	if len(c.request.Cursor) == 0 {
		c.at = cursor{stream: created, next: 1}
		return nil
	}
	var err error
	if c.at, err = decodeCursor(c.request.Cursor, c.bound); err == nil && c.at.stream != created {
		err = errs.StaleCursor
	}
	return err
}

// inTurn is a page in the order of the stream; done says that nothing follows.
func (c *scan) inTurn(ctx context.Context) (done bool, err error) {
	for looks := 0; looks < pageLooks; {
		if c.at.left == 1 {
			c.at.rest = true
			c.kv.leftovers.forget() // keys may have moved behind c.at.next since another scan listed them
			return c.inOrder(ctx)
		}
		b, err := c.list(ctx, c.at.next, c.step())
		if err != nil {
			return false, err
		}
		if c.at.left == 0 {
			c.at.left = 3*(uint64(len(b.found))+b.pending)/2 + stepMin
		}
		looks += max(len(b.found), stepMin)
		current, err := c.settle(ctx, b.found)
		if err != nil {
			return false, err
		}
		for i := range current {
			if c.full() {
				return false, nil
			}
			seq := b.found[i].seq
			c.at.next = seq + 1
			c.at.left = max(c.at.left-1, 1)
			if item, ok := c.item(&current[i]); ok && current[i].seq == seq { // else it has moved
				c.add(item)
			}
		}
		if b.end && len(current) == len(b.found) {
			return true, nil
		}
		if c.full() {
			break
		}
	}
	return false, nil
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

// inOrder is a page of what was not given in turn, in the order of the keys:
// of everything that lies behind c.at.next, up to the end of the stream.
func (c *scan) inOrder(ctx context.Context) (done bool, err error) {
	for {
		keys, more, err := c.remaining(ctx)
		if err != nil {
			return false, err
		}
		for len(keys) > 0 {
			n := min(len(keys), stepMin, max(c.request.Limit-len(c.items), stepMin/8))
			if full, err := c.give(ctx, keys[:n]); full || err != nil {
				return false, err
			}
			keys = keys[n:]
		}
		if !more {
			return true, nil
		}
	}
}

// give adds the entries of keys to the page until it is full.
func (c *scan) give(ctx context.Context, keys []string) (full bool, err error) {
	reads := make([]*read, len(keys))
	for i, key := range keys {
		if reads[i], err = c.kv.begin(ctx, c.session, c.kv.subject(key)); err != nil {
			return false, err
		}
	}
	for i, key := range keys {
		r, err := c.kv.finish(ctx, c.session, reads[i])
		if err != nil {
			return false, err
		}
		if c.full() {
			return true, nil
		}
		c.at.after = key
		if item, ok := c.item(&r); ok {
			c.add(item)
		}
	}
	return false, nil
}

// remaining returns the keys that are left for inOrder, or the first ones of
// them. What one page has listed serves those that follow on this connection.
func (c *scan) remaining(ctx context.Context) (keys []string, more bool, err error) {
	h := &c.kv.leftovers
	if keys, more, ok := h.behind(c.bound, &c.at); ok {
		return keys, more, nil
	}
	began := h.generation()
	var firsts smallest
	for next, end := c.at.next, false; !end; {
		b, err := c.list(ctx, next, stepMax)
		if err != nil {
			return nil, false, err
		}
		end = b.end
		for i := range b.found {
			next = b.found[i].seq + 1
			if item, ok := c.item(&b.found[i]); ok && item.Key > c.at.after {
				firsts.put(item.Key)
			}
		}
	}
	keys = firsts.sorted()
	h.keep(began, c.bound, &c.at, keys, firsts.cut != "")
	return keys, firsts.cut != "", nil
}

// leftovers are the keys that a scan has left for the order of the keys.
type leftovers struct {
	mu    sync.Mutex // guards what follows
	times uint64     // how often it has changed
	bound string
	next  uint64
	after string // the keys are those that follow it
	keys  []string
	more  bool // and further ones
}

// forget makes the next page list anew.
func (l *leftovers) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.times++
	l.bound, l.keys = "", nil
}

func (l *leftovers) generation() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.times
}

// keep keeps what was listed since a generation. If there has been another one
// since, nobody knows whose list is the older one.
func (l *leftovers) keep(since uint64, bound string, at *cursor, keys []string, more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.times++
	if l.times != since+1 {
		l.bound, l.keys = "", nil
		return
	}
	l.bound, l.next, l.after, l.keys, l.more = bound, at.next, at.after, keys, more
}

// behind returns the keys behind a cursor, if they are known.
func (l *leftovers) behind(bound string, at *cursor) (keys []string, more, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bound != bound || l.next != at.next || at.after < l.after {
		return nil, false, false
	}
	n, found := slices.BinarySearch(l.keys, at.after)
	if found {
		n++
	}
	keys = l.keys[n:]
	if len(keys) == 0 {
		more := l.more
		l.bound, l.keys = "", nil
		return nil, false, !more
	}
	return keys, l.more, true
}

// maxLeftovers is how many keys are kept for further pages, at least; twice as
// many at most.
const maxLeftovers = 50_000

// smallest keeps the smallest of keys.
type smallest struct {
	keys map[string]struct{}
	cut  string // the smallest key that was let go; "" for none
}

func (s *smallest) put(key string) {
	if s.cut != "" && key >= s.cut {
		return
	}
	if s.keys == nil {
		s.keys = make(map[string]struct{})
	}
	s.keys[key] = struct{}{}
	if len(s.keys) < 2*maxLeftovers {
		return
	}
	all := s.sorted()
	s.cut = all[maxLeftovers]
	for _, key := range all[maxLeftovers:] {
		delete(s.keys, key)
	}
}

func (s *smallest) sorted() []string { return slices.Sorted(maps.Keys(s.keys)) }

// list asks for messages of the space from a sequence on, in their order, each
// the last of its subject as far as whoever answers knows.
func (c *scan) list(ctx context.Context, from uint64, n int) (*batch, error) {
	body, err := messageGet{Seq: from, NextFor: c.kv.prefix + "*", Batch: n, MaxBytes: stepBytes}.encode()
	if err != nil {
		return nil, err
	}
	b := &batch{stream: c.kv.set.stream()}
	if _, err = c.session.ask(ctx, &call{subject: api + "DIRECT.GET." + b.stream, data: body, more: b.take}); err != nil {
		return nil, err
	}
	if b.foreign {
		c.session.direct.Store(false)
	}
	if errors.Is(b.err, errNoStream) {
		c.session.stale.Store(true)
	}
	if b.err != nil || !b.end || c.session.direct.Load() {
		return b, b.err
	}
	if len(b.found) > 0 {
		from = b.found[len(b.found)-1].seq + 1
	}
	r, err := c.following(ctx, from)
	if r.seq != 0 {
		b.found, b.end = append(b.found, r), false
	}
	return b, err
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
	pending uint64 // how many follow
	end     bool   // none does
	foreign bool   // another stream has answered
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
		b.pending, b.err = strconv.ParseUint(first(m.Header, "Nats-Num-Pending"), 10, 64)
		b.end = b.pending == 0
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
