// Package servers starts the real servers that tests talk to: each one a
// process of its own on a free loopback port with a private data directory,
// killed when the test ends and when the test process dies. Only tests may
// import it.
//
// A server that is not installed fails the test with the command that installs
// it; as root on a machine with apt-get it is installed. An environment
// variable PRISM_TEST_<NAME>_URL makes the tests use a server that is running
// already; such a server cannot be killed or paused (see Server.Managed).
package servers

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	readyWithin = 30 * time.Second
	stopWithin  = 15 * time.Second
	pollEvery   = 10 * time.Millisecond
	keepOutput  = 64 << 10 // bytes of a server's output that a failure shows
)

// A spec says how one kind of server is found and started.
type spec struct {
	name     string   // as in PRISM_TEST_<NAME>_URL
	binary   string   // looked up in PATH, then in dirs
	dirs     []string // glob patterns of further directories
	packages []string // Debian packages that hold the binary

	// prepare fills a new data directory; it may be nil.
	prepare func(s *Server) error
	// args returns the arguments for the server's port and directory.
	args func(s *Server) []string
	// ready returns nil once the server answers.
	ready func(ctx context.Context, s *Server) error
	// attr may set a user to run as; it may be nil.
	attr *syscall.SysProcAttr
	// stop is the signal that ends the server in order; 0 is SIGTERM.
	stop syscall.Signal
	// env is added to the environment.
	env []string
}

// A Server is one server of a test. Its methods fail the test when they cannot
// do what they say; they may not be called from several goroutines at once.
type Server struct {
	Addr string // host:port
	Port int
	Dir  string // its private data directory; "" if it is not managed
	URL  string // as a Backend document takes it

	t      testing.TB
	spec   spec
	binary string

	proc *process // nil while it does not run
	out  tail
}

// process is one run of a server.
type process struct {
	pid  int
	done chan struct{} // closed when it has ended and was reaped
	err  error         // of Wait; read after done
}

// start finds the binary and starts a server with a data directory and a port
// of its own.
func start(t testing.TB, sp spec) *Server {
	t.Helper()
	s := &Server{t: t, spec: sp, binary: find(t, sp), Dir: privateDir(t)}
	t.Cleanup(s.cleanup)
	var err error
	for range 5 { // another process may take the port between our look and the server's bind
		s.Port = freePort(t)
		s.Addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port))
		if err = s.launch(); err == nil {
			return s
		}
		if !strings.Contains(strings.ToLower(s.Output()), "address already in use") {
			break
		}
	}
	t.Fatalf("starting %s: %v\n%s", sp.name, err, s.Output())
	return nil
}

// given returns the server that the environment names, nil if it names none.
func given(t testing.TB, name string) *Server {
	t.Helper()
	url := os.Getenv("PRISM_TEST_" + strings.ToUpper(name) + "_URL")
	if url == "" {
		return nil
	}
	rest := url[strings.LastIndex(url, "@")+1:]
	if _, after, ok := strings.Cut(rest, "://"); ok {
		rest = after
	}
	addr, _, _ := strings.Cut(rest, "/")
	return &Server{t: t, URL: url, Addr: addr, spec: spec{name: name}}
}

// Managed reports whether the test started this server itself, so that it can
// be killed, paused and restarted.
func (s *Server) Managed() bool { return s.binary != "" }

// Running reports whether the server's process runs (paused or not).
func (s *Server) Running() bool {
	if s.proc == nil {
		return false
	}
	select {
	case <-s.proc.done:
		return false
	default:
		return true
	}
}

// Start starts the server again, on the port and the data it had, and returns
// when it is ready.
func (s *Server) Start() {
	s.t.Helper()
	s.mustManage("started")
	if s.Running() {
		return
	}
	if err := s.launch(); err != nil {
		s.t.Fatalf("starting %s again: %v\n%s", s.spec.name, err, s.Output())
	}
}

// Kill ends the server at once with SIGKILL and returns when it is gone.
func (s *Server) Kill() {
	s.t.Helper()
	s.mustManage("killed")
	s.end(syscall.SIGKILL)
}

// Stop ends the server in order and returns when it is gone.
func (s *Server) Stop() {
	s.t.Helper()
	s.mustManage("stopped")
	sig := s.spec.stop
	if sig == 0 {
		sig = syscall.SIGTERM
	}
	s.end(sig)
}

// Restart kills the server and starts it again on the same port and data.
func (s *Server) Restart() {
	s.t.Helper()
	s.Kill()
	s.Start()
}

// Pause makes the server stand still with SIGSTOP: connections stay open and
// nothing is answered.
func (s *Server) Pause() {
	s.t.Helper()
	s.mustManage("paused")
	if !s.Running() {
		return
	}
	s.signal(syscall.SIGSTOP)
	// The signal is on its way when kill returns: a thread may still answer.
	for end := time.Now().Add(stopWithin); !stopped(tree(s.proc.pid)); time.Sleep(pollEvery) {
		if time.Now().After(end) {
			s.t.Fatalf("%s does not stand still", s.spec.name)
		}
	}
}

// Resume lets a paused server go on.
func (s *Server) Resume() {
	s.t.Helper()
	s.mustManage("resumed")
	s.signal(syscall.SIGCONT)
}

// Output returns the end of what the server has printed in all its runs.
func (s *Server) Output() string { return s.out.String() }

