package servers

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	natsserver "github.com/nats-io/nats-server/v2/server"
)

// NATS returns a NATS server with JetStream: the one PRISM_TEST_NATS_URL names,
// else a new one in this process, which cannot be killed or paused.
func NATS(t testing.TB) *Server {
	t.Helper()
	if s := given(t, "nats"); s != nil {
		return s
	}
	s := &Server{t: t, spec: spec{name: "nats"}, Dir: privateDir(t)}
	inner, err := natsserver.NewServer(&natsserver.Options{
		Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, JetStream: true, StoreDir: s.Dir, NoLog: true, NoSigs: true,
	})
	if err != nil {
		t.Fatalf("nats: %v", err)
	}
	inner.Start()
	t.Cleanup(func() {
		inner.Shutdown()
		inner.WaitForShutdown()
	})
	if !inner.ReadyForConnections(readyWithin) {
		t.Fatalf("nats is not ready after %v", readyWithin)
	}
	addr, ok := inner.Addr().(*net.TCPAddr)
	if !ok {
		t.Fatalf("nats listens on %v", inner.Addr())
	}
	s.Port, s.Addr = addr.Port, addr.String()
	s.URL = "nats://" + s.Addr
	return s
}

// NATSWith starts a NATS server with JetStream as a process of its own, with
// further lines of its configuration file, whatever the environment says.
// "{dir}" and "{port}" in the lines are the server's own.
func NATSWith(t testing.TB, config ...string) *Server {
	t.Helper()
	return startNATS(t, natsSpec(t), config)
}

// NATSCluster starts a cluster of n NATS servers, each a process of its own,
// with further lines of their configuration files. It may need a moment until
// JetStream has a leader.
func NATSCluster(t testing.TB, n int, config ...string) []*Server {
	t.Helper()
	routes, ports := make([]string, n), make([]int, n)
	for i := range n {
		ports[i] = freePort(t)
		routes[i] = "nats-route://127.0.0.1:" + strconv.Itoa(ports[i])
	}
	all := make([]*Server, n)
	for i := range n {
		all[i] = startNATS(t, natsSpec(t), append([]string{
			fmt.Sprintf("server_name: n%d", i),
			fmt.Sprintf("cluster { name: test, listen: '127.0.0.1:%d', routes: [%s] }", ports[i], strings.Join(routes, ", ")),
		}, config...))
	}
	return all
}

func startNATS(t testing.TB, sp spec, config []string) *Server {
	t.Helper()
	sp.prepare = func(s *Server) error {
		lines := append([]string{
			"listen: '127.0.0.1:{port}'",
			"jetstream { store_dir: '{dir}/data', max_mem: 256M, max_file: 4G }",
		}, config...)
		text := strings.NewReplacer("{dir}", s.Dir, "{port}", strconv.Itoa(s.Port)).Replace(strings.Join(lines, "\n"))
		return os.WriteFile(filepath.Join(s.Dir, "nats.conf"), []byte(text+"\n"), 0o600)
	}
	sp.args = func(s *Server) []string { return []string{"-c", filepath.Join(s.Dir, "nats.conf")} }
	s := start(t, sp)
	s.URL = "nats://" + s.Addr
	return s
}

var natsBinary struct {
	once sync.Once
	path string
	err  error
}

// natsSpec returns the spec of the server that this module's go.mod names,
// built once into the user's cache.
func natsSpec(t testing.TB) spec {
	t.Helper()
	b := &natsBinary
	b.once.Do(func() { b.path, b.err = build("nats-server", ".", "github.com/nats-io/nats-server/v2") })
	if b.err != nil {
		t.Fatalf("nats-server is needed and cannot be built: %v; run: go build github.com/nats-io/nats-server/v2", b.err)
	}
	return spec{name: "nats", binary: b.path, ready: natsReady}
}

// natsReady waits for the greeting of a server with JetStream.
func natsReady(ctx context.Context, s *Server) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.Addr)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if until, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(until); err != nil {
			return err
		}
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	switch {
	case err != nil:
		return err
	case !strings.HasPrefix(line, "INFO ") || !strings.Contains(line, `"jetstream":true`):
		return errors.New("it does not greet as a NATS server with JetStream")
	}
	return nil
}
