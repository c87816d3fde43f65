package drivertest

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// abrupt loses a partition at once where it should be told to leave it.
func abrupt(p *puppet) {
	claims := map[int]driver.LogEvent{}
	p.events = func(all []driver.LogEvent) []driver.LogEvent {
		for i, ev := range all {
			switch ev.Kind { //nolint:exhaustive // the others stay
			case driver.Gained:
				claims[ev.Partition] = ev
			case driver.Leaving:
				gained := claims[ev.Partition]
				commit := driver.Commit{Partition: ev.Partition, Claim: gained.Claim, Checkpoint: gained.Checkpoint, Release: true}
				p.Member.Commit(context.Background(), []driver.Commit{commit}, make([]error, 1))
				all[i].Kind = driver.Lost
			}
		}
		return all
	}
}

// hasty gives a partition up a second after it was told to leave it.
func hasty(p *puppet) {
	var mu sync.Mutex
	at := map[int]driver.Commit{}
	p.events = func(all []driver.LogEvent) []driver.LogEvent {
		mu.Lock()
		defer mu.Unlock()
		for _, ev := range all {
			switch ev.Kind { //nolint:exhaustive // the others stay
			case driver.Gained:
				at[ev.Partition] = driver.Commit{Partition: ev.Partition, Claim: ev.Claim, Checkpoint: ev.Checkpoint, Release: true}
			case driver.Leaving:
				commit := at[ev.Partition]
				time.AfterFunc(time.Second, func() {
					p.Member.Commit(context.Background(), []driver.Commit{commit}, make([]error, 1))
				})
			}
		}
		return all
	}
}

func moveMistakes() []mistake {
	return []mistake{
		{"partitions are lost without a warning", spoilMember(abrupt), []string{"moves/leaving-comes-first"}},
		{"leaving takes no time", spoilMember(hasty), []string{"moves/after-leave-time"}},
		{"who leaves too late is not told", spoilMemberEvents(func(ev *driver.LogEvent) bool { return ev.Kind != driver.Lost }), []string{"moves/after-leave-time", "seek/owned-partitions"}},
		{"closed members keep what they have", spoilMember(func(p *puppet) {
			p.close = func(context.Context) error { return nil }
		}), []string{"moves/closed-members", "groups/known-ones-stay"}},
	}
}

