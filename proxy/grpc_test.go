package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/errs"
)

// told checks that a status is all that contracts 1.2 promises, and returns
// what it says.
func told(t *testing.T, what string, err error, want errs.Reason) *errs.Error {
	t.Helper()
	st, e := status.Convert(err), errs.FromStatus(err)
	if e == nil || e.Reason != want || st.Code() != want.Code() {
		t.Errorf("%s: %v, want %s", what, err, want.String())
		return &errs.Error{}
	}
	found := map[string]bool{}
	for _, d := range st.Details() {
		found[strings.TrimPrefix(fmt.Sprintf("%T", d), "*errdetails.")] = true
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			if d.GetDomain() != "prism" || d.GetReason() != want.String() {
				t.Errorf("%s: %v", what, d)
			}
		case *errdetails.Help:
			if u := d.GetLinks()[0].GetUrl(); !strings.HasSuffix(u, "#"+strings.ToLower(want.String())) {
				t.Errorf("%s: help at %s", what, u)
			}
		}
	}
	wanted := []string{"ErrorInfo", "RequestInfo", "Help"}
	if want.Retry() == errs.RetryAfterDelay {
		wanted = append(wanted, "RetryInfo")
	}
	if want == errs.InvalidField {
		wanted = append(wanted, "BadRequest")
	}
	for _, w := range wanted {
		if !found[w] {
			t.Errorf("%s: no %s in %v", what, w, found)
		}
	}
	if e.RequestID == "" || e.Message == "" || strings.HasSuffix(e.Message, ".") || strings.Contains(e.Message, "\n") {
		t.Errorf("%s: message %q of request %q", what, e.Message, e.RequestID)
	}
	return e
}

// paths returns which fields an error names.
func paths(e *errs.Error) string {
	var all []string
	for _, f := range e.Fields {
		all = append(all, f.Path)
	}
	return strings.Join(all, " ")
}

