package client

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/prismgw/prism/api/codec"
	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/errs"
)

// A server keeps a map behind the real service on loopback TCP. It counts what
// reaches it and notes every breach of the rules that a client has to keep.
type server struct {
	keyvaluev1.UnimplementedKeyValueServer
	addr  string
	grpc  *grpc.Server
	hello *keyvaluev1.Hello // nil: none is sent
	deaf  bool              // reads no operations
	lis   *cuttable

	// hook runs before an operation takes effect; an error is its answer.
	hook atomic.Pointer[func(ctx context.Context, key string) error]

	unary, pipelined, messages, cancels, opened, largest, refused atomic.Int64

	mu       sync.Mutex // guards the rest
	values   map[string]string
	versions map[string]int
	executed map[string]int // by key
	once     map[string]*keyvaluev1.Answer
	header   metadata.MD // of the last unary call
	last     []*keyvaluev1.Operation
	streams  map[*serverStream]struct{}
	breaches []string
}

type serverOption func(*server)

func withHello(h *keyvaluev1.Hello) serverOption { return func(s *server) { s.hello = h } }

// newServer serves until the test ends, and then fails it for every breach.
func newServer(t testing.TB, opts ...serverOption) *server {
	t.Helper()
	s := &server{
		hello:  &keyvaluev1.Hello{MaxInFlight: 256, MaxInFlightBytes: 4 << 20, MaxOperationBytes: 256 << 10},
		values: map[string]string{}, versions: map[string]int{}, executed: map[string]int{},
		once: map[string]*keyvaluev1.Answer{}, streams: map[*serverStream]struct{}{},
	}
	for _, o := range opts {
		o(s)
	}
	s.listen(t, "127.0.0.1:0")
	t.Cleanup(func() {
		s.grpc.Stop()
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, b := range s.breaches {
			t.Error("the client broke a rule:", b)
		}
	})
	return s
}

func (s *server) listen(t testing.TB, addr string) {
	t.Helper()
	lis, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s.addr = lis.Addr().String()
	s.lis = &cuttable{Listener: lis}
	s.grpc = grpc.NewServer(grpc.ForceServerCodecV2(codec.V2{}), grpc.MaxRecvMsgSize(maxMessage),
		grpc.StaticStreamWindowSize(1<<20), grpc.StaticConnWindowSize(4<<20))
	keyvaluev1.RegisterKeyValueServer(s.grpc, s)
	go func() { _ = s.grpc.Serve(s.lis) }()
}

// dial returns a client that is closed with the test.
func (s *server) dial(t testing.TB, opts ...Option) *Client {
	t.Helper()
	c, err := Dial(s.addr, append([]Option{WithNamespace("test")}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// A cuttable listener can break its connections.
type cuttable struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
}

func (l *cuttable) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns = append(l.conns, conn)
	return conn, err
}

func (l *cuttable) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		if c != nil {
			_ = c.Close()
		}
	}
	l.conns = nil
}

func (s *server) setHook(f func(ctx context.Context, key string) error) { s.hook.Store(&f) }

func (s *server) breach(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.breaches = append(s.breaches, text)
}

func (s *server) ran(key string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.executed[key]
}

func (s *server) openStreams() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.streams)
}

func (s *server) before(ctx context.Context, key string) error {
	if f := s.hook.Load(); f != nil {
		return (*f)(ctx, key)
	}
	return nil
}

