package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/postgres"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/servers"
)

func newerSchemaIsRefused(f *fixture) {
	conn := f.open(f.config())
	kv := f.kv(conn, "")
	f.put(kv, "a", "1")
	f.exec(f.direct(), "UPDATE "+f.schema()+".prism_schema SET version = 99")
	later := f.open(f.config())
	kv = f.kv(later, "")
	_, err := kv.Get(f.ctx, "a", driver.WithExpiry)
	f.wants("get", err, errs.InvalidConfiguration, "version 99", "newer Prism")
	f.wants("ping", later.Ping(f.ctx), errs.InvalidConfiguration, "options.schema")
}

func missingRightToCreate(f *fixture) {
	admin := f.direct()
	role := f.schema()
	f.Cleanup(func() { f.exec(f.direct(), "DROP OWNED BY "+role+"; DROP ROLE "+role) })
	f.exec(admin, "CREATE ROLE "+role+" LOGIN PASSWORD 'secret-word'; CREATE SCHEMA "+role+"; GRANT USAGE ON SCHEMA "+role+" TO "+role)
	c := f.config()
	c.Credentials = func(context.Context) (string, driver.Secret, error) { return role, "secret-word", nil }
	conn := f.open(c)
	kv := f.kv(conn, "")
	_, err := kv.Get(f.ctx, "a", driver.WithExpiry)
	f.wants("get", err, errs.BackendUnavailable, "grant it CREATE", "CREATE TABLE IF NOT EXISTS")
	if status := errs.From(err).Status("").Message(); strings.Contains(status, "CREATE TABLE") {
		f.Errorf("a client is told %q", status)
	}
	f.wants("ping", conn.Ping(f.ctx), errs.BackendUnavailable, "grant it CREATE")

	_, statements, _ := strings.Cut(err.Error(), "an administrator may run: ")
	statements, _, _ = strings.Cut(statements, "; ERROR")
	f.exec(admin, statements)
	r := f.apply(kv, driver.Op{Kind: driver.Put, Key: "a"})[0]
	f.wants("put without a grant", r.Err, errs.BackendUnavailable, "lacks a privilege")
	f.exec(admin, fmt.Sprintf("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA %[1]s TO %[1]s; GRANT USAGE ON SEQUENCE %[1]s.prism_version TO %[1]s", role))
	f.put(kv, "a", "1") // it heals by itself
}

// backends counts the connections of the driver that are in a state.
func (f *fixture) backends(where string) int {
	f.Helper()
	rows, err := f.direct().PgConn().Exec(f.ctx, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'prism' AND query LIKE '%"+f.schema()+"%' AND "+where).ReadAll()
	if err != nil {
		f.Fatal(err)
	}
	n := 0
	_, _ = fmt.Sscan(string(rows[0].Rows[0][0]), &n)
	return n
}

// blocked runs calls while the table is locked, until as many statements as
// may be wait for the lock.
func (f *fixture) blocked(waiting, callers int, call func(i int)) {
	f.Helper()
	holder := f.direct()
	f.exec(holder, "BEGIN; LOCK TABLE "+f.schema()+".prism_kv")
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() { call(i) })
	}
	most := 0
	f.await("waiting statements", func() bool {
		most = max(most, f.backends("wait_event_type = 'Lock'"))
		return most >= waiting
	})
	f.exec(holder, "COMMIT")
	wg.Wait()
	if most != waiting {
		f.Errorf("%d statements at once, want %d", most, waiting)
	}
}

func maxConnectionsHold(f *fixture) {
	c := f.config()
	c.Options = f.options(`, "max_connections": 3, "flights": 3`)
	conn := f.open(c)
	kv := f.kv(conn, "")
	f.put(kv, "a", "1")
	f.blocked(3, 40, func(i int) {
		if i%2 == 0 {
			_, _ = kv.Get(f.ctx, fmt.Sprint("k", i), driver.WithExpiry)
		} else {
			_, _ = kv.Scan(f.ctx, driver.ScanRequest{Limit: 1})
		}
	})
}

func flightsHold(f *fixture) {
	c := f.config()
	c.Options = f.options(`, "flights": 1`)
	kv := f.kv(f.open(c), "")
	f.put(kv, "a", "1")
	f.blocked(1, 40, func(i int) { _, _ = kv.Get(f.ctx, fmt.Sprint("k", i), driver.WithExpiry) })
}

func statementTimeoutHolds(f *fixture) {
	f.put(f.kv(f.open(f.config()), ""), "a", "1") // the tables are made without it
	c := f.config()
	c.Options = f.options(`, "statement_timeout": "300ms"`)
	kv := f.kv(f.open(c), "")
	holder := f.direct()
	f.exec(holder, "BEGIN; LOCK TABLE "+f.schema()+".prism_kv")
	_, err := kv.Get(f.ctx, "a", driver.WithExpiry)
	f.wants("get from a locked table", err, errs.BackendUnavailable, "options.statement_timeout")
	f.exec(holder, "COMMIT")
	f.get(kv, "a")
}

