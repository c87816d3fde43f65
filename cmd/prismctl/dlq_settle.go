package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/prismgw/prism/client"
	"github.com/prismgw/prism/errs"
)

// settleFlags are what redrive and drop share.
type settleFlags struct {
	match  string
	limit  int
	dryRun bool
	asJSON bool
}

func (o *settleFlags) addFlags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.match, "match", "", "only those with this text in their reason or payload")
	f.IntVar(&o.limit, "limit", 0, "end after so many")
	f.BoolVar(&o.dryRun, "dry-run", false, "print what would be done, and do nothing")
	f.BoolVar(&o.asJSON, "json", false, "one object a line, with everything there is; as -o json")
}

func (a *app) redriveCommand() *cobra.Command {
	o := new(settleFlags)
	var rate string
	c := &cobra.Command{
		Use:   "redrive TOPIC",
		Short: "Publish dead letters to their topic again",
		Long: `Redrive publishes the dead letters of a topic to it again, the oldest first, and
prints each. When the server has said that the new message stands there, the
dead letter is done with; until then it stays. So it can be repeated, also after
it broke off: within ten minutes a dead letter does not become two messages,
where the topic suppresses duplicates.

All groups of the topic get the new message, not only the one in which it died.
It has an id of its own, and the old one as causality_parent; it is published
now, and by you. Key, payload and all other fields stay as they are. A payload
that its publisher encrypted holds under its old id alone, so that such a message
keeps its id and can be redriven ten minutes after it was published.

Those that are dead now are redriven, not those that die meanwhile. It needs the
rights to consume and to publish.`,
		Example: `  prismctl dlq redrive orders --dry-run
  prismctl dlq redrive orders --match refused --limit 10
  prismctl dlq redrive orders --rate 5/s`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			pause, err := pauseOf(rate)
			if err != nil {
				return err
			}
			return a.settleLetters(c, args[0], o, func(s *settling) {
				s.done, s.would, s.pause = "redriven", "would be redriven", pause
				s.act = (&redriver{topics: s.topics, topic: args[0], letters: s.letters}).redrive
			})
		},
	}
	o.addFlags(c)
	c.Flags().StringVar(&rate, "rate", "", "at most so many a second, such as 5/s")
	return c
}

func (a *app) dropCommand() *cobra.Command {
	o := new(settleFlags)
	c := &cobra.Command{
		Use:   "drop TOPIC",
		Short: "Say that dead letters are done with",
		Long: `Drop says of the dead letters of a topic that nobody wants them any more, and
prints each: dlq list and redrive leave them out. They go on to stand in the
topic of the dead letters; dlq list --all and topic browse show them, and seek
brings them back. Those that are dead now are dropped, not those that die
meanwhile. It needs the right to consume.`,
		Example: `  prismctl dlq drop orders --match customer --dry-run
  prismctl dlq drop orders --match customer
  prismctl dlq drop orders --limit 100
  prismctl topic seek orders.dlq --group prism-dlq --to earliest`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.settleLetters(c, args[0], o, func(s *settling) {
				s.done, s.would = "dropped", "would be dropped"
				s.act = func(context.Context, *message) (*client.Published, error) { return nil, nil } //nolint:nilnil // it becomes nothing
			})
		},
	}
	o.addFlags(c)
	return c
}

// pauseOf reads how long one message is to take.
func pauseOf(rate string) (time.Duration, error) {
	if rate == "" {
		return 0, nil
	}
	n, err := strconv.ParseFloat(strings.TrimSuffix(rate, "/s"), 64)
	if err != nil || !(n >= 0.001 && n <= 1e6) {
		return 0, usage(nil, "--rate is a number of messages a second, such as 5/s, not %q", rate)
	}
	return time.Duration(float64(time.Second) / n), nil
}

// settleLetters settles dead letters of a topic in the way that how says.
func (a *app) settleLetters(c *cobra.Command, topic string, o *settleFlags, how func(s *settling)) error {
	letters, err := lettersOf(topic)
	if err != nil {
		return err
	}
	if o.limit < 0 {
		return usage(nil, "--limit is 0 (no limit) or more")
	}
	return a.topics(c, func(ctx context.Context, t *client.Topics) error {
		form, err := a.messageForm(o.asJSON)
		if err != nil {
			return err
		}
		s := &settling{
			settleFlags: o, topics: t, letters: letters, form: form, out: c.OutOrStdout(), errOut: c.ErrOrStderr(),
			came: make(chan struct{}, 1), settled: map[int64]bool{}, held: map[int64]bool{},
		}
		how(s)
		return s.run(ctx)
	})
}

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
	settled map[int64]bool
	held    map[int64]bool // that came and stay

	came chan struct{} // of capacity 1: something is in waiting

	mu      sync.Mutex // guards waiting
	waiting []*letter
}

