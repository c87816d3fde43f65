package keyvalue

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
	"github.com/prismgw/prism/pattern/rest"
)

// mediaType asks for an object instead of the bare value.
const mediaType = "application/vnd.prism+json"

func routes() []pattern.Route {
	item := func(verb, method string, h func(*store, context.Context, http.ResponseWriter, *pattern.HTTPRequest) error, query ...string) pattern.Route {
		return pattern.Route{Verb: verb, Method: method, Query: query, Handle: onStore(h)}
	}
	return []pattern.Route{
		item(http.MethodGet, "Retrieve", (*store).httpGet, "with_expiry"),
		item(http.MethodHead, "Retrieve", (*store).httpGet, "with_expiry"),
		item(http.MethodPut, "Store", (*store).httpPut, "ttl"),
		item(http.MethodDelete, "Delete", (*store).httpDelete),
		action("increment", "", "Increment", (*store).Increment),
		action("expire", "", "Expire", (*store).Expire),
		{Verb: http.MethodPost, Action: "scan", Method: "Scan", Handle: onStore((*store).httpScan)},
		action("batch", "store", "StoreBatch", (*store).StoreBatch),
		action("batch", "retrieve", "RetrieveBatch", (*store).RetrieveBatch),
		action("batch", "delete", "DeleteBatch", (*store).DeleteBatch),
	}
}

func onStore(h func(*store, context.Context, http.ResponseWriter, *pattern.HTTPRequest) error) func(context.Context, pattern.Instance, http.ResponseWriter, *pattern.HTTPRequest) error {
	return func(ctx context.Context, instance pattern.Instance, w http.ResponseWriter, r *pattern.HTTPRequest) error {
		s, ok := instance.(*store)
		if !ok {
			return errs.New(errs.Internal, "the instance of another kind")
		}
		return h(s, ctx, w, r)
	}
}

// action is a method whose request and answer are the JSON form of its
// messages.
func action[Q any, A proto.Message, P interface {
	*Q
	proto.Message
}](name, op, method string, call func(*store, context.Context, P) (A, error),
) pattern.Route {
	return pattern.Route{Verb: http.MethodPost, Action: name, Op: op, Method: method, Handle: onStore(
		func(s *store, ctx context.Context, w http.ResponseWriter, r *pattern.HTTPRequest) error {
			var in P = new(Q)
			if err := rest.ReadJSON(ctx, w, r, in); err != nil {
				return err
			}
			out, err := call(s, ctx, in)
			if err != nil {
				return err
			}
			return rest.WriteProto(w, out)
		})}
}

func (s *store) httpGet(ctx context.Context, w http.ResponseWriter, r *pattern.HTTPRequest) error {
	object := strings.Contains(r.Header.Get("Accept"), mediaType)
	withExpiry, err := flag(r.URL, "with_expiry")
	if err != nil {
		return err
	}
	version, err := ifMatch(r.Header)
	if err != nil {
		return err
	}
	e, err := s.get(ctx, r.Item, wanted(object || withExpiry))
	if err != nil {
		return err
	}
	if version != nil && *version != e.Version {
		return (&errs.Error{Reason: errs.VersionMismatch}).With("current", e.Version)
	}
	h := w.Header()
	h.Set("Etag", `"`+e.Version+`"`)
	if known(r.Header, e.Version) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	if object {
		return rest.WriteJSON(w, mediaType, describe("", &e))
	}
	if !e.Expires.IsZero() {
		h.Set("Prism-Expires-At", e.Expires.UTC().Format(time.RFC3339Nano))
	}
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Length", strconv.Itoa(len(e.Value)))
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return nil
	}
	_, err = w.Write(e.Value)
	return err
}

func (s *store) httpPut(ctx context.Context, w http.ResponseWriter, r *pattern.HTTPRequest) error {
	in := &keyvaluev1.StoreRequest{Key: r.Item}
	if err := checkKey(in.Key); err != nil {
		return err
	}
	var err error
	if in.Ttl, err = ttlParameter(r.URL); err != nil {
		return err
	}
	if in.IfVersion, err = ifMatch(r.Header); err != nil {
		return err
	}
	switch none := r.Header.Get("If-None-Match"); none {
	case "":
	case "*":
		in.IfAbsent = true
	default:
		return errs.Invalid(errs.Field{Path: "If-None-Match", Text: "can only be * here; to replace one version use If-Match"})
	}
	if in.Value, err = rest.Body(ctx, w, r, "value", s.maxValue); err != nil {
		return err
	}
	out, err := s.Store(ctx, in)
	if err != nil {
		return err
	}
	w.Header().Set("Etag", `"`+out.GetVersion()+`"`)
	return rest.WriteProto(w, out)
}

