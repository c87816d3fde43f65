package postgres

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// A layout reaches a table that is already there. The zero layout is Prism's
// own.
type layout struct {
	Schema string // of the table
	Table  string
	Key    string
	Value  string
}

func (l layout) adopted() bool { return l.Table != "" }

// parseLayout reads {"table": "carts", "key": "id", "value": "doc"}; the table
// may be qualified by its schema. Names are taken as they are, upper and lower
// case included.
func parseLayout(raw json.RawMessage, schema string) (layout, error) {
	if len(raw) == 0 {
		return layout{}, nil
	}
	var m mistakes
	var doc struct {
		Table string `json:"table"`
		Key   string `json:"key"`
		Value string `json:"value"`
	}
	m.decode("layout", raw, &doc)
	l := layout{Schema: schema, Table: doc.Table, Key: doc.Key, Value: doc.Value}
	if before, after, qualified := strings.Cut(doc.Table, "."); qualified {
		l.Schema, l.Table = before, after
	}
	for _, n := range []struct{ path, name string }{
		{"layout.table", l.Schema}, {"layout.table", l.Table}, {"layout.key", l.Key}, {"layout.value", l.Value},
	} {
		if err := checkName(n.name); err != nil {
			m.add(n.path, err.Error())
		}
	}
	if strings.Contains(l.Table, ".") {
		m.add("layout.table", "is a table, or a schema and a table with one dot between them")
	}
	if l.Key == l.Value && l.Key != "" {
		m.add("layout.value", "is the key's column too")
	}
	switch l.Table {
	case "prism_kv", "prism_once", "prism_schema", "prism_version":
		m.add("layout.table", "is Prism's own; leave the layout out")
	}
	return l, m.err()
}

// An adoptedTable is what the server told about a table.
type adoptedTable struct {
	kind       string // of the value's column
	statements *statements
}

// statements returns the statements of the space, once the server has what
// they need.
func (s *kv) statements(ctx context.Context, pc *pgx.Conn) (*statements, error) {
	if !s.space.layout.adopted() {
		return s.c.own, s.c.ensureSchema(ctx, pc)
	}
	if t := s.table.Load(); t != nil {
		return t.statements, nil
	}
	t, err := s.describe(ctx, pc)
	if err != nil {
		return nil, err
	}
	return t.statements, nil
}

// forgetTable makes the next use look at the tables anew.
func (s *kv) forgetTable() {
	s.table.Store(nil)
	s.c.kvTables.ready.Store(false)
}

const describeQuery = `SELECT c.relkind, k.atttypid::regtype, COALESCE(l.collisdeterministic, true), v.atttypid::regtype, v.attgenerated <> '', EXISTS (
	SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate
	AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indnkeyatts = 1 AND i.indkey[0] = k.attnum)
FROM pg_class c
LEFT JOIN pg_attribute k ON k.attrelid = c.oid AND k.attname = %[2]s AND k.attnum > 0 AND NOT k.attisdropped
LEFT JOIN pg_collation l ON l.oid = k.attcollation
LEFT JOIN pg_attribute v ON v.attrelid = c.oid AND v.attname = %[3]s AND v.attnum > 0 AND NOT v.attisdropped
WHERE c.oid = to_regclass(%[1]s)`

// describe asks the server whether the table can be used as the layout says.
func (s *kv) describe(ctx context.Context, pc *pgx.Conn) (*adoptedTable, error) {
	l := s.space.layout
	name := quote(l.Schema) + "." + quote(l.Table)
	rows, err := ask(ctx, pc, fmt.Sprintf(describeQuery, literal(name), literal(l.Key), literal(l.Value)))
	if err != nil {
		return nil, s.c.failure(err, false)
	}
	wrong := func(format string, args ...any) error {
		return errs.New(errs.BackendUnavailable, "backend %q: table %s: %s", s.c.name, name, fmt.Sprintf(format, args...))
	}
	if len(rows) == 0 {
		return nil, wrong("is not there")
	}
	r := rows[0]
	switch {
	case r[0] != "r" && r[0] != "p":
		return nil, wrong("is no table")
	case r[1] == "":
		return nil, wrong("has no column %q", l.Key)
	case r[1] != "text" && r[1] != "character varying":
		return nil, wrong("the column %q of the key is %s; it must be text or varchar, in which every key has one form", l.Key, r[1])
	case r[2] != "t":
		return nil, wrong("the collation of the column %q takes different keys for equal", l.Key)
	case r[3] == "":
		return nil, wrong("has no column %q", l.Value)
	case r[4] == "t":
		return nil, wrong("the column %q is generated", l.Value)
	case r[5] != "t":
		return nil, wrong("has no unique index on %q alone; run: CREATE UNIQUE INDEX ON %s (%s)", l.Key, name, quote(l.Key))
	}
	if valueTypes[r[3]] == nil {
		return nil, wrong("the column %q of the value is %s; it must be bytea, text, varchar, json or jsonb", l.Value, r[3])
	}
	t := &adoptedTable{kind: r[3], statements: adoptedStatements(s.c.opts.Schema, l, r[3])}
	s.table.Store(t)
	return t, nil
}

// checkValue refuses what the column cannot hold, before it fails the
// transaction that others share.
func (t *adoptedTable) checkValue(value []byte) error {
	bad := func(text string) error { return errs.Invalid(errs.Field{Path: "value", Text: text}) }
	switch {
	case t.kind == "bytea":
		return nil
	case !utf8.Valid(value) || bytes.IndexByte(value, 0) >= 0:
		return bad("the table's column holds text: UTF-8 without NUL")
	case strings.HasPrefix(t.kind, "json") && !json.Valid(value):
		return bad("the table's column holds JSON, and this is none")
	}
	return nil
}

