package postgres_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/postgres"
	"github.com/prismgw/prism/errs"
)

func (f *fixture) log(conn driver.Conn) driver.Log {
	f.Helper()
	b, err := conn.Space(driver.Space{Namespace: "orders", Pattern: "events"})
	if err != nil {
		f.Fatalf("space: %v", err)
	}
	return b.Log
}

func (f *fixture) topic(conn driver.Conn, spec driver.TopicSpec) driver.Topic {
	f.Helper()
	t, err := f.log(conn).Topic(f.ctx, spec)
	if err != nil {
		f.Fatalf("topic: %v", err)
	}
	return t
}

// plain is a topic of one partition that keeps everything.
func (f *fixture) plain(conn driver.Conn) driver.Topic {
	f.Helper()
	return f.topic(conn, driver.TopicSpec{Name: "t", Partitions: 1})
}

func (f *fixture) results(t driver.Topic, records ...driver.Record) []driver.AppendResult {
	results := make([]driver.AppendResult, len(records))
	t.Append(f.ctx, records, results)
	return results
}

func (f *fixture) append(t driver.Topic, records ...driver.Record) (last driver.AppendResult) {
	f.Helper()
	for _, r := range f.results(t, records...) {
		if r.Err != nil {
			f.Fatalf("append: %v", r.Err)
		}
		last = r
	}
	return last
}

func text(s string) driver.Record { return driver.Record{Value: []byte(s)} }

func (f *fixture) read(t driver.Topic, r driver.ReadRequest) []driver.Stored {
	f.Helper()
	r.Limit = 10000
	found, err := t.Read(f.ctx, r)
	if err != nil {
		f.Fatalf("read: %v", err)
	}
	return found.Records
}

func (f *fixture) holds(t driver.Topic, partition int, want ...string) {
	f.Helper()
	if got := valuesOf(f.read(t, driver.ReadRequest{Partition: partition})); !slices.Equal(got, want) {
		f.Errorf("partition %d has %q, want %q", partition, got, want)
	}
}

func valuesOf(found []driver.Stored) (all []string) {
	for _, s := range found {
		all = append(all, string(s.Value))
	}
	return all
}

// join makes a member that is closed at the end.
func (f *fixture) join(t driver.Topic, group string) driver.Member {
	f.Helper()
	m, err := t.Join(f.ctx, driver.JoinRequest{Group: group, Name: "m"})
	if err != nil {
		f.Fatalf("join: %v", err)
	}
	f.Cleanup(func() { _ = m.Close(context.WithoutCancel(f.ctx)) })
	return m
}

// take waits until a member has been told of n records or ownerships.
func (f *fixture) take(ctx context.Context, m driver.Member, kind driver.LogEventKind, n int) (all []driver.LogEvent, err error) {
	events := make([]driver.LogEvent, 16)
	for len(all) < n {
		got, err := m.Next(ctx, events)
		if err != nil {
			return all, err
		}
		for _, e := range events[:got] {
			if e.Kind == kind {
				all = append(all, e)
			}
		}
	}
	return all, nil
}

// comes waits for records of a member.
func (f *fixture) comes(m driver.Member, want ...string) {
	f.Helper()
	all, err := f.take(f.ctx, m, driver.Arrived, len(want))
	var got []string
	for _, e := range all {
		got = append(got, string(e.Stored.Value))
	}
	if err != nil || !slices.Equal(got, want) {
		f.Errorf("a member has got %q, want %q: %v", got, want, err)
	}
}

// byHand is a call of the function that appends, as anybody can make it.
func (f *fixture) byHand(number int64, value string) string {
	return fmt.Sprintf(`SELECT %s.prism_log_append(ARRAY[%d], ARRAY[0], ARRAY[0], ARRAY[1], ARRAY[1], ARRAY[70], ARRAY[70], ARRAY[''], ARRAY[NULL]::bytea[], ARRAY[''], ARRAY['%s']::bytea[])`, f.schema(), number, value)
}

// topicNumber is the number of the one topic.
func (f *fixture) topicNumber(c *pgx.Conn) int64 {
	f.Helper()
	return f.number(c, "SELECT number FROM "+f.schema()+".prism_log_topic")
}

