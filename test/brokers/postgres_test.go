package brokers

import (
	"context"
	"net/url"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/prismgw/prism/internal/testutil/servers"
)

// pgServer starts a PostgreSQL of the test's own: what another test leaves open
// would hold back its transactions' horizon.
func pgServer(t *testing.T) *servers.Server {
	t.Helper()
	return servers.PostgresWith(t)
}

func pgPool(t *testing.T, s *servers.Server) *pgxpool.Pool {
	t.Helper()
	return pgPoolOf(t, s, "postgres")
}

func pgPoolOf(t *testing.T, s *servers.Server, database string) *pgxpool.Pool {
	t.Helper()
	name, password := servers.PostgresLogin(s)
	u := url.URL{Scheme: "postgres", User: url.UserPassword(name, password), Host: s.Addr, Path: database, RawQuery: "sslmode=disable&pool_max_conns=70"}
	pool, err := pgxpool.New(t.Context(), u.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

type pgDoer interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// pgDo runs one statement and returns its first column.
func pgDo[T any](t *testing.T, db pgDoer, sql string, args ...any) []T {
	t.Helper()
	rows, err := db.Query(t.Context(), sql, args...)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (v T, err error) {
		if len(row.FieldDescriptions()) > 0 {
			err = row.Scan(&v)
		}
		return v, err
	})
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return list
}

func pgExec(t *testing.T, db pgDoer, statements ...string) {
	t.Helper()
	for _, sql := range statements {
		rows, err := db.Query(t.Context(), sql)
		if err == nil {
			rows.Close()
			err = rows.Err()
		}
		if err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

func pgBegin(t *testing.T, pool *pgxpool.Pool) pgx.Tx {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) })
	return tx
}

func pgCommit(t *testing.T, tx pgx.Tx) {
	t.Helper()
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func pgWait(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %s within 30 s", what)
		}
	}
}

// A pgLog is one way to give the rows of a log positions and to read them.
type pgLog struct {
	name   string
	schema []string
	// put appends one row to partition p; the write is one round trip.
	put func(ctx context.Context, pool *pgxpool.Pool, p int, n int) error
	// read returns what comes behind after, and the last one's place.
	read string
	// sequencer gives positions to rows that have none; "" if there is none.
	sequencer string
}

const (
	pgByPosition = "select '', position from log where partition = $1 and $2::text is not null and position > $3 order by position limit 5000"
	pgLock       = 7
)

func pgInsert(ctx context.Context, pool *pgxpool.Pool, p, n int) error {
	_, err := pool.Exec(ctx, "insert into log (partition, payload) select $1, '\\x00' from generate_series(1, $2)", p, n)
	return err
}

// The trap and its cures.
var pgLogs = []pgLog{
	{
		name:   "trap",
		schema: []string{"create table log (partition int, position bigserial, payload bytea, primary key (partition, position))"},
		put:    pgInsert,
		read:   pgByPosition,
	},
	{
		name: "horizon",
		schema: []string{
			"create table log (partition int, xid xid8 default pg_current_xact_id(), position bigserial, payload bytea, primary key (partition, xid, position))",
		},
		put: pgInsert,
		read: `select xid::text, position from log
			where partition = $1 and (xid, position) > ($2::text::xid8, $3) and xid < pg_snapshot_xmin(pg_current_snapshot())
			order by log.xid, position limit 5000`, // by "xid" alone it would be the text of the first column
	},
	{
		name:   "lock",
		schema: []string{"create table log (partition int, position bigserial, payload bytea, primary key (partition, position))"},
		put: func(ctx context.Context, pool *pgxpool.Pool, p, n int) error {
			var b pgx.Batch // one round trip, one transaction
			b.Queue("select pg_advisory_xact_lock($1, $2)", pgLock, p)
			b.Queue("insert into log (partition, payload) select $1, '\\x00' from generate_series(1, $2)", p, n)
			return pool.SendBatch(ctx, &b).Close()
		},
		read: pgByPosition,
	},
	{
		name: "head row",
		schema: []string{
			"create table log (partition int, position bigint, payload bytea, primary key (partition, position))",
			"create table head (partition int primary key, next bigint not null) with (fillfactor = 50)",
			"insert into head select p, 0 from generate_series(0, 63) p",
		},
		put: func(ctx context.Context, pool *pgxpool.Pool, p, n int) error {
			_, err := pool.Exec(ctx, `with h as (update head set next = next + $2 where partition = $1 returning next)
				insert into log select $1, h.next - $2 + i, '\x00' from h, generate_series(1, $2) i`, p, n)
			return err
		},
		read: pgByPosition,
	},
	{
		name: "sequencer",
		schema: []string{
			"create table log (partition int, id bigserial primary key, position bigint, payload bytea) with (fillfactor = 70)",
			"create index on log (id) where position is null",
			"create unique index on log (partition, position) where position is not null",
			"create sequence places",
		},
		put:  pgInsert,
		read: pgByPosition,
		sequencer: `with fresh as (select id from log where position is null order by id limit 1000),
			placed as (select id, nextval('places') as place from (select id from fresh order by id) f)
			update log set position = placed.place from placed where log.id = placed.id`,
	},
}

