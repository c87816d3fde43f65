package drivertest

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

func logKit() *kit {
	open := func(tb testing.TB, h *Harness) *suite {
		s := newLogSuite(tb, h)
		s.due = 4 * time.Second // memory is quick, and much is waited for in vain here
		if strings.HasSuffix(tb.Name(), "/moves/after-leave-time") {
			s.due += driver.LeaveTime
		}
		return s
	}
	return &kit{logChecks(), open, logHarness, slices.Concat(
		topicMistakes(), appendMistakes(), dedupMistakes(), logReadMistakes(), groupMistakes(),
		moveMistakes(), commitMistakes(), readerMistakes(), statMistakes(), retentionMistakes(), logConnMistakes(),
	), slowLogMistakes}
}

// slowLogMistakes are found by waiting for what never comes.
var slowLogMistakes = []string{
	"who leaves too late is not told", "age deletes nothing", "members outlive their connection", "members are deaf to Close",
	"size deletes nothing", "what was consumed stays", "stale commits are answered OK", "stale commits take effect",
	"records come only once to a group", "members do not share", "releases do not release", "known groups start anew",
	"the first is always one", "seeks are forgotten", "closed members keep what they have", "leaving takes no time",
	"age deletes unasked", "positions are given again", "age deletes too early", "ids are remembered for ever",
	"deleted topics are away", "what was held is lost", "holds are for ever", "a record that follows another quickly is lost",
	"groups are of a connection", "partitions are lost without a warning", "readers share", "a closed member's partitions are nobody's",
	"a group has one member", "places of readers are ignored", "records are lost where there is little room",
}

// TestBrokenLogsAreFound runs checks against Logs with one mistake each.
func TestBrokenLogsAreFound(t *testing.T) {
	t.Parallel()
	k := logKit()
	manyAtOnce(t, k.mistakes, func(m mistake) string { return m.name }, func(t *testing.T, m mistake) {
		if testing.Short() && slices.Contains(k.slow, m.name) {
			return
		}
		for _, name := range m.found {
			h := k.harness()
			m.spoil(&h.Driver)
			k.mustFind(t, h, name)
		}
	})
}

// mustFind runs a check that has to fail, and not by falling over.
func (k *kit) mustFind(t *testing.T, h *Harness, name string) {
	t.Helper()
	switch said := k.record(t, h, name); {
	case len(said) == 0:
		t.Errorf("%s passes", name)
	case strings.HasPrefix(said[0], "panic"):
		t.Errorf("%s: %s", name, said[0])
	default:
		t.Logf("%s: %s", name, said[0])
	}
}

// manyAtOnce runs subtests that mostly wait, more at once than there are
// processors for.
func manyAtOnce[T any](t *testing.T, all []T, name func(T) string, run func(*testing.T, T)) {
	t.Helper()
	slots := make(chan struct{}, 8)
	var wg sync.WaitGroup
	for _, x := range all {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			t.Run(strings.ReplaceAll(name(x), " ", "-"), func(t *testing.T) { run(t, x) })
		})
	}
	wg.Wait()
}

func TestEachLogCheckCanFail(t *testing.T) {
	t.Parallel()
	logKit().canAllFail(t)
}

// TestLogChecksPass runs all checks on the technology that mistakes are made in.
func TestLogChecksPass(t *testing.T) {
	t.Parallel()
	manyAtOnce(t, logChecks(), checkName, func(t *testing.T, c check) {
		if said := patientKit().record(t, logHarness(), c.name); len(said) > 0 {
			t.Errorf("fails: %q", said)
		}
	})
}

func checkName(c check) string { return c.name }