func TestGRPCErrors(t *testing.T) {
	t.Parallel()
	s := start(t, nil, documents)
	c, ctx := s.dial(t), in(t, "open")
	first, err := c.Store(ctx, &keyvaluev1.StoreRequest{Key: "there", Value: []byte("word")})
	if err != nil {
		t.Fatal(err)
	}
	long, large := strings.Repeat("k", 1025), make([]byte, 4<<20+1)
	store := func(r *keyvaluev1.StoreRequest) error { _, err := c.Store(ctx, r); return err }
	remove := func(r *keyvaluev1.DeleteRequest) error { _, err := c.Delete(ctx, r); return err }
	expire := func(r *keyvaluev1.ExpireRequest) error { _, err := c.Expire(ctx, r); return err }
	add := func(r *keyvaluev1.IncrementRequest) error { _, err := c.Increment(ctx, r); return err }
	retrieve := func(key string) error { _, err := c.Retrieve(ctx, &keyvaluev1.RetrieveRequest{Key: key}); return err }
	exists := func(key string) error { _, err := c.Exists(ctx, &keyvaluev1.ExistsRequest{Key: key}); return err }
	scan := func(r *keyvaluev1.ScanRequest) error {
		stream, err := c.Scan(ctx, r)
		if err == nil {
			_, err = stream.Recv()
		}
		return err
	}
	batch := func(n int, key func(int) string) error {
		r := &keyvaluev1.RetrieveBatchRequest{}
		for i := range n {
			r.Keys = append(r.Keys, key(i))
		}
		_, err := c.RetrieveBatch(ctx, r)
		return err
	}
	for _, x := range []struct {
		what string
		err  error
		want errs.Reason
		more string // fields, or metadata
	}{
		{"retrieve", retrieve("nobody"), errs.KeyNotFound, ""},
		{"retrieve, empty key", retrieve(""), errs.InvalidKey, ""},
		{"retrieve, long key", retrieve(long), errs.InvalidKey, "limit=1024"},
		{"retrieve, NUL", retrieve("a\x00"), errs.InvalidKey, ""},
		{"exists, empty key", exists(""), errs.InvalidKey, ""},
		{"store, empty key", store(&keyvaluev1.StoreRequest{}), errs.InvalidKey, ""},
		{"store, large", store(&keyvaluev1.StoreRequest{Key: "a", Value: large}), errs.PayloadTooLarge, "limit=4194304 limit_of=value"},
		{"store, three mistakes", store(&keyvaluev1.StoreRequest{Key: "a", Ttl: durationpb.New(-1), IfVersion: proto.String(""), IfAbsent: true}), errs.InvalidField, "ttl if_version if_absent"},
		{"store, no duration", store(&keyvaluev1.StoreRequest{Key: "a", Ttl: &durationpb.Duration{Seconds: 1, Nanos: -1}}), errs.InvalidField, "ttl"},
		{"store, endless duration", store(&keyvaluev1.StoreRequest{Key: "a", Ttl: &durationpb.Duration{Seconds: 315576000000}}), errs.InvalidField, "ttl"},
		{"store, zero ttl", store(&keyvaluev1.StoreRequest{Key: "a", Ttl: &durationpb.Duration{}}), errs.InvalidField, "ttl"},
		{"store if absent", store(&keyvaluev1.StoreRequest{Key: "there", IfAbsent: true}), errs.AlreadyExists, "version=" + first.GetVersion()},
		{"store, other version", store(&keyvaluev1.StoreRequest{Key: "there", IfVersion: proto.String("x")}), errs.VersionMismatch, "current=" + first.GetVersion()},
		{"store, absent with version", store(&keyvaluev1.StoreRequest{Key: "nobody", IfVersion: proto.String("x")}), errs.VersionMismatch, ""},
		{"delete, long version", remove(&keyvaluev1.DeleteRequest{Key: "there", IfVersion: proto.String(long[:65])}), errs.InvalidField, "if_version"},
		{"delete, other version", remove(&keyvaluev1.DeleteRequest{Key: "there", IfVersion: proto.String("x")}), errs.VersionMismatch, "current=" + first.GetVersion()},
		{"delete, absent with version", remove(&keyvaluev1.DeleteRequest{Key: "nobody", IfVersion: proto.String("x")}), errs.VersionMismatch, ""},
		{"delete, absent", remove(&keyvaluev1.DeleteRequest{Key: "nobody"}), errs.Unknown, ""},
		{"increment a word", add(&keyvaluev1.IncrementRequest{Key: "there"}), errs.NotANumber, ""},
		{"expire nobody", expire(&keyvaluev1.ExpireRequest{Key: "nobody", Ttl: durationpb.New(time.Hour)}), errs.KeyNotFound, ""},
		{"expire without ttl", expire(&keyvaluev1.ExpireRequest{Key: "there"}), errs.InvalidField, "ttl"},
		{"scan, three mistakes", scan(&keyvaluev1.ScanRequest{PageSize: -1, PageBytes: 1<<20 + 1, Prefix: long}), errs.InvalidField, "page_size page_bytes prefix"},
		{"scan, made-up cursor", scan(&keyvaluev1.ScanRequest{Cursor: "AAAA"}), errs.InvalidCursor, ""},
		{"batch of none", batch(0, nil), errs.InvalidField, "keys"},
		{"batch of 1,001", batch(1001, func(i int) string { return fmt.Sprint(i) }), errs.PayloadTooLarge, "limit=1000 limit_of=batch"},
		{"batch with a key twice", batch(3, func(i int) string { return fmt.Sprint(i % 2) }), errs.InvalidField, "keys[2]"},
	} {
		if x.want == errs.Unknown {
			if x.err != nil {
				t.Errorf("%s: %v", x.what, x.err)
			}
			continue
		}
		e := told(t, x.what, x.err, x.want)
		for _, m := range strings.Fields(x.more) {
			if k, v, ok := strings.Cut(m, "="); ok && e.Meta[k] != v {
				t.Errorf("%s: metadata %v, want %s", x.what, e.Meta, m)
			}
		}
		if x.more != "" && !strings.Contains(x.more, "=") && paths(e) != x.more {
			t.Errorf("%s: fields %q, want %q", x.what, paths(e), x.more)
		}
	}
}

