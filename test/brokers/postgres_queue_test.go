package brokers

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	pgQueueTable = `create table queue (
		id bigserial primary key, priority int not null default 0, message_id text,
		visible_at timestamptz not null default now(), attempt int not null default 0, receipt uuid, payload bytea)`
	// The lock is taken on a materialized list: a subselect with a limit may be
	// run again for each row and lease more than asked for.
	pgLease = `with due as materialized (
			select id from queue where visible_at <= clock_timestamp()
			order by priority desc, id limit $1 for update skip locked)
		update queue q set visible_at = clock_timestamp() + $2::interval, attempt = attempt + 1, receipt = gen_random_uuid()
		from due where q.id = due.id
		returning q.id, q.attempt, q.receipt::text, q.priority`
)

type pgLeased struct {
	ID       int64
	Attempt  int
	Receipt  string
	Priority int
}

// pgTake leases up to n messages, in their order: RETURNING has none.
func pgTake(ctx context.Context, db pgDoer, n int, lease time.Duration) ([]pgLeased, error) {
	rows, err := db.Query(ctx, pgLease, n, lease)
	if err != nil {
		return nil, err
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[pgLeased])
	slices.SortFunc(list, func(a, b pgLeased) int {
		if a.Priority != b.Priority {
			return b.Priority - a.Priority
		}
		return int(a.ID - b.ID)
	})
	return list, err
}

func pgMustTake(t *testing.T, db pgDoer, n int, lease time.Duration) []pgLeased {
	t.Helper()
	list, err := pgTake(t.Context(), db, n, lease)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// pgSettle removes a message if the receipt is its current one.
func pgSettle(t *testing.T, db pgDoer, m pgLeased) int {
	t.Helper()
	return len(pgDo[int64](t, db, "delete from queue where id = $1 and receipt = $2::uuid returning id", m.ID, m.Receipt))
}

// TestPostgresQueueLeases: what a lease by update gives: each message to one
// receiver, attempts counted, a takeover when the lease ends, and receipts of
// before that settle nothing.
func TestPostgresQueueLeases(t *testing.T) {
	t.Parallel()
	pool := pgPool(t, pgServer(t))
	pgExec(t, pool, pgQueueTable, "insert into queue (payload) values ('m')")
	first := pgMustTake(t, pool, 1, 50*time.Millisecond)
	if len(first) != 1 || first[0].Attempt != 1 {
		t.Fatalf("leased %+v; want one message at attempt 1", first)
	}
	var second []pgLeased
	start := time.Now()
	pgWait(t, "takeover", func() bool { second = pgMustTake(t, pool, 1, time.Hour); return len(second) == 1 })
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("taken over after %v; want the lease of 50 ms", took)
	}
	if second[0].ID != first[0].ID || second[0].Attempt != 2 || second[0].Receipt == first[0].Receipt {
		t.Errorf("the takeover is %+v after %+v", second[0], first[0])
	}
	if n := pgSettle(t, pool, first[0]); n != 0 {
		t.Errorf("the receipt of before settles %d messages", n)
	}
	if n := pgSettle(t, pool, second[0]); n != 1 {
		t.Errorf("the current receipt settles %d messages", n)
	}
	if n := pgSettle(t, pool, second[0]); n != 0 {
		t.Errorf("the current receipt settles %d messages the second time: the row is gone, as with a stale one", n)
	}
}

// TestPostgresQueueEachToOne: 16 receivers that take at the same time share the
// messages without one being leased twice or left.
func TestPostgresQueueEachToOne(t *testing.T) {
	t.Parallel()
	pool := pgPool(t, pgServer(t))
	pgExec(t, pool, pgQueueTable, "insert into queue (payload) select 'm' from generate_series(1, 2000)")
	var mu sync.Mutex
	times := map[int64]int{}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for {
				list, err := pgTake(t.Context(), pool, 10, time.Hour)
				if err != nil {
					t.Error(err)
					return
				}
				if len(list) > 10 {
					t.Errorf("%d messages leased; 10 were asked for", len(list))
				}
				mu.Lock()
				for _, m := range list {
					times[m.ID]++
				}
				mu.Unlock()
				if len(list) == 0 {
					return
				}
			}
		})
	}
	wg.Wait()
	left := pgDo[int](t, pool, "select count(*) from queue where attempt = 0")[0]
	if len(times)+left != 2000 {
		t.Errorf("%d leased and %d left of 2000", len(times), left)
	}
	for id, n := range times {
		if n != 1 {
			t.Errorf("message %d was leased %d times", id, n)
		}
	}
	// A receiver that finds all due ones locked sees an empty queue and leaves.
	if left > 0 {
		t.Errorf("%d messages are left although somebody always asked again", left)
	}
}

