package drivertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/goleak"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/faultproxy"
)

func blobFaultChecks() []check {
	return []check{
		{"faults/away-at-open", needsServer, blobAway},
		{"faults/killed-and-restarted", needsServer, blobKilled},
		{"faults/killed-in-the-middle", needsServer, blobKilledInTheMiddle},
		{"faults/cursor-after-restart", needsServer, blobCursorAfterRestart},
		{"faults/paused", needsServer, blobPaused},
		{"faults/cancelled-under-way", needsServer, blobCancelled},
		{"faults/answer-lost", needsServer, blobAnswerLost},
		{"faults/connections-cut", needsServer, blobCut},
		{"faults/garbage", needsServer, blobGarbage},
		{"faults/process-killed", needsEmbeddedBlob, putterKilled},
	}
}

// outlasting is the size of objects that the buffers between a server, a proxy
// and their client do not hold as machines are set up, so that a server's end is
// seen in the middle.
func (e *env) outlasting() int64 { return min(24<<20, e.s.blob.MaxObject) }

// ward is a server behind a proxy, seen through it and, as the one that knows
// what happened, directly.
type ward struct {
	*objects
	server Server
	proxy  *faultproxy.Proxy
	direct *objects
	conn   driver.Conn

	puts   uint64          // of "n" so far; the number of each is its content's
	acked  uint64          // the last one that was acknowledged
	unsure map[uint64]bool // those that may take effect at any time
}

func (e *env) ward(mode faultproxy.Mode) *ward {
	e.Helper()
	server := e.s.h.Server(e.TB)
	proxy := faultproxy.Listen(e.TB, server.Addr)
	proxy.Set(mode)
	conn := e.openConfig(server.Config(proxy.Addr))
	s := e.objectsOn(conn, e.spaceIn(server.Config(server.Addr)))
	return &ward{objects: s, server: server, proxy: proxy, conn: conn, direct: s.again(e.openConfig(server.Config(server.Addr))), unsure: map[uint64]bool{}}
}

// next is the content of the next put of "n".
func (w *ward) next() content {
	w.puts++
	return content{w.puts, int64(w.puts%3)*700_000 + 10}
}

// took notes the outcome of a put of "n".
func (w *ward) took(c content, err error) {
	switch {
	case err == nil:
		w.acked = c.seed
	case slices.Contains([]errs.Reason{errs.OutcomeUnknown, errs.Deadline, errs.Cancelled}, errs.ReasonOf(err)):
		w.unsure[c.seed] = true
	}
}

// settled checks that "n" is what the puts of it have come to: the last that was
// acknowledged, or one of those that nobody knows of, as a whole.
func (w *ward) settled() {
	w.Helper()
	there, err := w.direct.whole("n")
	if err != nil {
		if errs.ReasonOf(err) != errs.ObjectNotFound || w.acked > 0 {
			w.Errorf("object %d was acknowledged: %v", w.acked, err)
		}
		return
	}
	var seed uint64
	if _, err := fmt.Sscan(there.Metadata["seed"], &seed); err != nil || seed != w.acked && !w.unsure[seed] {
		w.Errorf("object %s is there, %d was acknowledged, and %v may be", there.Metadata["seed"], w.acked, w.unsure)
	}
}

// fault calls everything on a server that is not well and checks that each call
// returns in time and with a reason that fits.
func (w *ward) fault(reads, writes []errs.Reason) {
	w.Helper()
	w.timed("get", reads, func(ctx context.Context) []error {
		_, body, err := w.blob.Get(ctx, "a", driver.GetOptions{})
		if err == nil {
			_, err = io.Copy(io.Discard, body)
			_ = body.Close()
		}
		return []error{err}
	})
	w.timed("stat", reads, func(ctx context.Context) []error {
		_, err := w.blob.Stat(ctx, "a")
		return []error{err}
	})
	w.timed("list", reads, func(ctx context.Context) []error {
		_, err := w.blob.List(ctx, driver.ListRequest{Limit: 10})
		return []error{err}
	})
	w.timed("delete", writes, func(ctx context.Context) []error {
		results := slices.Repeat([]error{nil}, 2)
		w.blob.Delete(ctx, []string{"x", "y"}, results)
		return results
	})
	for range 2 {
		w.timed("put", writes, func(ctx context.Context) []error {
			c := w.next()
			_, err := w.blob.Put(ctx, "n", c.reader(), driver.PutOptions{Metadata: c.metadata()})
			w.took(c, err)
			return []error{err}
		})
	}
	w.timed("put of a large object", writes, func(ctx context.Context) []error {
		c := content{1, w.streamed() + 1}
		_, err := w.blob.Put(ctx, "x", c.reader(), driver.PutOptions{Metadata: c.metadata()})
		return []error{err}
	})
}

