package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	"github.com/prismgw/prism/client"
	"github.com/prismgw/prism/envelope/text"
	"github.com/prismgw/prism/errs"
)

func (a *app) queueCommand() *cobra.Command {
	return group("queue", "Put tasks into queues, take them out, and look at them",
		`  prismctl queue enqueue mails '{"to":"ann"}'
  prismctl queue receive mails
  prismctl queue browse mails.dlq`,
		a.enqueueCommand(), a.receiveCommand(), a.statCommand(), a.queueBrowseCommand())
}

func (a *app) enqueueCommand() *cobra.Command {
	var headers []string
	var delay time.Duration
	c := &cobra.Command{
		Use:   "enqueue QUEUE [PAYLOAD|-|@FILE]",
		Short: "Put a task into a queue and print its id",
		Long: `Enqueue puts a task into a queue, where it waits until somebody has done it.
The payload is PAYLOAD byte for byte, "-" takes it from standard input, @FILE
from a file. A task whose message-id was enqueued within the last ten minutes
is not put there again. Headers set fields of the message:
` + headerHelp(),
		Example: `  prismctl queue enqueue mails hello
  prismctl queue enqueue mails '{"to":"ann"}' --header content-type=application/json
  prismctl queue enqueue mails @letter.txt --header priority=9
  prismctl queue enqueue reminders call-ann --delay 2h`,
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
			return a.queues(c, func(ctx context.Context, q *client.Queues) error {
				got, err := q.EnqueueTask(ctx, args[0], client.NewTask{Message: q.Message(args[0], payload, opts...), Delay: delay})
				if err != nil {
					return err
				}
				return printOne(c.OutOrStdout(), a.form("raw"), enqueuedRow{args[0], got.ID, got.Duplicate})
			})
		},
	}
	c.Flags().StringArrayVar(&headers, "header", nil, "name=value: a field of the message; may be given several times")
	c.Flags().DurationVar(&delay, "delay", 0, "it can be received after that long; at most 720h")
	return c
}

// An enqueuedRow is a task that was enqueued.
type enqueuedRow struct {
	Queue     string `json:"queue" yaml:"queue"`
	ID        string `json:"message_id" yaml:"message_id"`
	Duplicate bool   `json:"duplicate,omitempty" yaml:"duplicate,omitempty"`
}

func (enqueuedRow) header() []string { return []string{"QUEUE", "MESSAGE-ID", "DUPLICATE"} }
func (r enqueuedRow) cells() []string {
	return []string{r.Queue, r.ID, strconv.FormatBool(r.Duplicate)}
}
func (r enqueuedRow) raw() []byte { return []byte(r.ID + "\n") }

