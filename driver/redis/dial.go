package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/rueidis"

	"github.com/prismgw/prism/driver"
)

// A setupError is a failure before a connection could carry any command. It
// hides its cause from errors.Is, because the client library would turn a
// timeout below it into the end of the caller's context.
type setupError struct {
	cause error
	ended bool // the context of the caller that dialed had ended
	login bool // there are no credentials to log in with
}

func (e *setupError) Error() string { return e.cause.Error() }

// backoff between two tries to reach an address that failed.
const (
	backoffMin = 10 * time.Millisecond
	backoffMax = 500 * time.Millisecond
)

// dialer makes connections for the client library: it bounds the time, keeps
// callers from dialing an absent server in a tight loop, and ends what is
// open when it is closed.
type dialer struct {
	connect     time.Duration
	credentials driver.Credentials
	askSecrets  bool
	trouble     func()      // called when a connection breaks
	crowded     func() bool // whether many calls are under way

	mu     sync.Mutex // guards what follows
	closed bool
	open   map[*netConn]struct{}
	failed map[string]failure // by address
}

type failure struct {
	err   error
	delay time.Duration
	until time.Time
}

var errClosed = errors.New("the connection to the backend was closed")

// dial is rueidis.ClientOption.DialCtxFn.
func (d *dialer) dial(ctx context.Context, addr string, nd *net.Dialer, conf *tls.Config) (net.Conn, error) {
	d.trouble()
	if err := d.mayDial(addr); err != nil {
		return nil, &setupError{cause: err}
	}
	own, cancel := context.WithTimeout(ctx, d.connect)
	defer cancel()
	c, err := dialTLS(own, addr, nd, conf)
	if err != nil {
		if ctx.Err() != nil {
			return nil, &setupError{cause: err, ended: true}
		}
		d.remember(addr, err)
		return nil, &setupError{cause: err}
	}
	return d.add(addr, c, nd.ControlContext != nil)
}

func dialTLS(ctx context.Context, addr string, nd *net.Dialer, conf *tls.Config) (net.Conn, error) {
	if conf == nil {
		return nd.DialContext(ctx, "tcp", addr)
	}
	return (&tls.Dialer{NetDialer: nd, Config: conf}).DialContext(ctx, "tcp", addr)
}

func (d *dialer) mayDial(addr string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errClosed
	}
	if f, ok := d.failed[addr]; ok && time.Now().Before(f.until) {
		return f.err
	}
	return nil
}

func (d *dialer) remember(addr string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delay := min(max(2*d.failed[addr].delay, backoffMin), backoffMax)
	d.failed[addr] = failure{err: err, delay: delay, until: time.Now().Add(delay)}
}

func (d *dialer) add(addr string, c net.Conn, toSentinel bool) (net.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		_ = c.Close()
		return nil, &setupError{cause: errClosed}
	}
	delete(d.failed, addr)
	n := &netConn{Conn: c, dialer: d, toSentinel: toSentinel}
	d.open[n] = struct{}{}
	return n, nil
}

func (d *dialer) remove(n *netConn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.open, n)
}

// refuse lets no connections be made any more.
func (d *dialer) refuse() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
}

// close ends the connections that the library has not closed by itself in good
// time: one that waits for a server does not.
func (d *dialer) close(patience time.Duration) {
	for end := time.Now().Add(patience); d.count() > 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	d.mu.Lock()
	all := d.open
	d.open = map[*netConn]struct{}{}
	d.mu.Unlock()
	for n := range all {
		_ = n.Conn.Close()
	}
}

func (d *dialer) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.open)
}

// login is rueidis.ClientOption.AuthCredentialsFn; the library gives it no
// context.
func (d *dialer) login(c rueidis.AuthCredentialsContext) (rueidis.AuthCredentials, error) {
	if _, to := c.Address.(sentinelAddr); to && !d.askSecrets {
		return rueidis.AuthCredentials{}, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), d.connect)
	defer cancel()
	user, password, err := d.credentials(ctx)
	if err != nil {
		return rueidis.AuthCredentials{}, &setupError{cause: err, login: true}
	}
	return rueidis.AuthCredentials{Username: user, Password: string(password)}, nil
}

// mark makes a net.Dialer recognizable as the one for Sentinels.
func mark(context.Context, string, string, syscall.RawConn) error { return nil }

// sentinelAddr is the remote address of a connection to a Sentinel.
type sentinelAddr struct{ net.Addr }

// netConn is a connection that reports when it breaks, and that tells a
// failure before the server's first answer from later ones: until then no
// command of a caller was sent.
type netConn struct {
	net.Conn
	dialer     *dialer
	toSentinel bool
	answered   atomic.Bool
}

func (n *netConn) RemoteAddr() net.Addr {
	if n.toSentinel {
		return sentinelAddr{n.Conn.RemoteAddr()}
	}
	return n.Conn.RemoteAddr()
}

func (n *netConn) Read(b []byte) (int, error) {
	count, err := n.Conn.Read(b)
	if err != nil {
		return count, n.broken(err)
	}
	if !n.answered.Load() {
		n.answered.Store(true)
	}
	return count, nil
}

// Write sends commands. When many calls are under way it lets those that are
// about to send theirs go first: they join the next write, and each write costs
// both sides more than a command does. (The library's own delay, MaxFlushDelay,
// sleeps; with few calls a sleep is longer than what it saves.)
func (n *netConn) Write(b []byte) (int, error) {
	if n.dialer.crowded() {
		runtime.Gosched()
	}
	count, err := n.Conn.Write(b)
	if err != nil {
		return count, n.broken(err)
	}
	return count, nil
}

func (n *netConn) broken(err error) error {
	n.dialer.trouble()
	if n.answered.Load() {
		return err
	}
	return &setupError{cause: err}
}

func (n *netConn) Close() error {
	n.dialer.remove(n)
	return n.Conn.Close()
}
