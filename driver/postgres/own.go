package postgres

import "strings"

// The statements of Prism's own table. Time is the server's: of the statement
// where it reads, of the moment where it writes, because a write may have
// waited for another one.
const (
	ownLive  = `(t.expires_at IS NULL OR t.expires_at > clock_timestamp())`
	ownScope = `t.namespace = @namespace AND t.pattern = @pattern AND `
	ownRow   = ownScope + `t.key = @key`
	ownTTL   = `NULLIF(@ttl, 0) * interval '1 microsecond'`

	ownNumber = `CASE WHEN octet_length(t.value) <= 20 AND encode(t.value, 'escape') ~ '^-?[0-9]{1,19}$' THEN encode(t.value, 'escape')::numeric END`
	int64s    = ` BETWEEN -9223372036854775808 AND 9223372036854775807`
	ownAdds   = `(` + ownNumber + `)` + int64s + ` AND (` + ownNumber + `) + @delta` + int64s
	ownSum    = `convert_to(((` + ownNumber + `) + @delta)::text, 'UTF8')`

	ownConflict = ` ON CONFLICT (namespace, pattern, key) DO UPDATE SET value = EXCLUDED.value, version = EXCLUDED.version, expires_at = EXCLUDED.expires_at`
	ownInsert   = `INSERT INTO {table} AS t (namespace, pattern, key, value, version, expires_at) `
	ownReturn   = ` RETURNING t.version::text AS version, NULL::int8 AS number, t.expires_at AS expires_at`
	ownReturnN  = ` RETURNING t.version::text AS version, encode(t.value, 'escape')::int8 AS number, t.expires_at AS expires_at`

	ownPut = ownInsert + `SELECT @namespace, @pattern, @key, @value, nextval({sequence}), clock_timestamp() + ` + ownTTL + ` WHERE {if}` + ownConflict
)

var ownTemplates = templates{
	// One look into the index per key. With key = ANY(@keys) the planner may
	// read the whole space and filter, as long as it thinks the table small.
	get: `SELECT t.key, t.value, t.version, t.expires_at FROM unnest(@keys) u(k) CROSS JOIN LATERAL
	(SELECT * FROM {table} t WHERE ` + ownScope + `t.key = u.k OFFSET 0) t
WHERE t.expires_at IS NULL OR t.expires_at > statement_timestamp()`,

	puts: ownInsert + `SELECT @namespace, @pattern, u.k, u.v, nextval({sequence}), clock_timestamp() + NULLIF(u.ttl, 0) * interval '1 microsecond'
FROM unnest(@keys, @values, @ttls) AS u(k, v, ttl)` + ownConflict + ` RETURNING t.key, t.version::text`,

	look: `SELECT t.version::text, CASE WHEN octet_length(t.value) <= 20 THEN t.value END FROM {table} t
WHERE ` + ownRow + ` AND (t.expires_at IS NULL OR t.expires_at > statement_timestamp())`,

	scan: [2][2]string{
		{ownScan("t.value, t.version, t.expires_at", ""), ownScan("t.value, t.version, t.expires_at", " AND t.key < @upper")},
		{ownScan("NULL::bytea AS value, NULL::int8 AS version, NULL::timestamptz AS expires_at", ""), ownScan("NULL::bytea AS value, NULL::int8 AS version, NULL::timestamptz AS expires_at", " AND t.key < @upper")},
	},

	single: [acts]string{
		actPut:       ownPut + ownReturn,
		actPutAbsent: ownPut + ` WHERE t.expires_at <= clock_timestamp()` + ownReturn,
		actPutIf: `UPDATE {table} t SET value = @value, version = nextval({sequence}), expires_at = clock_timestamp() + ` + ownTTL + `
WHERE ` + ownRow + ` AND {if} AND t.version = @seq AND ` + ownLive + ownReturn,
		actDelete:   `DELETE FROM {table} t WHERE ` + ownRow + ` AND {if}`,
		actDeleteIf: `DELETE FROM {table} t WHERE ` + ownRow + ` AND {if} AND t.version = @seq AND ` + ownLive + ` RETURNING NULL::text AS version, NULL::int8 AS number, NULL::timestamptz AS expires_at`,

		// Whether the row has expired is asked once for value and expiry, so
		// that they cannot disagree when it expires at this very moment.
		actAdd: ownInsert + `SELECT @namespace, @pattern, @key, convert_to(@delta::text, 'UTF8'), nextval({sequence}), NULL WHERE {if}
ON CONFLICT (namespace, pattern, key) DO UPDATE SET (value, version, expires_at) = (
	SELECT CASE WHEN x.gone THEN EXCLUDED.value ELSE ` + ownSum + ` END, EXCLUDED.version, CASE WHEN x.gone THEN NULL ELSE t.expires_at END
	FROM (SELECT COALESCE(t.expires_at <= clock_timestamp(), false) AS gone) x)
WHERE t.expires_at <= clock_timestamp() OR (` + ownAdds + `)` + ownReturnN,
		actAddIf: `UPDATE {table} t SET value = ` + ownSum + `, version = nextval({sequence})
WHERE ` + ownRow + ` AND {if} AND t.version = @seq AND ` + ownLive + ` AND ` + ownAdds + ownReturnN,

		actExpire: `UPDATE {table} t SET expires_at = clock_timestamp() + ` + ownTTL + `, version = nextval({sequence})
WHERE ` + ownRow + ` AND {if} AND ` + ownLive + ownReturn,
		actExpireIf: `UPDATE {table} t SET expires_at = clock_timestamp() + ` + ownTTL + `, version = nextval({sequence})
WHERE ` + ownRow + ` AND {if} AND t.version = @seq AND ` + ownLive + ownReturn,
	},
}

// ownScan reads up to @limit rows in the order of keys and gives back those
// before which less than @bytes had been read; the lengths are known without
// fetching the values.
func ownScan(columns, upper string) string {
	return scanTemplate(`SELECT t.key, `+columns+` FROM {table} t
WHERE `+ownScope+`t.key >= @lower`+upper+` AND (t.expires_at IS NULL OR t.expires_at > statement_timestamp())`, "p.key", "t.key")
}

// scanTemplate bounds the page that rows reads, ordered by key.
func scanTemplate(rows, outer, inner string) string {
	const size = `octet_length(p.key) + COALESCE(octet_length(p.value), 0)`
	return `SELECT q.key, q.value, q.version, q.expires_at FROM (
	SELECT p.*, sum(` + size + `) OVER (ORDER BY ` + outer + ` ROWS UNBOUNDED PRECEDING) - (` + size + `) AS before
	FROM (` + rows + ` ORDER BY ` + inner + ` LIMIT @limit) p) q
WHERE q.before < @bytes ORDER BY ` + strings.Replace(outer, "p.", "q.", 1)
}

// ownStatements returns the statements of prism_kv in a schema.
func ownStatements(schema string) *statements {
	return ownTemplates.compile(
		"{table}", quote(schema)+".prism_kv",
		"{once}", quote(schema)+".prism_once",
		"{sequence}", literal(quote(schema)+".prism_version")+"::regclass",
	)
}
