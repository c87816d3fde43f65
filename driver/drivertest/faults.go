package drivertest

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/faultproxy"
)

func faultChecks() []check {
	return []check{
		{"faults/away-at-open", needsServer, awayAtOpen},
		{"faults/killed-and-restarted", needsServer, killedAndRestarted},
		{"faults/cursor-after-restart", needsServer, cursorAfterRestart},
		{"faults/paused", needsServer, paused},
		{"faults/cancelled-under-way", needsServer, cancelledUnderWay},
		{"faults/answer-lost", needsServer, answerLost},
		{"faults/answers-come-late", needsServer, answersComeLate},
		{"faults/connections-cut", needsServer, connectionsCut},
		{"faults/garbage", needsServer, garbage},
		{"faults/watch-survives-cut", needsWatchedServer, watchSurvivesCut},
	}
}

func needsServer(e *env) string {
	if e.s.h.Server == nil {
		return "the harness starts no server that could be hurt"
	}
	return ""
}

func needsWatchedServer(e *env) string {
	return cmp.Or(needsServer(e), needsWatcher(e))
}

const (
	faultDeadline = 500 * time.Millisecond // of operations on a server that is not well
	grace         = 2 * time.Second        // how much later a method may return; this machine may be busy
	healing       = 20 * time.Second       // how long a driver may need to find its server again
)

// What reads and writes may answer while the server is not well. A write of
// which nothing was sent is BackendUnavailable, and has not happened.
var (
	readFaults   = []errs.Reason{errs.BackendUnavailable, errs.Deadline}
	writeFaults  = []errs.Reason{errs.BackendUnavailable, errs.OutcomeUnknown, errs.Deadline}
	unsentFaults = []errs.Reason{errs.BackendUnavailable, errs.Deadline}
)

// patient is a server behind a proxy, seen through it and, as the one that
// knows what happened, directly.
type patient struct {
	*store
	server Server
	proxy  *faultproxy.Proxy
	direct *store
	conn   driver.Conn
}

func (e *env) patient() *patient {
	e.Helper()
	server := e.s.h.Server(e.TB)
	proxy := faultproxy.Listen(e.TB, server.Addr)
	conn := e.openConfig(server.Config(proxy.Addr))
	s := e.storeOn(conn, e.spaceIn(server.Config(server.Addr)))
	return &patient{store: s, server: server, proxy: proxy, conn: conn, direct: s.again(e.openConfig(server.Config(server.Addr)))}
}

func (e *env) soon() (context.Context, context.CancelFunc) {
	return context.WithTimeout(e.ctx, faultDeadline)
}

// fault carries out reads and writes on a server that is not well and checks
// that each returns in time and with a reason that fits. It returns the reasons
// of additions to "n", in numbers of tries.
func (s *store) fault(reads, writes []errs.Reason) map[errs.Reason]int {
	s.Helper()
	adds := map[errs.Reason]int{}
	s.timed("get", reads, func(ctx context.Context) []error {
		_, err := s.kv.Get(ctx, "a", driver.WithExpiry)
		return []error{err}
	})
	s.timed("get many", reads, func(ctx context.Context) []error {
		results := make([]driver.GetResult, 3)
		s.kv.GetMany(ctx, []string{"a", "b", "a"}, driver.WithExpiry, results)
		return []error{results[0].Err, results[1].Err, results[2].Err}
	})
	s.timed("scan", reads, func(ctx context.Context) []error {
		_, err := s.kv.Scan(ctx, driver.ScanRequest{Limit: 10})
		return []error{err}
	})
	s.timed("add", writes, func(ctx context.Context) []error {
		results := make([]driver.Result, 1)
		s.kv.Apply(ctx, []driver.Op{{Kind: driver.Add, Key: "n", Delta: 1}}, results)
		adds[errs.ReasonOf(results[0].Err)]++
		return []error{results[0].Err}
	})
	s.timed("batch", writes, func(ctx context.Context) []error {
		ops := s.possible([]driver.Op{
			{Kind: driver.Put, Key: "x", Value: s.noise(1000)},
			{Kind: driver.Put, Key: "y", IfAbsent: true},
			{Kind: driver.Delete, Key: "x", IfVersion: "nonesuch"},
			{Kind: driver.Expire, Key: "x", TTL: time.Hour},
		})
		results := make([]driver.Result, len(ops))
		s.kv.Apply(ctx, ops, results)
		var all []error
		for _, r := range results {
			all = append(all, r.Err)
		}
		return all
	})
	return adds
}

