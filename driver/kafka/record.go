package kafka

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/prismgw/prism/driver"
)

// idHeader is the name of the first header of a record that has an id. A record
// without one whose own headers have this name has an empty one before them.
const idHeader = "prism-id"

// overhead is about what a record takes beside its own bytes.
const overhead = 256

// sizeOf is what Guarantees.MaxRecord counts.
func sizeOf(r *driver.Record) int {
	n := len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		n += len(h.Name) + len(h.Value)
	}
	return n
}

// An encoder makes records for the client to send, with memory of their own,
// since they may be sent after their call has ended.
type encoder struct {
	topic   string
	records []kgo.Record
	memory  []byte
}

// newEncoder returns one for these records; skipped are not encoded.
func newEncoder(topic string, records []driver.Record, skipped func(i int) bool) *encoder {
	n, size := 0, 0
	for i := range records {
		if !skipped(i) {
			n, size = n+1, size+len(records[i].Key)+len(records[i].Value)
		}
	}
	return &encoder{topic: topic, records: make([]kgo.Record, 0, n), memory: make([]byte, 0, size)}
}

// keep returns a copy of bytes.
func (e *encoder) keep(b []byte) []byte {
	at := len(e.memory)
	e.memory = append(e.memory, b...)
	return e.memory[at:len(e.memory):len(e.memory)]
}

func (e *encoder) encode(r *driver.Record) *kgo.Record {
	k := kgo.Record{Topic: e.topic, Partition: int32(r.Partition), Value: e.keep(r.Value)}
	if r.Key != nil {
		k.Key = e.keep(r.Key)
	}
	named := func(h driver.Header) bool { return h.Name == idHeader }
	if r.ID != "" || slices.ContainsFunc(r.Headers, named) {
		k.Headers = append(k.Headers, kgo.RecordHeader{Key: idHeader, Value: []byte(r.ID)})
	}
	for _, h := range r.Headers {
		k.Headers = append(k.Headers, kgo.RecordHeader{Key: h.Name, Value: []byte(h.Value)})
	}
	e.records = append(e.records, k)
	return &e.records[len(e.records)-1]
}

// decodeRecord returns a record as callers get it. Its bytes are parts of what
// was fetched, which nobody else has.
func decodeRecord(k *kgo.Record) driver.Stored {
	s := driver.Stored{
		Record:   driver.Record{Partition: int(k.Partition), Key: slices.Clip(k.Key), Value: slices.Clip(k.Value)},
		Position: position(k.Offset),
		Time:     k.Timestamp,
	}
	headers := k.Headers
	if len(headers) > 0 && headers[0].Key == idHeader && validID(headers[0].Value) {
		s.ID, headers = string(headers[0].Value), headers[1:]
	}
	for _, h := range headers {
		s.Headers = append(s.Headers, driver.Header{Name: h.Key, Value: string(h.Value)})
	}
	return s
}

// validID reports whether a header can be an id, or the sign that there is none.
func validID(b []byte) bool {
	return len(b) <= driver.MaxRecordID && !slices.ContainsFunc(b, func(c byte) bool { return c <= ' ' || c > '~' })
}

// position returns the position of an offset: positions begin at 1.
func position(offset int64) driver.Position { return driver.Position(offset + 1) }

// offset returns the offset of a position, the first one for what is before it.
func offset(p driver.Position) int64 { return max(int64(p)-1, 0) }
