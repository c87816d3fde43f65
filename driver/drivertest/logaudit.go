package drivertest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// An audit has several append to a topic and others consume it, while faults
// are injected, and keeps what they were told.
type audit struct {
	*journal
	work sync.WaitGroup
	stop context.CancelFunc

	mu        sync.Mutex // guards what follows
	acked     map[string]driver.Position
	committed []driver.Position            // by partition: the highest acknowledged checkpoint
	seen      []map[driver.Position]string // by partition: what was handed out
	appends   int                          // how many were acknowledged
	commits   int
	failures  int // of appends and commits
}

const auditPartitions = 3

// auditDeadline bounds each call of an audit. It is long enough for a machine
// that is busy with other audits, whose calls should fail by faults alone.
const auditDeadline = 4 * faultDeadline

// audits starts four that append through a journal, and a member of a group on
// each of the others.
func (e *env) audits(j *journal, consumers ...*journal) *audit {
	a := &audit{journal: j, acked: map[string]driver.Position{}, committed: make([]driver.Position, auditPartitions)}
	for range auditPartitions {
		a.seen = append(a.seen, map[driver.Position]string{})
	}
	ctx, cancel := context.WithCancel(j.ctx)
	a.stop = cancel
	members := make([]*member, len(consumers))
	for i, c := range consumers {
		members[i] = c.join("g")
		members[i].audit = a
	}
	for w := range 4 {
		a.work.Go(func() { a.appending(ctx, w) })
	}
	for _, m := range members {
		a.work.Go(func() { a.consumes(ctx, m) })
	}
	e.Cleanup(func() { cancel(); a.work.Wait() })
	return a
}

// appending appends numbered records to one partition after the other, and
// repeats what may have failed where duplicates are known.
func (a *audit) appending(ctx context.Context, w int) {
	for n := 0; ctx.Err() == nil; n++ {
		text := fmt.Sprintf("%d-%06d", w, n)
		r := driver.Record{Partition: (w + n) % auditPartitions, Value: []byte(text)}
		if a.spec.Dedup > 0 {
			r.ID = text
		}
		for again := true; again && ctx.Err() == nil; {
			result := a.appendOnce(ctx, r)
			again = result.Err != nil && r.ID != ""
			a.noteAppend(ctx, text, result)
			time.Sleep(time.Millisecond) // others want the machine too, and what fails at once would be tried too often
		}
	}
}

func (a *audit) appendOnce(ctx context.Context, r driver.Record) driver.AppendResult {
	ctx, cancel := context.WithTimeout(ctx, auditDeadline)
	defer cancel()
	results := []driver.AppendResult{{Err: errs.Internal}}
	a.Append(ctx, []driver.Record{r}, results)
	return results[0]
}

func (a *audit) noteAppend(ctx context.Context, text string, r driver.AppendResult) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r.Err == nil {
		a.acked[text] = r.Position
		a.appends++
		return
	}
	if ctx.Err() == nil {
		a.failures++
		a.wants("append while there are faults", r.Err, writeFaults...)
	}
}

// consumes takes events and commits what has come. At the end others have what
// is left.
func (a *audit) consumes(ctx context.Context, m *member) {
	defer func() { _ = m.Close(a.ctx) }() // if nobody hears it, its lease runs out
	for ctx.Err() == nil {
		if err := m.next(ctx); err != nil {
			if ctx.Err() == nil {
				a.Errorf("%s: next: %s", m.name, describe(err))
			}
			return
		}
		var commits []driver.Commit
		for p, c := range m.has {
			if len(c.got) > 0 {
				commits = append(commits, driver.Commit{Partition: p, Claim: c.id, Checkpoint: driver.Checkpoint{Next: c.next(), Note: "audited"}})
				c.got = c.got[len(c.got)-1:]
			}
		}
		results := slices.Repeat([]error{errs.Internal}, len(commits))
		short, cancel := context.WithTimeout(ctx, auditDeadline)
		m.Commit(short, commits, results)
		cancel()
		for i, err := range results {
			a.noteCommit(ctx, commits[i], err)
		}
	}
}

func (a *audit) noteCommit(ctx context.Context, c driver.Commit, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case err == nil:
		a.commits++
		a.committed[c.Partition] = max(a.committed[c.Partition], c.Next)
	case ctx.Err() == nil && errs.ReasonOf(err) != errs.StaleReceipt:
		a.failures++
		a.wants("commit while there are faults", err, writeFaults...)
	}
}