// TestPostgresQueueOrder: the higher priority first, then the older one; what
// is delayed is not there before its time and keeps its place then.
func TestPostgresQueueOrder(t *testing.T) {
	t.Parallel()
	pool := pgPool(t, pgServer(t))
	pgExec(t, pool, pgQueueTable, `insert into queue (id, priority, visible_at) values
		(1, 0, now()), (2, 5, now()), (3, 0, now() + interval '150 ms'), (4, 5, now()), (5, 9, now() + interval '1 hour')`)
	var got []int64
	for _, m := range pgMustTake(t, pool, 10, time.Hour) {
		got = append(got, m.ID)
	}
	if !slices.Equal(got, []int64{2, 4, 1}) {
		t.Errorf("leased %v; want 2, 4, 1", got)
	}
	pgWait(t, "delayed message", func() bool {
		list := pgMustTake(t, pool, 10, time.Hour)
		return len(list) == 1 && list[0].ID == 3
	})
}

// TestPostgresQueueInAnOpenTransaction: a message that is held by a row lock is
// free at once when its connection is lost, but the attempt is lost with it,
// no other connection can settle it (its receipt looks stale there), and dead rows of all tables stay.
func TestPostgresQueueInAnOpenTransaction(t *testing.T) {
	t.Parallel()
	pool := pgPool(t, pgServer(t))
	pgExec(t, pool, pgQueueTable, "insert into queue (payload) values ('m')")
	pgExec(t, pool, "create table churn (n int)", "insert into churn select 1 from generate_series(1, 1000)")
	holder, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pgExec(t, holder, "begin")
	held := pgMustTake(t, holder, 1, time.Hour)
	if len(held) != 1 || held[0].Attempt != 1 {
		t.Fatalf("leased %+v", held)
	}
	if others := pgMustTake(t, pool, 1, time.Hour); len(others) != 0 {
		t.Fatalf("another receiver leased %+v", others)
	}
	if n := pgSettle(t, pool, held[0]); n != 0 {
		t.Errorf("another connection settled %d messages with the holder's receipt; want 0: it cannot see it", n)
	}
	dead := func() int64 {
		pgExec(t, pool, "delete from churn", "vacuum churn")
		return pgDo[int64](t, pool, "select pg_relation_size('churn')")[0]
	}
	if dead() == 0 {
		t.Error("vacuum removed rows that an open transaction may see")
	}
	pid := holder.Conn().PgConn().PID()
	pgDo[bool](t, pool, "select pg_terminate_backend($1)", pid)
	var again []pgLeased
	pgWait(t, "message of the lost connection", func() bool { again = pgMustTake(t, pool, 1, time.Hour); return len(again) == 1 })
	if again[0].Attempt != 1 {
		t.Errorf("attempt %d after a lost connection; want 1: the count was rolled back", again[0].Attempt)
	}
	pgWait(t, "room after vacuum", func() bool { return dead() == 0 })
	holder.Release()
}

// TestPostgresQueueChurn: an index on what a lease changes makes each lease
// write all indexes; without it, and with room in the pages, updates stay in
// their page.
func TestPostgresQueueChurn(t *testing.T) {
	t.Parallel()
	pool := pgPool(t, pgServer(t))
	hot := func(options string, indexes ...string) float64 {
		pgExec(t, pool, "drop table if exists queue", pgQueueTable+options)
		pgExec(t, pool, indexes...)
		pgExec(t, pool, "insert into queue (payload) select '\\x0011223344556677' from generate_series(1, 1000)")
		for range 5 {
			for taken := 0; taken < 1000; {
				taken += len(pgMustTake(t, pool, 50, 0)) // due again at once: the next round takes it
			}
		}
		var updates, inPage int64
		pgWait(t, "statistics", func() bool {
			pgExec(t, pool, "select pg_stat_force_next_flush()")
			updates = pgDo[int64](t, pool, "select sum(n_tup_upd)::bigint from pg_stat_user_tables where relname = 'queue'")[0]
			inPage = pgDo[int64](t, pool, "select sum(n_tup_hot_upd)::bigint from pg_stat_user_tables where relname = 'queue'")[0]
			return updates >= 5000
		})
		return float64(inPage) / float64(updates)
	}
	indexed := hot("", "create index on queue (priority desc, visible_at)")
	full := hot("", "create index on queue (priority desc, id)")
	roomy := hot(" with (fillfactor = 50)", "create index on queue (priority desc, id)")
	t.Logf("updates in their page: %.2f with an index on visible_at, %.2f without, %.2f with fillfactor 50", indexed, full, roomy)
	if indexed != 0 || full < 0.5 || roomy < 0.9 {
		t.Errorf("updates in their page: %.2f with an index on visible_at, %.2f without, %.2f with fillfactor 50", indexed, full, roomy)
	}
}

