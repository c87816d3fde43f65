package postgres_test

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/postgres"
)

// logNotifies hears what is told of records: of each topic, and never more often
// than there are calls.
func logNotifies(f *fixture) {
	conn := f.open(f.config())
	t := f.plain(conn)
	c := f.direct()
	f.exec(c, `LISTEN "`+postgres.Channel(conn)+`"`)
	f.append(t, text("a"))
	f.heard(c, 1)
	f.append(t, slices.Repeat([]driver.Record{text("a")}, 1000)...)
	if n := f.heard(c, 1000); n != 1 {
		f.Errorf("%d notifications of one call", n)
	}
	const calls = 64
	var wg sync.WaitGroup
	for range calls {
		wg.Go(func() { f.append(t, text("a")) })
	}
	wg.Wait()
	n := f.heard(c, calls)
	if n > calls/2 {
		f.Errorf("%d notifications of %d calls at once", n, calls)
	}
	f.Logf("%d notifications of %d calls at once", n, calls)
}

// logListensAgain ends the connection that hears of records, where nobody looks
// by himself: what others append meanwhile comes all the same.
func logListensAgain(f *fixture) {
	conn := f.open(f.config())
	postgres.Poll(conn, time.Hour)
	t, other := f.plain(conn), f.plain(f.open(f.config()))
	m, c := f.join(t, "g"), f.direct()
	listener := func() int64 {
		return f.number(c, "SELECT coalesce(max(pid), 0) FROM pg_stat_activity WHERE query = 'LISTEN \""+postgres.Channel(conn)+"\"'")
	}
	for round := range 4 {
		var pid int64
		f.await("a listener", func() bool { pid = listener(); return pid != 0 })
		f.append(other, text(fmt.Sprint("heard ", round)))
		f.comes(m, fmt.Sprint("heard ", round))
		f.exec(c, fmt.Sprint("SELECT pg_terminate_backend(", pid, ")"))
		f.append(other, text(fmt.Sprint("missed ", round)))
		f.comes(m, fmt.Sprint("missed ", round))
		f.await("another listener", func() bool { now := listener(); return now != 0 && now != pid })
	}
}

// logPolls appends what nobody tells of. Who does not look by himself does not
// see it.
func logPolls(f *fixture) {
	looks, listens := f.open(f.config()), f.open(f.config())
	postgres.Poll(listens, time.Hour)
	t, idle := f.plain(looks), f.plain(listens)
	m, deaf, c := f.join(t, "g"), f.join(idle, "h"), f.direct()
	if _, err := f.take(f.ctx, deaf, driver.Gained, 1); err != nil {
		f.Fatal(err)
	}
	f.await("a listener", func() bool {
		return f.number(c, "SELECT count(*) FROM pg_stat_activity WHERE query = 'LISTEN \""+postgres.Channel(looks)+"\"'") == 2
	})
	f.append(t, text("told"))
	f.comes(m, "told")
	f.comes(deaf, "told")
	f.exec(c, f.byHand(f.topicNumber(c), "untold"))
	f.comes(m, "untold")
	ctx, cancel := context.WithTimeout(f.ctx, 100*time.Millisecond)
	defer cancel()
	if all, err := f.take(ctx, deaf, driver.Arrived, 1); err == nil {
		f.Errorf("who only listens has seen %q", all[0].Stored.Value)
	}
}