func pgLogNamed(t *testing.T, name string) pgLog {
	t.Helper()
	for _, l := range pgLogs {
		if l.name == name {
			return l
		}
	}
	t.Fatalf("no log %s", name)
	return pgLog{}
}

// pgReader follows a partition as a consumer would.
type pgReader struct {
	log       pgLog
	partition int
	xid       string
	position  int64
	seen      int
}

func (r *pgReader) read(ctx context.Context, pool *pgxpool.Pool) error {
	if r.xid == "" {
		r.xid = "0"
	}
	rows, err := pool.Query(ctx, r.log.read, r.partition, r.xid, r.position)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := rows.Scan(&r.xid, &r.position); err != nil {
			return err
		}
		r.seen++
	}
	return rows.Err()
}

func (r *pgReader) mustRead(t *testing.T, pool *pgxpool.Pool) int {
	t.Helper()
	if err := r.read(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	return r.seen
}

// TestPostgresLateCommitIsSkipped: positions are given before the commit, so
// that a reader by position never sees a row that commits behind a later one.
func TestPostgresLateCommitIsSkipped(t *testing.T) {
	t.Parallel()
	pool := pgPool(t, pgServer(t))
	log := pgLogNamed(t, "trap")
	pgExec(t, pool, log.schema...)
	late := pgBegin(t, pool)
	pgExec(t, late, "insert into log (partition, payload) values (0, 'late')")
	pgExec(t, pool, "insert into log (partition, payload) values (0, 'early')")
	r := &pgReader{log: log}
	if n := r.mustRead(t, pool); n != 1 || r.position != 2 {
		t.Fatalf("read %d rows up to position %d; want 1 and 2", n, r.position)
	}
	pgCommit(t, late)
	if n := r.mustRead(t, pool); n != 1 {
		t.Errorf("the reader has %d of 2 rows; the trap is gone, which cannot be", n)
	}
}

// TestPostgresHorizon: rows of finished transactions below every open one can
// be read in the order (transaction, position) and in no other; any open
// transaction that has written, in whatever database, holds them back.
func TestPostgresHorizon(t *testing.T) {
	t.Parallel()
	s := pgServer(t)
	pool := pgPool(t, s)
	log := pgLogNamed(t, "horizon")
	pgExec(t, pool, log.schema...)
	pgExec(t, pool, "create database other")
	other := pgPoolOf(t, s, "other")
	pgExec(t, other, "create table unrelated (n int)")

	// A transaction that got its number early and its position late.
	first, second := pgBegin(t, pool), pgBegin(t, pool)
	pgDo[any](t, first, "select pg_current_xact_id()::text")
	pgExec(t, second, "insert into log (partition, payload) values (0, 'position 1, the later transaction')")
	pgExec(t, first, "insert into log (partition, payload) values (0, 'position 2, the earlier transaction')")
	pgCommit(t, first)
	byPosition := log
	byPosition.read = `select '', position from log where partition = $1 and $2::text is not null and position > $3
		and xid < pg_snapshot_xmin(pg_current_snapshot()) order by position`
	right, wrong := &pgReader{log: log}, &pgReader{log: byPosition}
	right.mustRead(t, pool)
	wrong.mustRead(t, pool)
	pgCommit(t, second)
	if n := right.mustRead(t, pool); n != 2 {
		t.Errorf("by (transaction, position): %d of 2 rows", n)
	}
	if n := wrong.mustRead(t, pool); n != 1 {
		t.Errorf("by position below the horizon: %d rows; want 1, it skips the other", n)
	}

	// What holds the horizon, and what does not.
	reading, err := other.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reading.Rollback(t.Context()) }()
	pgDo[int](t, reading, "select count(*) from unrelated")
	pgExec(t, pool, "insert into log (partition, payload) values (0, '3')")
	if n := right.mustRead(t, pool); n != 3 {
		t.Errorf("%d of 3 rows beside a transaction that only reads", n)
	}
	writing := pgBegin(t, other)
	pgExec(t, writing, "insert into unrelated values (1)")
	pgExec(t, pool, "insert into log (partition, payload) values (0, '4')")
	if n := right.mustRead(t, pool); n != 3 {
		t.Errorf("%d rows while a transaction of another database is open; want 3", n)
	}
	pgCommit(t, writing)
	if n := right.mustRead(t, pool); n != 4 {
		t.Errorf("%d of 4 rows after it has ended", n)
	}
}

