package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/prismgw/prism/client"
	"github.com/prismgw/prism/envelope"
)

func (a *app) topicCommand() *cobra.Command {
	return group("topic", "Publish messages that are kept, consume them, look at them",
		`  prismctl topic publish orders '{"items":3}' --header content-type=application/json
  prismctl topic consume orders --group billing
  prismctl topic tail orders
  prismctl topic browse orders --from 10m`,
		a.topicPublishCommand(), a.consumeCommand(), a.tailCommand(), a.browseCommand(), a.seekCommand())
}

// topics calls do with the namespace's topics.
func (a *app) topics(c *cobra.Command, do func(ctx context.Context, t *client.Topics) error) error {
	return a.dial(c, func(ctx context.Context, conn *client.Client) error { return do(ctx, conn.Topics("")) })
}

func (a *app) topicPublishCommand() *cobra.Command {
	var headers []string
	var key string
	var lines, verbose bool
	c := &cobra.Command{
		Use:   "publish TOPIC [PAYLOAD|-|@FILE]",
		Short: "Add a message to a topic and print where it stands",
		Long: `Publish adds a message to a topic, where it is kept, and prints its id and the
partition and position at which it stands; -o raw prints the id alone. The
payload is PAYLOAD byte for byte, "-" takes it from standard input, @FILE from
a file. Messages with the same --key keep their order.

With --lines each line of standard input or of the file is a message, up to
1,000 of them in a call; blank lines are left out. Those that are refused are
reported with their line, and the others are published all the same. Running it
again publishes all of them again.

Headers set fields of the message:
` + headerHelp(),
		Example: `  prismctl topic publish orders hello --key alice
  prismctl topic publish orders '{"items":3}' --header content-type=application/json
  prismctl topic publish orders @/etc/hostname --header ttl=1h --header label-tier=gold
  echo hello | prismctl topic publish orders -
  prismctl topic publish words @/usr/share/dict/words --lines`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			opts, err := fields(headers)
			if err != nil {
				return err
			}
			if c.Flags().Changed("key") {
				opts = append(opts, envelope.WithPartitionKey([]byte(key)))
			}
			if lines {
				l := &linePublisher{topic: args[0], opts: opts}
				if slices.ContainsFunc(headers, func(h string) bool { return strings.HasPrefix(strings.ToLower(h), "message-id=") }) {
					return usage(nil, "--lines makes many messages, and message-id is that of one")
				}
				return a.publishLines(c, l, args[1:], verbose)
			}
			payload, err := readPayload(c.InOrStdin(), args[1:])
			if err != nil {
				return err
			}
			return a.topics(c, func(ctx context.Context, t *client.Topics) error {
				p, err := t.Publish(ctx, args[0], payload, opts...)
				if err != nil {
					return err
				}
				return printOne(c.OutOrStdout(), a.form("table"), keptRow{args[0], p.ID, p.Partition, p.Position, p.Duplicate})
			})
		},
	}
	f := c.Flags()
	f.StringVar(&key, "key", "", "messages with the same key keep their order")
	f.StringArrayVar(&headers, "header", nil, "name=value: a field of the message; may be given several times")
	f.BoolVar(&lines, "lines", false, "each line is a message")
	f.BoolVarP(&verbose, "verbose", "v", false, "with --lines, where there is no terminal: report progress in plain lines")
	return c
}

// A keptRow is a message that stands in a topic.
type keptRow struct {
	Topic     string `json:"topic" yaml:"topic"`
	ID        string `json:"message_id" yaml:"message_id"`
	Partition int    `json:"partition" yaml:"partition"`
	Position  int64  `json:"position,string,omitempty" yaml:"position,omitempty"` // none of a duplicate whose place nobody knows
	Duplicate bool   `json:"duplicate" yaml:"duplicate"`
}

func (keptRow) header() []string { return []string{"MESSAGE-ID", "PARTITION", "POSITION", "NOTE"} }

func (r keptRow) cells() []string {
	position, note := "?", ""
	if r.Position > 0 {
		position = strconv.FormatInt(r.Position, 10)
	}
	if r.Duplicate {
		note = "it stood there already"
	}
	return []string{r.ID, strconv.Itoa(r.Partition), position, note}
}

func (r keptRow) raw() []byte { return []byte(r.ID + "\n") }

func (a *app) seekCommand() *cobra.Command {
	var inGroup, to string
	c := &cobra.Command{
		Use:   "seek TOPIC --group GROUP --to PLACE",
		Short: "Move a group to another place in a topic",
		Long: `Seek lets a group go on at another place: what stands before it is left out,
what stands behind it comes, also if it has come before. What consumers of the
group have in hand may come again. PLACE is one of
` + placeHelp,
		Example: `  prismctl topic seek orders --group billing --to earliest
  prismctl topic seek orders --group billing --to 2026-01-31T12:00:00Z
  prismctl topic seek orders --group billing --to 10m
  prismctl topic seek orders --group billing --to 0:17,1:1`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if inGroup == "" || to == "" {
				return usage(nil, "say which group and where to: --group NAME --to earliest|latest|TIME|10m|PARTITION:POSITION")
			}
			start, err := startOf("--to", to, time.Now())
			if err != nil {
				return err
			}
			return a.topics(c, func(ctx context.Context, t *client.Topics) error {
				if err := t.Seek(ctx, args[0], inGroup, start); err != nil {
					return err
				}
				return printOne(c.OutOrStdout(), a.form("raw"), soughtRow{args[0], inGroup, to})
			})
		},
	}
	c.Flags().StringVar(&inGroup, "group", "", "the group that moves")
	c.Flags().StringVar(&to, "to", "", "where to")
	return c
}

// A soughtRow is a group that was moved.
type soughtRow struct {
	Topic string `json:"topic" yaml:"topic"`
	Group string `json:"group" yaml:"group"`
	To    string `json:"to" yaml:"to"`
}

func (soughtRow) header() []string  { return []string{"TOPIC", "GROUP", "TO"} }
func (r soughtRow) cells() []string { return []string{r.Topic, r.Group, r.To} }

func (r soughtRow) raw() []byte {
	return fmt.Appendf(nil, "%s goes on in %s at %s\n", r.Group, r.Topic, r.To)
}

// placeHelp says what startOf understands.
const placeHelp = `  earliest               the oldest message that is there
  latest                 what is published from now on
  2026-01-31T12:00:00Z   the first message that is not older
  10m                    the first message of the last ten minutes
  0:17,1:4               these positions of these partitions, and the oldest
                         message in all others`

// startOf reads a place in a topic that a flag names.
func startOf(flag, s string, now time.Time) (client.Start, error) {
	switch s {
	case "earliest":
		return client.Start{}, nil
	case "latest":
		return client.Latest(), nil
	}
	if at, err := time.Parse(time.RFC3339, s); err == nil {
		return client.Since(at), nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return client.Since(now.Add(-d)), nil
	}
	places := map[int]int64{}
	for one := range strings.SplitSeq(s, ",") {
		partition, position, _ := strings.Cut(one, ":")
		p, err := strconv.ParseInt(partition, 10, 32)
		at, err2 := strconv.ParseInt(position, 10, 64)
		_, twice := places[int(p)]
		if cmp.Or(err, err2) != nil || twice || p < 0 || at < 1 {
			return client.Start{}, usage(nil, "%s is earliest, latest, a time such as 2026-01-31T12:00:00Z, a time ago such as 10m, or PARTITION:POSITION such as 0:17, not %q", flag, s)
		}
		places[int(p)] = at
	}
	return client.At(places), nil
}
