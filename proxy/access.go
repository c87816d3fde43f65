package proxy

import (
	accessv1 "github.com/prismgw/prism/api/prism/access/v1"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/namespace"
)

// authenticate finds out who calls. There are no identity providers, so a
// credential that is presented cannot be good, and is never taken for none.
func (t *target) authenticate(s *selectors) error {
	if s.credential || t.anonymous == namespace.AnonymousDeny {
		return unauthenticated(s)
	}
	return nil
}

// authorize decides whether an anonymous caller may use the method.
func (t *target) authorize(m *method) error {
	if t.anonymous == namespace.AnonymousReadWrite || m.class == accessv1.Class_CLASS_PER_OPERATION || !m.write() {
		return nil
	}
	return unauthenticated(&selectors{})
}

// unauthenticated says what is wrong with a request's identity, from what the
// request itself says alone: the same for what exists and for what does not.
func unauthenticated(s *selectors) error {
	if s.credential {
		return errs.New(errs.Unauthenticated, "this proxy has no identity provider that could check credentials; send the request without authorization")
	}
	return errs.New(errs.Unauthenticated, "this needs an identity, and the request has none; callers without one are let in by auth.anonymous in the Namespace document")
}