func logTablesByThemselves(f *fixture) {
	conn := f.open(f.config())
	direct := f.direct()
	f.enqueue(f.queue(conn), driver.Task{Priority: 1})
	if n := f.number(direct, "SELECT count(*) FROM pg_class WHERE relname LIKE 'prism_log%' AND relnamespace = to_regnamespace('"+f.schema()+"')"); n != 0 {
		f.Errorf("%d tables of topics are there although there is no topic", n)
	}
	old := f.plain(conn)
	m := f.join(old, "g")
	f.append(old, text("a"))
	f.exec(direct, fmt.Sprintf(`DROP VIEW %[1]s.prism_log; DROP TABLE %[1]s.prism_log_topic, %[1]s.prism_log_partition, %[1]s.prism_log_record, %[1]s.prism_log_id,
		%[1]s.prism_log_group, %[1]s.prism_log_claim, %[1]s.prism_log_member, %[1]s.prism_log_schema CASCADE`, f.schema()))
	f.await("new tables", func() bool {
		_, err := f.log(conn).Topic(f.ctx, driver.TopicSpec{Name: "t", Partitions: 1})
		return err == nil
	})
	f.append(f.plain(conn), text("b"))
	f.holds(f.plain(conn), 0, "b")
	f.wants("append to the topic that was dropped", f.results(old, text("c"))[0].Err, errs.TopicNotFound)
	if _, err := f.take(f.ctx, m, driver.Lost, 100); errs.ReasonOf(err) != errs.TopicNotFound && errs.ReasonOf(err) != errs.GroupNotFound {
		f.Errorf("a member of the topic that was dropped: %v", err)
	}
	f.exec(direct, "UPDATE "+f.schema()+".prism_log_schema SET version = 99")
	later := f.open(f.config())
	f.put(f.kv(later, ""), "a", "1")
	_, err := f.log(later).Topic(f.ctx, driver.TopicSpec{Name: "t", Partitions: 1})
	f.wants("topic", err, errs.InvalidConfiguration, "version 99", "newer Prism")
}

// logRefusesAlone has records that the server could not hold beside others.
func logRefusesAlone(f *fixture) {
	t := f.plain(f.open(f.config()))
	header := func(name, value string) driver.Record {
		return driver.Record{Headers: []driver.Header{{Name: name, Value: value}}}
	}
	results := f.results(t, text("a"), driver.Record{ID: "a\x00"}, driver.Record{ID: "\xff"}, header("a", "b\nc: d"), header("a", "\x00"), header("A", "b"),
		driver.Record{Partition: 1}, driver.Record{Partition: -1}, text("b"))
	for i, r := range results {
		if i == 0 || i == len(results)-1 {
			if r.Err != nil {
				f.Errorf("beside others: %v", r.Err)
			}
			continue
		}
		f.wants(fmt.Sprint("record ", i), r.Err, errs.InvalidField)
	}
	f.holds(t, 0, "a", "b")
	for _, name := range []string{"", "a\x00", "\xff"} {
		_, err := f.log(f.open(f.config())).Topic(f.ctx, driver.TopicSpec{Name: name, Partitions: 1})
		f.wants("topic", err, errs.InvalidField)
		if name != "" {
			_, err = t.Join(f.ctx, driver.JoinRequest{Group: name, Name: "m"})
			f.wants("join", err, errs.InvalidField)
		}
	}
	m := f.join(t, "g")
	gained, err := f.take(f.ctx, m, driver.Gained, 1)
	if err != nil {
		f.Fatal(err)
	}
	outcomes := make([]error, 1)
	m.Commit(f.ctx, []driver.Commit{{Claim: gained[0].Claim, Checkpoint: driver.Checkpoint{Next: 2, Note: "\xff"}}}, outcomes)
	f.wants("commit", outcomes[0], errs.InvalidField)
}

