package drivertest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/groups"
	"github.com/prismgw/prism/driver/memory"
	"github.com/prismgw/prism/errs"
)

// The toy is a server with a driver, as small as they can be while the checks
// of faults apply to them: one JSON object a line, answered by id.

type toyRequest struct {
	ID    int
	Space driver.Space
	Keys  []string
	Ops   []driver.Op
	Scan  *driver.ScanRequest
	Log   *toyLogRequest
}

type toyAnswer struct {
	ID      int
	Entries []driver.Entry
	Results []driver.Result
	Reasons []string // of entries or results, "" where there was no error
	Page    driver.Page
	Log     *toyLogAnswer
}

func toyReason(err error) string {
	if err == nil {
		return ""
	}
	return errs.ReasonOf(err).String()
}

func toyError(reason string) error {
	for _, r := range errs.All() {
		if r.String() == reason {
			return r
		}
	}
	return nil
}

// toyServer implements Process. Its data outlives Kill.
type toyServer struct {
	tb      testing.TB
	addr    string
	forgets bool // what was written goes with the process

	mu       sync.Mutex // guards what follows
	data     driver.Conn
	logs     *toyLogs
	listener net.Listener
	open     []net.Conn
	gate     sync.RWMutex // locked while paused
}

func newToyServer(tb testing.TB, forgets bool) *toyServer {
	s := &toyServer{tb: tb, addr: "127.0.0.1:0", forgets: forgets, data: newToyData(tb), logs: &toyLogs{}}
	s.Start()
	tb.Cleanup(s.Kill)
	return s
}

func newToyData(tb testing.TB) driver.Conn {
	c, err := memory.Driver().Open(driver.Config{URL: "memory:"})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

func (s *toyServer) Start() {
	l, err := net.Listen("tcp", s.addr)
	if err != nil {
		s.tb.Fatal(err)
	}
	s.mu.Lock()
	s.addr, s.listener = l.Addr().String(), l
	s.mu.Unlock()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.open = append(s.open, c)
			s.mu.Unlock()
			go s.serve(c)
		}
	}()
}

func (s *toyServer) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.listener.Close()
	for _, c := range s.open {
		_ = c.Close()
	}
	s.logs.killed()
	s.open = nil
	if s.forgets {
		s.data, s.logs = newToyData(s.tb), &toyLogs{}
	}
}

func (s *toyServer) Pause()  { s.gate.Lock() }
func (s *toyServer) Resume() { s.gate.Unlock() }

func (s *toyServer) serve(c net.Conn) {
	lines := json.NewDecoder(c)
	for {
		var r toyRequest
		if lines.Decode(&r) != nil {
			_ = c.Close()
			return
		}
		s.gate.RLock()
		text, err := json.Marshal(s.answer(&r))
		s.gate.RUnlock()
		if err != nil {
			s.tb.Error(err)
		}
		_, _ = c.Write(append(text, '\n'))
	}
}

func (s *toyServer) answer(r *toyRequest) (a toyAnswer) {
	r.Space.Layout = nil // JSON makes null of it
	if a.ID = r.ID; r.Log != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		a.Log = s.logs.answer(r.Space.Namespace, r.Log)
		return a
	}
	s.mu.Lock()
	b, err := s.data.Space(r.Space)
	s.mu.Unlock()
	if err != nil {
		s.tb.Error(err)
		return a
	}
	for _, key := range r.Keys {
		e, err := b.KV.Get(context.Background(), key, driver.WithExpiry)
		a.Entries, a.Reasons = append(a.Entries, e), append(a.Reasons, toyReason(err))
	}
	if r.Ops != nil {
		a.Results = make([]driver.Result, len(r.Ops))
		b.KV.Apply(context.Background(), r.Ops, a.Results)
		for i := range a.Results {
			a.Reasons = append(a.Reasons, toyReason(a.Results[i].Err))
			a.Results[i].Err = nil
		}
	}
	if r.Scan != nil {
		a.Page, _ = b.KV.Scan(context.Background(), *r.Scan)
	}
	return a
}

// toyFaults are the mistakes of the toy's driver.
type toyFaults struct {
	writesAgain   bool // repeats a write when its answer is lost
	saysNotSent   bool // says BackendUnavailable of a write that was sent
	losesDeadline bool // does not end with the context
	staysBroken   bool // does not connect again
	inOrder       bool // takes answers in the order of the requests, also of those that nobody waits for
	opensNow      bool // connects in Open
	forgets       bool // the server forgets what it acknowledged
	saysInternal  bool // says Internal whatever happens
	log           toyLogFaults
}