// TestPostgresNotify: what a listener gets, and what it does not.
func TestPostgresNotify(t *testing.T) {
	t.Parallel()
	pool := pgPool(t, pgServer(t))
	listen := func() *pgxpool.Conn {
		c, err := pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		pgExec(t, c, "listen woken")
		return c
	}
	heard := func(c *pgxpool.Conn) (list []string) { // up to and with the payload "end"
		for {
			n, err := c.Conn().WaitForNotification(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if n.Payload == "end" {
				return list
			}
			list = append(list, n.Payload)
		}
	}
	expect := func(c *pgxpool.Conn, what, want string) {
		t.Helper()
		pgExec(t, pool, "notify woken, 'end'")
		if got := strings.Join(heard(c), " "); got != want {
			t.Errorf("%s: heard %q; want %q", what, got, want)
		}
	}
	c := listen()
	pgExec(t, pool, "select pg_notify('woken', 'same') from generate_series(1, 10)")
	expect(c, "ten alike in one transaction", "same")
	pgExec(t, pool, "select pg_notify('woken', n::text) from generate_series(1, 3) n")
	expect(c, "three that differ", "1 2 3")
	pgExec(t, pool, "notify woken, 'same'", "notify woken, 'same'")
	expect(c, "two alike in two transactions", "same same")
	tx := pgBegin(t, pool)
	pgExec(t, tx, "notify woken, 'never'")
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	expect(c, "one that was rolled back", "")

	pgDo[bool](t, pool, "select pg_terminate_backend($1)", c.Conn().PgConn().PID())
	if _, err := c.Conn().WaitForNotification(t.Context()); err == nil {
		t.Fatal("a lost connection still hears")
	}
	c.Release()
	pgExec(t, pool, "notify woken, 'while away'")
	c = listen()
	defer c.Release()
	expect(c, "one while nobody listened", "")
}

// TestPostgresNotifyUnderLoad prints what a notification with each insert
// costs: commits that notify take one lock for the whole server in turn.
func TestPostgresNotifyUnderLoad(t *testing.T) {
	t.Parallel()
	window, writers := 200*time.Millisecond, []int{16}
	if os.Getenv("PRISM_TEST_LONG") != "" {
		window, writers = 3*time.Second, []int{16, 64}
	}
	pool := pgPool(t, pgServer(t))
	for _, n := range writers {
		base := 0.0
		for _, c := range []struct{ name, sql string }{
			{"no notification", "insert into queue (payload) values ('m')"},
			{"one with each insert", "with i as (insert into queue (payload) values ('m')) select pg_notify('woken', '')"},
		} {
			pgExec(t, pool, "drop table if exists queue", pgQueueTable)
			count := pgHammer(t, pool, n, window, c.sql)
			rate := float64(count) / window.Seconds()
			if base == 0 {
				base = rate
			}
			t.Logf("%d writers, %s: %.0f inserts/s, %.2f", n, c.name, rate, rate/base)
			if rows := pgDo[int](t, pool, "select count(*) from queue")[0]; rows != count {
				t.Errorf("%d rows after %d inserts", rows, count)
			}
		}
	}
}

func pgHammer(t *testing.T, pool *pgxpool.Pool, writers int, window time.Duration, sql string) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), window)
	defer cancel()
	var n atomic.Int64
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for ctx.Err() == nil {
				if _, err := pool.Exec(t.Context(), sql); err != nil {
					t.Error(err)
					return
				}
				n.Add(1)
			}
		})
	}
	wg.Wait()
	return int(n.Load())
}

// pgPublish appends a message unless its id was there within ten minutes; the
// answer is its position, or that of the one before.
const pgPublish = `with seen as (
		insert into seen (message_id, at) values ($1, clock_timestamp())
		on conflict (message_id) do update set at = excluded.at
			where seen.at < excluded.at - interval '10 min'
		returning message_id),
	put as (insert into log (message_id) select message_id from seen returning position)
	select position from put`

