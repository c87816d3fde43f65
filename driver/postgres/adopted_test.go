package postgres_test

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// adopt makes a table and opens it.
func (f *fixture) adopt(columns string) (driver.Conn, driver.KV) {
	f.Helper()
	f.exec(f.direct(), fmt.Sprintf("CREATE SCHEMA IF NOT EXISTS %[1]s; DROP TABLE IF EXISTS %[1]s.carts; CREATE TABLE %[1]s.carts (%[2]s)", f.schema(), columns))
	conn := f.open(f.config())
	return conn, f.kv(conn, `{"table": "carts", "key": "id", "value": "doc"}`)
}

// adoptedTypes walks through all operations on every type of column.
func adoptedTypes(f *fixture) {
	for _, key := range []string{"text", "varchar(2000)"} {
		for _, value := range []string{"bytea", "text", "varchar", "json", "jsonb"} {
			conn, kv := f.adopt("id " + key + " PRIMARY KEY, doc " + value)
			if err := conn.Ping(f.ctx); err != nil {
				f.Fatalf("%s, %s: %v", key, value, err)
			}
			f.walk(kv, value == "jsonb")
		}
	}
}

func (f *fixture) walk(kv driver.KV, normalised bool) {
	f.Helper()
	const doc = `{"b":1,  "a":[1,2]}`
	want := doc
	if normalised {
		want = `{"a": [1, 2], "b": 1}`
	}
	v := f.put(kv, "k", doc)
	if e := f.get(kv, "k"); string(e.Value) != want || e.Version != v || !e.Expires.IsZero() {
		f.Errorf("got %q %s, want %q %s", e.Value, e.Version, want, v)
	}
	v2 := f.one(kv, driver.Op{Kind: driver.Put, Key: "k", Value: []byte(`"x"`), IfVersion: v}).Version
	stale := f.apply(kv, driver.Op{Kind: driver.Delete, Key: "k", IfVersion: v})[0].Err
	f.wants("delete with a stale version", stale, errs.VersionMismatch)
	if got := errs.From(stale).Meta["current"]; got != v2 {
		f.Errorf("current is %q, want %q", got, v2)
	}
	f.wants("put if absent", f.apply(kv, driver.Op{Kind: driver.Put, Key: "k", Value: []byte("1"), IfAbsent: true})[0].Err, errs.AlreadyExists)
	f.wants("add to a text", f.apply(kv, driver.Op{Kind: driver.Add, Key: "k", Delta: 1})[0].Err, errs.NotANumber)
	f.one(kv, driver.Op{Kind: driver.Add, Key: "n", Delta: 41})
	sum := f.one(kv, driver.Op{Kind: driver.Add, Key: "n", Delta: 1})
	if e := f.get(kv, "n"); string(e.Value) != "42" || sum.Number != 42 || e.Version != sum.Version {
		f.Errorf("the sum is %d, %q", sum.Number, e.Value)
	}
	f.one(kv, driver.Op{Kind: driver.Add, Key: "n", Delta: 1, IfVersion: sum.Version})
	f.wants("add too much", f.apply(kv, driver.Op{Kind: driver.Add, Key: "n", Delta: 1<<63 - 1})[0].Err, errs.OutOfRange)
	for _, k := range []string{"Z", "é", "a b"} {
		f.put(kv, k, "1")
	}
	p, err := kv.Scan(f.ctx, driver.ScanRequest{Limit: 10})
	var keys []string
	for _, it := range p.Items {
		keys = append(keys, it.Key)
	}
	if got := strings.Join(keys, "|"); err != nil || got != "Z|a b|k|n|é" {
		f.Errorf("scan: %q, %v", got, err)
	}
	f.one(kv, driver.Op{Kind: driver.Delete, Key: "k", IfVersion: v2})
	f.wants("put with ttl", f.apply(kv, driver.Op{Kind: driver.Put, Key: "k", TTL: time.Second})[0].Err, errs.Unsupported, "time to live")
	f.wants("expire", f.apply(kv, driver.Op{Kind: driver.Expire, Key: "n", TTL: time.Second})[0].Err, errs.Unsupported)
	if g := kv.Guarantees(); g.Version != driver.ContentVersions || g.ScanCost != driver.ScanKeyspace {
		f.Errorf("guarantees %+v", g)
	}
}

