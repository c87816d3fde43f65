package drivertest

import (
	"context"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/faultproxy"
)

func logFaultChecks() []check {
	return []check{
		{"faults/away-at-open", needsServer, logAway},
		{"faults/member-cut-off", needsServer, memberCutOff},
		{"faults/late-commit", needsServer, lateCommit},
		{"faults/killed-and-restarted", needsDurableServer, logKilled},
		{"faults/paused", needsServer, logPaused},
		{"faults/connections-cut", needsServer, logCut},
		{"faults/garbage", needsServer, logGarbage},
		{"faults/process-killed", needsEmbeddedLog, consumerKilled},
	}
}

func needsDurableServer(e *env) string {
	if reason := needsServer(e); reason != "" {
		return reason
	}
	if !e.s.log.Ack.Process {
		return "with these settings an OK does not survive the server's process"
	}
	return ""
}

// broker is a topic on a server behind a proxy, seen through it and directly.
type broker struct {
	*journal
	server Server
	proxy  *faultproxy.Proxy
	direct *journal
}

func (e *env) broker(partitions int) *broker {
	e.Helper()
	server := e.s.h.Server(e.TB)
	proxy := faultproxy.Listen(e.TB, server.Addr)
	spec := driver.TopicSpec{Name: "t", Partitions: partitions}
	if e.s.log.Dedup {
		spec.Dedup = 10 * time.Minute
	}
	config := server.Config(server.Addr)
	direct := e.logsOn(e.openConfig(config), e.spaceIn(config)).topic(spec)
	return &broker{direct.again(e.openConfig(server.Config(proxy.Addr))), server, proxy, direct}
}

// fault calls what there is on a server that is not well.
func (b *broker) fault(m *member, commit driver.Commit) {
	b.Helper()
	b.timed("append", writeFaults, func(ctx context.Context) []error {
		results := slices.Repeat([]driver.AppendResult{{Err: errs.Internal}}, 2)
		b.Append(ctx, []driver.Record{{Value: []byte("lost")}, {Value: []byte("lost")}}, results)
		return []error{results[0].Err, results[1].Err}
	})
	b.timed("read", readFaults, func(ctx context.Context) []error {
		_, err := b.Read(ctx, driver.ReadRequest{Limit: 1})
		return []error{err}
	})
	b.timed("stat", readFaults, func(ctx context.Context) []error {
		_, err := b.Stat(ctx, "g")
		return []error{err}
	})
	b.timed("seek", writeFaults, func(ctx context.Context) []error {
		return []error{b.Seek(ctx, "g", []driver.Target{{Partition: commit.Partition, Next: commit.Next}})}
	})
	b.timed("join", writeFaults, func(ctx context.Context) []error {
		late, err := b.Join(ctx, driver.JoinRequest{Group: "late", Name: "m"})
		if err == nil {
			_ = late.Close(ctx)
		}
		return []error{err}
	})
	b.timed("commit", append(writeFaults, errs.StaleReceipt), func(ctx context.Context) []error {
		results := []error{errs.Internal}
		m.Commit(ctx, []driver.Commit{commit}, results)
		return results
	})
}

func logAway(e *env) {
	server := e.s.h.Server(e.TB)
	proxy := faultproxy.Listen(e.TB, server.Addr)
	proxy.Set(faultproxy.Refuse)
	l := e.logsOn(e.openConfig(server.Config(proxy.Addr)), e.spaceIn(server.Config(server.Addr)))
	spec := driver.TopicSpec{Name: "t", Partitions: 1}
	e.timed("topic", unsentFaults, func(ctx context.Context) []error {
		_, err := l.Topic(ctx, spec)
		return []error{err}
	})
	proxy.Set(faultproxy.Pass)
	e.await("a topic on a server that is there again", func() bool {
		ctx, cancel := e.soon()
		defer cancel()
		_, err := l.Topic(ctx, spec)
		return err == nil
	})
	j := l.topic(spec)
	j.append(0, "a")
	j.join("g").gets(0, "a")
}

// memberCutOff cuts a member off from its server, beside another one: that one
// has everything within TakeOver, and the first one has lost it.
func memberCutOff(e *env) {
	b := e.broker(2)
	one, two := b.join("g"), b.direct.join("g")
	for range 2 {
		e.comes("each has its part", func() bool { return shared(2, one, two) }, one, two)
		mine := slices.Collect(maps.Keys(one.has))[0]
		places := b.direct.numbered(mine, 0, 10)
		e.comes("its records", func() bool { return one.owns(mine) && one.has[mine].next() > places[9] }, one, two)
		kept := places[4]
		one.settle(mine, kept, "kept")
		stale := one.upTo(mine, one.has[mine].next(), "stale")
		b.proxy.Set(faultproxy.Refuse)
		cut := time.Now()
		e.comes("the other one has everything", func() bool { return two.owns(0, 1) }, two)
		if took := time.Since(cut); took > driver.TakeOver+grace {
			e.Errorf("a partition of a member that was cut off was taken over after %s, want %s", took, driver.TakeOver)
		}
		if from := two.has[mine].from; from.Next != kept || from.Note != "kept" {
			e.Errorf("it was taken over at %d with note %q, want %d", from.Next, from.Note, kept)
		}
		e.comes("the other one has its records", func() bool { return len(two.texts(mine)) > 0 }, two)
		two.settle(mine, two.has[mine].got[0].Position+1, "of the other")
		e.comes("the one that is cut off loses it", func() bool { return one.has[mine] == nil }, one)
		b.proxy.Set(faultproxy.Pass)
		e.await("it is answered again", func() bool {
			ctx, cancel := e.soon()
			defer cancel()
			results := []error{errs.Internal}
			one.Commit(ctx, []driver.Commit{stale}, results)
			if results[0] == nil {
				e.Fatal("a member that was cut off commits what another one has")
			}
			return errs.ReasonOf(results[0]) == errs.StaleReceipt
		})
		if s := b.direct.group("g", mine); s.Next != two.has[mine].got[0].Position+1 {
			e.Errorf("the group stands at %d after a stale commit, want %d", s.Next, two.has[mine].got[0].Position+1)
		}
	}
}

