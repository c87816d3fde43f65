package postgres_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/postgres"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/servers"
)

func login(s *servers.Server) driver.Credentials {
	return func(context.Context) (string, driver.Secret, error) {
		user, password := servers.PostgresLogin(s)
		return user, driver.Secret(password), nil
	}
}

// fixture is a server with the means to look at it from outside.
type fixture struct {
	*testing.T
	server *servers.Server
	ctx    context.Context
}

func newFixture(t *testing.T, settings ...string) *fixture {
	t.Helper()
	return onServer(t, servers.PostgresWith(t, settings...))
}

func onServer(t *testing.T, s *servers.Server) *fixture {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return &fixture{T: t, server: s, ctx: ctx}
}

// config returns a configuration with a schema of its own.
func (f *fixture) config() driver.Config {
	return driver.Config{Name: "pg", URL: f.server.URL, Credentials: login(f.server), Options: f.options("")}
}

func (f *fixture) options(more string) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"schema": %q%s}`, f.schema(), more))
}

// thisRun tells the schemas of this run from those of earlier ones on a server that
// stays.
var thisRun = strings.ToLower(rand.Text()[:6])

// schema is named after the test.
func (f *fixture) schema() string {
	return strings.ToLower(strings.NewReplacer("/", "_", "-", "_").Replace(f.Name())) + "_" + thisRun
}

func (f *fixture) open(c driver.Config) driver.Conn {
	f.Helper()
	conn, err := postgres.Driver().Open(c)
	if err != nil {
		f.Fatalf("open: %v", err)
	}
	f.Cleanup(func() {
		if err := conn.Close(); err != nil {
			f.Errorf("close: %v", err)
		}
	})
	return conn
}

func (f *fixture) kv(conn driver.Conn, layout string) driver.KV {
	f.Helper()
	b, err := conn.Space(driver.Space{Namespace: "orders", Pattern: "carts", Layout: json.RawMessage(layout)})
	if err != nil {
		f.Fatalf("space: %v", err)
	}
	return b.KV
}

// direct connects to the server without the driver.
func (f *fixture) direct() *pgx.Conn {
	f.Helper()
	user, password := servers.PostgresLogin(f.server)
	c, err := pgx.Connect(f.ctx, strings.Replace(f.server.URL, "://", "://"+user+":"+password+"@", 1))
	if err != nil {
		f.Fatalf("connect: %v", err)
	}
	f.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func (f *fixture) exec(c *pgx.Conn, sql string) {
	f.Helper()
	if _, err := c.PgConn().Exec(f.ctx, sql).ReadAll(); err != nil {
		f.Fatalf("%s: %v", sql, err)
	}
}

func (f *fixture) apply(kv driver.KV, ops ...driver.Op) []driver.Result {
	results := make([]driver.Result, len(ops))
	kv.Apply(f.ctx, ops, results)
	return results
}

func (f *fixture) one(kv driver.KV, op driver.Op) driver.Result {
	f.Helper()
	r := f.apply(kv, op)[0]
	if r.Err != nil {
		f.Fatalf("operation %d on %q: %v", op.Kind, op.Key, r.Err)
	}
	return r
}

func (f *fixture) put(kv driver.KV, key, value string) string {
	f.Helper()
	return f.one(kv, driver.Op{Kind: driver.Put, Key: key, Value: []byte(value)}).Version
}

func (f *fixture) get(kv driver.KV, key string) driver.Entry {
	f.Helper()
	e, err := kv.Get(f.ctx, key, driver.WithExpiry)
	if err != nil {
		f.Fatalf("get %q: %v", key, err)
	}
	return e
}

func (f *fixture) wants(what string, err error, reason errs.Reason, words ...string) {
	f.Helper()
	if errs.ReasonOf(err) != reason {
		f.Errorf("%s: got %v (%v), want %v", what, errs.ReasonOf(err), err, reason)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			f.Errorf("%s: %q does not say %q", what, err, w)
		}
	}
}

func (f *fixture) await(what string, holds func() bool) {
	f.Helper()
	for end := time.Now().Add(30 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			f.Fatalf("%s: not within 30 s", what)
		}
	}
}

// TestOnOneServer runs what needs no server of its own, each in its own schema.
func TestOnOneServer(t *testing.T) {
	t.Parallel()
	s := servers.Postgres(t)
	for name, test := range map[string]func(*fixture){
		"native":            nativeAndReadable,
		"racing":            racingProxiesMakeOneSchema,
		"newer-schema":      newerSchemaIsRefused,
		"no-create":         missingRightToCreate,
		"max-connections":   maxConnectionsHold,
		"flights":           flightsHold,
		"statement-timeout": statementTimeoutHolds,
		"lock":              lockedRowFailsAlone,
		"sweep":             sweepRemovesExpired,
		"leaving":           leavingDisturbsNobody,
		"one-fails":         oneFailsAlone,
		"deferred":          deferredFailure,
		"credentials":       credentialsPerConnection,
		"read-only":         readOnly,
		"terminated":        terminatedConnections,
		"dropped":           droppedTablesComeBack,
		"scan-edges":        scanEdges,
		"adopted-types":     adoptedTypes,
		"adopted-names":     adoptedNames,
		"adopted-refused":   adoptedRefused,
		"adopted-null":      adoptedNull,
		"adopted-changes":   adoptedChanges,
		"adopted-once":      adoptedOnce,
		"queue-tables":      queueTablesByThemselves,
		"queue-refused":     queueRefusesAlone,
		"queue-lock":        queueLockedIDFailsAlone,
		"queue-plans":       queuePlans,
		"queue-ids":         queueIDsAreForgotten,
		"queue-notify":      queueNotifies,
		"queue-listen":      queueListensAgain,
		"queue-woken":       queueWokenByOthers,
		"log-tables":        logTablesByThemselves,
		"log-refused":       logRefusesAlone,
		"log-late":          logLateCommit,
		"log-late-unlocked": logLateUnlocked,
		"log-late-sequence": logLateSequence,
		"log-half":          logHalfAMessage,
		"log-dump":          logBesideADump,
		"log-by-hand":       logByHand,
		"log-deleted":       logDeletedTopic,
		"log-times":         logTimesDoNotGoBack,
		"log-ids":           logIDsAreForgotten,
		"log-ids-end":       logIDsEnd,
		"log-commits":       logCommitsInOrder,
		"log-bytes":         logOldestFirst,
		"log-plans":         logPlans,
		"log-notify":        logNotifies,
		"log-listen":        logListensAgain,
		"log-poll":          logPolls,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := onServer(t, s)
			t.Cleanup(func() { f.exec(f.direct(), fmt.Sprintf("DROP SCHEMA IF EXISTS %[1]s CASCADE", f.schema())) })
			test(f)
		})
	}
}

func nativeAndReadable(f *fixture) {
	kv := f.kv(f.open(f.config()), "")
	v := f.put(kv, "a/b:%_*\n", "hello")
	f.one(kv, driver.Op{Kind: driver.Put, Key: "ttl", TTL: time.Hour})
	if e := f.get(kv, "a/b:%_*\n"); string(e.Value) != "hello" || e.Version != v || !e.Expires.IsZero() {
		f.Errorf("got %+v", e)
	}
	var key, value, version string
	err := f.direct().QueryRow(f.ctx, "SELECT key, convert_from(value, 'UTF8'), version::text FROM "+f.schema()+".prism_kv WHERE namespace = 'orders' AND pattern = 'carts' AND expires_at IS NULL").Scan(&key, &value, &version)
	if err != nil || key != "a/b:%_*\n" || value != "hello" || version != v {
		f.Errorf("the table holds %q %q %q, %v", key, value, version, err)
	}
}

func racingProxiesMakeOneSchema(f *fixture) {
	var wg sync.WaitGroup
	for i := range 8 {
		kv := f.kv(f.open(f.config()), "")
		wg.Go(func() {
			for _, r := range f.apply(kv, driver.Op{Kind: driver.Put, Key: fmt.Sprint("k", i)}) {
				if r.Err != nil {
					f.Error(r.Err)
				}
			}
		})
	}
	wg.Wait()
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