// What a status carries goes into a trailer, of which many clients take 8 KiB.
func TestGRPCErrorsStaySmall(t *testing.T) {
	t.Parallel()
	s := start(t, nil, documents)
	c := s.dial(t, grpc.WithMaxHeaderListSize(8<<10))
	keys := make([]string, 1000)
	for i := range keys {
		keys[i] = "same"
	}
	_, err := c.RetrieveBatch(in(t, "open"), &keyvaluev1.RetrieveBatchRequest{Keys: keys})
	told(t, "999 repeated keys", err, errs.InvalidField)
	_, err = c.Retrieve(in(t, strings.Repeat("n", 8000)), &keyvaluev1.RetrieveRequest{Key: "k"})
	told(t, "a namespace of 8,000 bytes", err, errs.NamespaceNotFound)
	_, err = c.Retrieve(in(t, "two", "x-prism-pattern", strings.Repeat("\xff", 3000)), &keyvaluev1.RetrieveRequest{Key: "k"})
	if st := status.Code(err); st != codes.NotFound && st != codes.Internal { // grpc-go's client refuses to send such bytes
		t.Errorf("a pattern of strange bytes: %v", err)
	}
}

func TestGRPCSelectors(t *testing.T) {
	t.Parallel()
	s := start(t, nil, documents)
	c := s.dial(t)
	for what, x := range map[string]struct {
		ctx  context.Context //nolint:containedctx // a table
		want errs.Reason
	}{
		"two request ids":            {in(t, "open", "request-id", "a", "request-id", "b"), errs.InvalidField},
		"two patterns":               {in(t, "open", "x-prism-pattern", "data", "x-prism-pattern", "data"), errs.InvalidField},
		"two credentials":            {in(t, "open", "authorization", "a", "authorization", "b"), errs.InvalidField},
		"an empty credential":        {in(t, "open", "authorization", ""), errs.Unauthenticated},
		"two idempotency keys":       {in(t, "open", "idempotency-key", "a", "idempotency-key", "b"), errs.InvalidField},
		"a long idempotency key":     {in(t, "open", "idempotency-key", strings.Repeat("a", 257)), errs.InvalidField},
		"a reserved pattern":         {in(t, "open", "x-prism-pattern", "__data"), errs.Forbidden},
		"a reserved name, twice":     {in(t, "__a", "x-prism-namespace", "__b"), errs.Forbidden},
		"reserved, and a credential": {in(t, "__a", "authorization", "Bearer x"), errs.Forbidden},
		"a write without identity":   {in(t, "readers"), errs.Unauthenticated},
	} {
		_, err := c.Store(x.ctx, &keyvaluev1.StoreRequest{Key: "k"})
		told(t, what, err, x.want)
	}
	_, err := c.Retrieve(in(t, "open", "request-id", "mine"), &keyvaluev1.RetrieveRequest{Key: "nobody"})
	if e := errs.FromStatus(err); e.RequestID != "mine" {
		t.Errorf("request id %q", e.RequestID)
	}
	for _, id := range []string{"two words", strings.Repeat("a", 129), ""} {
		_, err := c.Retrieve(in(t, "open", "request-id", id), &keyvaluev1.RetrieveRequest{Key: "nobody"})
		if e := errs.FromStatus(err); e.RequestID == id || e.RequestID == "" {
			t.Errorf("request id %q was taken over as %q", id, e.RequestID)
		}
	}
}

func TestGRPCIdempotencyKey(t *testing.T) {
	t.Parallel()
	c := start(t, nil, documents).dial(t)
	for range 3 {
		r, err := c.Increment(in(t, "open", "idempotency-key", "one"), &keyvaluev1.IncrementRequest{Key: "n"})
		if err != nil || r.GetValue() != 1 {
			t.Fatalf("%v %v", r, err)
		}
	}
	_, err := c.Increment(in(t, "open", "idempotency-key", "one"), &keyvaluev1.IncrementRequest{Key: "n", Delta: proto.Int64(2)})
	told(t, "another request", err, errs.IdempotencyMismatch)
	r, err := c.Increment(in(t, "two", "idempotency-key", "one", "x-prism-pattern", "one"), &keyvaluev1.IncrementRequest{Key: "n"})
	if err != nil || r.GetValue() != 1 {
		t.Errorf("another namespace: %v %v", r, err)
	}
	d, err := c.Delete(in(t, "open", "idempotency-key", "one"), &keyvaluev1.DeleteRequest{Key: "n"})
	if err != nil {
		t.Errorf("another method: %v %v", d, err)
	}
}