// TestPostgresSerialAppend: an advisory lock or the partition's head row, held
// to the end of the transaction, makes the next append of the partition wait
// and disturbs no other; unrelated transactions do not matter.
func TestPostgresSerialAppend(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]string{
		"lock":     "select pg_advisory_xact_lock(7, 0)",
		"head row": "update head set next = next + 1 where partition = 0",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := pgPool(t, pgServer(t))
			log := pgLogNamed(t, name)
			pgExec(t, pool, log.schema...)
			pgExec(t, pool, "create table unrelated (n int)")
			unrelated, holder := pgBegin(t, pool), pgBegin(t, pool)
			pgExec(t, unrelated, "insert into unrelated values (1)")
			pgExec(t, holder, open)
			done := make(chan error, 1)
			go func() { done <- log.put(t.Context(), pool, 0, 1) }()
			if err := log.put(t.Context(), pool, 1, 1); err != nil {
				t.Fatal(err)
			}
			pgWait(t, "waiting append", func() bool {
				return pgDo[int](t, pool, "select count(*) from pg_locks where not granted")[0] == 1
			})
			r, elsewhere := &pgReader{log: log}, &pgReader{log: log, partition: 1}
			if a, b := r.mustRead(t, pool), elsewhere.mustRead(t, pool); a != 0 || b != 1 {
				t.Errorf("read %d and %d rows; want 0 and 1", a, b)
			}
			pgCommit(t, holder)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if n := r.mustRead(t, pool); n != 1 {
				t.Errorf("read %d rows; want 1", n)
			}
		})
	}
}

// TestPostgresHeadRowLeavesNoGaps: an append that is rolled back gives its
// positions back; a sequence does not.
func TestPostgresHeadRowLeavesNoGaps(t *testing.T) {
	t.Parallel()
	pool := pgPool(t, pgServer(t))
	log := pgLogNamed(t, "head row")
	pgExec(t, pool, log.schema...)
	pgExec(t, pool, "create sequence places")
	for range 2 {
		tx := pgBegin(t, pool)
		pgExec(t, tx, "update head set next = next + 5 where partition = 0")
		pgDo[int64](t, tx, "select nextval('places')")
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := log.put(t.Context(), pool, 0, 2); err != nil {
			t.Fatal(err)
		}
		pgDo[int64](t, pool, "select nextval('places')")
	}
	if got := pgDo[int64](t, pool, "select position from log order by 1"); !slices.Equal(got, []int64{1, 2, 3, 4}) {
		t.Errorf("positions %v; want 1 to 4", got)
	}
	if got := pgDo[int64](t, pool, "select last_value from places")[0]; got != 4 {
		t.Errorf("the sequence is at %d; want 4 after two rolled back and two committed uses", got)
	}
}

// TestPostgresHeadRowUnderAnOldSnapshot: the head row's old versions cannot be
// removed while any transaction may see them, one that only reads too.
func TestPostgresHeadRowUnderAnOldSnapshot(t *testing.T) {
	t.Parallel()
	pool := pgPool(t, servers.PostgresWith(t, "synchronous_commit=off")) // the disk is no part of this
	log := pgLogNamed(t, "head row")
	pgExec(t, pool, log.schema...)
	appends := func() (pages int64, took time.Duration) {
		start := time.Now()
		for range 1500 {
			if err := log.put(t.Context(), pool, 0, 1); err != nil {
				t.Fatal(err)
			}
		}
		return pgDo[int64](t, pool, "select pg_relation_size('head') / 8192")[0], time.Since(start)
	}
	pages, took := appends()
	old, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = old.Rollback(t.Context()) }()
	pgDo[int](t, old, "select 1")
	grown, slower := appends()
	t.Logf("1,500 appends: %d pages after %v; beside an old snapshot %d pages after %v", pages, took, grown, slower)
	if pages > 4 || grown < 8 {
		t.Errorf("the head's table has %d pages, %d beside an old snapshot; want at most 4 and at least 8", pages, grown)
	}
}

