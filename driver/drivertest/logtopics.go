package drivertest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

func logTopicChecks() []check {
	return []check{
		{"topics/made-once", nil, topicMadeOnce},
		{"topics/found-again", needsPersistent, topicFoundAgain},
		{"topics/weaker-ones-are-refused", nil, weakerTopics},
		{"topics/unsupported-settings", nil, unsupportedTopics},
		{"topics/names", nil, topicNames},
		{"topics/dots-and-underscores", nil, dotsAndUnderscores},
		{"topics/other-namespaces", nil, topicsOfOthers},
		{"topics/spaces-of-a-namespace", nil, topicsOfSpaces},
		{"topics/many-partitions", nil, manyPartitions},
		{"topics/adopted", needsForeign, adoptedTopic},
		{"topics/deleted-by-others", needsForeign, deletedTopic},
	}
}

func needsForeign(e *env) string {
	if e.s.h.Topic == nil {
		return "other programs make no topics there"
	}
	return ""
}

// topicMadeOnce has ten make one topic at once, through two connections.
func topicMadeOnce(e *env) {
	one := e.logs()
	both := []*logs{one, e.logsOn(e.open(), one.space)}
	made := make([]*journal, 10)
	var wg sync.WaitGroup
	for i := range made {
		wg.Go(func() { made[i] = both[i%2].topic(driver.TopicSpec{Name: "t", Partitions: 3}) })
	}
	wg.Wait()
	var want []string
	for i, j := range made {
		if j == nil {
			e.FailNow()
		}
		if n := j.Partitions(); n != 3 {
			e.Errorf("%d partitions", n)
		}
		want = append(want, fmt.Sprint(i))
		j.append(2, fmt.Sprint(i))
	}
	for _, j := range made {
		j.holds(2, want...)
		j.holds(0)
	}
}

func topicFoundAgain(e *env) {
	conn := e.open()
	j := e.logsOn(conn, e.space()).topic(e.strong("t"))
	places := j.append(1, "a", "b")
	before := j.all(1, 0, 10)
	if err := conn.Close(); err != nil {
		e.Fatalf("close: %v", err)
	}
	j = j.again(e.open())
	after := j.all(1, 0, 10)
	same := slices.EqualFunc(before, after, func(a, b driver.Stored) bool {
		return a.Position == b.Position && a.Time.Equal(b.Time) && sameRecord(a.Record, b.Record)
	})
	if !same || len(after) != 2 {
		e.Errorf("after reopening there are %v, want %v", after, before)
	}
	if more := j.append(1, "c"); more[0] <= places[1] {
		e.Errorf("after reopening position %d is given after %d", more[0], places[1])
	}
}

// strong is a topic that asks for all that can be had.
func (e *env) strong(name string) driver.TopicSpec {
	s := driver.TopicSpec{Name: name, Partitions: 4, MaxAge: 2 * time.Hour, MaxBytes: 64 << 20}
	if e.s.log.Dedup {
		s.Dedup = 10 * time.Minute
	}
	return s
}

// weakerTopics asks for more than a topic promises: all differences are told at
// once, and the topic stays what it was.
func weakerTopics(e *env) {
	l := e.logs()
	there := e.strong("t")
	j := l.topic(there)
	j.append(0, "a")
	for _, x := range []struct {
		change func(*driver.TopicSpec)
		want   []string
	}{
		{func(s *driver.TopicSpec) { s.Partitions = 5 }, []string{"partitions"}},
		{func(s *driver.TopicSpec) { s.MaxAge = 3 * time.Hour }, []string{"retention.age"}},
		{func(s *driver.TopicSpec) { s.MaxAge = 0 }, []string{"retention.age"}},
		{func(s *driver.TopicSpec) { s.MaxBytes = 128 << 20 }, []string{"retention.bytes"}},
		{func(s *driver.TopicSpec) { s.Partitions, s.MaxAge, s.MaxBytes = 9, 3*time.Hour, 0 }, []string{"partitions", "retention.age", "retention.bytes"}},
	} {
		spec := there
		x.change(&spec)
		l.refuses(spec, x.want...)
	}
	if e.s.log.Dedup {
		spec := there
		spec.Dedup, spec.Partitions = 20*time.Minute, 5
		l.refuses(spec, "dedup", "partitions")
	}
	less := there
	less.Partitions, less.Dedup = 2, there.Dedup/2
	for _, spec := range []driver.TopicSpec{there, less} {
		if n := l.topic(spec).Partitions(); n != there.Partitions {
			e.Errorf("the topic has %d partitions, was made with %d", n, there.Partitions)
		}
	}
	j.holds(0, "a")
	if !e.s.log.UntilConsumed {
		return
	}
	l.topic(driver.TopicSpec{Name: "u", Partitions: 1, UntilConsumed: true})
	l.refuses(driver.TopicSpec{Name: "u", Partitions: 1}, "retention.until_consumed")
}

