package nats

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// Headers of messages.
const (
	expiresHeader   = "Prism-Expires" // milliseconds of Unix time
	ttlHeader       = jetstream.MsgTTLHeader
	expectHeader    = jetstream.ExpectedLastSubjSeqHeader
	operationHeader = "KV-Operation"
	reasonHeader    = "Nats-Marker-Reason"
)

// markerTTL is how long a deleted key's marker stays: longer than anybody who
// watches can be behind.
const markerTTL = time.Hour

// record is the last message of a subject. The zero record is none.
type record struct {
	subject string
	seq     uint64 // 0: there is no message
	value   []byte
	expires int64 // milliseconds of Unix time; 0: never
	gone    bool  // a marker: the key is deleted
}

// live reports whether the record is a present entry at a time.
func (r *record) live(now time.Time) bool {
	return r.seq != 0 && !r.gone && (r.expires == 0 || now.UnixMilli() < r.expires)
}

func (r *record) entry() driver.Entry {
	e := driver.Entry{Value: r.value, Version: versionOf(r.seq), Expires: timeOf(r.expires)}
	if e.Value == nil {
		e.Value = []byte{}
	}
	return e
}

func versionOf(seq uint64) string { return strconv.FormatUint(seq, 10) }

func timeOf(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// fill reads the headers of a stored message; stored says when that was.
func (r *record) fill(h nats.Header, stored func() (time.Time, error)) error {
	if len(h) == 0 {
		return nil
	}
	op := first(h, operationHeader)
	r.gone = op == "DEL" || op == "PURGE" || first(h, reasonHeader) != ""
	if text := first(h, expiresHeader); text != "" {
		ms, err := strconv.ParseInt(text, 10, 64)
		if err != nil || ms <= 0 {
			return fmt.Errorf("a message whose %s is no time", expiresHeader)
		}
		r.expires = ms
		return nil
	}
	ttl := nativeTTL(first(h, ttlHeader))
	if ttl == 0 {
		return nil
	}
	at, err := stored()
	if err != nil {
		return fmt.Errorf("a message without the time it was stored: %w", err)
	}
	r.expires = at.Add(ttl).UnixMilli()
	return nil
}

// nativeTTL reads a header Nats-TTL as the server does; 0 is none.
func nativeTTL(text string) time.Duration {
	if text == "" || strings.EqualFold(text, "never") {
		return 0
	}
	if d, err := time.ParseDuration(text); err == nil {
		return d.Truncate(time.Second)
	}
	seconds, err := strconv.ParseInt(text, 10, 32)
	if err != nil {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

// directRecord reads an answer to a direct get. foreign says that another
// stream has answered: a mirror.
func directRecord(m *nats.Msg, stream string) (r record, foreign bool, err error) {
	r = record{subject: first(m.Header, jetstream.SubjectHeader), value: m.Data}
	if r.seq, err = strconv.ParseUint(first(m.Header, jetstream.SequenceHeader), 10, 64); err != nil {
		return record{}, false, fmt.Errorf("a direct get without a sequence: %w", err)
	}
	err = r.fill(m.Header, func() (time.Time, error) {
		return time.Parse(time.RFC3339Nano, first(m.Header, jetstream.TimeStampHeaer))
	})
	return r, first(m.Header, jetstream.StreamHeader) != stream, err
}

// storedRecord reads an answer of the stream's leader. No message is
// errs.KeyNotFound.
func (s *session) storedRecord(m *nats.Msg) (record, error) {
	if err := s.status(m); err != nil {
		return record{}, err
	}
	var a struct { // all of it at once: an answer can have megabytes
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Header  []byte    `json:"hdrs"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	if err := json.Unmarshal(m.Data, &a); err != nil {
		return record{}, fmt.Errorf("an answer of another form: %w", err)
	}
	if a.Error != nil {
		return record{}, ofAPI(a.Error)
	}
	r := record{subject: a.Message.Subject, seq: a.Message.Seq, value: a.Message.Data}
	if len(a.Message.Header) == 0 {
		return r, nil
	}
	h, err := nats.DecodeHeadersMsg(a.Message.Header)
	if err != nil {
		return record{}, fmt.Errorf("a message with broken headers: %w", err)
	}
	return r, r.fill(h, func() (time.Time, error) { return a.Message.Time, nil })
}

// ackOf returns the sequence that a write was acknowledged with.
func (s *session) ackOf(m *nats.Msg, stream string) (uint64, error) {
	if err := s.status(m); err != nil {
		return 0, err
	}
	var a struct {
		Stream string              `json:"stream"`
		Seq    uint64              `json:"seq"`
		Error  *jetstream.APIError `json:"error"`
	}
	if seq, ok := quickAck(m.Data, stream); ok {
		return seq, nil
	}
	if err := json.Unmarshal(m.Data, &a); err != nil {
		return 0, errs.Wrap(err, errs.OutcomeUnknown, "the backend acknowledged a write in an unknown form")
	}
	switch {
	case a.Error != nil:
		return 0, ofAPI(a.Error)
	case a.Stream != stream || a.Seq == 0:
		return 0, errs.New(errs.OutcomeUnknown, "something other than the bucket answered a write; nothing else may subscribe to its subjects")
	}
	return a.Seq, nil
}

// quickAck reads an acknowledgement of the usual form without decoding JSON.
func quickAck(data []byte, stream string) (uint64, bool) {
	rest, ok := strings.CutPrefix(string(data), `{"stream":"`)
	if !ok {
		return 0, false
	}
	if rest, ok = strings.CutPrefix(rest, stream+`","seq":`); !ok {
		if rest, ok = strings.CutPrefix(rest, stream+`", "seq":`); !ok {
			return 0, false
		}
	}
	end := strings.IndexAny(rest, ",}")
	if end < 0 {
		return 0, false
	}
	seq, err := strconv.ParseUint(rest[:end], 10, 64)
	return seq, err == nil && seq != 0
}
