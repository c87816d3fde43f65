package test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// patience is how long a script waits for anything.
const patience = 30 * time.Second

func TestScripts(t *testing.T) {
	t.Parallel()
	tool(t, "curl", "curl")
	tools := pinned(t, "grpcurl")
	testscript.Run(t, testscript.Params{
		Dir:                 "script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", path(bin, tools))
			e.Setenv("XDG_CONFIG_HOME", filepath.Join(e.WorkDir, ".config"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"prism":   startPrism,
			"ready":   ready,
			"exits":   exits,
			"await":   await,
			"signal":  signalAll,
			"capture": capture,
			"fill":    fill,
		},
	})
}

// startPrism runs a server in the background, on free ports unless the
// arguments say otherwise, until the script ends, and waits until it is ready.
// Its output goes to prism.log.
//
//	prism dev|proxy ARG...
func startPrism(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: prism dev|proxy ARG...")
	}
	readyFile := ts.MkAbs("ready.json")
	ts.Check(os.RemoveAll(readyFile))
	log, err := os.OpenFile(ts.MkAbs("prism.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	ts.Check(err)
	defer log.Close()
	free := []string{args[0], "--grpc-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0", "--ops-addr=127.0.0.1:0", "--ready-file=" + readyFile}
	cmd := exec.Command(filepath.Join(bin, "prism"), append(free, args[1:]...)...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	ts.Check(cmd.Start())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	ts.Defer(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	ts.Setenv("PRISM_PID", strconv.Itoa(cmd.Process.Pid))
	ready(ts, false, []string{readyFile})
}

// ready waits for a ready file and puts its addresses into GRPC, HTTP and OPS,
// and the url of demo's keys into KV.
func ready(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: ready FILE")
	}
	var a struct{ GRPC, HTTP, Ops string }
	poll(ts, func() bool {
		data, err := os.ReadFile(ts.MkAbs(args[0]))
		return err == nil && json.Unmarshal(data, &a) == nil
	}, "%s is not there after %v:\n%s", args[0], patience, tail(ts))
	ts.Setenv("GRPC", a.GRPC)
	ts.Setenv("HTTP", a.HTTP)
	ts.Setenv("OPS", a.Ops)
	ts.Setenv("KV", "http://"+a.HTTP+"/v1/namespaces/demo/keyvalue")
}

func tail(ts *testscript.TestScript) string {
	log, err := os.ReadFile(ts.MkAbs("prism.log"))
	if err != nil {
		return err.Error()
	}
	return string(log)
}

func poll(ts *testscript.TestScript, done func() bool, format string, args ...any) {
	for end := time.Now().Add(patience); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			ts.Fatalf(format, args...)
		}
	}
}

// exits runs a program and checks its exit code.
//
//	exits CODE PROGRAM ARG...
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARG...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := runBounded(ts, args[1:])
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// runBounded runs a program and returns its exit code. One that does not end
// is ended, with code 124, where there is timeout(1).
func runBounded(ts *testscript.TestScript, command []string) int {
	if timeout, err := exec.LookPath("timeout"); err == nil {
		command = append([]string{timeout, "-k", "1", strconv.Itoa(int(patience.Seconds()))}, command...)
	}
	var exit *exec.ExitError
	switch err := ts.Exec(command[0], command[1:]...); {
	case errors.As(err, &exit):
		return exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	return 0
}

// await repeats a program until its output matches.
//
//	await PATTERN PROGRAM ARG...
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: await PATTERN PROGRAM ARG...")
	}
	pattern := regexp.MustCompile("(?m)" + args[0])
	poll(ts, func() bool {
		runBounded(ts, args[1:])
		return pattern.MatchString(ts.ReadFile("stdout")) || pattern.MatchString(ts.ReadFile("stderr"))
	}, "no output matched %q for %v", args[0], patience)
}

// signalAll sends a signal to the server that prism started last.
//
//	signal HUP|TERM|KILL
func signalAll(ts *testscript.TestScript, neg bool, args []string) {
	signals := map[string]syscall.Signal{"HUP": syscall.SIGHUP, "TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL}
	if neg || len(args) != 1 || signals[args[0]] == 0 {
		ts.Fatalf("usage: signal HUP|TERM|KILL")
	}
	pid, err := strconv.Atoi(ts.Getenv("PRISM_PID"))
	ts.Check(err)
	ts.Check(syscall.Kill(pid, signals[args[0]]))
	if args[0] == "HUP" {
		return
	}
	poll(ts, func() bool { return syscall.Kill(pid, 0) != nil }, "prism still runs after SIG%s:\n%s", args[0], tail(ts))
}

// capture puts what the first group of a pattern matches in the last output
// into a variable.
//
//	capture VARIABLE PATTERN
func capture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: capture VARIABLE PATTERN")
	}
	found := regexp.MustCompile("(?m)" + args[1]).FindStringSubmatch(ts.ReadFile("stdout"))
	if found == nil {
		ts.Fatalf("no match for %q in the last output", args[1])
	}
	ts.Setenv(args[0], found[1])
}

// fill writes a file of so many bytes of text.
//
//	fill FILE BYTES
func fill(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: fill FILE BYTES")
	}
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), bytes.Repeat([]byte("x"), n), 0o600))
}

// Every command's help has an example, and says what its flags are.
func TestHelp(t *testing.T) {
	t.Parallel()
	for _, command := range []string{
		"prism dev", "prism proxy", "prism check",
		"prismctl kv put", "prismctl kv get", "prismctl kv del", "prismctl kv ls", "prismctl kv incr", "prismctl kv expire",
		"prismctl kv import", "prismctl kv export", "prismctl pubsub publish", "prismctl pubsub subscribe",
		"prismctl topic publish", "prismctl topic consume", "prismctl topic tail", "prismctl topic browse", "prismctl topic seek",
		"prismctl dlq list", "prismctl dlq show", "prismctl dlq redrive", "prismctl dlq drop",
		"prismctl health", "prismctl context set",
	} {
		words := strings.Fields(command)
		out, err := exec.Command(filepath.Join(bin, words[0]), append(words[1:], "--help")...).CombinedOutput()
		if err != nil {
			t.Errorf("%s --help: %v", command, err)
		}
		for _, want := range []string{"Examples:\n  " + words[0], "Flags:", command} {
			if !bytes.Contains(out, []byte(want)) {
				t.Errorf("%s --help lacks %q:\n%s", command, want, out)
			}
		}
	}
}