// lockedRowFailsAlone has another program hold one row: the operations that go
// together with that row's are done.
func lockedRowFailsAlone(f *fixture) {
	kv := f.kv(f.open(f.config()), "")
	f.put(kv, "held", "1")
	holder := f.direct()
	f.exec(holder, "BEGIN; UPDATE "+f.schema()+".prism_kv SET value = value")
	results := f.apply(kv, driver.Op{Kind: driver.Put, Key: "a"}, driver.Op{Kind: driver.Put, Key: "held"}, driver.Op{Kind: driver.Put, Key: "z"})
	f.exec(holder, "ROLLBACK")
	if results[0].Err != nil || results[2].Err != nil {
		f.Errorf("others failed: %v, %v", results[0].Err, results[2].Err)
	}
	f.wants("put of the held row", results[1].Err, errs.BackendUnavailable, "nothing was changed")
	if e := f.get(kv, "held"); string(e.Value) != "1" {
		f.Errorf("held row: %q", e.Value)
	}
}

func sweepRemovesExpired(f *fixture) {
	c := f.config()
	c.Options = f.options(`, "sweep_interval": "20ms"`)
	kv := f.kv(f.open(c), "")
	once := &driver.Once{Token: [16]byte{1}, TTL: 10 * time.Millisecond}
	f.one(kv, driver.Op{Kind: driver.Put, Key: "short", TTL: 10 * time.Millisecond, Once: once})
	f.one(kv, driver.Op{Kind: driver.Put, Key: "long", TTL: time.Hour})
	f.put(kv, "ever", "1")
	direct := f.direct()
	f.await("removal of what has expired", func() bool {
		var rows, records int
		if err := direct.QueryRow(f.ctx, fmt.Sprintf("SELECT (SELECT count(*) FROM %[1]s.prism_kv), (SELECT count(*) FROM %[1]s.prism_once)", f.schema())).Scan(&rows, &records); err != nil {
			f.Fatal(err)
		}
		if rows < 2 {
			f.Fatal("too much was removed")
		}
		return rows == 2 && records == 0
	})
}

// leavingDisturbsNobody has callers leave while their query is under way: the
// others get their answers, and the connections stay.
func leavingDisturbsNobody(f *fixture) {
	c := f.config()
	c.Options = f.options(`, "flights": 1`)
	kv := f.kv(f.open(c), "")
	f.put(kv, "a", "1")
	pids := func() string {
		rows, err := f.direct().PgConn().Exec(f.ctx, "SELECT string_agg(pid::text, ',' ORDER BY pid) FROM pg_stat_activity WHERE application_name = 'prism' AND query LIKE '%"+f.schema()+"%'").ReadAll()
		if err != nil {
			f.Fatal(err)
		}
		return string(rows[0].Rows[0][0])
	}
	f.get(kv, "a")
	before := pids()
	var stayed, left atomic.Int32
	f.blocked(1, 40, func(i int) {
		ctx := f.ctx
		if i%2 == 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, time.Millisecond)
			defer cancel()
		}
		_, err := kv.Get(ctx, "a", driver.WithExpiry)
		switch {
		case err == nil:
			stayed.Add(1)
		case errors.Is(err, errs.Deadline):
			left.Add(1)
		default:
			f.Error(err)
		}
	})
	if stayed.Load() < 20 || left.Load() == 0 {
		f.Errorf("%d stayed, %d left", stayed.Load(), left.Load())
	}
	if after := pids(); after != before {
		f.Errorf("connections before %s, after %s", before, after)
	}
}

func credentialsPerConnection(f *fixture) {
	user, password := servers.PostgresLogin(f.server)
	var wrong atomic.Bool
	var asked atomic.Int32
	c := f.config()
	c.Credentials = func(context.Context) (string, driver.Secret, error) {
		asked.Add(1)
		if wrong.Load() {
			return user, "not-the-password", nil
		}
		return user, driver.Secret(password), nil
	}
	wrong.Store(true)
	conn := f.open(c)
	kv := f.kv(conn, "")
	_, err := kv.Get(f.ctx, "a", driver.WithExpiry)
	f.wants("get with a wrong password", err, errs.BackendUnavailable, "refuses the login", "pg_hba.conf")
	if strings.Contains(err.Error(), "not-the-password") {
		f.Error("the error shows the password")
	}
	wrong.Store(false)
	f.put(kv, "a", "1")
	if asked.Load() < 2 {
		f.Errorf("asked %d times", asked.Load())
	}
	c.URL = strings.Replace(c.URL, "://", "://somebody@", 1)
	_, err = f.kv(f.open(c), "").Get(f.ctx, "a", driver.WithExpiry)
	f.wants("get with two users", err, errs.BackendUnavailable, "another user")
	c.Credentials = func(context.Context) (string, driver.Secret, error) { return "", "", errors.New("sealed") }
	_, err = f.kv(f.open(c), "").Get(f.ctx, "a", driver.WithExpiry)
	f.wants("get without credentials", err, errs.CredentialsUnavailable, "sealed")
}

