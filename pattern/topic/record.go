package topic

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"hash/fnv"
	"strings"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/errs"
)

// headHeader is the header in which the native layout keeps the envelope
// without its payload, in base64url without padding.
const headHeader = "prism-envelope"

// foreignPrefix is what the names of headers that are not Prism's are kept
// under, in the extensions of the envelope that is made for them.
const foreignPrefix = "x-header-"

// Record returns how an envelope stands in the topic. The envelope has been
// checked and is not changed; the record keeps parts of it.
func (o *Open) Record(wire []byte, h *envelope.Header) (driver.Record, error) {
	r := driver.Record{Key: h.PartitionKey, Value: wire}
	if len(h.PartitionKey) > driver.MaxRecordKey {
		return r, errs.Invalid(errs.Field{Path: "metadata.partition_key", Text: "is over 1,024 bytes"})
	}
	r.Partition = o.partition(h)
	if o.keepsIDs {
		r.ID = string(h.MessageID)
	}
	if !o.native {
		return r, nil
	}
	head, payload, err := envelope.Split(wire)
	if err != nil {
		return r, err
	}
	text := base64.RawURLEncoding.EncodeToString(head)
	if size := len(headHeader) + len(text); size > driver.MaxHeaderSize {
		return r, errs.TooLarge("everything but the payload, as a header of the native layout,", size, driver.MaxHeaderSize)
	}
	r.Headers, r.Value = []driver.Header{{Name: headHeader, Value: text}}, payload
	return r, nil
}

// partition is where the message belongs. One without a key goes where its id
// says, so that a repeat meets the first one.
func (o *Open) partition(h *envelope.Header) int {
	if len(h.PartitionKey) > 0 {
		return driver.PartitionOf(h.PartitionKey, o.Partitions())
	}
	sum := fnv.New64a()
	_, _ = sum.Write(h.MessageID) // it never fails
	return int(sum.Sum64() % uint64(o.Partitions()))
}

// Envelope returns the envelope of a record as it is delivered, as bytes. One
// that other programs wrote gets an envelope here: with an id that is always the
// same, its time, key and headers. What cannot be read, or is not believed, is
// errs.InvalidField.
func (o *Open) Envelope(s *driver.Stored) ([]byte, error) {
	wire, err := o.envelope(s)
	if err != nil {
		return nil, err
	}
	h, err := envelope.Scan(wire)
	switch {
	case err != nil:
		return nil, err
	case len(h.MessageID) == 0: // no publisher writes it
		return nil, unreadable("it is no envelope")
	}
	return o.gate.Pass(wire, &h, o.of, o.unsigned)
}

func (o *Open) envelope(s *driver.Stored) ([]byte, error) {
	head, found, err := headOf(s.Headers)
	switch {
	case err != nil:
		return nil, err
	case found:
		return envelope.Join(make([]byte, 0, len(head)+len(s.Value)+8), head, s.Value), nil
	case o.native:
		return envelope.Marshal(o.foreign(s))
	}
	return s.Value, nil
}

// headOf finds the header of the native layout. Two of them are one too many:
// readers could take different ones.
func headOf(headers []driver.Header) (head []byte, found bool, err error) {
	for _, h := range headers {
		if h.Name != headHeader {
			continue
		}
		if found {
			return nil, true, unreadable("the header prism-envelope is there twice")
		}
		found = true
		if head, err = base64.RawURLEncoding.DecodeString(h.Value); err != nil {
			return nil, true, unreadable("the header prism-envelope is not base64url")
		}
	}
	return head, found, nil
}

func unreadable(text string) error {
	return errs.Invalid(errs.Field{Path: "record", Text: text})
}

func (o *Open) foreign(s *driver.Stored) *envelopev1.PrismEnvelope {
	e := &envelopev1.PrismEnvelope{
		Metadata: &envelopev1.Metadata{
			MessageId: o.idOf(s), Namespace: o.gate.Namespace, Topic: o.of, PublishedAtMs: s.Time.UnixMilli(),
			ContentType: envelopev1.ContentType_CONTENT_TYPE_BYTES, PartitionKey: s.Key,
		},
		Payload: s.Value,
	}
	for _, h := range s.Headers {
		if e.Extensions == nil {
			e.Extensions = make(map[string][]byte, len(s.Headers))
		}
		name := foreignPrefix + strings.ToLower(h.Name)
		if old, twice := e.Extensions[name]; twice {
			e.Extensions[name] = append(append(old, ", "...), h.Value...)
			continue
		}
		e.Extensions[name] = []byte(h.Value)
	}
	return e
}

// idOf makes an id for a message that has none: a UUID of version 8, the hash
// of where it stands.
func (o *Open) idOf(s *driver.Stored) string {
	sum := sha256.New()
	_, _ = sum.Write([]byte(o.gate.Namespace + "\x00" + o.Name + "\x00")) // it never fails, nor does the next
	_, _ = sum.Write(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(nil, uint32(s.Partition)), uint64(s.Position)))
	id := sum.Sum(nil)[:16]
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80
	text := hex.EncodeToString(id)
	return text[:8] + "-" + text[8:12] + "-" + text[12:16] + "-" + text[16:20] + "-" + text[20:]
}
