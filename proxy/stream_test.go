package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/errs"
)

func timed(o *keyvaluev1.Operation, ms uint32) *keyvaluev1.Operation {
	o.TimeoutMs = ms
	return o
}

// reads collects what a stream sends, so that a test can say what it never
// should.
func reads(p keyvaluev1.KeyValue_PipelineClient) (<-chan *keyvaluev1.Answer, <-chan error) {
	out, end := make(chan *keyvaluev1.Answer, 10_000), make(chan error, 1)
	go func() {
		for {
			r, err := p.Recv()
			if err != nil {
				end <- err
				return
			}
			for _, a := range r.GetAnswers() {
				out <- a
			}
		}
	}()
	return out, end
}

func next(t *testing.T, c <-chan *keyvaluev1.Answer) *keyvaluev1.Answer {
	t.Helper()
	select {
	case a := <-c:
		return a
	case <-time.After(20 * time.Second):
		t.Fatal("no answer")
		return nil
	}
}

// An operation is answered when its time is over, though the backend hangs,
// and the others go on. What the backend says later is told nobody.
func TestPipelineTimeout(t *testing.T) {
	t.Parallel()
	s := start(t, nil, tapped)
	open := s.hold(false)
	defer open()
	p := pipeline(t, in(t, "held"), s.dial(t))
	got, end := reads(p)
	began := time.Now()
	send(t, p, timed(retrieveOp(1, "hang"), 1000), retrieveOp(2, "hang too"))
	send(t, p, timed(storeOp(3, "hang", nil), 1500))
	send(t, p, retrieveOp(4, "k"))
	if a := next(t, got); a.GetId() != 4 || reasonOf(a) != "KEY_NOT_FOUND" {
		t.Errorf("beside operations that hang, after %v: %v", time.Since(began), a)
	}
	due := map[uint64]time.Duration{1: time.Second, 3: 1500 * time.Millisecond, 2: 2 * time.Second}
	for len(due) > 0 {
		a := next(t, got)
		at, waits := due[a.GetId()]
		delete(due, a.GetId())
		if took := time.Since(began); !waits || reasonOf(a) != "DEADLINE" || took < at-10*time.Millisecond || took > at+5*time.Second {
			t.Errorf("after %v: %v", took, a)
		}
	}
	open()
	send(t, p, retrieveOp(1, "k"), retrieveOp(2, "k")) // the ids are free again
	if a, b := next(t, got), next(t, got); a.GetId()+b.GetId() != 3 || reasonOf(a) != "KEY_NOT_FOUND" {
		t.Errorf("ids used again: %v %v", a, b)
	}
	if err := p.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := <-end; !errors.Is(err, io.EOF) || len(got) != 0 {
		t.Errorf("%d more answers, and %v", len(got), err)
	}
}

func TestPipelineCancel(t *testing.T) {
	t.Parallel()
	s := start(t, nil, tapped)
	open := s.hold(false)
	defer open()
	p := pipeline(t, in(t, "held"), s.dial(t))
	got, end := reads(p)
	const many = 100
	for i := range uint64(many) {
		send(t, p, storeOp(i+1, fmt.Sprint("hang", i), []byte("v")))
	}
	waitFor(t, "all hang", func() bool { return s.waiting.Load() == many })
	var cancels []*keyvaluev1.Cancel
	for i := range uint64(many) {
		cancels = append(cancels, &keyvaluev1.Cancel{Id: i + 1}, &keyvaluev1.Cancel{Id: i + 1}, &keyvaluev1.Cancel{Id: i + 1000})
	}
	began := time.Now()
	if err := p.Send(&keyvaluev1.PipelineRequest{Cancels: cancels}); err != nil {
		t.Fatal(err)
	}
	seen := map[uint64]bool{}
	for range many {
		a := next(t, got)
		if seen[a.GetId()] || reasonOf(a) != "CANCELLED" {
			t.Fatalf("%v, seen %v", a, seen[a.GetId()])
		}
		seen[a.GetId()] = true
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("cancelled after %v", took)
	}
	// The late outcomes go to nobody, not even to who uses the id again.
	send(t, p, retrieveOp(1, "hang else"))
	waitFor(t, "the next hangs", func() bool { return s.begun.Load() == many+1 })
	open()
	if a := next(t, got); a.GetId() != 1 || reasonOf(a) != "KEY_NOT_FOUND" {
		t.Errorf("%v", a)
	}
	// The effect of what was cancelled may have happened, and here it does, since
	// the stream goes on.
	c := s.dial(t)
	waitFor(t, "a cancelled write takes effect", func() bool {
		_, err := c.Retrieve(in(t, "held"), &keyvaluev1.RetrieveRequest{Key: "hang7"})
		return err == nil
	})
	_ = p.CloseSend()
	if err := <-end; !errors.Is(err, io.EOF) || len(got) != 0 {
		t.Errorf("%d more answers, and %v", len(got), err)
	}
}

