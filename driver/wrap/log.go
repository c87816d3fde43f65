package wrap

import (
	"context"
	"time"

	"github.com/prismgw/prism/driver"
)

// ObserveLog is Observe for a Log. Its methods are "topic", "append", "read",
// "join", "stat", "seek" and "commit"; what members are told is not observed.
func ObserveLog(l driver.Log, backend string, o Observer) driver.Log {
	return &observedLog{l, observation{backend, o}}
}

type observedLog struct {
	driver.Log
	observation
}

func (l *observedLog) Topic(ctx context.Context, spec driver.TopicSpec) (driver.Topic, error) {
	began := time.Now()
	t, err := l.Log.Topic(ctx, spec)
	l.one(ctx, "topic", began, &err)
	if err != nil {
		return nil, err
	}
	return &observedTopic{t, l.observation}, nil
}

type observedTopic struct {
	driver.Topic
	observation
}

func (t *observedTopic) Append(ctx context.Context, records []driver.Record, results []driver.AppendResult) {
	began := time.Now()
	t.Topic.Append(ctx, records, results)
	var failures []error
	for i := range results {
		failures = t.named(failures, "append", &results[i].Err)
	}
	t.observer.Observe(ctx, "append", len(records), began, failures)
}

func (t *observedTopic) Read(ctx context.Context, r driver.ReadRequest) (driver.Records, error) {
	began := time.Now()
	found, err := t.Topic.Read(ctx, r)
	t.one(ctx, "read", began, &err)
	return found, err
}

func (t *observedTopic) Join(ctx context.Context, r driver.JoinRequest) (driver.Member, error) {
	began := time.Now()
	m, err := t.Topic.Join(ctx, r)
	t.one(ctx, "join", began, &err)
	if err != nil {
		return nil, err
	}
	return &observedMember{m, t.observation}, nil
}

func (t *observedTopic) Stat(ctx context.Context, group string) ([]driver.PartitionStat, error) {
	began := time.Now()
	stats, err := t.Topic.Stat(ctx, group)
	t.one(ctx, "stat", began, &err)
	return stats, err
}

func (t *observedTopic) Seek(ctx context.Context, group string, to []driver.Target) error {
	began := time.Now()
	err := t.Topic.Seek(ctx, group, to)
	t.one(ctx, "seek", began, &err)
	return err
}

type observedMember struct {
	driver.Member
	observation
}

func (m *observedMember) Commit(ctx context.Context, commits []driver.Commit, results []error) {
	began := time.Now()
	m.Member.Commit(ctx, commits, results)
	var failures []error
	for i := range results {
		failures = m.named(failures, "commit", &results[i])
	}
	m.observer.Observe(ctx, "commit", len(commits), began, failures)
}

// guardedLog is a Log behind a guard. Members pass freely: they wait for
// records, and have settled what is to be committed.
type guardedLog struct {
	driver.Log
	guard
}

func (l *guardedLog) Topic(ctx context.Context, spec driver.TopicSpec) (t driver.Topic, err error) {
	leave, err := l.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { leave(err) }()
	if t, err = l.Log.Topic(ctx, spec); err != nil {
		return nil, err
	}
	return &guardedTopic{t, l.guard}, nil
}

type guardedTopic struct {
	driver.Topic
	guard
}

func (t *guardedTopic) Append(ctx context.Context, records []driver.Record, results []driver.AppendResult) {
	leave, err := t.enter(ctx)
	if err != nil {
		for i := range results {
			results[i] = driver.AppendResult{Err: err}
		}
		return
	}
	defer func() { leave(t.worst(len(results), func(i int) error { return results[i].Err })) }()
	t.Topic.Append(ctx, records, results)
}

func (t *guardedTopic) Read(ctx context.Context, r driver.ReadRequest) (found driver.Records, err error) {
	leave, err := t.enter(ctx)
	if err != nil {
		return driver.Records{}, err
	}
	defer func() { leave(err) }()
	found, err = t.Topic.Read(ctx, r)
	return found, err
}

func (t *guardedTopic) Join(ctx context.Context, r driver.JoinRequest) (m driver.Member, err error) {
	leave, err := t.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { leave(err) }()
	m, err = t.Topic.Join(ctx, r)
	return m, err
}

func (t *guardedTopic) Stat(ctx context.Context, group string) (stats []driver.PartitionStat, err error) {
	leave, err := t.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { leave(err) }()
	stats, err = t.Topic.Stat(ctx, group)
	return stats, err
}

func (t *guardedTopic) Seek(ctx context.Context, group string, to []driver.Target) (err error) {
	leave, err := t.enter(ctx)
	if err != nil {
		return err
	}
	defer func() { leave(err) }()
	err = t.Topic.Seek(ctx, group, to)
	return err
}
