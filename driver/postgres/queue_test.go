package postgres_test

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/drivertest"
	"github.com/prismgw/prism/driver/postgres"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/servers"
)

func TestQueueConformance(t *testing.T) {
	shared := servers.Postgres(t)
	drivertest.RunQueue(t, drivertest.QueueHarness{
		Name:       "postgres",
		Driver:     postgres.Driver(),
		Config:     driver.Config{Name: "test", URL: shared.URL, Credentials: login(shared)},
		Persistent: true,
		Server: func(tb testing.TB) drivertest.Server {
			s := servers.PostgresWith(tb)
			return drivertest.Server{
				Process: s,
				Addr:    s.Addr,
				Config: func(addr string) driver.Config {
					return driver.Config{Name: "test", URL: "postgres://" + addr + "/postgres?sslmode=disable", Credentials: login(s)}
				},
			}
		},
	})
}

func (f *fixture) queue(conn driver.Conn) driver.Queue {
	f.Helper()
	b, err := conn.Space(driver.Space{Namespace: "orders", Pattern: "work"})
	if err != nil {
		f.Fatalf("space: %v", err)
	}
	return b.Queue
}

func (f *fixture) enqueue(q driver.Queue, tasks ...driver.Task) []driver.EnqueueResult {
	f.Helper()
	results := make([]driver.EnqueueResult, len(tasks))
	q.Enqueue(f.ctx, "q", tasks, results)
	for _, r := range results {
		if r.Err != nil {
			f.Fatalf("enqueue: %v", r.Err)
		}
	}
	return results
}

func (f *fixture) receive(q driver.Queue, limit int, wait time.Duration) []driver.Leased {
	f.Helper()
	leased, err := q.Receive(f.ctx, driver.ReceiveRequest{Queue: "q", Limit: limit, Lease: time.Hour, Wait: wait})
	if err != nil {
		f.Fatalf("receive: %v", err)
	}
	return leased
}

func (f *fixture) done(q driver.Queue, leased ...driver.Leased) {
	f.Helper()
	all := make([]driver.Settlement, len(leased))
	for i := range leased {
		all[i] = driver.Settlement{Receipt: leased[i].Receipt, Kind: driver.Done}
	}
	results := make([]error, len(all))
	q.Settle(f.ctx, "q", all, results)
	for _, err := range results {
		if err != nil {
			f.Fatalf("settle: %v", err)
		}
	}
}

// number asks for one number.
func (f *fixture) number(c *pgx.Conn, sql string) (n int64) {
	f.Helper()
	if err := c.QueryRow(f.ctx, sql).Scan(&n); err != nil {
		f.Fatalf("%s: %v", sql, err)
	}
	return n
}

// queueTablesByThemselves has KV and Queue make their own tables, whatever the
// state of the others' is, and again when they are dropped.
func queueTablesByThemselves(f *fixture) {
	conn := f.open(f.config())
	kv, q, direct := f.kv(conn, ""), f.queue(conn), f.direct()
	f.put(kv, "a", "1")
	if n := f.number(direct, "SELECT count(*) FROM pg_class WHERE relname LIKE 'prism_queue%' AND relnamespace = to_regnamespace('"+f.schema()+"')"); n != 0 {
		f.Errorf("%d tables of queues are there although there is no queue", n)
	}
	f.enqueue(q, driver.Task{Priority: 1, Value: []byte("1")})
	f.exec(direct, fmt.Sprintf("DROP TABLE %[1]s.prism_queue, %[1]s.prism_queue_id, %[1]s.prism_queue_schema", f.schema()))
	f.await("new tables", func() bool {
		results := make([]driver.EnqueueResult, 1)
		q.Enqueue(f.ctx, "q", []driver.Task{{Priority: 1}}, results)
		return results[0].Err == nil
	})
	if n := len(f.receive(q, 2, 0)); n != 1 {
		f.Errorf("%d tasks", n)
	}
	f.exec(direct, "UPDATE "+f.schema()+".prism_queue_schema SET version = 99")
	later := f.open(f.config())
	f.put(f.kv(later, ""), "a", "2")
	_, err := f.queue(later).Stat(f.ctx, "q")
	f.wants("stat", err, errs.InvalidConfiguration, "version 99", "newer Prism")
}

