package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prismgw/prism/client"
	"github.com/prismgw/prism/errs"
)

// A settling takes dead letters as the group that remembers which are done with,
// in the order of their positions. Those that are not settled stay in hand until
// it ends, for otherwise they would come again and again.
type settling struct {
	*settleFlags
	topics      *client.Topics
	letters     string // the topic of the dead letters
	form        string
	out, errOut io.Writer
	done, would string // what is said of one
	pause       time.Duration
	act         func(ctx context.Context, m *message) (became *client.Published, err error)

	atOnce  int   // in hand
	end     int64 // the position behind the last one that is of interest
	reached int64 // the highest position that came
	count   int   // of those that were settled, or would be
	failed  int
	first   error // of those that failed
	next    time.Time
	held    map[int64]bool // that came and stay

	sub  *subscribing
	came chan struct{} // of capacity 1: something is in waiting, or a subscription stands

	mu      sync.Mutex // guards what follows
	waiting []*letter
	settled map[int64]bool // false: of this one it is not known whether the server took note
}

// A letter is a dead letter in hand.
type letter struct {
	*client.Delivery
	gone    context.Context //nolint:containedctx // ends when it is in nobody's hands any more
	verdict chan error      // of capacity 1
	other   bool            // it is not one of those that are wanted
}

// Waits of a settling.
const (
	gatherTime = 20 * time.Millisecond  // for what comes at the same time
	endTime    = 250 * time.Millisecond // when the last one has come, for the others
	quietTime  = 3 * time.Second        // for the next one: what is settled does not come
	againTime  = 5 * time.Second        // for those that may come again
	firstTime  = 45 * time.Second       // for the first one, or a connection: longer than a group stays where it is
)

// How many dead letters are in hand at once.
const (
	inHand        = 8192 // a group has no more of one partition
	inHandBriefly = 256  // where hardly any stays
)

func (s *settling) run(parent context.Context) error {
	switch some, err := s.bounds(parent); {
	case err != nil:
		return err
	case !some:
		return s.summary()
	}
	if s.atOnce = inHand; s.match == "" && !s.dryRun {
		s.atOnce = inHandBriefly
	}
	ctx, end := context.WithCancelCause(parent)
	defer end(nil)
	over := make(chan error, 1)
	s.sub = &subscribing{errOut: s.errOut, end: end, stands: s.wake}
	go func() {
		over <- s.topics.Consume(ctx, s.letters, deadGroup, func(handling context.Context, d *client.Delivery) error {
			return s.take(ctx, handling, d)
		}, client.KeepSealed(true), client.Concurrency(s.atOnce), client.MaxHandling(maxHandling), client.OnSession(s.sub.session), client.OnSettleError(s.unsettled))
	}()
	err := s.settleAll(ctx, over)
	end(err)
	err = cmpErr(err, <-over)
	if parent.Err() != nil {
		err = errs.From(parent.Err())
	}
	return errors.Join(err, s.summary())
}

// bounds finds out which dead letters are of interest, and whether any is.
func (s *settling) bounds(ctx context.Context) (some bool, err error) {
	from := func(b client.Browsing) error {
		for _, err := range s.topics.Browse(ctx, s.letters, b) {
			if err != nil {
				return err
			}
			some = true
		}
		return nil
	}
	err = from(client.Browsing{From: client.Latest(), Begun: func(at map[int]int64) { s.end = at[0] }, Limit: 1})
	some = false // those that came in between do not count
	if err == nil {
		err = from(client.Browsing{From: client.AtGroup(deadGroup), Limit: 1})
	}
	return some, err
}

// take hands a dead letter over, and waits for what is to become of it.
func (s *settling) take(ctx, handling context.Context, d *client.Delivery) error {
	l := &letter{Delivery: d, gone: handling, verdict: make(chan error, 1)}
	if l.other = d.Position >= s.end || !s.matches(deliveredMessage(d)); l.other {
		d.Envelope = nil // it may be in hand for long
	}
	s.mu.Lock()
	s.waiting = append(s.waiting, l)
	s.mu.Unlock()
	s.wake()
	select {
	case err := <-l.verdict:
		return err
	case <-ctx.Done():
	case <-handling.Done():
	}
	select {
	case err := <-l.verdict: // it was settled just before
		return err
	default:
		return client.GiveBack(errEnough)
	}
}

// wake lets settleAll look again.
func (s *settling) wake() {
	select {
	case s.came <- struct{}{}:
	default:
	}
}

// settleAll settles what comes until that is all, or enough.
func (s *settling) settleAll(ctx context.Context, over chan error) error {
	patient := time.AfterFunc(quietTime, func() {
		fmt.Fprintf(s.errOut, "prismctl: waiting up to %s for the dead letters, which somebody else has in hand\n", firstTime)
	})
	defer patient.Stop()
	for {
		select {
		case <-s.came:
		case <-time.After(s.wait()):
			return s.quiet()
		case err := <-over:
			over <- err
			return cmpErr(err, context.Cause(ctx), errs.Draining)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		for _, l := range s.gather() {
			patient.Stop()
			if err := s.settle(ctx, l); err != nil {
				return err
			}
			if s.limit > 0 && s.count == s.limit {
				return nil
			}
		}
	}
}

// wait is how long to wait for what comes next.
func (s *settling) wait() time.Duration {
	switch {
	case s.reached == 0, !s.sub.up.Load():
		return firstTime
	case s.owed() > 0:
		return againTime
	case s.reached >= s.end-1:
		return endTime
	}
	return quietTime
}

// owed is how many come again although they are settled.
func (s *settling) owed() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, noted := range s.settled {
		if !noted {
			n++
		}
	}
	return n
}

