// Package trust decides which messages are believed: it signs what a namespace
// publishes and verifies what it delivers. It owns the rule, and never touches
// where the keys come from or how a message stands in a backend.
package trust

import (
	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
)

// Deliver is the setting that lets messages without a signature pass.
const Deliver = "deliver"

// A Gate is what all messages of one namespace pass, in and out. Without keys
// nothing is signed or verified.
type Gate struct {
	Keys      pattern.Keys
	Namespace string
}

// Marshal writes an envelope that is complete, signed if the namespace signs.
func (g *Gate) Marshal(e *envelopev1.PrismEnvelope) ([]byte, error) {
	if g.Keys == nil {
		return envelope.Marshal(e)
	}
	return g.Keys.Sign(e)
}

// Pass returns the envelope that is delivered for one that a backend had under a
// name, a topic or a subject: the same bytes, unless it holds what nobody
// vouches for. h is its header, as Scan gives it. unsigned lets it pass without
// a signature; what it says of who published it is taken out then.
//
// The error of what is not delivered is errs.InvalidField and says why.
func (g *Gate) Pass(wire []byte, h *envelope.Header, name string, unsigned bool) ([]byte, error) {
	switch {
	case g.Keys == nil:
		return bare(wire, h, false)
	case unsigned && !h.Signed():
		return bare(wire, h, true)
	}
	if _, err := g.Keys.Verify(wire); err != nil {
		return nil, err
	}
	switch { // a good signature of another place is no good one here
	case string(h.Namespace) != g.Namespace:
		return nil, elsewhere("metadata.namespace", "namespace")
	case string(h.Topic) != name:
		return nil, elsewhere("metadata.topic", "topic or subject")
	}
	return bare(wire, h, false)
}

func elsewhere(path, what string) error {
	return errs.Invalid(errs.Field{Path: path, Text: "is another " + what + " than the one it came under: it was signed for there and moved here"})
}

// bare takes the token out, which no signature covers, and if it is wanted all
// that is said of who published.
func bare(wire []byte, h *envelope.Header, disown bool) ([]byte, error) {
	disown = disown && identified(h)
	if !disown && len(h.AuthToken) == 0 {
		return wire, nil
	}
	e, err := envelope.Unmarshal(wire)
	if err != nil {
		return nil, err
	}
	if s := e.GetSecurity(); disown && s != nil {
		s.PublisherId, s.PublisherTeam, s.UserId, s.TenantId, s.SessionId, s.Roles = "", "", "", "", "", nil
	}
	return envelope.Marshal(e)
}

func identified(h *envelope.Header) bool {
	for range h.Roles() {
		return true
	}
	return len(h.PublisherID)+len(h.PublisherTeam)+len(h.UserID)+len(h.TenantID)+len(h.SessionID) > 0
}

// CheckUnsigned says what is wrong with a setting that is Deliver or empty, at a
// path, in a namespace that signs or does not.
func CheckUnsigned(setting, path string, signs bool) (bad []errs.Field) {
	if setting != "" && !signs {
		return []errs.Field{{Path: path, Text: "means nothing, because the namespace does not sign its messages; write signing: {keys: file:///PATH}, or take this out"}}
	}
	return nil
}