// queueRefusesAlone has calls that the server could not carry out beside others
// that share their flights.
func queueRefusesAlone(f *fixture) {
	q := f.queue(f.open(f.config()))
	results := make([]driver.EnqueueResult, 4)
	q.Enqueue(f.ctx, "q", []driver.Task{{Priority: 1}, {Priority: 1, ID: "a\x00"}, {Priority: 1, ID: "\xff"}, {Priority: 1, ID: strings.Repeat("a", 65)}}, results)
	if results[0].Err != nil {
		f.Errorf("beside others: %v", results[0].Err)
	}
	for _, r := range results[1:] {
		f.wants("an ID that is no text", r.Err, errs.InvalidField)
	}
	for _, name := range []string{"", "a\x00", "\xff"} {
		_, err := q.Stat(f.ctx, name)
		f.wants("stat", err, errs.InvalidField)
		_, err = q.Receive(f.ctx, driver.ReceiveRequest{Queue: name, Limit: 1, Lease: time.Minute})
		f.wants("receive", err, errs.InvalidField)
	}
	f.done(q, f.receive(q, 1, 0)...)
}

// queueLockedIDFailsAlone has another program hold an ID: what goes together with
// that ID's task is enqueued.
func queueLockedIDFailsAlone(f *fixture) {
	c := f.config()
	c.Options = f.options(`, "flights": 1`)
	q := f.queue(f.open(c))
	f.enqueue(q, driver.Task{Priority: 1, ID: "first"})
	row, table := f.direct(), f.direct()
	f.exec(row, "BEGIN; INSERT INTO "+f.schema()+".prism_queue_id VALUES ('orders', 'q', 'held', now() + interval '1 hour')")
	f.exec(table, "BEGIN; LOCK TABLE "+f.schema()+".prism_queue IN SHARE MODE")
	outcomes := map[string]error{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i, id := range []string{"under way", "held", "free"} {
		wg.Go(func() {
			results := make([]driver.EnqueueResult, 1)
			q.Enqueue(f.ctx, "q", []driver.Task{{Priority: 1, ID: id}}, results)
			mu.Lock()
			outcomes[id] = results[0].Err
			mu.Unlock()
		})
		f.await("a call", func() bool { return postgres.Enqueuing(q) == i && f.backends("wait_event_type = 'Lock'") == 1 })
	}
	f.exec(table, "COMMIT")
	wg.Wait()
	f.exec(row, "ROLLBACK")
	if outcomes["under way"] != nil || outcomes["free"] != nil {
		f.Errorf("others failed: %v", outcomes)
	}
	f.wants("the held one", outcomes["held"], errs.BackendUnavailable, "nothing was changed")
	if n := len(f.receive(q, 10, 0)); n != 3 {
		f.Errorf("%d tasks, want 3", n)
	}
}

// queuePlans explains the statements on 100,000 tasks of two queues, some of
// which are leased and some delayed.
func queuePlans(f *fixture) {
	q := f.queue(f.open(f.config()))
	f.enqueue(q, driver.Task{Priority: 1})
	c := f.direct()
	f.exec(c, fmt.Sprintf(`INSERT INTO %s.prism_queue (namespace, queue, priority, due_at, leased_until, id, headers, value)
		SELECT 'orders', CASE WHEN n %% 10 = 0 THEN 'other' ELSE 'q' END, 1 + n %% 10, CASE WHEN n %% 20 = 1 THEN now() + interval '1 hour' END,
		CASE WHEN n %% 1000 = 2 THEN now() + interval '1 hour' ELSE '-infinity' END, '', '', '\x00112233' FROM generate_series(1, 100000) n`, f.schema()))
	for name, value := range postgres.RuntimeParams() {
		f.exec(c, fmt.Sprintf("SET %s = '%s'", name, value))
	}
	pages := f.number(c, "SELECT pg_relation_size('"+f.schema()+".prism_queue') / 8192")
	lease, done, change, browse := postgres.QueueSQL(f.schema())
	queues, tokens := "ARRAY['q','q']", `ARRAY['\x01','\x02']::bytea[]`
	for _, x := range []struct {
		name, sql, args, index string
	}{
		{"lease", lease, `'orders', 'q', 10, 1000000, 60000000, '\x0011'`, "prism_queue_ready"},
		{"done", done, queues + `, ARRAY[50,60]::int8[], ` + tokens + `, 'orders'`, "prism_queue_pkey"},
		{"change", change, queues + `, ARRAY[50,60]::int8[], ` + tokens + `, ARRAY[0,1]::int8[], ARRAY[0,1]::int8[], ARRAY[0,0]::int8[], 'orders'`, "prism_queue_pkey"},
		{"browse", browse, `'orders', 'q', 500, 10`, "prism_queue_ready"},
	} {
		f.exec(c, "PREPARE "+x.name+" AS "+x.sql)
		plan := f.plan(c, "EXECUTE "+x.name+"("+x.args+")")
		if strings.Contains(plan, "Seq Scan on prism_queue") || !strings.Contains(plan, "using "+x.index) {
			f.Errorf("%s does not use its index:\n%s", x.name, plan)
		}
		blocks := 0
		for _, part := range regexp.MustCompile(`(?m)^ *Buffers: shared (?:hit=(\d+))?(?: read=(\d+))?`).FindAllStringSubmatch(plan, 1) {
			hit, _ := strconv.Atoi(part[1])
			read, _ := strconv.Atoi(part[2])
			blocks = hit + read
		}
		f.Logf("%s: %d blocks, of a table of %d", x.name, blocks, pages)
		if x.name != "browse" && (blocks == 0 || int64(blocks) > pages/10) { // browse sorts the delayed ones
			f.Errorf("%s touches %d blocks of a table of %d:\n%s", x.name, blocks, pages, plan)
		}
	}
}

func (f *fixture) plan(c *pgx.Conn, sql string) string {
	f.Helper()
	results, err := c.PgConn().Exec(f.ctx, "BEGIN; EXPLAIN (ANALYZE, BUFFERS) "+sql+"; ROLLBACK").ReadAll()
	if err != nil {
		f.Fatalf("%s: %v", sql, err)
	}
	var lines []string
	for _, r := range results {
		for _, row := range r.Rows {
			lines = append(lines, string(row[0]))
		}
	}
	return strings.Join(lines, "\n")
}

// queueIDsAreForgotten moves IDs to the end of their window.
func queueIDsAreForgotten(f *fixture) {
	q := f.queue(f.open(f.config()))
	c, one := f.direct(), driver.Task{ID: "a", Priority: 1}
	for i, step := range []struct {
		left      string
		duplicate bool
	}{{"", false}, {"1 minute", true}, {"-1 second", false}, {"10 seconds", true}} {
		if step.left != "" {
			f.exec(c, "UPDATE "+f.schema()+".prism_queue_id SET kept_until = now() + interval '"+step.left+"'")
		}
		if r := f.enqueue(q, one)[0]; r.Duplicate != step.duplicate {
			f.Errorf("step %d: duplicate %v", i, r.Duplicate)
		}
	}
	if left := f.number(c, "SELECT extract(epoch FROM max(kept_until) - now())::int8 FROM "+f.schema()+".prism_queue_id"); left < 5 || left > int64(driver.DedupWindow.Seconds()) {
		f.Errorf("the ID is kept for %d s", left)
	}
	config := f.config()
	config.Options = f.options(`, "sweep_interval": "20ms"`)
	sweeping := f.queue(f.open(config))
	for i := range 3 {
		var many []driver.Task
		for k := range 1000 {
			many = append(many, driver.Task{ID: fmt.Sprint(i, "-", k), Priority: 1})
		}
		f.enqueue(sweeping, many...)
	}
	f.exec(c, "UPDATE "+f.schema()+".prism_queue_id SET kept_until = now() - interval '1 second' WHERE id <> 'a'")
	f.await("removal of the IDs", func() bool { return f.number(c, "SELECT count(*) FROM "+f.schema()+".prism_queue_id") == 1 })
}

// heard returns how many notifications tell of so much.
func (f *fixture) heard(c *pgx.Conn, want int) (times int) {
	f.Helper()
	for sum := 0; sum < want; times++ {
		n, err := c.WaitForNotification(f.ctx)
		if err != nil {
			f.Fatal(err)
		}
		fields := strings.Fields(n.Payload)
		count, err := strconv.Atoi(fields[len(fields)-1])
		if err != nil {
			f.Fatalf("%q: %v", n.Payload, err)
		}
		sum += count
	}
	return times
}

// queueNotifies hears what is told of tasks: never more often than there are
// calls, and of every task.
func queueNotifies(f *fixture) {
	conn := f.open(f.config())
	q := f.queue(conn)
	c := f.direct()
	f.exec(c, "LISTEN "+postgres.Channel(conn))
	f.enqueue(q, driver.Task{Priority: 1})
	f.heard(c, 1)
	f.enqueue(q, make1000()...)
	if n := f.heard(c, 1000); n != 1 {
		f.Errorf("%d notifications of one call", n)
	}
	const calls = 64
	var wg sync.WaitGroup
	for range calls {
		wg.Go(func() { f.enqueue(q, driver.Task{Priority: 1}) })
	}
	wg.Wait()
	if n := f.heard(c, calls); n > calls {
		f.Errorf("%d notifications of %d calls", n, calls)
	} else {
		f.Logf("%d notifications of %d calls at once", n, calls)
	}
}

func make1000() []driver.Task {
	tasks := make([]driver.Task, 1000)
	for i := range tasks {
		tasks[i].Priority = 1
	}
	return tasks
}

// queueListensAgain ends the connection that hears of tasks: others come through
// meanwhile, and it is made again.
func queueListensAgain(f *fixture) {
	conn := f.open(f.config())
	q, other := f.queue(conn), f.queue(f.open(f.config()))
	c := f.direct()
	listener := func() int64 {
		return f.number(c, "SELECT coalesce(max(pid), 0) FROM pg_stat_activity WHERE query = 'LISTEN \""+postgres.Channel(conn)+"\"'")
	}
	f.enqueue(other, driver.Task{Priority: 1})
	f.done(other, f.receive(q, 1, time.Minute)...)
	for range 3 {
		var pid int64
		f.await("a listener", func() bool { pid = listener(); return pid != 0 })
		f.exec(c, fmt.Sprint("SELECT pg_terminate_backend(", pid, ")"))
		came := make(chan []driver.Leased, 1)
		go func() {
			leased, err := q.Receive(f.ctx, driver.ReceiveRequest{Queue: "q", Limit: 1, Lease: time.Hour, Wait: time.Minute})
			if err != nil {
				f.Errorf("receive: %v", err)
			}
			came <- leased
		}()
		f.enqueue(other, driver.Task{Priority: 1})
		f.done(q, <-came...)
		f.await("another listener", func() bool { now := listener(); return now != 0 && now != pid })
	}
	f.enqueue(other, driver.Task{Priority: 1})
	if n := len(f.receive(q, 1, time.Minute)); n != 1 {
		f.Errorf("%d tasks", n)
	}
}

// queueWokenByOthers hands tasks from one connection to another that waits. With
// polls alone each would take half a second on average.
func queueWokenByOthers(f *fixture) {
	conn := f.open(f.config())
	q, other := f.queue(conn), f.queue(f.open(f.config()))
	f.enqueue(other, driver.Task{Priority: 1})
	f.done(q, f.receive(q, 1, time.Minute)...)
	c := f.direct()
	f.await("a listener", func() bool {
		return f.number(c, "SELECT count(*) FROM pg_stat_activity WHERE query = 'LISTEN \""+postgres.Channel(conn)+"\"'") == 1
	})
	const rounds = 30
	begin := time.Now()
	for range rounds {
		came := make(chan []driver.Leased, 1)
		go func() {
			leased, err := q.Receive(f.ctx, driver.ReceiveRequest{Queue: "q", Limit: 1, Lease: time.Hour, Wait: time.Minute})
			if err != nil {
				f.Errorf("receive: %v", err)
			}
			came <- leased
		}()
		time.Sleep(20 * time.Millisecond) // for it to wait; nothing depends on it
		f.enqueue(other, driver.Task{Priority: 1})
		f.done(q, <-came...)
	}
	if took := time.Since(begin); took > rounds*300*time.Millisecond {
		f.Errorf("%d tasks of others took %s", rounds, took)
	}
}

// TestQueueDoesNotGrow has many tasks go through a queue that is nearly empty:
// leases stay in their pages, autovacuum comes after 1,000 tasks, and what it
// frees is used again.
func TestQueueDoesNotGrow(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "autovacuum_naptime=1s", "fsync=off")
	q := f.queue(f.open(f.config()))
	c := f.direct()
	table := f.schema() + ".prism_queue"
	stat := func(column string) int64 {
		return f.number(c, "SELECT coalesce(max("+column+"), 0) FROM pg_stat_user_tables WHERE relid = to_regclass('"+table+"')")
	}
	tasks := make1000()
	for i := range tasks {
		tasks[i].Value = make([]byte, 200)
	}
	all := int64(0)
	churn := func() {
		f.enqueue(q, tasks...)
		f.done(q, f.receive(q, 2000, 0)...)
		all += 1000
	}
	churn()
	churn()
	f.await("autovacuum", func() bool { return stat("autovacuum_count") > 0 })
	f.exec(c, "ALTER TABLE "+table+" SET (autovacuum_enabled = off)") // the rest is counted, not timed
	var early, late int64
	for round := range 12 {
		churn()
		if late = f.number(c, "SELECT pg_total_relation_size('"+table+"')"); round == 2 {
			early = late
		}
		f.exec(c, "VACUUM "+table)
	}
	f.await("statistics", func() bool { return stat("n_tup_del") == all && stat("n_tup_upd") >= all })
	inPage := stat("n_tup_hot_upd")
	t.Logf("a table of %d KiB after 3 rounds of 1,000 tasks has %d KiB after 12; %d%% of the leases stayed in their pages", early>>10, late>>10, inPage*100/all)
	if inPage*10 < all*9 {
		t.Errorf("%d of %d leases stayed in their pages", inPage, all)
	}
	if late > early*5/4 {
		t.Errorf("%d bytes after 3 rounds of 1,000 tasks have become %d after 12", early, late)
	}
}

