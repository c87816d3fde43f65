package envelope

import (
	"fmt"
	"regexp"
	"unicode/utf8"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	"github.com/prismgw/prism/errs"
)

const (
	maxText     = 256 // bytes of a name or an id that has no form of its own
	maxPriority = 10
	// maxTTL is ten years, as for keys: longer is a mistake of units.
	maxTTL = 10 * 366 * 24 * 60 * 60
)

// What checks of many fields say. maxText is the number in them.
const (
	textRule  = "must be UTF-8 of at most 256 bytes"
	keyIDRule = "must be UTF-8 of 1 to 256 bytes"
)

var mediaTypeForm = regexp.MustCompile(`^[!#$&^_.+a-zA-Z0-9-]+/[!#$&^_.+a-zA-Z0-9-]+( *;[ -~]*)?$`)

var errMissing = errs.Invalid(errs.Field{Path: "envelope", Text: "is missing"})

// Validate returns every mistake of e in one error: PayloadTooLarge if the size
// is among them, else InvalidField. Numbers of enums that it does not know are
// no mistakes, except where they say how to verify or to decrypt.
func Validate(e *envelopev1.PrismEnvelope) error {
	if e == nil {
		return errMissing
	}
	var v violations
	v.metadata(e)
	v.security(e.Security)
	v.observability(e.Observability)
	v.schema(e.Schema)
	v.extensions(e.Extensions)
	return v.err(sizes(e.SizeVT(), payloadSize(len(e.Payload))))
}

type violations []errs.Field

// err is the one error for everything found, with the limit that is exceeded.
func (v violations) err(size error) error {
	if size != nil {
		tooLarge := errs.From(size)
		tooLarge.Fields = append([]errs.Field{{Path: "envelope", Text: tooLarge.Message}}, v...)
		return tooLarge
	}
	if len(v) == 0 {
		return nil
	}
	return errs.Invalid(v...)
}

// check notes a violation unless ok.
func (v *violations) check(ok bool, path, text string) {
	if !ok {
		*v = append(*v, errs.Field{Path: path, Text: text})
	}
}

// text checks a field that may hold any short text.
func (v *violations) text(path, value string) {
	v.check(len(value) <= maxText && utf8.ValidString(value), path, textRule)
}

func (v *violations) metadata(e *envelopev1.PrismEnvelope) {
	m := e.GetMetadata()
	if m == nil {
		v.check(false, "metadata", "is missing")
		return
	}
	v.check(isID(m.MessageId), "metadata.message_id", "must be a UUID in lower case")
	v.check(isTopic(m.Topic), "metadata.topic", "must be 1 to 128 letters, digits, dots, dashes and underscores, and begin with a letter or digit")
	v.check(isNamespace(m.Namespace), "metadata.namespace", "must be 1 to 63 lower case letters, digits and dashes, with no dash at an end")
	v.check(m.PublishedAtMs > 0, "metadata.published_at_ms", "must be milliseconds since 1970")
	v.check(m.Priority >= 0 && m.Priority <= maxPriority, "metadata.priority", "must be 1 to 10, or 0 for the middle")
	v.check(m.TtlSeconds >= 0 && m.TtlSeconds <= maxTTL, "metadata.ttl_seconds", "must be 0 for ever, or at most ten years")
	v.check(m.RetryCount >= 0, "metadata.retry_count", "must not be negative")
	v.check(m.CausalityParent == "" || isID(m.CausalityParent), "metadata.causality_parent", "must be a message id, which is a UUID in lower case")
	v.text("metadata.correlation_id", m.CorrelationId)
	v.text("metadata.producer_id", m.ProducerId)
	v.content(e)
}

func (v *violations) content(e *envelopev1.PrismEnvelope) {
	m := e.GetMetadata()
	if m.ContentType == envelopev1.ContentType_CONTENT_TYPE_CUSTOM {
		ok := len(m.ContentTypeCustom) <= maxText && mediaTypeForm.MatchString(m.ContentTypeCustom)
		v.check(ok, "metadata.content_type_custom", "must be a media type, such as application/cbor, because content_type is CUSTOM")
	} else {
		v.check(m.ContentTypeCustom == "", "metadata.content_type_custom", "must be empty unless content_type is CUSTOM")
	}
	stated := m.ContentType != envelopev1.ContentType_CONTENT_TYPE_UNSPECIFIED
	v.check(len(e.Payload) > 0 || stated, "payload", "is empty; set content_type if that is meant")
}

