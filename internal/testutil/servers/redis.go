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
	"testing"
	"time"
)

var redisSpec = spec{
	name:     "redis",
	binary:   "redis-server",
	packages: []string{"redis-server"},
	ready:    redisReady,
}

// Redis returns a Redis server: the one PRISM_TEST_REDIS_URL names, else a new
// one that writes each command to disk before it answers.
func Redis(t testing.TB) *Server {
	t.Helper()
	if s := given(t, "redis"); s != nil {
		return s
	}
	return RedisWith(t, "--appendonly", "yes", "--appendfsync", "always")
}

// RedisWith starts a Redis server with further arguments, whatever the
// environment says. A password, TLS or another mode is the caller's to set up;
// Addr and URL are those of the plain port, also if the arguments close it.
// "{dir}" and "{port}" in an argument are the server's own.
func RedisWith(t testing.TB, args ...string) *Server {
	t.Helper()
	return startRedis(t, redisSpec, args)
}

func startRedis(t testing.TB, sp spec, args []string) *Server {
	t.Helper()
	sp.args = func(s *Server) []string {
		own := []string{"--bind", "127.0.0.1", "--dir", s.Dir, "--save", "", "--daemonize", "no", "--enable-debug-command", "local"}
		if !contains(args, "--tls-port") {
			own = append(own, "--port", strconv.Itoa(s.Port))
		}
		r := strings.NewReplacer("{dir}", s.Dir, "{port}", strconv.Itoa(s.Port))
		for _, a := range args {
			own = append(own, r.Replace(a))
		}
		return own
	}
	s := start(t, sp)
	s.URL = "redis://" + s.Addr + "/0"
	return s
}

// RedisSentinel starts a Sentinel that watches a master under the given name,
// with a quorum of sentinels.
func RedisSentinel(t testing.TB, name string, master *Server, quorum int) *Server {
	t.Helper()
	sp := redisSpec
	sp.prepare = func(s *Server) error {
		file := filepath.Join(s.Dir, "sentinel.conf")
		if _, err := os.Stat(file); err == nil {
			return nil // a restart: the file holds the Sentinel's state
		}
		text := fmt.Sprintf("bind 127.0.0.1\nport %d\ndir %s\nsentinel monitor %s 127.0.0.1 %d %d\n"+
			"sentinel down-after-milliseconds %[3]s 500\nsentinel failover-timeout %[3]s 3000\n",
			s.Port, s.Dir, name, master.Port, quorum)
		return os.WriteFile(file, []byte(text), 0o600)
	}
	sp.args = func(s *Server) []string { return []string{filepath.Join(s.Dir, "sentinel.conf"), "--sentinel"} }
	s := start(t, sp)
	s.URL = "redis+sentinel://" + s.Addr + "/" + name + "/0"
	return s
}

func contains(args []string, what string) bool {
	for _, a := range args {
		if a == what {
			return true
		}
	}
	return false
}

// redisReady returns nil once the server answers PING, with a pong or by
// refusing who we are. A TLS port answers nothing to us; there, being
// connected is enough.
func redisReady(ctx context.Context, s *Server) error {
	c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", s.Addr)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if contains(s.spec.args(s), "--tls-port") {
		return nil
	}
	if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("PING\r\n")); err != nil {
		return err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return err
	}
	if strings.HasPrefix(line, "+PONG") || strings.HasPrefix(line, "-NOAUTH") {
		return nil
	}
	return errors.New(strings.TrimSpace(line))
}