// heals waits until the connection serves again, without being opened anew, and
// looks at what the faults have left.
func (w *ward) heals() {
	w.Helper()
	start := time.Now()
	key := "healed-" + unique()
	for {
		ctx, cancel := w.soon()
		_, put := w.blob.Put(ctx, key, strings.NewReader("1"), driver.PutOptions{})
		_, stat := w.blob.Stat(ctx, key)
		cancel()
		if put == nil && stat == nil {
			break
		}
		if time.Since(start) > healing {
			w.Fatalf("not healed after %s: put %s, stat %s", healing, describe(put), describe(stat))
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err := w.conn.Ping(w.ctx); err != nil {
		w.Errorf("ping after healing: %s", describe(err))
	}
	w.settled()
	if _, err := w.direct.whole("x"); err != nil && errs.ReasonOf(err) != errs.ObjectNotFound {
		w.Errorf("a large object that was cut off: %v", err)
	}
	w.delete(key, "x")
}

func blobAway(e *env) {
	w := e.ward(faultproxy.Refuse)
	w.timed("ping", readFaults, func(ctx context.Context) []error { return []error{w.conn.Ping(ctx)} })
	w.fault(readFaults, unsentFaults)
	w.direct.absent("n")
	w.proxy.Set(faultproxy.Pass)
	w.heals()
	w.put("a", "1")
	w.direct.is("a", "1")
}

// blobKilled kills the server under load and starts it again.
func blobKilled(e *env) {
	w := e.ward(faultproxy.Pass)
	w.put("a", "1")
	const workers = 4
	var stop atomic.Bool
	var acks atomic.Int64
	var wg sync.WaitGroup
	all := make([]putter, workers)
	for i := range all {
		wg.Go(func() { all[i].run(w.objects, fmt.Sprint("n", i), &stop, &acks) })
	}
	e.await("puts before the kill", func() bool { return acks.Load() > 40 })
	w.server.Process.Kill()
	w.fault(readFaults, writeFaults)
	w.server.Process.Start()
	w.heals()
	before := acks.Load()
	e.await("puts after the restart", func() bool { return acks.Load() > before+10 })
	stop.Store(true)
	wg.Wait()
	for i := range all {
		all[i].check(w.direct, fmt.Sprint("n", i))
	}
	if e.s.blob.Ack.Process {
		w.direct.is("a", "1")
	}
}

// putter puts one object after the other under one key.
type putter struct {
	acked  int
	unsure []int // since then
}

func (p *putter) run(s *objects, key string, stop *atomic.Bool, acks *atomic.Int64) {
	for i := 1; !stop.Load(); i++ {
		ctx, cancel := s.soon()
		c := content{uint64(i), int64(1000 * (i % 7))}
		_, err := s.blob.Put(ctx, key, c.reader(), driver.PutOptions{Metadata: c.metadata()})
		cancel()
		switch errs.ReasonOf(err) {
		case errs.Unknown: // no error
			p.acked, p.unsure = i, nil
			acks.Add(1)
		case errs.OutcomeUnknown, errs.Deadline:
			p.unsure = append(p.unsure, i)
		default:
			s.wants("put during kill and restart", err, writeFaults...)
			time.Sleep(time.Millisecond)
		}
	}
}

func (p *putter) check(s *objects, key string) {
	s.Helper()
	there, err := s.whole(key)
	if !s.s.blob.Ack.Process && errs.ReasonOf(err) == errs.ObjectNotFound {
		return
	}
	var i int
	if err == nil {
		_, err = fmt.Sscan(there.Metadata["seed"], &i)
	}
	if err != nil || i != p.acked && !slices.Contains(p.unsure, i) {
		s.Errorf("%s: object %d is there, %d was acknowledged last, %v may be: %v", key, i, p.acked, p.unsure, err)
	}
}

// blobKilledInTheMiddle kills the server while an object is put, and while one
// is read.
func blobKilledInTheMiddle(e *env) {
	w := e.ward(faultproxy.Pass)
	old, half := content{1, e.outlasting()}, content{2, e.outlasting() / 2}
	w.putContent("a", old, driver.PutOptions{})
	for _, key := range []string{"a", "not-there"} {
		r := io.MultiReader(half.reader(), after(w.server.Process.Kill), half.reader())
		_, err := w.blob.Put(e.ctx, key, r, driver.PutOptions{})
		w.wants("put whose server is killed in the middle", err, writeFaults...)
		w.server.Process.Start()
		w.heals()
	}
	w.direct.absent("not-there")
	if e.s.blob.Ack.Process {
		w.direct.holds("", 10, "a")
		w.direct.isContent("a", old)
	} else {
		w.putContent("a", old, driver.PutOptions{})
	}
	w.cutBody(old, w.server.Process.Kill)
	w.server.Process.Start()
	w.heals()
}

// cutBody lets something happen to a body that was begun: it fails, unless all of
// it was on its way, and does not end as if it were whole.
func (w *ward) cutBody(c content, happen func()) {
	w.Helper()
	body := w.begun(w.ctx, "a", c)
	defer body.Close()
	happen()
	w.within("reading on", healing, func() {
		if err := c.compare(body, 100, c.size-100); err != nil {
			w.wants("reading a body that was cut off", reasonOnly(err), readFaults...)
		}
	})
}

// reasonOnly takes away what compare says of its own.
func reasonOnly(err error) error {
	var reason *errs.Error
	if errors.As(err, &reason) {
		return reason
	}
	return err
}

// blobCursorAfterRestart goes on with a list on a server that was killed and
// started again.
func blobCursorAfterRestart(e *env) {
	w := e.ward(faultproxy.Pass)
	var want []string
	for i := range 30 {
		want = append(want, fmt.Sprintf("k%02d", i))
		w.put(want[i], "1")
	}
	p := w.firstPage("k")
	found := objectKeys(p.Objects)
	w.server.Process.Kill()
	w.server.Process.Start()
	w.heals()
	for p.Next != nil && len(found) <= len(want) {
		var err error
		p, err = w.blob.List(e.ctx, driver.ListRequest{Prefix: "k", Cursor: p.Next, Limit: 7})
		if err != nil {
			e.Fatalf("list after a restart: %s", describe(err))
		}
		found = append(found, objectKeys(p.Objects)...)
	}
	if e.s.blob.Ack.Process && !slices.Equal(found, want) {
		e.Errorf("a list that was begun before a restart: not found %s, not expected %s", briefAll(without(want, found)), briefAll(without(found, want)))
	}
}

// blobPaused stops the server's process: deadlines are kept.
func blobPaused(e *env) {
	w := e.ward(faultproxy.Pass)
	c := content{1, e.outlasting()}
	w.putContent("a", c, driver.PutOptions{})
	ctx, cancel := w.soon()
	defer cancel()
	body := w.begun(ctx, "a", c)
	w.server.Process.Pause()
	w.within("reading from a paused server", faultDeadline+grace, func() {
		if err := c.compare(body, 100, c.size-100); err != nil {
			w.wants("reading from a paused server", reasonOnly(err), errs.Deadline)
		}
	})
	_ = body.Close()
	w.fault(readFaults, writeFaults)
	w.server.Process.Resume()
	w.heals()
	w.isContent("a", c)
}

func blobCancelled(e *env) {
	w := e.ward(faultproxy.Pass)
	w.put("a", "1")
	w.proxy.Set(faultproxy.Pause)
	for what, call := range map[string]func(context.Context) error{
		"get":  func(ctx context.Context) error { _, _, err := w.blob.Get(ctx, "a", driver.GetOptions{}); return err },
		"stat": func(ctx context.Context) error { _, err := w.blob.Stat(ctx, "a"); return err },
		"list": func(ctx context.Context) error {
			_, err := w.blob.List(ctx, driver.ListRequest{Limit: 1})
			return err
		},
		"put": func(ctx context.Context) error {
			_, err := w.blob.Put(ctx, "b", strings.NewReader("1"), driver.PutOptions{})
			return err
		},
		"put of a large object": func(ctx context.Context) error {
			_, err := w.blob.Put(ctx, "b", content{1, e.streamed() + 1}.reader(), driver.PutOptions{})
			return err
		},
		"delete": func(ctx context.Context) error {
			results := make([]error, 2)
			w.blob.Delete(ctx, []string{"b", "c"}, results)
			return results[1]
		},
		"ping": w.conn.Ping,
	} {
		ctx, cancel := context.WithCancel(e.ctx)
		time.AfterFunc(50*time.Millisecond, cancel)
		e.within(what+" that is cancelled", grace, func() {
			e.wants(what+" that is cancelled", call(ctx), errs.Cancelled)
		})
	}
	w.proxy.Set(faultproxy.Pass)
	w.heals()
	w.is("a", "1")
}

// blobAnswerLost lets writes reach the server and loses the answers: they have
// happened, and nobody may say that they have not.
func blobAnswerLost(e *env) {
	w := e.ward(faultproxy.Pass)
	w.put("there", "1")
	put := func(key string, o driver.PutOptions) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := w.blob.Put(ctx, key, strings.NewReader("1"), o)
			return err
		}
	}
	present := func(key string) func() bool {
		return func() bool { _, err := w.direct.blob.Stat(e.ctx, key); return err == nil }
	}
	conditional := driver.PutOptions{IfAbsent: e.s.blob.Conditional}
	w.ok("known", "1", conditional) // what a driver tries out first is not what is tried here
	for what, write := range map[string]struct {
		call     func(context.Context) error
		happened func() bool
	}{
		"put":           {put("plain", driver.PutOptions{}), present("plain")},
		"put if absent": {put("new", conditional), present("new")},
		"delete": {func(ctx context.Context) error {
			results := make([]error, 1)
			w.blob.Delete(ctx, []string{"there"}, results)
			return results[0]
		}, func() bool { return !present("there")() }},
	} {
		w.heals()
		w.proxy.Set(faultproxy.Mute)
		outcome := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(e.ctx, healing)
			defer cancel()
			outcome <- write.call(ctx)
		}()
		e.await("the effect of a "+what, func() bool { return len(outcome) > 0 || write.happened() })
		w.proxy.Set(faultproxy.Cut)
		time.Sleep(10 * time.Millisecond) // a driver that would repeat the write may begin to
		w.proxy.Set(faultproxy.Pass)
		e.within(what+" whose answer is lost", healing, func() {
			w.wants(what+" whose answer is lost", <-outcome, errs.OutcomeUnknown)
		})
	}
	w.direct.holds("", 10, "known", "plain", "new")
}