// TestPostgresDedup: of 16 publishers of one message at once one appends it;
// the others wait for its commit, and one of them appends it if it is rolled
// back. After the window the same id is a new message.
func TestPostgresDedup(t *testing.T) {
	t.Parallel()
	pool := pgPool(t, pgServer(t))
	pgExec(t, pool, "create table log (position bigserial primary key, message_id text)",
		"create table seen (message_id text primary key, at timestamptz not null)")
	first := pgBegin(t, pool)
	if got := pgDo[int64](t, first, pgPublish, "m"); len(got) != 1 {
		t.Fatalf("the first publish gives %v", got)
	}
	appended := make(chan int, 16)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			tag, err := pool.Exec(t.Context(), pgPublish, "m")
			if err != nil {
				t.Error(err)
			}
			appended <- int(tag.RowsAffected())
		})
	}
	pgWait(t, "16 waiting publishers", func() bool {
		return pgDo[int](t, pool, "select count(*) from pg_locks where not granted")[0] >= 16
	})
	if err := first.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	close(appended)
	total := 0
	for n := range appended {
		total += n
	}
	if rows := pgDo[int](t, pool, "select count(*) from log")[0]; total != 1 || rows != 1 {
		t.Errorf("%d of 16 publishers appended, the log has %d rows; want 1", total, rows)
	}
	pgExec(t, pool, "update seen set at = at - interval '9 min'")
	if got := pgDo[int64](t, pool, pgPublish, "m"); len(got) != 0 {
		t.Errorf("published again after 9 minutes, at %v", got)
	}
	pgExec(t, pool, "update seen set at = at - interval '2 min'")
	if got := pgDo[int64](t, pool, pgPublish, "m"); len(got) != 1 {
		t.Errorf("not published after 11 minutes")
	}
}

// TestPostgresGroupState: settlements in any order, fenced per partition by
// the epoch of its lease; the committed position moves over what is settled,
// in the same transaction.
func TestPostgresGroupState(t *testing.T) {
	t.Parallel()
	pool := pgPool(t, pgServer(t))
	pgExec(t, pool,
		"create table member (partition int primary key, owner text, epoch bigint not null, until timestamptz, committed bigint not null)",
		"create table pending (partition int, position bigint, attempt int not null, settled bool not null, primary key (partition, position))",
		"insert into member values (0, 'a', 1, now(), 0)",
		"insert into pending select 0, p, 1, false from generate_series(1, 6) p")
	// The member's row is locked first, so that two settlements of a partition
	// do not both look before either has written.
	settle := func(epoch, position int64) (committed []int64) {
		tx := pgBegin(t, pool)
		if len(pgDo[int64](t, tx, "select epoch from member where partition = 0 and epoch = $1 for update", epoch)) == 0 {
			return nil
		}
		pgDo[any](t, tx, "update pending set settled = true where partition = 0 and position = $1", position)
		committed = pgDo[int64](t, tx, `update member set committed = coalesce(
				(select min(position) - 1 from pending where partition = 0 and not settled),
				(select max(position) from pending where partition = 0), committed)
			where partition = 0 returning committed`)
		pgDo[any](t, tx, "delete from pending where partition = 0 and position <= $1", committed[0])
		pgCommit(t, tx)
		return committed
	}
	for _, c := range []struct{ position, committed int64 }{{3, 0}, {5, 0}, {1, 1}, {2, 3}} {
		if got := settle(1, c.position); !slices.Equal(got, []int64{c.committed}) {
			t.Errorf("settling %d gives %v; want committed %d", c.position, got, c.committed)
		}
	}
	left := func() string {
		return fmt.Sprint(pgDo[string](t, pool, "select position || ':' || settled from pending order by position"))
	}
	if got := left(); got != "[4:false 5:true 6:false]" {
		t.Errorf("pending %s", got)
	}
	took := func() int {
		return len(pgDo[int64](t, pool, `update member set owner = 'b', epoch = epoch + 1, until = clock_timestamp() + interval '15 s'
			where partition = 0 and until < clock_timestamp() returning epoch`))
	}
	if took() != 1 || took() != 0 {
		t.Error("a partition whose lease has ended is to be taken once")
	}
	if got := settle(1, 4); got != nil {
		t.Errorf("the member of before settled up to %v", got)
	}
	if got := settle(2, 4); !slices.Equal(got, []int64{5}) {
		t.Errorf("the new member's settlement gives %v; want committed 5", got)
	}
	if got := left(); got != "[6:false]" {
		t.Errorf("pending %s", got)
	}
}
