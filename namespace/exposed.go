package namespace

// Exposed reports the namespaces that may not be served under the given
// circumstances, as an *Error that says which line to change. loopbackOnly
// says that every listener is a loopback address or a Unix socket.
//
// On loopback everything may be served: a namespace without "auth" denies
// anonymous callers by itself. Beyond it, "auth" has to be written, so that
// nobody exposes a namespace without having thought about it, and anonymous
// writes need allowAnonymousWrites.
func (s *Set) Exposed(loopbackOnly, allowAnonymousWrites bool) error {
	if loopbackOnly {
		return nil
	}
	r := newReport()
	for _, n := range s.Namespaces {
		name := quote(n.Spec.GetName())
		switch {
		case n.Spec.GetAuth() == nil:
			r.namespace(n, "auth", "the namespace %s is served beyond loopback and does not say who may call it; add the line auth: {anonymous: deny}", name)
		case n.Anonymous() == AnonymousReadWrite && !allowAnonymousWrites:
			r.namespace(n, "auth.anonymous", "anybody could write to the namespace %s, which is served beyond loopback; write anonymous: deny or read_only here, listen on loopback only, or start with --allow-anonymous-writes", name)
		}
	}
	return r.err()
}