func readOnly(f *fixture) {
	admin := f.direct()
	role := f.schema()
	f.Cleanup(func() { f.exec(f.direct(), "DROP ROLE "+role) })
	f.exec(admin, "CREATE ROLE "+role+" SUPERUSER LOGIN PASSWORD 'p'")
	f.put(f.kv(f.open(f.config()), ""), "a", "1")
	f.exec(admin, "ALTER ROLE "+role+" SET default_transaction_read_only = on")
	c := f.config()
	c.Credentials = func(context.Context) (string, driver.Secret, error) { return role, "p", nil }
	conn := f.open(c)
	kv := f.kv(conn, "")
	if e := f.get(kv, "a"); string(e.Value) != "1" {
		f.Errorf("got %q", e.Value)
	}
	for _, op := range []driver.Op{{Kind: driver.Put, Key: "a"}, {Kind: driver.Delete, Key: "a"}, {Kind: driver.Put, Key: "b", IfAbsent: true}} {
		f.wants("write", f.apply(kv, op)[0].Err, errs.ReadOnly)
	}
	f.wants("ping", conn.Ping(f.ctx), errs.ReadOnly)
}

// terminatedConnections has an administrator end the connections: neither
// reads nor writes notice.
func terminatedConnections(f *fixture) {
	kv := f.kv(f.open(f.config()), "")
	admin := f.direct()
	for i := range 10 {
		f.put(kv, "a", fmt.Sprint(i))
		f.exec(admin, "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'prism' AND query LIKE '%"+f.schema()+"%'")
		if i%2 == 0 {
			f.get(kv, "a")
		}
	}
}

func droppedTablesComeBack(f *fixture) {
	kv := f.kv(f.open(f.config()), "")
	f.put(kv, "a", "1")
	f.exec(f.direct(), "DROP SCHEMA "+f.schema()+" CASCADE")
	_, err := kv.Get(f.ctx, "a", driver.WithExpiry)
	f.wants("get after everything was dropped", err, errs.KeyNotFound)
	f.exec(f.direct(), "DROP SCHEMA "+f.schema()+" CASCADE")
	f.put(kv, "a", "2")
}

// scanEdges pages through keys as long as they may be, and asks for prefixes
// that end within a character or at the end of Unicode.
func scanEdges(f *fixture) {
	kv := f.kv(f.open(f.config()), "")
	long := strings.Repeat("é", 511)
	keys := []string{"\x01", "a", "ab", long + "a", long + "b", "\ud7ffx", "\ue000", "\U0010ffff", "\U0010ffff\U0010ffff"}
	for _, k := range keys {
		f.put(kv, k, "v")
	}
	scan := func(prefix string) (got []string) {
		r := driver.ScanRequest{Prefix: prefix, Limit: 1}
		for {
			p, err := kv.Scan(f.ctx, r)
			if err != nil {
				f.Fatalf("scan %q: %v", prefix, err)
			}
			for _, it := range p.Items {
				got = append(got, it.Key)
			}
			if p.Next == nil {
				return got
			}
			if len(p.Next) > driver.MaxKey+64 {
				f.Errorf("a cursor of %d bytes", len(p.Next))
			}
			r.Cursor = p.Next
		}
	}
	for prefix, want := range map[string][]string{
		"":                     keys,
		"a":                    {"a", "ab"},
		long:                   {long + "a", long + "b"},
		"\xc3":                 {long + "a", long + "b"},
		"\xed\x9f":             {"\ud7ffx"},
		"\ud7ff":               {"\ud7ffx"},
		"\U0010ffff":           {"\U0010ffff", "\U0010ffff\U0010ffff"},
		"\U0010ffff\U0010ffff": {"\U0010ffff\U0010ffff"},
		"a\x00":                nil,
		"\xff":                 nil,
		"a\xff":                nil,
	} {
		if got := scan(prefix); strings.Join(got, "\x00") != strings.Join(want, "\x00") {
			f.Errorf("scan %q: got %q, want %q", prefix, got, want)
		}
	}
	p, err := kv.Scan(f.ctx, driver.ScanRequest{Prefix: "a", Limit: 1})
	if err != nil {
		f.Fatal(err)
	}
	for _, c := range []driver.ScanRequest{
		{Prefix: "", Cursor: p.Next, Limit: 1},
		{Prefix: "a", Cursor: []byte{}, Limit: 1},
		{Prefix: "a", Cursor: p.Next[:3], Limit: 1},
		{Prefix: "", Cursor: []byte(strings.Repeat("\xff", 1020)), Limit: 1},
		{Prefix: "", Cursor: make([]byte, 1025), Limit: 1},
	} {
		_, err := kv.Scan(f.ctx, c)
		f.wants("scan with a wrong cursor", err, errs.InvalidCursor)
	}
}