// raw sends and receives messages that are bytes already.
type raw struct{}

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	b, _ := v.(*[]byte)
	return mem.BufferSlice{mem.SliceBuffer(*b)}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	b, _ := v.(*[]byte)
	*b = data.Materialize()
	return nil
}

func (raw) Name() string { return "proto" }

var _ encoding.CodecV2 = raw{}

func TestGRPCBytesThatAreNoMessage(t *testing.T) {
	t.Parallel()
	s := start(t, nil, documents)
	conn := s.conn(t)
	call := func(method string, message []byte) error {
		var out []byte
		return conn.Invoke(in(t, "open"), "/prism.keyvalue.v1.KeyValue/"+method, &message, &out, grpc.ForceCodecV2(raw{}))
	}
	for what, x := range map[string]struct {
		method  string
		message []byte
		want    errs.Reason
	}{
		"a key of invalid UTF-8":          {"Retrieve", []byte("\x0a\x02\xff\xfe"), errs.InvalidKey},
		"a stored key of invalid UTF-8":   {"Store", []byte("\x0a\x01\xc3\x12\x01v"), errs.InvalidKey},
		"a key that is a surrogate":       {"Retrieve", []byte("\x0a\x03\xed\xa0\x80"), errs.InvalidKey},
		"a length beyond the message":     {"Retrieve", []byte("\x0a\x7f"), errs.InvalidField},
		"an endless varint":               {"Retrieve", bytes.Repeat([]byte{0xff}, 20), errs.InvalidField},
		"a wrong wire type":               {"Retrieve", []byte("\x08\x01"), errs.InvalidField},
		"a prefix of invalid UTF-8":       {"Scan", []byte("\x0a\x01\xff"), errs.InvalidField},
		"an unknown field, and no key":    {"Retrieve", []byte("\xa2\x06\x01x"), errs.InvalidKey},
		"a group that never ends":         {"Retrieve", []byte("\xa3\x06"), errs.InvalidField},
		"a version that is invalid UTF-8": {"Store", []byte("\x0a\x01k\x22\x01\xff"), errs.VersionMismatch},
	} {
		err := call(x.method, x.message)
		if x.method == "Scan" {
			stream, e := conn.NewStream(in(t, "open"), &grpc.StreamDesc{ServerStreams: true}, "/prism.keyvalue.v1.KeyValue/Scan", grpc.ForceCodecV2(raw{}))
			if e != nil {
				t.Fatal(e)
			}
			var out []byte
			if err = stream.SendMsg(&x.message); err == nil {
				err = stream.RecvMsg(&out)
			}
		}
		told(t, what, err, x.want)
	}
	// A pipeline: the stream ends, and says why.
	stream, err := conn.NewStream(in(t, "open"), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/prism.keyvalue.v1.KeyValue/Pipeline", grpc.ForceCodecV2(raw{}))
	if err != nil {
		t.Fatal(err)
	}
	message, out := []byte("\x0a\x7f"), []byte{}
	if err := stream.SendMsg(&message); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		err = stream.RecvMsg(&out)
	}
	told(t, "a pipeline of garbage", err, errs.InvalidField)
}