// checkAdopted refuses what a table without Prism's columns cannot keep.
func (s *kv) checkAdopted(op *driver.Op) error {
	if op.TTL == 0 {
		return nil
	}
	return errs.New(errs.Unsupported, "ttl: an adopted table has no place for a time to live; use a namespace with Prism's own layout")
}

// valueTypes says how each type of column is read as bytes and as text, and
// written from bytes and from a number; $ is the expression.
var valueTypes = map[string]*struct{ bytes, text, in, number string }{
	"bytea":             {"$", "encode($, 'escape')", "$", "convert_to(($)::text, 'UTF8')"},
	"text":              {"convert_to($, 'UTF8')", "$", "convert_from($, 'UTF8')", "($)::text"},
	"character varying": {"convert_to($, 'UTF8')", "$", "convert_from($, 'UTF8')", "($)::text"},
	"json":              {"convert_to($::text, 'UTF8')", "$::text", "convert_from($, 'UTF8')::json", "($)::text::json"},
	"jsonb":             {"convert_to($::text, 'UTF8')", "$::text", "convert_from($, 'UTF8')::jsonb", "($)::text::jsonb"},
}

// adoptedStatements returns the statements of an adopted table. A value of
// NULL counts as absent. The version is a hash of the bytes that a read gives.
func adoptedStatements(schema string, l layout, kind string) *statements {
	f := valueTypes[kind]
	apply := func(form, expression string) string { return strings.ReplaceAll(form, "$", expression) }
	const key, value = `t.{key}`, `t.{value}`
	bytesOf := apply(f.bytes, value)
	text := apply(f.text, value)
	hash := `left(encode(sha256(` + bytesOf + `), 'hex'), 32)`
	number := `CASE WHEN octet_length(` + text + `) <= 20 AND ` + text + ` ~ '^-?[0-9]{1,19}$' THEN (` + text + `)::numeric END`
	adds := `(` + number + `)` + int64s + ` AND (` + number + `) + @delta` + int64s
	sum := apply(f.number, `(`+number+`) + @delta`)
	put := apply(f.in, "@value")

	insert := `INSERT INTO {table} AS t ({key}, {value}) SELECT @key, `
	conflict := ` ON CONFLICT ({key}) DO UPDATE SET {value} = EXCLUDED.{value}`
	returning := ` RETURNING ` + hash + ` AS version, NULL::int8 AS number, NULL::timestamptz AS expires_at`
	returningN := ` RETURNING ` + hash + ` AS version, (` + text + `)::int8 AS number, NULL::timestamptz AS expires_at`
	present := ` WHERE ` + key + ` = @key AND ` + value + ` IS NOT NULL`
	matching := present + ` AND {if} AND ` + hash + ` = @hash`

	scan := func(columns, upper string) string {
		return scanTemplate(`SELECT `+key+` AS key, `+columns+`, NULL::int8 AS version, NULL::timestamptz AS expires_at FROM {table} t
WHERE `+key+` COLLATE "C" >= @lower`+upper+` AND octet_length(`+key+`) BETWEEN 1 AND `+fmt.Sprint(driver.MaxKey)+` AND `+value+` IS NOT NULL`,
			`p.key COLLATE "C"`, key+` COLLATE "C"`)
	}
	upper := ` AND ` + key + ` COLLATE "C" < @upper`
	all, none := bytesOf+` AS value`, `NULL::bytea AS value`

	t := templates{
		get: `SELECT t.{key}, t.bytes, NULL::int8, NULL::timestamptz FROM unnest(@keys) u(k) CROSS JOIN LATERAL
	(SELECT ` + key + `, ` + bytesOf + ` AS bytes FROM {table} t WHERE ` + key + ` = u.k AND ` + value + ` IS NOT NULL OFFSET 0) t`,
		puts: `INSERT INTO {table} AS t ({key}, {value}) SELECT u.k, ` + apply(f.in, "u.v") + ` FROM unnest(@keys, @values) AS u(k, v)` + conflict + ` RETURNING ` + key + `, ` + hash,
		look: `SELECT ` + hash + `, CASE WHEN octet_length(` + bytesOf + `) <= 20 THEN ` + bytesOf + ` END FROM {table} t` + present,
		scan: [2][2]string{{scan(all, ""), scan(all, upper)}, {scan(none, ""), scan(none, upper)}},
		single: [acts]string{
			actPut:       insert + put + ` WHERE {if}` + conflict + returning,
			actPutAbsent: insert + put + ` WHERE {if}` + conflict + ` WHERE ` + value + ` IS NULL` + returning,
			actPutIf:     `UPDATE {table} t SET {value} = ` + put + matching + returning,
			actDelete:    `DELETE FROM {table} t WHERE ` + key + ` = @key AND {if}`,
			actDeleteIf:  `DELETE FROM {table} t` + matching + ` RETURNING NULL::text AS version, NULL::int8 AS number, NULL::timestamptz AS expires_at`,
			actAdd: insert + apply(f.number, "@delta") + ` WHERE {if} ON CONFLICT ({key}) DO UPDATE SET {value} = CASE WHEN ` + value + ` IS NULL THEN EXCLUDED.{value} ELSE ` + sum + ` END
WHERE ` + value + ` IS NULL OR (` + adds + `)` + returningN,
			actAddIf: `UPDATE {table} t SET {value} = ` + sum + matching + ` AND ` + adds + returningN,
		},
	}
	return t.compile(
		"{table}", quote(l.Schema)+"."+quote(l.Table),
		"{key}", quote(l.Key),
		"{value}", quote(l.Value),
		"{once}", quote(schema)+".prism_once",
	)
}