// lateCommit holds a commit back on its way until another member has taken over
// and committed: when it arrives, it changes nothing.
func lateCommit(e *env) {
	b := e.broker(1)
	places := b.direct.numbered(0, 0, 10)
	one := b.join("g")
	one.gets(0, "0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
	one.settle(0, places[2], "kept")
	late := one.upTo(0, places[4], "late")
	two := b.direct.join("g")
	b.proxy.Set(faultproxy.Pause)
	e.timed("commit", writeFaults, func(ctx context.Context) []error {
		results := []error{errs.Internal}
		one.Commit(ctx, []driver.Commit{late}, results)
		return results
	})
	e.comes("the other one takes over", func() bool { return two.owns(0) && len(two.texts(0)) == 8 }, two)
	two.settle(0, places[8], "of the other")
	b.proxy.Set(faultproxy.Pass)
	e.await("the one that was held back is answered", func() bool {
		ctx, cancel := e.soon()
		defer cancel()
		_, err := b.Read(ctx, driver.ReadRequest{Limit: 1})
		return err == nil
	})
	e.quiet(two)
	if s := b.direct.group("g", 0); s.Next < places[8] {
		e.Errorf("the group stands at %d after a late commit, want %d", s.Next, places[8])
	}
	if two.has[0] != nil {
		two.settle(0, places[9], "of the other")
	}
	e.comes("the one that was held back loses it", func() bool { return one.lost[0] > 0 }, one, two)
}

// storm hurts a topic that is used so many times.
func (b *broker) storm(times int, begin, end func()) {
	b.Helper()
	a := b.audits(b.journal, b.journal, b.journal, b.direct)
	felt := 0
	for range times {
		a.hurts(begin, end)
		felt++
	}
	a.ends()
	if appends, commits, failures := a.counts(); felt != times || failures < times {
		b.Errorf("%d faults of %d were felt, by %d failures beside %d appends and %d commits", felt, times, failures, appends, commits)
	}
}

// logKilled also has a witness, whose last commit is acknowledged just before
// the server is killed.
func logKilled(e *env) {
	b := e.broker(auditPartitions)
	w := b.direct.join("witness")
	var kept driver.Position
	commits := func() bool {
		if !w.owns(0) || w.has[0].next() <= kept {
			return false
		}
		next := w.has[0].next()
		if w.settled(w.upTo(0, next, "witness"))[0] != nil {
			return false
		}
		kept = next
		return true
	}
	b.storm(counts(2, 4), func() {
		e.comes("a commit", commits, w)
		b.server.Process.Kill()
	}, func() {
		b.server.Process.Start()
		var all []driver.PartitionStat
		e.await("the server answers again", func() (ok bool) {
			ctx, cancel := e.soon()
			defer cancel()
			var err error
			all, err = b.direct.Stat(ctx, "witness")
			return err == nil
		})
		if all[0].Next != kept {
			e.Errorf("after a kill the group stands at %d, the commit of %d was acknowledged", all[0].Next, kept)
		}
	})
}

func logPaused(e *env) {
	b := e.broker(auditPartitions)
	b.storm(counts(1, 2), b.server.Process.Pause, b.server.Process.Resume)
}

// logCut cuts connections, the last time for so long that others take over.
func logCut(e *env) {
	b := e.broker(auditPartitions)
	times, round := counts(2, 5), 0
	b.storm(times, func() {
		if round+1 == times && !testing.Short() {
			// What a server does with a member that is lost while it joins is
			// that server's affair, and may take it long.
			e.await("every partition has an owner", func() bool {
				return !slices.ContainsFunc(b.direct.stats("g"), func(p driver.PartitionStat) bool { return p.Owner == "" })
			})
		}
		b.proxy.Set(faultproxy.Cut)
		b.proxy.Set(faultproxy.Refuse)
	}, func() {
		if round++; round == times && !testing.Short() {
			e.await("the one that is not cut off has everything", func() bool {
				all := b.direct.stats("g")
				return all[0].Owner != "" && all[1].Owner == all[0].Owner && all[2].Owner == all[0].Owner
			})
		}
		b.proxy.Set(faultproxy.Pass)
	})
}

// logGarbage also looks at what each method answers meanwhile.
func logGarbage(e *env) {
	b := e.broker(auditPartitions)
	b.storm(counts(1, 3), func() { b.proxy.Set(faultproxy.Garbage) }, func() { b.proxy.Set(faultproxy.Pass) })
	m := b.join("other")
	e.comes("a partition", func() bool { return m.owns(0) }, m)
	for _, mode := range []faultproxy.Mode{faultproxy.Garbage, faultproxy.Pause, faultproxy.Refuse} {
		b.proxy.Set(mode)
		b.fault(m, driver.Commit{Partition: 0, Claim: m.has[0].id, Checkpoint: m.has[0].from})
		b.proxy.Set(faultproxy.Pass)
		e.await("the topic is read again", func() bool {
			ctx, cancel := e.soon()
			defer cancel()
			_, err := b.Read(ctx, driver.ReadRequest{Limit: 1})
			return err == nil
		})
		e.comes("the partition again", func() bool { return m.owns(0) }, m)
	}
}
