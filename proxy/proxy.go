// Package proxy serves namespaces to applications: gRPC, HTTP and an
// operations port. It is the only part of Prism that applications can reach.
// serve.go is the path of a request, snapshot.go that of a configuration.
package proxy

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/namespace"
	"github.com/prismgw/prism/pattern"
	"github.com/prismgw/prism/secret"
)

// Options are what a proxy is started with; namespaces come by Load.
type Options struct {
	Drivers []driver.Driver
	Kinds   []pattern.Kind

	GRPC, HTTP, Ops net.Listener // nil: not served

	HTTPHosts   []string // Host headers that are accepted beside loopback and the listener's address
	OpsHosts    []string // the same on the operations port, where every IP address is accepted
	CORSOrigins []string // origins of web pages that may call

	Loopback             bool          // every listener is loopback or a Unix socket
	AllowAnonymousWrites bool          // although they are not
	MaxInFlight          int           // operations at once, of all namespaces; 0: DefaultInFlight
	MaxUnsent            int           // bytes of answers that streams hold together; 0: DefaultUnsent
	ConnectionAge        time.Duration // gRPC connections are asked to move after about this; 0: never
	LameDuck             time.Duration // between "not ready" and the end of intake when stopping
	DrainTime            time.Duration // for operations in flight when stopping

	Tracer trace.TracerProvider // nil: no traces
	Log    *slog.Logger
	Now    func() time.Time // nil: time.Now
}

// DefaultInFlight is how many operations a proxy has in flight at once unless
// Options say otherwise.
const DefaultInFlight = 10_000

// A Proxy is one running proxy. Its methods may be called from several
// goroutines.
type Proxy struct {
	opts    Options
	log     *slog.Logger
	kinds   *kinds
	metrics *metrics
	pool    *pool
	keys    *keyrings
	tracing *tracing // nil: none
	streams *streams
	unsent  unsent

	instances instances
	gate      gate

	snapshot atomic.Pointer[snapshot]

	loading sync.Mutex // guards the field below, and orders Load
	retired []*snapshot

	grpc     *grpc.Server
	health   *health.Server
	http     *http.Server
	ops      *http.Server
	draining atomic.Bool
	serving  sync.WaitGroup
}

// New returns a proxy without namespaces. It serves nothing before Start.
func New(o Options) (*Proxy, error) {
	k, err := newKinds(o.Kinds)
	if err != nil {
		return nil, err
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	p := &Proxy{opts: o, log: o.Log, kinds: k, metrics: newMetrics(k), streams: newStreams(), tracing: newTracing(o.Tracer)}
	p.instances.all = make(map[string]*instance)
	p.gate.limit = int64(cmp.Or(o.MaxInFlight, DefaultInFlight))
	p.unsent.limit = cmp.Or(int64(o.MaxUnsent), unsentLimit(debug.SetMemoryLimit(-1)))
	p.metrics.registry.MustRegister(p.unsent.collector(), newMeasures(p))
	p.pool = &pool{open: o.open, log: o.Log, metrics: p.metrics, now: o.Now, all: map[string]*backend{}}
	p.keys = newKeyrings(o.Log, p.metrics.registry)
	p.snapshot.Store(newSnapshot())
	p.grpc, p.health = p.newGRPC()
	p.http = newHTTP(newHTTPServer(p))
	p.ops = newHTTP(p.newOps())
	return p, nil
}

// newHTTP returns a server that slow or endless clients cannot hold for ever.
func newHTTP(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		ReadTimeout: time.Minute, WriteTimeout: time.Minute, MaxHeaderBytes: maxMetadata,
	}
}

// Start begins to serve the listeners and returns at once.
func (p *Proxy) Start() {
	start := func(l net.Listener, serve func(net.Listener) error) {
		if l == nil {
			return
		}
		p.serving.Go(func() {
			if err := serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, grpc.ErrServerStopped) {
				p.log.Error("listener failed", "address", l.Addr().String(), "error", err)
			}
		})
	}
	start(p.opts.GRPC, p.grpc.Serve)
	start(p.opts.HTTP, p.http.Serve)
	start(p.opts.Ops, p.ops.Serve)
	p.health.SetServingStatus("", healthv1.HealthCheckResponse_SERVING)
	for i := range p.kinds.all {
		p.health.SetServingStatus(p.kinds.all[i].Service.ServiceName, healthv1.HealthCheckResponse_SERVING)
	}
}

