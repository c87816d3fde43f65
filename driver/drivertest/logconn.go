package drivertest

import (
	"cmp"
	"context"
	"runtime"
	"slices"
	"time"

	"go.uber.org/goleak"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/faultproxy"
)

func logConnChecks() []check {
	return []check{
		{"conn/guarantees", nil, logGuaranteesHold},
		{"conn/member-closes", nil, memberCloses},
		{"conn/connection-closes", nil, logConnCloses},
		{"conn/closes-under-load", nil, logCloseUnderLoad},
		{"context/ended-before", nil, logContext},
	}
}

func logGuaranteesHold(e *env) {
	g := e.s.log
	if g.MaxRecord < 1 {
		e.Errorf("MaxRecord is %d", g.MaxRecord)
	}
	if g.MaxNote < 4096 {
		e.Errorf("MaxNote is %d, want at least 4,096", g.MaxNote)
	}
	if g.Ack.Settings == "" || g.Ack.Why == "" {
		e.Errorf("Ack does not say under which settings and why: %+v", g.Ack)
	}
	if !slices.Contains(e.s.h.Driver.Acks, g.Ack) {
		e.Errorf("Ack %+v is not among the driver's Acks", g.Ack)
	}
	if g.Ack.Process && !e.s.h.Persistent && e.s.h.Server == nil {
		e.Error("Ack.Process, but the harness is neither Persistent nor has a Server: nothing shows it")
	}
	if again := e.logs().Guarantees(); again != g {
		e.Errorf("Guarantees differ between two spaces: %+v and %+v", g, again)
	}
}

// waiting waits for events until there is an error, which it returns.
func (m *member) waiting() <-chan error {
	ended := make(chan error, 1)
	go func() {
		events := make([]driver.LogEvent, 8)
		for {
			if _, err := m.Next(m.ctx, events); err != nil {
				ended <- err
				return
			}
		}
	}()
	return ended
}

func memberCloses(e *env) {
	j := e.journal(1)
	j.append(0, "a")
	for _, group := range []string{"g", ""} {
		m := j.join(group)
		m.gets(0, "a")
		ended := m.waiting()
		m.close()
		m.close()
		e.within("next under way", closing, func() { e.wants("next under way", <-ended, errs.Cancelled) })
		e.wants("next after close", m.next(e.ctx), errs.Cancelled)
		m.Hold(0, true)
	}
}

func logConnCloses(e *env) {
	conn := e.open()
	j := e.logsOn(conn, e.space()).topic(driver.TopicSpec{Name: "t", Partitions: 1})
	j.append(0, "a")
	group, reader := j.join("g"), j.join("")
	group.gets(0, "a")
	reader.gets(0, "a")
	commit := group.upTo(0, group.has[0].next(), "")
	ended := []<-chan error{group.waiting(), reader.waiting()}
	e.within("close", closing, func() {
		if err := conn.Close(); err != nil {
			e.Errorf("close: %v", err)
		}
	})
	e.within("next on a closed connection", closing, func() {
		for _, err := range ended {
			e.wants("next under way", <-err, errs.BackendUnavailable)
		}
		for _, m := range []*member{group, reader} {
			e.wants("next on a closed connection", m.next(j.ctx), errs.BackendUnavailable)
		}
		j.fails(j.ctx, group, commit, errs.BackendUnavailable)
		_, err := j.Log.Topic(j.ctx, driver.TopicSpec{Name: "t", Partitions: 1})
		e.wants("topic", err, errs.BackendUnavailable)
	})
}

// fails calls everything that talks to the backend, each of which has to fail
// for one reason.
func (j *journal) fails(ctx context.Context, m *member, commit driver.Commit, reason errs.Reason) {
	j.Helper()
	results := make([]driver.AppendResult, 2)
	j.Append(ctx, []driver.Record{{Value: []byte("x")}, {Value: []byte("y")}}, results)
	for _, r := range results {
		j.wants("append", r.Err, reason)
	}
	_, err := j.Read(ctx, driver.ReadRequest{Limit: 1})
	j.wants("read", err, reason)
	_, err = j.Stat(ctx, "g")
	j.wants("stat", err, reason)
	j.wants("seek", j.Seek(ctx, "g", []driver.Target{{Next: 1}}), reason)
	late, err := j.Join(ctx, driver.JoinRequest{Group: "late", Name: "m"})
	if !j.wants("join", err, reason) && late != nil {
		_ = late.Close(j.ctx)
	}
	outcomes := []error{errs.Internal}
	m.Commit(ctx, []driver.Commit{commit}, outcomes)
	j.wants("commit", outcomes[0], reason)
}

