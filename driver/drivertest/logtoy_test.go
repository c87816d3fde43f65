package drivertest

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/groups"
	"github.com/prismgw/prism/errs"
)

// The toy's Log: what a server keeps, and a driver that has its members from
// package groups.

// toyLogFaults are the mistakes of the toy's Log.
type toyLogFaults struct {
	unfenced     bool          // commits of anybody are taken
	lease        time.Duration // 0: as it should be
	losesCommits bool          // a kill takes the commits with it
	losesAppends bool          // a kill takes the last record of each partition with it
	appendsAgain bool          // duplicates are appended
	turnsAround  bool          // every tenth record stands before the one before it
	losesRecords bool          // every tenth record is not handed out
}

type toyLogRequest struct {
	Topic   string
	Group   string
	Make    *driver.TopicSpec
	Append  []driver.Record
	Read    *driver.ReadRequest
	Stat    bool
	Know    *driver.Start
	Seek    []driver.Target
	Self    groups.Self
	Beat    bool
	Take    []int
	Commit  []driver.Commit
	Release []groups.Claim
	Leave   bool
}

type toyLogAnswer struct {
	Partitions int
	Results    []driver.AppendResult
	Reasons    []string // of commits
	Reason     string   // of everything else
	Records    driver.Records
	Stats      []driver.PartitionStat
	View       groups.View
	Taken      []groups.Taken
}

// toyLogs is what the server keeps.
type toyLogs struct {
	faults toyLogFaults
	topics map[string]*toyJournal
}

type toyJournal struct {
	partitions [][]driver.Stored
	ids        map[string]driver.Position // nil: not asked for
	groups     map[string]*toyGroup
}

type toyGroup struct {
	names map[string]string
	beats map[string]time.Time
	rows  []toyRow
}

type toyRow struct {
	owner      string
	claim      int64
	checkpoint driver.Checkpoint
}

func (l *toyLogs) killed() {
	for _, t := range l.topics {
		for p, all := range t.partitions {
			if n := len(all); l.faults.losesAppends && n > 0 {
				t.partitions[p] = all[:n-1]
			}
		}
		for _, g := range t.groups {
			for i := range g.rows {
				if l.faults.losesCommits {
					g.rows[i].checkpoint = driver.Checkpoint{Next: 1}
				}
			}
		}
	}
}

func (l *toyLogs) answer(namespace string, r *toyLogRequest) *toyLogAnswer {
	name := namespace + "/" + r.Topic
	t := l.topics[name]
	if t == nil {
		if r.Make == nil {
			return &toyLogAnswer{Reason: errs.TopicNotFound.String()}
		}
		t = &toyJournal{partitions: make([][]driver.Stored, r.Make.Partitions), groups: map[string]*toyGroup{}}
		if r.Make.Dedup > 0 && !l.faults.appendsAgain {
			t.ids = map[string]driver.Position{}
		}
		if l.topics == nil {
			l.topics = map[string]*toyJournal{}
		}
		l.topics[name] = t
	}
	a := &toyLogAnswer{Partitions: len(t.partitions)}
	switch {
	case r.Append != nil:
		for _, record := range r.Append {
			a.Results = append(a.Results, l.append(t, record))
		}
	case r.Read != nil:
		a.Records = l.read(t, r.Read)
	case r.Stat:
		a.Stats = t.stat(r.Group)
	case r.Know != nil && t.groups[r.Group] == nil:
		g := &toyGroup{names: map[string]string{}, beats: map[string]time.Time{}, rows: make([]toyRow, len(t.partitions))}
		for i := range g.rows {
			g.rows[i].checkpoint.Next = 1
		}
		t.groups[r.Group] = g
	case r.Group != "":
		l.answerGroup(t.groups[r.Group], r, a)
	}
	return a
}

func (l *toyLogs) append(t *toyJournal, r driver.Record) driver.AppendResult {
	all := t.partitions[r.Partition]
	if first, known := t.ids[r.ID]; known {
		return driver.AppendResult{Position: first, Duplicate: true}
	}
	next := driver.Position(len(all) + 1)
	if t.ids != nil && r.ID != "" {
		t.ids[r.ID] = next
	}
	all = append(all, driver.Stored{Record: r, Position: next, Time: time.Now()})
	if l.faults.turnsAround && next%10 == 0 {
		all[next-1].Value, all[next-2].Value = all[next-2].Value, all[next-1].Value
	}
	t.partitions[r.Partition] = all
	return driver.AppendResult{Position: next}
}