// late lets another program append a record and commit it when the driver has
// appended one behind it, or waits to. It returns what a member has seen of
// these two and one more.
func (f *fixture) late(conn driver.Conn, t driver.Topic, spoil string) []string {
	f.Helper()
	direct, m := f.direct(), f.join(t, "g")
	if spoil != "" {
		f.exec(direct, spoil)
	}
	f.exec(direct, "BEGIN; "+f.byHand(f.topicNumber(direct), "late"))
	appended := make(chan driver.AppendResult, 1)
	go func() { appended <- f.results(t, text("second"))[0] }()
	var second *driver.AppendResult
	f.await("the second append", func() bool {
		select {
		case r := <-appended:
			second = &r
		default:
		}
		return second != nil || f.backends("wait_event_type = 'Lock'") > 0
	})
	if second != nil { // it was not kept waiting: readers have it now
		f.await("the second record", func() bool { return len(f.read(t, driver.ReadRequest{})) == 1 })
		f.comes(m, "second")
	}
	f.exec(direct, "COMMIT")
	if second == nil {
		r := <-appended
		second = &r
	}
	if second.Err != nil {
		f.Errorf("append behind another one that is not committed: %v", second.Err)
	}
	f.append(t, text("third"))
	all, err := f.take(f.ctx, m, driver.Arrived, 1)
	for err == nil && string(all[len(all)-1].Stored.Value) != "third" {
		var more []driver.LogEvent
		more, err = f.take(f.ctx, m, driver.Arrived, 1)
		all = append(all, more...)
	}
	if err != nil {
		f.Fatal(err)
	}
	var seen []string
	for _, e := range all {
		seen = append(seen, string(e.Stored.Value))
	}
	return seen
}

// logLateCommit has records commit in another order than they were written in:
// the lock keeps the later one back.
func logLateCommit(f *fixture) {
	conn := f.open(f.config())
	t := f.plain(conn)
	if seen := f.late(conn, t, ""); !slices.Equal(seen, []string{"late", "second", "third"}) {
		f.Errorf("a member has seen %q", seen)
	}
	f.holds(t, 0, "late", "second", "third")
}

// logLateUnlocked is the same without the lock, as if somebody inserted by hand:
// the later one meets a position that is taken, and is appended again.
func logLateUnlocked(f *fixture) {
	conn := f.open(f.config())
	t := f.plain(conn)
	begin, rest, _ := strings.Cut(postgres.LogAppendBody(f.schema()), "PERFORM pg_advisory_xact_lock")
	_, body, _ := strings.Cut(rest, ";")
	if seen := f.late(conn, t, f.appendFunction(begin+body)); !slices.Equal(seen, []string{"late", "second", "third"}) {
		f.Errorf("a member has seen %q", seen)
	}
	f.holds(t, 0, "late", "second", "third")
	if !strings.Contains(f.server.Output(), "prism_log_record_pkey") {
		f.Error("no append has met a position that was taken")
	}
}

// logLateSequence is the twin: with positions of a sequence and no lock, a member
// never sees the record that was committed late.
func logLateSequence(f *fixture) {
	conn := f.open(f.config())
	t := f.plain(conn)
	s := f.schema() + "."
	seen := f.late(conn, t, "CREATE SEQUENCE "+s+"trap; "+f.appendFunction(`DECLARE places bigint[] = ARRAY[nextval('`+s+`trap')]; BEGIN
		INSERT INTO `+s+`prism_log_record SELECT topics[1], partitions[1], places[1], clock_timestamp(), 0, sizes[1], ids[1], keys[1], texts[1], vals[1]; RETURN places; END`))
	if slices.Contains(seen, "late") {
		f.Errorf("without the protection nothing is lost: a member has seen %q", seen)
	}
	f.holds(t, 0, "late", "second", "third")
}

// appendFunction replaces the function that appends.
func (f *fixture) appendFunction(body string) string {
	return fmt.Sprintf(`CREATE OR REPLACE FUNCTION %s.prism_log_append(%s) RETURNS bigint[] LANGUAGE plpgsql AS $body$%s$body$`, f.schema(), postgres.LogAppendArgs, body)
}