func commitMistakes() []mistake {
	staleIs := func(reason error) func(*puppet, driver.Commit, error) error {
		return func(_ *puppet, _ driver.Commit, err error) error {
			if errs.ReasonOf(err) == errs.StaleReceipt {
				return reason
			}
			return err
		}
	}
	return []mistake{
		{"stale commits are answered OK", spoilCommits(nil, staleIs(nil)), []string{
			"commits/outcomes-by-partition", "commits/of-another-member", "commits/release", "seek/owned-partitions", "moves/after-leave-time", "moves/closed-members",
		}},
		{"stale commits take effect", spoilTopic(func(t *tale) {
			t.join = func(ctx context.Context, r driver.JoinRequest) (driver.Member, error) {
				m, err := t.Topic.Join(ctx, r)
				p := &puppet{Member: m, request: r}
				p.commit = func(ctx context.Context, commits []driver.Commit, results []error) {
					m.Commit(ctx, commits, results)
					for i, c := range commits {
						if results[i] != nil {
							_ = t.Topic.Seek(ctx, r.Group, []driver.Target{{Partition: c.Partition, Next: c.Next}})
						}
					}
				}
				return p, err
			}
		}), []string{"commits/outcomes-by-partition", "commits/of-another-member", "commits/release", "moves/after-leave-time"}},
		{"notes are cut", spoilCommits(func(c *driver.Commit) { c.Note = c.Note[:min(len(c.Note), 4096)] }, nil), []string{"commits/notes"}},
		{"notes are trimmed", spoilCommits(func(c *driver.Commit) { c.Note = strings.TrimSpace(c.Note) }, nil), []string{"commits/notes"}},
		{"notes are short", spoilLog(func(f *fable) { f.guarantees = func(g *driver.LogGuarantees) { g.MaxNote = 1000 } }), []string{"commits/notes", "conn/guarantees"}},
		{"a commit is once", spoilMember(func(p *puppet) {
			last := map[int]driver.Commit{}
			p.commit = func(ctx context.Context, commits []driver.Commit, results []error) {
				p.Member.Commit(ctx, commits, results)
				for i, c := range commits {
					if last[c.Partition] == c {
						results[i] = errs.StaleReceipt
					}
					last[c.Partition] = c
				}
			}
		}), []string{"commits/repeated"}},
		{"commits fail as a whole", spoilMember(func(p *puppet) {
			p.commit = func(ctx context.Context, commits []driver.Commit, results []error) {
				p.Member.Commit(ctx, commits, results)
				if worst := cmp.Or(results...); worst != nil {
					for i := range results {
						results[i] = worst
					}
				}
			}
		}), []string{"commits/outcomes-by-partition"}},
		{"releases do not release", spoilCommits(func(c *driver.Commit) { c.Release = false }, nil), []string{"commits/release", "moves/leaving-comes-first"}},
		{"releases forget the checkpoint", spoilMember(func(p *puppet) {
			p.commit = func(ctx context.Context, commits []driver.Commit, results []error) {
				commits = slices.Clone(commits)
				for i := range commits {
					if commits[i].Release {
						commits[i].Checkpoint = driver.Checkpoint{Next: 1}
					}
				}
				p.Member.Commit(ctx, commits, results)
			}
		}), []string{"commits/release", "moves/leaving-comes-first"}},
		{"seeks are forgotten", spoilTopic(func(t *tale) {
			t.seek = func(ctx context.Context, group string, _ []driver.Target) error { return t.Topic.Seek(ctx, group, nil) }
		}), []string{"seek/anywhere", "seek/owned-partitions"}},
		{"seeks are of all partitions", spoilTopic(func(t *tale) {
			t.seek = func(ctx context.Context, group string, to []driver.Target) error {
				return t.Topic.Seek(ctx, group, append(slices.Clone(to), driver.Target{Partition: 1, Next: to[0].Next}))
			}
		}), []string{"seek/anywhere", "seek/owned-partitions"}},
		{"notes outlive a seek", spoilTopic(func(t *tale) {
			notes := map[int]string{}
			t.join = func(ctx context.Context, r driver.JoinRequest) (driver.Member, error) {
				m, err := t.Topic.Join(ctx, r)
				return &puppet{Member: m, events: func(all []driver.LogEvent) []driver.LogEvent {
					for i := range all {
						c := &all[i].Checkpoint
						if notes[all[i].Partition] = cmp.Or(c.Note, notes[all[i].Partition]); all[i].Kind == driver.Gained {
							c.Note = notes[all[i].Partition]
						}
					}
					return all
				}, commit: func(ctx context.Context, commits []driver.Commit, results []error) {
					for _, c := range commits {
						notes[c.Partition] = c.Note
					}
					m.Commit(ctx, commits, results)
				}}, err
			}
		}), []string{"seek/anywhere"}},
		{"seeks make groups", spoilTopic(func(t *tale) {
			t.seek = func(ctx context.Context, group string, to []driver.Target) error {
				err := t.Topic.Seek(ctx, group, to)
				if errs.ReasonOf(err) == errs.GroupNotFound {
					return nil
				}
				return err
			}
		}), []string{"seek/unknown-group"}},
	}
}

func readerMistakes() []mistake {
	return []mistake{
		{"readers share", spoilJoin(func(r *driver.JoinRequest) { r.Group = cmp.Or(r.Group, "readers") }), []string{"readers/all-partitions", "readers/keep-nothing"}},
		{"places of readers are ignored", spoilJoin(func(r *driver.JoinRequest) { r.At = nil }), []string{"readers/start"}},
		{"readers commit", spoilCommits(nil, func(p *puppet, _ driver.Commit, err error) error {
			if p.request.Group == "" {
				return nil
			}
			return err
		}), []string{"readers/keep-nothing"}},
	}
}

func statMistakes() []mistake {
	return []mistake{
		{"the end is the last record", spoilStat(func(_ int, s *driver.PartitionStat) { s.End = max(s.First, s.End-1) }), []string{"stat/positions"}},
		{"the first is always one", spoilStat(func(_ int, s *driver.PartitionStat) { s.First = 1 }), []string{"retention/age", "retention/bytes"}},
		{"an empty partition has a first record", spoilStat(func(_ int, s *driver.PartitionStat) { s.First = max(0, s.First-1) }), []string{"stat/positions"}},
		{"every group is known", spoilStat(func(_ int, s *driver.PartitionStat) { s.Known = true }), []string{"stat/groups", "groups/names", "groups/other-topics", "seek/unknown-group"}},
		{"one too many is waiting", spoilStat(func(_ int, s *driver.PartitionStat) {
			if s.Known {
				s.Waiting++
			}
		}), []string{"stat/groups", "commits/repeated"}},
		{"what is waiting is as old as the topic", spoilStat(func(_ int, s *driver.PartitionStat) {
			if s.Waiting > 0 {
				s.Oldest = s.Oldest.Add(-time.Hour)
			}
		}), []string{"stat/groups"}},
		{"owners are not told", spoilStat(func(_ int, s *driver.PartitionStat) { s.Owner = "" }), []string{"stat/groups", "groups/members-share", "groups/small-rooms"}},
	}
}

