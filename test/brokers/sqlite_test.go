package brokers

import (
	"bufio"
	"database/sql"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// liteOpen opens a file with one connection.
func liteOpen(t *testing.T, path, more string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)"+more)
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

const litePatient = "&_pragma=busy_timeout(10000)&_txlock=immediate"

func liteExec(t *testing.T, db interface {
	Exec(query string, args ...any) (sql.Result, error)
}, statements ...string,
) {
	t.Helper()
	for _, s := range statements {
		if _, err := db.Exec(s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func liteInt(t *testing.T, db interface {
	QueryRow(query string, args ...any) *sql.Row
}, query string, args ...any,
) (n int64) {
	t.Helper()
	if err := db.QueryRow(query, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

// liteCode returns SQLite's extended error code, 0 if there is none.
func liteCode(err error) int {
	if e, ok := err.(*sqlite.Error); ok { //nolint:errorlint // the driver returns it bare
		return e.Code()
	}
	return 0
}

func liteFile(t *testing.T) string { t.Helper(); return filepath.Join(t.TempDir(), "log.db") }

const liteLog = "create table log (position integer primary key autoincrement, payload blob)"

// TestSQLitePositions: there is one writer at a time, so that positions become
// visible in their order; a second one is refused, or waits for the first's
// end, and one that has read before is refused at once if somebody wrote since.
func TestSQLitePositions(t *testing.T) {
	t.Parallel()
	path := liteFile(t)
	a, b, reader := liteOpen(t, path, ""), liteOpen(t, path, ""), liteOpen(t, path, "")
	liteExec(t, a, liteLog)
	tx, err := a.Begin()
	if err != nil {
		t.Fatal(err)
	}
	liteExec(t, tx, "insert into log (payload) values ('first')")
	if _, err := b.Exec("insert into log (payload) values ('second')"); liteCode(err) != sqlite3.SQLITE_BUSY {
		t.Errorf("a second writer gets %v; want SQLITE_BUSY", err)
	}
	if n := liteInt(t, reader, "select count(*) from log"); n != 0 {
		t.Errorf("%d rows are visible before the commit", n)
	}
	waiting := liteOpen(t, path, litePatient)
	done := make(chan error, 1)
	go func() {
		_, err := waiting.Exec("insert into log (payload) values ('second')")
		done <- err
	}()
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := liteInt(t, reader, "select position from log where payload = 'second'"); got != 2 {
		t.Errorf("the second one is at %d; want 2", got)
	}

	patient := liteOpen(t, path, "&_pragma=busy_timeout(10000)") // begins as a reader
	stale, err := patient.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stale.Rollback() }()
	liteInt(t, stale, "select count(*) from log")
	liteExec(t, a, "insert into log (payload) values ('third')")
	start := time.Now()
	if _, err := stale.Exec("insert into log (payload) values ('lost')"); liteCode(err) != sqlite3.SQLITE_BUSY_SNAPSHOT {
		t.Errorf("a writer that read before gets %v; want SQLITE_BUSY_SNAPSHOT", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it waited %v for what no waiting can mend", took)
	}
}

// TestSQLitePositionsAreUsedOnce: only AUTOINCREMENT keeps a position from
// being given again when retention has removed the last rows; what is rolled
// back leaves no gap.
func TestSQLitePositionsAreUsedOnce(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		schema string
		want   int64
	}{{liteLog, 4}, {"create table log (position integer primary key, payload blob)", 1}} {
		db := liteOpen(t, liteFile(t), "")
		liteExec(t, db, c.schema, "insert into log (payload) values ('1'), ('2'), ('3')",
			"begin", "insert into log (payload) values ('rolled back')", "rollback",
			"delete from log", "insert into log (payload) values ('next')")
		if got := liteInt(t, db, "select position from log"); got != c.want {
			t.Errorf("%s: the next position is %d; want %d", c.schema, got, c.want)
		}
	}
}

// TestSQLiteGroupCommit: what one commit costs is shared by all rows in it.
func TestSQLiteGroupCommit(t *testing.T) {
	t.Parallel()
	const rows = 640
	rate := func(batch int) float64 {
		db := liteOpen(t, liteFile(t), litePatient)
		liteExec(t, db, liteLog)
		start := time.Now()
		for range rows / batch {
			tx, err := db.Begin()
			if err != nil {
				t.Fatal(err)
			}
			for range batch {
				liteExec(t, tx, "insert into log (payload) values ('0123456789abcdef')")
			}
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
		}
		took := time.Since(start)
		if got := liteInt(t, db, "select max(position) from log"); got != rows {
			t.Errorf("%d rows; want %d", got, rows)
		}
		return rows / took.Seconds()
	}
	one, many := rate(1), rate(64)
	t.Logf("%.0f rows/s by one, %.0f by 64 in a commit: %.1f times", one, many, many/one)
	if many < 1.5*one {
		t.Errorf("64 rows in a commit are only %.1f times as fast", many/one)
	}
}

const liteQueue = `create table queue (id integer primary key autoincrement, priority int not null default 0,
	visible_at int not null default 0, attempt int not null default 0, receipt blob, payload blob)`

func liteTake(db *sql.DB, n int, now, until int64) (ids []int64, receipts [][]byte, err error) {
	rows, err := db.Query(`update queue set visible_at = $1, attempt = attempt + 1, receipt = randomblob(16)
		where id in (select id from queue where visible_at <= $2 order by priority desc, id limit $3) returning id, receipt`, until, now, n)
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		var receipt []byte
		if err := rows.Scan(&id, &receipt); err != nil {
			return nil, nil, err
		}
		ids, receipts = append(ids, id), append(receipts, receipt)
	}
	return ids, receipts, rows.Err()
}

// TestSQLiteQueue: receivers of several connections share the messages, each
// leased once; a receipt of before settles nothing.
func TestSQLiteQueue(t *testing.T) {
	t.Parallel()
	path := liteFile(t)
	db := liteOpen(t, path, litePatient)
	liteExec(t, db, liteQueue)
	liteExec(t, db, `with recursive n(i) as (select 1 union all select i + 1 from n where i < 400)
		insert into queue (payload) select 'm' from n`)
	var mu sync.Mutex
	times := map[int64]int{}
	var wg sync.WaitGroup
	for range 8 {
		link := liteOpen(t, path, litePatient)
		wg.Go(func() {
			for {
				ids, _, err := liteTake(link, 10, 1, 100)
				if err != nil || len(ids) == 0 {
					if err != nil {
						t.Error(err)
					}
					return
				}
				mu.Lock()
				for _, id := range ids {
					times[id]++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for id, n := range times {
		if n != 1 {
			t.Errorf("message %d was leased %d times", id, n)
		}
	}
	if len(times) != 400 {
		t.Errorf("%d of 400 messages were leased", len(times))
	}
	liteExec(t, db, "delete from queue", "insert into queue (priority) values (0), (5)")
	ids, receipts, err := liteTake(db, 1, 1, 100)
	if err != nil || !slices.Equal(ids, []int64{402}) {
		t.Fatalf("leased %v, %v; want the one with the higher priority", ids, err)
	}
	if _, _, err := liteTake(db, 2, 101, 200); err != nil { // the lease has ended
		t.Fatal(err)
	}
	settled, err := db.Exec("delete from queue where id = 402 and receipt = $1", receipts[0])
	if err != nil {
		t.Fatal(err)
	}
	if n, _ := settled.RowsAffected(); n != 0 {
		t.Errorf("the receipt of before settled %d messages", n)
	}
	if n := liteInt(t, db, "select attempt from queue where id = 402"); n != 2 {
		t.Errorf("attempt %d; want 2", n)
	}
}

// TestSQLiteReadersAndTheLog: readers do not hold up leases, but an open read
// keeps the write-ahead log from being used again from its start.
func TestSQLiteReadersAndTheLog(t *testing.T) {
	t.Parallel()
	path := liteFile(t)
	db, reader := liteOpen(t, path, "&_pragma=wal_autocheckpoint(20)"), liteOpen(t, path, "")
	liteExec(t, db, liteQueue, "insert into queue (payload) values (zeroblob(4000))")
	churn := func() int64 {
		for i := range 300 {
			if ids, _, err := liteTake(db, 1, 1, 0); err != nil || len(ids) != 1 {
				t.Fatalf("lease %d: %v, %v", i, ids, err)
			}
		}
		info, err := os.Stat(path + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		return info.Size() >> 10
	}
	alone := churn()
	tx, err := reader.Begin()
	if err != nil {
		t.Fatal(err)
	}
	before := liteInt(t, tx, "select attempt from queue")
	held := churn()
	if after := liteInt(t, tx, "select attempt from queue"); after != before {
		t.Errorf("the reader's snapshot moved from %d to %d", before, after)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	t.Logf("the log has %d KiB after 300 leases, %d KiB beside an open read", alone, held)
	if held < 4*alone {
		t.Errorf("the log has %d KiB after 300 leases, %d KiB beside an open read; want much more", alone, held)
	}
}

// TestSQLiteTwoProcesses: two processes append to one file: nothing is lost,
// positions are the file's. Who waits for rows asks for data_version, which
// changes with the commits of others and of no connection's own. A process that
// is killed in a transaction leaves nothing and holds up nobody.
func TestSQLiteTwoProcesses(t *testing.T) {
	t.Parallel()
	if path := os.Getenv("PRISM_BROKERS_SQLITE"); path != "" {
		liteOther(t, path)
		return
	}
	const each = 200
	path := liteFile(t)
	db, watch := liteOpen(t, path, litePatient), liteOpen(t, path, litePatient)
	liteExec(t, db, liteLog)
	own, others := liteInt(t, db, "pragma data_version"), liteInt(t, watch, "pragma data_version")
	liteExec(t, db, "insert into log (payload) values ('before')")
	if liteInt(t, db, "pragma data_version") != own || liteInt(t, watch, "pragma data_version") == others {
		t.Error("data_version changes for the connection that wrote, or does not for another one")
	}
	own = liteInt(t, db, "pragma data_version")

	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSQLiteTwoProcesses$")
	cmd.Env = append(os.Environ(), "PRISM_BROKERS_SQLITE="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	wait := time.Now().Add(20 * time.Second)
	for liteInt(t, db, "pragma data_version") == own {
		if time.Now().After(wait) {
			t.Fatal("nothing was seen of the other process")
		}
	}
	for range each {
		liteExec(t, db, "insert into log (payload) values ('ours')")
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "holding" {
	}
	if n := liteInt(t, db, "select count(*) from log"); n != 1+2*each || liteInt(t, db, "select max(position) from log") != n {
		t.Errorf("%d rows; want %d without gaps", n, 1+2*each)
	}
	hasty := liteOpen(t, path, "")
	if _, err := hasty.Exec("insert into log (payload) values ('refused')"); liteCode(err) != sqlite3.SQLITE_BUSY {
		t.Errorf("beside the other's open transaction: %v; want SQLITE_BUSY", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	liteExec(t, hasty, "insert into log (payload) values ('after')")
	if got := liteInt(t, db, "select position from log where payload = 'after'"); got != 2*each+2 {
		t.Errorf("the next position is %d; want %d: the killed one's is free", got, 2*each+2)
	}
}

// liteOther is the other process: it appends, then holds a transaction open
// until it is killed.
func liteOther(t *testing.T, path string) {
	t.Helper()
	db := liteOpen(t, path, litePatient)
	for range 200 {
		liteExec(t, db, "insert into log (payload) values ('theirs')")
	}
	for end := time.Now().Add(20 * time.Second); liteInt(t, db, "select count(*) from log") < 401; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the other process has not written its rows")
		}
	}
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	liteExec(t, tx, "insert into log (payload) values ('of the killed one')")
	if _, err := fmt.Fprintln(os.Stdout, "holding"); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // ends with the test that started it
}

// TestSQLiteWakeUp: inside one process a channel closed after the commit is
// enough: who wakes finds the row.
func TestSQLiteWakeUp(t *testing.T) {
	t.Parallel()
	path := liteFile(t)
	db := liteOpen(t, path, litePatient)
	liteExec(t, db, liteLog)
	const receivers = 16
	woken, found := make(chan struct{}), make(chan int64, receivers)
	for range receivers {
		link := liteOpen(t, path, litePatient)
		liteInt(t, link, "select count(*) from log")
		go func() {
			<-woken
			var n int64
			if err := link.QueryRow("select count(*) from log").Scan(&n); err != nil {
				t.Error(err)
			}
			found <- n
		}()
	}
	liteExec(t, db, "insert into log (payload) values ('m')")
	close(woken)
	for range receivers {
		if n := <-found; n != 1 {
			t.Errorf("a receiver that was woken found %d rows; want 1", n)
		}
	}
	start := time.Now()
	const polls = 2000
	for range polls {
		liteInt(t, db, "pragma data_version")
	}
	t.Logf("asking for data_version takes %v", time.Since(start)/polls)
}