// TestLogLeaksAreFound is not parallel: the checks look at all goroutines.
func TestLogLeaksAreFound(t *testing.T) {
	k := logKit()
	k.checks = logAloneChecks
	leaking := func(d *driver.Driver) {
		spoilMember(func(p *puppet) {
			stop := make(chan struct{})
			t.Cleanup(func() { close(stop) })
			go func() { <-stop }()
		})(d)
	}
	for _, c := range logAloneChecks {
		if said := k.record(t, logHarness(), c.name); len(said) > 0 {
			t.Errorf("%s fails without a leak: %s", c.name, said)
		}
		if said := k.record(t, toyHarness(t, toyFaults{}), c.name); len(said) > 0 {
			t.Errorf("%s fails without a leak, after faults: %s", c.name, said)
		}
		if c.name == "leaks/members" && testing.Short() {
			continue // it waits for goroutines that never end
		}
		h := logHarness()
		leaking(&h.Driver)
		if said := k.record(t, h, c.name); len(said) == 0 {
			t.Errorf("%s passes with a goroutine left behind by each member", c.name)
		}
	}
}

func topicMistakes() []mistake {
	return []mistake{
		{"topics fold case", spoilSpec(func(s *driver.TopicSpec) { s.Name = strings.ToLower(s.Name) }), []string{"topics/names", "groups/other-topics", "dedup/other-topics"}},
		{"topics are cut", spoilSpec(func(s *driver.TopicSpec) { s.Name = s.Name[:min(len(s.Name), 159)] }), []string{"topics/names"}},
		{"dots are underscores", spoilSpec(func(s *driver.TopicSpec) { s.Name = strings.ReplaceAll(s.Name, ".", "_") }), []string{"topics/dots-and-underscores"}},
		{"namespaces share topics", spoilSpaces(func(s driver.Space) driver.Space { s.Namespace = "all"; return s }), []string{"topics/other-namespaces"}},
		{"namespaces fold case", spoilSpaces(func(s driver.Space) driver.Space { s.Namespace = strings.ToLower(s.Namespace); return s }), []string{"topics/other-namespaces"}},
		{"patterns have topics of their own", spoilSpaces(func(s driver.Space) driver.Space { s.Namespace += s.Pattern; return s }), []string{"topics/spaces-of-a-namespace", "dedup/connections"}},
		{"a namespace and a topic are joined by a dot", spoilLog(func(f *fable) {
			f.spec = func(s *driver.TopicSpec) { s.Name = f.space.Namespace + "." + s.Name }
			f.Log = everyNamespace(f.Log)
		}), []string{"topics/other-namespaces"}},
		{"topics are of a connection", perConn(func(id string) func(*fable) {
			return func(f *fable) { f.spec = func(s *driver.TopicSpec) { s.Name += id } }
		}), []string{"topics/made-once", "topics/found-again"}},
		{"topics have a thousand partitions", spoilSpec(func(s *driver.TopicSpec) { s.Partitions = min(s.Partitions, 1000) }), []string{"topics/many-partitions"}},
		{"weaker topics will do", spoilLog(func(f *fable) {
			f.refused = func(s driver.TopicSpec, err error) (driver.Topic, error) {
				if errs.ReasonOf(err) != errs.InvalidConfiguration {
					return nil, err
				}
				s.Partitions, s.MaxAge, s.MaxBytes, s.Dedup, s.UntilConsumed = 1, 2*time.Hour, 64<<20, 0, true
				return f.Log.Topic(context.Background(), s)
			}
		}), []string{"topics/weaker-ones-are-refused"}},
		{"one difference is told", spoilLog(func(f *fable) {
			f.refused = func(_ driver.TopicSpec, err error) (driver.Topic, error) {
				known := *errs.From(err)
				known.Fields = known.Fields[:min(len(known.Fields), 1)]
				return nil, &known
			}
		}), []string{"topics/weaker-ones-are-refused"}},
		{"topics that differ are altered", spoilLog(func(f *fable) {
			f.refused = func(s driver.TopicSpec, _ error) (driver.Topic, error) {
				s.Name += "2"
				return f.Log.Topic(context.Background(), s)
			}
		}), []string{"topics/weaker-ones-are-refused"}},
		{"settings are accepted and not promised", spoilLog(func(f *fable) {
			f.guarantees = func(g *driver.LogGuarantees) { g.Dedup, g.UntilConsumed = false, false }
		}), []string{"topics/unsupported-settings"}},
		{"topics of others are made", spoilSpec(func(s *driver.TopicSpec) { s.Physical = "" }), []string{"topics/unsupported-settings", "topics/adopted"}},
		{"headers of others are dropped", spoilRead(nil, func(_ driver.ReadRequest, found *driver.Records) {
			for i := range found.Records {
				r := &found.Records[i]
				r.Headers = slices.DeleteFunc(r.Headers, func(h driver.Header) bool { return strings.ContainsAny(h.Name, " :") })
			}
		}), []string{"topics/adopted"}},
		{"deleted topics are away", spoilTopic(func(t *tale) {
			t.stat = func(ctx context.Context, group string) ([]driver.PartitionStat, error) {
				all, err := t.Topic.Stat(ctx, group)
				if errs.ReasonOf(err) == errs.TopicNotFound {
					err = errs.BackendUnavailable
				}
				return all, err
			}
		}), []string{"topics/deleted-by-others"}},
	}
}