func (a *app) receiveCommand() *cobra.Command {
	var asJSON bool
	var count int
	var wait time.Duration
	c := &cobra.Command{
		Use:   "receive QUEUE",
		Short: "Take tasks out of a queue and print them",
		Long: `Receive takes one task out of a queue and prints a line: its id and its payload,
shortened and quoted where a terminal needs that. --json (or -o json) prints all
of it as one object on one line, -o raw the payload alone. A task is
acknowledged, and gone, when it was printed; one that could not be printed goes
back. The dead letters of QUEUE are QUEUE.dlq.`,
		Example: `  prismctl queue receive mails
  prismctl queue receive mails --wait 10m -o raw
  prismctl queue receive mails.dlq --count 0 --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if count < 0 || wait < 0 {
				return usage(nil, "--count and --wait are 0 or more")
			}
			err := a.queues(c, func(ctx context.Context, q *client.Queues) error {
				if asJSON {
					a.output = "json"
				}
				if a.output == "yaml" {
					return usage(nil, "tasks are printed with -o table, json or raw")
				}
				return a.receiveTasks(ctx, c, q, args[0], count, wait)
			})
			if errors.Is(err, errs.Cancelled) && c.Context().Err() != nil {
				return nil // that is how waiting ends
			}
			return err
		},
	}
	f := c.Flags()
	f.BoolVar(&asJSON, "json", false, "one object a line, with everything there is; as -o json")
	f.IntVar(&count, "count", 1, "at most so many tasks; 0: all that are there")
	f.DurationVar(&wait, "wait", 0, "how long to wait for each; without it only what is there")
	return c
}

// receiveTasks takes and prints up to count tasks, all if it is 0. It takes one
// after the other, so that none is in hand that is not being printed.
func (a *app) receiveTasks(ctx context.Context, c *cobra.Command, q *client.Queues, queue string, count int, wait time.Duration) error {
	for n := 0; count == 0 || n < count; n++ {
		t, err := receiveTask(ctx, q, queue, wait)
		if err != nil {
			return err
		}
		if t == nil {
			fmt.Fprintf(c.ErrOrStderr(), "prismctl: there is no task in %s now\n", cell(queue))
			return nil
		}
		own := context.WithoutCancel(ctx) // what is in hand is settled in any case
		if err := a.printTask(c.OutOrStdout(), t); err != nil {
			return errors.Join(err, q.Return(own, t))
		}
		if err := q.Acknowledge(own, t); err != nil {
			return err
		}
	}
	return nil
}

// receiveTask waits for a task, nil if none comes.
func receiveTask(ctx context.Context, q *client.Queues, queue string, wait time.Duration) (*client.Task, error) {
	const longest = 2 * time.Second // so that Ctrl-C gives up none that is on its way for long
	for end := time.Now().Add(wait); ; {
		tasks, err := q.Receive(ctx, queue, 1, min(longest, max(0, time.Until(end))))
		switch {
		case err != nil:
			return nil, err
		case len(tasks) > 0:
			return tasks[0], nil
		case !time.Now().Before(end):
			return nil, nil //nolint:nilnil // none came
		}
	}
}

func (a *app) printTask(w io.Writer, t *client.Task) (err error) {
	var line []byte
	switch a.form("table") {
	case "json":
		line, err = taskJSON(t.Envelope, taskFields{Attempt: t.Attempt, Position: t.Position, Enqueued: t.Enqueued.UTC(), Headers: t.Headers, Unreadable: t.Unreadable})
	case "raw":
		line = t.Payload()
	default:
		line = []byte(t.Envelope.GetMetadata().GetMessageId() + "  " + cell(string(t.Payload())))
		if t.Unreadable != "" {
			line = []byte("(unreadable)  " + cell(t.Unreadable))
		}
	}
	if err != nil {
		return err
	}
	_, err = w.Write(append(line, '\n'))
	return err
}

// taskFields are what belongs to a task beside its envelope.
type taskFields struct {
	Attempt    int               `json:"attempt,omitempty" yaml:"attempt,omitempty"`
	Attempts   *int              `json:"attempts,omitempty" yaml:"attempts,omitempty"`
	Delay      string            `json:"delay,omitempty" yaml:"delay,omitempty"`
	Position   int64             `json:"position" yaml:"position"`
	Enqueued   time.Time         `json:"enqueued_at" yaml:"enqueued_at"`
	Headers    map[string]string `json:"headers,omitempty" yaml:"headers,omitempty"`
	Unreadable string            `json:"unreadable,omitempty" yaml:"unreadable,omitempty"`
}

// taskJSON is the envelope with the other fields after its own, on one line.
func taskJSON(e *envelopev1.PrismEnvelope, more taskFields) ([]byte, error) {
	rest, err := plainJSON(more)
	if err != nil || e == nil {
		return rest, err
	}
	line, err := text.JSON(e)
	if err != nil {
		return nil, err
	}
	if string(line) == "{}" {
		return rest, nil
	}
	return append(append(line[:len(line)-1], ','), rest[1:]...), nil
}

func (a *app) statCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "stat QUEUE",
		Short:   "Count the tasks of a queue",
		Example: "  prismctl queue stat mails",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.queues(c, func(ctx context.Context, q *client.Queues) error {
				s, err := q.Stat(ctx, args[0])
				if err != nil {
					return err
				}
				r := statRow{Queue: args[0], Ready: s.Ready, Delayed: s.Delayed, Leased: s.Leased, Dead: s.DeadLetters}
				if !s.Oldest.IsZero() {
					at := s.Oldest.UTC()
					r.Oldest = &at
				}
				return printOne(c.OutOrStdout(), a.form("table"), r)
			})
		},
	}
}

// A statRow counts the tasks of a queue.
type statRow struct {
	Queue   string     `json:"queue" yaml:"queue"`
	Ready   int64      `json:"ready" yaml:"ready"`
	Delayed int64      `json:"delayed" yaml:"delayed"`
	Leased  int64      `json:"leased" yaml:"leased"`
	Dead    int64      `json:"dead_letters" yaml:"dead_letters"`
	Oldest  *time.Time `json:"oldest,omitempty" yaml:"oldest,omitempty"` // of the ready ones
}

func (statRow) header() []string {
	return []string{"QUEUE", "READY", "DELAYED", "LEASED", "DEAD-LETTERS", "OLDEST"}
}

func (r statRow) cells() []string {
	oldest := "-"
	if r.Oldest != nil {
		oldest = r.Oldest.Format(time.RFC3339)
	}
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	return []string{r.Queue, number(r.Ready), number(r.Delayed), number(r.Leased), number(r.Dead), oldest}
}

func (r statRow) raw() []byte { return []byte(strconv.FormatInt(r.Ready, 10) + "\n") }

func (a *app) queueBrowseCommand() *cobra.Command {
	limit := 100
	c := &cobra.Command{
		Use:   "browse QUEUE",
		Short: "List the tasks of a queue and take none",
		Long: `Browse lists tasks in the order in which they came, those in somebody's hands
and those that rest too. The dead letters of QUEUE are QUEUE.dlq; of each,
-o json says why it is one. -o raw prints the payloads alone.`,
		Example: `  prismctl queue browse mails
  prismctl queue browse mails.dlq -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if limit < 0 {
				return usage(nil, "--limit is 0 (all) or more")
			}
			return a.queues(c, func(ctx context.Context, q *client.Queues) error {
				p := newPrinter(c.OutOrStdout(), a.form("table"), true, taskRow{}.header())
				n := 0
				for t, err := range q.Browse(ctx, args[0]) {
					if err == nil {
						err = p.add(taskRow{t})
					}
					if err != nil {
						return err
					}
					if n++; n == limit {
						break
					}
				}
				return p.close()
			})
		},
	}
	c.Flags().IntVar(&limit, "limit", limit, "at most so many; 0: all")
	return c
}

