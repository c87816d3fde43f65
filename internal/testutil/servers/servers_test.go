package servers

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// ask sends one inline command and returns the first line of the answer.
func ask(t *testing.T, addr, command string, within time.Duration) (string, error) {
	t.Helper()
	c, err := (&net.Dialer{Timeout: within}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(within)); err != nil {
		return "", err
	}
	if _, err := c.Write([]byte(command + "\r\n")); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(line), err
}

func mustAsk(t *testing.T, addr, command, want string) {
	t.Helper()
	got, err := ask(t, addr, command, 10*time.Second)
	if err != nil || got != want {
		t.Fatalf("%s: got %q, %v; want %q", command, got, err, want)
	}
}

func TestRedisKeepsPortAndDataAcrossKill(t *testing.T) {
	t.Parallel()
	s := RedisWith(t, "--appendonly", "yes", "--appendfsync", "always")
	mustAsk(t, s.Addr, "SET a 1", "+OK")
	s.Kill()
	if s.Running() {
		t.Fatal("it runs after Kill")
	}
	if got, err := ask(t, s.Addr, "PING", time.Second); err == nil {
		t.Fatalf("it answers %q after Kill", got)
	}
	s.Start()
	mustAsk(t, s.Addr, "INCR a", ":2")
	s.Stop()
	s.Start()
	mustAsk(t, s.Addr, "INCR a", ":3")
}

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	s := RedisWith(t)
	s.Pause()
	if got, err := ask(t, s.Addr, "PING", 200*time.Millisecond); err == nil {
		t.Fatalf("a paused server answers %q", got)
	}
	s.Resume()
	mustAsk(t, s.Addr, "PING", "+PONG")
}

func TestBadArgumentsAreShown(t *testing.T) {
	t.Parallel()
	if os.Getenv("PRISM_SERVERS_BAD") != "" {
		RedisWith(t, "--no-such-setting", "1")
		return
	}
	out, err := self(t, "TestBadArgumentsAreShown", "PRISM_SERVERS_BAD=1").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "no-such-setting") {
		t.Fatalf("the server's own words are missing (%v): %s", err, out)
	}
}

func TestMissingServerNamesTheCommand(t *testing.T) {
	t.Parallel()
	if os.Getenv("PATH") == "/nowhere" {
		RedisWith(t)
		return
	}
	out, err := self(t, "TestMissingServerNamesTheCommand", "PATH=/nowhere").CombinedOutput()
	want := "run: apt-get install -y --no-install-recommends redis-server (or set PRISM_TEST_REDIS_URL"
	if err == nil || !strings.Contains(string(out), want) {
		t.Fatalf("%q is missing (%v): %s", want, err, out)
	}
}

// TestServerDiesWithItsTest kills a test process that has a server and expects
// the server to be gone.
func TestServerDiesWithItsTest(t *testing.T) {
	t.Parallel()
	if os.Getenv("PRISM_SERVERS_HOLD") != "" {
		s := RedisWith(t)
		_, _ = os.Stdout.WriteString("pid " + strconv.Itoa(s.proc.pid) + "\n")
		<-t.Context().Done()
		return
	}
	cmd := self(t, "TestServerDiesWithItsTest", "PRISM_SERVERS_HOLD=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := 0
	for lines := bufio.NewScanner(out); pid == 0 && lines.Scan(); {
		if _, number, ok := strings.Cut(lines.Text(), "pid "); ok {
			pid, _ = strconv.Atoi(number)
		}
	}
	if pid == 0 || syscall.Kill(pid, 0) != nil {
		t.Fatalf("no server was started: pid %d", pid)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for end := time.Now().Add(10 * time.Second); alive(pid); time.Sleep(pollEvery) {
		if time.Now().After(end) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			t.Fatal("the server outlived its test")
		}
	}
}

// alive reports whether pid runs; a zombie that nobody reaps does not.
func alive(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

// self is this test binary, running one test with one more variable.
func self(t *testing.T, test, variable string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+test+"$", "-test.v")
	cmd.Env = append(os.Environ(), variable)
	return cmd
}
