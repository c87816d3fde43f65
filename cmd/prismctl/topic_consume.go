package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/prismgw/prism/client"
	"github.com/prismgw/prism/errs"
)

// Why a consume ends although nothing failed.
var (
	errEnough = errors.New("there were as many messages as were wanted")
	errQuiet  = errors.New("nothing came for a while")
)

func (a *app) consumeCommand() *cobra.Command {
	o := &consumeFlags{concurrency: 1}
	c := &cobra.Command{
		Use:   "consume TOPIC --group GROUP [-- COMMAND ARG...]",
		Short: "Take messages as one of a group's consumers, until Ctrl-C",
		Long: `Consume takes the messages of a topic as one of a group's consumers, prints a
line for each (its place, its key and its payload, shortened and quoted where a
terminal needs that), and acknowledges it after it was printed: the group gets it
no more. What could not be printed, and what was not yet when Ctrl-C comes, goes
back to the group and is not counted as a failure. --json (or -o json) prints all
of a message as one object on one line, -o raw the payload alone.

With a COMMAND, each message is handled by one run of it, with the payload on
standard input (with --json: all of the message). If it exits with 0 the message
is acknowledged; otherwise it is rejected: it comes again later, and after the
last attempt goes to the dead letters. PRISM_MESSAGE_ID, PRISM_MESSAGE_ATTEMPT
and PRISM_MESSAGE_PLACE are in its environment.

To look at messages without taking them: prismctl topic tail, topic browse.`,
		Example: `  prismctl topic consume orders --group billing
  prismctl topic consume orders --group billing --limit 1 -o raw
  prismctl topic consume orders --group audit --wait 5s --json > orders.jsonl
  prismctl topic consume orders --group billing --concurrency 4 -- ./charge --quietly`,
		Args: func(c *cobra.Command, args []string) error {
			if dash := c.ArgsLenAtDash(); dash >= 0 && (dash != 1 || len(args) == 1) {
				return errors.New("a topic stands before --, and a command behind it")
			} else if dash < 0 {
				return cobra.ExactArgs(1)(c, args)
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			if err := o.check(len(args) > 1, c.Flags().Changed("concurrency")); err != nil {
				return err
			}
			return a.topics(c, func(ctx context.Context, t *client.Topics) error { return a.consume(ctx, c, t, o, args) })
		},
	}
	f := c.Flags()
	f.StringVar(&o.group, "group", "", "the group that gets each message once, whoever of it takes it")
	f.IntVar(&o.limit, "limit", 0, "end after so many messages")
	f.DurationVar(&o.wait, "wait", 0, "end when no message came for so long")
	f.IntVar(&o.concurrency, "concurrency", o.concurrency, "runs of the COMMAND at once")
	f.BoolVar(&o.asJSON, "json", false, "one object a line, with everything there is; as -o json")
	return c
}

type consumeFlags struct {
	group       string
	limit       int
	wait        time.Duration
	concurrency int
	asJSON      bool
}

func (o *consumeFlags) check(command, concurrencyGiven bool) error {
	switch {
	case o.group == "":
		return usage(nil, "say as one of which group: --group NAME; to take nothing: prismctl topic tail")
	case o.limit < 0:
		return usage(nil, "--limit is 0 (no end) or more")
	case o.wait < 0:
		return usage(nil, "--wait is a duration such as 5s, or 0 (no end)")
	case o.concurrency < 1 || o.concurrency > 1024:
		return usage(nil, "--concurrency is 1 to 1024")
	case concurrencyGiven && !command:
		return usage(nil, "--concurrency is for a command: consume TOPIC --group GROUP -- COMMAND")
	}
	return nil
}

// printAhead is how many messages are in hand while they are printed.
const printAhead = 256

// consume consumes until there is a reason to end.
func (a *app) consume(ctx context.Context, c *cobra.Command, t *client.Topics, o *consumeFlags, args []string) error {
	form, err := a.messageForm(o.asJSON)
	if err != nil {
		return err
	}
	w := &worker{consumeFlags: o, ctx: ctx, topic: args[0], errOut: c.ErrOrStderr()}
	atOnce := o.concurrency
	if len(args) > 1 {
		w.handle = (&command{words: args[1:], out: c.OutOrStdout(), errOut: c.ErrOrStderr(), asJSON: form == "json"}).run
	} else {
		// A broken pipe is to be an error like any other, so that what did
		// not go through it goes back.
		signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
		atOnce = printAhead
		p := printAtOnce(c.OutOrStdout(), form)
		var printing sync.Mutex
		w.handle = func(_ context.Context, d *client.Delivery) error {
			printing.Lock()
			defer printing.Unlock()
			if err := p.print(deliveredMessage(d)); err != nil {
				return &unable{err}
			}
			return nil
		}
	}
	if o.limit > 0 {
		atOnce = min(atOnce, o.limit)
	}
	return w.run(t, atOnce)
}

// unable is the error of a handler that fails for reasons of its own, which no
// message is to suffer from.
type unable struct{ err error }

func (u *unable) Error() string { return u.err.Error() }
func (u *unable) Unwrap() error { return u.err }

// A worker hands messages to handle until there is a reason to end.
type worker struct {
	*consumeFlags
	ctx    context.Context //nolint:containedctx // of the command: it ends with Ctrl-C
	topic  string
	errOut io.Writer
	handle func(ctx context.Context, d *client.Delivery) error // unable: nobody can, now

	ending context.Context //nolint:containedctx // ends when there is a reason to end
	end    context.CancelCauseFunc

	mu      sync.Mutex // guards what follows
	begun   int        // messages, of those that count
	running int
	told    bool // that it consumes
	quiet   *time.Timer
}

func (w *worker) run(t *client.Topics, atOnce int) error {
	w.ending, w.end = context.WithCancelCause(w.ctx)
	defer w.end(nil)
	w.quiet = time.AfterFunc(time.Hour, func() { w.end(errQuiet) })
	w.quiet.Stop()
	defer w.quiet.Stop()
	sub := &subscribing{errOut: w.errOut, end: w.end, stands: w.stands}
	err := t.Consume(w.ending, w.topic, w.group, w.work, client.KeepSealed(true), client.Concurrency(atOnce), client.MaxHandling(maxHandling),
		client.OnSession(sub.session), client.OnSettleError(w.unsettled))
	if err != nil || w.ctx.Err() != nil {
		return err
	}
	if why := context.Cause(w.ending); why != errEnough && why != errQuiet { //nolint:errorlint // they are not wrapped
		return why
	}
	return nil
}

// maxHandling is how long a command may take for one message.
const maxHandling = 12 * time.Hour

// work handles one message if it is wanted. One that is not goes back when all
// ends, and not before: it would come here again.
func (w *worker) work(ctx context.Context, d *client.Delivery) error {
	if !w.begin() {
		select {
		case <-w.ending.Done():
		case <-ctx.Done():
		}
		return client.GiveBack(errEnough)
	}
	defer w.finish()
	// A command ends with Ctrl-C, and when its message is nobody's any more.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(w.ctx, cancel)()
	err := w.handle(ctx, d)
	var own *unable
	switch {
	case errors.As(err, &own):
		w.end(own.err)
		return client.GiveBack(own.err)
	case err != nil && ctx.Err() != nil:
		return client.GiveBack(err)
	}
	return err
}

func (w *worker) begin() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ending.Err() != nil || w.limit > 0 && w.begun == w.limit {
		return false
	}
	w.quiet.Stop()
	w.begun++
	w.running++
	return true
}

