package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
)

// httpServer is the data plane over HTTP:
//
//	/v1/namespaces/{namespace}/{kind}/{item}
//	/v1/namespaces/{namespace}/{kind}:{action}
//	/v1/namespaces/{namespace}/patterns/{pattern}/{kind}…
//
// It routes on the path as it was sent: nothing is cleaned or redirected, so
// that a key can hold anything.
type httpServer struct {
	proxy   *Proxy
	hosts   hosts
	origins []string
	routes  map[routeKey]*route
	items   map[string]string // what each kind's paths name

	templates []*template
}

type routeKey struct{ kind, verb, action, op string }

type route struct {
	pattern.Route
	method *method
}

func newHTTPServer(p *Proxy) *httpServer {
	s := &httpServer{proxy: p, hosts: hosts{names: p.opts.HTTPHosts}, origins: p.opts.CORSOrigins, routes: make(map[routeKey]*route), items: make(map[string]string)}
	for i := range p.kinds.all {
		k := &p.kinds.all[i]
		s.items[k.Name] = k.Item
		for _, r := range k.Routes {
			if r.Path != "" {
				s.templates = append(s.templates, newTemplate(&route{r, p.kinds.methods[i][r.Method]}))
				continue
			}
			s.routes[routeKey{k.Name, r.Verb, r.Action, r.Op}] = &route{r, p.kinds.methods[i][r.Method]}
		}
	}
	return s
}

// ServeHTTP implements http.Handler.
func (s *httpServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &call{Context: r.Context(), transport: overHTTP, timed: true, start: time.Now()}
	c.selectors.requestID = r.Header.Get("Request-Id")
	out := &timedWriter{ResponseWriter: w, call: c}
	out.Header().Set("Request-Id", c.selectors.id())
	out.Header().Set("X-Content-Type-Options", "nosniff")
	if s.proxy.draining.Load() { // who calls again connects elsewhere; only closing would cut off who just sent a request
		out.Header().Set("Connection", "close")
	}
	if err := s.guard(out, r); err != nil {
		s.fail(out, r, c, err)
		return
	}
	switch {
	case r.Method == http.MethodOptions:
		out.WriteHeader(http.StatusNoContent)
	case r.URL.Path == "/openapi.json" && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		out.Header().Set("Content-Type", "application/json")
		_, _ = out.Write(openAPI) // the client is gone if this fails
	default:
		s.serve(out, r, c)
	}
}

// serve routes a request and takes it through the steps.
func (s *httpServer) serve(out *timedWriter, r *http.Request, c *call) {
	to, err := s.route(r, c)
	if err != nil {
		s.fail(out, r, c, err)
		return
	}
	c.method = to.method
	s.proxy.readHeader(r.Header, c)
	if c.method.lasting {
		s.proxy.metrics.open(c.method, 1)
		defer s.proxy.metrics.open(c.method, -1)
	}
	err = s.proxy.serve(c, func(ctx context.Context, instance pattern.Instance) error {
		return to.Handle(ctx, instance, out, &pattern.HTTPRequest{Request: r, Item: to.item, Names: to.names})
	})
	if err != nil && !out.wrote {
		s.fail(out, r, c, err)
	}
}

// guard refuses what a web page could have been made to send: Prism on
// loopback must not be driven by a site that its user looks at.
func (s *httpServer) guard(w http.ResponseWriter, r *http.Request) error {
	if !s.hosts.known(r) {
		return errs.New(errs.Forbidden, "the Host %q is none of this proxy's; use its address, or name the host in --http-host", r.Host)
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		if site := r.Header.Get("Sec-Fetch-Site"); site == "cross-site" {
			return errs.New(errs.Forbidden, "requests from other sites are refused")
		}
		return nil
	}
	if !slices.Contains(s.origins, origin) {
		return errs.New(errs.Forbidden, "the Origin %q is not allowed; name it in --cors-origin", origin)
	}
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", origin)
	h.Add("Vary", "Origin")
	h.Set("Access-Control-Expose-Headers", "ETag, Request-Id, Server-Timing, Prism-Expires-At, Retry-After")
	if r.Method == http.MethodOptions {
		h.Set("Access-Control-Allow-Methods", "GET, HEAD, PUT, POST, DELETE")
		h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Content-Encoding, Accept, If-Match, If-None-Match, Idempotency-Key, Request-Id, X-Prism-Pattern"+fieldHeaders(r.Header))
		h.Set("Access-Control-Max-Age", "600")
	}
	return nil
}