func (l *toyLogs) read(t *toyJournal, r *driver.ReadRequest) driver.Records {
	all := t.partitions[r.Partition]
	from := min(max(r.From, 1), driver.Position(len(all)+1))
	found := all[from-1:]
	found = found[:min(len(found), r.Limit)]
	return driver.Records{Records: found, Next: from + driver.Position(len(found))}
}

func (t *toyJournal) stat(group string) (stats []driver.PartitionStat) {
	for p, all := range t.partitions {
		s := driver.PartitionStat{First: 1, End: driver.Position(len(all) + 1)}
		if g := t.groups[group]; g != nil {
			s.Known, s.Next, s.Owner = true, g.rows[p].checkpoint.Next, g.names[g.rows[p].owner]
			s.Waiting = int64(s.End - s.Next)
		}
		stats = append(stats, s)
	}
	return stats
}

func (l *toyLogs) answerGroup(g *toyGroup, r *toyLogRequest, a *toyLogAnswer) {
	if g == nil {
		a.Reason = errs.GroupNotFound.String()
		return
	}
	ttl := groups.TTL
	if l.faults.lease > 0 {
		ttl = l.faults.lease
	}
	if r.Beat {
		g.beats[r.Self.ID], g.names[r.Self.ID] = time.Now(), r.Self.Name
	}
	for id, at := range g.beats {
		if time.Since(at) > ttl {
			delete(g.beats, id)
			continue
		}
		a.View.Alive = append(a.View.Alive, id)
	}
	for i := range g.rows {
		row := &g.rows[i]
		if _, alive := g.beats[row.owner]; slices.Contains(r.Take, i) && (!alive || row.owner == r.Self.ID) {
			row.owner, row.claim = r.Self.ID, row.claim+1
			a.Taken = append(a.Taken, groups.Taken{Claim: groups.Claim{Partition: i, Number: row.claim}, Checkpoint: row.checkpoint})
		}
		if r.Leave && row.owner == r.Self.ID {
			row.owner = ""
		}
		a.View.Owners = append(a.View.Owners, groups.Owner{ID: row.owner, Claim: row.claim})
	}
	if r.Leave {
		delete(g.beats, r.Self.ID)
	}
	for _, c := range r.Release {
		if row := &g.rows[c.Partition]; row.owner == r.Self.ID && row.claim == c.Number {
			row.owner = ""
		}
	}
	for _, c := range r.Commit {
		a.Reasons = append(a.Reasons, toyReason(l.commit(&g.rows[c.Partition], r.Self.ID, c)))
	}
	for _, to := range r.Seek {
		row := &g.rows[to.Partition]
		*row = toyRow{claim: row.claim + 1, checkpoint: driver.Checkpoint{Next: to.Next}}
	}
}

func (l *toyLogs) commit(row *toyRow, self string, c driver.Commit) error {
	if !l.faults.unfenced && (row.owner != self || row.claim != c.Claim) {
		return errs.StaleReceipt
	}
	if !l.faults.unfenced && c.Next < row.checkpoint.Next {
		return nil // given up by its sender, and overtaken by a later one
	}
	row.checkpoint = c.Checkpoint
	if c.Release {
		row.owner = ""
	}
	return nil
}

type toyLog struct {
	*toyConn
	space driver.Space
}

func (l *toyLog) Guarantees() driver.LogGuarantees {
	return driver.LogGuarantees{Dedup: true, SeekLive: true, MaxRecord: 1 << 20, MaxNote: 4096, Shared: true, Ack: toyAck}
}

// ask asks the server, and tells apart what was sent and what was not.
func (l *toyLog) ask(ctx context.Context, r *toyLogRequest, writes bool) (*toyLogAnswer, error) {
	a, sent, err := l.call(ctx, &toyRequest{Space: l.space, Log: r})
	switch {
	case l.f.saysInternal && err != nil:
		return nil, errs.Internal
	case sent && writes && errors.Is(err, errs.BackendUnavailable):
		return nil, errs.OutcomeUnknown
	case err != nil:
		return nil, err
	case a.Log == nil:
		return nil, errs.BackendUnavailable
	}
	return a.Log, toyError(a.Log.Reason)
}