func retentionMistakes() []mistake {
	return []mistake{
		{"age deletes nothing", spoilSpec(func(s *driver.TopicSpec) { s.MaxAge = 0 }), []string{"retention/age"}},
		{"age deletes too early", spoilSpec(func(s *driver.TopicSpec) { s.MaxAge /= 2 }), []string{"retention/age"}},
		{"age deletes unasked", spoilSpec(func(s *driver.TopicSpec) { s.MaxAge = cmp.Or(s.MaxAge, 2*time.Second) }), []string{"retention/age"}},
		{"positions are given again", spoilTopic(func(t *tale) {
			t.append = func(ctx context.Context, records []driver.Record, results []driver.AppendResult) {
				before, err := t.Topic.Stat(ctx, "")
				t.Topic.Append(ctx, records, results)
				if p := records[0].Partition; err == nil && before[p].First == before[p].End {
					results[0].Position = 1
				}
			}
		}), []string{"retention/age"}},
		{"size deletes nothing", spoilSpec(func(s *driver.TopicSpec) { s.MaxBytes = 0 }), []string{"retention/bytes"}},
		{"size deletes too much", spoilSpec(func(s *driver.TopicSpec) { s.MaxBytes /= 4 }), []string{"retention/bytes"}},
		{"what was consumed stays", spoilSpec(func(s *driver.TopicSpec) { s.UntilConsumed = false }), []string{"retention/until-consumed"}},
		{"what was not consumed goes", spoilTopic(func(t *tale) {
			done := map[int]driver.Position{} // by somebody
			t.join = func(ctx context.Context, r driver.JoinRequest) (driver.Member, error) {
				m, err := t.Topic.Join(ctx, r)
				return &puppet{Member: m, commit: func(ctx context.Context, commits []driver.Commit, results []error) {
					m.Commit(ctx, commits, results)
					for _, c := range commits {
						done[c.Partition] = max(done[c.Partition], c.Next)
					}
				}}, err
			}
			t.read = func(ctx context.Context, r driver.ReadRequest) (driver.Records, error) {
				r.From = max(r.From, done[r.Partition])
				return t.Topic.Read(ctx, r)
			}
		}), []string{"retention/until-consumed"}},
		{"skipped records are not told", spoilMemberEvents(func(ev *driver.LogEvent) bool { ev.Skipped = 0; return true }), []string{"retention/skipped-records-are-counted"}},
		{"skipped records are told twice", spoilMemberEvents(func(ev *driver.LogEvent) bool { ev.Skipped *= 2; return true }), []string{"retention/skipped-records-are-counted"}},
		{"nobody knows how many were skipped", spoilMemberEvents(func(ev *driver.LogEvent) bool {
			if ev.Skipped > 0 {
				ev.Skipped = driver.SkippedUnknown
			}
			return true
		}), []string{"retention/skipped-records-are-counted"}},
	}
}

func logConnMistakes() []mistake {
	return []mistake{
		{"acks are made up", spoilLog(func(f *fable) { f.guarantees = func(g *driver.LogGuarantees) { g.Ack.OS = true } }), []string{"conn/guarantees"}},
		{"members are deaf to Close", spoilMember(func(p *puppet) {
			p.close = func(context.Context) error { return nil }
		}), []string{"conn/member-closes"}},
		{"closed members are away", spoilMember(func(p *puppet) {
			p.failed = func(err error) error {
				if errs.ReasonOf(err) == errs.Cancelled {
					return errs.BackendUnavailable
				}
				return err
			}
		}), []string{"conn/member-closes", "context/ended-before"}},
		{"members outlive their connection", spoilMember(func(p *puppet) {
			p.failed = func(err error) error {
				if errs.ReasonOf(err) == errs.BackendUnavailable {
					select {}
				}
				return err
			}
		}), []string{"conn/connection-closes"}},
		{"a closed connection is an internal error", spoilResults(func(results []driver.AppendResult) {
			for i := range results {
				if errs.ReasonOf(results[i].Err) == errs.BackendUnavailable {
					results[i].Err = errs.Internal
				}
			}
		}), []string{"conn/connection-closes", "conn/closes-under-load"}},
		{"appends ignore their context", spoilTopic(func(t *tale) {
			t.append = func(_ context.Context, records []driver.Record, results []driver.AppendResult) {
				t.Topic.Append(context.Background(), records, results)
			}
		}), []string{"context/ended-before"}},
		{"members ignore their context", spoilMember(func(p *puppet) {
			p.commit = func(_ context.Context, commits []driver.Commit, results []error) {
				p.Member.Commit(context.Background(), commits, results)
			}
		}), []string{"context/ended-before"}},
	}
}
