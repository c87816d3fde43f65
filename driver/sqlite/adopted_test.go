package sqlite_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/sqlite"
	"github.com/prismgw/prism/errs"
)

const cartsLayout = `{"table": "carts", "key": "id", "value": "doc"}`

// adopt returns the space of a table that was there before Prism.
func adopt(t *testing.T, schema string) (dir string, conn driver.Conn, b driver.Backend) {
	t.Helper()
	dir = t.TempDir()
	script(t, dir, schema)
	conn = openFile(t, dir, patient)
	return dir, conn, space(t, conn, "demo", cartsLayout)
}

func TestAdoptedTable(t *testing.T) {
	t.Parallel()
	for name, schema := range map[string]string{
		"text":          `CREATE TABLE carts (id TEXT PRIMARY KEY, note TEXT DEFAULT 'n', doc TEXT)`,
		"varchar":       `CREATE TABLE Carts (n INTEGER PRIMARY KEY, "ID" VARCHAR(80) NOT NULL UNIQUE, doc CLOB)`,
		"without rowid": `CREATE TABLE carts (id TEXT PRIMARY KEY, doc BLOB) WITHOUT ROWID`,
		"strict":        `CREATE TABLE carts (id TEXT PRIMARY KEY, doc TEXT) STRICT`,
		"bytes":         `CREATE TABLE carts (id BLOB PRIMARY KEY, doc BLOB NOT NULL)`,
		"untyped":       `CREATE TABLE carts (id, doc); CREATE UNIQUE INDEX one ON carts (id)`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := "'a'", "'b'"
			if name == "bytes" {
				a, b = "x'61'", "x'62'"
			}
			dir, conn, back := adopt(t, schema+"; INSERT INTO carts (id, doc) VALUES ("+a+", '{\"n\": 1}'), ("+b+", '007')")
			if err := conn.Ping(t.Context()); err != nil {
				t.Fatal(err)
			}
			kv := back.KV
			old := get(t, kv, "a")
			if string(old.Value) != `{"n": 1}` {
				t.Errorf("got %q", old.Value)
			}
			if put(t, kv, "a", `{"n": 2}`) == old.Version || put(t, kv, "a", `{"n": 1}`) != old.Version {
				t.Error("a version is not a hash of the value")
			}
			if res := one(kv, driver.Op{Kind: driver.Add, Key: "b", Delta: 3}); res.Number != 10 || res.Err != nil {
				t.Errorf("add: %+v", res)
			}
			put(t, kv, "c", "0012")
			if got := get(t, kv, "c"); string(got.Value) != "0012" {
				t.Errorf("SQLite changed the value to %q", got.Value)
			}
			var n int
			if err := other(t, dir).QueryRow("SELECT count(*) FROM carts WHERE CAST(doc AS TEXT) IN ('{\"n\": 1}', '10', '0012')").Scan(&n); err != nil || n != 3 {
				t.Errorf("another program sees %d of 3 rows: %v", n, err)
			}
			page, err := kv.Scan(t.Context(), driver.ScanRequest{Limit: 2})
			if err != nil || len(page.Items) != 2 || page.Items[0].Key != "a" || page.Next == nil {
				t.Fatalf("%+v %v", page, err)
			}
			rest, err := kv.Scan(t.Context(), driver.ScanRequest{Limit: 2, Cursor: page.Next, KeysOnly: true})
			if err != nil || len(rest.Items) != 1 || rest.Items[0].Key != "c" || rest.Items[0].Version != "" {
				t.Fatalf("%+v %v", rest, err)
			}
			stale := one(kv, driver.Op{Kind: driver.Delete, Key: "a", IfVersion: "stale"})
			if e := errs.From(stale.Err); e.Reason != errs.VersionMismatch || e.Meta["current"] != old.Version {
				t.Errorf("delete: %v %v", stale.Err, e.Meta)
			}
			if res := one(kv, driver.Op{Kind: driver.Delete, Key: "a", IfVersion: old.Version}); res.Err != nil {
				t.Error(res.Err)
			}
			if _, err := kv.Get(t.Context(), "a", driver.WithExpiry); errs.ReasonOf(err) != errs.KeyNotFound {
				t.Error(err)
			}
		})
	}
}

