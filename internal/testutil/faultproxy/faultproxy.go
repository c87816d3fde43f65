// Package faultproxy is a TCP proxy for tests: it stands between a client and a
// server on the loopback interface and misbehaves when it is told to.
package faultproxy

import (
	"crypto/rand"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// A Mode is what a Proxy does to connections, those that are open and new ones.
type Mode int

// The modes.
const (
	// Pass forwards everything, also what other modes have held back.
	Pass Mode = iota
	// Pause holds everything back, in both directions.
	Pause
	// Mute forwards requests and holds the answers back.
	Mute
	// Garbage forwards requests and sends random bytes in the place of each
	// answer. The first is zero, with which no protocol begins one: of random
	// bytes some are a legal answer (to Redis, all that begin with _ are a null).
	Garbage
	// Cut closes connections, new ones when the first request has come.
	Cut
	// Refuse closes connections and refuses new ones.
	Refuse
)

// A Proxy forwards the connections to its address to a target. Its methods may
// be called from several goroutines at once.
type Proxy struct {
	Addr string // where it listens

	tb     testing.TB
	target string
	done   sync.WaitGroup

	mu       sync.Mutex // guards what follows
	mode     Mode
	changed  chan struct{} // closed when mode or closed change
	closed   bool
	listener net.Listener          // nil while it refuses
	open     map[net.Conn]struct{} // both ends of every connection
}

// Listen returns a proxy for target, in mode Pass, that is closed at the end of
// the test.
func Listen(tb testing.TB, target string) *Proxy {
	tb.Helper()
	p := &Proxy{tb: tb, Addr: "127.0.0.1:0", target: target, changed: make(chan struct{}), open: make(map[net.Conn]struct{})}
	if err := p.listen(); err != nil {
		tb.Fatalf("faultproxy: %v", err)
	}
	tb.Cleanup(p.Close)
	return p
}

// Set changes the mode, at once and for all connections.
func (p *Proxy) Set(m Mode) {
	p.tb.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.mode = m
	p.wake()
	if m == Cut || m == Refuse {
		p.cut()
	}
	if m == Refuse {
		p.refuse()
		return
	}
	if p.listener == nil {
		p.listenAgain()
	}
}

// Close ends the proxy with all connections.
func (p *Proxy) Close() {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		p.wake()
		p.cut()
		p.refuse()
	}
	p.mu.Unlock()
	p.done.Wait()
}

// wake tells waiting forwarders that the mode has changed. p.mu is held.
func (p *Proxy) wake() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// cut closes all connections. p.mu is held.
func (p *Proxy) cut() {
	for c := range p.open {
		_ = c.Close()
	}
}

// refuse closes the listener. p.mu is held.
func (p *Proxy) refuse() {
	if p.listener != nil {
		_ = p.listener.Close()
		p.listener = nil
	}
}

// listenAgain takes the address back. p.mu is held.
func (p *Proxy) listenAgain() {
	var err error
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err = p.listen(); err == nil {
			return
		}
	}
	p.tb.Errorf("faultproxy: %v", err)
}

func (p *Proxy) listen() error {
	l, err := net.Listen("tcp", p.Addr) //nolint:noctx // it does not block
	if err != nil {
		return fmt.Errorf("listen again: %w", err)
	}
	p.Addr, p.listener = l.Addr().String(), l
	p.done.Go(func() { p.accept(l) })
	return nil
}

func (p *Proxy) accept(l net.Listener) {
	for {
		client, err := l.Accept()
		if err != nil {
			return
		}
		if p.track(client) {
			p.done.Go(func() { p.serve(client) })
		}
	}
}

// track registers a connection to be cut, or closes it if that is due.
func (p *Proxy) track(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.mode == Refuse {
		_ = c.Close()
		return false
	}
	p.open[c] = struct{}{}
	return true
}

func (p *Proxy) drop(c net.Conn) {
	_ = c.Close()
	p.mu.Lock()
	delete(p.open, c)
	p.mu.Unlock()
}

func (p *Proxy) serve(client net.Conn) {
	defer p.drop(client)
	server, err := net.DialTimeout("tcp", p.target, 5*time.Second) //nolint:noctx // it has a limit
	if err != nil || !p.track(server) {
		return
	}
	defer p.drop(server)
	var both sync.WaitGroup
	both.Go(func() { p.forward(client, server, Pause) })
	both.Go(func() { p.forward(server, client, Pause, Mute) })
	both.Wait()
}

// forward copies from one end to the other, holding back in the modes held,
// until either is closed.
func (p *Proxy) forward(from, to net.Conn, held ...Mode) {
	defer func() { _, _ = from.Close(), to.Close() }()
	buf := make([]byte, 64<<10)
	answers := len(held) > 1
	for {
		n, err := from.Read(buf)
		if n > 0 {
			switch p.await(held) { //nolint:exhaustive // the others forward
			case Cut, Refuse:
				return
			case Garbage:
				if answers {
					rand.Read(buf[1:n])
					buf[0] = 0
				}
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// await waits while the mode is one of held, and returns the one that follows;
// Cut if the proxy is closed.
func (p *Proxy) await(held []Mode) Mode {
	for {
		p.mu.Lock()
		mode, changed, closed := p.mode, p.changed, p.closed
		p.mu.Unlock()
		if closed {
			return Cut
		}
		if !slices.Contains(held, mode) {
			return mode
		}
		<-changed
	}
}
