package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/prismgw/prism/client"
	"github.com/prismgw/prism/errs"
)

// looking is what browse and tail share.
type looking struct {
	partitions []int
	limit      int64
	asJSON     bool
}

func (l *looking) addFlags(c *cobra.Command) {
	f := c.Flags()
	f.IntSliceVar(&l.partitions, "partition", nil, "only this partition; may be given several times")
	f.Int64Var(&l.limit, "limit", 0, "end after so many messages")
	f.BoolVar(&l.asJSON, "json", false, "one object a line, with everything there is; as -o json")
}

func (l *looking) check() error {
	if l.limit < 0 {
		return usage(nil, "--limit is 0 (no end) or more")
	}
	return nil
}

func (a *app) browseCommand() *cobra.Command {
	var l looking
	var from string
	c := &cobra.Command{
		Use:   "browse TOPIC",
		Short: "Print the messages that stand in a topic; takes nothing",
		Long: `Browse prints the messages that stand in a topic now, one partition after the
other, each in its order. It takes them from nobody: no group is needed and none
moves. Tables show keys and payloads shortened and quoted; --json (or -o json)
prints all of a message as one object on one line, -o raw the payloads alone.
--from is one of
` + placeHelp,
		Example: `  prismctl topic browse orders
  prismctl topic browse orders --from 10m --json
  prismctl topic browse orders --from 0:17 --partition 0 --limit 1
  prismctl topic browse orders.dlq`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			start, err := startOf("--from", from, time.Now())
			if err := errors.Join(err, l.check()); err != nil {
				return err
			}
			return a.topics(c, func(ctx context.Context, t *client.Topics) error {
				form, err := a.messageForm(l.asJSON)
				if err != nil {
					return err
				}
				p := printTable(c.OutOrStdout(), form, []string{"PLACE", "APPENDED", "KEY", "PAYLOAD"}, func(m *message) []string {
					return []string{m.place(), m.appended.UTC().Format(time.RFC3339), m.key(), m.payload()}
				})
				err = printAll(ctx, t, args[0], client.Browsing{From: start, Partitions: l.partitions, Limit: l.limit}, p)
				return errors.Join(err, p.close(err))
			})
		},
	}
	l.addFlags(c)
	c.Flags().StringVar(&from, "from", "earliest", "where to begin")
	return c
}

func (a *app) tailCommand() *cobra.Command {
	var l looking
	c := &cobra.Command{
		Use:   "tail TOPIC",
		Short: "Print messages as they are published, until Ctrl-C; takes nothing",
		Long: `Tail prints a line for each message that is published from now on: its place,
its key and its payload, shortened and quoted where a terminal needs that. It
takes them from nobody: no group is needed and none moves. --json (or -o json)
prints all of a message as one object on one line, -o raw the payload alone.
A connection that breaks is replaced, and nothing is left out.`,
		Example: `  prismctl topic tail orders
  prismctl topic tail orders --json
  prismctl topic tail orders --limit 1 -o raw`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := l.check(); err != nil {
				return err
			}
			err := a.topics(c, func(ctx context.Context, t *client.Topics) error {
				form, err := a.messageForm(l.asJSON)
				if err != nil {
					return err
				}
				return printAll(ctx, t, args[0], client.Browsing{
					From: client.Latest(), Partitions: l.partitions, Limit: l.limit, Follow: true,
					Begun: func(map[int]int64) {
						fmt.Fprintf(c.ErrOrStderr(), "prismctl: following %s; stop with Ctrl-C\n", cell(args[0]))
					},
				}, printAtOnce(c.OutOrStdout(), form))
			})
			return unlessInterrupted(c, err)
		},
	}
	l.addFlags(c)
	return c
}

// printAll prints what a browse returns.
func printAll(ctx context.Context, t *client.Topics, topic string, what client.Browsing, p *messagePrinter) error {
	for k, err := range t.Browse(ctx, topic, what) {
		if err == nil {
			err = p.print(keptMessage(&k))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// unlessInterrupted returns err unless Ctrl-C is what it comes from, for verbs
// that end that way.
func unlessInterrupted(c *cobra.Command, err error) error {
	if errors.Is(err, errs.Cancelled) && c.Context().Err() != nil {
		return nil
	}
	return err
}
