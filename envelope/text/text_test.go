package text_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/envelope/text"
	"github.com/prismgw/prism/errs"
)

// every is one value of each header, with the field that it becomes.
var every = map[string]struct{ value, field string }{
	"content-type":         {"application/json; charset=utf-8", `{"metadata":{"content_type":"CONTENT_TYPE_JSON"}}`},
	"content-encoding":     {"gzip", `{"metadata":{"content_encoding":"CONTENT_ENCODING_GZIP"}}`},
	"message-id":           {"m", `{"metadata":{"message_id":"m"}}`},
	"correlation-id":       {"c", `{"metadata":{"correlation_id":"c"}}`},
	"causality-parent":     {"p", `{"metadata":{"causality_parent":"p"}}`},
	"producer-id":          {"host-1", `{"metadata":{"producer_id":"host-1"}}`},
	"partition-key":        {"alice", `{"metadata":{"partition_key":"YWxpY2U="}}`},
	"priority":             {"7", `{"metadata":{"priority":7}}`},
	"retry-count":          {"2", `{"metadata":{"retry_count":2}}`},
	"ttl":                  {"1500ms", `{"metadata":{"ttl_seconds":"2"}}`},
	"published-at":         {"2026-01-31T12:00:00Z", `{"metadata":{"published_at_ms":"1769860800000"}}`},
	"contains-pii":         {"true", `{"security":{"contains_pii":true}}`},
	"data-classification":  {"restricted", `{"security":{"data_classification":"DATA_CLASSIFICATION_RESTRICTED"}}`},
	"encryption-algorithm": {"aes-256-gcm", `{"security":{"encryption":{"algorithm":"ENCRYPTION_ALGORITHM_AES_256_GCM"}}}`},
	"encryption-key-id":    {"k", `{"security":{"encryption":{"key_id":"k"}}}`},
	"encryption-nonce":     {"AQI=", `{"security":{"encryption":{"nonce":"AQI="}}}`},
	"trace-id":             {"t", `{"observability":{"trace_id":"t"}}`},
	"span-id":              {"s", `{"observability":{"span_id":"s"}}`},
	"parent-span-id":       {"s", `{"observability":{"parent_span_id":"s"}}`},
	"label-tier":           {"gold", `{"observability":{"labels":{"tier":"gold"}}}`},
	"baggage-who":          {"me", `{"observability":{"baggage":{"who":"me"}}}`},
	"schema-subject":       {"orders", `{"schema":{"subject":"orders"}}`},
	"schema-id":            {"17", `{"schema":{"id":"17"}}`},
	"schema-version":       {"3", `{"schema":{"version":3}}`},
	"schema-format":        {"json-schema", `{"schema":{"format":"SCHEMA_FORMAT_JSON_SCHEMA"}}`},
	"schema-sha256":        {"0102", `{"schema":{"sha256":"AQI="}}`},
	"x-shop":               {"17", `{"extensions":{"x-shop":"MTc="}}`},
}

func TestEveryHeader(t *testing.T) {
	t.Parallel()
	tried := make(map[string]bool)
	all, together := http.Header{}, new(envelopev1.PrismEnvelope)
	for name, x := range every {
		want := &envelopev1.PrismEnvelope{Metadata: new(envelopev1.Metadata), Security: new(envelopev1.Security)}
		if err := protojson.Unmarshal([]byte(x.field), want); err != nil {
			t.Fatal(name, err)
		}
		if want.Metadata == nil {
			want.Metadata = new(envelopev1.Metadata)
		}
		if want.Security == nil {
			want.Security = new(envelopev1.Security)
		}
		got := new(envelopev1.PrismEnvelope)
		if err := text.SetHeader(got, strings.ToUpper(name), x.value); err != nil || !proto.Equal(got, want) {
			t.Errorf("%s: %v, %v, want %v", name, got, err, want)
		}
		header := "prism-" + name
		if strings.HasPrefix(name, "content-") {
			header = name
		}
		all.Set(header, x.value)
		proto.Merge(together, want)
		if at := slices.IndexFunc(text.Names(), func(n string) bool { return n == name || strings.HasSuffix(n, "-") && strings.HasPrefix(name, n) }); at >= 0 {
			tried[text.Names()[at]] = true
		}
	}
	for _, name := range text.Names() {
		if !tried[name] {
			t.Errorf("%s is not tried here", name)
		}
	}
	all.Set("Accept", "*/*")
	all.Set("Prism-Timing", "1")
	got := new(envelopev1.PrismEnvelope)
	if err := text.FromHTTP(got, all); err != nil || !proto.Equal(got, together) {
		t.Errorf("all at once: %v, %v, want %v", got, err, together)
	}
}