// logPlans explains the statements on 100,000 records of ten topics.
func logPlans(f *fixture) {
	conn := f.open(f.config())
	t := f.topic(conn, driver.TopicSpec{Name: "u", Partitions: 4, MaxAge: time.Hour, MaxBytes: 1 << 40, UntilConsumed: true, Dedup: time.Minute})
	f.append(t, driver.Record{ID: "a"})
	f.join(t, "g")
	c, s := f.direct(), f.schema()+".prism_log_"
	f.exec(c, fmt.Sprintf(`DELETE FROM %[1]srecord; INSERT INTO %[1]stopic (namespace, topic, partitions, max_age, max_bytes, until_consumed, dedup)
		SELECT 'orders', 't' || n, 4, 3600000000, 1::int8 << 40, true, 60000000 FROM generate_series(1, 9) n;
		INSERT INTO %[1]spartition (topic, partition) SELECT t.number, p FROM %[1]stopic t, generate_series(0, 3) p ON CONFLICT DO NOTHING;
		INSERT INTO %[1]sgroup (topic, name) SELECT t.number, 'g' || n FROM %[1]stopic t, generate_series(1, 5) n;
		INSERT INTO %[1]sclaim (number, partition, next) SELECT g.number, p, 1 FROM %[1]sgroup g, generate_series(0, 3) p ON CONFLICT DO NOTHING;
		INSERT INTO %[1]srecord (topic, partition, position, at, total, size, id, headers, value)
		SELECT t.number, p, n, now() - interval '1 minute' + n * interval '1 millisecond', 80 * n, 80, '', '', '\x00112233' FROM %[1]stopic t, generate_series(0, 3) p, generate_series(1, 2500) n;
		INSERT INTO %[1]sid (topic, partition, id, position, kept_until) SELECT r.topic, r.partition, 'id' || r.position, r.position, now() + interval '1 hour' FROM %[1]srecord r`, s))
	for name, value := range postgres.RuntimeParams() {
		f.exec(c, fmt.Sprintf("SET %s = '%s'", name, value))
	}
	topic := f.number(c, "SELECT number FROM "+s+"topic WHERE topic = 't5'")
	group := f.number(c, fmt.Sprint("SELECT number FROM ", s, "group WHERE name = 'g1' AND topic = ", topic))
	pages := f.number(c, "SELECT pg_relation_size('"+s+"record') / 8192")
	sql := postgres.LogSQL(f.schema())
	one := fmt.Sprintf("ARRAY[%d,%d]::int8[], ARRAY[0,1]::int8[]", topic, topic)
	for name, args := range map[string]string{
		"append": one + `, ARRAY[60000000,60000000]::int8[], ARRAY[1,2]::int8[], ARRAY[1,1]::int8[], ARRAY[80,80]::int8[], ARRAY[80,80]::int8[], ARRAY['id5','new'], ARRAY[NULL,NULL]::bytea[], ARRAY['',''], ARRAY['\x01','\x02']::bytea[]`,
		"read":   fmt.Sprintf(`1200, %d, 1, 100, 10000`, topic),
		"since":  fmt.Sprintf(`now() - interval '59 seconds', %d, 1, 100, 10000`, topic),
		"fetch":  fmt.Sprintf(`ARRAY[0,1,2]::int8[], ARRAY[2501,1,1200]::int8[], ARRAY[10,10,10]::int8[], ARRAY[10000,10000,10000]::int8[], %d`, topic),
		"begin":  fmt.Sprintf(`2, now() - interval '59 seconds', %d`, topic),
		"stat":   fmt.Sprintf(`%d, 'g1'`, topic),
		"beat":   fmt.Sprintf(`'m', 'name', %d`, group),
		"take":   fmt.Sprintf(`'m', ARRAY[0,1]::int8[], %d`, group),
		"commit": fmt.Sprintf(`ARRAY[%[1]d,%[1]d]::int8[], ARRAY[0,1]::int8[], ARRAY['m','m'], ARRAY[1,1]::int8[], ARRAY[2,2]::int8[], ARRAY[4,4]::int8[], ARRAY['',''], ARRAY[0,1]::int8[]`, group),
		"leave":  fmt.Sprintf(`%d, 'm'`, group),
		"retain": "", "shrink": "", "orphan": "",
	} {
		f.exec(c, "PREPARE prism_"+name+" AS "+sql[name])
		if args != "" {
			args = "(" + args + ")"
		}
		plan := f.plan(c, "EXECUTE prism_"+name+args)
		if scan := regexp.MustCompile(`Seq Scan on prism_log_(record|id|claim|partition)`).FindString(plan); scan != "" {
			f.Errorf("%s: %s:\n%s", name, scan, plan)
		}
		blocks := 0
		for _, part := range regexp.MustCompile(`(?m)^ *Buffers: shared (?:hit=(\d+))?(?: read=(\d+))?`).FindAllStringSubmatch(plan, 1) {
			hit, _ := strconv.Atoi(part[1])
			read, _ := strconv.Atoi(part[2])
			blocks = hit + read
		}
		f.Logf("%s: %d blocks, of a table of %d", name, blocks, pages)
		most := 600 // shrink looks at both ends of 40 partitions, append at the catalog when it is first called
		if name == "retain" {
			most = 800 // and this at five claims of each
		}
		if blocks == 0 || blocks > most {
			f.Errorf("%s touches %d blocks of a table of %d:\n%s", name, blocks, pages, plan)
		}
	}
}

