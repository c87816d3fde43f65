package groups

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// partTime bounds how long the closing of a connection waits for a backend to
// hear that members leave.
const partTime = time.Second

// Members are those of one connection. The zero Members has none.
type Members struct {
	mu     sync.Mutex // guards what follows
	closed bool
	all    map[*member]struct{}
	bells  map[groupName]*bellOf
}

type groupName struct{ topic, group string }

// A bellOf rings when something has changed in a group that this connection
// has members of.
type bellOf struct {
	Bell
	members int
}

// Topic is what every member of a topic reads.
type Topic struct {
	Source     Source
	Name       string // nothing else's on this connection
	Partitions int
	Buffer     int // driver.JoinRequest.Buffer
	Log        *slog.Logger
}

// Group is whom a member shares a topic with.
type Group struct {
	Table   Table
	Name    string
	Member  string // driver.JoinRequest.Name
	MaxNote int    // driver.LogGuarantees.MaxNote

	// Changed is rung when partitions were released or somebody came or went.
	// nil: members of the same Members tell each other. A technology that can
	// tell others as well, or whose connections share a process, gives its own.
	Changed *Bell
}

// Join returns a new member of a group that the table knows.
func (s *Members) Join(t Topic, g Group) (driver.Member, error) {
	m := newMember(t)
	name := groupName{t.Name, g.Name}
	m.group = &membership{Group: g, self: Self{ID: newID(), Name: g.Member}, changed: g.Changed}
	if m.group.changed == nil {
		m.group.changed = s.take(name)
		m.group.giveBack = func() { s.giveBack(name) }
	}
	m.log = m.log.With(slog.String("group", g.Name), slog.String("member", g.Member))
	if err := s.start(m); err != nil {
		m.group.forget()
		return nil, err
	}
	return m, nil
}

// Read returns a new member without a group, which begins at these positions,
// one for each partition.
func (s *Members) Read(t Topic, from []driver.Position) (driver.Member, error) {
	m := newMember(t)
	for i, next := range from {
		m.gain(i, 0, driver.Checkpoint{Next: next})
	}
	if err := s.start(m); err != nil {
		return nil, err
	}
	return m, nil
}

// Ring says that something has changed in a group, such as by a Seek.
func (s *Members) Ring(topic, group string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.bells[groupName{topic, group}]; b != nil {
		b.Ring()
	}
}

// Close ends all members, with errs.BackendUnavailable to who waits for them.
// They leave their groups if the backend answers. No goroutine of theirs is
// left.
func (s *Members) Close() {
	s.mu.Lock()
	s.closed = true
	all := make([]*member, 0, len(s.all))
	for m := range s.all {
		all = append(all, m)
	}
	s.mu.Unlock()
	for _, m := range all { // nobody gains what another one leaves
		m.end(errs.BackendUnavailable)
	}
	ctx, cancel := context.WithTimeout(context.Background(), partTime)
	defer cancel()
	var left sync.WaitGroup
	for _, m := range all {
		left.Go(func() { m.part(ctx) }) //nolint:errcheck // who is not heard to leave is dead after TTL
	}
	left.Wait()
}

func (s *Members) start(m *member) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errs.BackendUnavailable
	}
	if s.all == nil {
		s.all = make(map[*member]struct{})
	}
	s.all[m] = struct{}{}
	m.forget = func() { s.forget(m) }
	m.start()
	return nil
}

func (s *Members) forget(m *member) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, m)
}

func (s *Members) take(name groupName) *Bell {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.bells[name]
	if b == nil {
		b = &bellOf{}
		if s.bells == nil {
			s.bells = make(map[groupName]*bellOf)
		}
		s.bells[name] = b
	}
	b.members++
	return &b.Bell
}

func (s *Members) giveBack(name groupName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.bells[name]; b.members > 1 {
		b.members--
	} else {
		delete(s.bells, name)
	}
}

// newID returns 16 letters and digits that nobody else has.
func newID() string {
	var b [10]byte
	rand.Read(b[:])
	return strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))
}

// gone reports whether an error says that there is nothing to try again.
func gone(err error) bool {
	return errors.Is(err, errs.TopicNotFound) || errors.Is(err, errs.GroupNotFound)
}

// A pause is how long to wait after failures in a row. It says once that there
// was one, and once that there is none any more.
type pause struct {
	log   *slog.Logger
	what  string
	least time.Duration
	most  time.Duration
	next  time.Duration
}

// after returns how long to wait after err; 0 for none.
func (p *pause) after(err error) time.Duration {
	if err == nil {
		if p.next > 0 {
			p.log.Info("group member is well again", slog.String("doing", p.what))
		}
		p.next = 0
		return 0
	}
	if p.next == 0 {
		p.log.Warn("group member tries again", slog.String("doing", p.what), slog.Any("error", err))
	}
	p.next = min(max(2*p.next, p.least), p.most)
	return p.next
}

// sleep waits for a while or the end of ctx.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