// everyNamespace is the one Log that all namespaces have.
func everyNamespace(driver.Log) driver.Log {
	b, err := theOne().Space(driver.Space{Namespace: "every"})
	if err != nil {
		panic(err)
	}
	return b.Log
}

var theOne = sync.OnceValue(func() driver.Conn {
	h := memoryHarness()
	conn, err := h.Driver.Open(h.Config)
	if err != nil {
		panic(err)
	}
	return conn
})

func appendMistakes() []mistake {
	return []mistake{
		{"empty keys are none", spoilRecord(func(r *driver.Record) {
			if len(r.Key) == 0 {
				r.Key = nil
			}
		}), []string{"append/any-bytes"}},
		{"ids are lost", spoilRead(nil, func(_ driver.ReadRequest, found *driver.Records) {
			for i := range found.Records {
				found.Records[i].ID = ""
			}
		}), []string{"append/any-bytes"}},
		{"headers are sorted by value", spoilRecord(func(r *driver.Record) {
			r.Headers = slices.SortedFunc(slices.Values(r.Headers), func(a, b driver.Header) int { return cmp.Compare(a.Value, b.Value) })
		}), []string{"append/any-bytes"}},
		{"a header's name is once", spoilRecord(func(r *driver.Record) {
			r.Headers = slices.CompactFunc(slices.Clone(r.Headers), func(a, b driver.Header) bool { return a.Name == b.Name })
		}), []string{"append/any-bytes"}},
		{"values are cut", spoilRecord(func(r *driver.Record) { r.Value = r.Value[:min(len(r.Value), 1<<20)] }), []string{"append/any-bytes"}},
		{"events have no headers", spoilMemberEvents(func(ev *driver.LogEvent) bool { ev.Stored.Headers = nil; return true }), []string{"append/any-bytes", "append/memory-is-not-shared"}},
		{"a call fails as a whole", spoilResults(func(results []driver.AppendResult) {
			for _, r := range results {
				if r.Err != nil {
					for i := range results {
						results[i].Err = r.Err
					}
				}
			}
		}), []string{"append/outcomes-by-record"}},
		{"more is promised than is taken", spoilLog(func(f *fable) {
			f.guarantees = func(g *driver.LogGuarantees) { g.MaxRecord++ }
		}), []string{"append/outcomes-by-record"}},
		{"the last outcome is left out", spoilTopic(func(t *tale) {
			t.append = func(ctx context.Context, records []driver.Record, results []driver.AppendResult) {
				told := make([]driver.AppendResult, len(results))
				t.Topic.Append(ctx, records, told)
				copy(results, told[:max(0, len(told)-1)])
			}
		}), []string{"append/outcomes-by-record", "append/order"}},
		{"records are the reader's", spoilTopic(func(t *tale) {
			var mu sync.Mutex
			var all []driver.Stored
			t.read = func(ctx context.Context, r driver.ReadRequest) (driver.Records, error) {
				mu.Lock()
				defer mu.Unlock()
				found, err := t.Topic.Read(ctx, r)
				if len(all) < len(found.Records) {
					all = slices.Clone(found.Records)
				}
				found.Records = all[:len(found.Records)]
				return found, err
			}
		}), []string{"append/memory-is-not-shared"}},
		{"calls are turned around", spoilTopic(func(t *tale) {
			t.append = func(ctx context.Context, records []driver.Record, results []driver.AppendResult) {
				records = slices.Clone(records)
				slices.Reverse(records)
				t.Topic.Append(ctx, records, results)
				slices.Reverse(results)
			}
		}), []string{"append/order", "append/at-once"}},
		{"every record has the position of the first", spoilResults(func(results []driver.AppendResult) {
			for i := range results {
				results[i].Position = results[0].Position
			}
		}), []string{"append/order", "append/at-once"}},
		{"positions are hidden for a moment", spoilRead(nil, func(_ driver.ReadRequest, found *driver.Records) {
			found.Records = slices.DeleteFunc(found.Records, func(s driver.Stored) bool {
				return s.Position%17 == 3 && time.Since(s.Time) < 200*time.Millisecond
			})
		}), []string{"append/visible-in-order"}},
		{"a record that follows another quickly is lost", spoilMember(func(p *puppet) {
			p.events = func(all []driver.LogEvent) []driver.LogEvent {
				if len(all) == 50 {
					return all[:49]
				}
				return all
			}
		}), []string{"append/visible-in-order"}},
	}
}