// TestLogDoesNotGrow has many records go through a topic that keeps few, and a
// group commit each of them: what is removed is used again, and commits and beats
// stay in their pages.
func TestLogDoesNotGrow(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "autovacuum_naptime=1s", "fsync=off")
	c := f.config()
	c.Options = f.options(`, "sweep_interval": "20ms"`)
	topic := f.topic(f.open(c), driver.TopicSpec{Name: "t", Partitions: 1, UntilConsumed: true, Dedup: time.Second})
	m, direct, s := f.join(topic, "g"), f.direct(), f.schema()+".prism_log_"
	gained, err := f.take(f.ctx, m, driver.Gained, 1)
	if err != nil {
		t.Fatal(err)
	}
	const each = 1000
	commits, last := int64(0), driver.Position(0)
	churn := func() {
		records := make([]driver.Record, each)
		for i := range records {
			records[i] = driver.Record{ID: fmt.Sprint(commits, ".", i), Value: make([]byte, 200)}
		}
		f.append(topic, records...)
		events, err := f.take(f.ctx, m, driver.Arrived, each)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(events); i += 10 {
			last = events[i].Stored.Position + 10
			outcomes := make([]error, 1)
			m.Commit(f.ctx, []driver.Commit{{Claim: gained[0].Claim, Checkpoint: driver.Checkpoint{Next: last, Note: strings.Repeat("n", 200)}}}, outcomes)
			if outcomes[0] != nil {
				t.Fatal(outcomes[0])
			}
			commits++
		}
		f.await("removal of what was consumed", func() bool { return f.number(direct, "SELECT count(*) FROM "+s+"record") == 0 })
	}
	stat := func(table, column string) int64 {
		return f.number(direct, "SELECT coalesce(max("+column+"), 0) FROM pg_stat_user_tables WHERE relid = to_regclass('"+s+table+"')")
	}
	for stat("record", "autovacuum_count") == 0 {
		churn()
	}
	f.exec(direct, "ALTER TABLE "+s+"record SET (autovacuum_enabled = off); ALTER TABLE "+s+"claim SET (autovacuum_enabled = off)") // the rest is counted, not timed
	var early, late [2]int64
	for round := range 12 {
		churn()
		for i, table := range []string{"record", "claim"} {
			late[i] = f.number(direct, "SELECT pg_total_relation_size('"+s+table+"')")
			f.exec(direct, "VACUUM "+s+table)
		}
		if round == 2 {
			early = late
		}
	}
	f.await("statistics", func() bool { return stat("claim", "n_tup_upd") >= commits })
	hot, all := stat("claim", "n_tup_hot_upd"), stat("claim", "n_tup_upd")
	t.Logf("records of %d KiB and claims of %d KiB after 3 rounds have %d and %d KiB after 12; %d%% of the commits stayed in their pages", early[0]>>10, early[1]>>10, late[0]>>10, late[1]>>10, hot*100/all)
	for i := range late {
		if late[i] > early[i]*5/4 {
			t.Errorf("%d bytes after 3 rounds have become %d after 12", early[i], late[i])
		}
	}
	if hot*10 < all*9 {
		t.Errorf("%d of %d commits stayed in their pages", hot, all)
	}
}