func (s *store) httpDelete(ctx context.Context, w http.ResponseWriter, r *pattern.HTTPRequest) error {
	in := &keyvaluev1.DeleteRequest{Key: r.Item}
	var err error
	if in.IfVersion, err = ifMatch(r.Header); err != nil {
		return err
	}
	if _, err := s.Delete(ctx, in); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *store) httpScan(ctx context.Context, w http.ResponseWriter, r *pattern.HTTPRequest) error {
	in := new(keyvaluev1.ScanRequest)
	if err := rest.ReadJSON(ctx, w, r, in); err != nil {
		return err
	}
	req, err := s.scanRequest(in)
	if err != nil {
		return err
	}
	page, err := s.kv.Scan(ctx, req)
	if err != nil {
		return err
	}
	out := struct {
		Entries []described `json:"entries"`
		Cursor  string      `json:"cursor,omitempty"`
	}{make([]described, len(page.Items)), s.cursors.encode(in.GetPrefix(), page.Next)}
	for i := range page.Items {
		it := &page.Items[i]
		if in.GetKeysOnly() {
			out.Entries[i] = described{Key: it.Key}
			continue
		}
		out.Entries[i] = describe(it.Key, &it.Entry)
	}
	return rest.WriteJSON(w, "application/json", out)
}

// described is an entry as a JSON object: the value as it is if it is JSON or
// text, in base64 otherwise, and encoding says which.
type described struct {
	Key      string          `json:"key,omitempty"`
	Encoding string          `json:"encoding,omitempty"`
	Value    json.RawMessage `json:"value,omitempty"`
	Version  string          `json:"version,omitempty"`
	Expires  *time.Time      `json:"expires_at,omitempty"`
}

func describe(key string, e *driver.Entry) described {
	d := described{Key: key, Version: e.Version}
	if !e.Expires.IsZero() {
		at := e.Expires.UTC()
		d.Expires = &at
	}
	switch {
	case !utf8.Valid(e.Value): // first: json.Valid lets it pass within strings
		d.Encoding, d.Value = "base64", quote(base64.StdEncoding.EncodeToString(e.Value))
	case json.Valid(e.Value):
		d.Encoding, d.Value = "json", e.Value
	default:
		d.Encoding, d.Value = "text", quote(string(e.Value))
	}
	return d
}

func quote(s string) json.RawMessage {
	b, _ := json.Marshal(s) // cannot fail for a string
	return b
}

// flag returns a parameter that is true or false, false if it is not there.
func flag(u *url.URL, name string) (bool, error) {
	if u.RawQuery == "" {
		return false, nil
	}
	switch all := u.Query()[name]; {
	case len(all) == 0 || len(all) == 1 && all[0] == "false":
		return false, nil
	case len(all) == 1 && all[0] == "true":
		return true, nil
	}
	return false, errs.Invalid(errs.Field{Path: name, Text: "must be true or false, once"})
}

// ttlParameter returns the time to live in the query, nil if there is none.
func ttlParameter(u *url.URL) (*durationpb.Duration, error) {
	if u.RawQuery == "" {
		return nil, nil //nolint:nilnil // nothing asked
	}
	all := u.Query()["ttl"]
	if len(all) == 0 {
		return nil, nil //nolint:nilnil // nothing asked
	}
	ttl, err := time.ParseDuration(all[0])
	if err != nil || len(all) > 1 {
		return nil, errs.Invalid(errs.Field{Path: "ttl", Text: "must be one duration, such as 250ms, 30s or 24h"})
	}
	return durationpb.New(ttl), nil
}

// known reports whether If-None-Match lists the version, so that the caller
// has the value already.
func known(h http.Header, version string) bool {
	for _, list := range h["If-None-Match"] {
		for one := range strings.SplitSeq(list, ",") {
			one = strings.TrimSpace(one)
			if one == "*" || strings.TrimPrefix(one, "W/") == `"`+version+`"` {
				return true
			}
		}
	}
	return false
}

// ifMatch returns the version that If-Match asks for.
func ifMatch(h http.Header) (*string, error) {
	all := h[textproto.CanonicalMIMEHeaderKey("If-Match")]
	if len(all) == 0 {
		return nil, nil //nolint:nilnil // no condition
	}
	v, ok := strings.CutPrefix(all[0], `"`)
	v, closed := strings.CutSuffix(v, `"`)
	if len(all) > 1 || !ok || !closed || v == "" || strings.ContainsRune(v, '"') {
		return nil, errs.Invalid(errs.Field{Path: "If-Match", Text: `must be one version in quotes, as the ETag of an answer has it: If-Match: "42"`})
	}
	return &v, nil
}
