package proxy

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	consumerv1 "github.com/prismgw/prism/api/prism/consumer/v1"
	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	producerv1 "github.com/prismgw/prism/api/prism/producer/v1"
	pubsubv1 "github.com/prismgw/prism/api/prism/pubsub/v1"
	queuev1 "github.com/prismgw/prism/api/prism/queue/v1"
	"github.com/prismgw/prism/envelope/text"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
	"github.com/prismgw/prism/pattern/consumer"
	"github.com/prismgw/prism/pattern/keyvalue"
	"github.com/prismgw/prism/pattern/producer"
	"github.com/prismgw/prism/pattern/pubsub"
	"github.com/prismgw/prism/pattern/queue"
)

func newRoutes(t testing.TB) *httpServer {
	t.Helper()
	p, err := New(Options{Kinds: []pattern.Kind{keyvalue.Kind(), producer.Kind(), consumer.Kind(), pubsub.Kind(), queue.Kind()}})
	if err != nil {
		t.Fatal(err)
	}
	return newHTTPServer(p)
}

// described is openapi.json, as far as it is held against the routes.
type described struct {
	Paths map[string]map[string]json.RawMessage
	Comps struct {
		Schemas map[string]schema
	} `json:"components"`
}

type operation struct {
	OperationID string `json:"operationId"`
	Parameters  []parameter
	Responses   map[string]json.RawMessage
}

type parameter struct {
	Name, In string
	Schema   struct{ Enum []string }
}

// parameters are what the handlers of items read of a request.
var parameters = map[routeKey]string{
	{kind: "keyvalue", verb: http.MethodGet}:    "Request-Id with_expiry Accept If-None-Match If-Match",
	{kind: "keyvalue", verb: http.MethodHead}:   "Request-Id with_expiry Accept If-None-Match If-Match",
	{kind: "keyvalue", verb: http.MethodPut}:    "Request-Id Idempotency-Key If-Match If-None-Match ttl",
	{kind: "keyvalue", verb: http.MethodDelete}: "Request-Id Idempotency-Key If-Match",
	{kind: "pubsub", verb: http.MethodPost}:     "Request-Id Content-Encoding" + fieldNames(),
	{kind: "pubsub", verb: http.MethodGet}:      "Request-Id Accept group",
}

// fieldNames are the headers that are fields of a message, but for the content
// type, which is no parameter in OpenAPI, and the families.
func fieldNames() (names string) {
	for _, name := range text.Names() {
		if !strings.HasPrefix(name, "content-") && !strings.HasSuffix(name, "-") {
			names += " " + http.CanonicalHeaderKey("prism-"+name)
		}
	}
	return names
}

type schema struct {
	Properties map[string]schema
	Items      *schema
}

// TestOpenAPI holds the description against the routes, both ways, and what it
// says of messages against the wire contract.
func TestOpenAPI(t *testing.T) {
	t.Parallel()
	var d described
	if err := json.Unmarshal(openAPI, &d); err != nil {
		t.Fatal(err)
	}
	s := newRoutes(t)
	found, ids, templates := map[routeKey]int{}, map[string]bool{}, map[*route]int{}
	for path, verbs := range d.Paths {
		for verb, raw := range verbs {
			if verb == "parameters" {
				continue
			}
			var o operation
			if err := json.Unmarshal(raw, &o); err != nil {
				t.Fatal(err)
			}
			if ids[o.OperationID] || o.OperationID == "" || o.Responses["default"] == nil {
				t.Errorf("%s %s: operation %q is there already, or says nothing of errors", verb, path, o.OperationID)
			}
			ids[o.OperationID] = true
			if strings.Contains(path, "/topics/") || strings.Contains(path, "/queues/") {
				templates[templateOf(t, s, strings.ToUpper(verb), path, &o)]++
				continue
			}
			for _, key := range routesOf(t, s, strings.ToUpper(verb), path, &o) {
				found[key]++
			}
		}
	}
	for key := range s.routes {
		if found[key] != 2 {
			t.Errorf("%+v is described %d times, not with and without a pattern", key, found[key])
		}
	}
	for _, one := range s.templates {
		if templates[one.route] != 2 {
			t.Errorf("%s %s is described %d times, not with and without a pattern", one.route.Verb, one.route.Path, templates[one.route])
		}
	}
	for name, message := range map[string]proto.Message{
		"TopicPublishResponse": &producerv1.PublishResponse{}, "AcknowledgeRequest": &consumerv1.AcknowledgeRequest{}, "RejectRequest": &consumerv1.RejectRequest{},
		"ExtendRequest": &consumerv1.ExtendRequest{}, "SeekRequest": &consumerv1.SeekRequest{}, "SettleResponse": &consumerv1.AcknowledgeResponse{},
		"PublishResponse": &pubsubv1.PublishResponse{},
		"EnqueueResponse": &queuev1.EnqueueResponse{}, "TaskReceipts": &queuev1.AcknowledgeRequest{}, "TaskReject": &queuev1.RejectRequest{},
		"TaskExtend": &queuev1.ExtendRequest{}, "QueueStat": &queuev1.StatResponse{},
		"StoreResponse": &keyvaluev1.StoreResponse{}, "IncrementRequest": &keyvaluev1.IncrementRequest{}, "IncrementResponse": &keyvaluev1.IncrementResponse{},
		"ExpireRequest": &keyvaluev1.ExpireRequest{}, "ExpireResponse": &keyvaluev1.ExpireResponse{}, "ScanRequest": &keyvaluev1.ScanRequest{},
		"StoreBatchRequest": &keyvaluev1.StoreBatchRequest{}, "RetrieveBatchRequest": &keyvaluev1.RetrieveBatchRequest{}, "DeleteBatchRequest": &keyvaluev1.DeleteBatchRequest{},
	} {
		d.compare(t, name, d.Comps.Schemas[name], message.ProtoReflect().Descriptor())
	}
	for _, ref := range refs(openAPI) {
		kind, name, _ := strings.Cut(strings.TrimPrefix(ref, "#/components/"), "/")
		if kind == "schemas" && d.Comps.Schemas[name].Properties == nil || kind != "schemas" && kind != "responses" {
			t.Errorf("%s is not there", ref)
		}
	}
}

