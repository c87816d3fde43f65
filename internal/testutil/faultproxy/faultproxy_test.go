package faultproxy

import (
	"bufio"
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// echo answers each line with itself.
func echo(t *testing.T) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				for r := bufio.NewReader(c); ; {
					line, err := r.ReadString('\n')
					if err != nil {
						return
					}
					_, _ = c.Write([]byte(line))
				}
			}()
		}
	}()
	return l.Addr().String()
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// ask sends a line and returns what comes back within a time.
func ask(c net.Conn, line string, within time.Duration) (string, error) {
	if err := c.SetDeadline(time.Now().Add(within)); err != nil {
		return "", err
	}
	if _, err := c.Write([]byte(line)); err != nil {
		return "", err
	}
	return answer(c, len(line))
}

func answer(c net.Conn, n int) (string, error) {
	buf := make([]byte, n)
	for got := 0; got < n; {
		m, err := c.Read(buf[got:])
		if err != nil {
			return "", err
		}
		got += m
	}
	return string(buf), nil
}

const (
	long  = 10 * time.Second
	short = 50 * time.Millisecond
)

func TestPass(t *testing.T) {
	t.Parallel()
	c := dial(t, Listen(t, echo(t)).Addr)
	for range 3 {
		if got, err := ask(c, "hello\n", long); got != "hello\n" || err != nil {
			t.Fatalf("got %q, %v", got, err)
		}
	}
}

func TestHeldBackComesLater(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{Pause, Mute} {
		p := Listen(t, echo(t))
		c := dial(t, p.Addr)
		p.Set(mode)
		if got, err := ask(c, "hello\n", short); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("mode %d: got %q, %v, want nothing", mode, got, err)
		}
		p.Set(Pass)
		_ = c.SetDeadline(time.Now().Add(long))
		if got, err := answer(c, 6); got != "hello\n" || err != nil {
			t.Fatalf("mode %d, then pass: got %q, %v", mode, got, err)
		}
	}
}

func TestGarbage(t *testing.T) {
	t.Parallel()
	p := Listen(t, echo(t))
	p.Set(Garbage)
	line := "a line that is long enough not to come by chance\n"
	for range 100 {
		if got, err := ask(dial(t, p.Addr), line, long); got == line || err != nil || got[0] != 0 {
			t.Fatalf("got %q, %v, want garbage", got, err)
		}
	}
}

func TestCut(t *testing.T) {
	t.Parallel()
	p := Listen(t, echo(t))
	c := dial(t, p.Addr)
	if _, err := ask(c, "hello\n", long); err != nil {
		t.Fatal(err)
	}
	p.Set(Cut)
	if got, err := ask(c, "hello\n", long); err == nil {
		t.Fatalf("an open connection: got %q", got)
	}
	if got, err := ask(dial(t, p.Addr), "hello\n", long); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("a new connection: got %q, %v, want that it is closed", got, err)
	}
	p.Set(Pass)
	if got, err := ask(dial(t, p.Addr), "hello\n", long); err != nil {
		t.Fatalf("after it: got %q, %v", got, err)
	}
}

func TestRefuse(t *testing.T) {
	t.Parallel()
	p := Listen(t, echo(t))
	c := dial(t, p.Addr)
	p.Set(Refuse)
	if got, err := ask(c, "hello\n", long); err == nil {
		t.Fatalf("an open connection: got %q", got)
	}
	if c, err := net.Dial("tcp", p.Addr); err == nil {
		_ = c.Close()
		t.Fatal("a new connection is accepted")
	}
	p.Set(Pass)
	if got, err := ask(dial(t, p.Addr), "hello\n", long); err != nil {
		t.Fatalf("after it: got %q, %v", got, err)
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	addr := echo(t)
	before := goleak.IgnoreCurrent()
	p := Listen(t, addr)
	c := dial(t, p.Addr)
	if _, err := ask(c, "hello\n", long); err != nil {
		t.Fatal(err)
	}
	p.Set(Pause)
	_, _ = ask(c, "hello\n", short)
	p.Close()
	p.Close()
	p.Set(Pass)
	if _, err := net.Dial("tcp", p.Addr); err == nil {
		t.Error("it still listens")
	}
	if err := goleak.Find(before); err != nil {
		t.Error(err)
	}
}
