package groups

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

var _ driver.Member = (*member)(nil)

// A member fetches on one goroutine and, if it is in a group, beats on another
// one.
type member struct {
	source Source
	group  *membership // nil: it reads by itself
	log    *slog.Logger
	forget func() // takes it out of its Members
	buffer int    // about how many bytes of records are on their way

	wake    chan struct{} // of capacity 1: there may be something to tell
	running sync.WaitGroup
	stop    context.CancelFunc // ends the calls under way
	ctx     context.Context    //nolint:containedctx // of the goroutines, which outlive the call that made them
	parting sync.Once

	mu     sync.Mutex // guards what follows, and the state of membership
	parts  []partition
	ready  []int // those with something to tell, each once
	bytes  int   // of all queues
	err    error // why it ended
	ended  chan struct{}
	wanted want
}

func newMember(t Topic) *member {
	m := &member{
		source: t.Source, log: t.Log.With(slog.String("topic", t.Name)),
		buffer: cmp.Or(t.Buffer, driver.FetchBytes), wake: make(chan struct{}, 1), ended: make(chan struct{}),
		parts: make([]partition, t.Partitions), wanted: want{stir: make(chan struct{}, 1)},
	}
	m.ctx, m.stop = context.WithCancel(context.Background())
	return m
}

func (m *member) start() {
	m.running.Go(m.fetch)
	if m.group != nil {
		m.group.attending = make(chan struct{})
		m.running.Go(m.attend)
	}
}

// Next implements driver.Member.
func (m *member) Next(ctx context.Context, events []driver.LogEvent) (int, error) {
	for {
		if err := ctx.Err(); err != nil {
			return 0, errs.ReasonOf(err)
		}
		if n, err := m.take(events); n > 0 || err != nil || len(events) == 0 {
			return n, err
		}
		select {
		case <-m.wake:
		case <-ctx.Done():
		}
	}
}

func (m *member) take(events []driver.LogEvent) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return 0, m.err
	}
	m.expire()
	n := 0
	for len(m.ready) > 0 && n < len(events) {
		i := m.ready[0]
		m.ready = m.ready[1:]
		n += m.tell(i, events[n:])
	}
	if m.wanted.short && m.bytes <= m.buffer/2 {
		m.stir()
	}
	return n, nil
}

func (m *member) tell(i int, events []driver.LogEvent) int {
	p := &m.parts[i]
	before := p.bytes
	n := p.tell(i, events)
	m.bytes += p.bytes - before
	if before > 0 && p.queue == nil && p.fetches() && !p.asked {
		m.stir()
	}
	p.listed = !p.silent()
	if p.listed {
		m.ready = append(m.ready, i)
	}
	return n
}

// list says that a partition has something to tell.
func (m *member) list(i int) {
	p := &m.parts[i]
	if p.listed || p.silent() {
		return
	}
	p.listed = true
	m.ready = append(m.ready, i)
	m.signal()
}

func (m *member) signal() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *member) gain(i int, claim int64, c driver.Checkpoint) {
	m.parts[i].gain(claim, c)
	m.list(i)
	m.stir()
}

// lose ends an ownership that was not given back.
func (m *member) lose(i int) {
	p := &m.parts[i]
	if !p.owned {
		return
	}
	m.bytes -= p.bytes
	p.end()
	m.list(i)
}

// gave ends the ownership that a commit has given back.
func (m *member) gave(i int, claim int64) {
	p := &m.parts[i]
	switch {
	case p.owned && p.claim == claim:
		m.bytes -= p.bytes
		p.clear()
	case p.lost && p.told == claim: // meanwhile, and nobody was told
		p.lost = false
	}
}

// Hold implements driver.Member.
func (m *member) Hold(partition int, hold bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.owned(partition)
	if p == nil {
		return
	}
	p.held = hold
	if p.fetches() && !p.asked {
		m.stir()
	}
}

// Commit implements driver.Member.
func (m *member) Commit(ctx context.Context, commits []driver.Commit, results []error) {
	if err := m.refusal(ctx); err != nil {
		for i := range results {
			results[i] = err
		}
		return
	}
	switch n := m.fit(commits, results); {
	case n == len(commits):
		m.group.Table.Commit(ctx, m.group.self, commits, results)
	case n > 0:
		m.commitSome(ctx, n, commits, results)
	}
	m.committed(commits, results)
}

// refusal returns why nothing can be committed.
func (m *member) refusal(ctx context.Context) error {
	if m.group == nil {
		return errs.New(errs.Unsupported, "a reader without a group keeps no position; join a group to commit")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case errors.Is(m.err, errs.Cancelled):
		return errs.StaleReceipt
	case m.err != nil:
		return m.err
	case ctx.Err() != nil:
		return errs.ReasonOf(ctx.Err())
	}
	return nil
}

// fit returns how many of the commits the table may be asked, and puts why the
// others are not into results.
func (m *member) fit(commits []driver.Commit, results []error) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire()
	for i, c := range commits {
		p, most := m.owned(c.Partition), m.group.MaxNote
		switch {
		case p == nil || p.claim != c.Claim:
			results[i] = errs.StaleReceipt
		case len(c.Note) > most:
			results[i] = errs.TooLarge("note", len(c.Note), most)
		default:
			results[i] = nil
			n++
		}
	}
	return n
}

// owned returns a partition, nil if the member does not own it.
func (m *member) owned(i int) *partition {
	if i < 0 || i >= len(m.parts) || !m.parts[i].owned {
		return nil
	}
	return &m.parts[i]
}

// commitSome commits those whose results are nil so far.
func (m *member) commitSome(ctx context.Context, n int, commits []driver.Commit, results []error) {
	some, at := make([]driver.Commit, 0, n), make([]int, 0, n)
	for i, c := range commits {
		if results[i] == nil {
			some, at = append(some, c), append(at, i)
		}
	}
	outcomes := make([]error, n)
	m.group.Table.Commit(ctx, m.group.self, some, outcomes)
	for i, err := range outcomes {
		results[at[i]] = err
	}
}

// committed draws the conclusions from the outcome of commits.
func (m *member) committed(commits []driver.Commit, results []error) {
	released := false
	m.mu.Lock()
	for i, c := range commits {
		switch p := m.owned(c.Partition); {
		case results[i] == nil && c.Release:
			m.gave(c.Partition, c.Claim)
			released = true
		case p != nil && p.claim == c.Claim && errors.Is(results[i], errs.StaleReceipt):
			m.lose(c.Partition)
		}
	}
	m.mu.Unlock()
	if released {
		m.group.changed.Ring()
	}
}

// end makes Next answer why from now on, unless it has ended before.
func (m *member) end(why error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return
	}
	m.err = why
	for i := range m.parts {
		m.parts[i] = partition{}
	}
	m.ready, m.bytes = nil, 0
	close(m.ended)
	m.signal()
}

// Close implements driver.Member.
func (m *member) Close(ctx context.Context) error {
	m.end(errs.Cancelled)
	return m.part(ctx)
}

// part ends the goroutines and leaves the group, once.
func (m *member) part(ctx context.Context) (err error) {
	m.parting.Do(func() {
		if m.group != nil {
			m.group.rest(ctx)
		}
		m.stop()
		m.running.Wait()
		if m.group != nil {
			err = m.depart(ctx)
		}
		m.forget()
	})
	return err
}