func (v *violations) security(s *envelopev1.Security) {
	if s == nil {
		return
	}
	v.text("security.publisher_id", s.PublisherId)
	v.text("security.publisher_team", s.PublisherTeam)
	v.text("security.user_id", s.UserId)
	v.text("security.tenant_id", s.TenantId)
	v.text("security.session_id", s.SessionId)
	for i, role := range s.Roles {
		if len(role) > maxText || !utf8.ValidString(role) {
			v.check(false, fmt.Sprintf("security.roles[%d]", i), textRule)
		}
	}
	v.check(utf8.ValidString(s.AuthToken), "security.auth_token", "must be UTF-8")
	v.signature(s)
	v.encryption(s.Encryption)
}

func (v *violations) signature(s *envelopev1.Security) {
	if s.SignatureAlgorithm == envelopev1.SignatureAlgorithm_SIGNATURE_ALGORITHM_UNSPECIFIED {
		v.check(len(s.Signature) == 0, "security.signature_algorithm", "must be set, because there is a signature")
		v.check(s.SigningKeyId == "", "security.signing_key_id", "must be empty without a signature")
		return
	}
	known := s.SignatureAlgorithm == envelopev1.SignatureAlgorithm_SIGNATURE_ALGORITHM_HMAC_SHA256
	v.check(known, "security.signature_algorithm", "is not known; use HMAC_SHA256")
	v.check(!known || len(s.Signature) == signatureLen, "security.signature", "must be 32 bytes, because signature_algorithm is HMAC_SHA256")
	v.keyID("security.signing_key_id", s.SigningKeyId)
}

func (v *violations) encryption(c *envelopev1.Encryption) {
	if c == nil {
		return
	}
	v.check(knownEncryption(c.Algorithm), "security.encryption.algorithm", "must be AES_256_GCM or CHACHA20_POLY1305")
	v.keyID("security.encryption.key_id", c.KeyId)
	v.check(len(c.Nonce) == nonceLen, "security.encryption.nonce", "must be 12 bytes")
}

func (v *violations) keyID(path, id string) {
	v.check(id != "" && len(id) <= maxText && utf8.ValidString(id), path, keyIDRule)
}

func (v *violations) observability(o *envelopev1.Observability) {
	if o == nil {
		return
	}
	v.check(isTraceID(o.TraceId, 32), "observability.trace_id", "must be 32 hexadecimal digits in lower case, not all 0")
	v.check(isTraceID(o.SpanId, 16), "observability.span_id", "must be 16 hexadecimal digits in lower case, not all 0")
	v.check(isTraceID(o.ParentSpanId, 16), "observability.parent_span_id", "must be 16 hexadecimal digits in lower case, not all 0")
	v.check(o.TraceFlags <= 0xff, "observability.trace_flags", "must fit eight bits")
	v.check(validTexts(o.Baggage), "observability.baggage", "must be UTF-8")
	v.check(validTexts(o.Labels), "observability.labels", "must be UTF-8")
}

func (v *violations) schema(s *envelopev1.Schema) {
	if s == nil {
		return
	}
	v.text("schema.subject", s.Subject)
	v.text("schema.id", s.Id)
	v.check(len(s.Sha256) == 0 || len(s.Sha256) == 32, "schema.sha256", "must be 32 bytes")
}

func (v *violations) extensions(all map[string][]byte) {
	for key := range all {
		if key == "" || len(key) > maxText || !utf8.ValidString(key) {
			v.check(false, "extensions", "every key "+keyIDRule)
			return
		}
	}
}

// isTopic is ^[a-zA-Z0-9][a-zA-Z0-9._-]{0,127}$ without a regexp, which would be
// half of the time that Validate takes.
func isTopic(s string) bool {
	if s == "" || len(s) > 128 || s[0] == '.' || s[0] == '_' || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !isLowerOrDigit(c) && (c < 'A' || c > 'Z') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// isNamespace is ^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$, as documents have it.
func isNamespace(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isLowerOrDigit(c) && c != '-' {
			return false
		}
	}
	return true
}

func isLowerOrDigit(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

// isTraceID reports whether s is empty or n digits that W3C Trace Context takes.
func isTraceID(s string, n int) bool {
	if s == "" {
		return true
	}
	zeros := true
	for i := range len(s) {
		zeros = zeros && s[i] == '0'
	}
	return len(s) == n && isHex(s) && !zeros
}

func validTexts(m map[string]string) bool {
	for key, value := range m {
		if !utf8.ValidString(key) || !utf8.ValidString(value) {
			return false
		}
	}
	return true
}