// timed calls something on a server that is not well.
func (e *env) timed(what string, reasons []errs.Reason, call func(context.Context) []error) {
	e.Helper()
	ctx, cancel := e.soon()
	defer cancel()
	e.within(what+" on a server that is not well", faultDeadline+grace, func() {
		for _, err := range call(ctx) {
			if end, _ := ctx.Deadline(); errs.ReasonOf(err) == errs.Deadline && time.Until(end) > slack {
				e.Errorf("%s: Deadline %s before the deadline", what, time.Until(end))
			}
			e.wants(what+" on a server that is not well", err, reasons...)
		}
	})
}

// heals waits until the connection serves again, without being opened anew.
func (p *patient) heals() {
	p.Helper()
	start := time.Now()
	key := "healed-" + unique()
	for {
		ctx, cancel := p.soon()
		results := make([]driver.Result, 1)
		p.kv.Apply(ctx, []driver.Op{{Kind: driver.Put, Key: key, Value: []byte("1")}}, results)
		_, err := p.kv.Get(ctx, key, driver.WithExpiry)
		cancel()
		if results[0].Err == nil && err == nil {
			break
		}
		if time.Since(start) > healing {
			p.Fatalf("not healed after %s: put %s, get %s", healing, describe(results[0].Err), describe(err))
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err := p.conn.Ping(p.ctx); err != nil {
		p.Errorf("ping after healing: %s", describe(err))
	}
	p.delete(key)
	p.delete("x")
	p.delete("y")
}

// counted checks what adding 1 to "n" has come to: everything that was
// acknowledged, perhaps what nobody knows of, and nothing else.
func (p *patient) counted(acked int, adds map[errs.Reason]int) {
	p.Helper()
	unknown := adds[errs.OutcomeUnknown] + adds[errs.Deadline]
	var n int
	if got := p.direct.getMany("n")[0]; got.Err == nil {
		_, _ = fmt.Sscan(string(got.Value), &n)
	}
	if n < acked || n > acked+unknown {
		p.Errorf("%d additions acknowledged, %d unknown, but the sum is %d", acked, unknown, n)
	}
}

func awayAtOpen(e *env) {
	server := e.s.h.Server(e.TB)
	proxy := faultproxy.Listen(e.TB, server.Addr)
	proxy.Set(faultproxy.Refuse)
	conn := e.openConfig(server.Config(proxy.Addr))
	p := &patient{store: e.storeOn(conn, e.spaceIn(server.Config(server.Addr))), server: server, proxy: proxy, conn: conn}
	p.direct = p.again(e.openConfig(server.Config(server.Addr)))
	p.timed("ping", readFaults, func(ctx context.Context) []error { return []error{conn.Ping(ctx)} })
	p.fault(readFaults, unsentFaults)
	p.direct.absent("n")
	proxy.Set(faultproxy.Pass)
	p.heals()
	p.put("a", "1")
	p.direct.is("a", "1")
}

// killedAndRestarted kills the server under load and starts it again.
func killedAndRestarted(e *env) {
	p := e.patient()
	const workers = 4
	var stop atomic.Bool
	var acks atomic.Int64
	var wg sync.WaitGroup
	tallies := make([]tally, workers)
	for w := range workers {
		wg.Go(func() { p.addUntil(&stop, fmt.Sprint("n", w), &tallies[w], &acks) })
	}
	e.await("writes before the kill", func() bool { return acks.Load() > 200 })
	p.server.Process.Kill()
	p.fault(readFaults, writeFaults)
	p.server.Process.Start()
	p.heals()
	before := acks.Load()
	e.await("writes after the restart", func() bool { return acks.Load() > before+50 })
	stop.Store(true)
	wg.Wait()
	for w := range workers {
		p.checkTally(fmt.Sprint("n", w), &tallies[w])
	}
}

// cursorAfterRestart goes on with a scan on a server that was killed and
// started again: it comes to the end as promised, or is told that the server
// has lost the cursor.
func cursorAfterRestart(e *env) {
	p := e.patient()
	var want []string
	for i := range 60 {
		want = append(want, fmt.Sprintf("k%02d", i))
		p.put(want[i], "1")
	}
	r := driver.ScanRequest{Prefix: "k", Limit: 7}
	first := p.page(r)
	if first.Next == nil {
		e.Fatal("scan of sixty keys by seven: no Next after the first page")
	}
	p.server.Process.Kill()
	p.server.Process.Start()
	p.heals()
	found := keysOf(first.Items)
	for r.Cursor = first.Next; r.Cursor != nil; {
		page, err := p.kv.Scan(e.ctx, r)
		if errs.ReasonOf(err) == errs.StaleCursor {
			return
		}
		if err != nil {
			e.Fatalf("scan after a restart: %s", describe(err))
		}
		found = append(found, keysOf(page.Items)...)
		r.Cursor = page.Next
	}
	if e.g.Ack.Process {
		p.sameKeys("scan before and after a restart", found, want)
	}
}

// tally counts the outcomes of additions.
type tally struct{ acked, unknown int }

func (p *patient) addUntil(stop *atomic.Bool, key string, t *tally, acks *atomic.Int64) {
	for !stop.Load() && p.ctx.Err() == nil {
		ctx, cancel := p.soon()
		start := time.Now()
		results := make([]driver.Result, 1)
		p.kv.Apply(ctx, []driver.Op{{Kind: driver.Add, Key: key, Delta: 1}}, results)
		cancel()
		if took := time.Since(start); took > faultDeadline+grace {
			p.Errorf("add during kill and restart: took %s", took)
		}
		switch err := results[0].Err; errs.ReasonOf(err) {
		case errs.Unknown: // no error
			t.acked++
			acks.Add(1)
		case errs.OutcomeUnknown, errs.Deadline:
			t.unknown++
		default:
			p.wants("add during kill and restart", err, writeFaults...)
			time.Sleep(time.Millisecond)
		}
	}
}

func (p *patient) checkTally(key string, t *tally) {
	p.Helper()
	var n int
	if got := p.direct.getMany(key)[0]; got.Err == nil {
		_, _ = fmt.Sscan(string(got.Value), &n)
	} else {
		p.wants("get", got.Err, errs.KeyNotFound)
	}
	if p.g.Ack.Process && n < t.acked {
		p.Errorf("%d additions were acknowledged before and after the kill, the sum is %d", t.acked, n)
	}
	if n > t.acked+t.unknown {
		p.Errorf("%d additions acknowledged, %d unknown, the sum is %d: one that failed took effect, or one did twice", t.acked, t.unknown, n)
	}
}

// paused stops the server's process: deadlines are kept.
func paused(e *env) {
	p := e.patient()
	p.put("a", "1")
	p.add("n", 1)
	p.server.Process.Pause()
	adds := p.fault(readFaults, writeFaults)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			ctx, cancel := p.soon()
			defer cancel()
			_, err := p.kv.Get(ctx, "a", driver.WithExpiry)
			p.wants("one of many reads on a paused server", err, readFaults...)
		})
	}
	e.within("many reads on a paused server", faultDeadline+grace, wg.Wait)
	p.server.Process.Resume()
	p.heals()
	p.is("a", "1")
	p.counted(1, adds)
}