func TestAdoptedGuarantees(t *testing.T) {
	t.Parallel()
	_, conn, b := adopt(t, `CREATE TABLE carts (id TEXT PRIMARY KEY, doc TEXT)`)
	if g := b.KV.Guarantees(); g.Version != driver.ContentVersions {
		t.Errorf("versions %q", g.Version)
	}
	if b.Watcher != nil {
		t.Error("a Watcher, although other programs write")
	}
	for _, op := range []driver.Op{
		{Kind: driver.Put, Key: "k", TTL: time.Hour},
		{Kind: driver.Expire, Key: "k", TTL: time.Hour},
	} {
		if res := one(b.KV, op); errs.ReasonOf(res.Err) != errs.Unsupported {
			t.Errorf("kind %d with a ttl: %v", op.Kind, res.Err)
		}
	}
	again := space(t, conn, "other", `{"table": "CARTS", "key": "id", "value": "doc"}`)
	if !b.Extent.Overlaps(again.Extent) {
		t.Error("two spaces on one table do not overlap")
	}
	if own := space(t, conn, "demo", ""); b.Extent.Overlaps(own.Extent) {
		t.Error("it overlaps with Prism's own table")
	}
	once := &driver.Once{Token: [16]byte{1}, TTL: time.Hour}
	first := one(b.KV, driver.Op{Kind: driver.Add, Key: "n", Delta: 1, Once: once})
	second := one(b.KV, driver.Op{Kind: driver.Add, Key: "n", Delta: 1, Once: once})
	if first.Err != nil || second.Err != nil || second.Number != 1 || !second.Repeated || second.Version != first.Version {
		t.Errorf("%+v then %+v", first, second)
	}
}

func TestAdoptedTableThatDoesNotFit(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ schema, says string }{
		"missing":      {"CREATE TABLE other (id TEXT)", "no such table"},
		"view":         {"CREATE TABLE t (id TEXT PRIMARY KEY, doc TEXT); CREATE VIEW carts AS SELECT * FROM t", "no such table"},
		"no key":       {"CREATE TABLE carts (ident TEXT PRIMARY KEY, doc TEXT)", "lacks the column of layout.key"},
		"no value":     {"CREATE TABLE carts (id TEXT PRIMARY KEY)", "lacks the column of layout.value"},
		"not unique":   {"CREATE TABLE carts (id TEXT, doc TEXT); CREATE INDEX i ON carts (id)", "no unique index"},
		"of two":       {"CREATE TABLE carts (id TEXT, n TEXT, doc TEXT, PRIMARY KEY (id, n))", "no unique index"},
		"partial":      {"CREATE TABLE carts (id TEXT, doc TEXT); CREATE UNIQUE INDEX i ON carts (id) WHERE doc > ''", "no unique index"},
		"nocase":       {"CREATE TABLE carts (id TEXT COLLATE NOCASE PRIMARY KEY, doc TEXT)", "no unique index"},
		"number key":   {"CREATE TABLE carts (id INTEGER PRIMARY KEY, doc TEXT)", "TEXT or BLOB"},
		"number value": {"CREATE TABLE carts (id TEXT PRIMARY KEY, doc JSON)", "TEXT or BLOB"},
		"computed":     {"CREATE TABLE carts (id TEXT PRIMARY KEY, doc TEXT AS (id))", "computed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, conn, b := adopt(t, tc.schema)
			for what, err := range map[string]error{
				"ping": conn.Ping(t.Context()),
				"put":  one(b.KV, driver.Op{Kind: driver.Put, Key: "k"}).Err,
			} {
				if errs.ReasonOf(err) != errs.BackendUnavailable || !strings.Contains(err.Error(), tc.says) {
					t.Errorf("%s: %v", what, err)
				}
			}
			put(t, space(t, conn, "demo", "").KV, "k", "others are served")
			script(t, dir, "DROP TABLE IF EXISTS t; DROP TABLE IF EXISTS other; DROP "+map[bool]string{true: "VIEW", false: "TABLE"}[name == "view"]+
				" IF EXISTS carts; CREATE TABLE carts (id TEXT PRIMARY KEY, doc TEXT)")
			if err := conn.Ping(t.Context()); err != nil {
				t.Error(err)
			}
			put(t, b.KV, "k", "v")
		})
	}
}