// fieldHeaders lists those of the headers that a page asks to send which may be
// fields of messages; their names are open.
func fieldHeaders(h http.Header) string {
	var list strings.Builder
	for name := range strings.SplitSeq(h.Get("Access-Control-Request-Headers"), ",") {
		name = strings.ToLower(strings.TrimSpace(name))
		if strings.HasPrefix(name, "prism-") && !strings.ContainsFunc(name, func(r rune) bool { return r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') }) {
			list.WriteString(", " + name)
		}
	}
	return list.String()
}

// routed is a route with the item that the path names.
type routed struct {
	*route
	item  string
	names []string
}

// route finds what a request asks for and sets the selectors that the path
// holds.
func (s *httpServer) route(r *http.Request, c *call) (routed, error) {
	segments := strings.Split(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/")
	if len(segments) < 4 || segments[0] != "v1" || segments[1] != "namespaces" {
		return routed{}, notFound(r)
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil { // a parameter that was dropped would be taken for none
		return routed{}, errs.Invalid(errs.Field{Path: "query", Text: "is not percent-encoded properly: % is %25, ; is %3B"})
	}
	if c.selectors.namespace, err = url.PathUnescape(segments[2]); err != nil {
		return routed{}, notFound(r)
	}
	rest := segments[3:]
	if rest[0] == "patterns" && len(rest) > 2 {
		if c.selectors.pattern, err = url.PathUnescape(rest[1]); err != nil || rest[1] == "" {
			return routed{}, notFound(r)
		}
		rest = rest[2:]
	}
	if to, found, err := s.templated(rest, r); found {
		if err == nil {
			err = to.checkQuery("", query)
		}
		return to, err
	}
	kind, action, isAction := strings.Cut(rest[0], ":")
	key := routeKey{kind: kind, verb: r.Method, action: action}
	var item string
	switch {
	case !s.has(kind):
		return routed{}, notFound(r)
	case isAction && action != "" && len(rest) == 1:
		key.op = query.Get("op")
	case !isAction && len(rest) > 1:
		if item, err = itemOf(s.items[kind], rest[1:], query); err != nil {
			return routed{}, err
		}
	default:
		return routed{}, notFound(r)
	}
	to := s.routes[key]
	if to == nil {
		return routed{}, s.wrongVerb(r, key)
	}
	return routed{route: to, item: item}, to.checkQuery(s.items[kind], query)
}

// checkQuery refuses parameters that the route does not have: a misspelt ttl
// must not become none.
func (r *route) checkQuery(item string, query url.Values) error {
	var bad []errs.Field
	for name := range query {
		own := item != "" && r.Action == "" && name == item || r.Op != "" && name == "op" || slices.Contains(r.Query, name)
		if !own {
			bad = append(bad, errs.Field{Path: name, Text: "is no query parameter here; see /openapi.json for those that are"})
		}
	}
	if bad == nil {
		return nil
	}
	slices.SortFunc(bad, func(a, b errs.Field) int { return strings.Compare(a.Path, b.Path) })
	return errs.Invalid(bad...)
}

func (s *httpServer) has(kind string) bool { _, ok := s.proxy.kinds.byName[kind]; return ok }

// itemOf returns the item that the last segment names, or the query if the
// segment is "-". what is what the kind calls its items.
func itemOf(what string, rest []string, query url.Values) (string, error) {
	if named := query[what]; len(rest) == 1 && rest[0] == "-" && len(named) > 0 {
		if len(named) > 1 {
			return "", errs.Invalid(errs.Field{Path: what, Text: "was given more than once; give it once"})
		}
		return named[0], nil
	}
	if len(rest) > 1 || rest[0] == "" || rest[0] == "." || rest[0] == ".." {
		return "", badItem(what, "a "+what+" is one segment of the path: percent-encode what is not A-Z a-z 0-9 - _ . ~ in it (/ is %2F), or send it as -?"+what+"=")
	}
	item, err := url.PathUnescape(rest[0])
	if err != nil {
		return "", badItem(what, "the "+what+" in the path is not percent-encoded properly")
	}
	return item, nil
}

// badItem is INVALID_KEY for what is called a key.
func badItem(what, text string) error {
	if what == "key" {
		return errs.New(errs.InvalidKey, "%s", text)
	}
	return errs.Invalid(errs.Field{Path: what, Text: text})
}

// noRouteError marks what is not in the API at all.
type noRouteError struct {
	status int
	allow  string // the verbs that there are
}

func (e noRouteError) Error() string { return "no route" }

func notFound(r *http.Request) error {
	return errs.Wrap(noRouteError{status: http.StatusNotFound}, errs.Unsupported, "there is no %s; see /openapi.json for what there is", r.URL.EscapedPath())
}

func (s *httpServer) wrongVerb(r *http.Request, key routeKey) error {
	var verbs, ops []string
	for k := range s.routes {
		if k.kind != key.kind || k.action != key.action {
			continue
		}
		verbs = append(verbs, k.verb)
		if k.verb == key.verb {
			ops = append(ops, k.op)
		}
	}
	slices.Sort(ops)
	slices.Sort(verbs)
	switch {
	case len(ops) > 0 && ops[0] == "":
		return errs.Invalid(errs.Field{Path: "op", Text: "is no parameter of this action; leave it out"})
	case len(ops) > 0:
		return errs.Invalid(errs.Field{Path: "op", Text: "must be one of " + strings.Join(ops, ", ") + " in the query"})
	case len(verbs) > 0:
		allow := strings.Join(slices.Compact(verbs), ", ")
		return errs.Wrap(noRouteError{http.StatusMethodNotAllowed, allow}, errs.Unsupported, "%s cannot be done here; use %s", r.Method, allow)
	}
	return notFound(r)
}

// readHeader reads the selectors that stand in headers. Nothing else of the
// headers means anything to Prism itself.
func (p *Proxy) readHeader(h http.Header, c *call) {
	s := &c.selectors
	get := func(key string) (first string, there bool) {
		v := h[key]
		switch len(v) {
		case 0:
			return "", false
		case 1:
			return v[0], true
		}
		s.duplicate = strings.ToLower(key)
		return v[0], true
	}
	if ns, there := get("X-Prism-Namespace"); there && ns != s.namespace {
		s.duplicate = "x-prism-namespace"
	}
	if p, there := get("X-Prism-Pattern"); s.pattern == "" {
		s.pattern = p
	} else if there && p != s.pattern {
		s.duplicate = "x-prism-pattern"
	}
	_, _ = get("Request-Id")
	_, s.credential = get("Authorization")
	if p.tracing != nil {
		s.trace.traceparent, _ = get("Traceparent")
		s.trace.tracestate, _ = get("Tracestate")
	}
	if c.method.write() {
		c.IdempotencyKey, _ = get("Idempotency-Key")
	}
}

// problem is the body of an error, as RFC 9457 has it.
type problem struct {
	Type      string            `json:"type"`
	Title     string            `json:"title"`
	Status    int               `json:"status"`
	Detail    string            `json:"detail"`
	Reason    string            `json:"reason"`
	RequestID string            `json:"request_id"`
	Metadata  map[string]string `json:"metadata,omitempty"`
	Retry     float64           `json:"retry_after_seconds,omitempty"`
	Fields    []problemField    `json:"errors,omitempty"`
}

type problemField struct {
	Field  string `json:"field"`
	Detail string `json:"detail"`
}

// fail writes an error.
func (s *httpServer) fail(w http.ResponseWriter, r *http.Request, c *call, err error) {
	e := errs.From(err)
	if c.method != nil {
		s.proxy.logCause(c, e)
	}
	pr := problem{
		Type: e.HelpURL(), Title: e.Reason.Error(), Status: httpStatus(e, r), Detail: e.Text(), Reason: e.Reason.String(),
		RequestID: c.selectors.id(), Metadata: e.Meta, Retry: e.Delay().Seconds(),
	}
	for _, f := range e.Fields {
		pr.Fields = append(pr.Fields, problemField{f.Path, f.Text})
	}
	h := w.Header()
	if pr.Retry > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(pr.Retry))))
	}
	if e.Reason == errs.Unauthenticated {
		h.Set("Www-Authenticate", "Bearer")
	}
	if none := (noRouteError{}); errors.As(e, &none) && none.allow != "" {
		h.Set("Allow", none.allow)
	}
	body, _ := json.MarshalIndent(pr, "", "  ") // cannot fail for these types
	h.Set("Content-Type", "application/problem+json")
	h.Del("Etag")
	h.Set("Content-Length", strconv.Itoa(len(body)+1))
	w.WriteHeader(pr.Status)
	_, _ = w.Write(append(body, '\n')) // the client is gone if this fails
}

