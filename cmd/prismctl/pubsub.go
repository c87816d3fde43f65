package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	"github.com/prismgw/prism/client"
	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/envelope/text"
	"github.com/prismgw/prism/errs"
)

func (a *app) pubsubCommand() *cobra.Command {
	return group("pubsub", "Publish messages and listen to them",
		`  prismctl pubsub subscribe 'orders.>'
  prismctl pubsub publish orders.eu.placed '{"items":3}'`,
		a.publishCommand(), a.subscribeCommand())
}

func (a *app) publishCommand() *cobra.Command {
	var headers []string
	c := &cobra.Command{
		Use:   "publish SUBJECT [PAYLOAD|-|@FILE]",
		Short: "Publish a message and print its id",
		Long: `Publish tells a message to whoever listens now, at most once; nobody keeps it.
The payload is PAYLOAD byte for byte, "-" takes it from standard input, @FILE
from a file. Headers set fields of the message:
` + headerHelp(),
		Example: `  prismctl pubsub publish orders.eu.placed hello
  prismctl pubsub publish orders.eu.placed '{"items":3}' --header content-type=application/json
  prismctl pubsub publish logs.boot @/var/log/boot.log --header ttl=1h --header label-tier=gold
  echo hello | prismctl pubsub publish orders.eu.placed -`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			opts, err := fields(headers)
			if err != nil {
				return err
			}
			payload, err := readPayload(c.InOrStdin(), args[1:])
			if err != nil {
				return err
			}
			return a.pubsub(c, func(ctx context.Context, p *client.PubSub) error {
				id, err := p.Publish(ctx, args[0], payload, opts...)
				if err != nil {
					return err
				}
				return printOne(c.OutOrStdout(), a.form("raw"), publishedRow{args[0], id})
			})
		},
	}
	c.Flags().StringArrayVar(&headers, "header", nil, "name=value: a field of the message; may be given several times")
	return c
}

// headerHelp lists the headers in lines of a screen's width.
func headerHelp() string {
	var b strings.Builder
	width := 0
	for _, name := range text.Names() {
		if strings.HasSuffix(name, "-") {
			name += "NAME"
		}
		if width+len(name) > 72 {
			b.WriteString("\n")
			width = 0
		}
		if width == 0 {
			b.WriteString(" ")
		}
		b.WriteString(" " + name)
		width += len(name) + 1
	}
	return b.String()
}

// fields returns the options that headers mean.
func fields(headers []string) (opts []envelope.Option, err error) {
	for _, h := range headers {
		name, value, ok := strings.Cut(h, "=")
		if !ok {
			return nil, usage(nil, "--header is name=value, such as content-type=application/json")
		}
		if err := text.SetHeader(new(envelopev1.PrismEnvelope), name, value); err != nil {
			return nil, usage(err, "correct --header; see: prismctl pubsub publish --help")
		}
		opts = append(opts, func(e *envelopev1.PrismEnvelope) { _ = text.SetHeader(e, name, value) }) // it was tried
	}
	return opts, nil
}

func readPayload(stdin io.Reader, arg []string) ([]byte, error) {
	if len(arg) == 0 {
		return nil, nil
	}
	if file, ok := strings.CutPrefix(arg[0], "@"); ok {
		return readValue(stdin, nil, file)
	}
	return readValue(stdin, arg, "")
}

// A publishedRow is a message that was published.
type publishedRow struct {
	Subject string `json:"subject" yaml:"subject"`
	ID      string `json:"message_id,omitempty" yaml:"message_id,omitempty"` // none in the layout native
}

func (publishedRow) header() []string  { return []string{"SUBJECT", "MESSAGE-ID"} }
func (r publishedRow) cells() []string { return []string{r.Subject, r.ID} }

func (r publishedRow) raw() []byte {
	if r.ID == "" {
		return nil
	}
	return []byte(r.ID + "\n")
}