// logHalfAMessage has a client die, or stand still, in the middle of an append:
// the partition is not locked. It would be if the lock came in a message of its
// own.
func logHalfAMessage(f *fixture) {
	t := f.plain(f.open(f.config()))
	direct := f.direct()
	number := f.topicNumber(direct)
	half := func(before string) *pgx.Conn {
		c := f.direct()
		if _, err := c.PgConn().Prepare(f.ctx, "append", strings.Replace(f.byHand(number, "half"), "ARRAY['half']::bytea[]", "$1", 1), nil); err != nil {
			f.Fatal(err)
		}
		front := c.PgConn().Frontend()
		if before != "" {
			front.SendParse(&pgproto3.Parse{Query: before})
			front.SendBind(&pgproto3.Bind{})
			front.SendExecute(&pgproto3.Execute{})
			front.Send(&pgproto3.Flush{})
		}
		whole, err := (&pgproto3.Bind{PreparedStatement: "append", Parameters: [][]byte{make([]byte, 100_000)}}).Encode(nil)
		if err == nil {
			err = front.Flush()
		}
		if err == nil {
			_, err = c.PgConn().Conn().Write(whole[:len(whole)/2])
		}
		if err != nil {
			f.Fatal(err)
		}
		return c
	}
	half("")
	f.await("half a message", func() bool {
		return f.number(direct, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientRead' AND query LIKE '%"+f.schema()+"%half%'") > 0
	})
	f.append(t, text("a"))
	lock := postgres.LogLock(f.schema(), number, 0)
	c := half(fmt.Sprint("SELECT pg_advisory_xact_lock(", lock, ")"))
	f.await("a lock", func() bool {
		return f.number(direct, fmt.Sprintf("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND (classid::int8 << 32) + objid::int8 = %d", lock)) == 1
	})
	f.wants("append behind half a message", f.results(t, text("b"))[0].Err, errs.BackendUnavailable, "nothing was changed")
	_ = c.PgConn().Conn().Close()
	f.await("an append", func() bool { return f.results(t, text("c"))[0].Err == nil })
	f.holds(t, 0, "a", "c")
}

// logBesideADump appends while a transaction looks at the database as it was:
// nothing but records is written, so that nothing else grows.
func logBesideADump(f *fixture) {
	t := f.topic(f.open(f.config()), driver.TopicSpec{Name: "t", Partitions: 2})
	f.append(t, text("a"))
	dump, direct := f.direct(), f.direct()
	f.exec(dump, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM "+f.schema()+".prism_log")
	for i := range 300 {
		f.append(t, driver.Record{Partition: i % 2})
	}
	for _, table := range []string{"topic", "partition"} {
		if n := f.number(direct, "SELECT pg_relation_size('"+f.schema()+".prism_log_"+table+"') / 8192"); n != 1 {
			f.Errorf("prism_log_%s has %d pages after 300 appends beside an old snapshot", table, n)
		}
	}
	if n := f.number(dump, "SELECT count(*) FROM "+f.schema()+".prism_log"); n != 1 {
		f.Errorf("the old snapshot sees %d records", n)
	}
}

// logByHand reads with SQL what was appended, and reads what SQL has appended and
// inserted.
func logByHand(f *fixture) {
	t := f.plain(f.open(f.config()))
	m, c := f.join(t, "g"), f.direct()
	f.append(t, driver.Record{ID: "id1", Key: []byte("k"), Value: []byte("hello"), Headers: []driver.Header{{Name: "a", Value: "1"}, {Name: "b", Value: "x: y"}}})
	var got [5]string
	err := c.QueryRow(f.ctx, `SELECT partition || '/' || position, id, convert_from(key, 'UTF8'), headers, convert_from(value, 'UTF8') FROM `+f.schema()+
		`.prism_log WHERE namespace = 'orders' AND topic = 't' AND at > now() - interval '1 minute'`).Scan(&got[0], &got[1], &got[2], &got[3], &got[4])
	if want := [5]string{"0/1", "id1", "k", "a: 1\nb: x: y\n", "hello"}; err != nil || got != want {
		f.Errorf("the view has %q, %v; want %q", got, err, want)
	}
	f.exec(c, f.byHand(f.topicNumber(c), "of sql"))
	f.exec(c, "INSERT INTO "+f.schema()+".prism_log_record SELECT topic, partition, position + 1, at, total + size, size, '', NULL, 'no header', 'a row' FROM "+f.schema()+".prism_log_record WHERE position = 2")
	f.append(t, text("behind"))
	f.comes(m, "hello", "of sql", "a row", "behind")
	f.holds(t, 0, "hello", "of sql", "a row", "behind")
	f.exec(c, "DELETE FROM "+f.schema()+".prism_log_record WHERE position IN (1, 3)")
	f.holds(t, 0, "of sql", "behind")
	if late := f.read(t, driver.ReadRequest{Time: time.Now().Add(-time.Hour)}); len(late) != 2 {
		f.Errorf("%d records by time", len(late))
	}
}

// logDeletedTopic deletes a topic with SQL while it is used.
func logDeletedTopic(f *fixture) {
	c := f.config()
	c.Options = f.options(`, "sweep_interval": "20ms"`)
	conn := f.open(c)
	gone, kept := f.plain(conn), f.topic(conn, driver.TopicSpec{Name: "kept", Partitions: 1})
	f.append(kept, text("kept"))
	for range 3 {
		f.append(gone, slices.Repeat([]driver.Record{text("a")}, 1000)...)
	}
	members, direct := []driver.Member{f.join(gone, "g"), f.join(gone, "")}, f.direct()
	f.exec(direct, "DELETE FROM "+f.schema()+".prism_log_topic WHERE topic = 't'")
	f.wants("append", f.results(gone, text("b"))[0].Err, errs.TopicNotFound)
	_, err := gone.Read(f.ctx, driver.ReadRequest{Limit: 1})
	f.wants("read", err, errs.TopicNotFound)
	_, err = gone.Stat(f.ctx, "g")
	f.wants("stat", err, errs.TopicNotFound)
	f.wants("seek", gone.Seek(f.ctx, "g", nil), errs.TopicNotFound)
	for _, group := range []string{"g", "new", ""} {
		_, err = gone.Join(f.ctx, driver.JoinRequest{Group: group, Name: "m"})
		f.wants("join", err, errs.TopicNotFound)
	}
	events := make([]driver.LogEvent, 100)
	for i, m := range members {
		for err = nil; err == nil; {
			_, err = m.Next(f.ctx, events)
		}
		if r := errs.ReasonOf(err); r != errs.TopicNotFound && (r != errs.GroupNotFound || i > 0) {
			f.Errorf("member %d of a deleted topic: %v", i, err)
		}
	}
	f.await("removal of its records", func() bool { return f.number(direct, "SELECT count(*) FROM "+f.schema()+".prism_log_record") == 1 })
	if n := f.number(direct, "SELECT (SELECT count(*) FROM "+f.schema()+".prism_log_claim) + (SELECT count(*) FROM "+f.schema()+".prism_log_partition)"); n != 1 {
		f.Errorf("%d rows of partitions and claims are left, want one", n)
	}
	f.holds(kept, 0, "kept")
	f.append(f.plain(conn), text("new"))
	f.holds(f.plain(conn), 0, "new")
}

// logTimesDoNotGoBack has the last record be of tomorrow.
func logTimesDoNotGoBack(f *fixture) {
	t, c := f.plain(f.open(f.config())), f.direct()
	f.append(t, text("a"), text("b"))
	f.exec(c, "UPDATE "+f.schema()+".prism_log_record SET at = now() + interval '1 day' WHERE position = 2")
	f.append(t, text("c"))
	now := time.Now()
	for at, want := range map[time.Duration][]string{-time.Hour: {"a", "b", "c"}, time.Hour: {"b", "c"}, 48 * time.Hour: nil} {
		if got := valuesOf(f.read(t, driver.ReadRequest{Time: now.Add(at)})); !slices.Equal(got, want) {
			f.Errorf("from %s on: %q, want %q", at, got, want)
		}
	}
	for _, far := range []time.Time{time.Unix(-1<<55, 0), time.Unix(1<<55, 0)} {
		if n := len(f.read(t, driver.ReadRequest{Time: far})); n != 3 && far.Before(now) || n != 0 && far.After(now) {
			f.Errorf("%d records from %s on", n, far)
		}
	}
}

func logIDsAreForgotten(f *fixture) {
	c := f.config()
	c.Options = f.options(`, "sweep_interval": "20ms"`)
	t := f.topic(f.open(c), driver.TopicSpec{Name: "t", Partitions: 2, Dedup: 10 * time.Minute})
	var many []driver.Record
	for i := range 2500 {
		many = append(many, driver.Record{Partition: i % 2, ID: fmt.Sprint("id", i)})
	}
	f.append(t, many...)
	f.append(t, slices.Repeat([]driver.Record{text("without an id")}, 10)...)
	direct := f.direct()
	ids := func() int64 { return f.number(direct, "SELECT count(*) FROM "+f.schema()+".prism_log_id") }
	if n := ids(); n != 2500 {
		f.Errorf("%d IDs are remembered, want 2,500", n)
	}
	if left := f.number(direct, "SELECT extract(epoch FROM min(kept_until) - now())::int8 FROM "+f.schema()+".prism_log_id"); left < 500 || left > 600 {
		f.Errorf("an ID is kept for %d s", left)
	}
	if r := f.results(t, many[0])[0]; !r.Duplicate || r.Position != 1 {
		f.Errorf("a record again: %+v", r)
	}
	f.exec(direct, "UPDATE "+f.schema()+".prism_log_id SET kept_until = now() - interval '1 second' WHERE id <> 'id0'")
	f.await("removal of the IDs", func() bool { return ids() == 1 })
	if r := f.results(t, many[1])[0]; r.Duplicate || r.Err != nil {
		f.Errorf("a record whose ID is forgotten: %+v", r)
	}
}

// logCommitsInOrder has a commit arrive after a later one of the same claim, and
// one of an earlier claim of the same member: they change nothing. Without the
// number of a commit, and of a claim, they would set the group back.
func logCommitsInOrder(f *fixture) {
	t := f.plain(f.open(f.config()))
	f.append(t, slices.Repeat([]driver.Record{text("a")}, 9)...)
	m, c := f.join(t, "g"), f.direct()
	gained, err := f.take(f.ctx, m, driver.Gained, 1)
	if err != nil {
		f.Fatal(err)
	}
	for next := driver.Position(3); next <= 5; next++ {
		outcomes := make([]error, 1)
		m.Commit(f.ctx, []driver.Commit{{Claim: gained[0].Claim, Checkpoint: driver.Checkpoint{Next: next, Note: fmt.Sprint(next)}}}, outcomes)
		if outcomes[0] != nil {
			f.Fatal(outcomes[0])
		}
	}
	claim := f.schema() + ".prism_log_claim"
	var number int64
	var owner string
	if err := c.QueryRow(f.ctx, "SELECT number, owner FROM "+claim).Scan(&number, &owner); err != nil {
		f.Fatal(err)
	}
	sql := postgres.LogSQL(f.schema())["commit"]
	again := func(sql string, claim, n int64) int64 {
		f.Helper()
		tag, err := c.Exec(f.ctx, sql, []int64{number}, []int64{0}, []string{owner}, []int64{claim}, []int64{n}, []int64{4}, []string{"late"}, []int64{0})
		if err != nil {
			f.Fatal(err)
		}
		return tag.RowsAffected()
	}
	now := gained[0].Claim
	for _, x := range []struct {
		what, without string
		claim, n      int64
	}{{"number", " AND c.commits < u.n", now, 2}, {"claim", " AND c.claim = u.claim", now - 1, 9}} {
		if n := again(sql, x.claim, x.n); n != 0 || f.number(c, "SELECT next FROM "+claim) != 5 {
			f.Errorf("a commit of a %s that is over has changed %d rows", x.what, n)
		}
		if n := again(strings.Replace(sql, x.without, "", 1), x.claim, x.n); n != 1 || f.number(c, "SELECT next FROM "+claim) != 4 {
			f.Errorf("without its %s a late commit has changed %d rows", x.what, n)
		}
		f.exec(c, "UPDATE "+claim+" SET next = 5")
	}
}

// logOldestFirst fills partitions by turns through two connections, both of which
// remove what has no room.
func logOldestFirst(f *fixture) {
	c := f.config()
	c.Options = f.options(`, "sweep_interval": "20ms"`)
	spec := driver.TopicSpec{Name: "t", Partitions: 3, MaxBytes: 300 << 10}
	one, two := f.topic(f.open(c), spec), f.topic(f.open(c), spec)
	const all, size = 3000, 1000
	for i := range all / 10 {
		records := make([]driver.Record, 10)
		for k := range records {
			records[k] = driver.Record{Partition: (i + k) % 3, Value: fmt.Appendf(make([]byte, 0, size), "%0*d", size-64, 10*i+k)}
		}
		f.append([]driver.Topic{one, two}[i%2], records...)
	}
	keep := 300 << 10 / size
	direct := f.direct()
	count := func() int64 { return f.number(direct, "SELECT count(*) FROM "+f.schema()+".prism_log_record") }
	f.await("what has no room to go", func() bool { return count() <= int64(keep) })
	var left []string
	stats, err := one.Stat(f.ctx, "")
	if err != nil {
		f.Fatal(err)
	}
	for p, s := range stats {
		found := f.read(one, driver.ReadRequest{Partition: p})
		left = append(left, valuesOf(found)...)
		if s.First != found[0].Position || s.End != found[len(found)-1].Position+1 || s.End-s.First != driver.Position(len(found)) {
			f.Errorf("partition %d with %d records from %d on: %+v", p, len(found), found[0].Position, s)
		}
	}
	slices.Sort(left)
	// The records of one call are of one time, whose partitions go in turn.
	oldest := fmt.Sprintf("%0*d", size-64, all-len(left)-10)
	if len(left) != keep || left[0] < oldest {
		f.Errorf("%d records are left, from %s on, want %d from about %s on", len(left), left[0][size-70:], keep, oldest[size-70:])
	}
}

// TestLogsWaitInNoCircle appends to many partitions in opposite orders, while
// groups commit and records are removed.
func TestLogsWaitInNoCircle(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "deadlock_timeout=20ms", "fsync=off")
	const partitions = 20
	var wg sync.WaitGroup
	for p := range 3 {
		c := f.config()
		c.Options = f.options(`, "sweep_interval": "10ms"`)
		topic := f.topic(f.open(c), driver.TopicSpec{Name: "t", Partitions: partitions, MaxBytes: 100 << 10, Dedup: time.Minute})
		m := f.join(topic, "g")
		ctx, cancel := context.WithCancel(f.ctx)
		go func() { _, _ = f.take(ctx, m, driver.Arrived, 1<<30) }()
		wg.Go(func() {
			defer cancel()
			for round := range 100 {
				records := make([]driver.Record, partitions)
				for i := range records {
					at := i
					if p%2 == 1 {
						at = partitions - 1 - i
					}
					records[i] = driver.Record{Partition: at, ID: fmt.Sprint(at, round%7), Value: make([]byte, 500)}
				}
				for _, r := range f.results(topic, records...) {
					if r.Err != nil {
						f.Errorf("append: %v", r.Err)
					}
				}
				if err := topic.Seek(f.ctx, "g", []driver.Target{{Partition: (p + round) % partitions, Next: 1}, {Partition: round % partitions, Next: 2}}); err != nil {
					f.Errorf("seek: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if strings.Contains(f.server.Output(), "deadlock detected") {
		t.Error("transactions waited for each other in a circle")
	}
}

// logIDsEnd has an ID be over that nobody has removed.
func logIDsEnd(f *fixture) {
	t := f.topic(f.open(f.config()), driver.TopicSpec{Name: "t", Partitions: 1, Dedup: 10 * time.Minute})
	one, direct := driver.Record{ID: "a"}, f.direct()
	for i, step := range []struct {
		left      string
		duplicate bool
	}{{"", false}, {"1 minute", true}, {"-1 second", false}, {"10 seconds", true}} {
		if step.left != "" {
			f.exec(direct, "UPDATE "+f.schema()+".prism_log_id SET kept_until = now() + interval '"+step.left+"'")
		}
		if r := f.append(t, one); r.Duplicate != step.duplicate || r.Position != driver.Position(1+i/2) {
			f.Errorf("step %d: %+v", i, r)
		}
	}
}