func (l *toyLog) Topic(ctx context.Context, spec driver.TopicSpec) (driver.Topic, error) {
	a, err := l.ask(ctx, &toyLogRequest{Topic: spec.Name, Make: &spec}, false)
	if err != nil {
		return nil, err
	}
	return &toyTopic{l, spec.Name, a.Partitions}, nil
}

type toyTopic struct {
	*toyLog
	name       string
	partitions int
}

func (t *toyTopic) Partitions() int { return t.partitions }

func (t *toyTopic) Append(ctx context.Context, records []driver.Record, results []driver.AppendResult) {
	a, err := t.ask(ctx, &toyLogRequest{Topic: t.name, Append: records}, true)
	for i := range results {
		if results[i] = (driver.AppendResult{Err: err}); err == nil {
			results[i] = a.Results[i]
		}
	}
}

func (t *toyTopic) Read(ctx context.Context, r driver.ReadRequest) (driver.Records, error) {
	a, err := t.ask(ctx, &toyLogRequest{Topic: t.name, Read: &r}, false)
	if err != nil {
		return driver.Records{}, err
	}
	return a.Records, nil
}

func (t *toyTopic) Stat(ctx context.Context, group string) ([]driver.PartitionStat, error) {
	a, err := t.ask(ctx, &toyLogRequest{Topic: t.name, Group: group, Stat: true}, false)
	if err != nil {
		return nil, err
	}
	return a.Stats, nil
}

func (t *toyTopic) Seek(ctx context.Context, group string, to []driver.Target) error {
	_, err := t.ask(ctx, &toyLogRequest{Topic: t.name, Group: group, Seek: to}, true)
	t.members.Ring(t.id(), group)
	return err
}

func (t *toyTopic) id() string { return t.space.Namespace + "/" + t.name }

func (t *toyTopic) Join(ctx context.Context, r driver.JoinRequest) (driver.Member, error) {
	reads := groups.Topic{Source: toySource{t}, Name: t.id(), Partitions: t.partitions, Log: slog.New(slog.DiscardHandler)}
	if r.Group == "" {
		return t.members.Read(reads, make([]driver.Position, t.partitions))
	}
	if _, err := t.ask(ctx, &toyLogRequest{Topic: t.name, Group: r.Group, Know: &r.Start}, true); err != nil {
		return nil, err
	}
	m, err := t.members.Join(reads, groups.Group{Table: toyTable{t, r.Group}, Name: r.Group, Member: r.Name, MaxNote: 4096})
	if err != nil || !t.f.log.losesRecords {
		return m, err
	}
	return &puppet{Member: m, events: func(all []driver.LogEvent) []driver.LogEvent {
		return slices.DeleteFunc(all, func(ev driver.LogEvent) bool { return ev.Kind == driver.Arrived && ev.Stored.Position%10 == 5 })
	}}, nil
}

type toySource struct{ t *toyTopic }

func (s toySource) Fetch(ctx context.Context, cursors []groups.Cursor, found []groups.Found) (uint64, error) {
	for i, c := range cursors {
		r, err := s.t.Read(ctx, driver.ReadRequest{Partition: c.Partition, From: c.From, Limit: 100})
		if err != nil {
			return 0, err
		}
		found[i].Records = r.Records
	}
	return 0, nil
}