func TestWrongHeaders(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]string{
		"content-type": "not a type", "content-encoding": "brotli", "priority": "high", "retry-count": "1.5", "ttl": "30sec", "published-at": "today",
		"contains-pii": "yes", "data-classification": "secret", "encryption-algorithm": "rot13", "encryption-nonce": "*", "schema-version": "-1",
		"schema-format": "xml", "schema-sha256": "zz", "colour": "red", "label-": "tier?", "publisher-id": "root", "roles": "admin", "auth-token": "hush", "signature": "mine",
	} {
		err := text.SetHeader(new(envelopev1.PrismEnvelope), name, value)
		e := errs.From(err)
		if !errors.Is(err, errs.InvalidField) || len(e.Fields) != 1 || e.Fields[0].Path != name || strings.Contains(e.Fields[0].Text, value) {
			t.Errorf("%s: %q: %v", name, value, err)
		}
	}
	h := http.Header{"Prism-Priority": {"1", "2"}, "Prism-Ttl": {"soon"}, "Prism-Content-Type": {"text/plain"}, "Content-Type": {"text/plain"}}
	e := errs.From(text.FromHTTP(new(envelopev1.PrismEnvelope), h))
	var paths []string
	for _, f := range e.Fields {
		paths = append(paths, f.Path)
	}
	if got := strings.Join(paths, " "); got != "prism-content-type prism-priority prism-ttl" {
		t.Errorf("mistakes at %s", got)
	}
}

// A media type with anything more than its number says is kept whole.
func TestContentTypes(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		"application/json": "JSON", "Application/JSON": "JSON", "application/protobuf": "PROTOBUF", "application/x-protobuf": "PROTOBUF",
		"application/avro": "AVRO", "text/plain": "TEXT", "text/plain; charset=UTF-8": "TEXT", "application/octet-stream": "BYTES",
		"text/plain; charset=latin1": "CUSTOM", "application/vnd.shop+json": "CUSTOM", "application/x-www-form-urlencoded": "CUSTOM",
	} {
		e := new(envelopev1.PrismEnvelope)
		if err := text.SetHeader(e, "content-type", value); err != nil || e.Metadata.ContentType.String() != "CONTENT_TYPE_"+want {
			t.Errorf("%s: %v, %v", value, e, err)
		}
		if custom := e.Metadata.ContentTypeCustom; want == "CUSTOM" && custom != value || want != "CUSTOM" && custom != "" {
			t.Errorf("%s: custom %q", value, custom)
		}
	}
}

func TestJSON(t *testing.T) {
	t.Parallel()
	at := envelope.WithPublishedAt(time.UnixMilli(17))
	id := envelope.WithMessageID("0198c0de-0000-7000-8000-000000000000")
	json1 := envelope.WithContentType(envelopev1.ContentType_CONTENT_TYPE_JSON)
	const head = `"metadata":{"message_id":"0198c0de-0000-7000-8000-000000000000","topic":"a.b","namespace":"n","published_at_ms":"17"`
	for _, x := range []struct {
		payload string
		opts    []envelope.Option
		want    string
	}{
		{"hello\n", nil, `{"data":"hello\n",` + head + `},"security":{}}`},
		{`{"n": 12345678901234567890}`, nil, `{"data":"{\"n\": 12345678901234567890}",` + head + `},"security":{}}`},
		{"{\"n\":\n 12345678901234567890}", []envelope.Option{json1}, `{"data":{"n":12345678901234567890},` + head + `,"content_type":"CONTENT_TYPE_JSON"},"security":{}}`},
		{"{", []envelope.Option{json1}, `{"data_base64":"ew==",` + head + `,"content_type":"CONTENT_TYPE_JSON"},"security":{}}`},
		{"\xff", nil, `{"data_base64":"/w==",` + head + `},"security":{}}`},
		{"", nil, `{"data":"",` + head + `},"security":{}}`},
	} {
		got, err := text.JSON(envelope.New("n", "a.b", []byte(x.payload), append(x.opts, at, id)...))
		if err != nil || string(got) != x.want {
			t.Errorf("%q:\n%s, %v, want\n%s", x.payload, got, err, x.want)
		}
	}
	if got, err := text.JSON(nil); err != nil || !json.Valid(got) {
		t.Errorf("of none: %s, %v", got, err)
	}
}