// adoptedNames uses names that would break out of any quoting that is missing.
func adoptedNames(f *fixture) {
	table, key, value := `we"ird'; DROP --`, `@key {value} $1`, `Döc\`
	q := func(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
	f.exec(f.direct(), fmt.Sprintf("CREATE SCHEMA %s; CREATE TABLE %[1]s.%s (%s text UNIQUE, %s text)", f.schema(), q(table), q(key), q(value)))
	conn := f.open(f.config())
	kv := f.kv(conn, fmt.Sprintf(`{"table": %q, "key": %q, "value": "Döc\\"}`, f.schema()+"."+table, key))
	if err := conn.Ping(f.ctx); err != nil {
		f.Fatal(err)
	}
	f.put(kv, "a", "1")
	f.one(kv, driver.Op{Kind: driver.Add, Key: "a", Delta: 1})
	f.one(kv, driver.Op{Kind: driver.Put, Key: "a", Value: []byte("3"), Once: &driver.Once{TTL: time.Minute}})
	if e := f.get(kv, "a"); string(e.Value) != "3" {
		f.Errorf("got %q", e.Value)
	}
}

// adoptedRefused has tables that cannot serve, and layouts that are wrong.
func adoptedRefused(f *fixture) {
	for columns, says := range map[string]string{
		"x text PRIMARY KEY, doc text":                                         `no column "id"`,
		"id text PRIMARY KEY, x text":                                          `no column "doc"`,
		"id text, doc text":                                                    "CREATE UNIQUE INDEX",
		"id text, x int, doc text, UNIQUE (id, x)":                             "CREATE UNIQUE INDEX",
		"id uuid PRIMARY KEY, doc text":                                        "is uuid",
		"id int PRIMARY KEY, doc text":                                         "is integer",
		"id text PRIMARY KEY, doc int":                                         "is integer",
		"id text PRIMARY KEY, doc text GENERATED ALWAYS AS (lower(id)) STORED": "generated",
	} {
		conn, kv := f.adopt(columns)
		f.wants("ping with "+columns, conn.Ping(f.ctx), errs.BackendUnavailable, says)
		_, err := kv.Get(f.ctx, "a", driver.WithExpiry)
		f.wants("get with "+columns, err, errs.BackendUnavailable, says)
	}
	f.exec(f.direct(), fmt.Sprintf("DROP TABLE %[1]s.carts; CREATE VIEW %[1]s.carts AS SELECT 'a'::text AS id, 'b'::text AS doc", f.schema()))
	conn := f.open(f.config())
	for table, says := range map[string]string{"carts": "is no table", "nothing": "is not there"} {
		kv := f.kv(conn, fmt.Sprintf(`{"table": %q, "key": "id", "value": "doc"}`, table))
		_, err := kv.Get(f.ctx, "a", driver.WithExpiry)
		f.wants("get from "+table, err, errs.BackendUnavailable, says)
	}
	for _, layout := range []string{
		`{"table": "t"}`, `{"table": "a.b.c", "key": "k", "value": "v"}`, `{"table": "t", "key": "k", "value": "k"}`,
		`{"table": "prism_kv", "key": "k", "value": "v"}`, `{"table": "t", "key": "k", "value": "v", "ttl": "x"}`,
	} {
		_, err := conn.Space(driver.Space{Namespace: "n", Pattern: "p", Layout: []byte(layout)})
		f.wants(layout, err, errs.InvalidField, "layout")
	}
}

// oneFailsAlone sends good and bad operations together.
func oneFailsAlone(f *fixture) {
	conn, kv := f.adopt("id text PRIMARY KEY, doc jsonb CHECK (doc <> '666')")
	_ = conn
	f.put(kv, "m", "664")
	results := f.apply(kv,
		driver.Op{Kind: driver.Put, Key: "a", Value: []byte("1")},
		driver.Op{Kind: driver.Put, Key: "b", Value: []byte("666")},
		driver.Op{Kind: driver.Put, Key: "c", Value: []byte("no json")},
		driver.Op{Kind: driver.Put, Key: "d", Value: []byte(`"\u0000"`)},
		driver.Op{Kind: driver.Put, Key: "e", Value: []byte("5"), IfAbsent: true},
		driver.Op{Kind: driver.Add, Key: "m", Delta: 2},
		driver.Op{Kind: driver.Delete, Key: "m"},
		driver.Op{Kind: driver.Put, Key: "f\x00", Value: []byte("1")},
		driver.Op{Kind: driver.Put, Key: "g", Value: []byte("7")},
	)
	for i, want := range []errs.Reason{0, errs.InvalidField, errs.InvalidField, errs.InvalidField, 0, 0, 0, errs.InvalidKey, 0} {
		if i == 5 {
			continue // before or after the delete of its key
		}
		if got := errs.ReasonOf(results[i].Err); got != want {
			f.Errorf("operation %d: got %v, want %v", i, results[i].Err, want)
		}
	}
	for _, k := range []string{"a", "e", "g"} {
		f.get(kv, k)
	}
	for _, k := range []string{"b", "c", "d"} {
		if _, err := kv.Get(f.ctx, k, driver.WithExpiry); !errors.Is(err, errs.KeyNotFound) {
			f.Errorf("get %q: %v", k, err)
		}
	}
}

// deferredFailure has the server accept a row and refuse the commit.
func deferredFailure(f *fixture) {
	f.exec(f.direct(), fmt.Sprintf("CREATE SCHEMA %[1]s; CREATE TABLE %[1]s.known (doc text PRIMARY KEY); INSERT INTO %[1]s.known VALUES ('good')", f.schema()))
	_, kv := f.adopt("id text PRIMARY KEY, doc text REFERENCES " + f.schema() + ".known DEFERRABLE INITIALLY DEFERRED")
	results := f.apply(kv,
		driver.Op{Kind: driver.Put, Key: "a", Value: []byte("good")},
		driver.Op{Kind: driver.Put, Key: "b", Value: []byte("bad")},
		driver.Op{Kind: driver.Put, Key: "c", Value: []byte("bad"), IfAbsent: true},
		driver.Op{Kind: driver.Put, Key: "d", Value: []byte("good"), IfAbsent: true},
	)
	for i, want := range []errs.Reason{0, errs.InvalidField, errs.InvalidField, 0} {
		if got := errs.ReasonOf(results[i].Err); got != want {
			f.Errorf("operation %d: got %v, want %v", i, results[i].Err, want)
		}
	}
	f.get(kv, "a")
	f.get(kv, "d")
}

// adoptedNull has rows without a value, which count as absent.
func adoptedNull(f *fixture) {
	_, kv := f.adopt("id text PRIMARY KEY, doc text, note text DEFAULT 'kept'")
	direct := f.direct()
	f.exec(direct, "INSERT INTO "+f.schema()+".carts (id, note) VALUES ('a', 'mine'), ('b', 'mine'), ('c', 'mine')")
	_, err := kv.Get(f.ctx, "a", driver.WithExpiry)
	f.wants("get", err, errs.KeyNotFound)
	if p, err := kv.Scan(f.ctx, driver.ScanRequest{Limit: 9}); err != nil || len(p.Items) != 0 {
		f.Errorf("scan: %v, %v", p.Items, err)
	}
	f.wants("put with a version", f.apply(kv, driver.Op{Kind: driver.Put, Key: "a", IfVersion: "x"})[0].Err, errs.VersionMismatch)
	f.one(kv, driver.Op{Kind: driver.Put, Key: "a", Value: []byte("1"), IfAbsent: true})
	f.one(kv, driver.Op{Kind: driver.Add, Key: "b", Delta: 5})
	f.put(kv, "c", "3")
	var notes string
	if err := direct.QueryRow(f.ctx, "SELECT string_agg(id || doc || note, ' ' ORDER BY id) FROM "+f.schema()+".carts").Scan(&notes); err != nil || notes != "a1mine b5mine c3mine" {
		f.Errorf("the table holds %q, %v", notes, err)
	}
}

// adoptedChanges alters the table while it is in use.
func adoptedChanges(f *fixture) {
	_, kv := f.adopt("id text PRIMARY KEY, doc text")
	f.put(kv, "a", "1")
	f.get(kv, "a")
	direct := f.direct()
	f.exec(direct, "ALTER TABLE "+f.schema()+".carts ALTER doc TYPE jsonb USING doc::jsonb")
	f.put(kv, "a", `{"x":1}`)
	if e := f.get(kv, "a"); string(e.Value) != `{"x": 1}` {
		f.Errorf("got %q", e.Value)
	}
	f.exec(direct, "ALTER TABLE "+f.schema()+".carts RENAME doc TO other")
	_, err := kv.Get(f.ctx, "a", driver.WithExpiry)
	f.wants("get without the column", err, errs.BackendUnavailable, `no column "doc"`)
	f.exec(direct, "ALTER TABLE "+f.schema()+".carts RENAME other TO doc")
	f.get(kv, "a")
}

func adoptedOnce(f *fixture) {
	_, kv := f.adopt("id text PRIMARY KEY, doc text")
	add := driver.Op{Kind: driver.Add, Key: "n", Delta: 1, Once: &driver.Once{Token: [16]byte{7}, TTL: time.Minute}}
	first, second := f.one(kv, add), f.one(kv, add)
	if first.Repeated || !second.Repeated || second.Number != 1 || second.Version != first.Version {
		f.Errorf("got %+v, then %+v", first, second)
	}
	if e := f.get(kv, "n"); string(e.Value) != "1" {
		f.Errorf("got %q", e.Value)
	}
}