// quiet is what it means that nothing comes any more.
func (s *settling) quiet() error {
	switch {
	case !s.sub.up.Load():
		return errs.New(errs.BackendUnavailable, "the connection broke, and there was no other one in time")
	case s.reached == 0:
		return errors.New("there are dead letters, and the server hands none of them out: another prismctl has them in hand, or another proxy serves their group; try again in a minute")
	case s.stuck():
		return fmt.Errorf("%d dead letters that stay are before the others, of which some cannot be reached; redrive or drop those first, such as with --limit %d", len(s.held), len(s.held))
	}
	return nil
}

// stuck reports whether what stays in hand keeps others from coming: there may
// not be more of it, and a group does not go further than so many positions
// beyond the first that is not settled.
func (s *settling) stuck() bool {
	if s.reached >= s.end-1 || len(s.held) == 0 {
		return false
	}
	first := slices.Min(slices.Collect(maps.Keys(s.held)))
	return len(s.held) >= s.atOnce || s.end-1 >= first+inHand
}

// gather returns what has come, in order.
func (s *settling) gather() []*letter {
	for {
		select {
		case <-s.came:
			continue
		case <-time.After(gatherTime):
		}
		s.mu.Lock()
		all := s.waiting
		s.waiting = nil
		s.mu.Unlock()
		slices.SortFunc(all, func(a, b *letter) int { return int(a.Position - b.Position) })
		return all
	}
}

// settle settles one dead letter, or keeps it in hand. An error is not of this
// one alone.
func (s *settling) settle(ctx context.Context, l *letter) error {
	s.reached = max(s.reached, l.Position)
	switch {
	case s.again(l):
		return nil
	case s.held[l.Position]: // the connection broke
		return nil
	}
	s.held[l.Position] = true
	m := deliveredMessage(l.Delivery)
	switch {
	case l.other:
		return nil
	case s.dryRun:
		l.Envelope = nil // as above
		s.count++
		return s.print(m, s.would, nil)
	}
	if err := s.inTime(ctx); err != nil {
		return err
	}
	became, err := s.act(ctx, m)
	switch {
	case err != nil && faultOfRecord(err):
		s.fail(m, err)
		return nil
	case err != nil:
		return err
	}
	s.count++
	delete(s.held, l.Position)
	s.note(l)
	return s.print(m, s.done, became)
}

// again reports whether a dead letter was settled before, or is in nobody's hands
// any more. The former comes because saying so did not succeed.
func (s *settling) again(l *letter) bool {
	s.mu.Lock()
	_, settled := s.settled[l.Position]
	s.mu.Unlock()
	if settled {
		s.note(l)
	}
	return settled || l.gone.Err() != nil
}

// note says that a dead letter is settled.
func (s *settling) note(l *letter) {
	s.mu.Lock()
	s.settled[l.Position] = true
	s.mu.Unlock()
	l.verdict <- nil
}

func (s *settling) matches(m *message) bool {
	return s.match == "" || strings.Contains(m.headers[deadReason], s.match) || bytes.Contains(m.envelope.GetPayload(), []byte(s.match))
}

// inTime waits until the next one may be settled.
func (s *settling) inTime(ctx context.Context) error {
	wait := time.Until(s.next)
	s.next = time.Now().Add(max(wait, 0) + s.pause)
	if wait <= 0 {
		return nil
	}
	select {
	case <-time.After(wait):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *settling) fail(m *message, err error) {
	if s.first == nil {
		s.first = fmt.Errorf("position %d: %w", m.position, err)
	}
	s.failed++
	fmt.Fprintf(s.errOut, "prismctl: position %d stays: %s\n", m.position, oneLine(err.Error()))
}

// print says what has become of a dead letter.
func (s *settling) print(m *message, outcome string, became *client.Published) error {
	var line []byte
	var err error
	switch s.form {
	case "json":
		line, err = m.outcomeJSON(outcome, became)
	case "raw":
		line = strconv.AppendInt(nil, m.position, 10)
	default:
		as := ""
		if became != nil {
			as = fmt.Sprintf(" as %d:%d", became.Partition, became.Position)
		}
		line = fmt.Appendf(nil, "%d %s%s  %s  %s  %s", m.position, outcome, as, m.key(), cell(m.story(deadReason)), m.payloadOrWhere())
	}
	if err == nil {
		_, err = s.out.Write(append(line, '\n'))
	}
	return err
}

// unsettled is told of a dead letter of which it is not known whether the server
// took note. It comes again if it did not.
func (s *settling) unsettled(d *client.Delivery, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, settled := s.settled[d.Position]; settled {
		s.settled[d.Position] = false
	}
}

// summary says on standard error what was done, and returns why not all was.
func (s *settling) summary() error {
	word := s.done
	if s.dryRun {
		word = s.would
	}
	text := fmt.Sprintf("%d dead letters %s", s.count, word)
	if s.count == 1 {
		text = "1 dead letter " + word
	}
	if s.failed > 0 {
		text += fmt.Sprintf(", %d could not be", s.failed)
	}
	if n := s.owed(); n > 0 {
		text += fmt.Sprintf("; of %d of them the server may have taken no note: they may come again", n)
	}
	fmt.Fprintln(s.errOut, "prismctl:", text)
	if s.first == nil {
		return nil
	}
	return s.first
}

// cmpErr is cmp.Or for errors.
func cmpErr(all ...error) error {
	for _, err := range all {
		if err != nil {
			return err
		}
	}
	return nil
}
