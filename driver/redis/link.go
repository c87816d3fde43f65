package redis

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/prismgw/prism/driver"
)

const (
	bufferSize = 128 << 10 // of each connection, in each direction
	ringScale  = 10        // 2^10 calls may be under way on a connection, more wait for room
	maxDirect  = 768       // calls in their callers' goroutines: all have room at once
	maxWaiting = 4096      // calls in goroutines of their own
	fewCalls   = 4         // up to which each is sent by itself

	closeWithin = 100 * time.Millisecond // connections get to close in order

	topologyEvery = 5 * time.Second // Sentinels are asked who is master
)

var errCrowded = &setupError{cause: errors.New("the backend does not answer, and too many calls wait for it")}

// link is the connection to a backend: a client of rueidis, which reconnects
// by itself once it exists, made when it is first needed.
//
// While all is well, a call runs in its caller's goroutine. The library may
// hold such a call longer than its context: while another caller dials, or
// while its queue has no room. So after any sign of trouble, and when very many
// calls are under way, they run in goroutines of their own, which callers can
// leave.
type link struct {
	option rueidis.ClientOption
	dialer *dialer

	client atomic.Pointer[rueidis.Client]
	chosen atomic.Pointer[station]
	hub    *hub
	ctx    context.Context // ends with the link
	cancel context.CancelFunc

	troubles atomic.Uint64 // signs of trouble so far
	settled  atomic.Uint64 // of these, those before the start of a call that succeeded
	direct   atomic.Int64  // calls in their callers' goroutines
	waiting  atomic.Int64  // calls in goroutines of their own

	mu      sync.Mutex // guards what follows
	closed  bool
	attempt *attempt // under way, else nil
	workers sync.WaitGroup
}

// An attempt is one try to make the client, shared by all who wait for it.
type attempt struct {
	done chan struct{}
	err  error // read after done
}

func newLink(s settings, c driver.Config) *link {
	l := &link{}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.hub = newHub(l)
	l.troubles.Store(1) // nothing has succeeded yet
	l.dialer = &dialer{
		connect: s.connect, credentials: c.Credentials, askSecrets: s.askSecrets, trouble: l.trouble, crowded: l.crowded,
		open: map[*netConn]struct{}{}, failed: map[string]failure{},
	}
	o := &l.option
	*o = rueidis.ClientOption{
		InitAddress: s.addrs, SelectDB: s.db, TLSConfig: s.tls,
		Dialer: net.Dialer{Timeout: s.connect}, DialCtxFn: l.dialer.dial,
		ConnWriteTimeout: s.answer, ClientName: "prism",
		RingScaleEachConn: ringScale, ReadBufferEachConn: bufferSize, WriteBufferEachConn: bufferSize,
		PipelineMultiplex: s.multiplex, BlockingPipeline: -1, MaxFlushDelay: s.flush, AlwaysPipelining: true,
		DisableCache: true, DisableRetry: true, ForceSingleClient: s.mode == single,
	}
	if s.multiplex == 0 {
		o.PipelineMultiplex = -1 // 0 would mean the library's own choice
	}
	if c.Credentials != nil {
		o.AuthCredentialsFn = l.dialer.login
	}
	switch s.mode {
	case single:
	case sentinel:
		o.Sentinel = rueidis.SentinelOption{
			MasterSet: s.master, TLSConfig: s.tls, TopologyRefreshInterval: topologyEvery,
			Dialer: net.Dialer{Timeout: s.connect, ControlContext: mark},
		}
	case cluster:
		o.ClusterOption.MaxMovedRedirections = 5
	}
	return l
}

func (l *link) trouble() { l.troubles.Add(1) }

// crowded reports whether so many calls are under way that they gain by
// sharing writes.
func (l *link) crowded() bool { return l.direct.Load() > fewCalls }

// enter reports whether a call may run in its caller's goroutine, and counts it
// if it does.
func (l *link) enter() bool {
	if l.troubles.Load() != l.settled.Load() {
		return false
	}
	if l.direct.Add(1) <= maxDirect {
		return true
	}
	l.direct.Add(-1)
	return false
}

// get returns the client, making it if there is none yet.
func (l *link) get(ctx context.Context) (rueidis.Client, error) {
	if c := l.client.Load(); c != nil {
		return *c, nil
	}
	a, err := l.try()
	if err != nil {
		return nil, err
	}
	select {
	case <-a.done:
	case <-ctx.Done():
		return nil, &setupError{cause: context.Cause(ctx)}
	}
	if c := l.client.Load(); c != nil {
		return *c, nil
	}
	return nil, a.err
}