func (toySource) Wait(ctx context.Context, _ []groups.Cursor, _ uint64) error {
	select {
	case <-time.After(10 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

type toyTable struct {
	t     *toyTopic
	group string
}

func (t toyTable) ask(ctx context.Context, r toyLogRequest, self groups.Self) (*toyLogAnswer, error) {
	r.Topic, r.Group, r.Self = t.t.name, t.group, self
	return t.t.ask(ctx, &r, true)
}

func (t toyTable) Beat(ctx context.Context, self groups.Self) (groups.View, error) {
	a, err := t.ask(ctx, toyLogRequest{Beat: true}, self)
	if err != nil {
		return groups.View{}, err
	}
	return a.View, nil
}

func (t toyTable) Take(ctx context.Context, self groups.Self, partitions []int) ([]groups.Taken, error) {
	a, err := t.ask(ctx, toyLogRequest{Take: partitions}, self)
	if err != nil {
		return nil, err
	}
	return a.Taken, nil
}

func (t toyTable) Commit(ctx context.Context, self groups.Self, commits []driver.Commit, results []error) {
	a, err := t.ask(ctx, toyLogRequest{Commit: commits}, self)
	for i := range results {
		if results[i] = err; err == nil {
			results[i] = toyError(a.Reasons[i])
		}
	}
}

func (t toyTable) Release(ctx context.Context, self groups.Self, claims []groups.Claim) error {
	_, err := t.ask(ctx, toyLogRequest{Release: claims}, self)
	return err
}

func (t toyTable) Leave(ctx context.Context, self groups.Self) error {
	_, err := t.ask(ctx, toyLogRequest{Leave: true}, self)
	return err
}

// TestLogFaultsAreFound runs the checks of faults against a Log that passes
// them, and against ones with a mistake each.
func TestLogFaultsAreFound(t *testing.T) {
	if testing.Short() {
		return // leases have to run out
	}
	t.Parallel()
	type wrong struct {
		name   string
		faults toyFaults
		found  []string
	}
	all := []wrong{
		{"no mistake", toyFaults{}, nil},
		{"commits of anybody are taken", toyFaults{log: toyLogFaults{unfenced: true}}, []string{"faults/late-commit"}},
		{"leases are long", toyFaults{log: toyLogFaults{lease: 20 * time.Second}}, []string{"faults/member-cut-off"}},
		{"a kill takes commits", toyFaults{log: toyLogFaults{losesCommits: true}}, []string{"faults/killed-and-restarted"}},
		{"a kill takes records", toyFaults{log: toyLogFaults{losesAppends: true}}, []string{"faults/killed-and-restarted"}},
		{"duplicates are appended", toyFaults{log: toyLogFaults{appendsAgain: true}}, []string{"faults/connections-cut"}},
		{"records change places", toyFaults{log: toyLogFaults{turnsAround: true}}, []string{"faults/paused"}},
		{"records are not handed out", toyFaults{log: toyLogFaults{losesRecords: true}}, []string{"faults/connections-cut"}},
		{"every error is internal", toyFaults{saysInternal: true}, []string{
			"faults/away-at-open", "faults/killed-and-restarted", "faults/paused", "faults/garbage", "faults/late-commit",
		}},
		{"a connection stays broken", toyFaults{staysBroken: true}, []string{"faults/connections-cut", "faults/garbage"}},
	}
	manyAtOnce(t, all, func(x wrong) string { return x.name }, func(t *testing.T, x wrong) {
		for _, name := range x.found {
			patientKit().mustFind(t, toyHarness(t, x.faults), name)
		}
		if x.found != nil {
			return
		}
		manyAtOnce(t, logFaultChecks(), checkName, func(t *testing.T, c check) {
			if said := patientKit().record(t, toyHarness(t, x.faults), c.name); len(said) > 0 {
				t.Errorf("fails without a mistake: %q", said)
			}
		})
	})
}

// patientKit is for what has to pass.
func patientKit() *kit {
	return &kit{logChecks(), newLogSuite, nil, nil, nil}
}

// TestKilledConsumers runs the check that kills a process: the toy's server is in
// this one, and so outlives it like a file.
func TestKilledConsumers(t *testing.T) {
	if testing.Short() {
		return // leases have to run out
	}
	lazy := spoilMember(func(p *puppet) {
		n := 0
		p.commit = func(ctx context.Context, commits []driver.Commit, results []error) {
			if n++; n < 3 {
				p.Member.Commit(ctx, commits, results)
			}
		}
	})
	forgetful := spoilTopic(func(t *tale) {
		t.append = func(ctx context.Context, records []driver.Record, results []driver.AppendResult) {
			if string(records[0].Value) == "5" {
				results[0] = driver.AppendResult{Position: 5}
				return
			}
			t.Topic.Append(ctx, records, results)
		}
	})
	for name, spoil := range map[string]func(*driver.Driver){"right": func(*driver.Driver) {}, "late-commits": lazy, "lost-records": forgetful} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := toyHarness(t, toyFaults{})
			h.Server = nil
			spoilLog(func(f *fable) { f.guarantees = func(g *driver.LogGuarantees) { g.Shared = false } })(&h.Driver)
			spoil(&h.Driver)
			runChild(t, h, logWriter)
			said := patientKit().record(t, h, "faults/process-killed")
			if right := name == "right"; right != (len(said) == 0) {
				t.Errorf("says %q", said)
			}
			t.Log(said)
		})
	}
}
