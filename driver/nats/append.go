package nats

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

var (
	// errInProcess is told by a stream with replicas that has taken in another
	// message of the same id, and does not yet know whether that will be stored.
	errInProcess = errs.New(errs.BackendUnavailable, "another record with this id is being appended at this moment; repeat this one")
	errNoSubject = errs.New(errs.ReadOnly, "the topic's stream is filled from others and takes no records itself")
)

// againEvery is how long to wait before an id in process is asked for again.
const againEvery = 2 * time.Millisecond

// Append implements driver.Topic. The records go out one behind the other, each
// a message that is acknowledged by itself; what comes on one connection the
// server stores in its order.
func (t *topic) Append(ctx context.Context, records []driver.Record, results []driver.AppendResult) {
	s, err := t.link.online(ctx)
	if err != nil {
		err = t.link.fail(ctx, err, true)
		for i := range results {
			results[i] = driver.AppendResult{Err: err}
		}
		return
	}
	calls := make([]*call, len(results))
	for i := range records {
		calls[i], results[i].Err = t.beginAppend(ctx, s, &records[i])
	}
	for i := range results {
		if calls[i] == nil {
			results[i] = driver.AppendResult{Err: results[i].Err}
		} else {
			results[i] = t.appended(ctx, s, calls[i])
		}
	}
	for i := range results {
		if errors.Is(results[i].Err, errInProcess) {
			t.settleID(ctx, s, records, results, i)
		}
	}
}

// beginAppend puts the message of a record on its way.
func (t *topic) beginAppend(ctx context.Context, s *session, r *driver.Record) (*call, error) {
	if err := t.refusal(r); err != nil {
		return nil, err
	}
	c := t.message(r)
	if err := s.begin(ctx, c); err != nil {
		return nil, t.fail(ctx, s, err, true)
	}
	return c, nil
}

// refusal returns why a record cannot be appended.
func (t *topic) refusal(r *driver.Record) error {
	if err := t.check(r.Partition); err != nil {
		return err
	}
	if t.subjects[r.Partition] == "" {
		return errNoSubject
	}
	if size := payload(r); size > t.set.maxValue {
		return errs.TooLarge("record", size, t.set.maxValue)
	}
	return nil
}

// payload is what counts for driver.LogGuarantees.MaxRecord.
func payload(r *driver.Record) int {
	size := len(r.Key) + len(r.Value)
	for i := range r.Headers {
		size += len(r.Headers[i].Name) + len(r.Headers[i].Value)
	}
	return size
}

// message returns the call that appends a record. It shares nothing with the
// record that can change: it may be written after the caller has gone.
func (t *topic) message(r *driver.Record) *call {
	return &call{subject: t.subjects[r.Partition], header: recordHeader(r, t.dedup), data: bytes.Clone(r.Value)}
}

// appended waits for an acknowledgement.
func (t *topic) appended(ctx context.Context, s *session, c *call) driver.AppendResult {
	m, err := s.wait(ctx, c)
	if err != nil {
		return driver.AppendResult{Err: t.fail(ctx, s, err, true)}
	}
	r, err := t.ackOf(m)
	if err != nil {
		return driver.AppendResult{Err: t.fail(ctx, s, notFound(err), true)}
	}
	return r
}

// ackOf reads an acknowledgement.
func (t *topic) ackOf(m *nats.Msg) (driver.AppendResult, error) {
	if err := topicStatus(m); err != nil {
		return driver.AppendResult{}, err
	}
	if seq, ok := quickAck(m.Data, t.stream); ok && !bytes.Contains(m.Data, []byte(`"duplicate"`)) {
		return driver.AppendResult{Position: driver.Position(seq)}, nil
	}
	var a struct {
		Stream    string              `json:"stream"`
		Seq       int64               `json:"seq"`
		Duplicate bool                `json:"duplicate"`
		Error     *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &a); err != nil {
		return driver.AppendResult{}, errs.Wrap(err, errs.OutcomeUnknown, "the backend acknowledged a record in an unknown form")
	}
	switch {
	case a.Error != nil && a.Error.ErrorCode == codeIDInProcess:
		return driver.AppendResult{}, errInProcess
	case a.Error != nil:
		return driver.AppendResult{}, ofAPI(a.Error)
	case a.Stream != t.stream:
		return driver.AppendResult{}, errs.New(errs.OutcomeUnknown, "something other than the topic's stream answered; nothing else may subscribe to its subjects")
	}
	return driver.AppendResult{Position: driver.Position(a.Seq), Duplicate: a.Duplicate}, nil
}

// topicStatus returns the error that an answer's status means, nil if it is
// data.
func topicStatus(m *nats.Msg) error {
	if len(m.Header) == 0 || len(m.Data) > 0 {
		return nil
	}
	switch status := latest(m.Header, "Status"); status {
	case "":
		return nil
	case "404":
		return errs.KeyNotFound
	case "503": // nobody subscribes: nothing was done
		return errNoLeader
	default:
		return errs.New(errs.BackendUnavailable, "the topic's stream answers with status %s", strings.ToValidUTF8(status, "?"))
	}
}

// settleID finds out what has become of the other record with the id of records[i].
// A record is appended again only if none of its partition follows it in the
// call, which it would stand behind.
func (t *topic) settleID(ctx context.Context, s *session, records []driver.Record, results []driver.AppendResult, i int) {
	r := &records[i]
	before := slices.IndexFunc(records[:i], func(x driver.Record) bool { return x.ID == r.ID })
	if before >= 0 && results[before].Err == nil {
		results[i] = driver.AppendResult{Position: results[before].Position, Duplicate: true}
		return
	}
	if slices.ContainsFunc(records[i+1:], func(x driver.Record) bool { return x.Partition == r.Partition }) {
		return
	}
	for errors.Is(results[i].Err, errInProcess) {
		select {
		case <-time.After(againEvery):
		case <-ctx.Done():
			return
		}
		c := t.message(r)
		if err := s.begin(ctx, c); err != nil {
			results[i].Err = t.fail(ctx, s, err, true)
			return
		}
		results[i] = t.appended(ctx, s, c)
	}
}
