package nats

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/prismgw/prism/driver"
)

// Headers of a topic's messages, beside those of the record. What Prism appends
// has names in lower case, so that none of its own is among them.
const (
	keyHeader = "Prism-Key"
	idHeader  = "Prism-Id"
	msgID     = jetstream.MsgIDHeader
)

// serverHeaders are added, each behind any of the same name, by a server that
// answers a direct get.
var serverHeaders = []string{
	jetstream.StreamHeader, jetstream.SubjectHeader, jetstream.SequenceHeader, jetstream.TimeStampHeaer,
	pendingHeader, "Nats-Last-Sequence",
}

const pendingHeader = "Nats-Num-Pending"

// recordHeader returns the header of a record's message, nil if it needs none.
// dedup says that the stream is to know the record's ID.
func recordHeader(r *driver.Record, dedup bool) nats.Header {
	if r.ID == "" && r.Key == nil && len(r.Headers) == 0 {
		return nil
	}
	h := make(nats.Header, 2+len(r.Headers))
	if r.Key != nil {
		h[keyHeader] = []string{escapeKey(r.Key)}
	}
	switch {
	case r.ID == "":
	case dedup:
		h[msgID] = []string{r.ID}
	default:
		h[idHeader] = []string{r.ID}
	}
	for _, x := range r.Headers {
		h[x.Name] = append(h[x.Name], x.Value)
	}
	return h
}

// escapeKey returns a key as a header's value: printable ASCII as it is, every
// other byte, the percent sign and spaces at the ends as %XX.
func escapeKey(key []byte) string {
	last := len(key) - 1
	clean := func(i int) bool {
		c := key[i]
		return c > ' ' && c <= '~' && c != '%' || c == ' ' && i > 0 && i < last
	}
	n := 0
	for n <= last && clean(n) {
		n++
	}
	if n > last {
		return string(key)
	}
	b := make([]byte, 0, len(key)+16)
	for i, c := range key {
		if clean(i) {
			b = append(b, c)
		} else {
			b = append(b, '%', upperHex[c>>4], upperHex[c&15])
		}
	}
	return string(b)
}

// unescapeKey returns the key that a header stands for. Percent signs of other
// programs that escape nothing stay.
func unescapeKey(text string) []byte {
	key := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		if text[i] == '%' && i+2 < len(text) {
			if c, err := strconv.ParseUint(text[i+1:i+3], 16, 8); err == nil {
				key = append(key, byte(c))
				i += 2
				continue
			}
		}
		key = append(key, text[i])
	}
	return key
}

var errBroken = errors.New("a message whose headers cannot be read")

// directStored reads one message of an answer to a direct get.
func directStored(m *nats.Msg, partition int) (driver.Stored, error) {
	seq, err := strconv.ParseInt(latest(m.Header, jetstream.SequenceHeader), 10, 64)
	if err != nil || seq < 1 {
		return driver.Stored{}, errBroken
	}
	at, err := time.Parse(time.RFC3339Nano, latest(m.Header, jetstream.TimeStampHeaer))
	if err != nil {
		return driver.Stored{}, errBroken
	}
	for _, name := range serverHeaders {
		if v := m.Header[name]; len(v) > 1 {
			m.Header[name] = v[:len(v)-1]
		} else {
			delete(m.Header, name)
		}
	}
	r := recordOf(m.Header, m.Data)
	r.Partition = partition
	return driver.Stored{Record: r, Position: driver.Position(seq), Time: at}, nil
}

// latest returns the last value of a header: the one that the server has added.
func latest(h nats.Header, name string) string {
	if v := h[name]; len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}

// recordOf returns the record of a message; it takes the header apart.
func recordOf(h nats.Header, data []byte) driver.Record {
	r := driver.Record{Value: data}
	if v := h[keyHeader]; len(v) > 0 {
		r.Key = unescapeKey(v[0])
		delete(h, keyHeader)
	}
	for _, name := range []string{msgID, idHeader} {
		if v := h[name]; r.ID == "" && len(v) > 0 {
			r.ID = v[0]
			delete(h, name)
		}
	}
	if len(h) == 0 {
		return r
	}
	r.Headers = make([]driver.Header, 0, len(h))
	for name, values := range h {
		for _, value := range values {
			r.Headers = append(r.Headers, driver.Header{Name: name, Value: value})
		}
	}
	return r
}

// leaderStored reads an answer of the stream's leader. No message is
// errs.KeyNotFound.
func leaderStored(m *nats.Msg, partition int) (driver.Stored, error) {
	var a struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Seq    int64     `json:"seq"`
			Header []byte    `json:"hdrs"`
			Data   []byte    `json:"data"`
			Time   time.Time `json:"time"`
		} `json:"message"`
	}
	if err := json.Unmarshal(m.Data, &a); err != nil {
		return driver.Stored{}, fmt.Errorf("an answer of another form: %w", err)
	}
	if a.Error != nil {
		return driver.Stored{}, ofAPI(a.Error)
	}
	r := recordOf(lenientHeader(a.Message.Header), a.Message.Data)
	r.Partition = partition
	return driver.Stored{Record: r, Position: driver.Position(a.Message.Seq), Time: a.Message.Time}, nil
}

// lenientHeader reads what can be read of a message's headers, where the client
// library gives up.
func lenientHeader(raw []byte) nats.Header {
	if len(raw) == 0 {
		return nil
	}
	h := make(nats.Header)
	for i, line := range bytes.Split(raw, []byte("\r\n")) {
		name, value, ok := strings.Cut(string(line), ":")
		if i > 0 && ok && name != "" {
			h[name] = append(h[name], strings.TrimLeft(value, " \t"))
		}
	}
	return h
}
