package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/prismgw/prism/namespace"
	"github.com/prismgw/prism/proxy"
)

// serverFlags are what dev and proxy have in common.
type serverFlags struct {
	grpc, http, ops string
	readyFile       string
	httpHosts       []string
	opsHosts        []string
	corsOrigins     []string
	anonymousWrites bool
	lameDuck        time.Duration
	drain           time.Duration
	connectionAge   time.Duration
	maxInFlight     int
	logLevel        string
	otlpEndpoint    string
	traceRatio      float64
}

func (f *serverFlags) add(fs *pflag.FlagSet, lameDuck time.Duration) {
	fs.StringVar(&f.grpc, "grpc-addr", "127.0.0.1:8980", "gRPC listener: host:port (port 0: any free one) or unix:PATH")
	fs.StringVar(&f.http, "http-addr", "127.0.0.1:8981", "HTTP listener")
	fs.StringVar(&f.ops, "ops-addr", "127.0.0.1:8982", "listener of /healthz, /readyz and /metrics")
	fs.StringVar(&f.readyFile, "ready-file", "", "write the listeners' addresses there as JSON, once ready")
	fs.StringSliceVar(&f.httpHosts, "http-host", nil, "Host header to accept beside loopback and the listener's own address")
	fs.StringSliceVar(&f.opsHosts, "ops-host", nil, "Host header to accept on the operations listener beside localhost and IP addresses")
	fs.StringSliceVar(&f.corsOrigins, "cors-origin", nil, "origin of web pages that may call, such as https://app.example.com")
	fs.BoolVar(&f.anonymousWrites, "allow-anonymous-writes", false, "serve namespaces with anonymous: read_write beyond loopback")
	fs.DurationVar(&f.lameDuck, "lame-duck", lameDuck, "when stopping: time between not ready and the end of intake")
	fs.DurationVar(&f.drain, "drain", 30*time.Second, "when stopping: time for operations in flight")
	fs.DurationVar(&f.connectionAge, "connection-age", 5*time.Minute, "ask gRPC connections to move after about this; 0: never")
	fs.IntVar(&f.maxInFlight, "max-in-flight", proxy.DefaultInFlight, "operations at once, of all namespaces; more wait for 5 ms and are then refused")
	fs.StringVar(&f.otlpEndpoint, "otlp-endpoint", "", "send traces to this OpenTelemetry collector (gRPC), such as http://127.0.0.1:4317")
	fs.Float64Var(&f.traceRatio, "trace-ratio", 0.01, "share of operations to trace whose client began no trace")
	fs.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
}

// fromEnvironment sets every flag that was not given from PRISM_<NAME>.
func fromEnvironment(c *cobra.Command, _ []string) error {
	var wrong error
	c.Flags().VisitAll(func(f *pflag.Flag) {
		name := "PRISM_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		if v := os.Getenv(name); v != "" && !f.Changed && wrong == nil {
			if err := c.Flags().Set(f.Name, v); err != nil {
				wrong = fmt.Errorf("%s: %w", name, err)
			}
		}
	})
	return wrong
}

// addresses are where a server can be reached.
type addresses struct {
	GRPC string `json:"grpc"`
	HTTP string `json:"http"`
	Ops  string `json:"ops"`
}

// server is a running proxy with its listeners.
type server struct {
	flags *serverFlags
	proxy *proxy.Proxy
	addrs addresses
	log   *slog.Logger
	trace *sdktrace.TracerProvider // nil: none

	loaded []namespace.File // only the goroutine that loads uses it
}