// apply carries out one operation. An operation under an idempotency key that
// was carried out before is only answered again.
func (s *server) apply(ctx context.Context, op *keyvaluev1.Operation) *keyvaluev1.Answer {
	key := opKey(op)
	if err := s.before(ctx, key); err != nil && !errors.Is(err, errAfter) {
		return failure(op.GetId(), err)
	} else if err != nil {
		defer func() { <-ctx.Done() }() // done, but never answered
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.once[op.GetIdempotencyKey()]; known != nil {
		return &keyvaluev1.Answer{Id: op.GetId(), Result: known.GetResult()}
	}
	s.executed[key]++
	a := s.execute(op)
	a.Id = op.GetId()
	if a.Id != 0 && a.SizeVT() > int(s.hello.GetMaxOperationBytes()) {
		return failure(a.Id, errs.TooLarge("pipeline", a.SizeVT(), int(s.hello.GetMaxOperationBytes())))
	}
	if op.GetIdempotencyKey() != "" {
		s.once[op.GetIdempotencyKey()] = a
	}
	return a
}

// errAfter is a hook's way of saying: carry it out and do not answer.
var errAfter = errors.New("after")

func opKey(op *keyvaluev1.Operation) string {
	type keyed interface{ GetKey() string }
	for _, r := range []keyed{op.GetStore(), op.GetRetrieve(), op.GetDelete(), op.GetExists(), op.GetIncrement(), op.GetExpire()} {
		if k := r.GetKey(); k != "" {
			return k
		}
	}
	return ""
}

func failure(id uint64, err error) *keyvaluev1.Answer {
	return &keyvaluev1.Answer{Id: id, Result: &keyvaluev1.Answer_Error{Error: statusOf(err)}}
}

func statusOf(err error) *spb.Status { return errs.From(err).Status("req-1").Proto() }

// execute needs s.mu.
func (s *server) execute(op *keyvaluev1.Operation) *keyvaluev1.Answer {
	switch o := op.GetOp().(type) {
	case *keyvaluev1.Operation_Retrieve:
		value, ok := s.values[o.Retrieve.GetKey()]
		if !ok {
			return failure(0, errs.KeyNotFound)
		}
		r := &keyvaluev1.RetrieveResponse{Value: []byte(value), Version: s.version(o.Retrieve.GetKey())}
		if o.Retrieve.GetWithExpiry() {
			r.ExpiresAt = timestamppb.New(time.Unix(1e9, 0))
		}
		return &keyvaluev1.Answer{Result: &keyvaluev1.Answer_Retrieve{Retrieve: r}}
	case *keyvaluev1.Operation_Exists:
		_, ok := s.values[o.Exists.GetKey()]
		return &keyvaluev1.Answer{Result: &keyvaluev1.Answer_Exists{Exists: &keyvaluev1.ExistsResponse{Exists: ok}}}
	case *keyvaluev1.Operation_Store:
		return s.store(o.Store)
	case *keyvaluev1.Operation_Delete:
		if v := o.Delete.IfVersion; v != nil && *v != s.version(o.Delete.GetKey()) {
			return failure(0, errs.VersionMismatch)
		}
		delete(s.values, o.Delete.GetKey())
		return &keyvaluev1.Answer{Result: &keyvaluev1.Answer_Delete{Delete: &keyvaluev1.DeleteResponse{}}}
	case *keyvaluev1.Operation_Increment:
		n, _ := strconv.ParseInt(s.values[o.Increment.GetKey()], 10, 64)
		n += o.Increment.GetDelta()
		s.put(o.Increment.GetKey(), strconv.FormatInt(n, 10))
		return &keyvaluev1.Answer{Result: &keyvaluev1.Answer_Increment{Increment: &keyvaluev1.IncrementResponse{Value: n}}}
	case *keyvaluev1.Operation_Expire:
		if o.Expire.GetTtl().AsDuration() <= 0 {
			return failure(0, errs.Invalid(errs.Field{Path: "ttl", Text: "must be positive"}))
		}
		at := timestamppb.New(time.Unix(0, 0).Add(o.Expire.GetTtl().AsDuration()))
		return &keyvaluev1.Answer{Result: &keyvaluev1.Answer_Expire{Expire: &keyvaluev1.ExpireResponse{ExpiresAt: at}}}
	}
	return failure(0, errs.InvalidField)
}

func (s *server) store(r *keyvaluev1.StoreRequest) *keyvaluev1.Answer {
	_, there := s.values[r.GetKey()]
	switch {
	case r.GetIfAbsent() && there:
		return failure(0, errs.AlreadyExists)
	case r.IfVersion != nil && (!there || r.GetIfVersion() != s.version(r.GetKey())):
		return failure(0, errs.VersionMismatch)
	case r.GetTtl() != nil && r.GetTtl().AsDuration() < time.Millisecond:
		return failure(0, errs.Invalid(errs.Field{Path: "ttl", Text: "at least 1 ms"}))
	}
	s.put(r.GetKey(), string(r.GetValue()))
	return &keyvaluev1.Answer{Result: &keyvaluev1.Answer_Store{Store: &keyvaluev1.StoreResponse{Version: s.version(r.GetKey())}}}
}

func (s *server) put(key, value string) {
	s.values[key] = value
	s.versions[key]++
}

func (s *server) version(key string) string { return strconv.Itoa(s.versions[key]) }

// A serverStream is one Pipeline.
type serverStream struct {
	s   *server
	rpc keyvaluev1.KeyValue_PipelineServer
	ctx context.Context

	mu       sync.Mutex // guards the rest, and Send
	inFlight map[uint64]context.CancelFunc
	bytes    int
	leaving  bool
	draining bool

	working sync.WaitGroup
	leave   chan struct{} // closed to go away
}

// Pipeline serves one stream.
func (s *server) Pipeline(rpc keyvaluev1.KeyValue_PipelineServer) error {
	s.opened.Add(1)
	st := &serverStream{s: s, rpc: rpc, ctx: rpc.Context(), inFlight: map[uint64]context.CancelFunc{}, leave: make(chan struct{})}
	s.mu.Lock()
	s.streams[st] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.streams, st)
		s.mu.Unlock()
	}()
	if s.hello == nil {
		<-rpc.Context().Done()
		return nil
	}
	if s.deaf {
		_ = rpc.Send(&keyvaluev1.PipelineResponse{Hello: s.hello})
		<-rpc.Context().Done()
		return nil
	}
	if err := s.before(rpc.Context(), "(open)"); err != nil {
		return grpcStatus(err)
	}
	if err := rpc.Send(&keyvaluev1.PipelineResponse{Hello: s.hello}); err != nil {
		return err
	}
	return st.serve()
}

