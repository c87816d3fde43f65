package brokers

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prismgw/prism/internal/testutil/servers"
)

// With an append-only file a killed server has its groups again as they were:
// positions, who has what in hand, how often it was delivered and for how long
// it has been idle. Only the lag is unknown until a group has read to the end,
// because the number of what it has read is not in the file. The server writes the file before it answers, and
// everysec is late with the flush to disk only, which a killed process survives.
func TestRedisCrashKeepsTheGroup(t *testing.T) {
	t.Parallel()
	for _, fsync := range []string{"always", "everysec"} {
		t.Run(fsync, func(t *testing.T) {
			t.Parallel()
			server := servers.RedisWith(t, "--appendonly", "yes", "--appendfsync", fsync)
			s := newRedisStream(t, server)
			for round := range 5 {
				s.keepsTheGroup(t, server, 10*round+1)
			}
		})
	}
}

func (s *redisStream) keepsTheGroup(t *testing.T, server *servers.Server, first int) {
	t.Helper()
	s.add(t, first, first+9)
	s.read(t, "a", 6)
	s.must(t, fmt.Sprintf("XACK KEY g %d-0", first+1))
	s.must(t, fmt.Sprintf("XCLAIM KEY g b 0 %d-0", first))
	s.must(t, fmt.Sprintf("XCLAIM KEY g c 0 %d-0 IDLE 3600000 RETRYCOUNT 7 JUSTID", first+2))
	before, lag := s.pending(t), s.info(t, "g", "lag")
	server.Restart() // kills

	s.client = redisClient(t, server)
	if after := s.pending(t); after != before {
		t.Errorf("in hand before: %s\nafter: %s", before, after)
	}
	if after := s.info(t, "g", "lag"); lag != 4 || after != -1 {
		t.Errorf("lag %d before, %d after, want 4 and unknown", lag, after)
	}
	if idle := s.must(t, "XPENDING KEY g IDLE 3600000 - + 10"); !strings.HasPrefix(idle, fmt.Sprintf("[[%d-0 c ", first+2)) {
		t.Errorf("idle for an hour after the restart: %s, want only the one that c has", idle)
	}
	if got := s.read(t, "a", 100); len(got) != 4 {
		t.Errorf("a reads %v, want the four that nobody had", got)
	}
	s.must(t, "XGROUP DELCONSUMER KEY g a")
	s.must(t, "XGROUP DELCONSUMER KEY g b")
	s.must(t, "XGROUP DELCONSUMER KEY g c")
}

// Without an append-only file a killed server has forgotten stream and groups.
func TestRedisCrashWithoutAFile(t *testing.T) {
	t.Parallel()
	server := servers.RedisWith(t)
	s := newRedisStream(t, server)
	s.add(t, 1, 1)
	server.Restart()
	s.client = redisClient(t, server)
	s.is(t, "EXISTS KEY", "0")
	if _, err := s.do(t, "XREADGROUP GROUP g a STREAMS KEY >"); err == nil || !strings.HasPrefix(err.Error(), "NOGROUP") {
		t.Errorf("reading: %v, want NOGROUP", err)
	}
}

// Whether a command is on disk cannot be asked before Redis 7.2. WAIT tells how
// many replicas have it in memory, and takes nothing back where they are too few.
func TestRedisWait(t *testing.T) {
	t.Parallel()
	master := servers.RedisWith(t, "--repl-diskless-sync-delay", "0")
	s := newRedisStream(t, master)
	version, err := s.do(t, "INFO server")
	must(t, err)
	_, err = s.do(t, "WAITAOF 1 0 100")
	if unknown := err != nil && strings.HasPrefix(err.Error(), "unknown command"); strings.Contains(version, "redis_version:7.0.") && !unknown {
		t.Errorf("WAITAOF on 7.0: %v, want an unknown command", err)
	}

	replica := servers.RedisReplica(t, master)
	s.add(t, 1, 1)
	s.is(t, "WAIT 1 5000", "1")
	on := &redisStream{client: redisClient(t, replica), key: s.key}
	on.is(t, "XLEN KEY", "1")
	on.wantPending(t, "")

	replica.Pause()
	defer replica.Resume()
	s.add(t, 2, 2)
	began := time.Now()
	s.is(t, "WAIT 1 100", "0")
	if waited := time.Since(began); waited < 100*time.Millisecond {
		t.Errorf("gave up after %v", waited)
	}
	s.is(t, "XLEN KEY", "2")
}