// newServer opens the listeners and makes the proxy; nothing is served yet.
func newServer(ctx context.Context, f *serverFlags, log *slog.Logger) (*server, error) {
	o := proxy.Options{
		Drivers: drivers(), Kinds: patterns(), Log: log, HTTPHosts: f.httpHosts, OpsHosts: f.opsHosts, CORSOrigins: f.corsOrigins,
		AllowAnonymousWrites: f.anonymousWrites, ConnectionAge: f.connectionAge, MaxInFlight: f.maxInFlight, LameDuck: f.lameDuck, DrainTime: f.drain,
	}
	var open []net.Listener
	opened := false
	defer func() {
		if !opened {
			for _, l := range open {
				_ = l.Close() // the error that matters is another one
			}
		}
	}()
	o.Loopback = true
	listenOn := func(addr, flag string) (net.Listener, error) {
		l, err := listen(ctx, addr, flag)
		if err == nil {
			open = append(open, l)
			o.Loopback = o.Loopback && isLoopback(l.Addr())
		}
		return l, err
	}
	var err, errHTTP, errOps error
	o.GRPC, err = listenOn(f.grpc, "--grpc-addr")
	o.HTTP, errHTTP = listenOn(f.http, "--http-addr")
	data := o.Loopback // what is served to applications; operations serve no data
	o.Ops, errOps = listenOn(f.ops, "--ops-addr")
	o.Loopback = data
	if err = errors.Join(err, errHTTP, errOps); err != nil {
		return nil, err
	}
	var tracer *sdktrace.TracerProvider
	if f.otlpEndpoint != "" {
		if tracer, err = newTracer(ctx, f.otlpEndpoint, f.traceRatio); err != nil {
			return nil, err
		}
		o.Tracer = tracer
	}
	p, err := proxy.New(o)
	if err != nil {
		return nil, err
	}
	opened = true
	return &server{flags: f, proxy: p, log: log, trace: tracer, addrs: addresses{address(o.GRPC), address(o.HTTP), address(o.Ops)}}, nil
}

func address(l net.Listener) string {
	if l.Addr().Network() == "unix" {
		path := l.Addr().String()
		if abs, err := filepath.Abs(path); err == nil {
			path = abs
		}
		return "unix:" + path
	}
	return l.Addr().String()
}

// listen opens a listener; if the address is taken, the error says by whom.
func listen(ctx context.Context, addr, flag string) (net.Listener, error) {
	network := "tcp"
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, network, addr)
	if err == nil {
		return l, nil
	}
	if network == "unix" && isTaken(err) && isAbandoned(ctx, addr) {
		if l, err = lc.Listen(ctx, network, addr); err == nil {
			return l, nil
		}
	}
	if isTaken(err) {
		return nil, fmt.Errorf("%s is taken%s; move this listener with %s 127.0.0.1:0 (any free port)", addr, holder(addr), flag)
	}
	return nil, fmt.Errorf("%s: %w", flag, err)
}

func isLoopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return !ok || tcp.IP.IsLoopback()
}

// run serves until ctx ends, then drains.
func (s *server) run(ctx context.Context, ready func()) error {
	s.proxy.Start()
	ready()
	if s.flags.readyFile != "" { // last: who waits for it finds everything done
		if err := writeReady(s.flags.readyFile, s.addrs); err != nil {
			s.stop(0)
			return err
		}
	}
	<-ctx.Done()
	s.stop(s.flags.lameDuck + s.flags.drain + 5*time.Second)
	return nil
}

func (s *server) stop(within time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	s.proxy.Stop(ctx)
	s.flushTraces()
}

// flushing is how long the last traces may take to reach their collector, so
// that one that is away keeps no server from stopping.
const flushing = 2 * time.Second

func (s *server) flushTraces() {
	if s.trace == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), flushing)
	defer cancel()
	if err := s.trace.Shutdown(ctx); err != nil {
		s.log.Warn("the last traces were lost", "error", err)
	}
}

// writeReady writes the addresses in one step, so that nobody reads half.
func writeReady(path string, a addresses) error {
	data, err := json.Marshal(a)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".ready-*")
	if err != nil {
		return fmt.Errorf("--ready-file: %w", err)
	}
	_, err = tmp.Write(append(data, '\n'))
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("--ready-file: %w", errors.Join(err, os.Remove(tmp.Name())))
	}
	return nil
}

func parseLevel(text string) (slog.Level, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(text)); err != nil {
		return l, fmt.Errorf("--log-level is debug, info, warn or error, not %q", text)
	}
	return l, nil
}

// load reads the files anew and serves them.
func (s *server) load(base []namespace.File, paths []string) error {
	files, err := readFiles(paths)
	if err != nil {
		return err
	}
	s.loaded = append(base[:len(base):len(base)], files...)
	return s.proxy.Load(s.loaded...)
}

// unchanged reports whether the files are what was last loaded, or refused.
func (s *server) unchanged(base []namespace.File, paths []string) bool {
	files, err := readFiles(paths)
	return err == nil && slices.EqualFunc(s.loaded, append(base[:len(base):len(base)], files...), func(a, b namespace.File) bool {
		return a.Name == b.Name && bytes.Equal(a.Data, b.Data)
	})
}
