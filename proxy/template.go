package proxy

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/prismgw/prism/errs"
)

// template is a route whose path has a form of its own.
type template struct {
	route *route
	parts []part
}

// part is one segment: a word, or what stands in braces and perhaps an action
// after it.
type part struct {
	word   string
	name   string
	action string // with its colon
}

func newTemplate(r *route) *template {
	t := &template{route: r}
	for segment := range strings.SplitSeq(r.Path, "/") {
		if name, isName := strings.CutPrefix(segment, "{"); isName {
			name, action, _ := strings.Cut(name, "}")
			t.parts = append(t.parts, part{name: name, action: action})
			continue
		}
		t.parts = append(t.parts, part{word: segment})
	}
	return t
}

// match returns what the segments name, as they are written.
func (t *template) match(segments []string) (names []string, ok bool) {
	if len(segments) != len(t.parts) {
		return nil, false
	}
	for i, p := range t.parts {
		if p.name == "" {
			if segments[i] != p.word {
				return nil, false
			}
			continue
		}
		name, ok := strings.CutSuffix(segments[i], p.action)
		if !ok || name == "" || strings.Contains(name, ":") {
			return nil, false
		}
		names = append(names, name)
	}
	return names, true
}

// templated finds the route of a path that has a form of its own. found says
// that there is one, if with another verb.
func (s *httpServer) templated(segments []string, r *http.Request) (to routed, found bool, err error) {
	var verbs []string
	for _, t := range s.templates {
		names, ok := t.match(segments)
		if !ok {
			continue
		}
		if t.route.Verb != r.Method {
			verbs = append(verbs, t.route.Verb)
			continue
		}
		for i := range names {
			if names[i], err = url.PathUnescape(names[i]); err != nil {
				return to, true, errs.Invalid(errs.Field{Path: "path", Text: "is not percent-encoded properly"})
			}
		}
		return routed{route: t.route, names: names}, true, nil
	}
	if len(verbs) == 0 {
		return to, false, nil
	}
	slices.Sort(verbs)
	allow := strings.Join(verbs, ", ")
	return to, true, errs.Wrap(noRouteError{http.StatusMethodNotAllowed, allow}, errs.Unsupported, "%s cannot be done here; use %s", r.Method, allow)
}
