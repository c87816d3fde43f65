package servers

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
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
		if !slices.Contains(args, "--tls-port") {
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

// RedisCluster starts a Cluster of n masters without replicas that share all
// slots evenly.
func RedisCluster(t testing.TB, n int) []*Server {
	t.Helper()
	all := make([]*Server, n)
	bus := make([]int, n)
	for i := range all {
		bus[i] = freePort(t)
		all[i] = RedisWith(t, "--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-node-timeout", "2000",
			"--cluster-port", strconv.Itoa(bus[i]), "--appendonly", "yes", "--appendfsync", "always")
		first, last := i*redisSlots/n, (i+1)*redisSlots/n-1
		mustRedis(t, all[i], fmt.Sprintf("CLUSTER ADDSLOTSRANGE %d %d", first, last))
		mustRedis(t, all[i], fmt.Sprintf("CLUSTER SET-CONFIG-EPOCH %d", i+1))
		mustRedis(t, all[0], fmt.Sprintf("CLUSTER MEET 127.0.0.1 %d %d", all[i].Port, bus[i]))
	}
	known := fmt.Sprintf("cluster_known_nodes:%d\r\n", n)
	for _, s := range all {
		await(t, s, "CLUSTER INFO", "cluster_state:ok\r\n", known, "cluster_slots_ok:16384\r\n")
	}
	return all
}

const redisSlots = 16384

// RedisReplica starts a server that follows a master, and waits until it has
// its data.
func RedisReplica(t testing.TB, master *Server) *Server {
	t.Helper()
	s := RedisWith(t, "--replicaof", "127.0.0.1 "+strconv.Itoa(master.Port), "--appendonly", "yes", "--repl-diskless-sync-delay", "0")
	await(t, s, "INFO replication", "master_link_status:up\r\n")
	return s
}

func mustRedis(t testing.TB, s *Server, command string) {
	t.Helper()
	if got, err := redisCommand(t.Context(), s.Addr, command); err != nil || got != "OK" {
		t.Fatalf("%s: %q, %v", command, got, err)
	}
}

// await asks until the answer holds every text.
func await(t testing.TB, s *Server, command string, texts ...string) {
	t.Helper()
	for end := time.Now().Add(readyWithin); ; time.Sleep(pollEvery) {
		got, err := redisCommand(t.Context(), s.Addr, command)
		missing := err != nil
		for _, text := range texts {
			missing = missing || !strings.Contains(got, text)
		}
		if !missing {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s does not answer %q: %s, %v", command, texts, got, err)
		}
	}
}

// redisReady returns nil once the server answers PING, with a pong or by
// refusing who we are. A TLS port answers nothing to us; there, being
// connected is enough.
func redisReady(ctx context.Context, s *Server) error {
	if slices.Contains(s.spec.args(s), "--tls-port") {
		c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", s.Addr)
		if err != nil {
			return err
		}
		return c.Close()
	}
	got, err := redisCommand(ctx, s.Addr, "PING")
	if err == nil && got != "PONG" && !strings.HasPrefix(got, "NOAUTH") {
		return errors.New(got)
	}
	return err
}

// redisCommand sends one command without quoting and returns its answer, also
// if that is an error of Redis.
func redisCommand(ctx context.Context, addr, command string) (string, error) {
	c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return "", err
	}
	if _, err := c.Write([]byte(command + "\r\n")); err != nil {
		return "", err
	}
	in := bufio.NewReader(c)
	line, err := in.ReadString('\n')
	if err != nil {
		return "", err
	}
	kind, rest := line[0], strings.TrimSpace(line[1:])
	if kind != '$' {
		return rest, nil
	}
	size, err := strconv.Atoi(rest)
	if err != nil || size < 0 {
		return "", err
	}
	body := make([]byte, size)
	_, err = io.ReadFull(in, body)
	return string(body), err
}