func toyDriver(f toyFaults) driver.Driver {
	return driver.Driver{
		Name: "toy", Acks: []driver.Ack{toyAck},
		Open: func(c driver.Config) (driver.Conn, error) {
			t := &toyConn{addr: strings.TrimPrefix(c.URL, "toy://"), f: f}
			if f.opensNow {
				return t, t.Ping(context.Background())
			}
			return t, nil
		},
	}
}

var toyAck = driver.Ack{Settings: "default", Process: true, Why: "it is a toy"}

type toyConn struct {
	addr string
	f    toyFaults

	mu   sync.Mutex // guards what follows
	link *toyLink
	last int // id
	dead bool

	members groups.Members
}

// toyLink is one connection to the server.
type toyLink struct {
	net.Conn
	mu      sync.Mutex // guards waiting and order
	waiting map[int]chan toyAnswer
	order   []int
	broken  chan struct{}
}

func (t *toyConn) Space(s driver.Space) (driver.Backend, error) {
	return driver.Backend{KV: &toyKV{t, s}, Log: &toyLog{t, s}}, nil
}

func (t *toyConn) Ping(ctx context.Context) error {
	_, _, err := t.call(ctx, &toyRequest{})
	return err
}

func (t *toyConn) Close() error {
	t.members.Close()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dead = true
	if t.link != nil {
		_ = t.link.Close()
	}
	return nil
}

func (t *toyConn) connect(ctx context.Context, r *toyRequest) (*toyLink, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last++
	r.ID = t.last
	if t.link != nil {
		select {
		case <-t.link.broken:
			if t.f.staysBroken {
				return nil, errs.BackendUnavailable
			}
		default:
			return t.link, nil
		}
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", t.addr)
	if err != nil || t.dead {
		return nil, errs.BackendUnavailable
	}
	t.link = &toyLink{Conn: c, waiting: map[int]chan toyAnswer{}, broken: make(chan struct{})}
	go t.link.read(t.f.inOrder)
	return t.link, nil
}

func (l *toyLink) read(inOrder bool) {
	defer close(l.broken)
	defer func() { _ = l.Close() }()
	for lines := bufio.NewReader(l.Conn); ; {
		line, err := lines.ReadBytes('\n')
		var a toyAnswer
		if err != nil || json.Unmarshal(line, &a) != nil {
			return
		}
		l.mu.Lock()
		if inOrder && len(l.order) > 0 {
			a.ID, l.order = l.order[0], l.order[1:]
		}
		if c := l.waiting[a.ID]; c != nil {
			c <- a
			delete(l.waiting, a.ID)
		}
		l.mu.Unlock()
	}
}

// call sends a request and waits for its answer.
func (t *toyConn) call(ctx context.Context, r *toyRequest) (a toyAnswer, sent bool, err error) {
	if err := ctx.Err(); err != nil {
		return a, false, errs.ReasonOf(err)
	}
	l, err := t.connect(ctx, r)
	if err != nil {
		return a, false, err
	}
	text, err := json.Marshal(r)
	if err != nil {
		return a, false, err
	}
	answer := make(chan toyAnswer, 1)
	l.mu.Lock()
	l.waiting[r.ID] = answer
	l.order = append(l.order, r.ID)
	_, err = l.Write(append(text, '\n'))
	l.mu.Unlock()
	if err != nil {
		_ = l.Close()
		return a, true, errs.BackendUnavailable
	}
	done := ctx.Done()
	if t.f.losesDeadline {
		slow, cancel := context.WithTimeout(context.Background(), faultDeadline+grace+time.Second/4)
		defer cancel()
		done = slow.Done()
	}
	select {
	case a := <-answer:
		return a, true, nil
	case <-l.broken:
		return a, true, errs.BackendUnavailable
	case <-done:
		t.giveUp(l, r.ID)
		return a, true, errs.ReasonOf(context.Cause(ctx))
	}
}

// giveUp forgets a request. The connection goes with it, as nobody knows what
// comes next on it.
func (t *toyConn) giveUp(l *toyLink, id int) {
	if !t.f.inOrder {
		_ = l.Close()
		<-l.broken // so that the next call finds that it is
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.waiting, id)
	l.order = slices.DeleteFunc(l.order, func(i int) bool { return i == id })
}

type toyKV struct {
	*toyConn
	space driver.Space
}

func (k *toyKV) Guarantees() driver.Guarantees {
	return driver.Guarantees{
		Version: driver.WriteVersions, Clock: driver.ServerClock, OrderedScan: true, ScanCost: driver.ScanPrefix,
		Idempotency: driver.IdempotencyAtomic, MaxValue: 1 << 20, TTL: true, Ack: toyAck,
	}
}

func (k *toyKV) fail(err error) error {
	if k.f.saysInternal {
		return errs.Internal
	}
	return err
}

func (k *toyKV) Get(ctx context.Context, key string, want driver.Want) (driver.Entry, error) {
	var r [1]driver.GetResult
	k.GetMany(ctx, []string{key}, driver.WithExpiry, r[:])
	return r[0].Entry, r[0].Err
}

func (k *toyKV) GetMany(ctx context.Context, keys []string, want driver.Want, results []driver.GetResult) {
	a, _, err := k.call(ctx, &toyRequest{Space: k.space, Keys: keys})
	for i := range results {
		switch {
		case err != nil:
			results[i] = driver.GetResult{Err: k.fail(err)}
		case i >= len(a.Entries): // an answer to something else
			results[i] = driver.GetResult{Err: errs.KeyNotFound}
		default:
			results[i] = driver.GetResult{Entry: a.Entries[i], Err: toyError(a.Reasons[i])}
		}
	}
}

func (k *toyKV) Scan(ctx context.Context, r driver.ScanRequest) (driver.Page, error) {
	a, _, err := k.call(ctx, &toyRequest{Space: k.space, Scan: &r})
	if err != nil {
		err = k.fail(err)
	}
	return a.Page, err
}

func (k *toyKV) Apply(ctx context.Context, ops []driver.Op, results []driver.Result) {
	a, sent, err := k.call(ctx, &toyRequest{Space: k.space, Ops: ops})
	for k.f.writesAgain && errors.Is(err, errs.BackendUnavailable) && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
		a, sent, err = k.call(ctx, &toyRequest{Space: k.space, Ops: ops})
	}
	if sent && errors.Is(err, errs.BackendUnavailable) && !k.f.saysNotSent {
		err = errs.OutcomeUnknown
	}
	for i := range results {
		switch {
		case err != nil:
			results[i] = driver.Result{Err: k.fail(err)}
		case i >= len(a.Results):
			results[i] = driver.Result{}
		default:
			results[i] = a.Results[i]
			results[i].Err = toyError(a.Reasons[i])
		}
	}
}