func (a *app) subscribeCommand() *cobra.Command {
	var inGroup string
	var asJSON bool
	var count int
	c := &cobra.Command{
		Use:   "subscribe FILTER",
		Short: "Print messages as they come, until Ctrl-C",
		Long: `Subscribe listens from now on and prints a line for each message: its subject
and its payload, shortened and quoted where a terminal needs that. --json (or
-o json) prints all of a message as one object on one line, -o raw the payload
alone. In FILTER a token may be * for any one, and the last may be > for the
rest; quote it for the shell. Messages come at most once; where some were
missed, a line on standard error says so (with --json: {"missed": 3}).`,
		Example: `  prismctl pubsub subscribe 'orders.>'
  prismctl pubsub subscribe 'orders.*.placed' --json
  prismctl pubsub subscribe jobs.new --group workers
  prismctl pubsub subscribe orders.placed --count 1 -o raw`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if count < 0 {
				return usage(nil, "--count is 0 (no end) or more")
			}
			var opts []client.SubscribeOption
			if inGroup != "" {
				opts = append(opts, client.Group(inGroup))
			}
			err := a.pubsub(c, func(ctx context.Context, p *client.PubSub) error {
				if asJSON {
					a.output = "json"
				}
				if a.output == "yaml" {
					return usage(nil, "messages are printed with -o table, json or raw")
				}
				sub, err := p.Subscribe(ctx, args[0], opts...)
				if err != nil {
					return err
				}
				fmt.Fprintf(c.ErrOrStderr(), "prismctl: listening to %s; stop with Ctrl-C\n", cell(args[0]))
				return errors.Join(a.printMessages(c, sub, count), sub.Close())
			})
			if errors.Is(err, errs.Cancelled) && c.Context().Err() != nil {
				return nil // that is how it ends
			}
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&inGroup, "group", "", "share the messages with whoever listens in the same group to the same filter")
	f.BoolVar(&asJSON, "json", false, "one object a line, with everything there is; as -o json")
	f.IntVar(&count, "count", 0, "end after so many messages")
	return c
}

// printMessages prints up to count messages, all if it is 0, each at once.
func (a *app) printMessages(c *cobra.Command, sub *client.Subscription, count int) error {
	n := 0
	for m, err := range sub.Messages() {
		if err == nil {
			err = a.printMessage(c, &m)
		}
		if err != nil {
			return err
		}
		if m.Missed != 0 {
			continue
		}
		if n++; n == count {
			return nil
		}
	}
	return nil
}

func (a *app) printMessage(c *cobra.Command, m *client.Message) (err error) {
	form := a.form("table")
	var line []byte
	switch {
	case m.Missed != 0 && form != "json":
		_, err = fmt.Fprintf(c.ErrOrStderr(), "prismctl: %s\n", gap(m.Missed))
		return err
	case m.Missed > 0:
		line = fmt.Appendf(nil, `{"missed":%d}`, m.Missed)
	case m.Missed < 0:
		line = []byte(`{"missed":"unknown"}`)
	case form == "json":
		if line, err = text.JSON(m.Envelope); err != nil {
			return err
		}
	case form == "raw":
		line = m.Payload
	default:
		line = []byte(cell(m.Subject) + "  " + cell(string(m.Payload)))
	}
	_, err = c.OutOrStdout().Write(append(line, '\n'))
	return err
}

// gap says how many messages were missed.
func gap(missed int64) string {
	switch {
	case missed < 0:
		return "messages may have been missed here; nobody knows how many"
	case missed == 1:
		return "a message was missed here"
	}
	return fmt.Sprintf("%d messages were missed here", missed)
}

// pubsub calls do with the namespace's messages.
func (a *app) pubsub(c *cobra.Command, do func(ctx context.Context, p *client.PubSub) error) error {
	return a.dial(c, func(ctx context.Context, conn *client.Client) error { return do(ctx, conn.PubSub("")) })
}