func (s *Server) mustManage(what string) {
	s.t.Helper()
	if !s.Managed() {
		s.t.Fatalf("the server given by PRISM_TEST_%s_URL cannot be %s by a test; unset the variable", strings.ToUpper(s.spec.name), what)
	}
}

// launch starts the process and waits until it is ready.
func (s *Server) launch() error {
	if s.spec.prepare != nil {
		if err := s.spec.prepare(s); err != nil {
			return fmt.Errorf("preparing %s: %w", s.Dir, err)
		}
	}
	cmd := exec.Command(s.binary, s.spec.args(s)...) //nolint:gosec,noctx // our own table of servers; ended by cleanup
	cmd.Dir = s.Dir
	cmd.Stdout, cmd.Stderr = &s.out, &s.out
	cmd.Env = append(os.Environ(), s.spec.env...)
	cmd.SysProcAttr = attributes(s.spec.attr)
	p, err := spawn(cmd)
	if err != nil {
		return err
	}
	s.proc = p
	return s.awaitReady()
}

func (s *Server) awaitReady() error {
	ctx, cancel := context.WithTimeout(context.Background(), readyWithin)
	defer cancel()
	for {
		err := s.spec.ready(ctx, s)
		if err == nil {
			return nil
		}
		select {
		case <-s.proc.done:
			return fmt.Errorf("%s ended before it was ready: %w", s.spec.name, errors.Join(s.proc.err, err))
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready after %v: %w", s.spec.name, readyWithin, err)
		case <-time.After(pollEvery):
		}
	}
}

// spawn starts cmd from a goroutine that keeps its thread until the process
// has ended: the parent-death signal of Linux belongs to the thread that
// started the process, not to the program.
func spawn(cmd *exec.Cmd) (*process, error) {
	p := &process{done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		p.pid = cmd.Process.Pid
		started <- nil
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// end sends sig to the server and waits until it is gone; SIGKILL goes to the
// processes it has started too.
func (s *Server) end(sig syscall.Signal) {
	s.t.Helper()
	if !s.Running() {
		return
	}
	if sig == syscall.SIGKILL {
		s.signal(sig)
	} else {
		_ = syscall.Kill(s.proc.pid, sig)
	}
	select {
	case <-s.proc.done:
	case <-time.After(stopWithin):
		s.signal(syscall.SIGKILL)
		s.t.Errorf("%s was still there %v after %v", s.spec.name, stopWithin, sig)
		<-s.proc.done
	}
}

// signal sends sig to the server and to every process below it.
func (s *Server) signal(sig syscall.Signal) {
	if !s.Running() {
		return
	}
	for _, pid := range tree(s.proc.pid) {
		_ = syscall.Kill(pid, sig)
	}
}

func (s *Server) cleanup() {
	s.end(syscall.SIGKILL)
	if s.t.Failed() {
		s.t.Logf("output of %s on %s:\n%s", s.spec.name, s.Addr, s.Output())
	}
}

// tree returns pid and the processes below it, parents first. Where the
// system does not tell, it is pid alone.
func tree(pid int) []int {
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		name := fmt.Sprintf("/proc/%d/task/%d/children", all[i], all[i])
		text, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		for _, word := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(word); err == nil {
				all = append(all, child)
			}
		}
	}
	return all
}

// privateDir makes a directory with a short path, because a Unix socket in it
// may have 107 bytes at most, and which another user may enter.
func privateDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "prism-") //nolint:usetesting // t.TempDir is too long for a socket and closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("removing a server's directory: %v", err)
		}
	})
	return dir
}

// freePort returns a port below the range that the system hands out by itself,
// so that nobody gets it by chance while a killed server is to come back on it.
func freePort(t testing.TB) int {
	t.Helper()
	for range 200 {
		port := 20000 + rand.IntN(12000)
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		if err := l.Close(); err == nil {
			return port
		}
	}
	t.Fatal("no free loopback port between 20000 and 32000")
	return 0
}

// Tool returns the path of a program that is no server, such as a client that
// nobody here wrote. It is found or installed as servers are.
func Tool(t testing.TB, binary string, packages ...string) string {
	t.Helper()
	return find(t, spec{binary: binary, packages: packages})
}

// find returns the path of the server's binary.
func find(t testing.TB, sp spec) string {
	t.Helper()
	if path := lookup(sp); path != "" {
		return path
	}
	if err := install(sp); err != nil {
		running := ""
		if sp.name != "" {
			running = fmt.Sprintf(" (or set PRISM_TEST_%s_URL to a running server)", strings.ToUpper(sp.name))
		}
		t.Fatalf("%s is needed and %v; run: apt-get install -y --no-install-recommends %s%s", sp.binary, err, strings.Join(sp.packages, " "), running)
	}
	path := lookup(sp)
	if path == "" {
		t.Fatalf("%s is not found although its packages are installed: %s", sp.binary, strings.Join(sp.packages, " "))
	}
	return path
}

func lookup(sp spec) string {
	if path, err := exec.LookPath(sp.binary); err == nil {
		return path
	}
	for _, dir := range sp.dirs {
		found, err := filepath.Glob(filepath.Join(dir, sp.binary))
		if err == nil && len(found) > 0 {
			return found[len(found)-1]
		}
	}
	return ""
}
