package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	readyWithin = 60 * time.Second
	stopWithin  = 5 * time.Second
	pollEvery   = time.Millisecond
)

// addresses are what a server writes to its ready file.
type addresses struct {
	GRPC string `json:"grpc"`
	HTTP string `json:"http"`
	Ops  string `json:"ops"`
}

// A process is a server that this run has started.
type process struct {
	cmd   *exec.Cmd
	addrs addresses
	took  time.Duration // until it was ready
	ended chan struct{}

	reading float64 // objects that it allocates when it is asked how many it has

	mu  sync.Mutex // guards log
	log bytes.Buffer
}

// Write keeps what the process says.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.log.Len() < 64<<10 {
		p.log.Write(b)
	}
	return len(b), nil
}

func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.TrimSpace(p.log.String())
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// start runs a command until stop is called or this process dies, and waits
// until ready says so.
func start(ctx context.Context, cmd *exec.Cmd, ready func(p *process) (bool, error)) (*process, error) {
	p := &process{cmd: cmd, ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p, p
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	dieWithParent(cmd.SysProcAttr)
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = cmd.Wait() // what it said tells more
		close(p.ended)
	}()
	for {
		ok, err := ready(p)
		if ok {
			p.took = time.Since(began)
			return p, nil
		}
		select {
		case <-p.ended:
			err = errors.New("it has ended")
		case <-ctx.Done():
			err = ctx.Err()
		case <-time.After(pollEvery):
			if time.Since(began) < readyWithin {
				continue
			}
			if err == nil {
				err = fmt.Errorf("it was not ready within %v", readyWithin)
			}
		}
		p.stop()
		return nil, fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, lastLine(p.said()))
	}
}

func lastLine(text string) string { return text[strings.LastIndexByte(text, '\n')+1:] }

// stop ends the process and waits for its end. There is nothing to save.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGINT) // PostgreSQL ends its children only when asked in order
	select {
	case <-p.ended:
		return
	case <-time.After(stopWithin):
	}
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// readyFile returns what start asks for a server that writes its addresses.
func readyFile(path string) func(p *process) (bool, error) {
	return func(p *process) (bool, error) {
		data, err := os.ReadFile(path)
		if err != nil {
			return false, nil //nolint:nilerr // not yet
		}
		return true, json.Unmarshal(data, &p.addrs)
	}
}

// resident returns the process' resident memory in bytes.
func (p *process) resident() (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid()))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(data), "VmRSS:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0, errors.New("/proc does not say how much memory is resident")
	}
	kib, err := strconv.ParseInt(fields[0], 10, 64)
	return kib << 10, err
}

// A bench holds what a run has built and where its files are.
type bench struct {
	dir   string
	prism string
	count int
}

// newBench makes the prism binary, unless one is given.
func newBench(ctx context.Context, prism string, progress interface{ Write([]byte) (int, error) }) (*bench, error) {
	dir, err := os.MkdirTemp("", "prism-bench-")
	if err != nil {
		return nil, err
	}
	// A server may run as another user, and its files are below.
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // as said
		return nil, err
	}
	b := &bench{dir: dir, prism: prism}
	if prism != "" {
		return b, nil
	}
	fmt.Fprintln(progress, "building prism")
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		b.close()
		return nil, fmt.Errorf("go list: %w; run this inside the repository, or name a binary with -prism", err)
	}
	b.prism = filepath.Join(dir, "prism")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", b.prism, "./cmd/prism") //nolint:gosec // our own
	cmd.Dir = strings.TrimSpace(string(root))
	if out, err := cmd.CombinedOutput(); err != nil {
		b.close()
		return nil, fmt.Errorf("go build ./cmd/prism: %w\n%s", err, bytes.TrimSpace(out))
	}
	return b, nil
}

func (b *bench) close() { _ = os.RemoveAll(b.dir) }

// sub makes a new directory.
func (b *bench) sub(name string) (string, error) {
	b.count++
	dir := filepath.Join(b.dir, fmt.Sprintf("%s-%d", name, b.count))
	return dir, os.Mkdir(dir, 0o755) //nolint:gosec // a server may run as another user
}

// command runs a prism binary with its listeners on free ports.
func (b *bench) command(ctx context.Context, binary string, args ...string) (*process, error) {
	dir, err := b.sub("run")
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "ready.json")
	args = append(args, "--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0", "--ops-addr", "127.0.0.1:0",
		"--ready-file", file, "--lame-duck", "0s", "--drain", "1s")
	cmd := exec.Command(binary, args...) //nolint:gosec,noctx // our own; stop ends it
	cmd.Dir = dir
	return start(ctx, cmd, readyFile(file))
}

// proxy runs prism proxy on documents.
func (b *bench) proxy(ctx context.Context, binary string, documents []string) (*process, error) {
	dir, err := b.sub("documents")
	if err != nil {
		return nil, err
	}
	for i, text := range documents {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.yaml", i)), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	p, err := b.command(ctx, binary, "proxy", dir)
	if err != nil {
		return nil, err
	}
	if err := p.calibrate(ctx); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}