// Stop ends the proxy: not ready, lame duck, clients asked to go and soon
// refused (errs.Draining), calls in flight finish or the drain time passes,
// backends close. ctx can cut it short. It may be called once.
func (p *Proxy) Stop(ctx context.Context) {
	p.draining.Store(true)
	p.health.Shutdown()
	wait(ctx, p.opts.LameDuck)
	p.streams.goAway()
	refuse := time.AfterFunc(min(goingGrace, p.opts.DrainTime/2), p.streams.refuse)
	defer refuse.Stop()
	drain, cancel := context.WithTimeout(ctx, p.opts.DrainTime)
	defer cancel()
	served, over := context.WithCancel(drain) // who is not served any more can settle nothing
	defer over()
	var closing, both sync.WaitGroup
	closing.Go(func() { p.instances.close(served) })
	both.Go(func() {
		stop := context.AfterFunc(drain, p.grpc.Stop)
		defer stop()
		p.grpc.GracefulStop()
	})
	both.Go(func() {
		if p.http.Shutdown(drain) != nil {
			_ = p.http.Close() // what is left was given its time
		}
	})
	both.Wait()
	over()
	closing.Wait()
	_ = p.ops.Close() // last, so that the drain can be watched
	p.serving.Wait()
	p.closeBackends()
}

func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// closeBackends frees every configuration.
func (p *Proxy) closeBackends() {
	p.loading.Lock()
	defer p.loading.Unlock()
	last := p.snapshot.Swap(newSnapshot())
	last.retire()
	for _, s := range append(p.retired, last) {
		s.timer.Stop()
		if s.users.Load() == 0 {
			<-s.freed
		}
	}
	p.keys.close()
	p.pool.mu.Lock()
	left := make([]*backend, 0, len(p.pool.all))
	for _, b := range p.pool.all {
		left = append(left, b)
	}
	p.pool.mu.Unlock()
	for _, b := range left {
		b.stop()
		<-b.done
		if err := b.conn.Close(); err != nil {
			p.log.Warn("backend did not close cleanly", "backend", b.name, "error", err)
		}
	}
}

// Catalog returns what there is in this build, for reading documents without
// serving them: it reads no secret. The connections that it opens are the
// caller's to close.
func (o *Options) Catalog() namespace.Catalog { return o.catalog(o.open, checkKeys) }

func (o *Options) catalog(open func(*namespace.Backend) (driver.Conn, error), keys func(*namespace.Namespace) error) namespace.Catalog {
	c := namespace.Catalog{Credentials: secret.Check, Keys: keys, Open: open}
	for i := range o.Drivers {
		c.Drivers = append(c.Drivers, o.Drivers[i].Name)
	}
	for i := range o.Kinds {
		k := &o.Kinds[i]
		kind := namespace.Kind{Name: k.Name, CheckSettings: k.Check, CheckSigning: k.CheckSigning}
		for _, s := range k.Slots {
			kind.Slots = append(kind.Slots, namespace.SlotNeed{Name: s.Name, Primitive: s.Primitive})
		}
		c.Kinds = append(c.Kinds, kind)
	}
	return c
}

// open opens a connection as its driver does.
func (o *Options) open(b *namespace.Backend) (driver.Conn, error) {
	config := b.Config()
	config.Now, config.Log = o.Now, o.Log
	var err error
	if config.TLS, err = b.TLS(); err != nil {
		return nil, err
	}
	if ref := b.Spec.GetCredentials(); ref != "" {
		source, err := secret.Resolve(ref, o.Log)
		if err != nil {
			return nil, err
		}
		config.Credentials = func(ctx context.Context) (string, driver.Secret, error) {
			user, password, err := source(ctx)
			return user, driver.Secret(password), err
		}
	}
	for i := range o.Drivers {
		if o.Drivers[i].Name == b.Spec.GetDriver() {
			return o.Drivers[i].Open(config)
		}
	}
	return nil, errors.New("unknown driver") // refused before: the catalog names them all
}