// TestRefusedRowInAGroup has a group in which tables refuse rows, one of them
// by rolling the whole transaction back.
func TestRefusedRowInAGroup(t *testing.T) {
	t.Parallel()
	t.Run("few", func(t *testing.T) { refusedRows(t, 24, 1) })
	t.Run("many", func(t *testing.T) { refusedRows(t, 120, 120) }) // each with a transaction of its own
}

func refusedRows(t *testing.T, callers int, most int64) {
	t.Parallel()
	dir, conn, b := adopt(t, `CREATE TABLE carts (id TEXT PRIMARY KEY, doc TEXT CHECK (doc <> 'bad'));
		CREATE TRIGGER t BEFORE INSERT ON carts WHEN NEW.doc = 'worse' BEGIN SELECT RAISE(ROLLBACK, 'no'); END;
		CREATE TRIGGER u AFTER INSERT ON carts WHEN NEW.doc = 'late' BEGIN SELECT RAISE(ABORT, 'no'); END`)
	if err := conn.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := sqlite.Commits(conn)
	release := holdLock(t, dir)
	values := []string{"good", "bad", "worse", "late", "good", "fine"}
	results := make([]driver.Result, callers)
	var done sync.WaitGroup
	for i := range results {
		done.Go(func() {
			results[i] = one(b.KV, driver.Op{Kind: driver.Put, Key: fmt.Sprint(i), Value: []byte(values[i%len(values)])})
		})
	}
	until(t, "all are queued", func() bool { return sqlite.Queued(conn) == len(results) })
	release()
	done.Wait()
	for i, res := range results {
		_, err := b.KV.Get(context.Background(), fmt.Sprint(i), driver.WithExpiry)
		switch values[i%len(values)] {
		case "good", "fine":
			if res.Err != nil || err != nil {
				t.Errorf("%d: %v, get %v", i, res.Err, err)
			}
		default:
			if errs.ReasonOf(res.Err) != errs.InvalidField || errs.ReasonOf(err) != errs.KeyNotFound {
				t.Errorf("%d: %v, get %v", i, res.Err, err)
			}
		}
	}
	if got := sqlite.Commits(conn) - before; got > most {
		t.Errorf("%d commits, want at most %d", got, most)
	}
}

func TestAdoptedKeysThatAreNone(t *testing.T) {
	t.Parallel()
	_, _, b := adopt(t, `CREATE TABLE carts (id, doc TEXT, UNIQUE (id));
		INSERT INTO carts VALUES (NULL, 'x'), (7, 'x'), ('', 'x'), (x'62', 'x'), (CAST(x'61ff' AS TEXT), 'x'), ('a' || char(0), 'x'), ('b', 'y'), ('c', NULL)`)
	page, err := b.KV.Scan(t.Context(), driver.ScanRequest{Limit: 2})
	if err != nil || len(page.Items) != 2 || page.Items[0].Key != "b" || page.Items[1].Key != "c" {
		t.Fatalf("%+v %v", page, err)
	}
	if e := get(t, b.KV, "c"); e.Value == nil || len(e.Value) != 0 {
		t.Errorf("NULL reads as %v", e.Value)
	}
}

// TestHostileNames adopts a table whose names want to be something else.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	script(t, dir, `CREATE TABLE "a""; DROP TABLE prism_kv; --" ("k'ey" TEXT PRIMARY KEY, "select" TEXT)`)
	conn := openFile(t, dir, nil)
	b := space(t, conn, "demo", `{"table": "a\"; DROP TABLE prism_kv; --", "key": "k'ey", "value": "select"}`)
	if err := conn.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	put(t, b.KV, "k", "v")
	get(t, b.KV, "k")
	put(t, space(t, conn, "demo", "").KV, "k", "v")
}