// refuses asks for a topic that is there and promises less.
func (l *logs) refuses(spec driver.TopicSpec, fields ...string) {
	l.Helper()
	_, err := l.Topic(l.ctx, spec)
	if !l.wants("a topic that promises less", err, errs.InvalidConfiguration) {
		return
	}
	paths, texts := fieldsOf(err)
	slices.Sort(paths)
	slices.Sort(fields)
	if !slices.Equal(paths, fields) || slices.Contains(texts, "") {
		l.Errorf("a topic that promises less: fields %q %q, want %q", paths, texts, fields)
	}
}

func unsupportedTopics(e *env) {
	l := e.logs()
	for _, x := range []struct {
		has  bool
		spec driver.TopicSpec
	}{
		{l.g.Dedup, driver.TopicSpec{Name: "dedup", Partitions: 1, Dedup: time.Minute}},
		{l.g.UntilConsumed, driver.TopicSpec{Name: "until", Partitions: 1, UntilConsumed: true}},
	} {
		if x.has {
			l.topic(x.spec).append(0, "a")
			continue
		}
		_, err := l.Topic(l.ctx, x.spec)
		e.wants(x.spec.Name, err, errs.Unsupported)
		plain := l.topic(driver.TopicSpec{Name: x.spec.Name, Partitions: 1}) // nothing was made
		plain.holds(0)
	}
	_, err := l.Topic(l.ctx, driver.TopicSpec{Name: "t", Physical: "drivertest-no-such-" + unique()})
	e.wants("a topic of others that is not there", err, errs.TopicNotFound)
}

// hostileNames are names of topics and groups that meet if they are folded, cut
// or joined carelessly, or mean something to somebody.
func hostileNames() []string {
	long := strings.Repeat("n", driver.MaxTopic)
	return []string{
		"a", "A", "a.b", "a_b", "a-b", "a.b.c", "a..b", "a.", "a-", "a_", "a.dlq", "a.0", "a.1", "a-0", "0", "00", "1e3", "null", "con", "prism_log", "prism",
		long, long[1:], strings.Repeat("N", driver.MaxTopic), long[1:] + "m", strings.Repeat("a.", driver.MaxTopic/2),
	}
}

func topicNames(e *env) {
	e.logs().distinct(slices.DeleteFunc(hostileNames(), func(name string) bool { return strings.HasPrefix(name, "a_") })...)
}

// dotsAndUnderscores has names that some technologies take for the same.
func dotsAndUnderscores(e *env) {
	e.logs().distinct("a.b", "a_b", "a.", "a_", "a._b", "a_.b")
}

// distinct makes topics of different sizes and checks that each has its own.
func (l *logs) distinct(names ...string) {
	l.Helper()
	topics := make([]*journal, len(names))
	for i, name := range names {
		topics[i] = l.topic(driver.TopicSpec{Name: name, Partitions: 1 + i%2})
		topics[i].append(0, "of "+name)
	}
	for i, name := range names {
		if n := topics[i].Partitions(); n != 1+i%2 {
			l.Errorf("topic %s has %d partitions, was made with %d", brief(name), n, 1+i%2)
		}
		topics[i].holds(0, "of "+name)
		l.topic(driver.TopicSpec{Name: name, Partitions: 1}).holds(0, "of "+name)
	}
}

// topicsOfOthers has pairs of a namespace and a topic whose names meet if they
// are joined carelessly.
func topicsOfOthers(e *env) {
	type at struct{ namespace, topic string }
	pairs := [][2]at{
		{{"", "b.c"}, {".b", "c"}},
		{{"", "b-c"}, {"-b", "c"}},
		{{"", "b.0"}, {"", "b"}},
		{{"-x", "t"}, {"-X", "t"}},
	}
	for _, p := range hostilePairs() {
		if p[0].Namespace != p[1].Namespace {
			pairs = append(pairs, [2]at{{p[0].Namespace, "t"}, {p[1].Namespace, "t"}})
		}
	}
	for _, pair := range pairs {
		token := "drivertest-" + unique()
		var both [2]*journal
		for i, x := range pair {
			space := e.named(driver.Space{Namespace: token + x.namespace, Pattern: "p"})
			both[i] = e.logsOn(e.s.anchor, space).topic(driver.TopicSpec{Name: x.topic, Partitions: 1})
			both[i].append(0, fmt.Sprint("of ", i))
		}
		for i, j := range both {
			if got := textsOf(j.all(0, 0, 10)); !slices.Equal(got, []string{fmt.Sprint("of ", i)}) {
				e.Errorf("%q has %s, beside %q", pair[i], briefAll(got), pair[1-i])
			}
		}
	}
}