func (w *worker) finish() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running--
	if w.limit > 0 && w.begun == w.limit && w.running == 0 {
		w.end(errEnough)
	}
	w.listen()
}

// listen begins to wait for a message, if nothing is being done.
func (w *worker) listen() {
	if w.wait > 0 && w.running == 0 {
		w.quiet.Reset(w.wait)
	}
}

// stands is told of each subscription.
func (w *worker) stands() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.told {
		w.told = true
		fmt.Fprintf(w.errOut, "prismctl: consuming %s in the group %s; stop with Ctrl-C\n", cell(w.topic), cell(w.group))
	}
	w.listen()
}

// firstTries is how often the first subscription is tried for.
const firstTries = 3

// subscribing follows how the subscriptions of one Consume fare, and ends it if
// the first one cannot be had.
type subscribing struct {
	errOut io.Writer
	end    context.CancelCauseFunc
	stands func() // is called when one stands

	up    atomic.Bool // one stands now
	stood bool        // one has stood
	tries int         // for the first one
}

func (s *subscribing) session(err error) {
	wasUp := s.up.Swap(err == nil)
	switch {
	case err == nil:
		s.stood = true
		s.stands()
	case !s.stood:
		if s.tries++; s.tries == firstTries {
			s.end(err)
		}
	case wasUp: // it is told once, however long it lasts
		fmt.Fprintf(s.errOut, "prismctl: %s; trying again\n", oneLine(errs.From(err).Error()))
	}
}

// unsettled is told of outcomes that nobody has taken note of.
func (w *worker) unsettled(d *client.Delivery, err error) {
	fmt.Fprintf(w.errOut, "prismctl: %s may come again: %s\n", deliveredMessage(d).place(), oneLine(err.Error()))
}