func cancelledUnderWay(e *env) {
	p := e.patient()
	p.put("a", "1")
	p.proxy.Set(faultproxy.Pause)
	for what, call := range map[string]func(context.Context) error{
		"get": func(ctx context.Context) error { _, err := p.kv.Get(ctx, "a", driver.WithExpiry); return err },
		"scan": func(ctx context.Context) error {
			_, err := p.kv.Scan(ctx, driver.ScanRequest{Limit: 10})
			return err
		},
		"put": func(ctx context.Context) error {
			results := make([]driver.Result, 1)
			p.kv.Apply(ctx, []driver.Op{{Kind: driver.Put, Key: "b"}}, results)
			return results[0].Err
		},
		"get many": func(ctx context.Context) error {
			results := make([]driver.GetResult, 2)
			p.kv.GetMany(ctx, []string{"a", "b"}, driver.WithExpiry, results)
			return results[1].Err
		},
		"ping": p.conn.Ping,
	} {
		ctx, cancel := context.WithCancel(e.ctx)
		time.AfterFunc(50*time.Millisecond, cancel)
		e.within(what+" that is cancelled", grace, func() {
			e.wants(what+" that is cancelled", call(ctx), errs.Cancelled)
		})
	}
	p.proxy.Set(faultproxy.Pass)
	p.heals()
	p.is("a", "1")
}