// BenchmarkQueue is a task's way through a queue.
func BenchmarkQueue(b *testing.B) {
	s := servers.Postgres(b)
	conn, err := postgres.Driver().Open(driver.Config{Name: "bench", URL: s.URL, Credentials: login(s)})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	space, err := conn.Space(driver.Space{Namespace: "bench", Pattern: "work"})
	if err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	var ids atomic.Int64
	through := func(queue string, withID bool) error {
		t := driver.Task{Priority: 5, Value: make([]byte, 128)}
		if withID {
			t.ID = fmt.Sprint(thisRun, ids.Add(1))
		}
		var results [1]driver.EnqueueResult
		space.Queue.Enqueue(ctx, queue, []driver.Task{t}, results[:])
		if results[0].Err != nil {
			return results[0].Err
		}
		leased, err := space.Queue.Receive(ctx, driver.ReceiveRequest{Queue: queue, Limit: 1, Lease: time.Minute, Wait: time.Minute})
		if err != nil || len(leased) != 1 {
			return fmt.Errorf("%d tasks: %w", len(leased), err)
		}
		var settled [1]error
		space.Queue.Settle(ctx, queue, []driver.Settlement{{Receipt: leased[0].Receipt, Kind: driver.Done}}, settled[:])
		return settled[0]
	}
	for _, callers := range []int{1, 64} {
		run(b, fmt.Sprint("plain/", callers), callers, func(string) error { return through("plain", false) })
		run(b, fmt.Sprint("id/", callers), callers, func(string) error { return through("id", true) })
	}
}