func blobCut(e *env) {
	w := e.ward(faultproxy.Pass)
	c, half := content{1, e.streamed()}, content{2, e.streamed()} // a cut takes with it what a proxy holds
	w.putContent("a", c, driver.PutOptions{})
	for range 2 {
		w.cutBody(c, func() { w.proxy.Set(faultproxy.Refuse) })
		w.fault(readFaults, writeFaults)
		w.proxy.Set(faultproxy.Cut)
		w.fault(readFaults, writeFaults)
		w.proxy.Set(faultproxy.Pass)
		w.heals()
		r := io.MultiReader(half.reader(), after(func() { w.proxy.Set(faultproxy.Refuse) }), half.reader())
		_, err := w.blob.Put(e.ctx, "a", r, driver.PutOptions{})
		w.wants("put that is cut off", err, writeFaults...)
		w.proxy.Set(faultproxy.Pass)
		w.heals()
		w.isContent("a", c)
	}
}

func blobGarbage(e *env) {
	w := e.ward(faultproxy.Pass)
	w.put("a", "1")
	for range 2 {
		w.proxy.Set(faultproxy.Garbage)
		w.fault(readFaults, writeFaults)
		w.fault(readFaults, writeFaults)
		w.proxy.Set(faultproxy.Pass)
		w.heals()
		w.is("a", "1")
	}
}

// blobLeaksAfterFaults closes a connection whose server is not well.
func (e *env) blobLeaksAfterFaults() {
	e.Helper()
	w := e.ward(faultproxy.Pass)
	config := w.server.Config(w.proxy.Addr) // it may start what goes with the test
	before := goleak.IgnoreCurrent()
	conn, err := e.s.h.Driver.Open(config)
	if err != nil {
		e.Fatalf("open: %v", err)
	}
	e.useBlob(conn, w.space)
	sick := *w
	sick.objects = w.again(conn)
	for _, mode := range []faultproxy.Mode{faultproxy.Cut, faultproxy.Garbage, faultproxy.Pause} {
		w.proxy.Set(mode)
		sick.fault(readFaults, writeFaults)
	}
	if err := conn.Close(); err != nil {
		e.Errorf("close: %v", err)
	}
	w.proxy.Set(faultproxy.Refuse) // what the proxy held back goes
	if err := goleak.Find(before); err != nil {
		e.Errorf("after close on a server that is not well: %v", err)
	}
}
