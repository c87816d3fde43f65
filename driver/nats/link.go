package nats

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

const (
	closeWithin = 500 * time.Millisecond // calls under way get to finish
	restAfter   = 50 * time.Millisecond  // a failed attempt, before the next one
)

// link is the way to a backend: one session at a time, made when it is needed.
type link struct {
	set         settings
	credentials driver.Credentials
	ctx         context.Context // ends with the link
	cancel      context.CancelFunc

	session atomic.Pointer[session]

	mu      sync.Mutex // guards what follows
	closed  bool
	attempt *attempt // under way, else nil
	failed  error    // of the last attempt
	rest    time.Time
	workers sync.WaitGroup
}

// An attempt is one try to get a session, shared by all who wait for it.
type attempt struct {
	done    chan struct{}
	session *session // read these after done
	err     error
}

func newLink(s settings, c driver.Config) *link {
	l := &link{set: s, credentials: c.Credentials}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// get returns a session whose bucket is as it has to be, making one if there
// is none.
func (l *link) get(ctx context.Context) (*session, error) {
	if err := ctx.Err(); err != nil {
		return nil, &lostError{cause: err}
	}
	if s := l.session.Load(); s != nil && s.usable() {
		return s, nil
	}
	a, err := l.try() //nolint:contextcheck // an attempt is shared and outlives who waits for it
	if err != nil {
		return nil, err
	}
	select {
	case <-a.done:
		return a.session, a.err
	case <-ctx.Done():
		return nil, &lostError{cause: ctx.Err()}
	}
}

// try returns the attempt under way, starting one if there is none.
func (l *link) try() (*attempt, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return nil, &lostError{cause: errClosed}
	case l.attempt != nil:
		return l.attempt, nil
	case time.Now().Before(l.rest):
		return nil, l.failed
	}
	a := &attempt{done: make(chan struct{})}
	l.attempt = a
	l.workers.Go(func() { l.carryOut(a) })
	return a, nil
}

func (l *link) carryOut(a *attempt) {
	s, err := l.connect()
	if err == nil {
		err = l.inspect(s)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	defer close(a.done)
	l.attempt = nil
	switch {
	case l.closed:
		err = &lostError{cause: errClosed}
	case err != nil:
		l.failed, l.rest = err, time.Now().Add(restAfter)
	default:
		a.session = s
		return
	}
	a.err = err
}

// inspect looks at the bucket on a session.
func (l *link) inspect(s *session) error {
	ctx, cancel := context.WithTimeout(l.ctx, l.set.connect)
	defer cancel()
	err := s.prepare(ctx, &l.set)
	var lost *lostError
	if errors.As(err, &lost) {
		return &lostError{cause: lost.cause} // of the caller's own call nothing was sent
	}
	return err
}

// connect returns the session that is there, or else a new one.
func (l *link) connect() (*session, error) {
	if s := l.session.Load(); s != nil {
		select {
		case <-s.done:
		default:
			return s, nil
		}
	}
	d := &dialer{ctx: l.ctx, timeout: l.set.connect}
	o, err := l.options(d)
	if err != nil {
		return nil, err
	}
	opened := make(chan *session, 1)
	o.ClosedCB = func(nc *nats.Conn) {
		if s, ok := <-opened; ok {
			s.end(firstError(nc.LastError(), errEnded))
		}
	}
	var current atomic.Pointer[session]
	o.AsyncErrorCB = func(_ *nats.Conn, _ *nats.Subscription, err error) {
		if s := current.Load(); s != nil && errors.Is(err, nats.ErrPermissionViolation) {
			s.refused(err)
		}
	}
	nc, err := o.Connect()
	if err != nil {
		close(opened)
		d.close()
		return nil, ofConnect(err)
	}
	s := newSession(nc, d, l.set.answer)
	current.Store(s)
	opened <- s
	close(opened)
	return s, l.start(s)
}

func firstError(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

// start sets a new session going.
func (l *link) start(s *session) error {
	sub, err := s.nc.Subscribe(s.inbox+"*", s.take)
	if err == nil {
		err = sub.SetPendingLimits(-1, -1) // what is under way is bounded by the gate
	}
	if err != nil {
		s.end(err)
		return &lostError{cause: err}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		s.end(errClosed)
		return &lostError{cause: errClosed}
	}
	l.session.Store(s)
	l.workers.Go(s.write)
	l.workers.Go(s.watch)
	return nil
}

// options are those of a new connection, with the credentials of this moment.
func (l *link) options(d *dialer) (nats.Options, error) {
	o := nats.GetDefaultOptions()
	o.Servers, o.Name = l.set.servers, "prism"
	o.AllowReconnect, o.IgnoreDiscoveredServers = false, true
	o.Timeout, o.FlusherTimeout = l.set.connect, l.set.answer
	o.PingInterval, o.MaxPingsOut = l.set.answer, 1
	o.CustomDialer, o.SkipHostLookup = d, true
	o.SkipSubjectValidation = true // they are made of legal tokens
	if l.set.tls != nil {
		o.Secure, o.TLSConfig = true, l.set.tls.Clone()
	}
	if l.credentials == nil {
		return o, nil
	}
	ctx, cancel := context.WithTimeout(l.ctx, l.set.connect)
	defer cancel()
	user, password, err := l.credentials(ctx)
	if err != nil {
		return o, errs.Wrap(err, errs.CredentialsUnavailable, "the credentials for the backend cannot be read")
	}
	if user == "" {
		o.Token = string(password)
	} else {
		o.User, o.Password = user, string(password)
	}
	return o, nil
}

// close lets calls under way finish for a moment, ends the connection and waits
// for the goroutines of this link.
func (l *link) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	if s := l.session.Load(); s != nil {
		s.stale.Store(true) // no new calls
		for end := time.Now().Add(closeWithin); !s.idle() && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		s.end(errClosed)
	}
	l.cancel()
	l.workers.Wait()
}

// dialer makes the sockets of one connection and can close them under it.
type dialer struct {
	ctx     context.Context
	timeout time.Duration

	mu     sync.Mutex // guards what follows
	open   []net.Conn
	stops  []func() bool
	closed bool
}

// Dial is what the client library calls.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(d.ctx, d.timeout)
	defer cancel()
	var plain net.Dialer
	c, err := plain.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, errors.Join(errClosed, c.Close())
	}
	d.open = append(d.open, c)
	d.stops = append(d.stops, context.AfterFunc(d.ctx, func() { _ = c.Close() }))
	return c, nil
}

func (d *dialer) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for i, c := range d.open {
		d.stops[i]()
		_ = c.Close()
	}
}