func dedupMistakes() []mistake {
	return []mistake{
		{"duplicates are appended", spoilRecord(func(r *driver.Record) { r.ID = "" }), []string{"dedup/in-a-call", "dedup/at-once", "dedup/connections"}},
		{"ids fold case", spoilRecord(func(r *driver.Record) { r.ID = strings.ToLower(r.ID) }), []string{"dedup/in-a-call"}},
		{"ids are of a connection", perConn(func(id string) func(*fable) {
			return func(f *fable) {
				f.topic = func(_ driver.TopicSpec, t *tale) {
					t.append = func(ctx context.Context, records []driver.Record, results []driver.AppendResult) {
						records = slices.Clone(records)
						for i := range records {
							if records[i].ID != "" {
								records[i].ID += id
							}
						}
						t.Topic.Append(ctx, records, results)
					}
				}
			}
		}), []string{"dedup/connections", "dedup/at-once", "dedup/reopened"}},
		{"ids are remembered for ever", spoilSpec(func(s *driver.TopicSpec) { s.Dedup *= 1000 }), []string{"dedup/window"}},
		{"ids are soon forgotten", spoilSpec(func(s *driver.TopicSpec) { s.Dedup /= 4 }), []string{"dedup/window"}},
		{"ids are of all topics", spoilLog(func(f *fable) {
			var seen sync.Map
			f.topic = func(s driver.TopicSpec, t *tale) {
				t.append = func(ctx context.Context, records []driver.Record, results []driver.AppendResult) {
					t.Topic.Append(ctx, records, results)
					for i, r := range records {
						if of, known := seen.LoadOrStore(r.ID, s.Name); known && of != s.Name {
							results[i].Duplicate = true
						}
					}
				}
			}
		}), []string{"dedup/other-topics"}},
		{"duplicates are always known", spoilSpec(func(s *driver.TopicSpec) { s.Dedup = max(s.Dedup, time.Hour) }), []string{"dedup/not-asked-for"}},
		{"duplicates are not told", spoilResults(func(results []driver.AppendResult) {
			for i := range results {
				results[i].Duplicate = false
			}
		}), []string{"dedup/in-a-call"}},
	}
}

