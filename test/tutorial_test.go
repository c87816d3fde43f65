package test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prismgw/prism/internal/testutil/servers"
)

const (
	tutorial    = "../docs/tutorial.md"
	unicodeData = "/usr/share/unicode/UnicodeData.txt"
)

// The commands of the tutorial work as they stand there, and print what stands
// below them. Only addresses come from outside.
func TestTutorial(t *testing.T) {
	t.Parallel()
	tool(t, "curl", "curl")
	if _, err := os.Stat(unicodeData); err != nil {
		installPackage(t, "unicode-data", unicodeData+" is missing")
	}
	redis, postgres, nats := servers.Redis(t), servers.Postgres(t), servers.NATS(t)
	tool(t, "redis-cli", "redis-tools")
	tool(t, "psql", "postgresql-client")
	tools := pinned(t, "nats")
	user, password := servers.PostgresLogin(postgres)
	home := t.TempDir()
	blocks := readBlocks(t, tutorial)
	begun := time.Now()
	outputs, log := runBlocks(t, blocks, home, append(os.Environ(),
		"PATH="+path(bin, tools), "HOME="+home, "XDG_CONFIG_HOME="+home, "PRISM_CONFIG=", "UNICODE="+unicodeData,
		"PRISM_GRPC_ADDR="+freeAddr(t), "PRISM_HTTP_ADDR="+freeAddr(t), "PRISM_OPS_ADDR="+freeAddr(t),
		"REDIS_URL="+redis.URL, "POSTGRES_URL="+postgres.URL, "PGUSER="+user, "PGPASSWORD="+password,
		"NATS_URL="+nats.URL, "PRISM_TIMEOUT=1m")) // whole backends are scanned beside other tests
	t.Logf("%d blocks took %v", len(blocks), time.Since(begun).Round(100*time.Millisecond))
	for i, b := range blocks {
		switch {
		case i >= len(outputs):
			t.Fatalf("%s:%d: a command failed:\n%s", tutorial, b.line, log)
		case !b.matches(outputs[i]):
			t.Errorf("%s:%d: printed\n%s\nwant\n%s", tutorial, b.line, outputs[i], b.want)
		}
	}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// A block is one sh block of a page, with the text block after it.
type block struct {
	line     int
	commands string
	want     string
	compare  bool // there is a text block
}

var fenced = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```\n")

func readBlocks(t *testing.T, page string) []block {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	blocks := parseBlocks(string(text))
	if len(blocks) == 0 {
		t.Fatalf("%s has no sh block", page)
	}
	return blocks
}

func parseBlocks(page string) (blocks []block) {
	end := -1 // of the last sh block
	for _, at := range fenced.FindAllStringSubmatchIndex(page, -1) {
		kind, body := page[at[2]:at[3]], page[at[4]:at[5]]
		switch {
		case kind == "sh":
			blocks = append(blocks, block{line: strings.Count(page[:at[0]], "\n") + 1, commands: body})
			end = at[1]
		case kind == "text" && at[0] == end:
			b := &blocks[len(blocks)-1]
			b.want, b.compare = body, true
		}
	}
	return blocks
}

// matches compares what was printed with what the page says. The … of the page
// is anything.
func (b *block) matches(output string) bool {
	if !b.compare {
		return true
	}
	parts := strings.Split(b.want, "…")
	for i, p := range parts {
		parts[i] = regexp.QuoteMeta(p)
	}
	return regexp.MustCompile(`(?s)\A` + strings.Join(parts, `.*`) + `\z`).MatchString(output)
}

// runBlocks runs the blocks in one shell and returns what each has printed, up
// to the first one with a command that failed, and the trace of the shell.
func runBlocks(t *testing.T, blocks []block, dir string, env []string) (outputs []string, log string) {
	t.Helper()
	out := t.TempDir()
	var script strings.Builder
	script.WriteString("set -euxo pipefail\n")
	for i, b := range blocks {
		fmt.Fprintf(&script, "{\n%s} >'%s/%d'\ntouch '%s/%d.done'\n", b.commands, out, i, out, i)
	}
	trace, err := os.Create(filepath.Join(out, "trace"))
	if err != nil {
		t.Fatal(err)
	}
	defer trace.Close()
	sh := exec.Command("bash", "-c", script.String())
	sh.Dir, sh.Env, sh.Stderr = dir, env, trace
	sh.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := sh.Start(); err != nil {
		t.Fatal(err)
	}
	group := -sh.Process.Pid
	timer := time.AfterFunc(4*time.Minute, func() { _ = syscall.Kill(group, syscall.SIGKILL) })
	defer timer.Stop()
	err = sh.Wait()
	_ = syscall.Kill(group, syscall.SIGKILL) // the servers, if a command has failed
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	for i := range blocks {
		if _, err := os.Stat(filepath.Join(out, fmt.Sprintf("%d.done", i))); err != nil {
			break
		}
		text, err := os.ReadFile(filepath.Join(out, fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		outputs = append(outputs, string(text))
	}
	text, err := os.ReadFile(trace.Name())
	if err != nil {
		t.Fatal(err)
	}
	return outputs, string(text)
}

// The test of the tutorial can fail: on a command, and on what it prints.
func TestTutorialNotices(t *testing.T) {
	t.Parallel()
	blocks := parseBlocks("```console\nexit 7\n```\n```sh\necho 'a 1 b'; x=2\n```\n```text\na … b\n```\n" +
		"```sh\necho $x\n```\n```text\n3\n```\n\n```sh\nfalse | true\n```\n```sh\necho never\n```\n")
	if len(blocks) != 4 || blocks[1].line != 10 {
		t.Fatalf("blocks: %+v", blocks)
	}
	outputs, log := runBlocks(t, blocks, t.TempDir(), os.Environ())
	if len(outputs) != 2 {
		t.Fatalf("%d blocks were run, want 2:\n%s", len(outputs), log)
	}
	if !blocks[0].matches(outputs[0]) || blocks[1].matches(outputs[1]) {
		t.Errorf("outputs %q match %v and %v", outputs, blocks[0].matches(outputs[0]), blocks[1].matches(outputs[1]))
	}
}