// logCloseUnderLoad closes a connection on which four append, one reads and two
// consume.
func logCloseUnderLoad(e *env) {
	conn := e.open()
	j := e.logsOn(conn, e.space()).topic(driver.TopicSpec{Name: "t", Partitions: 2})
	members := []*member{j.join("g"), j.join("g")}
	e.comes("each has its part", func() bool { return shared(2, members...) }, members...)
	started, ended := make(chan struct{}, 16), make(chan error, 16)
	busy := func(call func() error) {
		go func() {
			started <- struct{}{}
			for {
				if err := call(); err != nil {
					ended <- err
					return
				}
			}
		}()
	}
	for i := range 4 {
		busy(func() error { return j.outcomes(driver.Record{Partition: i % 2, Value: []byte("v")})[0].Err })
	}
	busy(func() error { _, err := j.Read(j.ctx, driver.ReadRequest{Limit: 10}); return err })
	busy(func() error { _, err := j.Stat(j.ctx, "g"); return err })
	for _, m := range members {
		busy(func() error {
			err := m.next(j.ctx)
			for p, c := range m.has {
				err = cmp.Or(err, m.settled(driver.Commit{Partition: p, Claim: c.id, Checkpoint: driver.Checkpoint{Next: c.next()}})[0])
			}
			return err
		})
	}
	for range 8 {
		<-started
	}
	e.within("close", closing, func() {
		if err := conn.Close(); err != nil {
			e.Errorf("close: %v", err)
		}
	})
	e.within("what was under way", closing, func() {
		for range 8 {
			// A commit may come when its member has given up all partitions.
			e.wants("what was under way or came after it", <-ended, errs.BackendUnavailable, errs.OutcomeUnknown, errs.StaleReceipt)
		}
	})
}

func logContext(e *env) {
	j := e.journal(1)
	m := j.join("g")
	j.append(0, "a")
	m.gets(0, "a")
	commit := m.upTo(0, m.has[0].next(), "")
	cancelled, cancel := context.WithCancel(e.ctx)
	cancel()
	late, cancel := context.WithDeadline(e.ctx, time.Now().Add(-time.Second))
	defer cancel()
	for reason, ctx := range map[errs.Reason]context.Context{errs.Cancelled: cancelled, errs.Deadline: late} {
		j.fails(ctx, m, commit, reason)
		_, err := j.Log.Topic(ctx, driver.TopicSpec{Name: "other", Partitions: 1})
		e.wants("topic", err, reason)
		e.wants("next", m.next(ctx), reason)
	}
	short, cancel := context.WithTimeout(e.ctx, 50*time.Millisecond)
	defer cancel()
	e.within("next that waits for nothing", closing, func() { e.wants("next", m.next(short), errs.Deadline) })
	j.holds(0, "a")
	j.append(0, "b")
	m.gets(0, "a", "b")
}

// logAloneChecks look at all goroutines, so that they run when nothing else does.
var logAloneChecks = []check{
	{"leaks/goroutines", nil, logLeaks},
	{"leaks/members", nil, memberLeaks},
}

func logLeaks(e *env) {
	space := e.space()
	e.usesLog(e.s.h.Config, space, func() {})
	before := goleak.IgnoreCurrent()
	for range 3 {
		e.usesLog(e.s.h.Config, space, func() {})
	}
	if err := goleak.Find(before); err != nil {
		e.Errorf("after close: %v", err)
	}
	if e.s.h.Server == nil {
		return
	}
	server := e.s.h.Server(e.TB)
	proxy := faultproxy.Listen(e.TB, server.Addr)
	config := server.Config(proxy.Addr) // it may start what goes with the test
	space = e.spaceIn(server.Config(server.Addr))
	before = goleak.IgnoreCurrent()
	for _, mode := range []faultproxy.Mode{faultproxy.Cut, faultproxy.Garbage, faultproxy.Pause} {
		proxy.Set(faultproxy.Pass)
		e.usesLog(config, space, func() { proxy.Set(mode) })
	}
	proxy.Set(faultproxy.Refuse) // what the proxy held back goes
	if err := goleak.Find(before); err != nil {
		e.Errorf("after close on a server that is not well: %v", err)
	}
}

// usesLog opens a connection, uses everything, lets something happen, and
// closes the connection with members that nobody has closed.
func (e *env) usesLog(c driver.Config, space driver.Space, then func()) {
	e.Helper()
	conn, err := e.s.h.Driver.Open(c)
	if err != nil {
		e.Fatalf("open: %v", err)
	}
	j := e.logsOn(conn, space).topic(driver.TopicSpec{Name: "t", Partitions: 2})
	j.append(0, "a")
	j.all(0, 0, 10)
	j.stats("g")
	for _, group := range []string{"g", "g", "h", ""} {
		m, err := j.Join(j.ctx, driver.JoinRequest{Group: group, Name: "m"})
		if err != nil {
			e.Fatalf("join: %s", describe(err))
		}
		ctx, cancel := context.WithTimeout(e.ctx, 100*time.Millisecond)
		_, _ = m.Next(ctx, make([]driver.LogEvent, 4))
		cancel()
		if group == "h" {
			if err := m.Close(e.ctx); err != nil {
				e.Errorf("close of a member: %s", describe(err))
			}
		}
	}
	then()
	e.within("close", closing, func() {
		if err := conn.Close(); err != nil {
			e.Errorf("close: %v", err)
		}
	})
}

// memberLeaks closes many members of one connection that stays open.
func memberLeaks(e *env) {
	j := e.journal(1)
	const members = 40
	cycle := func() {
		for i := range members {
			m := j.join([]string{"g", ""}[i%2])
			e.comes("the partition", func() bool { return m.owns(0) }, m)
			m.close()
		}
	}
	cycle() // the connection may keep something for later
	before := runtime.NumGoroutine()
	cycle()
	e.goes("the goroutines of closed members end", func() bool { return runtime.NumGoroutine() < before+members/4 })
}
