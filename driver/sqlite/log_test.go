package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/sqlite"
	"github.com/prismgw/prism/errs"
)

// topicOf opens a topic of namespace "n".
func topicOf(t testing.TB, c driver.Conn, spec driver.TopicSpec) driver.Topic {
	t.Helper()
	topic, err := space(t, c, "n", "").Log.Topic(context.Background(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return topic
}

func appendAll(t testing.TB, topic driver.Topic, records ...driver.Record) []driver.AppendResult {
	t.Helper()
	results := make([]driver.AppendResult, len(records))
	topic.Append(context.Background(), records, results)
	for _, r := range results {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	return results
}

// texts reads the values of a partition.
func texts(t testing.TB, topic driver.Topic, r driver.ReadRequest) string {
	t.Helper()
	r.Limit = 1000
	found, err := topic.Read(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, s := range found.Records {
		all = append(all, string(s.Value))
	}
	return strings.Join(all, " ")
}

func text(partition int, s string) driver.Record {
	return driver.Record{Partition: partition, Value: []byte(s)}
}

// firstIs waits until a partition begins at a position.
func firstIs(t testing.TB, topic driver.Topic, partition int, want driver.Position) {
	t.Helper()
	until(t, fmt.Sprintf("partition %d begins at %d", partition, want), func() bool {
		stats, err := topic.Stat(context.Background(), "")
		if err != nil {
			t.Fatal(err)
		}
		if got := stats[partition].First; got > want {
			t.Fatalf("partition %d begins at %d, not %d", partition, got, want)
		}
		return stats[partition].First == want
	})
}

// count returns what a query counts in the file.
func count(t testing.TB, dir, query string) (n int) {
	t.Helper()
	if err := other(t, dir).QueryRow(query).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestAgeIsTrueToTheMillisecond(t *testing.T) {
	t.Parallel()
	clock := newClock()
	c := openFile(t, t.TempDir(), clock.configure)
	topic := topicOf(t, c, driver.TopicSpec{Name: "t", Partitions: 1, MaxAge: time.Minute})
	appendAll(t, topic, text(0, "a"))
	clock.advance(time.Second)
	appendAll(t, topic, text(0, "b"))
	clock.advance(59 * time.Second) // a is as old as it may get
	looks := sqlite.Looks(c)
	until(t, "two looks at what is too old", func() bool { return sqlite.Looks(c) >= looks+2 })
	if got := texts(t, topic, driver.ReadRequest{}); got != "a b" {
		t.Fatalf("%q is left before the age is over", got)
	}
	clock.advance(2 * time.Millisecond)
	firstIs(t, topic, 0, 2)
	clock.advance(time.Second)
	firstIs(t, topic, 0, 3)
}

// TestTimesDoNotGoBack has a clock that does.
func TestTimesDoNotGoBack(t *testing.T) {
	t.Parallel()
	clock := newClock()
	topic := topicOf(t, openFile(t, t.TempDir(), clock.configure), driver.TopicSpec{Name: "t", Partitions: 1})
	start := clock.now()
	for _, s := range []string{"a", "b", "c"} {
		appendAll(t, topic, text(0, s))
		clock.advance(-time.Hour)
	}
	clock.advance(5 * time.Hour)
	appendAll(t, topic, text(0, "d"))
	for at, want := range map[time.Duration]string{-time.Hour: "a b c d", 0: "a b c d", time.Millisecond: "d", 3 * time.Hour: ""} {
		if got := texts(t, topic, driver.ReadRequest{Time: start.Add(at)}); got != want {
			t.Errorf("from %s on: %q, want %q", at, got, want)
		}
	}
}

// TestTheOldestGoFirst fills partitions one after the other and in turns, with
// more than one transaction removes.
func TestTheOldestGoFirst(t *testing.T) {
	t.Parallel()
	clock := newClock()
	c := openFile(t, t.TempDir(), clock.configure)
	topic := topicOf(t, c, driver.TopicSpec{Name: "t", Partitions: 3, MaxBytes: 1 << 20})
	value := make([]byte, 1024-64) // and what a record counts for beside it
	records := make([]driver.Record, 0, 6000)
	for range cap(records) {
		records = append(records, driver.Record{Value: value})
	}
	appendAll(t, topic, records...)
	clock.advance(time.Second)
	for i := range 512 {
		appendAll(t, topic, driver.Record{Partition: 1 + i%2, Value: value})
		clock.advance(time.Millisecond)
	}
	firstIs(t, topic, 0, 6001-512)
	for range 512 {
		appendAll(t, topic, driver.Record{Partition: 2, Value: value})
		clock.advance(time.Millisecond)
	}
	firstIs(t, topic, 0, 6001)
	for range 256 {
		appendAll(t, topic, driver.Record{Partition: 2, Value: value})
		clock.advance(time.Millisecond)
	}
	firstIs(t, topic, 1, 129)
	firstIs(t, topic, 2, 129)
}

func TestIDsOfRecordsAreForgotten(t *testing.T) {
	t.Parallel()
	dir, clock := t.TempDir(), newClock()
	topic := topicOf(t, openFile(t, dir, clock.configure), driver.TopicSpec{Name: "t", Partitions: 1, Dedup: time.Minute})
	for i := range 9000 / 100 {
		records := make([]driver.Record, 100)
		for j := range records {
			records[j].ID = fmt.Sprint(i, ".", j)
		}
		appendAll(t, topic, records...)
	}
	if n := count(t, dir, "SELECT count(*) FROM prism_log_id"); n != 9000 {
		t.Fatalf("%d IDs are remembered", n)
	}
	clock.advance(time.Minute + time.Second)
	until(t, "removal of the IDs", func() bool { return count(t, dir, "SELECT count(*) FROM prism_log_id") == 0 })
	if r := appendAll(t, topic, driver.Record{ID: "0.0"})[0]; r.Duplicate || r.Position != 9001 {
		t.Errorf("%+v", r)
	}
}

// TestPositionsAfterAll has all records of a partition removed before the file
// is opened again.
func TestPositionsAfterAll(t *testing.T) {
	t.Parallel()
	dir, clock := t.TempDir(), newClock()
	spec := driver.TopicSpec{Name: "t", Partitions: 1, MaxAge: time.Minute}
	c := openFile(t, dir, clock.configure)
	topic := topicOf(t, c, spec)
	appendAll(t, topic, text(0, "a"), text(0, "b"))
	clock.advance(2 * time.Minute)
	firstIs(t, topic, 0, 3)
	_ = c.Close()
	if n := count(t, dir, "SELECT count(*) FROM prism_log_record"); n != 0 {
		t.Fatalf("%d records are left", n)
	}
	topic = topicOf(t, openFile(t, dir, clock.configure), spec)
	if r := appendAll(t, topic, text(0, "c"))[0]; r.Position != 3 {
		t.Errorf("position %d is given after 2", r.Position)
	}
}

func TestAppendsShareTransactions(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := openFile(t, dir, patient)
	topic := topicOf(t, c, driver.TopicSpec{Name: "t", Partitions: 1})
	before, release := sqlite.Commits(c), holdLock(t, dir)
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() { appendAll(t, topic, text(0, "x")) })
	}
	until(t, "64 requests", func() bool { return sqlite.Queued(c) == 64 })
	release()
	all.Wait()
	if n := sqlite.Commits(c) - before; n != 1 {
		t.Errorf("64 appends took %d transactions", n)
	}
}

// TestAppendGivenUpInQueue gives an append up that no transaction has begun with.
func TestAppendGivenUpInQueue(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := openFile(t, dir, patient)
	topic := topicOf(t, c, driver.TopicSpec{Name: "t", Partitions: 1})
	release := holdLock(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		var results [2]driver.AppendResult
		topic.Append(ctx, []driver.Record{text(0, "x"), text(7, "x")}, results[:])
		if !errors.Is(results[1].Err, errs.InvalidField) {
			t.Errorf("a partition that is not there: %v", results[1].Err)
		}
		done <- results[0].Err
	}()
	until(t, "a request", func() bool { return sqlite.Queued(c) == 1 })
	cancel()
	if err := <-done; !errors.Is(err, errs.Cancelled) {
		t.Error(err)
	}
	release()
	appendAll(t, topic, text(0, "y"))
	if got := texts(t, topic, driver.ReadRequest{}); got != "y" {
		t.Errorf("%q", got)
	}
}

// TestTopicOfAReplacedFile has the file go while topics are open, and their
// numbers be those of other ones in the next file.
func TestTopicOfAReplacedFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := openFile(t, dir, nil)
	gone := topicOf(t, c, driver.TopicSpec{Name: "gone", Partitions: 1})
	made := topicOf(t, c, driver.TopicSpec{Name: "made", Partitions: 1})
	appendAll(t, gone, text(0, "a"))
	m, err := gone.Join(t.Context(), driver.JoinRequest{Group: "g", Name: "m"})
	if err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(filepath.Join(dir, fileName+suffix)); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "a topic in the new file", func() bool {
		_, err := space(t, c, "n", "").Log.Topic(t.Context(), driver.TopicSpec{Name: "made", Partitions: 1})
		return err == nil && count(t, dir, "SELECT count(*) FROM sqlite_schema WHERE name = 'prism_log_topic'") == 1 &&
			count(t, dir, "SELECT count(*) FROM prism_log_topic") == 1
	})
	appendAll(t, made, text(0, "b"))
	var results [1]driver.AppendResult
	gone.Append(t.Context(), []driver.Record{text(0, "c")}, results[:])
	_, read := gone.Read(t.Context(), driver.ReadRequest{Limit: 1})
	_, stat := gone.Stat(t.Context(), "g")
	_, join := gone.Join(t.Context(), driver.JoinRequest{Group: "g"})
	seek := gone.Seek(t.Context(), "g", []driver.Target{{Next: 1}})
	for what, err := range map[string]error{"append": results[0].Err, "read": read, "stat": stat, "join": join, "seek": seek} {
		if !errors.Is(err, errs.TopicNotFound) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if got := texts(t, made, driver.ReadRequest{}); got != "b" {
		t.Errorf("%q", got)
	}
	for err = nil; err == nil; {
		_, err = m.Next(t.Context(), make([]driver.LogEvent, 1))
	}
	if !errors.Is(err, errs.TopicNotFound) {
		t.Errorf("the member ends with %v", err)
	}
}

func TestTopicsAreReadable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	topic := topicOf(t, openFile(t, dir, newClock().configure), driver.TopicSpec{Name: "orders", Partitions: 2})
	appendAll(t, topic, driver.Record{Partition: 1, ID: "i", Key: []byte("k"), Value: []byte("v")}, text(1, "w"))
	m, err := topic.Join(t.Context(), driver.JoinRequest{Group: "billing", Name: "me"})
	if err != nil {
		t.Fatal(err)
	}
	until(t, "a partition is owned", func() bool {
		return count(t, dir, `SELECT count(*) FROM prism_log_stand WHERE owner = 'me'`) == 2
	})
	for query, want := range map[string]string{
		`SELECT namespace||' '||topic||' '||partition||' '||position||' '||at||' '||id||' '||key||' '||value FROM prism_log WHERE id <> ''`:      "n orders 1 1 2023-11-14T22:13:20.000Z i k v",
		`SELECT namespace||' '||topic||' '||"group"||' '||partition||' '||owner||' '||next||' '||waiting FROM prism_log_stand WHERE waiting > 0`: "n orders billing 1 me 1 2",
	} {
		var got string
		if err := other(t, dir).QueryRow(query).Scan(&got); err != nil || got != want {
			t.Errorf("%q, want %q: %v", got, want, err)
		}
	}
	if err := m.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestLogsInFilesOfBefore opens a file that has no tables of topics, and one
// whose tables are newer.
func TestLogsInFilesOfBefore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := openFile(t, dir, nil)
	put(t, space(t, c, "n", "").KV, "a", "1")
	_ = c.Close()
	script(t, dir, `DROP VIEW prism_log; DROP VIEW prism_log_stand; DROP TABLE prism_log_topic; DROP TABLE prism_log_partition;
		DROP TABLE prism_log_record; DROP TABLE prism_log_id; DROP TABLE prism_log_group; DROP TABLE prism_log_claim;
		DELETE FROM prism_schema WHERE name = 'log'`)
	c = openFile(t, dir, nil)
	get(t, space(t, c, "n", "").KV, "a")
	appendAll(t, topicOf(t, c, driver.TopicSpec{Name: "t"}), text(0, "a"))
	_ = c.Close()
	script(t, dir, "UPDATE prism_schema SET value = 99 WHERE name = 'log'")
	err := openFile(t, dir, nil).Ping(t.Context())
	if !errors.Is(err, errs.BackendUnavailable) || !strings.Contains(err.Error(), "schema of topics 99") {
		t.Errorf("a newer file: %v", err)
	}
}

// TestLogPlans looks at how statements find their rows: none goes through all
// records.
func TestLogPlans(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	topicOf(t, openFile(t, dir, nil), driver.TopicSpec{Name: "t"})
	for _, statement := range sqlite.LogStatements {
		for _, detail := range planOf(t, other(t, dir), statement) {
			if strings.Contains(detail, "SCAN") && !strings.Contains(detail, "SCAN t") || strings.Contains(detail, "FOR ORDER BY") {
				t.Errorf("%s: %s", statement, detail)
			}
		}
	}
}

func planOf(t *testing.T, db *sql.DB, statement string) (details []string) {
	t.Helper()
	rows, err := db.Query("EXPLAIN QUERY PLAN "+statement, 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			t.Fatal(err)
		}
		details = append(details, detail)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return details
}
