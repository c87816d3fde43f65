package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/prismgw/prism/api/codec"
	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
)

// The echo server answers constants as fast as grpc-go and net/http can: what
// a gateway could be at best. It runs as a process of its own with the options
// and the codec that the proxy has, stated here again so that a mistake there
// is not made here too.

// echoVariable holds the file that an echo server writes its addresses to.
const echoVariable = "PRISM_BENCH_ECHO"

// echoVersion is as long as a version of the memory driver is.
const echoVersion = "k7q2m4x9-123456"

// startEcho runs this program again as an echo server.
func (b *bench) startEcho(ctx context.Context) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir, err := b.sub("echo")
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "ready.json")
	cmd := exec.Command(self) //nolint:gosec,noctx // ourselves; stop ends it
	cmd.Env = append(os.Environ(), echoVariable+"="+file)
	p, err := start(ctx, cmd, readyFile(file))
	if err != nil {
		return nil, err
	}
	if err := p.calibrate(ctx); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// serveEcho is the echo server, if this process was started as one.
func serveEcho() bool {
	file := os.Getenv(echoVariable)
	if file == "" {
		return false
	}
	if err := echo(file); err != nil {
		fmt.Fprintln(os.Stderr, "echo:", err)
		os.Exit(1)
	}
	return true
}

func echo(file string) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	var listeners [3]net.Listener
	for i := range listeners {
		l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		listeners[i] = l
	}
	failed := make(chan error, len(listeners))
	go func() { failed <- newEchoGRPC().Serve(listeners[0]) }()
	go func() { failed <- serveHTTP(listeners[1], http.HandlerFunc(echoHTTP)) }()
	go func() { failed <- serveHTTP(listeners[2], http.HandlerFunc(echoMetrics)) }()
	ready, err := json.Marshal(addresses{listeners[0].Addr().String(), listeners[1].Addr().String(), listeners[2].Addr().String()})
	if err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", ready, 0o600); err != nil { //nolint:gosec // the run that started us chose the file
		return err
	}
	if err := os.Rename(file+".new", file); err != nil { //nolint:gosec // likewise
		return err
	}
	return <-failed
}

func newEchoGRPC() *grpc.Server {
	s := grpc.NewServer(
		grpc.ForceServerCodecV2(codec.V2{}),
		grpc.MaxRecvMsgSize(6<<20),
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.MaxHeaderListSize(16<<10),
		grpc.NumStreamWorkers(uint32(32*runtime.GOMAXPROCS(0))),
		grpc.WaitForHandlers(true),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: 5 * time.Minute, MaxConnectionAgeGrace: time.Minute}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	)
	keyvaluev1.RegisterKeyValueServer(s, echoKeyValue{})
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: echoService, HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{StreamName: echoBidi, Handler: serveBidi, ServerStreams: true, ClientStreams: true}},
	}, nil)
	return s
}

// The answers are the same for all, so that none is allocated.
var (
	echoSmall  = &keyvaluev1.RetrieveResponse{Value: value(128), Version: echoVersion}
	echoLarge  = &keyvaluev1.RetrieveResponse{Value: value(4096), Version: echoVersion}
	echoStored = &keyvaluev1.StoreResponse{Version: echoVersion}
)

func echoed(key string) *keyvaluev1.RetrieveResponse {
	if strings.HasPrefix(key, "4096-") {
		return echoLarge
	}
	return echoSmall
}

type echoKeyValue struct {
	keyvaluev1.UnimplementedKeyValueServer
}

// Retrieve answers a constant.
func (echoKeyValue) Retrieve(_ context.Context, r *keyvaluev1.RetrieveRequest) (*keyvaluev1.RetrieveResponse, error) {
	return echoed(r.GetKey()), nil
}

// Store answers a constant.
func (echoKeyValue) Store(context.Context, *keyvaluev1.StoreRequest) (*keyvaluev1.StoreResponse, error) {
	return echoStored, nil
}

// Pipeline answers each message at once, every operation by a constant. It is
// one loop: nothing waits, nothing is checked, nothing is bounded.
func (echoKeyValue) Pipeline(stream keyvaluev1.KeyValue_PipelineServer) error {
	hello := &keyvaluev1.Hello{MaxInFlight: 256, MaxInFlightBytes: 4 << 20, MaxOperationBytes: 256 << 10}
	if err := stream.Send(&keyvaluev1.PipelineResponse{Hello: hello}); err != nil {
		return err
	}
	small, large, stored := &keyvaluev1.Answer_Retrieve{Retrieve: echoSmall}, &keyvaluev1.Answer_Retrieve{Retrieve: echoLarge}, &keyvaluev1.Answer_Store{Store: echoStored}
	out := new(keyvaluev1.PipelineResponse)
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		answers := make([]keyvaluev1.Answer, len(in.GetOperations()))
		out.Answers = out.Answers[:0]
		for i, o := range in.GetOperations() {
			a := &answers[i]
			a.Id = o.GetId()
			switch {
			case o.GetStore() != nil:
				a.Result = stored
			case echoed(o.GetRetrieve().GetKey()) == echoLarge:
				a.Result = large
			default:
				a.Result = small
			}
			out.Answers = append(out.Answers, a)
		}
		if err := stream.Send(out); err != nil {
			return err
		}
	}
}

// serveBidi answers each message by one message.
func serveBidi(_ any, stream grpc.ServerStream) error {
	for {
		in := new(keyvaluev1.RetrieveRequest)
		err := stream.RecvMsg(in)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = stream.SendMsg(echoed(in.GetKey()))
		}
		if err != nil {
			return err
		}
	}
}

// serveHTTP serves with the limits that the proxy has.
func serveHTTP(l net.Listener, h http.Handler) error {
	s := &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		ReadTimeout: time.Minute, WriteTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
	return s.Serve(l)
}

// echoHTTP answers as the REST door does, headers that HTTP itself needs and
// no others.
func echoHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Etag", `"`+echoVersion+`"`)
	if r.Method == http.MethodPut {
		_, _ = io.Copy(io.Discard, r.Body) // the client is gone if this fails
		h.Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"version":"`+echoVersion+`"}`) // likewise
		return
	}
	_, key, _ := strings.Cut(r.URL.Path, "/keyvalue/")
	body := echoed(key).GetValue()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // likewise
}

// echoMetrics says how many objects were allocated, as the proxy's /metrics does.
func echoMetrics(w http.ResponseWriter, _ *http.Request) {
	counts := []metrics.Sample{{Name: "/gc/heap/allocs:objects"}, {Name: "/gc/heap/tiny/allocs:objects"}}
	metrics.Read(counts)
	fmt.Fprintf(w, "go_memstats_mallocs_total %d\n", counts[0].Value.Uint64()+counts[1].Value.Uint64())
}