// At the limit of operations in flight the server stops reading.
func TestPipelineStopsReading(t *testing.T) {
	t.Parallel()
	s := start(t, nil, tapped)
	open := s.hold(true)
	defer open()
	p := pipeline(t, in(t, "held"), s.dial(t))
	got, _ := reads(p)
	for i := range uint64(300) {
		send(t, p, timed(retrieveOp(i+1, fmt.Sprint(i)), 20_000))
	}
	waitFor(t, "256 have begun", func() bool { return s.begun.Load() == 256 })
	time.Sleep(100 * time.Millisecond) // for a 257th, which must not come
	if n := s.begun.Load(); n != 256 {
		t.Errorf("%d begun", n)
	}
	open()
	for range 300 {
		next(t, got)
	}
	// By bytes: 4 MiB of values.
	open = s.hold(true)
	defer open()
	before := s.begun.Load()
	go func() { // it cannot send them all
		for i := range uint64(40) {
			_ = p.Send(&keyvaluev1.PipelineRequest{Operations: []*keyvaluev1.Operation{timed(storeOp(i+1000, fmt.Sprint(i), make([]byte, 200<<10)), 20_000)}})
		}
	}()
	waitFor(t, "4 MiB have begun", func() bool { return s.begun.Load()-before >= 21 })
	time.Sleep(100 * time.Millisecond)
	if n := s.begun.Load() - before; n > 22 {
		t.Errorf("%d operations of 200 KiB begun", n)
	}
	open()
	for range 40 {
		next(t, got)
	}
}

// An operation can be cancelled while the window is full: one that is carried
// out, and one that waits behind it, which is then never begun. What waits is
// answered when its time is over, too.
func TestPipelineCancelWhenFull(t *testing.T) {
	t.Parallel()
	s := start(t, nil, tapped)
	open := s.hold(true)
	defer open()
	p := pipeline(t, in(t, "held"), s.dial(t))
	got, end := reads(p)
	var ops []*keyvaluev1.Operation
	for id := uint64(1); id <= 400; id++ {
		ops = append(ops, timed(storeOp(id, fmt.Sprint(id), nil), 20_000))
	}
	ops[349].TimeoutMs = 300
	send(t, p, ops...)
	waitFor(t, "the window is full", func() bool { return s.begun.Load() == 256 })
	began := time.Now()
	if err := p.Send(&keyvaluev1.PipelineRequest{Cancels: []*keyvaluev1.Cancel{{Id: 7}, {Id: 300}}}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		id     uint64
		reason string
	}{{7, "CANCELLED"}, {300, "CANCELLED"}, {350, "DEADLINE"}} {
		if a := next(t, got); a.GetId() != want.id || reasonOf(a) != want.reason || time.Since(began) > 2*time.Second {
			t.Errorf("after %v: %v, want %s of %d", time.Since(began), a, want.reason, want.id)
		}
	}
	send(t, p, storeOp(300, "again", nil)) // the id is free
	open()
	seen := map[uint64]bool{}
	for range 400 - 3 + 1 {
		a := next(t, got)
		if seen[a.GetId()] || a.GetStore() == nil {
			t.Errorf("%v, seen %v", a, seen[a.GetId()])
		}
		seen[a.GetId()] = true
	}
	_ = p.CloseSend()
	if err := <-end; !errors.Is(err, io.EOF) || len(got) != 0 {
		t.Errorf("%d more answers, and %v", len(got), err)
	}
	if n := s.begun.Load(); n != 400-2+1 {
		t.Errorf("%d operations came to the backend", n)
	}
	text := get(t, "http://"+s.Ops+"/metrics")
	for _, code := range []string{"Canceled", "DeadlineExceeded"} { // of those that were never begun
		if line := `prism_requests_total{code="` + code + `",method="Store",namespace="held",pattern="data",transport="pipeline"} 1`; !strings.Contains(text, line) {
			t.Errorf("no %s", line)
		}
	}
}

