package sqlite_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const fileName = "prism.db"

// openFile opens fileName in dir; set may change the configuration before.
func openFile(t testing.TB, dir string, set func(*driver.Config)) driver.Conn {
	t.Helper()
	c := driver.Config{Name: "main", URL: "sqlite:" + fileName, Dir: dir}
	if set != nil {
		set(&c)
	}
	conn, err := sqlite.Driver().Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// space opens pattern "carts" of a namespace; layout may be empty.
func space(t testing.TB, c driver.Conn, namespace, layout string) driver.Backend {
	t.Helper()
	s := driver.Space{Namespace: namespace, Pattern: "carts"}
	if layout != "" {
		s.Layout = json.RawMessage(layout)
	}
	b, err := c.Space(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func one(kv driver.KV, op driver.Op) driver.Result { return oneCtx(context.Background(), kv, op) }

func oneCtx(ctx context.Context, kv driver.KV, op driver.Op) driver.Result {
	var res [1]driver.Result
	kv.Apply(ctx, []driver.Op{op}, res[:])
	return res[0]
}

func put(t testing.TB, kv driver.KV, key, value string) string {
	t.Helper()
	res := one(kv, driver.Op{Kind: driver.Put, Key: key, Value: []byte(value)})
	if res.Err != nil {
		t.Fatalf("put %q: %v", key, res.Err)
	}
	return res.Version
}

func get(t testing.TB, kv driver.KV, key string) driver.Entry {
	t.Helper()
	e, err := kv.Get(context.Background(), key, driver.WithExpiry)
	if err != nil {
		t.Fatalf("get %q: %v", key, err)
	}
	return e
}

// other opens the file of dir as another program would.
func other(t testing.TB, dir string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, fileName)+"?_pragma=busy_timeout(5000)&_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// script runs SQL as another program would, which has closed the file when
// script returns.
func script(t testing.TB, dir, text string) {
	t.Helper()
	db := other(t, dir)
	if _, err := db.Exec(text); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// until polls a condition for at most ten seconds.
func until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}