func TestGRPCLimits(t *testing.T) {
	t.Parallel()
	s := start(t, nil, documents)
	c := s.dial(t)
	_, err := c.Store(in(t, "open"), &keyvaluev1.StoreRequest{Key: "a", Value: make([]byte, 6<<20)})
	if status.Code(err) != codes.ResourceExhausted || len(status.Convert(err).Details()) != 0 {
		t.Errorf("a message over 6 MiB: %v", err)
	}
	_, err = c.Store(in(t, "open"), &keyvaluev1.StoreRequest{Key: "a", Value: make([]byte, 4<<20)})
	if err != nil {
		t.Errorf("a value of 4 MiB: %v", err)
	}
	if r, err := c.Retrieve(in(t, "open"), &keyvaluev1.RetrieveRequest{Key: "a"}, grpc.MaxCallRecvMsgSize(6<<20)); err != nil || len(r.GetValue()) != 4<<20 {
		t.Errorf("%d bytes of 4 MiB: %v", len(r.GetValue()), err)
	}
	_, err = c.Retrieve(in(t, "open", "x-large", strings.Repeat("a", 16<<10)), &keyvaluev1.RetrieveRequest{Key: "a"})
	if err == nil {
		t.Error("metadata over 16 KiB was taken")
	}
	if _, err := c.Exists(in(t, "open", "x-large", strings.Repeat("a", 12<<10)), &keyvaluev1.ExistsRequest{Key: "a"}); err != nil {
		t.Errorf("metadata of 12 KiB: %v", err)
	}
	// A pipeline that sends too much at once loses the stream, and only that.
	p := pipeline(t, in(t, "open"), c)
	send(t, p, storeOp(1, "b", make([]byte, 6<<20)))
	if _, err := p.Recv(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a pipeline message over 6 MiB: %v", err)
	}
	if _, err := c.Exists(in(t, "open"), &keyvaluev1.ExistsRequest{Key: "a"}); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestGRPCUnknownMethods(t *testing.T) {
	t.Parallel()
	s := start(t, nil, documents)
	conn := s.conn(t)
	for _, method := range []string{"/prism.keyvalue.v1.KeyValue/Drop", "/prism.mailbox.v1.Mailbox/Receive", "/x/y"} {
		err := conn.Invoke(in(t, "open", "request-id", "r1"), method, &keyvaluev1.RetrieveRequest{}, &keyvaluev1.RetrieveResponse{})
		if e := told(t, method, err, errs.Unsupported); e.RequestID != "r1" {
			t.Errorf("%s: request id %q", method, e.RequestID)
		}
	}
}

func TestGRPCReflectionAndHealth(t *testing.T) {
	t.Parallel()
	s := start(t, nil, documents)
	conn := s.conn(t)
	h := healthv1.NewHealthClient(conn)
	for _, service := range []string{"", "prism.keyvalue.v1.KeyValue"} {
		r, err := h.Check(t.Context(), &healthv1.HealthCheckRequest{Service: service})
		if err != nil || r.GetStatus() != healthv1.HealthCheckResponse_SERVING {
			t.Errorf("%q: %v %v", service, r, err)
		}
	}
	stream, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	r, err := stream.Recv()
	if err != nil || !strings.Contains(r.String(), "prism.keyvalue.v1.KeyValue") {
		t.Errorf("%v %v", r, err)
	}
}

func TestGRPCTiming(t *testing.T) {
	t.Parallel()
	c := start(t, nil, documents).dial(t)
	form := regexp.MustCompile(`^auth;dur=[0-9.]+, policy;dur=[0-9.]+, wait;dur=[0-9.]+, backend;dur=[0-9.]+$`)
	var trailer metadata.MD
	if _, err := c.Exists(in(t, "open", "prism-timing", "1"), &keyvaluev1.ExistsRequest{Key: "a"}, grpc.Trailer(&trailer)); err != nil {
		t.Fatal(err)
	}
	if v := trailer.Get("server-timing"); len(v) != 1 || !form.MatchString(v[0]) {
		t.Errorf("server-timing: %q", v)
	}
	_, err := c.Retrieve(in(t, "open", "prism-timing", "1"), &keyvaluev1.RetrieveRequest{Key: "nobody"}, grpc.Trailer(&trailer))
	if v := trailer.Get("server-timing"); err == nil || len(v) != 1 {
		t.Errorf("of an error: %q", v)
	}
	if _, err := c.Exists(in(t, "open"), &keyvaluev1.ExistsRequest{Key: "a"}, grpc.Trailer(&trailer)); err != nil || len(trailer.Get("server-timing")) != 0 {
		t.Errorf("nobody asked: %v %v", trailer, err)
	}
}

// The cause of an error that nobody foresaw is logged under the request's id,
// and sent to nobody.
func TestCausesAreLoggedAndNotSent(t *testing.T) {
	t.Parallel()
	s := start(t, nil, tapped)
	s.fail(errors.New("connection string postgres://admin:hunter2@db"))
	c := s.dial(t)
	_, err := c.Retrieve(in(t, "held", "request-id", "unary-1"), &keyvaluev1.RetrieveRequest{Key: "k"})
	told(t, "unary", err, errs.Internal)
	texts := []string{fmt.Sprint(err, status.Convert(err).Details())}
	p := pipeline(t, in(t, "held", "request-id", "stream-1"), c)
	send(t, p, retrieveOp(1, "k"))
	texts = append(texts, answers(t, p, 1)[1].String())
	b, err := c.RetrieveBatch(in(t, "held", "request-id", "batch-1"), &keyvaluev1.RetrieveBatchRequest{Keys: []string{"k"}})
	if err != nil {
		t.Fatal(err)
	}
	texts = append(texts, b.String())
	x := exchange{at: "http", request: []string{"GET /v1/namespaces/held/keyvalue/k", "Request-Id: http-1"}}
	resp, body := roundTrip(t, s.HTTP, x.bytes(t, map[string]string{"address": s.HTTP}), false)
	x.always(t, resp, body)
	x.compareProblem(t, []string{"INTERNAL"}, body)
	for _, text := range append(texts, string(body)) {
		if strings.Contains(text, "hunter2") || !strings.Contains(text, "INTERNAL") {
			t.Errorf("sent: %s", text)
		}
	}
	for _, id := range []string{"unary-1", "stream-1", "http-1"} {
		if !regexp.MustCompile(`"request_id":"` + id + `".*backend tap: .*hunter2`).MatchString(s.log.String()) {
			t.Errorf("not logged under %s: %s", id, s.log.String())
		}
	}
}

// Every key that is one survives the way through a path.
func TestKeysOverHTTP(t *testing.T) {
	t.Parallel()
	s := start(t, nil, documents)
	c := s.dial(t)
	keys := []string{"%2F", "%25", "..a", "-", "~", "é", "\u2028", "日本", "\U0001F600", "/", "//", "/..", "a b", "?key=x", strings.Repeat("/", 1024)}
	for b := byte(1); b < 0x80; b++ {
		keys = append(keys, string(b), "x"+string(b)+"y")
	}
	for _, key := range keys {
		escaped := url.PathEscape(key)
		if key == "." || key == ".." {
			escaped = strings.ReplaceAll(key, ".", "%2E")
		}
		for _, path := range []string{escaped, "-?key=" + url.QueryEscape(key)} {
			x := exchange{at: fmt.Sprintf("%q", key), request: []string{"PUT /v1/namespaces/open/keyvalue/" + path, `"` + strings.ReplaceAll(path[:min(len(path), 20)], `"`, "") + `"`}}
			resp, body := roundTrip(t, s.HTTP, x.bytes(t, map[string]string{"address": s.HTTP}), false)
			if resp.StatusCode != 200 {
				t.Errorf("%q at %s: %s %s", key, path, resp.Status, body)
				continue
			}
			r, err := c.Retrieve(in(t, "open"), &keyvaluev1.RetrieveRequest{Key: key})
			if err != nil || string(r.GetValue()) != path[:min(len(path), 20)] || resp.Header.Get("Etag") != `"`+r.GetVersion()+`"` {
				t.Errorf("%q at %s: %v %v", key, path, r, err)
			}
		}
	}
	stream, err := c.Scan(in(t, "open"), &keyvaluev1.ScanRequest{KeysOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	page, err := stream.Recv()
	if want := map[string]bool{}; err == nil {
		for _, key := range keys {
			want[key] = true
		}
		if len(page.GetEntries()) != len(want) {
			t.Errorf("%d keys in all, want %d", len(page.GetEntries()), len(want))
		}
	}
}