// TestNoDeadlocks has proxies write the same keys in opposite orders.
func TestNoDeadlocks(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "deadlock_timeout=20ms", "fsync=off")
	const keys, rounds = 20, 50
	var wg sync.WaitGroup
	for p := range 3 {
		kv := f.kv(f.open(f.config()), "")
		wg.Go(func() {
			for r := range rounds {
				var ops []driver.Op
				for k := range keys {
					if p%2 == 1 {
						k = keys - 1 - k
					}
					kind := []driver.OpKind{driver.Put, driver.Add, driver.Delete}[(k+r+p)%3]
					op := driver.Op{Kind: kind, Key: fmt.Sprint("k", k), Value: []byte("7"), Delta: 1}
					if k%5 == 0 {
						op.Once = &driver.Once{Token: [16]byte{byte(p), byte(r), byte(k)}, TTL: time.Minute}
					}
					ops = append(ops, op)
				}
				for i, res := range f.apply(kv, ops...) {
					if res.Err != nil {
						f.Errorf("%+v: %v", ops[i].Kind, res.Err)
					}
				}
			}
		})
	}
	wg.Wait()
	if strings.Contains(f.server.Output(), "deadlock detected") {
		t.Error("transactions waited for each other in a circle")
	}
}

func TestVersionsAfterCrash(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	kv := f.kv(f.open(f.config()), "")
	seen := map[string]bool{}
	for range 3 {
		for i := range 40 {
			v := f.put(kv, "a", fmt.Sprint(i))
			if seen[v] {
				t.Fatalf("version %s came again", v)
			}
			seen[v] = true
		}
		f.server.Restart()
	}
}

func TestSettingsAreCompared(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "fsync=off", "full_page_writes=off", "synchronous_commit=off")
	for i, c := range []struct{ asserts, says string }{
		{``, `synchronous_commit: "off"`},
		{`{"synchronous_commit": "off"}`, "fsync: false"},
		{`{"synchronous_commit": "off", "fsync": false}`, "full_page_writes: false"},
		{`{"synchronous_commit": "remote_apply"}`, "synchronous_commit=off"},
	} {
		cfg := f.config()
		cfg.Asserts = []byte(c.asserts)
		f.wants(fmt.Sprint("ping ", i), f.open(cfg).Ping(f.ctx), errs.InvalidConfiguration, c.says)
	}
	cfg := f.config()
	cfg.Asserts = []byte(`{"synchronous_commit": "off", "fsync": false, "full_page_writes": false}`)
	conn := f.open(cfg)
	if err := conn.Ping(f.ctx); err != nil {
		t.Error(err)
	}
	if a := f.kv(conn, "").Guarantees().Ack; a.Process || a.OS || a.Node || !strings.Contains(a.Settings, "off") {
		t.Errorf("acknowledged means %+v", a)
	}
}

func TestRemoteApplyNeedsAStandby(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "synchronous_commit=remote_apply")
	c := f.config()
	c.Asserts = []byte(`{"synchronous_commit": "remote_apply"}`)
	f.wants("ping", f.open(c).Ping(f.ctx), errs.InvalidConfiguration, "synchronous_standby_names")
}

func TestAcks(t *testing.T) {
	t.Parallel()
	for asserts, want := range map[string]int{
		``: 0, `{"synchronous_commit": "on"}`: 0, `{"synchronous_commit": "remote_apply"}`: 1, `{"synchronous_commit": "off"}`: 2,
		`{"fsync": false}`: 3, `{"full_page_writes": false}`: 4,
	} {
		d := postgres.Driver()
		conn, err := d.Open(driver.Config{URL: "postgres://127.0.0.1:1/x", Asserts: []byte(asserts)})
		if err != nil {
			t.Fatal(err)
		}
		b, err := conn.Space(driver.Space{Namespace: "n", Pattern: "p"})
		if err != nil {
			t.Fatal(err)
		}
		if got := b.KV.Guarantees().Ack; got != d.Acks[want] {
			t.Errorf("%s: %+v", asserts, got)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestConnectTimeout(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	conn, err := postgres.Driver().Open(driver.Config{
		Name: "pg", URL: "postgres://" + silent.Addr().String() + "/x", Options: []byte(`{"connect_timeout": "50ms"}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	f := onServer(t, nil)
	start := time.Now()
	_, err = f.kv(conn, "").Get(f.ctx, "a", driver.WithExpiry)
	f.wants("get from a silent server", err, errs.BackendUnavailable)
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
}
