// Package publish is what the patterns that take messages share: how a message
// that a caller hands in becomes one that is published.
package publish

import (
	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/errs"
)

// Complete makes e a message that is published under a name, a topic or a
// subject, of a namespace: what is missing is filled in, what it says of who
// publishes it is replaced by the caller, and its token is taken out. It returns
// everything that is wrong with it, with what the caller of Complete has found
// already.
func Complete(e *envelopev1.PrismEnvelope, namespace, name, caller string, bad ...errs.Field) error {
	bad = append(bad, Contradictions(e.GetMetadata(), namespace, name)...)
	envelope.StripAuthToken(e)
	bad = append(bad, signed(e.GetSecurity())...)
	identify(e, caller)
	envelope.Fill(e, namespace, name)
	err := envelope.Validate(e)
	if bad != nil {
		return merge(bad, err)
	}
	return err
}

// merge returns all mistakes in one error. A name that is wrong is
// told once.
func merge(bad []errs.Field, err error) error {
	if err == nil {
		return errs.Invalid(bad...)
	}
	e := errs.From(err)
	for _, f := range e.Fields {
		if f.Path != "metadata.topic" && f.Path != "metadata.namespace" {
			bad = append(bad, f)
		}
	}
	if e.Reason == errs.InvalidField {
		return errs.Invalid(bad...)
	}
	e.Fields = bad
	return e
}

// Contradictions are where a message says that it is another one.
func Contradictions(m *envelopev1.Metadata, namespace, name string) (bad []errs.Field) {
	if n := m.GetNamespace(); n != "" && n != namespace {
		bad = append(bad, errs.Field{Path: "metadata.namespace", Text: "is not the namespace that the message is published in; leave it out"})
	}
	if t := m.GetTopic(); t != "" && t != name {
		bad = append(bad, errs.Field{Path: "metadata.topic", Text: "is not the topic, or subject, that the message is published under; leave it out"})
	}
	return bad
}

// signed refuses a publisher's signature, which it takes out: the proxy changes
// what it covers.
func signed(s *envelopev1.Security) []errs.Field {
	if len(s.GetSignature()) == 0 && s.GetSigningKeyId() == "" && s.GetSignatureAlgorithm() == 0 {
		return nil
	}
	s.Signature, s.SigningKeyId, s.SignatureAlgorithm = nil, "", 0
	return []errs.Field{{Path: "security.signature", Text: "would not hold, because the proxy completes the message; leave signature, signature_algorithm and signing_key_id out"}}
}

// identify replaces what a message says of who published it by what is known.
func identify(e *envelopev1.PrismEnvelope, caller string) {
	if e.Security == nil {
		if caller == "" {
			return
		}
		e.Security = new(envelopev1.Security)
	}
	s := e.Security
	s.PublisherId = caller
	s.PublisherTeam, s.UserId, s.TenantId, s.SessionId, s.Roles = "", "", "", "", nil
}