func logReadMistakes() []mistake {
	return []mistake{
		{"reads begin behind the position", spoilRead(func(r *driver.ReadRequest) { r.From++ }, nil), []string{"read/from-a-position"}},
		{"reads have no limit", spoilRead(func(r *driver.ReadRequest) { r.Limit = 1000 }, nil), []string{"read/bounds", "read/from-a-position"}},
		{"reads count no bytes", spoilRead(func(r *driver.ReadRequest) { r.MaxBytes = 0 }, nil), []string{"read/bounds"}},
		{"reads go on one too far", spoilRead(nil, func(_ driver.ReadRequest, found *driver.Records) { found.Next++ }), []string{"read/ends"}},
		{"reads of nothing go on where they began", spoilRead(nil, func(r driver.ReadRequest, found *driver.Records) {
			if len(found.Records) == 0 {
				found.Next = r.From
			}
		}), []string{"read/ends"}},
		{"times are ignored", spoilRead(func(r *driver.ReadRequest) {
			if !r.Time.IsZero() {
				r.Time, r.From = time.Time{}, 0
			}
		}, nil), []string{"read/by-time"}},
		{"times are of the second", spoilRead(func(r *driver.ReadRequest) {
			if !r.Time.IsZero() {
				r.Time = r.Time.Truncate(time.Second)
			}
		}, nil), []string{"read/by-time"}},
		{"reads take records from groups", spoilTopic(func(t *tale) {
			t.read = func(ctx context.Context, r driver.ReadRequest) (driver.Records, error) {
				found, err := t.Topic.Read(ctx, r)
				_ = t.Topic.Seek(ctx, "g", []driver.Target{{Partition: r.Partition, Next: found.Next}})
				return found, err
			}
		}), []string{"read/takes-nothing"}},
	}
}

