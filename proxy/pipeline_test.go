package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/client"
	"github.com/prismgw/prism/client/prismtest"
	"github.com/prismgw/prism/errs"
)

// documents open one namespace to everyone, one to readers, one to nobody.
const documents = `
kind: Backend
name: memory
driver: memory
url: "memory:"
---
{kind: Namespace, name: open, stores: [data], needs: {durability: none}, auth: {anonymous: read_write}}
---
{kind: Namespace, name: readers, stores: [data], needs: {durability: none}, auth: {anonymous: read_only}}
---
{kind: Namespace, name: two, stores: [one, other], needs: {durability: none}, auth: {anonymous: read_write}}
---
{kind: Namespace, name: narrow, stores: [data], needs: {durability: none}, auth: {anonymous: read_write}, limits: {concurrency: 3}}
---
{kind: Namespace, name: slow, stores: [data], needs: {durability: none}, auth: {anonymous: read_write}, limits: {read_rps: 10}}
`

func dial(t *testing.T, s *prismtest.Server) keyvaluev1.KeyValueClient {
	t.Helper()
	conn, err := grpc.NewClient(s.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return keyvaluev1.NewKeyValueClient(conn)
}

func in(t *testing.T, namespace string, more ...string) context.Context {
	return metadata.AppendToOutgoingContext(t.Context(), append([]string{"x-prism-namespace", namespace}, more...)...)
}

// pipeline opens a stream and takes its greeting.
func pipeline(t *testing.T, ctx context.Context, c keyvaluev1.KeyValueClient) keyvaluev1.KeyValue_PipelineClient { //nolint:revive // ctx belongs to the call
	t.Helper()
	p, err := c.Pipeline(ctx)
	if err != nil {
		t.Fatal(err)
	}
	first, err := p.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if h := first.GetHello(); h.GetMaxInFlight() != 256 || h.GetMaxInFlightBytes() != 4<<20 || h.GetMaxOperationBytes() != 256<<10 {
		t.Fatalf("greeting %v", first)
	}
	return p
}

func retrieveOp(id uint64, key string) *keyvaluev1.Operation {
	return &keyvaluev1.Operation{Id: id, Op: &keyvaluev1.Operation_Retrieve{Retrieve: &keyvaluev1.RetrieveRequest{Key: key}}}
}

func storeOp(id uint64, key string, value []byte) *keyvaluev1.Operation {
	return &keyvaluev1.Operation{Id: id, Op: &keyvaluev1.Operation_Store{Store: &keyvaluev1.StoreRequest{Key: key, Value: value}}}
}

func send(t *testing.T, p keyvaluev1.KeyValue_PipelineClient, ops ...*keyvaluev1.Operation) {
	t.Helper()
	if err := p.Send(&keyvaluev1.PipelineRequest{Operations: ops}); err != nil {
		t.Fatal(err)
	}
}

// answers receives n answers, by id.
func answers(t *testing.T, p keyvaluev1.KeyValue_PipelineClient, n int) map[uint64]*keyvaluev1.Answer {
	t.Helper()
	got := make(map[uint64]*keyvaluev1.Answer, n)
	for len(got) < n {
		r, err := p.Recv()
		if err != nil {
			t.Fatalf("after %d of %d answers: %v", len(got), n, err)
		}
		for _, a := range r.GetAnswers() {
			if got[a.GetId()] != nil {
				t.Fatalf("two answers to %d", a.GetId())
			}
			got[a.GetId()] = a
		}
	}
	return got
}

func reasonOf(a *keyvaluev1.Answer) string {
	for _, d := range a.GetError().GetDetails() {
		if strings.HasSuffix(d.GetTypeUrl(), "ErrorInfo") {
			// The reason is field 1 of ErrorInfo.
			v := d.GetValue()
			return string(v[2 : 2+v[1]])
		}
	}
	return ""
}

func TestPipelineOperations(t *testing.T) {
	t.Parallel()
	c := dial(t, prismtest.Start(t, documents))
	p := pipeline(t, in(t, "open"), c)
	send(t, p, storeOp(1, "a", []byte("1")))
	if a := answers(t, p, 1)[1]; a.GetStore().GetVersion() == "" {
		t.Fatalf("store: %v", a)
	}
	send(
		t, p,
		retrieveOp(2, "a"),
		retrieveOp(3, "none"),
		retrieveOp(4, ""),
		&keyvaluev1.Operation{Id: 5, Op: &keyvaluev1.Operation_Exists{Exists: &keyvaluev1.ExistsRequest{Key: "none"}}},
		&keyvaluev1.Operation{Id: 6, Op: &keyvaluev1.Operation_Increment{Increment: &keyvaluev1.IncrementRequest{Key: "n", Delta: proto.Int64(5)}}},
		&keyvaluev1.Operation{Id: 7, Op: &keyvaluev1.Operation_Expire{Expire: &keyvaluev1.ExpireRequest{Key: "none"}}},
		&keyvaluev1.Operation{Id: 8, Op: &keyvaluev1.Operation_Delete{Delete: &keyvaluev1.DeleteRequest{Key: "none"}}},
		&keyvaluev1.Operation{Id: 9},
		storeOp(10, "b", make([]byte, 300<<10)),
	)
	got := answers(t, p, 9)
	if string(got[2].GetRetrieve().GetValue()) != "1" || got[5].GetExists() == nil || got[6].GetIncrement().GetValue() != 5 || got[8].GetDelete() == nil {
		t.Errorf("%v", got)
	}
	for id, want := range map[uint64]string{3: "KEY_NOT_FOUND", 4: "INVALID_KEY", 7: "INVALID_FIELD", 9: "UNSUPPORTED", 10: "PAYLOAD_TOO_LARGE"} {
		if r := reasonOf(got[id]); r != want {
			t.Errorf("operation %d: %q, want %q", id, r, want)
		}
	}
	if err := p.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after half-closing: %v", err)
	}
}