// A letter is a dead letter in hand.
type letter struct {
	*client.Delivery
	verdict chan error // of capacity 1
	other   bool       // it is not one of those that are wanted
}

// Waits of a settling.
const (
	gatherTime = 20 * time.Millisecond  // for what comes at the same time
	endTime    = 250 * time.Millisecond // when the last one has come, for the others
	quietTime  = 3 * time.Second        // for the next one: what is settled does not come
	firstTime  = 45 * time.Second       // for the first one: longer than a group stays where it is
)

// How many dead letters are in hand at once.
const (
	inHand        = 8192 // a group has no more of one partition
	inHandBriefly = 256  // where hardly any stays
)

func (s *settling) run(parent context.Context) error {
	if some, err := s.bounds(parent); err != nil || !some {
		return cmpErr(err, s.summary())
	}
	if s.atOnce = inHand; s.match == "" && !s.dryRun {
		s.atOnce = inHandBriefly
	}
	ctx, end := context.WithCancelCause(parent)
	defer end(nil)
	over := make(chan error, 1)
	sub := &subscribing{errOut: s.errOut, end: end, begun: func() {}}
	go func() {
		over <- s.topics.Consume(ctx, s.letters, deadGroup, func(handling context.Context, d *client.Delivery) error {
			return s.take(ctx, handling, d)
		}, client.Concurrency(s.atOnce), client.MaxHandling(maxHandling), client.OnSession(sub.session), client.OnSettleError(s.unsettled))
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
	l := &letter{Delivery: d, verdict: make(chan error, 1)}
	if l.other = d.Position >= s.end || !s.matches(deliveredMessage(d)); l.other {
		d.Envelope = nil // it may be in hand for long
	}
	s.mu.Lock()
	s.waiting = append(s.waiting, l)
	s.mu.Unlock()
	select {
	case s.came <- struct{}{}:
	default:
	}
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

// settleAll settles what comes until that is all, or enough.
func (s *settling) settleAll(ctx context.Context, over chan error) error {
	for {
		wait := quietTime
		switch {
		case s.reached == 0:
			wait = firstTime
		case s.reached >= s.end-1:
			wait = endTime
		}
		select {
		case <-s.came:
		case <-time.After(wait):
			return s.quiet()
		case err := <-over:
			over <- err
			return cmpErr(err, context.Cause(ctx), errs.Draining)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		for _, l := range s.gather() {
			if err := s.settle(ctx, l); err != nil {
				return err
			}
			if s.limit > 0 && s.count == s.limit {
				return nil
			}
		}
	}
}

// quiet is what it means that nothing comes any more.
func (s *settling) quiet() error {
	switch {
	case s.reached == 0:
		return errors.New("there are dead letters, and the server hands none of them out: another prismctl has them in hand, or another proxy serves their group; try again in a minute")
	case len(s.held) >= s.atOnce && s.reached < s.end-1:
		fmt.Fprintf(s.errOut, "prismctl: %d dead letters that stay are before the others: what is behind them cannot be reached\n", len(s.held))
	}
	return nil
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
	case s.settled[l.Position]: // saying so did not succeed
		l.verdict <- nil
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
	s.settled[l.Position] = true
	delete(s.held, l.Position)
	l.verdict <- nil
	return s.print(m, s.done, became)
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

// unsettled is told of a dead letter of which the server took no note.
func (s *settling) unsettled(d *client.Delivery, err error) {
	if errors.Is(err, errs.StaleReceipt) {
		return // it comes again, here or in the next run
	}
	fmt.Fprintf(s.errOut, "prismctl: position %d may come again: %s\n", d.Position, oneLine(err.Error()))
}

// summary says on standard error what was done, and returns why not all was.
func (s *settling) summary() error {
	word := s.done
	if s.dryRun {
		word = s.would
	}
	text := fmt.Sprintf("%d dead letters %s", s.count, word)
	if s.failed > 0 {
		text += fmt.Sprintf(", %d could not be", s.failed)
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
