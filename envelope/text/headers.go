// Package text has the forms of an envelope that are text: headers, as requests
// over HTTP and command lines give them, and JSON, as people and web pages read
// it. HTTP requests prefix the names of headers with "prism-", but for
// content-type and content-encoding.
package text

import (
	"encoding/base64"
	"encoding/hex"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/errs"
)

// prefix begins the headers of HTTP that are fields of an envelope.
const prefix = "prism-"

// timing is a header of HTTP with the prefix that is no field: a caller that
// asks for what it gets anyway.
const timing = "prism-timing"

// A setter sets one field, or says what the value has to be.
type setter func(e *envelopev1.PrismEnvelope, value string) (problem string)

// fields are those that a publisher may set. What says who published is not
// among them: the proxy writes it.
var fields = map[string]setter{
	"content-type":     contentType,
	"content-encoding": contentEncoding,
	"message-id":       plain(func(e *envelopev1.PrismEnvelope) *string { return &e.Metadata.MessageId }),
	"correlation-id":   plain(func(e *envelopev1.PrismEnvelope) *string { return &e.Metadata.CorrelationId }),
	"causality-parent": plain(func(e *envelopev1.PrismEnvelope) *string { return &e.Metadata.CausalityParent }),
	"producer-id":      plain(func(e *envelopev1.PrismEnvelope) *string { return &e.Metadata.ProducerId }),
	"partition-key":    option(func(v string) envelope.Option { return envelope.WithPartitionKey([]byte(v)) }),
	"priority":         number(envelope.WithPriority),
	"retry-count":      number(envelope.WithRetryCount),
	"ttl":              ttl,
	"published-at":     publishedAt,

	"contains-pii":         containsPII,
	"data-classification":  classification,
	"encryption-algorithm": encryptionAlgorithm,
	"encryption-key-id":    plain(func(e *envelopev1.PrismEnvelope) *string { return &encryption(e).KeyId }),
	"encryption-nonce":     bytesOf("base64", base64.StdEncoding.DecodeString, func(e *envelopev1.PrismEnvelope) *[]byte { return &encryption(e).Nonce }),

	"trace-id":       plain(func(e *envelopev1.PrismEnvelope) *string { return &observability(e).TraceId }),
	"span-id":        plain(func(e *envelopev1.PrismEnvelope) *string { return &observability(e).SpanId }),
	"parent-span-id": plain(func(e *envelopev1.PrismEnvelope) *string { return &observability(e).ParentSpanId }),

	"schema-subject": plain(func(e *envelopev1.PrismEnvelope) *string { return &schema(e).Subject }),
	"schema-id":      plain(func(e *envelopev1.PrismEnvelope) *string { return &schema(e).Id }),
	"schema-version": schemaVersion,
	"schema-format":  schemaFormat,
	"schema-sha256":  bytesOf("hexadecimal", hex.DecodeString, func(e *envelopev1.PrismEnvelope) *[]byte { return &schema(e).Sha256 }),
}

// families are the fields that hold entries of a map: what follows the name is
// the key.
var families = map[string]func(key, value string) envelope.Option{
	"label-":   envelope.WithLabel,
	"baggage-": envelope.WithBaggage,
	"x-":       func(key, value string) envelope.Option { return envelope.WithExtension("x-"+key, []byte(value)) },
}

