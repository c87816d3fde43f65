package redis

import (
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// The fields of an entry.
const (
	valueField  = "value"
	keyField    = "key"
	idField     = "id"
	headerField = "h:" // before a header's name
)

// A position is the id of an entry: the milliseconds and, in the lowest bits,
// the number that Redis gives to those of one millisecond.
const (
	seqBits = 20
	msBits  = 63 - seqBits
)

var errNoPosition = errs.New(errs.Unsupported, "the stream has an entry whose id is no position: of an id ms-seq, ms is below 2^43 and seq below 2^20")

func positionOf(id string) (driver.Position, error) {
	before, after, _ := strings.Cut(id, "-")
	ms, err := strconv.ParseInt(before, 10, 64)
	if err != nil || ms >= 1<<msBits {
		return 0, errNoPosition
	}
	seq, err := strconv.ParseInt(after, 10, 64)
	if err != nil || seq >= 1<<seqBits {
		return 0, errNoPosition
	}
	return driver.Position(ms<<seqBits | seq), nil
}

// idOf returns the id that a position is. Positions before the first one are
// the first one.
func idOf(p driver.Position) string {
	p = max(p, 1)
	b := strconv.AppendInt(make([]byte, 0, 24), int64(p>>seqBits), 10)
	return string(strconv.AppendInt(append(b, '-'), int64(p&(1<<seqBits-1)), 10))
}

// atTime is the lowest position of records that are not older than a time.
func atTime(t time.Time) driver.Position {
	ms := t.UnixMilli()
	if time.UnixMilli(ms).Before(t) {
		ms++
	}
	return driver.Position(min(max(ms, 0), 1<<msBits-1) << seqBits)
}

func timeOf(p driver.Position) time.Time { return time.UnixMilli(int64(p >> seqBits)) }

// payload is what counts for driver.LogGuarantees.MaxRecord.
func payload(r *driver.Record) int {
	size := len(r.Key) + len(r.Value)
	for i := range r.Headers {
		size += len(r.Headers[i].Name) + len(r.Headers[i].Value)
	}
	return size
}

// fieldsOf appends the texts of an entry. They share nothing with the record
// that can change: they may be sent after the caller has gone.
func fieldsOf(texts []string, r *driver.Record) []string {
	if r.Key != nil {
		texts = append(texts, keyField, string(r.Key))
	}
	if r.ID != "" {
		texts = append(texts, idField, r.ID)
	}
	for _, h := range r.Headers {
		texts = append(texts, headerField+h.Name, h.Value)
	}
	return append(texts, valueField, string(r.Value))
}

// stored reads an entry.
func stored(m *rueidis.RedisMessage, partition int) (s driver.Stored, err error) {
	parts, err := m.ToArray()
	if err != nil || len(parts) != 2 {
		return s, errs.Wrap(err, errs.Internal, "an entry of a stream has an unknown form")
	}
	id, err := parts[0].ToString()
	if err != nil {
		return s, err
	}
	if s.Position, err = positionOf(id); err != nil {
		return s, err
	}
	fields, err := parts[1].ToArray()
	if err != nil || len(fields)%2 != 0 {
		return s, errs.Wrap(err, errs.Internal, "an entry of a stream has an unknown form")
	}
	s.Partition, s.Time = partition, timeOf(s.Position)
	return s, readFields(&s.Record, fields)
}

// readFields reads the fields of an entry, which another program may have
// written: the only one is the value, whatever its name is, and all whose names
// mean nothing here are headers.
func readFields(r *driver.Record, fields []rueidis.RedisMessage) error {
	for i := 0; i < len(fields); i += 2 {
		name, err := fields[i].ToString()
		if err != nil {
			return err
		}
		text, err := fields[i+1].AsBytes()
		if err != nil {
			return err
		}
		if text == nil {
			text = []byte{}
		}
		header, ours := strings.CutPrefix(name, headerField)
		switch {
		case r.Value == nil && (name == valueField || len(fields) == 2):
			r.Value = text
		case name == keyField && r.Key == nil && len(text) <= driver.MaxRecordKey:
			r.Key = text
		case name == idField && r.ID == "" && validID(text):
			r.ID = string(text)
		case ours:
			r.Headers = append(r.Headers, driver.Header{Name: header, Value: string(text)})
		default:
			r.Headers = append(r.Headers, driver.Header{Name: name, Value: string(text)})
		}
	}
	if r.Value == nil {
		r.Value = []byte{}
	}
	return nil
}

// validID reports whether a record can have the ID.
func validID(id []byte) bool {
	for _, c := range id {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return len(id) > 0 && len(id) <= driver.MaxRecordID
}
