package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/prismgw/prism/client"
)

// What servers call the dead letters of a topic, and the group that remembers
// which of them are done with.
const (
	deadSuffix = ".dlq"
	deadGroup  = "prism-dlq"
)

// The headers of a dead letter that tell its story.
const (
	deadReason    = "prism-dead-reason"
	deadAt        = "prism-dead-at"
	deadAttempts  = "prism-dead-attempts"
	deadOfGroup   = "prism-dead-group"
	deadPartition = "prism-dead-partition"
	deadPosition  = "prism-dead-position"
	deadLeft      = "prism-dead-left-behind"
)

func (a *app) dlqCommand() *cobra.Command {
	return group("dlq", "Look at dead letters, publish them again, or drop them",
		`  prismctl dlq list orders
  prismctl dlq show orders 17
  prismctl dlq redrive orders --match timeout --dry-run
  prismctl dlq redrive orders --match timeout
  prismctl dlq drop orders --match customer`,
		a.dlqListCommand(), a.dlqShowCommand(), a.redriveCommand(), a.dropCommand())
}

// lettersOf is the topic of a topic's dead letters.
func lettersOf(topic string) (string, error) {
	if of, is := strings.CutSuffix(topic, deadSuffix); is {
		return "", usage(nil, "name the topic whose dead letters they are: %s", cell(of))
	}
	return topic + deadSuffix, nil
}

// story is one header of a dead letter.
func (m *message) story(name string) string { return cmp.Or(m.headers[name], "?") }

// payloadOrWhere is the payload for people, or where to find it.
func (m *message) payloadOrWhere() string {
	if m.headers[deadLeft] != "" {
		return "(too large to be moved; it stands at " + m.origin() + ")"
	}
	return m.payload()
}

// origin is where the message stood when it died.
func (m *message) origin() string { return m.story(deadPartition) + ":" + m.story(deadPosition) }

func (a *app) dlqListCommand() *cobra.Command {
	var limit int64
	var all, asJSON bool
	c := &cobra.Command{
		Use:   "list TOPIC",
		Short: "List the dead letters of a topic; takes nothing",
		Long: `List shows the dead letters of a topic that were neither redriven nor dropped,
the oldest first: where each stands, when it died, after how many attempts of
which group, where it stood, and why. --json (or -o json) prints all of each as
one object on one line, -o raw the payloads alone.

It begins at the oldest one that is not done with, and takes nothing. Where
redrive or drop was run with --match, dead letters behind that may be done with
and are listed all the same, until those before them are too: which they are,
only the group ` + deadGroup + ` itself knows. It says so for a redrive with --dry-run.`,
		Example: `  prismctl dlq list orders
  prismctl dlq list orders --limit 10 --json
  prismctl dlq list orders --all`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			letters, err := lettersOf(args[0])
			if err != nil {
				return err
			}
			if limit < 0 {
				return usage(nil, "--limit is 0 (no limit) or more")
			}
			return a.topics(c, func(ctx context.Context, t *client.Topics) error {
				form, err := a.messageForm(asJSON)
				if err != nil {
					return err
				}
				from := client.AtGroup(deadGroup)
				if all {
					from = client.Start{}
				}
				p := printTable(c.OutOrStdout(), form, []string{"POSITION", "DIED", "ATTEMPTS", "GROUP", "STOOD-AT", "KEY", "REASON", "PAYLOAD"}, letterCells)
				err = printAll(ctx, t, letters, client.Browsing{From: from, Limit: limit}, p)
				return errors.Join(err, p.close(err))
			})
		},
	}
	f := c.Flags()
	f.Int64Var(&limit, "limit", 0, "end after so many")
	f.BoolVar(&all, "all", false, "also those before, which were redriven or dropped")
	f.BoolVar(&asJSON, "json", false, "one object a line, with everything there is; as -o json")
	return c
}

func letterCells(m *message) []string {
	died := m.story(deadAt)
	if at, err := time.Parse(time.RFC3339Nano, died); err == nil {
		died = at.UTC().Format(time.RFC3339)
	}
	return []string{
		strconv.FormatInt(m.position, 10), died, m.story(deadAttempts), m.story(deadOfGroup), m.origin(),
		m.key(), cell(m.story(deadReason)), m.payloadOrWhere(),
	}
}

func (a *app) dlqShowCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "show TOPIC POSITION",
		Short: "Show all of a dead letter; takes nothing",
		Long: `Show prints all that is known of one dead letter, which dlq list names by its
position. -o raw prints its payload byte for byte.`,
		Example: `  prismctl dlq show orders 17
  prismctl dlq show orders 17 --json
  prismctl dlq show orders 17 -o raw > payload`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			letters, err := lettersOf(args[0])
			if err != nil {
				return err
			}
			at, err := strconv.ParseInt(args[1], 10, 64)
			if err != nil || at < 1 {
				return usage(nil, "POSITION is a number from 1, as dlq list shows it, not %q", args[1])
			}
			return a.topics(c, func(ctx context.Context, t *client.Topics) error {
				form, err := a.messageForm(asJSON)
				if err != nil {
					return err
				}
				m, err := messageAt(ctx, t, letters, 0, at)
				if err != nil {
					return err
				}
				return showLetter(c.OutOrStdout(), form, m)
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "one object, with everything there is; as -o json")
	return c
}

// messageAt returns the message that stands at a position.
func messageAt(ctx context.Context, t *client.Topics, topic string, partition int, at int64) (*message, error) {
	from := client.At(map[int]int64{partition: at})
	for k, err := range t.Browse(ctx, topic, client.Browsing{From: from, Partitions: []int{partition}, Limit: 1}) {
		if err != nil {
			return nil, err
		}
		if k.Position == at {
			return keptMessage(&k), nil
		}
	}
	return nil, fmt.Errorf("no message stands at %d:%d of %s", partition, at, topic)
}

// showLetter prints all of a dead letter.
func showLetter(w io.Writer, form string, m *message) error {
	switch form {
	case "raw":
		_, err := w.Write(m.envelope.GetPayload())
		return err
	case "json":
		line, err := m.json()
		if err == nil {
			_, err = w.Write(append(line, '\n'))
		}
		return err
	}
	meta := m.envelope.GetMetadata()
	rows := [][2]string{
		{"position", strconv.FormatInt(m.position, 10)},
		{"reason", cell(m.story(deadReason))},
		{"died at", m.story(deadAt)},
		{"attempts", m.story(deadAttempts)},
		{"group", m.story(deadOfGroup)},
		{"stood at", m.origin()},
		{"message id", cmp.Or(meta.GetMessageId(), "-")},
		{"key", m.key()},
		{"published at", published(meta.GetPublishedAtMs())},
		{"publisher", cmp.Or(cell(m.envelope.GetSecurity().GetPublisherId()), "-")},
		{"content type", strings.ToLower(strings.TrimPrefix(meta.GetContentType().String(), "CONTENT_TYPE_"))},
		{"bytes", strconv.Itoa(len(m.envelope.GetPayload()))},
		{"payload", m.payloadOrWhere()},
	}
	for _, row := range rows {
		if _, err := fmt.Fprintf(w, "%-13s %s\n", row[0], row[1]); err != nil {
			return err
		}
	}
	return nil
}

func published(ms int64) string {
	if ms == 0 {
		return "-"
	}
	return time.UnixMilli(ms).UTC().Format(time.RFC3339Nano)
}
