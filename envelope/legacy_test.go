package envelope_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/errs"
)

const legacyFull = `{
	"topic": "orders", "payload": "aGVsbG8=", "message_id": "msg-17", "timestamp": 1700000000,
	"metadata": {
		"content-type": "application/json", "correlation_id": "flow-1", "Partition-Key": "k1", "priority": "7",
		"trace_id": "` + traceID + `", "span_id": "` + spanID + `", "producer_id": "p-1", "causality_parent": "` + otherID + `",
		"region": "eu-1", "Authorization": "Bearer hunter2", "x-api-key": "hunter2", "session_token": "hunter2"
	},
	"auth": {"token": "hunter2", "user_id": "ada", "nested": {"roles": ["admin"]}}
}`

func TestFromLegacy(t *testing.T) {
	t.Parallel()
	e, dropped, err := envelope.FromLegacy("shop", []byte(legacyFull))
	if err != nil {
		t.Fatal(err)
	}
	want := &envelopev1.PrismEnvelope{
		Metadata: &envelopev1.Metadata{
			MessageId: e.Metadata.MessageId, Topic: "orders", Namespace: "shop", PublishedAtMs: 1_700_000_000_000,
			ContentType:   envelopev1.ContentType_CONTENT_TYPE_JSON,
			CorrelationId: "flow-1", PartitionKey: []byte("k1"), Priority: 7, ProducerId: "p-1", CausalityParent: otherID,
		},
		Security:      &envelopev1.Security{},
		Observability: &envelopev1.Observability{TraceId: traceID, SpanId: spanID},
		Extensions:    map[string][]byte{"x-legacy-region": []byte("eu-1"), "x-legacy-message-id": []byte("msg-17")},
		Payload:       []byte("hello"),
	}
	if !proto.Equal(e, want) {
		t.Errorf("became %v", e)
	}
	if got := []string{"auth", "metadata.Authorization", "metadata.session_token", "metadata.x-api-key"}; !slices.Equal(dropped, got) {
		t.Errorf("dropped %q", dropped)
	}
	wire, err := e.MarshalVT()
	if err != nil || strings.Contains(string(wire), "hunter2") || strings.Contains(string(wire), "ada") {
		t.Errorf("%v: a credential or an unverified name is in it: %v", err, e)
	}
}

// Read twice, in two processes, it is one message; another topic's is another.
func TestLegacyIDs(t *testing.T) {
	t.Parallel()
	read := func(topic, id string) string {
		e, _, err := envelope.FromLegacy("shop", fmt.Appendf(nil, `{"topic": %q, "payload": "aGVsbG8=", "message_id": %q}`, topic, id))
		if err != nil {
			t.Fatal(err)
		}
		return e.Metadata.MessageId
	}
	if a, b := read("t", "17"), read("t", "17"); a != b || a[14] != '8' {
		t.Errorf("%s became %s", a, b)
	}
	if a, b, c := read("t", "17"), read("t", "18"), read("u", "17"); a == b || a == c {
		t.Errorf("%s, %s, %s meet", a, b, c)
	}
	if got := read("t", strings.ToUpper(otherID)); got != otherID {
		t.Errorf("a UUID became %s", got)
	}
	if a, b := read("t", ""), read("t", ""); a == b || a[14] != '7' {
		t.Errorf("without ids: %s, %s", a, b)
	}
}

func TestLegacyTimestamps(t *testing.T) {
	t.Parallel()
	for timestamp, want := range map[string]int64{
		`1700000000`:                      1_700_000_000_000,
		`1700000000123`:                   1_700_000_000_123,
		`1700000000123456`:                1_700_000_000_123,
		`1700000000123456789`:             1_700_000_000_123,
		`"1700000000"`:                    1_700_000_000_000,
		`"2023-11-14T22:13:20.123456Z"`:   1_700_000_000_123,
		`"2023-11-14T23:13:20.123+01:00"`: 1_700_000_000_123,
	} {
		e, _, err := envelope.FromLegacy("shop", []byte(`{"topic": "t", "payload": "aGVsbG8=", "timestamp": `+timestamp+`}`))
		if err != nil || e.Metadata.PublishedAtMs != want {
			t.Errorf("%s: %v, %v", timestamp, e.GetMetadata().GetPublishedAtMs(), err)
		}
	}
}

// What does not fit its field is kept beside it.
func TestLegacyKeepsWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	e, dropped, err := envelope.FromLegacy("shop", []byte(`{"topic": "t", "payload": "", "metadata": {
		"content_type": "json", "priority": "high", "trace_id": "17", "span_id": "x", "causality_parent": "y",
		"correlation_id": "`+strings.Repeat("c", 300)+`", "producer-id": "a", "producer_id": "b"}}`))
	if err != nil || len(dropped) > 0 {
		t.Fatal(err, dropped)
	}
	if len(e.Extensions) != 7 || string(e.Extensions["x-legacy-priority"]) != "high" || string(e.Extensions["x-legacy-producer_id"]) != "b" {
		t.Errorf("kept %v", e.Extensions)
	}
}

func TestFromLegacyRefuses(t *testing.T) {
	t.Parallel()
	for name, data := range map[string]string{
		"nothing":          ``,
		"no JSON":          `topic`,
		"a list":           `[]`,
		"an unknown field": `{"topic": "t", "payload": "aGVsbG8=", "password": "hunter2"}`,
		"a bracket more":   `{"topic": "t", "payload": "aGVsbG8="}}`,
		"two objects":      `{"topic": "t", "payload": "aGVsbG8="} {}`,
		"no topic":         `{"payload": "aGVsbG8="}`,
		"no base64":        `{"topic": "t", "payload": "{}"}`,
		"a wrong date":     `{"topic": "t", "payload": "aGVsbG8=", "timestamp": "yesterday"}`,
		"a negative date":  `{"topic": "t", "payload": "aGVsbG8=", "timestamp": -5}`,
		"no UTF-8":         "{\"topic\": \"t\", \"payload\": \"aGVsbG8=\", \"metadata\": {\"a\": \"\xff\"}}",
	} {
		_, _, err := envelope.FromLegacy("shop", []byte(data))
		if errs.ReasonOf(err) != errs.InvalidField || err == nil {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(errs.From(err).Text(), "hunter2") {
			t.Errorf("%s: the error tells a secret", name)
		}
	}
	big := `{"topic": "t", "payload": "` + strings.Repeat("AAAA", 1<<20) + `"}`
	if _, _, err := envelope.FromLegacy("shop", []byte(big)); errs.ReasonOf(err) != errs.PayloadTooLarge {
		t.Errorf("3 MiB: %v", err)
	}
}