func groupMistakes() []mistake {
	return []mistake{
		{"starts are ignored", spoilJoin(func(r *driver.JoinRequest) { r.Start = driver.Start{} }), []string{"groups/start", "groups/start-is-of-all-partitions", "readers/start"}},
		{"starts by time are in seconds", spoilJoin(func(r *driver.JoinRequest) { r.Start.Time = r.Start.Time.Truncate(time.Second) }), []string{"groups/start"}},
		{"known groups start anew", spoilTopic(func(t *tale) {
			t.join = func(ctx context.Context, r driver.JoinRequest) (driver.Member, error) {
				all, err := t.Topic.Stat(ctx, r.Group)
				var to []driver.Target
				for p, s := range all {
					to = append(to, driver.Target{Partition: p, Next: s.End})
				}
				if err == nil {
					_ = t.Topic.Seek(ctx, r.Group, to)
				}
				return t.Topic.Join(ctx, r)
			}
		}), []string{"groups/known-ones-stay", "groups/start-is-of-all-partitions"}},
		{"groups fold case", spoilTopic(func(t *tale) {
			t.join = func(ctx context.Context, r driver.JoinRequest) (driver.Member, error) {
				r.Group = strings.ToLower(r.Group)
				return t.Topic.Join(ctx, r)
			}
			t.stat = func(ctx context.Context, group string) ([]driver.PartitionStat, error) {
				return t.Topic.Stat(ctx, strings.ToLower(group))
			}
		}), []string{"groups/names"}},
		{"groups are of a connection", perConn(func(id string) func(*fable) {
			return func(f *fable) {
				f.topic = func(_ driver.TopicSpec, t *tale) {
					t.join = func(ctx context.Context, r driver.JoinRequest) (driver.Member, error) {
						if r.Group != "" {
							r.Group += id
						}
						return t.Topic.Join(ctx, r)
					}
				}
			}
		}), []string{"groups/members-share", "commits/reopened"}},
		{"records come twice", spoilMember(func(p *puppet) {
			p.events = func(all []driver.LogEvent) []driver.LogEvent { return append(all[:1:1], all...) }
		}), []string{"groups/records-from-the-checkpoint"}},
		{"records come only once to a group", spoilTopic(func(t *tale) {
			var mu sync.Mutex
			seen := map[string]bool{}
			t.join = func(ctx context.Context, r driver.JoinRequest) (driver.Member, error) {
				m, err := t.Topic.Join(ctx, r)
				return &puppet{Member: m, events: func(all []driver.LogEvent) []driver.LogEvent {
					mu.Lock()
					defer mu.Unlock()
					return slices.DeleteFunc(all, func(ev driver.LogEvent) bool {
						key := r.Group + string(ev.Stored.Value)
						again := seen[key] && ev.Kind == driver.Arrived
						seen[key] = true
						return again
					})
				}}, err
			}
		}), []string{"groups/records-from-the-checkpoint", "moves/closed-members"}},
		{"commits are one behind", spoilCommits(func(c *driver.Commit) { c.Next-- }, nil), []string{"groups/records-from-the-checkpoint", "commits/notes", "moves/leaving-comes-first"}},
		{"records are lost where there is little room", spoilMember(func(p *puppet) {
			p.events = func(all []driver.LogEvent) []driver.LogEvent {
				if len(all) == 2 && all[1].Kind == driver.Arrived {
					return all[:1]
				}
				return all
			}
		}), []string{"groups/small-rooms"}},
		{"members do not share", spoilJoin(func(r *driver.JoinRequest) {
			if r.Group != "" {
				r.Group += "." + unique()
			}
		}), []string{"groups/members-share", "moves/leaving-comes-first"}},
		{"a group has one member", spoilTopic(func(t *tale) {
			first := map[string]string{}
			var mu sync.Mutex
			t.join = func(ctx context.Context, r driver.JoinRequest) (driver.Member, error) {
				mu.Lock()
				defer mu.Unlock()
				if first[r.Group] != "" && r.Group == "g" {
					r.Group += "." + unique()
				}
				first[r.Group] = r.Name
				return t.Topic.Join(ctx, r)
			}
		}), []string{"groups/members-come-and-go"}},
		{"a closed member's partitions are nobody's", spoilMember(func(p *puppet) {
			p.close = func(context.Context) error { return nil }
		}), []string{"groups/members-come-and-go"}},
		{"holds are ignored", spoilMember(func(p *puppet) { p.hold = func(int, bool) {} }), []string{"groups/hold", "groups/what-is-not-taken-is-bounded"}},
		{"holds are for ever", spoilMember(func(p *puppet) {
			p.hold = func(partition int, hold bool) { p.Member.Hold(partition, hold || partition == 0) }
		}), []string{"groups/hold"}},
		{"what was held is lost", spoilMember(func(p *puppet) {
			lose := map[int]bool{}
			p.hold = func(partition int, hold bool) {
				lose[partition] = !hold
				p.Member.Hold(partition, hold)
			}
			p.events = func(all []driver.LogEvent) []driver.LogEvent {
				return slices.DeleteFunc(all, func(ev driver.LogEvent) bool {
					lost := ev.Kind == driver.Arrived && lose[ev.Partition]
					if lost {
						lose[ev.Partition] = false
					}
					return lost
				})
			}
		}), []string{"groups/hold"}},
		{"everything is fetched ahead", spoilTopic(func(t *tale) {
			t.join = func(ctx context.Context, r driver.JoinRequest) (driver.Member, error) {
				m, err := t.Topic.Join(ctx, r)
				if err != nil {
					return nil, err
				}
				return newHoarder(m), nil
			}
		}), []string{"groups/what-is-not-taken-is-bounded"}},
	}
}

// hoarder takes all events at once and hands them out slowly.
type hoarder struct {
	driver.Member
	mu   sync.Mutex // guards what follows
	have []driver.LogEvent
	err  error
	more chan struct{}
}

func newHoarder(m driver.Member) *hoarder {
	h := &hoarder{Member: m, more: make(chan struct{}, 1)}
	go func() {
		for {
			events := make([]driver.LogEvent, 100)
			n, err := m.Next(context.Background(), events)
			h.mu.Lock()
			h.have, h.err = append(h.have, events[:n]...), err
			h.mu.Unlock()
			select {
			case h.more <- struct{}{}:
			default:
			}
			if err != nil {
				return
			}
		}
	}()
	return h
}

func (h *hoarder) Next(ctx context.Context, events []driver.LogEvent) (int, error) {
	for {
		h.mu.Lock()
		n := copy(events, h.have)
		h.have = h.have[n:]
		err := h.err
		h.mu.Unlock()
		switch {
		case n > 0:
			return n, nil
		case err != nil:
			return 0, err
		}
		select {
		case <-h.more:
		case <-ctx.Done():
			return 0, errs.ReasonOf(ctx.Err())
		}
	}
}