func topicsOfSpaces(e *env) {
	j := e.journal(1)
	for _, pattern := range []string{"", "other", "a:b", strings.Repeat("p", 300)} {
		space := e.named(driver.Space{Namespace: j.space.Namespace, Pattern: pattern})
		other := e.logsOn(e.s.anchor, space).topic(j.spec)
		other.append(0, pattern)
	}
	j.holds(0, "", "other", "a:b", strings.Repeat("p", 300))
}

// manyPartitions has as many as a topic may have.
func manyPartitions(e *env) {
	j := e.journal(driver.MaxPartitions)
	if n := j.Partitions(); n != driver.MaxPartitions {
		e.Fatalf("%d partitions", n)
	}
	j.put(driver.Record{Partition: 0, Value: []byte("first")}, driver.Record{Partition: driver.MaxPartitions - 1, Value: []byte("last")})
	j.holds(0, "first")
	j.holds(1)
	j.holds(driver.MaxPartitions-1, "last")
	m := j.join("g")
	e.comes("all partitions are gained", func() bool { return len(m.has) == driver.MaxPartitions }, m)
	m.gets(0, "first")
	m.gets(driver.MaxPartitions-1, "last")
}

func (e *env) foreign(partitions int) (ForeignTopic, *journal) {
	e.Helper()
	f := e.s.h.Topic(e.s.tb, e.s.h.Config, partitions)
	return f, e.logs().topic(driver.TopicSpec{Name: "t", Physical: f.Physical})
}

// adoptedTopic uses a topic of another program beside that program.
func adoptedTopic(e *env) {
	f, j := e.foreign(2)
	if n := j.Partitions(); n != f.Partitions {
		e.Fatalf("an adopted topic has %d partitions, was made with %d", n, f.Partitions)
	}
	last := f.Partitions - 1
	theirs := []driver.Record{
		{Partition: last, Value: []byte("plain")},
		{Partition: last, Key: []byte{0, 0xff, '\n'}, Value: []byte{0, 0xfe}, Headers: f.Headers},
		{Partition: last, Headers: []driver.Header{{Name: "prism-envelope", Value: "not one"}}},
	}
	f.Append(theirs...)
	e.await("what another program appends is there", func() bool { return len(j.all(last, 0, 10)) == len(theirs) })
	ours := driver.Record{Partition: last, Key: []byte("k"), Headers: []driver.Header{{Name: "a", Value: "b"}}, Value: []byte("ours")}
	j.put(ours)
	m := j.join("g")
	e.comes("all records", func() bool { return m.owns(last) && len(m.has[last].got) == len(theirs)+1 }, m)
	for _, found := range [][]driver.Stored{j.all(last, 0, 10), m.has[last].got} {
		for i, want := range append(theirs, ours) {
			if got := found[i].Record; !sameRecord(got, want) {
				e.Errorf("record %d of an adopted topic: %+v, want %+v", i, got, want)
			}
		}
	}
	j.refuses(driver.TopicSpec{Name: "t", Physical: f.Physical, Partitions: f.Partitions + 1}, "partitions")
	m.settle(last, m.has[last].next(), "note")
	if s := j.group("g", last); !j.waits(s.Waiting, 0) {
		e.Errorf("%d are waiting in an adopted topic", s.Waiting)
	}
}

// deletedTopic deletes a topic while it is used.
func deletedTopic(e *env) {
	f, j := e.foreign(1)
	j.append(0, "a")
	m := j.join("g")
	m.gets(0, "a")
	f.Delete()
	for what, call := range map[string]func(context.Context) error{
		"append": func(ctx context.Context) error {
			results := make([]driver.AppendResult, 1)
			j.Append(ctx, []driver.Record{{Value: []byte("b")}}, results)
			return results[0].Err
		},
		"read": func(ctx context.Context) error {
			_, err := j.Read(ctx, driver.ReadRequest{From: 1, Limit: 1})
			return err
		},
		"stat":  func(ctx context.Context) error { _, err := j.Stat(ctx, ""); return err },
		"topic": func(ctx context.Context) error { _, err := j.Log.Topic(ctx, j.spec); return err },
		"join": func(ctx context.Context) error {
			late, err := j.Join(ctx, driver.JoinRequest{Group: "late", Name: "m"})
			if err == nil {
				_ = late.Close(ctx)
			}
			return err
		},
	} {
		e.goes(what+" of a deleted topic", func() bool { return errs.ReasonOf(call(j.ctx)) == errs.TopicNotFound })
	}
}
