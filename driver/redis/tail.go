package redis

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/groups"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

const (
	tailRest  = 15 * time.Second // after nobody has read for so long, a tail ends
	tailCheck = 5 * time.Second
)

// What comes through the channel of a topic: the number of a partition to which
// something was appended, or this and the name of a group that has changed.
const (
	channelSubject = "appended"
	groupMark      = "group "
)

// channelOf returns the channel of a topic. Redis does not keep the channels of
// its databases apart.
func channelOf(db int, key string) string {
	channel := key + ":" + channelSubject
	if db != 0 {
		channel = strconv.Itoa(db) + ":" + channel
	}
	return channel
}

// A tail tells the members of a connection of what is appended to a topic, by
// the channel through which the scripts tell it. It is a hint: what is lost on
// its way is found by who looks again.
type tail struct {
	topic *topic
	bell  groups.Bell // rung by each message

	mu      sync.Mutex // guards what follows
	gaps    int        // counts when messages may have been lost
	heard   []int      // messages by partition
	running bool
	used    time.Time
}

// heard is what a tail has told of a partition.
type heard struct{ gaps, count int }

// add adds a partition.
func (t *tail) add(of *topic) { t.topic, t.heard = of, append(t.heard, 0) }

// look returns what was told of partitions so far.
func (t *tail) look(cursors []groups.Cursor) []heard {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]heard, len(cursors))
	for i, c := range cursors {
		all[i] = heard{t.gaps, t.heard[c.Partition]}
	}
	return all
}

// use keeps the tail going for a while.
func (t *tail) use() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.used = time.Now()
	if !t.running {
		t.running = t.topic.link.work(t.run) == nil
	}
}

// rests reports whether nobody needs the tail, which ends it.
func (t *tail) rests() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running = time.Since(t.used) < tailRest
	return !t.running
}

// run listens.
func (t *tail) run() {
	ctx := t.topic.link.ctx
	for rest := backoffMin; ctx.Err() == nil && !t.rests(); rest = min(2*rest, backoffMax) {
		if t.follow(ctx) {
			rest = backoffMin
		}
		select {
		case <-ctx.Done():
		case <-time.After(rest):
		}
	}
}

// follow listens until that ends, or nobody needs it. It reports whether it has
// ever heard.
func (t *tail) follow(ctx context.Context) bool {
	h := t.topic.link.hub
	l := &listener{filter: channelSubject, source: named(t.topic.channel), stood: make(chan error, 1)}
	l.Inbox = wrap.NewInbox(0, func() { h.remove(l) })
	defer func() { _ = l.Close() }()
	err := h.add(l)
	if err == nil {
		select {
		case err = <-l.stood:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if err != nil {
		return false
	}
	t.gap()
	t.attend(ctx, l)
	return true
}

func (t *tail) attend(ctx context.Context, l *listener) {
	events := make([]driver.Event, 64)
	for {
		short, cancel := context.WithTimeout(ctx, tailCheck)
		n, err := l.Next(short, events)
		cancel()
		switch {
		case errors.Is(err, errs.Deadline) && !t.idle():
			continue
		case err != nil:
			return
		}
		for _, e := range events[:n] {
			t.tell(&e)
		}
	}
}

// idle reports whether nobody needs the tail.
func (t *tail) idle() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Since(t.used) >= tailRest
}

func (t *tail) tell(e *driver.Event) {
	text := string(e.Payload)
	if group, ok := strings.CutPrefix(text, groupMark); ok && e.Missed == 0 {
		t.topic.members.Ring(t.topic.key, group)
		return
	}
	partition, err := strconv.Atoi(text)
	if e.Missed != 0 || err != nil || partition < 0 || partition >= len(t.heard) {
		t.gap()
		return
	}
	t.mu.Lock()
	t.heard[partition]++
	t.mu.Unlock()
	t.bell.Ring()
}

// gap says that something may have been lost.
func (t *tail) gap() {
	t.mu.Lock()
	t.gaps++
	t.mu.Unlock()
	t.bell.Ring()
}
