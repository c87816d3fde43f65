package proxy

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/namespace"
)

// How often a backend is asked whether it answers, and how long it may take.
const (
	pingWell    = 5 * time.Second
	pingIll     = time.Second
	pingTimeout = 2 * time.Second
)

// maxBackendCalls is how many calls one backend has at once.
const maxBackendCalls = 1024

// maxBackendStreams is how many objects are put into one backend or read from it
// at once: what each may hold of memory, 8 MiB and rarely so much, is to fit
// together.
const maxBackendStreams = 128

// backend is one open connection. Configurations that have the same document
// share it.
type backend struct {
	name string
	key  string
	conn driver.Conn
	log  *slog.Logger

	series  *backendSeries
	breaker *wrap.Breaker
	retrier *wrap.Retrier
	limiter *wrap.Limiter
	streams *wrap.Limiter

	users int // guarded by pool.mu
	stop  context.CancelFunc
	done  chan struct{}

	mu    sync.Mutex // guards the fields below
	known bool       // it has been asked at least once
	ill   error      // why it cannot serve; nil: it can
	since time.Time
}

// pool holds the backends of all configurations that are in use.
type pool struct {
	open    func(b *namespace.Backend) (driver.Conn, error)
	log     *slog.Logger
	metrics *metrics
	now     func() time.Time

	mu  sync.Mutex // guards the fields below
	all map[string]*backend
}

// take returns the backend of a document, opening it if no configuration in
// use has it. release must follow.
func (p *pool) take(doc *namespace.Backend) (*backend, error) {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(doc.Spec)
	if err != nil {
		return nil, err
	}
	key := doc.Origin.Dir + "\x00" + string(raw)
	p.mu.Lock()
	defer p.mu.Unlock()
	if b := p.all[key]; b != nil {
		b.users++
		return b, nil
	}
	conn, err := p.open(doc)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	name := doc.Spec.GetName()
	b := &backend{name: name, key: key, conn: conn, log: p.log, users: 1, stop: stop, done: make(chan struct{}), since: time.Now()}
	b.retrier, b.limiter = wrap.NewRetrier(), wrap.NewLimiter(maxBackendCalls)
	b.streams = wrap.NewLimiter(maxBackendStreams)
	b.series = p.metrics.holdBackend(name)
	b.breaker = wrap.NewBreaker(name, b.series.breaker)
	b.series.breaker(false)
	p.all[key] = b
	go b.watch(ctx)
	return b, nil
}

// space returns the primitives of one space, behind what keeps a backend's
// troubles to itself. What runs in this process has no connection to lose.
func (p *pool) space(b *backend, s driver.Space) (driver.Backend, error) {
	out, err := b.conn.Space(s)
	if err != nil {
		return out, err
	}
	if out.PubSub != nil {
		out.PubSub = p.pubsub(b, out.PubSub)
	}
	if out.Log != nil {
		out.Log = p.messages(b, out.Log)
	}
	if out.Blob != nil {
		out.Blob = p.blob(b, out.Blob)
	}
	if out.Queue != nil {
		out.Queue = p.queue(b, out.Queue)
	}
	if out.KV != nil {
		out.KV, err = p.kv(b, s, out.KV)
	}
	return out, err
}

func (p *pool) kv(b *backend, s driver.Space, kv driver.KV) (driver.KV, error) {
	if kv.Guarantees().Shared {
		kv = b.breaker.KV(b.retrier.KV(b.limiter.KV(kv)))
	}
	if kv.Guarantees().Idempotency == driver.IdempotencyReserved {
		// No pattern has such a name, so nobody else reaches the records.
		records, err := b.conn.Space(driver.Space{Namespace: s.Namespace, Pattern: s.Pattern + "!once"})
		if err != nil {
			return nil, err
		}
		kv = wrap.Once(kv, records.KV, p.now)
	}
	return wrap.Observe(kv, b.name, &backendObserver{b.series, b.log}), nil
}

func (p *pool) pubsub(b *backend, ps driver.PubSub) driver.PubSub {
	if ps.Guarantees().Shared {
		ps = b.breaker.PubSub(b.limiter.PubSub(ps))
	}
	return wrap.ObservePubSub(ps, b.name, &backendObserver{b.series, b.log})
}

func (p *pool) messages(b *backend, l driver.Log) driver.Log {
	if l.Guarantees().Shared {
		l = b.breaker.Log(b.limiter.Log(l))
	}
	return wrap.ObserveLog(l, b.name, &backendObserver{b.series, b.log})
}

func (p *pool) blob(b *backend, blob driver.Blob) driver.Blob {
	if blob.Guarantees().Shared {
		blob = b.breaker.Blob(b.retrier.Blob(b.limiter.Blob(blob, b.streams)))
	}
	return wrap.ObserveBlob(blob, b.name, &backendObserver{b.series, b.log})
}

func (p *pool) queue(b *backend, q driver.Queue) driver.Queue {
	if q.Guarantees().Shared {
		q = b.breaker.Queue(b.limiter.Queue(q))
	}
	return wrap.ObserveQueue(q, b.name, &backendObserver{b.series, b.log})
}

// release gives a backend back; the last one to do so closes it.
func (p *pool) release(b *backend) {
	p.mu.Lock()
	b.users--
	last := b.users == 0
	if last {
		delete(p.all, b.key)
	}
	p.mu.Unlock()
	if !last {
		return
	}
	b.stop()
	<-b.done
	if err := b.conn.Close(); err != nil {
		p.log.Warn("backend did not close cleanly", "backend", b.name, "error", err)
	}
	b.series.drop()
}

// watch keeps asking whether the backend answers.
func (b *backend) watch(ctx context.Context) {
	defer close(b.done)
	for {
		pause := pingWell
		if b.ping(ctx) != nil {
			pause = pingIll
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

func (b *backend) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	err := b.conn.Ping(ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.known || (err == nil) != (b.ill == nil) {
		b.since = time.Now()
		if err != nil {
			b.log.Warn("backend cannot serve", "backend", b.name, "error", err)
		} else {
			b.log.Info("backend serves", "backend", b.name)
		}
	}
	b.known, b.ill = true, err
	return err
}

// health returns whether the backend has been asked, since when the last answer
// has been the same, and why it cannot serve; nil if it can.
func (b *backend) health() (known bool, since time.Time, ill error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.known, b.since, b.ill
}