func (st *serverStream) serve() error {
	ended := make(chan error, 1)
	go func() {
		for {
			req, err := st.rpc.Recv()
			if err != nil {
				ended <- err
				return
			}
			st.message(req)
		}
	}()
	select {
	case err := <-ended:
		st.working.Wait()
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	case <-st.leave:
		st.working.Wait()
		return nil
	}
}

// message carries out what one message asks for. Without a hook everything is
// answered at once by one message.
func (st *serverStream) message(req *keyvaluev1.PipelineRequest) {
	st.mu.Lock()
	if st.leaving { // not read any more
		st.mu.Unlock()
		return
	}
	if st.draining {
		st.mu.Unlock()
		st.refuse(req.GetOperations())
		return
	}
	st.s.messages.Add(1)
	st.s.pipelined.Add(int64(len(req.GetOperations())))
	st.check(req)
	inline := st.s.hook.Load() == nil
	if inline {
		st.working.Add(1)
		defer st.working.Done()
	} else {
		st.working.Add(len(req.GetOperations()))
	}
	st.mu.Unlock()
	st.cancel(req.GetCancels())
	if inline {
		resp := &keyvaluev1.PipelineResponse{}
		for _, op := range req.GetOperations() {
			resp.Answers = append(resp.Answers, st.s.apply(st.ctx, op))
		}
		st.answer(resp)
		return
	}
	for _, op := range req.GetOperations() {
		ctx, cancel := context.WithCancel(st.ctx)
		st.mu.Lock()
		st.inFlight[op.GetId()] = cancel
		st.mu.Unlock()
		go func() {
			defer st.working.Done()
			defer cancel()
			st.single(ctx, op)
		}()
	}
}

// single answers one operation, or says that it was cancelled as soon as it is.
func (st *serverStream) single(ctx context.Context, op *keyvaluev1.Operation) {
	answered := make(chan *keyvaluev1.Answer, 1)
	go func() { answered <- st.s.apply(ctx, op) }()
	var a *keyvaluev1.Answer
	select {
	case a = <-answered:
	case <-ctx.Done():
		a = failure(op.GetId(), errs.Cancelled)
	}
	st.mu.Lock()
	delete(st.inFlight, op.GetId())
	st.bytes -= op.SizeVT()
	st.mu.Unlock()
	if st.ctx.Err() == nil {
		st.answer(&keyvaluev1.PipelineResponse{Answers: []*keyvaluev1.Answer{a}})
	}
}

func (st *serverStream) cancel(cancels []*keyvaluev1.Cancel) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, c := range cancels {
		st.s.cancels.Add(1)
		if cancel := st.inFlight[c.GetId()]; cancel != nil {
			cancel()
		}
	}
}

