package drivertest

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/prismgw/prism/driver"
)

func crashChecks() []check {
	return []check{{"faults/process-killed", needsEmbedded, processKilled}}
}

func needsEmbedded(e *env) string {
	switch {
	case e.s.h.Server != nil:
		return "the data lies in a server; faults/killed-and-restarted kills that"
	case e.g.Shared:
		return "the data lies in servers; the driver's own tests kill them"
	case !e.s.h.Persistent || !e.g.Ack.Process:
		return "an acknowledged write does not survive the process"
	}
	return ""
}

// childVariable tells a process that it is the one that will be killed.
const childVariable = "PRISM_DRIVERTEST_CHILD"

// orders is what a child process is told.
type orders struct {
	Test      string
	URL, Dir  string
	Options   json.RawMessage
	Asserts   json.RawMessage
	Namespace string
	Layout    json.RawMessage `json:",omitempty"`
	First     [writers]int    // the next number of each writer
}

const writers = 4

// processKilled kills a process that writes, and looks for what it was
// acknowledged. Each writer adds 1 to a key of its own, each time under a new
// token, so that a write that was not acknowledged can be repeated. Where the
// harness has a Dir, a new one is used and opened by one process at a time.
func processKilled(e *env) {
	c := e.s.h.Config
	if c.Dir != "" {
		c.Dir = e.TempDir()
	}
	space := e.spaceIn(c)
	o := orders{Test: testName(e.Name()), URL: c.URL, Dir: c.Dir, Options: c.Options, Asserts: c.Asserts, Namespace: space.Namespace, Layout: space.Layout}
	for i := range o.First {
		o.First[i] = 1
	}
	for range 4 {
		acked := e.killChild(o)
		conn := e.openConfig(c)
		s := e.storeOn(conn, space)
		for w := range writers {
			o.First[w] = s.afterKill(w, acked[w])
		}
		if err := conn.Close(); err != nil {
			e.Fatalf("close: %v", err)
		}
	}
}

// afterKill checks what a writer left behind, repeats what was under way if
// that can be done, and returns the number of the next write.
func (s *store) afterKill(w, acked int) (next int) {
	s.Helper()
	var n int
	_, _ = fmt.Sscan(string(s.getMany(writerKey(w))[0].Value), &n)
	if n < acked || n > acked+1 {
		s.Fatalf("writer %d: %d writes were acknowledged, %d are there", w, acked, n)
	}
	if s.g.Idempotency != driver.IdempotencyAtomic {
		return n + 1
	}
	r := s.ok(writerOp(s.g, s.space.Namespace, w, acked+1))
	if r.Number != int64(acked+1) || r.Repeated != (n == acked+1) {
		s.Fatalf("writer %d: of the write that was under way %d is there, and its repeat answers %+v", w, n, r)
	}
	return acked + 2
}

func writerKey(w int) string { return fmt.Sprint("writer", w) }

// writerOp is the i-th write of a writer.
func writerOp(g driver.Guarantees, namespace string, w, i int) driver.Op {
	op := driver.Op{Kind: driver.Add, Key: writerKey(w), Delta: 1}
	if g.Idempotency == driver.IdempotencyAtomic {
		op.Once = &driver.Once{TTL: driver.MaxTTL}
		copy(op.Once.Token[:8], namespace[len(namespace)-8:])
		binary.BigEndian.PutUint32(op.Once.Token[8:], uint32(w))
		binary.BigEndian.PutUint32(op.Once.Token[12:], uint32(i))
	}
	return op
}

// testName returns the name of the test that called Run, from that of a check.
func testName(check string) string {
	name, _, _ := strings.Cut(check, "/checks/")
	return name
}

// killChild lets a child write for some acknowledgements, kills it, and returns
// the last number that each writer was acknowledged.
func (e *env) killChild(o orders) (acked [writers]int) {
	e.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		e.Fatal(err)
	}
	var pattern []string
	for part := range strings.SplitSeq(o.Test, "/") {
		pattern = append(pattern, "^"+regexp.QuoteMeta(part)+"$")
	}
	cmd := exec.CommandContext(e.ctx, os.Args[0], "-test.run="+strings.Join(pattern, "/")) //nolint:gosec // this very program
	cmd.Env = append(os.Environ(), childVariable+"="+string(text), "PRISM_MATRIX_DIR=")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		e.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		e.Fatal(err)
	}
	for w := range acked {
		acked[w] = o.First[w] - 1
	}
	lines, count := bufio.NewScanner(out), 0
	for lines.Scan() {
		var w, i int
		if n, _ := fmt.Sscanf(lines.Text(), "acked %d %d", &w, &i); n == 2 {
			acked[w], count = i, count+1
		} else {
			e.Errorf("the child says: %s", lines.Text())
		}
		if count == 100 {
			_ = cmd.Process.Kill() // what it wrote before still comes
		}
	}
	_ = cmd.Wait()
	if count < 100 {
		e.Fatalf("the child ended after %d writes", count)
	}
	return acked
}

// runChild writes until it is killed, if this process was started for that.
func runChild(t *testing.T, h *Harness, write func(t *testing.T, b driver.Backend, o *orders, w int)) {
	var o orders
	text := os.Getenv(childVariable)
	if text == "" {
		return
	}
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	if o.Test != t.Name() {
		return
	}
	c := h.Config
	c.URL, c.Dir, c.Options, c.Asserts = o.URL, o.Dir, o.Options, o.Asserts
	conn, err := h.Driver.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	b, err := conn.Space(driver.Space{Namespace: o.Namespace, Pattern: "kv", Layout: o.Layout})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() { write(t, b, &o, w) })
	}
	wg.Wait()
	t.FailNow()
}

func childWriter(t *testing.T, b driver.Backend, o *orders, w int) {
	results := make([]driver.Result, 1)
	for i := o.First[w]; ; i++ {
		b.KV.Apply(context.Background(), []driver.Op{writerOp(b.KV.Guarantees(), o.Namespace, w, i)}, results)
		if results[0].Err != nil || results[0].Number != int64(i) {
			t.Errorf("writer %d: write %d: %+v", w, i, results[0])
			return
		}
		if _, err := fmt.Fprintf(os.Stdout, "acked %d %d\n", w, i); err != nil {
			return
		}
	}
}