// A taskRow is a task as it stands in a queue.
type taskRow struct{ client.QueuedTask }

func (taskRow) header() []string {
	return []string{"POSITION", "MESSAGE-ID", "ATTEMPTS", "DELAY", "PAYLOAD"}
}

func (r taskRow) cells() []string {
	delay, payload := "-", cell(string(r.Envelope.GetPayload()))
	if r.Delay > 0 {
		delay = r.Delay.Round(time.Second).String()
	}
	if r.Unreadable != "" {
		payload = "(unreadable) " + cell(r.Unreadable)
	}
	return []string{strconv.FormatInt(r.Position, 10), r.Envelope.GetMetadata().GetMessageId(), strconv.Itoa(r.Attempts), delay, payload}
}

func (r taskRow) raw() []byte { return append(r.Envelope.GetPayload(), '\n') }

func (r taskRow) fields() taskFields {
	f := taskFields{Attempts: &r.Attempts, Position: r.Position, Enqueued: r.Enqueued.UTC(), Headers: r.Headers, Unreadable: r.Unreadable}
	if r.Delay > 0 {
		f.Delay = r.Delay.String()
	}
	return f
}

// MarshalJSON writes it as receive prints tasks.
func (r taskRow) MarshalJSON() ([]byte, error) { return taskJSON(r.Envelope, r.fields()) }

// MarshalYAML writes what MarshalJSON does.
func (r taskRow) MarshalYAML() (any, error) {
	raw, err := r.MarshalJSON()
	if err != nil {
		return nil, err
	}
	var fields map[string]any
	return fields, json.Unmarshal(raw, &fields)
}

// queues calls do with the namespace's queues.
func (a *app) queues(c *cobra.Command, do func(ctx context.Context, q *client.Queues) error) error {
	return a.dial(c, func(ctx context.Context, conn *client.Client) error { return do(ctx, conn.Queues("")) })
}