func (st *serverStream) answer(resp *keyvaluev1.PipelineResponse) {
	if len(resp.GetAnswers()) == 0 {
		return
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	_ = st.rpc.Send(resp)
}

// check notes what a client must not send. It needs st.mu.
func (st *serverStream) check(req *keyvaluev1.PipelineRequest) {
	hello, ops, size := st.s.hello, req.GetOperations(), req.SizeVT()
	if n := int64(len(ops)); n > st.s.largest.Load() {
		st.s.largest.Store(n)
	}
	if len(ops) > 128 || size > 64<<10 && len(ops) > 1 {
		st.s.breach("a message of " + strconv.Itoa(len(ops)) + " operations, " + strconv.Itoa(size) + " bytes")
	}
	if st.s.hook.Load() == nil {
		return // each message is answered before the next is read
	}
	for _, op := range ops {
		if _, twice := st.inFlight[op.GetId()]; twice || op.GetId() == 0 {
			st.s.breach("id " + strconv.FormatUint(op.GetId(), 10) + " is zero or in use")
		}
		st.inFlight[op.GetId()] = nil
		st.bytes += op.SizeVT()
		if op.SizeVT() > int(hello.GetMaxOperationBytes()) {
			st.s.breach("an operation of " + strconv.Itoa(op.SizeVT()) + " bytes")
		}
	}
	if len(st.inFlight) > int(hello.GetMaxInFlight()) || st.bytes > int(hello.GetMaxInFlightBytes()) && len(st.inFlight) > 1 {
		st.s.breach(strconv.Itoa(len(st.inFlight)) + " operations, " + strconv.Itoa(st.bytes) + " bytes in flight")
	}
	st.s.mu.Lock()
	st.s.last = ops
	st.s.mu.Unlock()
}

// refuse answers operations that come too late.
func (st *serverStream) refuse(ops []*keyvaluev1.Operation) {
	resp := &keyvaluev1.PipelineResponse{}
	for _, op := range ops {
		st.s.refused.Add(1)
		resp.Answers = append(resp.Answers, failure(op.GetId(), errs.Draining))
	}
	st.answer(resp)
}

// drain makes every stream refuse operations.
func (s *server) drain() {
	s.mu.Lock()
	streams := slices.Collect(maps.Keys(s.streams))
	s.mu.Unlock()
	for _, st := range streams {
		st.mu.Lock()
		st.draining = true
		st.mu.Unlock()
	}
}

// goAway makes every stream go away in order.
func (s *server) goAway() {
	s.mu.Lock()
	streams := slices.Collect(maps.Keys(s.streams))
	s.mu.Unlock()
	for _, st := range streams {
		st.mu.Lock()
		if !st.leaving {
			st.leaving = true
			_ = st.rpc.Send(&keyvaluev1.PipelineResponse{GoingAway: &keyvaluev1.GoingAway{}})
			close(st.leave)
		}
		st.mu.Unlock()
	}
}

// call answers a unary call like an operation.
func (s *server) call(ctx context.Context, op *keyvaluev1.Operation) (*keyvaluev1.Answer, error) {
	s.unary.Add(1)
	md, _ := metadata.FromIncomingContext(ctx)
	s.mu.Lock()
	s.header = md
	s.mu.Unlock()
	if keys := md.Get(headerIdempotency); len(keys) > 0 {
		op.IdempotencyKey = keys[0]
	}
	a := s.apply(ctx, op)
	if e := a.GetError(); e != nil {
		return nil, grpcError(e)
	}
	return a, nil
}

func (s *server) Store(ctx context.Context, r *keyvaluev1.StoreRequest) (*keyvaluev1.StoreResponse, error) {
	a, err := s.call(ctx, &keyvaluev1.Operation{Op: &keyvaluev1.Operation_Store{Store: r}})
	return a.GetStore(), err
}

func (s *server) Retrieve(ctx context.Context, r *keyvaluev1.RetrieveRequest) (*keyvaluev1.RetrieveResponse, error) {
	a, err := s.call(ctx, &keyvaluev1.Operation{Op: &keyvaluev1.Operation_Retrieve{Retrieve: r}})
	return a.GetRetrieve(), err
}

func (s *server) Delete(ctx context.Context, r *keyvaluev1.DeleteRequest) (*keyvaluev1.DeleteResponse, error) {
	a, err := s.call(ctx, &keyvaluev1.Operation{Op: &keyvaluev1.Operation_Delete{Delete: r}})
	return a.GetDelete(), err
}

func (s *server) Exists(ctx context.Context, r *keyvaluev1.ExistsRequest) (*keyvaluev1.ExistsResponse, error) {
	a, err := s.call(ctx, &keyvaluev1.Operation{Op: &keyvaluev1.Operation_Exists{Exists: r}})
	return a.GetExists(), err
}

func (s *server) Increment(ctx context.Context, r *keyvaluev1.IncrementRequest) (*keyvaluev1.IncrementResponse, error) {
	a, err := s.call(ctx, &keyvaluev1.Operation{Op: &keyvaluev1.Operation_Increment{Increment: r}})
	return a.GetIncrement(), err
}

func (s *server) Expire(ctx context.Context, r *keyvaluev1.ExpireRequest) (*keyvaluev1.ExpireResponse, error) {
	a, err := s.call(ctx, &keyvaluev1.Operation{Op: &keyvaluev1.Operation_Expire{Expire: r}})
	return a.GetExpire(), err
}

func (s *server) StoreBatch(ctx context.Context, r *keyvaluev1.StoreBatchRequest) (*keyvaluev1.StoreBatchResponse, error) {
	resp := &keyvaluev1.StoreBatchResponse{}
	for _, item := range r.GetItems() {
		a := s.apply(ctx, &keyvaluev1.Operation{Op: &keyvaluev1.Operation_Store{Store: item}})
		result := &keyvaluev1.StoreResult{Outcome: &keyvaluev1.StoreResult_Stored{Stored: a.GetStore()}}
		if e := a.GetError(); e != nil {
			result.Outcome = &keyvaluev1.StoreResult_Error{Error: e}
		}
		resp.Results = append(resp.Results, result)
	}
	return resp, nil
}

func (s *server) RetrieveBatch(ctx context.Context, r *keyvaluev1.RetrieveBatchRequest) (*keyvaluev1.RetrieveBatchResponse, error) {
	resp := &keyvaluev1.RetrieveBatchResponse{}
	for _, key := range r.GetKeys() {
		a := s.apply(ctx, &keyvaluev1.Operation{Op: &keyvaluev1.Operation_Retrieve{Retrieve: &keyvaluev1.RetrieveRequest{Key: key, WithExpiry: r.GetWithExpiry()}}})
		result := &keyvaluev1.RetrieveResult{Outcome: &keyvaluev1.RetrieveResult_Found{Found: a.GetRetrieve()}}
		if e := a.GetError(); e != nil {
			result.Outcome = &keyvaluev1.RetrieveResult_Error{Error: e}
		}
		resp.Results = append(resp.Results, result)
	}
	return resp, nil
}

func (s *server) DeleteBatch(ctx context.Context, r *keyvaluev1.DeleteBatchRequest) (*keyvaluev1.DeleteBatchResponse, error) {
	resp := &keyvaluev1.DeleteBatchResponse{}
	for _, item := range r.GetItems() {
		a := s.apply(ctx, &keyvaluev1.Operation{Op: &keyvaluev1.Operation_Delete{Delete: item}})
		result := &keyvaluev1.DeleteResult{Outcome: &keyvaluev1.DeleteResult_Deleted{Deleted: a.GetDelete()}}
		if e := a.GetError(); e != nil {
			result.Outcome = &keyvaluev1.DeleteResult_Error{Error: e}
		}
		resp.Results = append(resp.Results, result)
	}
	return resp, nil
}

// Scan answers in key order; a cursor is the last key.
func (s *server) Scan(r *keyvaluev1.ScanRequest, out keyvaluev1.KeyValue_ScanServer) error {
	s.unary.Add(1)
	s.mu.Lock()
	var keys []string
	for key := range s.values {
		if strings.HasPrefix(key, r.GetPrefix()) && (r.GetCursor() == "" || key > r.GetCursor()) {
			keys = append(keys, key)
		}
	}
	s.mu.Unlock()
	slices.Sort(keys)
	size := int(r.GetPageSize())
	if size == 0 {
		size = 1000
	}
	for pages := slices.Collect(slices.Chunk(keys, size)); ; pages = pages[1:] {
		if err := s.before(out.Context(), "(page)"); err != nil {
			return grpcStatus(err)
		}
		page := &keyvaluev1.ScanResponse{}
		if len(pages) == 0 {
			return out.Send(page)
		}
		s.mu.Lock()
		for _, key := range pages[0] {
			e := &keyvaluev1.ScanEntry{Key: key}
			if !r.GetKeysOnly() {
				e.Value, e.Version = []byte(s.values[key]), s.version(key)
			}
			page.Entries = append(page.Entries, e)
		}
		s.mu.Unlock()
		if len(pages) > 1 {
			page.Cursor = pages[0][len(pages[0])-1]
		}
		if err := out.Send(page); err != nil || len(pages) == 1 {
			return err
		}
	}
}

func grpcError(st *spb.Status) error { return grpcstatus.ErrorProto(st) }

// grpcStatus passes on what is a status already.
func grpcStatus(err error) error {
	if _, ok := grpcstatus.FromError(err); ok {
		return err
	}
	return errs.From(err).Status("req-1").Err()
}