// Everything that was sent before half-closing is answered.
func TestPipelineAnswersAllBeforeItEnds(t *testing.T) {
	t.Parallel()
	c := dial(t, prismtest.Start(t, documents))
	p := pipeline(t, in(t, "open"), c)
	const n = 5000 // many times the operations that may be in flight
	go func() {
		for i := range n {
			if p.Send(&keyvaluev1.PipelineRequest{Operations: []*keyvaluev1.Operation{storeOp(uint64(i+1), fmt.Sprint(i), []byte("v"))}}) != nil {
				return
			}
		}
		_ = p.CloseSend()
	}()
	answers(t, p, n)
	if _, err := p.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

func TestPipelineProtocolErrors(t *testing.T) {
	t.Parallel()
	s := prismtest.Start(t, documents)
	c := dial(t, s)
	for name, ops := range map[string][]*keyvaluev1.Operation{
		"zero id": {retrieveOp(0, "a")},
	} {
		p := pipeline(t, in(t, "open"), c)
		send(t, p, ops...)
		_, err := p.Recv()
		if e := errs.FromStatus(err); e == nil || e.Reason != errs.InvalidField || e.RequestID == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, at := range map[string]struct {
		ctx  context.Context //nolint:containedctx // a table
		want errs.Reason
	}{
		"no namespace":          {t.Context(), errs.InvalidField},
		"unknown namespace":     {in(t, "nope"), errs.NamespaceNotFound},
		"reserved namespace":    {in(t, "__prism_system"), errs.Forbidden},
		"two namespaces":        {in(t, "open", "x-prism-namespace", "two"), errs.InvalidField},
		"a pattern is missing":  {in(t, "two"), errs.InvalidField},
		"unknown pattern":       {in(t, "two", "x-prism-pattern", "third"), errs.PatternNotFound},
		"a credential":          {in(t, "open", "authorization", "Bearer x"), errs.Unauthenticated},
		"a credential, unknown": {in(t, "nope", "authorization", "Bearer x"), errs.Unauthenticated},
	} {
		p, err := c.Pipeline(at.ctx)
		if err == nil {
			_, err = p.Recv()
		}
		if e := errs.FromStatus(err); e == nil || e.Reason != at.want {
			t.Errorf("%s: %v, want %s", name, err, at.want.String())
		}
		_, err = c.Retrieve(at.ctx, &keyvaluev1.RetrieveRequest{Key: "a"})
		if e := errs.FromStatus(err); e == nil || e.Reason != at.want {
			t.Errorf("%s, unary: %v, want %s", name, err, at.want.String())
		}
	}
}

// Each operation is authorized by itself: reads of a read-only caller go on
// beside writes that are refused.
func TestPipelineAuthorizesEachOperation(t *testing.T) {
	t.Parallel()
	c := dial(t, prismtest.Start(t, documents))
	p := pipeline(t, in(t, "readers"), c)
	send(t, p, retrieveOp(1, "a"), storeOp(2, "a", nil), retrieveOp(3, "a"))
	got := answers(t, p, 3)
	if reasonOf(got[1]) != "KEY_NOT_FOUND" || reasonOf(got[2]) != "UNAUTHENTICATED" || reasonOf(got[3]) != "KEY_NOT_FOUND" {
		t.Errorf("%v", got)
	}
}

func TestHiddenNamespaces(t *testing.T) {
	t.Parallel()
	c := dial(t, prismtest.Start(t, documents+"---\n{kind: Namespace, name: secret, stores: [data], needs: {durability: none}, auth: {anonymous: deny}}\n"))
	var texts []string
	for _, namespace := range []string{"secret", "nope"} {
		_, err := c.Retrieve(in(t, namespace, "request-id", "r"), &keyvaluev1.RetrieveRequest{Key: "a"})
		if e := errs.FromStatus(err); e == nil || e.Reason != errs.Unauthenticated {
			t.Errorf("%s: %v", namespace, err)
		}
		texts = append(texts, fmt.Sprint(err))
	}
	if texts[0] != texts[1] {
		t.Errorf("an existing and a made-up namespace can be told apart:\n%s\n%s", texts[0], texts[1])
	}
}

// Operations beyond a namespace's concurrency wait their turn; none hangs, and
// what was admitted before never waits with them.
func TestPipelineUnderConcurrencyLimit(t *testing.T) {
	t.Parallel()
	c := dial(t, prismtest.Start(t, documents))
	p := pipeline(t, in(t, "narrow"), c)
	ops := make([]*keyvaluev1.Operation, 200)
	for i := range ops {
		ops[i] = storeOp(uint64(i+1), fmt.Sprint(i), []byte("v"))
	}
	send(t, p, ops...)
	for id, a := range answers(t, p, len(ops)) {
		if a.GetStore() == nil && reasonOf(a) != "OVERLOADED" {
			t.Errorf("%d: %v", id, a)
		}
	}
}

func TestRateLimitTellsWhen(t *testing.T) {
	t.Parallel()
	c := dial(t, prismtest.Start(t, documents))
	p := pipeline(t, in(t, "slow"), c)
	ops := make([]*keyvaluev1.Operation, 100)
	for i := range ops {
		ops[i] = retrieveOp(uint64(i+1), "a")
	}
	send(t, p, ops...)
	limited := 0
	for _, a := range answers(t, p, len(ops)) {
		if reasonOf(a) == "RATE_LIMITED" {
			limited++
		}
	}
	if limited < 50 {
		t.Errorf("%d of 100 operations at once were refused under 10 per second", limited)
	}
	var err error
	for range 20 {
		if _, err = c.Retrieve(in(t, "slow"), &keyvaluev1.RetrieveRequest{Key: "a"}); errs.FromStatus(err).Reason == errs.RateLimited {
			break
		}
	}
	if e := errs.FromStatus(err); e.Reason != errs.RateLimited || e.RetryAfter <= 0 || e.RetryAfter > time.Second {
		t.Errorf("%v, retry after %v", err, e.RetryAfter)
	}
}

// A client that sends and never reads loses its stream, and the proxy's memory
// does not grow with what it sends.
func TestSlowReaderLosesTheStream(t *testing.T) {
	t.Parallel()
	s := prismtest.Start(t, documents)
	kv := s.Client(t, "open", client.WithUnary()).KeyValue("open")
	if _, err := kv.Store(t.Context(), "big", make([]byte, 200<<10)); err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(s.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithInitialWindowSize(64<<10), grpc.WithInitialConnWindowSize(64<<10))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	p := pipeline(t, in(t, "open"), keyvaluev1.NewKeyValueClient(conn))
	go func() {
		for i := uint64(1); p.Send(&keyvaluev1.PipelineRequest{Operations: []*keyvaluev1.Operation{retrieveOp(i, "big")}}) == nil; i++ {
		}
	}()
	waitFor(t, "the stream ends", func() bool { return !strings.Contains(metrics(t, s), `prism_streams_open{method="Pipeline"} 1`) })
	for {
		if _, err = p.Recv(); err != nil {
			break
		}
	}
	if e := errs.FromStatus(err); e.Reason != errs.SlowReader {
		t.Errorf("the stream ended with %v", err)
	}
}

// metrics returns what the operations port counts.
func metrics(t *testing.T, s *prismtest.Server) string {
	t.Helper()
	return get(t, "http://"+s.Ops+"/metrics")
}

func get(t *testing.T, url string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// A scan whose client does not read gives back what it holds.
func TestUnreadScanEnds(t *testing.T) {
	t.Parallel()
	s := prismtest.Start(t, documents)
	kv := s.Client(t, "open", client.WithUnary()).KeyValue("open")
	for i := range 40 {
		if _, err := kv.Store(t.Context(), fmt.Sprint(i), make([]byte, 200<<10)); err != nil {
			t.Fatal(err)
		}
	}
	conn, err := grpc.NewClient(s.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithInitialWindowSize(64<<10), grpc.WithInitialConnWindowSize(64<<10))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	scan, err := keyvaluev1.NewKeyValueClient(conn).Scan(in(t, "open"), &keyvaluev1.ScanRequest{})
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the scan is open", func() bool { return strings.Contains(metrics(t, s), `prism_streams_open{method="Scan"} 1`) })
	waitFor(t, "the scan ends", func() bool { return strings.Contains(metrics(t, s), `prism_streams_open{method="Scan"} 0`) })
	for err == nil {
		_, err = scan.Recv()
	}
	if e := errs.FromStatus(err); e.Reason != errs.SlowReader {
		t.Errorf("the scan ended with %v", err)
	}
}