// templateOf returns the route of a described operation whose path has a form of
// its own.
func templateOf(t *testing.T, s *httpServer, verb, path string, o *operation) *route {
	t.Helper()
	at := strings.NewReplacer("{namespace}", "n", "{pattern}", "p", "{topic}", "t", "{queue}", "t", "{group}", "g").Replace(path)
	c := new(call)
	to, err := s.route(&http.Request{Method: verb, URL: &url.URL{Path: at}, Header: http.Header{}}, c)
	if err != nil {
		t.Fatalf("%s %s is described and not there: %v", verb, path, err)
	}
	if want := []string{"t", "g"}[:strings.Count(path, "{")-strings.Count(path, "{namespace}")-strings.Count(path, "{pattern}")]; !slices.Equal(to.names, want) || c.selectors.namespace != "n" || (c.selectors.pattern == "p") != strings.Contains(path, "{pattern}") {
		t.Errorf("%s %s: namespace %q, pattern %q, names %q", verb, path, c.selectors.namespace, c.selectors.pattern, to.names)
	}
	var query []string
	for _, p := range o.Parameters {
		if p.In == "query" {
			query = append(query, p.Name)
		}
	}
	if !slices.Equal(query, to.Query) {
		t.Errorf("%s %s is described with %v, and reads %v", verb, path, query, to.Query)
	}
	return to.route
}

// routesOf returns the routes that a described operation means.
func routesOf(t *testing.T, s *httpServer, verb, path string, o *operation) []routeKey {
	t.Helper()
	ops, names := []string{""}, []string{}
	for _, p := range o.Parameters {
		if names = append(names, p.Name); p.Name == "op" {
			ops = p.Schema.Enum
		}
	}
	writes := false
	at := strings.NewReplacer("{namespace}", "n", "{pattern}", "p", "{key}", "k", "{subject}", "k").Replace(path)
	kind := "keyvalue"
	if strings.HasSuffix(at, "/pubsub/k") {
		kind = "pubsub"
	}
	if want := parameters[routeKey{kind: kind, verb: verb}]; want != "" && !strings.Contains(path, ":") && strings.Join(names, " ") != want {
		t.Errorf("%s %s is described with %v, and reads %s", verb, path, names, want)
	}
	var keys []routeKey
	for _, op := range ops {
		u, err := url.Parse(at)
		if err != nil {
			t.Fatal(err)
		}
		if op != "" {
			u.RawQuery = "op=" + op
		}
		c := new(call)
		to, err := s.route(&http.Request{Method: verb, URL: u, Header: http.Header{}}, c)
		if err != nil {
			t.Errorf("%s %s is described and not there: %v", verb, path, err)
			continue
		}
		if c.selectors.namespace != "n" || (c.selectors.pattern == "p") != strings.Contains(path, "{pattern}") || (to.item == "k") != strings.HasSuffix(at, "/k") {
			t.Errorf("%s %s: namespace %q, pattern %q, item %q", verb, path, c.selectors.namespace, c.selectors.pattern, to.item)
		}
		writes = writes || kind == "keyvalue" && to.method.write() // a message is told at most once anyway
		_, action, _ := strings.Cut(at[strings.LastIndex(at, "/")+1:], ":")
		keys = append(keys, routeKey{kind: kind, verb: verb, action: action, op: op})
	}
	if slices.Contains(names, "Idempotency-Key") != writes {
		t.Errorf("%s %s: an idempotency key is described: %v", verb, path, !writes)
	}
	return keys
}