func toyHarness(tb testing.TB, f toyFaults) *Harness {
	shared := newToyServer(tb, false)
	config := func(addr string) driver.Config { return driver.Config{URL: "toy://" + addr} }
	return &Harness{
		Name: "toy", Driver: toyDriver(f), Config: config(shared.addr), Persistent: true,
		Server: func(tb testing.TB) Server {
			s := newToyServer(tb, f.forgets)
			s.logs.faults = f.log
			return Server{Process: s, Addr: s.addr, Config: config}
		},
	}
}

// TestFaultsAreFound runs the checks of faults against a driver that passes
// them, and against ones with a mistake each.
func TestFaultsAreFound(t *testing.T) {
	for _, c := range []struct {
		name   string
		faults toyFaults
		found  []string
		slow   bool
	}{
		{"a write is repeated", toyFaults{writesAgain: true}, []string{"faults/answer-lost"}, false},
		{"a sent write is called unsent", toyFaults{saysNotSent: true}, []string{"faults/answer-lost"}, false},
		{"a deadline is lost", toyFaults{losesDeadline: true}, []string{"faults/paused"}, true},
		{"a cancellation is lost", toyFaults{losesDeadline: true}, []string{"faults/cancelled-under-way"}, true},
		{"a connection stays broken", toyFaults{staysBroken: true}, []string{"faults/connections-cut"}, true},
		{"answers are taken in order", toyFaults{inOrder: true}, []string{"faults/answers-come-late"}, false},
		{"open connects", toyFaults{opensNow: true}, []string{"faults/away-at-open"}, false},
		{"acknowledged writes are lost", toyFaults{forgets: true}, []string{"faults/killed-and-restarted"}, false},
		{"every error is internal", toyFaults{saysInternal: true}, []string{
			"faults/away-at-open", "faults/paused", "faults/connections-cut", "faults/garbage", "faults/killed-and-restarted",
		}, true},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			if c.slow && testing.Short() {
				return // these wait for deadlines that are not kept
			}
			t.Parallel()
			for _, name := range c.found {
				if said := record(t, toyHarness(t, c.faults), name); len(said) == 0 {
					t.Errorf("%s passes", name)
				} else {
					t.Logf("%s: %s", name, said[0])
				}
			}
		})
	}
	for _, c := range faultChecks() {
		t.Run("without-mistake/"+c.name, func(t *testing.T) {
			t.Parallel()
			if c.name == "faults/watch-survives-cut" {
				return // the toy has no Watcher
			}
			if said := record(t, toyHarness(t, toyFaults{}), c.name); len(said) > 0 {
				t.Errorf("fails without a mistake: %q", said)
			}
		})
	}
}
