package keyvalue

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
)

// mediaType asks for an object instead of the bare value.
const mediaType = "application/vnd.prism+json"

// maxJSON bounds the body of an action: a batch in base64, with room.
const maxJSON = 8 << 20

func routes() []pattern.Route {
	item := func(verb, method string, h func(*store, context.Context, http.ResponseWriter, *pattern.HTTPRequest) error) pattern.Route {
		return pattern.Route{Verb: verb, Method: method, Handle: onStore(h)}
	}
	return []pattern.Route{
		item(http.MethodGet, "Retrieve", (*store).httpGet),
		item(http.MethodHead, "Retrieve", (*store).httpGet),
		item(http.MethodPut, "Store", (*store).httpPut),
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
			if err := readJSON(w, r, in); err != nil {
				return err
			}
			out, err := call(s, ctx, in)
			if err != nil {
				return err
			}
			return writeProto(w, out)
		})}
}

func (s *store) httpGet(ctx context.Context, w http.ResponseWriter, r *pattern.HTTPRequest) error {
	object := strings.Contains(r.Header.Get("Accept"), mediaType)
	withExpiry := object || r.URL.RawQuery != "" && r.URL.Query().Get("with_expiry") == "true"
	e, err := s.get(ctx, r.Item, wanted(withExpiry))
	if err != nil {
		return err
	}
	h := w.Header()
	etag := `"` + e.Version + `"`
	h.Set("Etag", etag)
	if match := r.Header.Get("If-None-Match"); match == etag || match == "*" {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	if object {
		return writeJSON(w, mediaType, describe("", &e))
	}
	if !e.Expires.IsZero() {
		h.Set("Prism-Expires-At", e.Expires.UTC().Format(time.RFC3339Nano))
	}
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Length", strconv.Itoa(len(e.Value)))
	if r.Method == http.MethodHead {
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
	if text := r.URL.Query().Get("ttl"); text != "" {
		ttl, err := time.ParseDuration(text)
		if err != nil {
			return errs.Invalid(errs.Field{Path: "ttl", Text: "is no duration; write one such as 250ms, 30s or 24h"})
		}
		in.Ttl = durationpb.New(ttl)
	}
	var err error
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
	if in.Value, err = readBody(w, r, "value", s.maxValue); err != nil {
		return err
	}
	out, err := s.Store(ctx, in)
	if err != nil {
		return err
	}
	w.Header().Set("Etag", `"`+out.GetVersion()+`"`)
	return writeProto(w, out)
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
	if err := readJSON(w, r, in); err != nil {
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
	return writeJSON(w, "application/json", out)
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
	case json.Valid(e.Value):
		d.Encoding, d.Value = "json", e.Value
	case utf8.Valid(e.Value):
		d.Encoding, d.Value = "text", quote(string(e.Value))
	default:
		d.Encoding, d.Value = "base64", quote(base64.StdEncoding.EncodeToString(e.Value))
	}
	return d
}

func quote(s string) json.RawMessage {
	b, _ := json.Marshal(s) // cannot fail for a string
	return b
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

// readBody reads a request's body up to a limit.
func readBody(w http.ResponseWriter, r *pattern.HTTPRequest, limitOf string, limit int) ([]byte, error) {
	if r.ContentLength > int64(limit) {
		return nil, errs.TooLarge(limitOf, int(r.ContentLength), limit)
	}
	in := http.MaxBytesReader(w, r.Body, int64(limit))
	if r.ContentLength >= 0 {
		b := make([]byte, r.ContentLength)
		_, err := io.ReadFull(in, b)
		return b, bodyError(err, limitOf, limit)
	}
	b, err := io.ReadAll(in)
	return b, bodyError(err, limitOf, limit)
}

func bodyError(err error, limitOf string, limit int) error {
	var over *http.MaxBytesError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &over):
		return errs.TooLarge(limitOf, limit+1, limit)
	case errors.Is(err, context.Canceled):
		return errs.Cancelled
	}
	return errs.Wrap(err, errs.InvalidField, "the body of the request broke off")
}

func readJSON(w http.ResponseWriter, r *pattern.HTTPRequest, into proto.Message) error {
	b, err := readBody(w, r, "request", maxJSON)
	if err != nil {
		return err
	}
	if err := protojson.Unmarshal(b, into); err != nil {
		// protojson's spaces are random on purpose; its text is good otherwise.
		text := strings.ReplaceAll(strings.TrimPrefix(err.Error(), "proto:"), "\u00a0", " ")
		return errs.Invalid(errs.Field{Path: "body", Text: strings.TrimSpace(text)})
	}
	return nil
}

func writeProto(w http.ResponseWriter, m proto.Message) error {
	b, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: false}.Marshal(m)
	if err != nil {
		return err
	}
	return writeRaw(w, "application/json", b)
}

func writeJSON(w http.ResponseWriter, contentType string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeRaw(w, contentType, b)
}

func writeRaw(w http.ResponseWriter, contentType string, b []byte) error {
	b = append(b, '\n')
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(b)))
	_, err := w.Write(b)
	return err
}