// compare checks that a schema has the fields of a message.
func (d *described) compare(t *testing.T, name string, s schema, message protoreflect.MessageDescriptor) {
	t.Helper()
	want := map[string]bool{}
	for i := range message.Fields().Len() {
		f := message.Fields().Get(i)
		want[string(f.Name())] = true
		if items := s.Properties[string(f.Name())].Items; items != nil && f.Message() != nil {
			d.compare(t, name+"."+string(f.Name()), *items, f.Message())
		}
	}
	got := map[string]bool{}
	for field := range s.Properties {
		got[field] = true
	}
	if !maps.Equal(got, want) {
		t.Errorf("%s is described with %v, and has %v", name, got, want)
	}
}

// refs returns what a document refers to.
func refs(document []byte) []string {
	var all []string
	for _, part := range strings.Split(string(document), `"$ref": "`)[1:] {
		ref, _, _ := strings.Cut(part, `"`)
		all = append(all, ref)
	}
	return all
}

// FuzzRoute: whatever a request line is, it is routed or refused, and a key
// that is encoded comes out as it was.
func FuzzRoute(f *testing.F) {
	s := newRoutes(f)
	for _, path := range []string{
		"/", "*", "/v1/namespaces/n/keyvalue/k", "/v1/namespaces/n/keyvalue/-?key=k", "/v1/namespaces/n/patterns/p/keyvalue:batch?op=store",
		"/v1/namespaces//keyvalue//", "/v1/namespaces/n/keyvalue/%2F%2e%2E", "/v1/namespaces/%zz/keyvalue/%", "/v1/namespaces/n/keyvalue:scan/x", "//", "/..", "http://h/v1",
	} {
		f.Add("GET", path, "a/b")
	}
	f.Fuzz(func(t *testing.T, verb, target, key string) {
		if u, err := url.ParseRequestURI(target); err == nil {
			c := new(call)
			to, err := s.route(&http.Request{Method: verb, URL: u, Header: http.Header{}}, c)
			if (err == nil) != (to.route != nil) {
				t.Errorf("%s %s: %v and %v", verb, target, to, err)
			}
			if e := errs.From(err); err != nil && e.Reason != errs.Unsupported && e.Reason != errs.InvalidKey && e.Reason != errs.InvalidField {
				t.Errorf("%s %s: %v", verb, target, err)
			}
			if to.route != nil && to.Verb != verb {
				t.Errorf("%s %s is taken for %s", verb, target, to.Verb)
			}
		}
		if key == "" {
			return
		}
		for _, at := range []string{"-?key=" + url.QueryEscape(key), strings.ReplaceAll(url.PathEscape(key), ".", "%2E")} {
			u, err := url.ParseRequestURI("/v1/namespaces/n/keyvalue/" + at)
			if err != nil {
				t.Fatal(err)
			}
			to, err := s.route(&http.Request{Method: http.MethodGet, URL: u, Header: http.Header{}}, new(call))
			if err != nil || to.item != key {
				t.Errorf("%q came out as %q: %v", key, to.item, err)
			}
		}
	})
}

// A verb or an action that is not there is told apart from a path that is not.
func TestRouteErrors(t *testing.T) {
	t.Parallel()
	s := newRoutes(t)
	for request, want := range map[string]int{
		"PATCH /v1/namespaces/n/keyvalue/k": 405, "GET /v1/namespaces/n/keyvalue:scan": 405, "GET /v1/namespaces/n/keyvalue:drop": 404, "GET /v2/namespaces/n/keyvalue/k": 404,
	} {
		verb, target, _ := strings.Cut(request, " ")
		u, err := url.ParseRequestURI(target)
		if err != nil {
			t.Fatal(err)
		}
		r := &http.Request{Method: verb, URL: u, Header: http.Header{}}
		_, err = s.route(r, new(call))
		var none noRouteError
		if !errors.As(err, &none) || none.status != want || httpStatus(errs.From(err), r) != want {
			t.Errorf("%s: %v", request, err)
		}
	}
}
