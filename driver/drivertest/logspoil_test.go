package drivertest

import (
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// A fable is a Log with some of what it does replaced, down to its topics and
// members.
type fable struct {
	driver.Log
	space      driver.Space
	spec       func(*driver.TopicSpec) // changes what is asked for
	refused    func(driver.TopicSpec, error) (driver.Topic, error)
	topic      func(driver.TopicSpec, *tale)
	guarantees func(*driver.LogGuarantees)
}

func (f *fable) Topic(ctx context.Context, spec driver.TopicSpec) (driver.Topic, error) {
	if f.spec != nil {
		f.spec(&spec)
	}
	t, err := f.Log.Topic(ctx, spec)
	if err != nil {
		if f.refused != nil {
			return f.refused(spec, err)
		}
		return nil, err
	}
	told := &tale{Topic: t}
	if f.topic != nil {
		f.topic(spec, told)
	}
	return told, nil
}

func (f *fable) Guarantees() driver.LogGuarantees {
	g := f.Log.Guarantees()
	if f.guarantees != nil {
		f.guarantees(&g)
	}
	return g
}

// A tale is a topic with some methods replaced.
type tale struct {
	driver.Topic
	append func(ctx context.Context, records []driver.Record, results []driver.AppendResult)
	read   func(ctx context.Context, r driver.ReadRequest) (driver.Records, error)
	join   func(ctx context.Context, r driver.JoinRequest) (driver.Member, error)
	stat   func(ctx context.Context, group string) ([]driver.PartitionStat, error)
	seek   func(ctx context.Context, group string, to []driver.Target) error
}

func (t *tale) Append(ctx context.Context, records []driver.Record, results []driver.AppendResult) {
	if t.append == nil {
		t.Topic.Append(ctx, records, results)
		return
	}
	t.append(ctx, records, results)
}

func (t *tale) Read(ctx context.Context, r driver.ReadRequest) (driver.Records, error) {
	if t.read == nil {
		return t.Topic.Read(ctx, r)
	}
	return t.read(ctx, r)
}

func (t *tale) Join(ctx context.Context, r driver.JoinRequest) (driver.Member, error) {
	if t.join == nil {
		return t.Topic.Join(ctx, r)
	}
	return t.join(ctx, r)
}

func (t *tale) Stat(ctx context.Context, group string) ([]driver.PartitionStat, error) {
	if t.stat == nil {
		return t.Topic.Stat(ctx, group)
	}
	return t.stat(ctx, group)
}

func (t *tale) Seek(ctx context.Context, group string, to []driver.Target) error {
	if t.seek == nil {
		return t.Topic.Seek(ctx, group, to)
	}
	return t.seek(ctx, group, to)
}

// A puppet is a member with some of what it does replaced.
type puppet struct {
	driver.Member
	request driver.JoinRequest
	events  func([]driver.LogEvent) []driver.LogEvent // what is told of those that came
	failed  func(error) error                         // of Next
	hold    func(partition int, hold bool)
	commit  func(ctx context.Context, commits []driver.Commit, results []error)
	close   func(ctx context.Context) error
}

func (p *puppet) Next(ctx context.Context, events []driver.LogEvent) (int, error) {
	for {
		n, err := p.Member.Next(ctx, events)
		if err != nil && p.failed != nil {
			err = p.failed(err)
		}
		if err != nil || p.events == nil {
			return n, err
		}
		if n = copy(events, p.events(slices.Clone(events[:n]))); n > 0 {
			return n, nil
		}
	}
}

func (p *puppet) Hold(partition int, hold bool) {
	if p.hold == nil {
		p.Member.Hold(partition, hold)
		return
	}
	p.hold(partition, hold)
}

func (p *puppet) Commit(ctx context.Context, commits []driver.Commit, results []error) {
	if p.commit == nil {
		p.Member.Commit(ctx, commits, results)
		return
	}
	p.commit(ctx, commits, results)
}

func (p *puppet) Close(ctx context.Context) error {
	if p.close == nil {
		return p.Member.Close(ctx)
	}
	return p.close(ctx)
}

func spoilLog(spoil func(*fable)) func(*driver.Driver) {
	return spoilBackend(func(s driver.Space, b *driver.Backend) {
		f := &fable{Log: b.Log, space: s}
		spoil(f)
		b.Log = f
	})
}

// spoilSpec changes the topics that are asked for.
func spoilSpec(change func(*driver.TopicSpec)) func(*driver.Driver) {
	return spoilLog(func(f *fable) { f.spec = change })
}

func spoilTopic(spoil func(*tale)) func(*driver.Driver) {
	return spoilLog(func(f *fable) { f.topic = func(_ driver.TopicSpec, t *tale) { spoil(t) } })
}

// spoilRecords changes what is appended.
func spoilRecords(change func([]driver.Record)) func(*driver.Driver) {
	return spoilTopic(func(t *tale) {
		t.append = func(ctx context.Context, records []driver.Record, results []driver.AppendResult) {
			records = slices.Clone(records)
			change(records)
			t.Topic.Append(ctx, records, results)
		}
	})
}

func spoilRecord(change func(*driver.Record)) func(*driver.Driver) {
	return spoilRecords(func(records []driver.Record) {
		for i := range records {
			change(&records[i])
		}
	})
}

// spoilResults changes what an append answers.
func spoilResults(change func([]driver.AppendResult)) func(*driver.Driver) {
	return spoilTopic(func(t *tale) {
		t.append = func(ctx context.Context, records []driver.Record, results []driver.AppendResult) {
			t.Topic.Append(ctx, records, results)
			change(results)
		}
	})
}

// spoilRead changes what is read, on its way in and out.
func spoilRead(in func(*driver.ReadRequest), out func(driver.ReadRequest, *driver.Records)) func(*driver.Driver) {
	return spoilTopic(func(t *tale) {
		t.read = func(ctx context.Context, r driver.ReadRequest) (driver.Records, error) {
			asked := r
			if in != nil {
				in(&r)
			}
			found, err := t.Topic.Read(ctx, r)
			if out != nil && err == nil {
				out(asked, &found)
			}
			return found, err
		}
	})
}

func spoilJoin(change func(*driver.JoinRequest)) func(*driver.Driver) {
	return spoilTopic(func(t *tale) {
		t.join = func(ctx context.Context, r driver.JoinRequest) (driver.Member, error) {
			change(&r)
			return t.Topic.Join(ctx, r)
		}
	})
}

func spoilMember(spoil func(*puppet)) func(*driver.Driver) {
	return spoilTopic(func(t *tale) {
		t.join = func(ctx context.Context, r driver.JoinRequest) (driver.Member, error) {
			m, err := t.Topic.Join(ctx, r)
			if err != nil {
				return nil, err
			}
			p := &puppet{Member: m, request: r}
			spoil(p)
			return p, nil
		}
	})
}

// spoilMemberEvents changes events on their way, one after the other.
func spoilMemberEvents(change func(*driver.LogEvent) (keep bool)) func(*driver.Driver) {
	return spoilMember(func(p *puppet) {
		p.events = func(all []driver.LogEvent) []driver.LogEvent {
			kept := all[:0]
			for _, ev := range all {
				if change(&ev) {
					kept = append(kept, ev)
				}
			}
			return kept
		}
	})
}

// spoilCommits changes what is committed on its way in, and the outcomes.
func spoilCommits(in func(*driver.Commit), out func(p *puppet, c driver.Commit, err error) error) func(*driver.Driver) {
	return spoilMember(func(p *puppet) {
		p.commit = func(ctx context.Context, commits []driver.Commit, results []error) {
			asked := slices.Clone(commits)
			commits = slices.Clone(commits)
			for i := range commits {
				if in != nil {
					in(&commits[i])
				}
			}
			p.Member.Commit(ctx, commits, results)
			for i := range results {
				if out != nil {
					results[i] = out(p, asked[i], results[i])
				}
			}
		}
	})
}

func spoilStat(change func(p int, s *driver.PartitionStat)) func(*driver.Driver) {
	return spoilTopic(func(t *tale) {
		t.stat = func(ctx context.Context, group string) ([]driver.PartitionStat, error) {
			all, err := t.Topic.Stat(ctx, group)
			for i := range all {
				change(i, &all[i])
			}
			return all, err
		}
	})
}

// renamed opens every space under another name.
type renamed struct {
	driver.Conn
	change func(driver.Space) driver.Space
}

func (c renamed) Space(s driver.Space) (driver.Backend, error) { return c.Conn.Space(c.change(s)) }

func spoilSpaces(change func(driver.Space) driver.Space) func(*driver.Driver) {
	return spoilConn(func(c driver.Conn) driver.Conn { return renamed{c, change} })
}

// perConn has something else for every connection.
func perConn(spoil func(id string) func(*fable)) func(*driver.Driver) {
	return spoilConn(func(c driver.Conn) driver.Conn {
		id := unique()
		return spoiledConn{c, func(s driver.Space, b *driver.Backend) {
			f := &fable{Log: b.Log, space: s}
			spoil(id)(f)
			b.Log = f
		}}
	})
}

// outside is where the topics of other programs lie in memory.
type outside struct {
	mu      sync.Mutex // guards deleted
	deleted map[string]bool
}

func (o *outside) gone(name string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.deleted[name] {
		return errs.TopicNotFound
	}
	return nil
}

// adopts makes a Log find the topics of others.
func (o *outside) adopts(conn driver.Conn) func(*fable) {
	return func(f *fable) {
		own := f.Log
		f.Log = pickLog{own, func(spec *driver.TopicSpec) driver.Log {
			if spec.Physical == "" {
				return own
			}
			b, err := conn.Space(driver.Space{Namespace: "outside"})
			if err != nil {
				return own
			}
			return b.Log
		}}
		f.topic = func(spec driver.TopicSpec, t *tale) {
			if spec.Physical != "" {
				o.closes(spec.Physical, t)
			}
		}
		f.spec = func(spec *driver.TopicSpec) {
			if spec.Physical != "" && o.gone(spec.Physical) != nil {
				spec.Physical += "-gone"
			}
		}
	}
}

// closes makes everything fail once a topic was deleted.
func (o *outside) closes(name string, t *tale) {
	inner := t.Topic
	t.append = func(ctx context.Context, records []driver.Record, results []driver.AppendResult) {
		inner.Append(ctx, records, results)
		for i := range results {
			if err := o.gone(name); err != nil {
				results[i] = driver.AppendResult{Err: err}
			}
		}
	}
	t.read = func(ctx context.Context, r driver.ReadRequest) (driver.Records, error) {
		if err := o.gone(name); err != nil {
			return driver.Records{}, err
		}
		return inner.Read(ctx, r)
	}
	t.stat = func(ctx context.Context, group string) ([]driver.PartitionStat, error) {
		if err := o.gone(name); err != nil {
			return nil, err
		}
		return inner.Stat(ctx, group)
	}
	t.join = func(ctx context.Context, r driver.JoinRequest) (driver.Member, error) {
		if err := o.gone(name); err != nil {
			return nil, err
		}
		return inner.Join(ctx, r)
	}
	t.seek = func(ctx context.Context, group string, to []driver.Target) error {
		if err := o.gone(name); err != nil {
			return err
		}
		return inner.Seek(ctx, group, to)
	}
}

// pickLog asks one Log or another for a topic.
type pickLog struct {
	driver.Log
	pick func(*driver.TopicSpec) driver.Log
}

func (l pickLog) Topic(ctx context.Context, spec driver.TopicSpec) (driver.Topic, error) {
	return l.pick(&spec).Topic(ctx, spec)
}

// logHarness is memory with topics of others, and with data that stays since
// one connection is open all the time.
func logHarness() *Harness {
	h := memoryHarness()
	h.Persistent = true
	o := &outside{deleted: map[string]bool{}}
	plain := h.Driver.Open
	spoilConn(func(c driver.Conn) driver.Conn {
		return spoiledConn{c, func(s driver.Space, b *driver.Backend) {
			f := &fable{Log: b.Log, space: s}
			o.adopts(c)(f)
			b.Log = f
		}}
	})(&h.Driver)
	h.Topic = func(tb testing.TB, c driver.Config, partitions int) ForeignTopic {
		name := "theirs-" + unique()
		conn, err := plain(c)
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { _ = conn.Close() })
		b, err := conn.Space(driver.Space{Namespace: "outside"})
		if err != nil {
			tb.Fatal(err)
		}
		t, err := b.Log.Topic(context.Background(), driver.TopicSpec{Name: name, Partitions: partitions})
		if err != nil {
			tb.Fatal(err)
		}
		return ForeignTopic{
			Physical:   name,
			Partitions: partitions,
			Headers:    []driver.Header{{Name: "A b:é", Value: " \x00\xff "}, {Name: "A b:é", Value: ""}, {Name: "prism-x", Value: "y"}},
			Append: func(records ...driver.Record) {
				t.Append(context.Background(), records, make([]driver.AppendResult, len(records)))
			},
			Delete: func() {
				o.mu.Lock()
				defer o.mu.Unlock()
				o.deleted[name] = true
			},
		}
	}
	return h
}