// A cancel is read while operations wait for their admission.
func TestPipelineCancelWhileOthersWait(t *testing.T) {
	t.Parallel()
	s := start(t, nil, tapped)
	open := s.hold(true)
	defer open()
	p := pipeline(t, in(t, "narrow"), s.dial(t))
	got, _ := reads(p)
	var ops []*keyvaluev1.Operation
	for id := range uint64(256) { // three get in, the others wait 5 ms each
		ops = append(ops, timed(storeOp(id+1, fmt.Sprint(id), nil), 20_000))
	}
	send(t, p, ops...)
	if err := p.Send(&keyvaluev1.PipelineRequest{Cancels: []*keyvaluev1.Cancel{{Id: 1}}}); err != nil {
		t.Fatal(err)
	}
	refused := 0
	for a := next(t, got); reasonOf(a) != "CANCELLED"; a = next(t, got) {
		if refused++; reasonOf(a) != "OVERLOADED" {
			t.Errorf("%v", a)
		}
	}
	if refused > 128 {
		t.Errorf("the cancel was read when %d operations had been refused", refused)
	}
}

// Ids must not be used twice at once; a client that does loses the stream.
func TestPipelineIDTwice(t *testing.T) {
	t.Parallel()
	s := start(t, nil, tapped)
	open := s.hold(false)
	defer open()
	p := pipeline(t, in(t, "held"), s.dial(t))
	send(t, p, retrieveOp(7, "hang"), retrieveOp(7, "k"))
	_, err := p.Recv()
	told(t, "an id twice", err, errs.InvalidField)
}

// A value that is too large for an answer is told so; it can be read alone.
func TestPipelineLargeAnswer(t *testing.T) {
	t.Parallel()
	s := start(t, nil, documents)
	c := s.dial(t)
	if _, err := c.Store(in(t, "open"), &keyvaluev1.StoreRequest{Key: "large", Value: make([]byte, 300<<10)}); err != nil {
		t.Fatal(err)
	}
	p := pipeline(t, in(t, "open"), c)
	send(t, p, retrieveOp(1, "large"))
	a := answers(t, p, 1)[1]
	if reasonOf(a) != "PAYLOAD_TOO_LARGE" || !strings.Contains(a.String(), `"pipeline"`) {
		t.Errorf("%v", a)
	}
}

// One operation whose key is none leaves the others of its message alone, and
// they still go to the backend together.
func TestPipelineBadKeyBesideOthers(t *testing.T) {
	t.Parallel()
	s := start(t, nil, tapped)
	p := pipeline(t, in(t, "held"), s.dial(t))
	var ops []*keyvaluev1.Operation
	for i := range uint64(50) {
		ops = append(ops, retrieveOp(i+1, fmt.Sprint(i)))
	}
	ops[20] = retrieveOp(21, "\x00")
	send(t, p, ops...)
	for id, a := range answers(t, p, 50) {
		want := "KEY_NOT_FOUND"
		if id == 21 {
			want = "INVALID_KEY"
		}
		if reasonOf(a) != want {
			t.Errorf("%d: %v", id, a)
		}
	}
	if n := s.begun.Load(); n != 49 {
		t.Errorf("%d reads at the backend", n)
	}
}

// Clients that send and never read cost a bounded piece of memory each, and
// leave nothing behind. (TestSlowReaderLosesTheStream is about their end.)
func TestStreamsThatDoNotRead(t *testing.T) {
	s := start(t, nil, documents)
	c := s.dial(t)
	if _, err := c.Store(in(t, "open"), &keyvaluev1.StoreRequest{Key: "k", Value: make([]byte, 4<<10)}); err != nil {
		t.Fatal(err)
	}
	streams := scaled(1000, 50)
	settle := runtime.NumGoroutine()
	before := heap()
	ctx, cancel := context.WithCancel(in(t, "open"))
	defer cancel()
	const most = 2 << 20 // 256 answers of 4 KiB, twice
	for i := range streams {
		if i%100 == 0 {
			c = s.dial(t, grpc.WithInitialWindowSize(64<<10), grpc.WithInitialConnWindowSize(1<<20))
		}
		p, err := c.Pipeline(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var ops []*keyvaluev1.Operation
		for id := range uint64(600) { // more than will be read
			ops = append(ops, retrieveOp(id+1, "k"))
		}
		if err := p.Send(&keyvaluev1.PipelineRequest{Operations: ops}); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "all streams are open", func() bool {
		return strings.Contains(get(t, "http://"+s.Ops+"/metrics"), fmt.Sprintf(`prism_streams_open{method="Pipeline"} %d`, streams))
	})
	if each := int64(heap()-before) / int64(streams); each > most {
		t.Errorf("%d KiB for each stream that does not read", each>>10)
	} else {
		t.Logf("%d KiB for each stream that does not read (client and server)", each>>10)
	}
	cancel()
	waitFor(t, "the streams are ended", func() bool {
		return strings.Contains(get(t, "http://"+s.Ops+"/metrics"), `prism_streams_open{method="Pipeline"} 0`)
	})
	// What is left is what the connections need, one for 100 streams.
	waitFor(t, "their goroutines are gone", func() bool { return runtime.NumGoroutine() < settle+20+12*(streams+99)/100 })
}