// answerLost lets writes reach the server and loses the answers: the writes
// have happened, once, and nobody may say that they have not.
func answerLost(e *env) {
	p := e.patient()
	for i, op := range []driver.Op{
		{Kind: driver.Add, Key: "n", Delta: 1},
		{Kind: driver.Put, Key: "new", Value: []byte("1"), IfAbsent: true},
		{Kind: driver.Put, Key: "plain", Value: []byte("1")},
	} {
		p.heals()
		for _, key := range []string{"n", "new", "plain"} {
			p.absentOr(key)
		}
		p.proxy.Set(faultproxy.Mute)
		outcome := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(e.ctx, healing)
			defer cancel()
			results := make([]driver.Result, 1)
			p.kv.Apply(ctx, []driver.Op{op}, results)
			outcome <- results[0].Err
		}()
		e.await("effect of "+opText(op), func() bool {
			return len(outcome) > 0 || p.direct.getMany(op.Key)[0].Err == nil
		})
		p.proxy.Set(faultproxy.Cut)
		time.Sleep(10 * time.Millisecond) // a driver that would repeat the write may begin to
		p.proxy.Set(faultproxy.Pass)
		e.within(opText(op)+" whose answer is lost", healing, func() {
			p.wants(opText(op)+" whose answer is lost", <-outcome, errs.OutcomeUnknown)
		})
		p.heals()
		if got := p.direct.is(op.Key, "1"); got.Version == "" {
			e.Errorf("write %d: no version", i)
		}
	}
}

// absentOr reads through the proxy, so that a connection is open.
func (p *patient) absentOr(key string) {
	p.Helper()
	if _, err := p.kv.Get(p.ctx, key, driver.WithExpiry); err != nil {
		p.wants("get", err, errs.KeyNotFound)
	}
}

// answersComeLate gives reads up before their answers come, which is when
// others wait for theirs: no answer is taken for that of another question.
func answersComeLate(e *env) {
	p := e.patient()
	const keys = 20
	for i := range keys {
		p.put(fmt.Sprint("k", i), fmt.Sprint("value of k", i))
	}
	for range 3 {
		p.heals()
		p.proxy.Set(faultproxy.Mute)
		var early, late sync.WaitGroup
		for i := range keys {
			early.Go(func() { p.getRight(fmt.Sprint("k", i), 50*time.Millisecond) })
		}
		e.within("reads without answers", grace, early.Wait)
		for i := range keys {
			late.Go(func() { p.getRight(fmt.Sprint("k", (i+7)%keys), healing) })
		}
		time.Sleep(20 * time.Millisecond) // for most of them to be sent; nothing depends on it
		p.proxy.Set(faultproxy.Pass)
		e.within("reads whose answers come", healing+grace, late.Wait)
	}
	p.heals()
	for i := range keys {
		p.is(fmt.Sprint("k", i), fmt.Sprint("value of k", i))
	}
}

// getRight reads a key that is there: it gets the right value or none.
func (p *patient) getRight(key string, limit time.Duration) {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, limit)
	defer cancel()
	got, err := p.kv.Get(ctx, key, driver.WithExpiry)
	if err != nil {
		p.wants("get that may have no answer", err, readFaults...)
	} else if string(got.Value) != "value of "+key {
		p.Errorf("get %s: %q is the answer to another question", key, got.Value)
	}
}

func connectionsCut(e *env) {
	p := e.patient()
	p.put("a", "1")
	for range 3 {
		acked := p.add("n", 1).Number
		p.proxy.Set(faultproxy.Cut)
		adds := p.fault(readFaults, writeFaults)
		p.proxy.Set(faultproxy.Refuse)
		for reason, n := range p.fault(readFaults, writeFaults) {
			adds[reason] += n
		}
		p.proxy.Set(faultproxy.Pass)
		p.heals()
		p.is("a", "1")
		p.counted(int(acked), adds)
	}
}

func garbage(e *env) {
	p := e.patient()
	p.put("a", "1")
	for range 3 {
		acked := p.add("n", 1).Number
		p.proxy.Set(faultproxy.Garbage)
		adds := p.fault(readFaults, writeFaults)
		for reason, n := range p.fault(readFaults, writeFaults) {
			adds[reason] += n
		}
		p.proxy.Set(faultproxy.Pass)
		p.heals()
		p.is("a", "1")
		p.counted(int(acked), adds)
	}
}

// watchSurvivesCut cuts the connection of a watch: what changed meanwhile is
// told, by its key or by Lost.
func watchSurvivesCut(e *env) {
	p := e.patient()
	w := p.watch("")
	p.put("a", "1")
	p.told(w, "a")
	for i := range 3 {
		p.proxy.Set(faultproxy.Refuse)
		key := fmt.Sprint("meanwhile", i)
		p.direct.put(key, "1")
		p.proxy.Set(faultproxy.Pass)
		p.told(w, key)
		p.heals()
		p.put("after", fmt.Sprint(i))
		p.told(w, "after")
	}
}
