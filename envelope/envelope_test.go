package envelope_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/errs"
)

const (
	otherID = "01890a5d-ac96-774b-bcce-b302099a8057"
	traceID = "4bf92f3577b34da6a3ce929d0e0e4736"
	spanID  = "00f067aa0ba902b7"
)

// everything returns options for every field that has one.
func everything() []envelope.Option {
	hash := sha256.Sum256([]byte("schema"))
	return []envelope.Option{
		envelope.WithMessageID(otherID), envelope.WithPublishedAt(time.UnixMilli(1_700_000_000_123)),
		envelope.WithCustomContentType("application/cbor"),
		envelope.WithContentEncoding(envelopev1.ContentEncoding_CONTENT_ENCODING_ZSTD),
		envelope.WithPriority(7), envelope.WithTTL(90 * time.Second), envelope.WithCorrelationID("order-17"),
		envelope.WithCausalityParent(otherID), envelope.WithPartitionKey([]byte{0xff, 'k'}), envelope.WithRetryCount(2),
		envelope.WithProducerID("shop-1"), envelope.WithPublisher("svc-shop", "checkout"), envelope.WithUser("ada", "acme"),
		envelope.WithRoles("clerk", "admin"), envelope.WithSession("s-1"), envelope.WithAuthToken("a token"),
		envelope.WithPII(true), envelope.WithDataClassification(envelopev1.DataClassification_DATA_CLASSIFICATION_RESTRICTED),
		envelope.WithTrace(traceID, spanID, spanID, 1), envelope.WithBaggage("k", "v"), envelope.WithLabel("l", "w"),
		envelope.WithSchema(&envelopev1.Schema{
			Subject: "order", Version: 3, Id: "17",
			Format: envelopev1.SchemaFormat_SCHEMA_FORMAT_AVRO, Sha256: hash[:],
		}),
		envelope.WithExtension("x-shop", []byte{1, 2}),
	}
}

func full() *envelopev1.PrismEnvelope {
	return envelope.New("shop", "orders.placed", []byte("payload"), everything()...)
}

// Every field of the schema is filled by an option, so that a new field without
// one is noticed. What sealing and signing fill is theirs.
func TestThereIsAnOptionForEveryField(t *testing.T) {
	t.Parallel()
	e := full()
	for _, m := range []proto.Message{e, e.Metadata, e.Security, e.Observability, e.Schema} {
		fields := m.ProtoReflect().Descriptor().Fields()
		for i := range fields.Len() {
			switch f := fields.Get(i); f.Name() {
			case "signature", "signature_algorithm", "signing_key_id", "encryption":
			default:
				if !m.ProtoReflect().Has(f) {
					t.Errorf("%s has no option", f.FullName())
				}
			}
		}
	}
	if err := envelope.Validate(e); err != nil {
		t.Errorf("an envelope with everything: %v", err)
	}
}

func TestNewIsComplete(t *testing.T) {
	t.Parallel()
	before := time.Now().UnixMilli()
	e := envelope.New("shop", "orders", []byte("x"))
	if err := envelope.Validate(e); err != nil {
		t.Fatal(err)
	}
	if at := e.Metadata.PublishedAtMs; at < before || at > time.Now().UnixMilli() {
		t.Errorf("published at %d, which is not now", at)
	}
	if v := e.Metadata.MessageId[14]; v != '7' {
		t.Errorf("message id of version %c, want 7", v)
	}
}