// noteGain checks that a checkpoint is not behind what was acknowledged.
func (a *audit) noteGain(ev driver.LogEvent) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if next := ev.Checkpoint.Next; next < a.committed[ev.Partition] {
		a.Errorf("partition %d is gained at %d, the commit of %d was acknowledged", ev.Partition, next, a.committed[ev.Partition])
	}
}

func (a *audit) noteRecord(s driver.Stored) {
	a.mu.Lock()
	defer a.mu.Unlock()
	text := string(s.Value)
	if before, again := a.seen[s.Partition][s.Position]; again && before != text {
		a.Errorf("the record at %d of %d was %s and is %s", s.Position, s.Partition, before, text)
	}
	a.seen[s.Partition][s.Position] = text
}

func (a *audit) counts() (appends, commits, failures int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.appends, a.commits, a.failures
}

// goesOn waits until so many more appends and commits were acknowledged, which
// may need somebody to take over.
func (a *audit) goesOn(more int) {
	a.Helper()
	appends, commits, _ := a.counts()
	for end := time.Now().Add(healing + driver.TakeOver); ; time.Sleep(5 * time.Millisecond) {
		nowAppends, nowCommits, _ := a.counts()
		if nowAppends >= appends+more && nowCommits > commits {
			return
		}
		if time.Now().After(end) {
			a.Fatalf("after a fault %d appends and %d commits were acknowledged within %s", nowAppends-appends, nowCommits-commits, healing+driver.TakeOver)
		}
	}
}

// hurts injects a fault, waits until it was felt, and ends it.
func (a *audit) hurts(begin, end func()) {
	a.Helper()
	a.goesOn(20)
	_, _, before := a.counts()
	begin()
	a.await("a fault is felt", func() bool { _, _, now := a.counts(); return now > before })
	end()
}

// ends lets the consumers come to the end and compares what everybody was told.
func (a *audit) ends() {
	a.Helper()
	a.goesOn(20)
	a.stop()
	a.work.Wait()
	m := a.last()
	there := make([][]driver.Stored, auditPartitions)
	for p := range there {
		there[p] = a.all(p, 0, 1000)
		if len(there[p]) == 0 {
			a.Fatalf("partition %d is empty", p)
		}
	}
	a.comes("every record is handed out", func() bool {
		return !slices.ContainsFunc([]int{0, 1, 2}, func(p int) bool { return len(a.seen[p]) < len(there[p]) })
	}, m)
	for p, found := range there {
		a.complete(p, found)
	}
}

// last is a member that takes what nobody has taken yet. It is tried again, as
// calls that were just given up may have taken a connection with them.
func (a *audit) last() (m *member) {
	a.Helper()
	r := driver.JoinRequest{Group: "g", Name: "last"}
	a.await("a last member joins", func() bool {
		joined, err := a.Join(a.ctx, r)
		if err == nil {
			m = a.memberOf(joined, r)
			m.audit = a
		}
		return err == nil
	})
	return m
}

// complete compares a partition with what was acknowledged and handed out.
func (a *audit) complete(p int, found []driver.Stored) {
	a.Helper()
	at := map[string][]driver.Position{}
	last := map[byte]string{} // of each writer
	for _, s := range found {
		text := string(s.Value)
		if a.seen[p][s.Position] != text {
			a.Errorf("%s at %d of %d was handed out as %q", text, s.Position, p, a.seen[p][s.Position])
		}
		if len(at[text]) == 0 && text < last[text[0]] {
			a.Errorf("%s stands behind %s in %d", text, last[text[0]], p)
		}
		last[text[0]] = max(last[text[0]], text)
		at[text] = append(at[text], s.Position)
	}
	for text, places := range at {
		if a.spec.Dedup > 0 && len(places) > 1 {
			a.Errorf("%s stands at %v of %d", text, places, p)
		}
	}
	for text, place := range a.acked {
		var w, n int
		if _, _ = fmt.Sscanf(text, "%d-%d", &w, &n); (w+n)%auditPartitions != p {
			continue
		}
		if place = cmp.Or(place, append(at[text], 0)[0]); !slices.Contains(at[text], place) {
			a.Errorf("the append of %s was acknowledged at %d of %d; it stands at %v", text, place, p, at[text])
		}
	}
}