// httpStatus is the reason's, but for what conditional headers and routing
// mean in HTTP.
func httpStatus(e *errs.Error, r *http.Request) int {
	var none noRouteError
	switch {
	case errors.As(e, &none):
		return none.status
	case e.Reason == errs.AlreadyExists && r.Header.Get("If-None-Match") != "",
		e.Reason == errs.VersionMismatch && r.Header.Get("If-Match") != "":
		return http.StatusPreconditionFailed
	}
	return e.Reason.HTTPStatus()
}

// timedWriter adds Server-Timing when the answer begins.
type timedWriter struct {
	http.ResponseWriter
	call  *call
	wrote bool
}

// WriteHeader implements http.ResponseWriter.
func (w *timedWriter) WriteHeader(status int) {
	if !w.wrote {
		w.wrote = true
		w.Header().Set("Server-Timing", w.call.timing(time.Now()))
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *timedWriter) Write(b []byte) (int, error) {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap serves http.ResponseController.
func (w *timedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// timing says where the time went, as Server-Timing has it.
func (c *call) timing(now time.Time) string {
	var buf [96]byte
	b := appendStep(buf[:0], "auth;dur=", c.start, c.authenticated)
	b = appendStep(b, ", policy;dur=", c.authenticated, c.authorized)
	b = appendStep(b, ", wait;dur=", c.authorized, c.admitted)
	b = appendStep(b, ", backend;dur=", c.admitted, now)
	return string(b)
}

// appendStep appends a name and milliseconds with three decimals.
func appendStep(b []byte, name string, from, to time.Time) []byte {
	var us int64
	if !from.IsZero() && !to.IsZero() {
		us = max(to.Sub(from).Microseconds(), 0)
	}
	b = strconv.AppendInt(append(b, name...), us/1000, 10)
	us %= 1000
	return append(b, '.', byte('0'+us/100), byte('0'+us/10%10), byte('0'+us%10))
}