// Names returns the names of all headers, sorted; one that ends with "-" begins
// those of a family.
func Names() []string {
	names := make([]string, 0, len(fields)+len(families))
	for name := range fields {
		names = append(names, name)
	}
	for name := range families {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// SetHeader sets the field of e that a header names, without "prism-". It
// checks the form that the header has; Validate checks the field.
func SetHeader(e *envelopev1.PrismEnvelope, name, value string) error {
	if problem := set(e, strings.ToLower(name), value); problem != "" {
		return errs.Invalid(errs.Field{Path: name, Text: problem})
	}
	return nil
}

func set(e *envelopev1.PrismEnvelope, name, value string) (problem string) {
	if e.Metadata == nil {
		e.Metadata = new(envelopev1.Metadata)
	}
	if e.Security == nil {
		e.Security = new(envelopev1.Security)
	}
	if field := fields[name]; field != nil {
		return field(e, value)
	}
	for family, with := range families {
		if key, ok := strings.CutPrefix(name, family); ok && key != "" {
			with(key, value)(e)
			return ""
		}
	}
	return "is no field that a publisher sets; there are " + strings.Join(Names(), ", ")
}

// FromHTTP sets the fields that the headers of a request name, and returns
// every mistake at once.
func FromHTTP(e *envelopev1.PrismEnvelope, h http.Header) error {
	var bad []errs.Field
	for canonical, values := range h {
		header := strings.ToLower(canonical)
		name, ours := fieldOf(header)
		if !ours {
			continue
		}
		problem := "was given more than once; give it once"
		if len(values) == 1 {
			problem = set(e, name, values[0])
		}
		if problem != "" {
			bad = append(bad, errs.Field{Path: header, Text: problem})
		}
	}
	if bad == nil {
		return nil
	}
	slices.SortFunc(bad, func(a, b errs.Field) int { return strings.Compare(a.Path, b.Path) })
	return errs.Invalid(bad...)
}

// fieldOf returns the name of the field that a header of HTTP means.
func fieldOf(header string) (name string, ours bool) {
	switch header {
	case "content-type", "content-encoding", prefix + "content-type", prefix + "content-encoding":
		return header, true // the latter are none
	case timing:
		return "", false
	}
	return strings.CutPrefix(header, prefix)
}

func plain(field func(*envelopev1.PrismEnvelope) *string) setter {
	return func(e *envelopev1.PrismEnvelope, value string) string {
		*field(e) = value
		return ""
	}
}

func option(with func(string) envelope.Option) setter {
	return func(e *envelopev1.PrismEnvelope, value string) string {
		with(value)(e)
		return ""
	}
}

func number(with func(int32) envelope.Option) setter {
	return func(e *envelopev1.PrismEnvelope, value string) string {
		n, err := strconv.ParseInt(value, 10, 32)
		if err != nil {
			return "must be a whole number"
		}
		with(int32(n))(e)
		return ""
	}
}

func bytesOf(form string, decode func(string) ([]byte, error), field func(*envelopev1.PrismEnvelope) *[]byte) setter {
	return func(e *envelopev1.PrismEnvelope, value string) string {
		b, err := decode(value)
		if err != nil {
			return "must be " + form
		}
		*field(e) = b
		return ""
	}
}

func ttl(e *envelopev1.PrismEnvelope, value string) string {
	d, err := time.ParseDuration(value)
	if err != nil || d <= 0 {
		return "must be a duration, such as 30s or 24h"
	}
	envelope.WithTTL(d)(e)
	return ""
}

func publishedAt(e *envelopev1.PrismEnvelope, value string) string {
	at, err := time.Parse(time.RFC3339, value)
	if err != nil {
		return "must be a time such as 2026-01-31T12:00:00Z"
	}
	envelope.WithPublishedAt(at)(e)
	return ""
}

func containsPII(e *envelopev1.PrismEnvelope, value string) string {
	if value != "true" && value != "false" {
		return "must be true or false"
	}
	e.Security.ContainsPii = value == "true"
	return ""
}

// mediaTypes are the types that have a number of their own.
var mediaTypes = map[string]envelopev1.ContentType{
	"application/json":         envelopev1.ContentType_CONTENT_TYPE_JSON,
	"application/protobuf":     envelopev1.ContentType_CONTENT_TYPE_PROTOBUF,
	"application/x-protobuf":   envelopev1.ContentType_CONTENT_TYPE_PROTOBUF,
	"application/avro":         envelopev1.ContentType_CONTENT_TYPE_AVRO,
	"text/plain":               envelopev1.ContentType_CONTENT_TYPE_TEXT,
	"application/octet-stream": envelopev1.ContentType_CONTENT_TYPE_BYTES,
}

// contentType keeps a media type whole unless its number says all of it.
func contentType(e *envelopev1.PrismEnvelope, value string) string {
	media, params, err := mime.ParseMediaType(value)
	if err != nil {
		return "must be a media type, such as application/json"
	}
	utf8 := len(params) == 1 && strings.EqualFold(params["charset"], "utf-8")
	if number, ok := mediaTypes[media]; ok && (len(params) == 0 || utf8) {
		envelope.WithContentType(number)(e)
		return ""
	}
	envelope.WithCustomContentType(value)(e)
	return ""
}

func contentEncoding(e *envelopev1.PrismEnvelope, value string) string {
	if strings.EqualFold(value, "identity") {
		value = "none"
	}
	n, problem := enum(envelopev1.ContentEncoding_value, "CONTENT_ENCODING_", value)
	e.Metadata.ContentEncoding = envelopev1.ContentEncoding(n)
	return problem
}

func classification(e *envelopev1.PrismEnvelope, value string) string {
	n, problem := enum(envelopev1.DataClassification_value, "DATA_CLASSIFICATION_", value)
	e.Security.DataClassification = envelopev1.DataClassification(n)
	return problem
}

func encryptionAlgorithm(e *envelopev1.PrismEnvelope, value string) string {
	n, problem := enum(envelopev1.EncryptionAlgorithm_value, "ENCRYPTION_ALGORITHM_", value)
	encryption(e).Algorithm = envelopev1.EncryptionAlgorithm(n)
	return problem
}

func schemaFormat(e *envelopev1.PrismEnvelope, value string) string {
	n, problem := enum(envelopev1.SchemaFormat_value, "SCHEMA_FORMAT_", value)
	schema(e).Format = envelopev1.SchemaFormat(n)
	return problem
}

func schemaVersion(e *envelopev1.PrismEnvelope, value string) string {
	n, err := strconv.ParseUint(value, 10, 32)
	if err != nil {
		return "must be a whole number"
	}
	schema(e).Version = uint32(n)
	return ""
}

// enum returns the number of a value by its name without the enum's own, in any
// case and with dashes.
func enum(numbers map[string]int32, of, value string) (n int32, problem string) {
	n = numbers[of+strings.ToUpper(strings.ReplaceAll(value, "-", "_"))]
	if n != 0 {
		return n, ""
	}
	var names []string
	for name, n := range numbers {
		if n != 0 {
			names = append(names, strings.ToLower(strings.TrimPrefix(name, of)))
		}
	}
	slices.Sort(names)
	return 0, "must be one of " + strings.Join(names, ", ")
}

func encryption(e *envelopev1.PrismEnvelope) *envelopev1.Encryption {
	if e.Security.Encryption == nil {
		e.Security.Encryption = new(envelopev1.Encryption)
	}
	return e.Security.Encryption
}

func observability(e *envelopev1.PrismEnvelope) *envelopev1.Observability {
	if e.Observability == nil {
		e.Observability = new(envelopev1.Observability)
	}
	return e.Observability
}

func schema(e *envelopev1.PrismEnvelope) *envelopev1.Schema {
	if e.Schema == nil {
		e.Schema = new(envelopev1.Schema)
	}
	return e.Schema
}