// try returns the attempt under way, starting one if there is none.
func (l *link) try() (*attempt, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, &setupError{cause: errClosed}
	}
	if l.attempt == nil {
		a := &attempt{done: make(chan struct{})}
		l.attempt = a
		l.workers.Go(func() { l.connect(a) })
	}
	return l.attempt, nil
}

func (l *link) connect(a *attempt) {
	c, err := rueidis.NewClient(l.option)
	l.mu.Lock()
	defer l.mu.Unlock()
	defer close(a.done)
	l.attempt = nil
	switch {
	case c == nil:
		a.err = asSetup(err)
	case l.closed:
		c.Close()
		a.err = &setupError{cause: errClosed}
	default: // of one server, also if it could not be reached yet
		l.client.Store(&c)
	}
}

func asSetup(err error) error {
	var s *setupError
	var r *rueidis.RedisError
	if errors.As(err, &s) || errors.As(err, &r) {
		return err
	}
	return &setupError{cause: err}
}

// one carries out one command.
func (l *link) one(ctx context.Context, c rueidis.Client, cmd rueidis.Completed) rueidis.RedisResult {
	if l.enter() {
		defer l.direct.Add(-1)
		return c.Do(ctx, cmd)
	}
	return l.apart(ctx, 1, func() []rueidis.RedisResult {
		return []rueidis.RedisResult{c.Do(ctx, cmd)}
	})[0]
}

// many carries out commands in one round trip. The result belongs to the
// caller and has one element for each command.
func (l *link) many(ctx context.Context, c rueidis.Client, cmds []rueidis.Completed) []rueidis.RedisResult {
	if l.enter() {
		defer l.direct.Add(-1)
		return c.DoMulti(ctx, cmds...)
	}
	return l.apart(ctx, len(cmds), func() []rueidis.RedisResult { return c.DoMulti(ctx, cmds...) })
}

// apart runs a call of n commands in a goroutine of its own, until it ends or
// the context does.
func (l *link) apart(ctx context.Context, n int, call func() []rueidis.RedisResult) []rueidis.RedisResult {
	answer := make(chan []rueidis.RedisResult, 1)
	if err := l.start(func() { answer <- l.repeat(ctx, call) }); err != nil {
		return failed(n, err)
	}
	select {
	case results := <-answer:
		return results
	case <-ctx.Done():
		return failed(n, ctx.Err())
	}
}

func (l *link) start(work func()) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return &setupError{cause: errClosed}
	}
	if l.waiting.Load() >= maxWaiting {
		return errCrowded
	}
	l.waiting.Add(1)
	l.workers.Go(func() {
		defer l.waiting.Add(-1)
		work()
	})
	return nil
}

// repeat runs a call, again if it failed only because it shared the dialing of
// a caller whose context ended: then nothing was sent.
func (l *link) repeat(ctx context.Context, call func() []rueidis.RedisResult) []rueidis.RedisResult {
	for {
		before := l.troubles.Load()
		results := call()
		if otherEnded(results) && ctx.Err() == nil {
			continue
		}
		if answered(results) {
			l.settle(before)
		}
		return results
	}
}

func otherEnded(results []rueidis.RedisResult) bool {
	for _, r := range results {
		var s *setupError
		if !errors.As(r.NonRedisError(), &s) || !s.ended {
			return false
		}
	}
	return true
}

func answered(results []rueidis.RedisResult) bool {
	for _, r := range results {
		if r.NonRedisError() != nil {
			return false
		}
	}
	return true
}

// settle takes note that a call succeeded that began after n signs of trouble.
func (l *link) settle(n uint64) {
	for {
		old := l.settled.Load()
		if old >= n || l.settled.CompareAndSwap(old, n) {
			return
		}
	}
}

// work runs what lives as long as the link.
func (l *link) work(do func()) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return &setupError{cause: errClosed}
	}
	l.workers.Go(do)
	return nil
}

func failed(n int, err error) []rueidis.RedisResult {
	results := make([]rueidis.RedisResult, n)
	for i := range results {
		results[i] = rueidis.NewErrorResult(err)
	}
	return results
}

// close ends the connections and waits for the goroutines of this link. (Where
// a url names several nodes of a Cluster, the library may have made a
// connection twice; a goroutine that closes the second one sleeps for up to
// five seconds, whatever happens to the client.)
func (l *link) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.cancel()
	l.hub.end()
	l.dialer.refuse()
	var all sync.WaitGroup
	if c := l.client.Swap(nil); c != nil {
		all.Go((*c).Close) // it may wait for the server
	}
	l.dialer.close(closeWithin)
	all.Wait()
	l.workers.Wait()
}
