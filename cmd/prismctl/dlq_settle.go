package main

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/prismgw/prism/client"
)

// matchHelp is what whoever leaves some out has to know.
const matchHelp = `With --match, those that do not match stay in hand until the end, and then go
back uncounted. A group goes at most 8,192 positions beyond the oldest one that
stays; a run that therefore does not come to all of them fails and says so.`

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
rights to consume and to publish.

` + matchHelp,
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
meanwhile. It needs the right to consume.

` + matchHelp,
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
