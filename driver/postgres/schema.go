package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/prismgw/prism/errs"
)

// tables are what a primitive needs, made when it is used first. A change of
// them gets the next version and comes with a step from each version before.
type tables struct {
	mark    string // the table that tells the version
	version int
	ddl     func(schema string) []string

	ready atomic.Bool
	mu    sync.Mutex // held while they are being made
}

// schemaLock keeps proxies that make the tables at the same time apart.
const schemaLock = 0x505249534d // "PRISM"

// kvTables returns the statements that make the tables of KV.
func kvTables(schema string) []string {
	s := quote(schema)
	return []string{
		`CREATE SEQUENCE IF NOT EXISTS ` + s + `.prism_version AS bigint`,
		`CREATE TABLE IF NOT EXISTS ` + s + `.prism_kv (namespace text COLLATE "C" NOT NULL, pattern text COLLATE "C" NOT NULL, key text COLLATE "C" NOT NULL, ` +
			`value bytea NOT NULL, version bigint NOT NULL, expires_at timestamptz, PRIMARY KEY (namespace, pattern, key))`,
		`CREATE INDEX IF NOT EXISTS prism_kv_expires_at ON ` + s + `.prism_kv (expires_at) WHERE expires_at IS NOT NULL`,
		`CREATE TABLE IF NOT EXISTS ` + s + `.prism_once (namespace text COLLATE "C" NOT NULL, pattern text COLLATE "C" NOT NULL, token bytea NOT NULL, ` +
			`digest bytea NOT NULL, kept_until timestamptz NOT NULL, settled boolean NOT NULL, version text, number bigint, expires_at timestamptz, PRIMARY KEY (namespace, pattern, token))`,
		`CREATE INDEX IF NOT EXISTS prism_once_kept_until ON ` + s + `.prism_once (kept_until)`,
	}
}

// statements returns the statements that make the tables and mark their version.
func (t *tables) statements(schema string) []string {
	mark := quote(schema) + "." + t.mark
	all := []string{`CREATE TABLE IF NOT EXISTS ` + mark + ` (one boolean PRIMARY KEY DEFAULT true CHECK (one), version integer NOT NULL)`}
	all = append(all, t.ddl(schema)...)
	return append(all, `INSERT INTO `+mark+` (version) VALUES (`+strconv.Itoa(t.version)+`) ON CONFLICT DO NOTHING`)
}

// ensureSchema makes sure, once, that the tables of KV are there and ours.
func (c *conn) ensureSchema(ctx context.Context, pc *pgx.Conn) error {
	return c.ensure(ctx, pc, &c.kvTables)
}

func (c *conn) ensure(ctx context.Context, pc *pgx.Conn, t *tables) error {
	if t.ready.Load() {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ready.Load() {
		return nil
	}
	version, err := c.readSchema(ctx, pc, t)
	if err == nil && version == 0 {
		if err = c.createSchema(ctx, pc, t); err == nil {
			version, err = c.readSchema(ctx, pc, t)
		}
	}
	if err != nil {
		return c.failure(err, false)
	}
	if version != t.version {
		return errs.New(errs.InvalidConfiguration,
			"backend %q: the tables in schema %q are of version %d and this Prism knows version %d; run a newer Prism, or name another schema in options.schema",
			c.name, c.opts.Schema, version, t.version)
	}
	t.ready.Store(true)
	c.sweeping.Do(c.startSweeping)
	if t == &c.logTables {
		c.retaining.Do(c.startRetaining)
	}
	return nil
}

// readSchema returns the version of the tables, 0 if there are none.
func (c *conn) readSchema(ctx context.Context, pc *pgx.Conn, t *tables) (int, error) {
	name := quote(c.opts.Schema) + "." + t.mark
	rows, err := ask(ctx, pc, `SELECT current_setting('server_encoding'), to_regclass(`+literal(name)+`)`)
	if err != nil {
		return 0, err
	}
	if rows[0][0] != "UTF8" {
		return 0, errs.New(errs.InvalidConfiguration, "backend %q: the database's encoding is %s; keys need one of encoding UTF8", c.name, rows[0][0])
	}
	if rows[0][1] == "" {
		return 0, nil
	}
	rows, err = ask(ctx, pc, `SELECT version FROM `+name)
	if err != nil || len(rows) == 0 {
		return 0, err
	}
	return strconv.Atoi(rows[0][0])
}

// createSchema makes the tables in one transaction, one proxy at a time.
func (c *conn) createSchema(ctx context.Context, pc *pgx.Conn, t *tables) error {
	rows, err := ask(ctx, pc, `SELECT to_regnamespace(`+literal(quote(c.opts.Schema))+`)`)
	if err != nil {
		return err
	}
	statements := t.statements(c.opts.Schema)
	if rows[0][0] == "" {
		statements = append([]string{`CREATE SCHEMA IF NOT EXISTS ` + quote(c.opts.Schema)}, statements...)
	}
	text := fmt.Sprintf(`BEGIN; SET LOCAL lock_timeout = 0; SET LOCAL client_min_messages = warning; SELECT pg_advisory_xact_lock(%d); %s; COMMIT`,
		schemaLock, strings.Join(statements, "; "))
	_, err = ask(ctx, pc, text)
	if err == nil {
		return nil
	}
	if !lost(err) {
		_, undo := ask(ctx, pc, "ROLLBACK")
		err = errors.Join(err, undo)
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42501" {
		return errs.Wrap(fmt.Errorf("an administrator may run: %s; %w", strings.Join(statements, "; "), err), errs.BackendUnavailable,
			"backend %q: the role may not make Prism's tables in schema %q; grant it CREATE there, or let an administrator run the statements in the proxy's log and grant it SELECT, INSERT, UPDATE and DELETE on the tables and USAGE on the sequence",
			c.name, c.opts.Schema)
	}
	return err
}
