package envelope

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	"github.com/prismgw/prism/errs"
)

// legacyPrefix begins the extensions that hold what has no field here.
const legacyPrefix = "x-legacy-"

// legacy is the older, flat envelope: a JSON object.
type legacy struct {
	Topic     string            `json:"topic"`
	Payload   []byte            `json:"payload"` // base64
	Metadata  map[string]string `json:"metadata"`
	MessageID string            `json:"message_id"`
	Timestamp json.RawMessage   `json:"timestamp"` // a number of an unstated unit, or RFC 3339
	Auth      json.RawMessage   `json:"auth"`      // never looked into
}

// credential matches names of metadata under which older producers put what must
// not be stored.
var credential = regexp.MustCompile(`(?i)auth|bearer|token|secret|passw|credential|cookie|api[-_.]?key|private[-_.]?key|signature|jwt`)

// FromLegacy reads the older flat envelope into one of this namespace, and
// returns with it the names of what was dropped: auth, and metadata that looks
// like a credential. The older form did not verify who published, so nothing of
// that is taken over.
//
// Metadata that has a field goes there, what has none to extensions, below
// x-legacy-. An older message id that is no UUID becomes one, the same each time
// for a topic and id, so that what is read twice is still known as one message.
// Whole numbers as timestamps are seconds, milliseconds, microseconds or
// nanoseconds, whichever puts them between 1973 and 5138.
//
// docs/contracts.md lists what is lost.
func FromLegacy(namespace string, data []byte) (e *envelopev1.PrismEnvelope, dropped []string, err error) {
	old, err := decodeLegacy(data)
	if err != nil {
		return nil, nil, err
	}
	e = New(namespace, old.Topic, old.Payload)
	if len(e.Payload) == 0 {
		e.Metadata.ContentType = envelopev1.ContentType_CONTENT_TYPE_BYTES // it was meant: there was no other way to say so
	}
	if len(old.Auth) > 0 && !bytes.Equal(old.Auth, []byte("null")) {
		dropped = append(dropped, "auth")
	}
	old.identify(e)
	if err := old.date(e); err != nil {
		return nil, nil, err
	}
	adopted := map[string]bool{}
	for _, key := range slices.Sorted(maps.Keys(old.Metadata)) {
		name, value := fieldName(key), old.Metadata[key]
		switch {
		case credential.MatchString(key):
			dropped = append(dropped, "metadata."+key)
		case !adopted[name] && adopt(e, name, value):
			adopted[name] = true
		default:
			keep(e, key, value)
		}
	}
	return e, dropped, Validate(e)
}

// decodeLegacy is strict: a name that it does not know may be a credential, and
// is not dropped in silence either.
func decodeLegacy(data []byte) (*legacy, error) {
	if len(data) > 2*MaxSize { // base64 and names; Validate knows the real limit
		return nil, errs.TooLarge("older envelope", len(data), 2*MaxSize)
	}
	old := new(legacy)
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if !utf8.Valid(data) {
		return nil, errs.Invalid(errs.Field{Path: "legacy", Text: "is not UTF-8"})
	}
	if err := d.Decode(old); err != nil {
		return nil, errs.Wrap(err, errs.InvalidField, "legacy: is not an older envelope, which is a JSON object with topic, payload, metadata, message_id, timestamp and auth")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errs.Invalid(errs.Field{Path: "legacy", Text: "is more than one JSON object"})
	}
	return old, nil
}

// identify takes the older id over, or makes one of it.
func (old *legacy) identify(e *envelopev1.PrismEnvelope) {
	switch id := strings.ToLower(old.MessageID); {
	case id == "": // the new id stays
	case isID(id):
		e.Metadata.MessageId = id
	default:
		hash := sha256.Sum256(fmt.Appendf(nil, "prism-legacy-1\x00%s\x00%s", old.Topic, old.MessageID))
		e.Metadata.MessageId = idText([16]byte(hash[:16]), 8)
		keep(e, "message-id", old.MessageID)
	}
}

// date takes the older timestamp over; without one it is the time of reading.
func (old *legacy) date(e *envelopev1.PrismEnvelope) error {
	raw := strings.Trim(string(old.Timestamp), `"`)
	if raw == "" || raw == "null" || raw == "0" {
		return nil
	}
	if n, err := strconv.ParseInt(raw, 10, 64); err == nil && n > 0 {
		e.Metadata.PublishedAtMs = millis(n)
		return nil
	}
	at, err := time.Parse(time.RFC3339Nano, raw)
	if err != nil {
		return errs.Invalid(errs.Field{Path: "legacy.timestamp", Text: "must be a whole number since 1970 or RFC 3339"})
	}
	e.Metadata.PublishedAtMs = at.UnixMilli()
	return nil
}

// millis guesses the unit of a timestamp by its size: 1e11 seconds are the year
// 5138, 1e11 milliseconds 1973.
func millis(n int64) int64 {
	switch {
	case n < 1e11:
		return n * 1e3
	case n < 1e14:
		return n
	case n < 1e17:
		return n / 1e3
	}
	return n / 1e6
}

// fieldName is one name for the ways in which producers wrote it.
func fieldName(key string) string {
	return strings.NewReplacer("-", "_", ".", "_").Replace(strings.ToLower(key))
}

// adopt gives metadata its field and reports whether it has one, and the value
// fits it.
func adopt(e *envelopev1.PrismEnvelope, name, value string) bool {
	switch m := e.Metadata; name {
	case "content_type":
		return adoptContentType(m, value)
	case "correlation_id":
		return adoptText(&m.CorrelationId, value)
	case "producer_id":
		return adoptText(&m.ProducerId, value)
	case "partition_key":
		m.PartitionKey = []byte(value)
	case "causality_parent":
		if !isID(value) {
			return false
		}
		m.CausalityParent = value
	case "priority":
		n, err := strconv.ParseInt(value, 10, 32)
		if err != nil || n < 0 || n > maxPriority {
			return false
		}
		m.Priority = int32(n)
	case "trace_id":
		if !isTraceID(value, 32) {
			return false
		}
		observability(e).TraceId = value
	case "span_id":
		if !isTraceID(value, 16) {
			return false
		}
		observability(e).SpanId = value
	default:
		return false
	}
	return true
}

func adoptText(field *string, value string) bool {
	if len(value) > maxText {
		return false
	}
	*field = value
	return true
}

func adoptContentType(m *envelopev1.Metadata, value string) bool {
	known := map[string]envelopev1.ContentType{
		"application/json":         envelopev1.ContentType_CONTENT_TYPE_JSON,
		"application/protobuf":     envelopev1.ContentType_CONTENT_TYPE_PROTOBUF,
		"application/x-protobuf":   envelopev1.ContentType_CONTENT_TYPE_PROTOBUF,
		"application/avro":         envelopev1.ContentType_CONTENT_TYPE_AVRO,
		"avro/binary":              envelopev1.ContentType_CONTENT_TYPE_AVRO,
		"text/plain":               envelopev1.ContentType_CONTENT_TYPE_TEXT,
		"application/octet-stream": envelopev1.ContentType_CONTENT_TYPE_BYTES,
	}
	if t, ok := known[strings.ToLower(value)]; ok {
		m.ContentType = t
		return true
	}
	if len(value) > maxText || !mediaTypeForm.MatchString(value) {
		return false
	}
	m.ContentType, m.ContentTypeCustom = envelopev1.ContentType_CONTENT_TYPE_CUSTOM, value
	return true
}

func keep(e *envelopev1.PrismEnvelope, key, value string) {
	WithExtension(legacyPrefix+key, []byte(value))(e)
}
