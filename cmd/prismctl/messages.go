package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	"github.com/prismgw/prism/client"
	"github.com/prismgw/prism/envelope/text"
)

// A message is one of a topic, as it is shown.
type message struct {
	envelope   *envelopev1.PrismEnvelope // nil: it cannot be read
	unreadable string                    // why
	partition  int
	position   int64
	appended   time.Time         // zero of a delivery
	attempt    int               // 0 of a message that was not delivered
	headers    map[string]string // of a dead letter
}

func keptMessage(k *client.Kept) *message {
	return &message{
		envelope: k.Envelope, unreadable: k.Unreadable, partition: k.Partition, position: k.Position,
		appended: k.Appended, headers: k.Headers,
	}
}

func deliveredMessage(d *client.Delivery) *message {
	return &message{
		envelope: d.Envelope, unreadable: d.Unreadable, partition: d.Partition, position: d.Position,
		attempt: d.Attempt, headers: d.Headers,
	}
}

// place is where the message stands, as --from and --to take it.
func (m *message) place() string { return fmt.Sprintf("%d:%d", m.partition, m.position) }

// key is the partition key for people.
func (m *message) key() string {
	k := m.envelope.GetMetadata().GetPartitionKey()
	if k == nil {
		return "-"
	}
	return cell(string(k))
}

// payload is the payload for people, on one line.
func (m *message) payload() string {
	if m.envelope == nil {
		return "(unreadable: " + cell(m.unreadable) + ")"
	}
	return cell(string(m.envelope.GetPayload()))
}

// json is the message as an object on one line: the envelope, as package text
// has it, and what is known beside it.
func (m *message) json() ([]byte, error) {
	fields, err := m.fields()
	if err != nil {
		return nil, err
	}
	return plainJSON(fields)
}

// outcomeJSON is json with what was done with the message, and what it became.
func (m *message) outcomeJSON(outcome string, became *client.Published) ([]byte, error) {
	fields, err := m.fields()
	if err != nil {
		return nil, err
	}
	fields["outcome"] = outcome
	if became != nil {
		fields["became"] = map[string]any{"message_id": became.ID, "partition": became.Partition, "position": strconv.FormatInt(became.Position, 10), "duplicate": became.Duplicate}
	}
	return plainJSON(fields)
}

func (m *message) fields() (map[string]any, error) {
	fields := map[string]any{}
	if m.envelope != nil {
		raw, err := text.JSON(m.envelope)
		if err != nil {
			return nil, err
		}
		known := map[string]json.RawMessage{}
		if err := json.Unmarshal(raw, &known); err != nil {
			return nil, err
		}
		for name, value := range known {
			fields[name] = value
		}
	} else {
		fields["unreadable"] = m.unreadable
	}
	place := map[string]any{"partition": m.partition, "position": strconv.FormatInt(m.position, 10)}
	if !m.appended.IsZero() {
		place["appended_at"] = m.appended.UTC()
	}
	fields["place"] = place
	if m.attempt > 0 {
		fields["attempt"] = m.attempt
	}
	if len(m.headers) > 0 {
		fields["headers"] = m.headers
	}
	return fields, nil
}

// A messagePrinter prints messages: one object a line (json), the payloads
// (raw), a line for each, or a table.
type messagePrinter struct {
	out   *bufio.Writer
	form  string
	cells func(m *message) []string
	table *table // nil: each is printed at once
}

// printAtOnce returns a printer of messages that come now and then: each is
// written when it comes.
func printAtOnce(w io.Writer, form string) *messagePrinter {
	return &messagePrinter{out: bufio.NewWriter(w), form: form}
}

// printTable returns a printer of messages that are there.
func printTable(w io.Writer, form string, header []string, cells func(m *message) []string) *messagePrinter {
	out := bufio.NewWriterSize(w, 64<<10)
	return &messagePrinter{out: out, form: form, cells: cells, table: &table{out: out, rows: [][]string{header}}}
}

func (p *messagePrinter) print(m *message) error {
	if p.form == "table" && p.table != nil {
		return p.table.add(p.cells(m))
	}
	line, err := p.line(m)
	if err == nil {
		_, err = p.out.Write(append(line, '\n'))
	}
	if err != nil || p.table != nil {
		return err
	}
	return p.out.Flush()
}

func (p *messagePrinter) line(m *message) ([]byte, error) {
	switch p.form {
	case "json":
		return m.json()
	case "raw":
		return m.envelope.GetPayload(), nil
	}
	return fmt.Appendf(nil, "%s  %s  %s", m.place(), m.key(), m.payload()), nil
}

// close writes what is left. After a failure a table has no header without rows.
func (p *messagePrinter) close(failed error) error {
	if p.form == "table" && p.table != nil && (failed == nil || len(p.table.rows) > 1) {
		if err := p.table.flush(); err != nil {
			return err
		}
	}
	return p.out.Flush()
}

// messageForm is the form in which messages are printed.
func (a *app) messageForm(asJSON bool) (string, error) {
	if asJSON {
		a.output = "json"
	}
	if a.output == "yaml" {
		return "", usage(nil, "messages are printed with -o table, json or raw")
	}
	return cmp.Or(a.output, "table"), nil
}