func TestTTLNeverBecomesForEver(t *testing.T) {
	t.Parallel()
	for ttl, want := range map[time.Duration]int64{
		0: 0, 1: 1, time.Second: 1, time.Second + 1: 2, -1: -1, -time.Second: -1,
	} {
		if got := envelope.New("n", "t", nil, envelope.WithTTL(ttl)).Metadata.TtlSeconds; got != want {
			t.Errorf("%v became %d s, want %d", ttl, got, want)
		}
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	type change func(*envelopev1.PrismEnvelope)
	for path, changes := range map[string][]change{
		"metadata": {func(e *envelopev1.PrismEnvelope) { e.Metadata = nil }},
		"metadata.message_id": {
			func(e *envelopev1.PrismEnvelope) { e.Metadata.MessageId = "" },
			func(e *envelopev1.PrismEnvelope) { e.Metadata.MessageId = strings.ToUpper(otherID) },
			func(e *envelopev1.PrismEnvelope) { e.Metadata.MessageId = otherID + "0" },
			func(e *envelopev1.PrismEnvelope) { e.Metadata.MessageId = strings.ReplaceAll(otherID, "-", "0") },
			func(e *envelopev1.PrismEnvelope) { e.Metadata.MessageId = "01890a5d-ac96-774b-7cce-b302099a8057" },
		},
		"metadata.topic": {
			func(e *envelopev1.PrismEnvelope) { e.Metadata.Topic = "" },
			func(e *envelopev1.PrismEnvelope) { e.Metadata.Topic = ".hidden" },
			func(e *envelopev1.PrismEnvelope) { e.Metadata.Topic = "a*" },
			func(e *envelopev1.PrismEnvelope) { e.Metadata.Topic = "a\n" },
			func(e *envelopev1.PrismEnvelope) { e.Metadata.Topic = strings.Repeat("a", 129) },
		},
		"metadata.namespace": {
			func(e *envelopev1.PrismEnvelope) { e.Metadata.Namespace = "" },
			func(e *envelopev1.PrismEnvelope) { e.Metadata.Namespace = "Shop" },
			func(e *envelopev1.PrismEnvelope) { e.Metadata.Namespace = "-shop" },
			func(e *envelopev1.PrismEnvelope) { e.Metadata.Namespace = "shop-" },
			func(e *envelopev1.PrismEnvelope) { e.Metadata.Namespace = "a.b" },
			func(e *envelopev1.PrismEnvelope) { e.Metadata.Namespace = strings.Repeat("a", 64) },
		},
		"metadata.published_at_ms":  {func(e *envelopev1.PrismEnvelope) { e.Metadata.PublishedAtMs = 0 }},
		"metadata.causality_parent": {func(e *envelopev1.PrismEnvelope) { e.Metadata.CausalityParent = "17" }},
		"metadata.correlation_id": {
			func(e *envelopev1.PrismEnvelope) { e.Metadata.CorrelationId = strings.Repeat("c", 257) },
			func(e *envelopev1.PrismEnvelope) { e.Metadata.CorrelationId = "\xff" },
		},
		"metadata.producer_id": {func(e *envelopev1.PrismEnvelope) { e.Metadata.ProducerId = "\xff" }},
		"metadata.priority": {
			func(e *envelopev1.PrismEnvelope) { e.Metadata.Priority = 11 },
			func(e *envelopev1.PrismEnvelope) { e.Metadata.Priority = -1 },
		},
		"metadata.ttl_seconds": {
			func(e *envelopev1.PrismEnvelope) { e.Metadata.TtlSeconds = -1 },
			func(e *envelopev1.PrismEnvelope) { e.Metadata.TtlSeconds = 1 << 40 },
		},
		"metadata.retry_count": {func(e *envelopev1.PrismEnvelope) { e.Metadata.RetryCount = -1 }},
		"metadata.content_type_custom": {
			func(e *envelopev1.PrismEnvelope) { e.Metadata.ContentTypeCustom = "" },
			func(e *envelopev1.PrismEnvelope) { e.Metadata.ContentTypeCustom = "cbor" },
			func(e *envelopev1.PrismEnvelope) { e.Metadata.ContentType = envelopev1.ContentType_CONTENT_TYPE_JSON },
		},
		"payload": {func(e *envelopev1.PrismEnvelope) {
			e.Payload, e.Metadata.ContentType, e.Metadata.ContentTypeCustom = nil, 0, ""
		}},
		"security.tenant_id":           {func(e *envelopev1.PrismEnvelope) { e.Security.TenantId = "\xff" }},
		"security.roles[1]":            {func(e *envelopev1.PrismEnvelope) { e.Security.Roles[1] = "\xff" }},
		"security.auth_token":          {func(e *envelopev1.PrismEnvelope) { e.Security.AuthToken = "\xff" }},
		"security.signature_algorithm": {func(e *envelopev1.PrismEnvelope) { e.Security.Signature = make([]byte, 32) }},
		"security.signing_key_id": {
			func(e *envelopev1.PrismEnvelope) { e.Security.SigningKeyId = "k" },
			func(e *envelopev1.PrismEnvelope) {
				e.Security.Signature, e.Security.SignatureAlgorithm = make([]byte, 32), 1
			},
		},
		"security.signature": {func(e *envelopev1.PrismEnvelope) {
			e.Security.SignatureAlgorithm, e.Security.SigningKeyId = 1, "k"
		}},
		"security.encryption.algorithm": {sealed(0, "k", 12), sealed(3, "k", 12)},
		"security.encryption.key_id":    {sealed(1, "", 12)},
		"security.encryption.nonce":     {sealed(1, "k", 11), sealed(2, "k", 13)},
		"observability.trace_id": {
			func(e *envelopev1.PrismEnvelope) { e.Observability.TraceId = spanID },
			func(e *envelopev1.PrismEnvelope) { e.Observability.TraceId = strings.Repeat("0", 32) },
		},
		"observability.span_id":        {func(e *envelopev1.PrismEnvelope) { e.Observability.SpanId = traceID }},
		"observability.parent_span_id": {func(e *envelopev1.PrismEnvelope) { e.Observability.ParentSpanId = "00F067AA0BA902B7" }},
		"observability.trace_flags":    {func(e *envelopev1.PrismEnvelope) { e.Observability.TraceFlags = 256 }},
		"observability.baggage":        {func(e *envelopev1.PrismEnvelope) { e.Observability.Baggage["\xff"] = "" }},
		"observability.labels":         {func(e *envelopev1.PrismEnvelope) { e.Observability.Labels["k"] = "\xff" }},
		"schema.subject":               {func(e *envelopev1.PrismEnvelope) { e.Schema.Subject = strings.Repeat("s", 257) }},
		"schema.sha256":                {func(e *envelopev1.PrismEnvelope) { e.Schema.Sha256 = []byte{1} }},
		"extensions":                   {func(e *envelopev1.PrismEnvelope) { e.Extensions[""] = nil }},
	} {
		for i, change := range changes {
			e := full()
			change(e)
			got := fieldsOf(envelope.Validate(e))
			if !slices.Equal(got, []string{path}) {
				t.Errorf("change %d of %s: mistakes in %q", i, path, got)
			}
		}
	}
}

func sealed(algorithm envelopev1.EncryptionAlgorithm, key string, nonce int) func(*envelopev1.PrismEnvelope) {
	return func(e *envelopev1.PrismEnvelope) {
		e.Security.Encryption = &envelopev1.Encryption{Algorithm: algorithm, KeyId: key, Nonce: make([]byte, nonce)}
	}
}

func fieldsOf(err error) []string {
	var e *errs.Error
	if !errors.As(err, &e) {
		return nil
	}
	var paths []string
	for _, f := range e.Fields {
		paths = append(paths, f.Path)
	}
	return paths
}

func TestValidateTellsEverythingAtOnce(t *testing.T) {
	t.Parallel()
	e := envelope.New("S", "", make([]byte, envelope.MaxSize), envelope.WithPriority(11), envelope.WithRoles("\xff"))
	err := envelope.Validate(e)
	want := []string{"envelope", "metadata.topic", "metadata.namespace", "metadata.priority", "security.roles[0]"}
	if got := fieldsOf(err); !slices.Equal(got, want) || errs.ReasonOf(err) != errs.PayloadTooLarge {
		t.Errorf("%v: %q, want %q", err, got, want)
	}
}

func TestAnEmptyPayloadNeedsAContentType(t *testing.T) {
	t.Parallel()
	e := envelope.New("n", "t", nil, envelope.WithContentType(envelopev1.ContentType_CONTENT_TYPE_JSON))
	if err := envelope.Validate(e); err != nil {
		t.Error(err)
	}
}

// At the limit is accepted by everything, one byte more is refused by everything.
func TestLimits(t *testing.T) {
	t.Parallel()
	for name, limited := range map[string]struct {
		limit int
		build func(filler int) *envelopev1.PrismEnvelope
	}{
		"all": {envelope.MaxSize, func(n int) *envelopev1.PrismEnvelope {
			return envelope.New("n", "t", make([]byte, n))
		}},
		"header": {envelope.MaxHeaderSize, func(n int) *envelopev1.PrismEnvelope {
			return envelope.New("n", "t", nil, envelope.WithContentType(1), envelope.WithExtension("x-a", make([]byte, n)))
		}},
	} {
		n := limited.limit - (limited.build(limited.limit).SizeVT() - limited.limit)
		fits, over := limited.build(n), limited.build(n+1)
		if size := fits.SizeVT(); size != limited.limit {
			t.Fatalf("%s: made %d bytes to test the limit of %d", name, size, limited.limit)
		}
		wire, err := envelope.Marshal(fits)
		if err != nil || envelope.Validate(fits) != nil {
			t.Errorf("%s: at the limit: %v, %v", name, err, envelope.Validate(fits))
		}
		if _, err := envelope.Scan(wire); err != nil {
			t.Errorf("%s: at the limit: %v", name, err)
		}
		overWire, err := over.MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		_, marshal := envelope.Marshal(over)
		_, scan := envelope.Scan(overWire)
		_, sign := ring(t).Sign(over)
		for _, err := range []error{marshal, scan, sign, envelope.Validate(over)} {
			if !errors.Is(err, errs.PayloadTooLarge) {
				t.Errorf("%s: over the limit: %v", name, err)
			}
		}
	}
}

// What is too long is not read at all.
func TestTooLongIsNotRead(t *testing.T) {
	t.Parallel()
	if _, err := envelope.Scan(make([]byte, envelope.MaxSize+1)); !errors.Is(err, errs.PayloadTooLarge) {
		t.Error(err)
	}
}

func TestMarshalStripsTheToken(t *testing.T) {
	t.Parallel()
	found := 0
	count := func() { found++ }
	for name, marshal := range map[string]func(*envelopev1.PrismEnvelope) ([]byte, error){
		"Marshal": envelope.Marshal,
		"Encoder": envelope.Encoder{TokenFound: count}.Marshal,
		"signing": envelope.Encoder{TokenFound: count, Ring: ring(t)}.Marshal,
		"Sign":    ring(t).Sign,
	} {
		e := full()
		wire, err := marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(wire, []byte("a token")) || e.Security.AuthToken != "" {
			t.Errorf("%s: the token is still there", name)
		}
		if again, err := marshal(e); err != nil || len(again) != len(wire) {
			t.Errorf("%s again: %v, %d bytes after %d", name, err, len(again), len(wire))
		}
	}
	if found != 2 {
		t.Errorf("TokenFound was called %d times, want once for each of two envelopes", found)
	}
	raw, err := full().MarshalVT()
	if err != nil || !bytes.Contains(raw, []byte("a token")) {
		t.Error("this test cannot see a token")
	}
}

func TestAppendKeepsWhatIsThere(t *testing.T) {
	t.Parallel()
	for _, room := range []int{0, 4096} {
		dst := append(make([]byte, 0, room), "before"...)
		got, err := envelope.Encoder{Ring: ring(t)}.Append(dst, full())
		if err != nil || !bytes.HasPrefix(got, []byte("before")) {
			t.Fatalf("%v, %q", err, got)
		}
		if _, err := ring(t).Verify(got[len("before"):]); err != nil {
			t.Error(err)
		}
	}
}

func TestMarshalAndUnmarshal(t *testing.T) {
	t.Parallel()
	e := full()
	wire, err := envelope.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	back, err := envelope.Unmarshal(wire)
	if err != nil || !proto.Equal(e, back) {
		t.Errorf("%v: %v came back", err, back)
	}
}

func TestNilIsNoPanic(t *testing.T) {
	t.Parallel()
	var none *envelope.Ring
	empty := new(envelopev1.PrismEnvelope)
	if envelope.StripAuthToken(nil) || envelope.StripAuthToken(empty) {
		t.Error("a token in nothing")
	}
	_, marshal := envelope.Marshal(nil)
	_, sign := ring(t).Sign(nil)
	_, signNone := none.Sign(empty)
	_, verify := none.Verify(signed(t, full()))
	_, verifyNothing := ring(t).Verify(nil)
	for i, err := range []error{marshal, sign, signNone, verify, verifyNothing, envelope.Validate(nil), envelope.Validate(empty)} {
		if err == nil {
			t.Errorf("call %d accepted nothing", i)
		}
	}
	if none.String() == "" {
		t.Error("no ring has no name")
	}
	if _, err := envelope.Marshal(empty); err != nil {
		t.Errorf("an envelope without anything: %v", err)
	}
}

// Fill completes what is not there and changes nothing that is.
func TestFill(t *testing.T) {
	t.Parallel()
	began := time.Now().UnixMilli()
	e := &envelopev1.PrismEnvelope{Payload: []byte("x")}
	envelope.Fill(e, "orders", "placed.eu")
	m := e.GetMetadata()
	if err := envelope.Validate(e); err != nil || m.GetNamespace() != "orders" || m.GetTopic() != "placed.eu" || m.GetPublishedAtMs() < began {
		t.Errorf("%v, %v", e, err)
	}
	same := proto.Clone(e)
	envelope.Fill(e, "others", "shipped")
	if !proto.Equal(e, same) {
		t.Errorf("%v, want %v", e, same)
	}
}