// TestPostgresLogsUnderLoad runs each way with 16 and 64 writers and a reader
// beside them: the cures skip nothing. It prints what they cost; the figures
// of README-b.md come from a run of it alone, with PRISM_TEST_LONG set.
func TestPostgresLogsUnderLoad(t *testing.T) {
	t.Parallel()
	window, writers := 200*time.Millisecond, []int{16}
	if os.Getenv("PRISM_TEST_LONG") != "" {
		window, writers = 3*time.Second, []int{16, 64}
	}
	s := pgServer(t)
	pool := pgPool(t, s)
	for _, n := range writers {
		base := 0.0
		for _, c := range []struct {
			log               string
			partitions, batch int
		}{
			{"trap", 1, 1},
			{"horizon", 1, 1},
			{"lock", 1, 1},
			{"lock", 16, 1},
			{"head row", 1, 1},
			{"head row", 16, 1},
			{"sequencer", 1, 1},
			{"trap", 16, 64},
			{"lock", 16, 64},
			{"head row", 16, 64},
			{"head row", 1, 64},
		} {
			wrote, seen, took := pgLoad(t, pool, pgLogNamed(t, c.log), n, c.partitions, c.batch, window)
			rate := float64(wrote) / took.Seconds()
			if base == 0 {
				base = rate
			}
			t.Logf("%d writers, %s, %d partitions, batches of %d: %.0f rows/s, %.2f of the trap's; the reader missed %d of %d",
				n, c.log, c.partitions, c.batch, rate, rate/base, wrote-seen, wrote)
			if c.log != "trap" && seen != wrote {
				t.Errorf("%s: a reader saw %d of %d rows", c.log, seen, wrote)
			}
		}
	}
}

// pgLoad writes from many goroutines for a while and reads all partitions at
// the same time, as consumers do. The reader goes on until nothing comes.
func pgLoad(t *testing.T, pool *pgxpool.Pool, log pgLog, writers, partitions, batch int, window time.Duration) (wrote, seen int, took time.Duration) {
	t.Helper()
	pgExec(t, pool, "drop table if exists log, head", "drop sequence if exists places")
	pgExec(t, pool, log.schema...)
	ctx, cancel := context.WithTimeout(t.Context(), window)
	defer cancel()
	var rows atomic.Int64
	var work, side sync.WaitGroup
	start := time.Now()
	for w := range writers {
		work.Go(func() {
			for ctx.Err() == nil {
				if err := log.put(t.Context(), pool, w%partitions, batch); err != nil {
					t.Error(err)
					return
				}
				rows.Add(int64(batch))
			}
		})
	}
	over := make(chan struct{})
	readers := make([]*pgReader, partitions)
	for p := range readers {
		readers[p] = &pgReader{log: log, partition: p}
	}
	readAll := func() {
		for _, r := range readers {
			if err := r.read(t.Context(), pool); err != nil {
				t.Error(err)
			}
		}
	}
	sequence := func() {
		if log.sequencer == "" {
			return
		}
		if _, err := pool.Exec(t.Context(), log.sequencer); err != nil {
			t.Error(err)
		}
	}
	repeat := func(what func()) {
		side.Go(func() {
			for {
				select {
				case <-over:
					return
				case <-time.After(time.Millisecond):
					what()
				}
			}
		})
	}
	repeat(readAll)
	if log.sequencer != "" {
		repeat(sequence)
	}
	work.Wait()
	took = time.Since(start)
	close(over)
	side.Wait()
	for last := -1; last != seen || seen == 0; {
		last, seen = seen, 0
		for range 10 {
			sequence()
		}
		readAll()
		for _, r := range readers {
			seen += r.seen
		}
	}
	return int(rows.Load()), seen, took
}
