package envelope

import (
	"time"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
)

// An Option fills fields of a new envelope. There is one for every field but
// those that sealing and signing fill; the fields' comments in envelope.proto
// say what they mean.
type Option func(*envelopev1.PrismEnvelope)

// WithMessageID replaces the message id that New made, for a message that is
// published again.
func WithMessageID(id string) Option {
	return func(e *envelopev1.PrismEnvelope) { e.Metadata.MessageId = id }
}

// WithPublishedAt replaces the time that New took.
func WithPublishedAt(t time.Time) Option {
	return func(e *envelopev1.PrismEnvelope) { e.Metadata.PublishedAtMs = t.UnixMilli() }
}

// WithContentType says what the payload is. For a type without a number of its
// own there is WithCustomContentType.
func WithContentType(t envelopev1.ContentType) Option {
	return func(e *envelopev1.PrismEnvelope) { e.Metadata.ContentType = t }
}

// WithCustomContentType says what the payload is by its media type.
func WithCustomContentType(mediaType string) Option {
	return func(e *envelopev1.PrismEnvelope) {
		e.Metadata.ContentType = envelopev1.ContentType_CONTENT_TYPE_CUSTOM
		e.Metadata.ContentTypeCustom = mediaType
	}
}

// WithContentEncoding says how the payload is compressed; it compresses nothing.
func WithContentEncoding(c envelopev1.ContentEncoding) Option {
	return func(e *envelopev1.PrismEnvelope) { e.Metadata.ContentEncoding = c }
}

// WithPriority sets the priority, 1 to 10.
func WithPriority(p int32) Option {
	return func(e *envelopev1.PrismEnvelope) { e.Metadata.Priority = p }
}

// WithTTL says for how long the message is of use. The field counts seconds; a
// part of one counts as a whole one, so that no short ttl becomes 0, which means
// for ever.
func WithTTL(ttl time.Duration) Option {
	return func(e *envelopev1.PrismEnvelope) {
		e.Metadata.TtlSeconds = int64(ttl / time.Second)
		switch part := ttl % time.Second; {
		case part > 0:
			e.Metadata.TtlSeconds++
		case part < 0:
			e.Metadata.TtlSeconds--
		}
	}
}

// WithCorrelationID says to which flow the message belongs.
func WithCorrelationID(id string) Option {
	return func(e *envelopev1.PrismEnvelope) { e.Metadata.CorrelationId = id }
}

// WithCausalityParent names the message that caused this one.
func WithCausalityParent(messageID string) Option {
	return func(e *envelopev1.PrismEnvelope) { e.Metadata.CausalityParent = messageID }
}

// WithPartitionKey sets the key within which messages keep their order.
func WithPartitionKey(key []byte) Option {
	return func(e *envelopev1.PrismEnvelope) { e.Metadata.PartitionKey = key }
}

// WithRetryCount says how often the publisher has tried before.
func WithRetryCount(n int32) Option {
	return func(e *envelopev1.PrismEnvelope) { e.Metadata.RetryCount = n }
}

// WithProducerID names the publishing instance.
func WithProducerID(id string) Option {
	return func(e *envelopev1.PrismEnvelope) { e.Metadata.ProducerId = id }
}

// WithPublisher says who publishes. The proxy replaces it, as everything that
// says who, by what it has verified.
func WithPublisher(id, team string) Option {
	return func(e *envelopev1.PrismEnvelope) { e.Security.PublisherId, e.Security.PublisherTeam = id, team }
}

// WithUser says on whose behalf, and in which tenant, the message is published.
func WithUser(userID, tenantID string) Option {
	return func(e *envelopev1.PrismEnvelope) { e.Security.UserId, e.Security.TenantId = userID, tenantID }
}

// WithRoles sets the roles of who publishes.
func WithRoles(roles ...string) Option {
	return func(e *envelopev1.PrismEnvelope) { e.Security.Roles = roles }
}

// WithSession names the session of who publishes.
func WithSession(id string) Option {
	return func(e *envelopev1.PrismEnvelope) { e.Security.SessionId = id }
}

// WithAuthToken adds the publisher's token. Marshal leaves it out: it is for
// whoever hands the message itself to a proxy.
func WithAuthToken(token string) Option {
	return func(e *envelopev1.PrismEnvelope) { e.Security.AuthToken = token }
}

// WithPII says whether the payload has personal data.
func WithPII(contains bool) Option {
	return func(e *envelopev1.PrismEnvelope) { e.Security.ContainsPii = contains }
}

// WithDataClassification says how confidential the payload is.
func WithDataClassification(c envelopev1.DataClassification) Option {
	return func(e *envelopev1.PrismEnvelope) { e.Security.DataClassification = c }
}

// WithTrace connects the message with a span; ids in hexadecimal, as in W3C
// Trace Context. The parent may be empty.
func WithTrace(traceID, spanID, parentSpanID string, flags uint32) Option {
	return func(e *envelopev1.PrismEnvelope) {
		o := observability(e)
		o.TraceId, o.SpanId, o.ParentSpanId, o.TraceFlags = traceID, spanID, parentSpanID, flags
	}
}

// WithBaggage adds one entry of W3C Baggage.
func WithBaggage(key, value string) Option {
	return func(e *envelopev1.PrismEnvelope) {
		o := observability(e)
		if o.Baggage == nil {
			o.Baggage = make(map[string]string)
		}
		o.Baggage[key] = value
	}
}

// WithLabel adds one label.
func WithLabel(key, value string) Option {
	return func(e *envelopev1.PrismEnvelope) {
		o := observability(e)
		if o.Labels == nil {
			o.Labels = make(map[string]string)
		}
		o.Labels[key] = value
	}
}

// WithSchema names the schema of the payload. The envelope keeps s.
func WithSchema(s *envelopev1.Schema) Option {
	return func(e *envelopev1.PrismEnvelope) { e.Schema = s }
}

// WithExtension adds what has no field; keys of one's own begin with x-.
func WithExtension(key string, value []byte) Option {
	return func(e *envelopev1.PrismEnvelope) {
		if e.Extensions == nil {
			e.Extensions = make(map[string][]byte)
		}
		e.Extensions[key] = value
	}
}

func observability(e *envelopev1.PrismEnvelope) *envelopev1.Observability {
	if e.Observability == nil {
		e.Observability = new(envelopev1.Observability)
	}
	return e.Observability
}
