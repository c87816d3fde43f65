package sqlite

import (
	"fmt"

	"github.com/prismgw/prism/errs"
)

// schema is the number of the tables below. A change of them gets the next
// number and a step that turns the one before into it.
const schema = 1

// createSchema makes all tables of Prism. prism_kv has a rowid: a table without
// one stores its rows like an index, of which a page holds only a quarter as
// local payload, and values of 4 KiB were then written and read at half the
// speed, while small ones gained nothing. value stands last, so that the
// columns before it are read without it.
const createSchema = `
CREATE TABLE prism_schema (
	name  TEXT PRIMARY KEY,
	value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO prism_schema VALUES ('schema', %d), ('versions', 0);
CREATE TABLE prism_kv (
	namespace  TEXT NOT NULL,
	pattern    TEXT NOT NULL,
	key        TEXT NOT NULL,
	version    INTEGER NOT NULL,
	expires_at INTEGER,
	value      BLOB NOT NULL,
	PRIMARY KEY (namespace, pattern, key)
) STRICT;
CREATE INDEX prism_kv_expires ON prism_kv (expires_at) WHERE expires_at IS NOT NULL;
CREATE TABLE prism_once (
	space      TEXT NOT NULL,
	token      BLOB NOT NULL,
	digest     BLOB NOT NULL,
	expires_at INTEGER NOT NULL,
	version    TEXT NOT NULL,
	number     INTEGER NOT NULL,
	until      INTEGER NOT NULL,
	PRIMARY KEY (space, token)
) STRICT, WITHOUT ROWID;
CREATE INDEX prism_once_expires ON prism_once (expires_at);
`

// queueSchema is the number of the tables of queues, which are made where they
// are missing: files of before have none.
const queueSchema = 1

// createQueues makes the tables of queues. What a lease changes is in no index,
// and not in one row with the value, which would be written again with it. Tasks
// that are delayed are in the one index, all others in the other one.
const createQueues = `
CREATE TABLE prism_queue (
	position     INTEGER PRIMARY KEY AUTOINCREMENT,
	namespace    TEXT NOT NULL,
	queue        TEXT NOT NULL,
	priority     INTEGER NOT NULL,
	due_at       INTEGER,
	leased_until INTEGER NOT NULL,
	attempt      INTEGER NOT NULL,
	receipt      BLOB,
	first_at     INTEGER NOT NULL,
	enqueued_at  INTEGER NOT NULL,
	id           TEXT NOT NULL
) STRICT;
CREATE INDEX prism_queue_ready ON prism_queue (namespace, queue, priority DESC) WHERE due_at IS NULL;
CREATE INDEX prism_queue_due ON prism_queue (namespace, queue, due_at) WHERE due_at IS NOT NULL;
CREATE TABLE prism_queue_body (
	position INTEGER PRIMARY KEY,
	headers  BLOB NOT NULL,
	value    BLOB NOT NULL
) STRICT;
CREATE TABLE prism_queue_id (
	namespace  TEXT NOT NULL,
	queue      TEXT NOT NULL,
	id         TEXT NOT NULL,
	expires_at INTEGER NOT NULL,
	PRIMARY KEY (namespace, queue, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX prism_queue_id_expires ON prism_queue_id (expires_at);
INSERT INTO prism_schema VALUES ('queue', %d);
`

// logSchema is the number of the tables of topics, which are made where they are
// missing, like those of queues.
const logSchema = 1

// createLogs makes the tables of topics. A place is two numbers in one, that of
// a partition and a position in it, or that of a group and a partition: records
// stand in one tree in the order in which they are read, without an index beside
// it. The views take places apart, for people.
const createLogs = `
CREATE TABLE prism_log_topic (
	namespace      TEXT NOT NULL,
	topic          TEXT NOT NULL,
	base           INTEGER NOT NULL,
	partitions     INTEGER NOT NULL,
	max_age        INTEGER NOT NULL,
	max_bytes      INTEGER NOT NULL,
	until_consumed INTEGER NOT NULL,
	dedup          INTEGER NOT NULL,
	PRIMARY KEY (namespace, topic)
) STRICT, WITHOUT ROWID;
CREATE TABLE prism_log_partition (
	number  INTEGER PRIMARY KEY AUTOINCREMENT,
	first   INTEGER NOT NULL,
	next    INTEGER NOT NULL,
	bytes   INTEGER NOT NULL,
	last_at INTEGER NOT NULL
) STRICT;
CREATE TABLE prism_log_record (
	place   INTEGER PRIMARY KEY,
	at      INTEGER NOT NULL,
	size    INTEGER NOT NULL,
	id      TEXT NOT NULL,
	key     BLOB,
	headers BLOB NOT NULL,
	value   BLOB NOT NULL
) STRICT;
CREATE TABLE prism_log_id (
	number     INTEGER NOT NULL,
	id         TEXT NOT NULL,
	position   INTEGER NOT NULL,
	expires_at INTEGER NOT NULL,
	PRIMARY KEY (number, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX prism_log_id_expires ON prism_log_id (expires_at);
CREATE TABLE prism_log_group (
	number INTEGER PRIMARY KEY AUTOINCREMENT,
	base   INTEGER NOT NULL,
	name   TEXT NOT NULL,
	UNIQUE (base, name)
) STRICT;
CREATE TABLE prism_log_claim (
	place      INTEGER PRIMARY KEY,
	owner      TEXT NOT NULL,
	owner_name TEXT NOT NULL,
	claim      INTEGER NOT NULL,
	next       INTEGER NOT NULL,
	note       TEXT NOT NULL
) STRICT;
CREATE VIEW prism_log AS
	SELECT t.namespace, t.topic, (r.place >> 46) - t.base AS partition, r.place & 0x3fffffffffff AS position,
		strftime('%%Y-%%m-%%dT%%H:%%M:%%fZ', r.at / 1000.0, 'unixepoch') AS at, r.id, r.key, r.value
	FROM prism_log_topic t CROSS JOIN prism_log_record r ON r.place >= t.base << 46 AND r.place < (t.base + t.partitions) << 46;
CREATE VIEW prism_log_stand AS
	SELECT t.namespace, t.topic, g.name AS "group", c.place & 1023 AS partition, c.owner_name AS owner, c.next,
		max(0, p.next - max(c.next, p.first)) AS waiting
	FROM prism_log_topic t CROSS JOIN prism_log_group g ON g.base = t.base
	CROSS JOIN prism_log_claim c ON c.place >= g.number << 10 AND c.place < (g.number + 1) << 10
	CROSS JOIN prism_log_partition p ON p.number = t.base + (c.place & 1023);
INSERT INTO prism_schema VALUES ('log', %d);
`

// additions are the parts of the schema that came after the first ones.
var additions = []struct {
	name, what string
	number     int
	create     string
}{
	{"queue", "schema of queues", queueSchema, createQueues},
	{"log", "schema of topics", logSchema, createLogs},
}

var (
	encoding      = query{"PRAGMA encoding"}
	schemaExists  = query{"SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'prism_schema'"}
	schemaVersion = query{"SELECT value FROM prism_schema WHERE name = 'schema'"}
	partVersion   = query{"SELECT value FROM prism_schema WHERE name = ?"}
)

// prepareSchema makes the tables if they are not there, and refuses those of a
// newer Prism.
func (l *link) prepareSchema(name string) error {
	if cells, err := l.first(&encoding); err != nil {
		return err
	} else if len(cells) == 0 || cells[0] != "UTF-8" {
		return errs.New(errs.BackendUnavailable, "backend %s: the SQLite file's encoding is not UTF-8; make a new file and copy the tables", name)
	}
	exists, err := l.number(&schemaExists)
	if err != nil {
		return err
	}
	if exists == 0 {
		if err := l.script("BEGIN IMMEDIATE;" + fmt.Sprintf(createSchema, schema) + "COMMIT"); err != nil {
			return err
		}
	} else if found, err := l.number(&schemaVersion); err != nil || found != schema {
		return otherSchema(name, "schema", found, schema, err)
	}
	for _, part := range additions {
		found, err := l.number(&partVersion, part.name)
		if err == nil && found == 0 {
			err = l.script("BEGIN IMMEDIATE;" + fmt.Sprintf(part.create, part.number) + "COMMIT")
			found = int64(part.number)
		}
		if err != nil || found != int64(part.number) {
			return otherSchema(name, part.what, found, part.number, err)
		}
	}
	return nil
}

func otherSchema(name, what string, found int64, known int, err error) error {
	if err != nil {
		return err
	}
	return errs.New(errs.BackendUnavailable,
		"backend %s: the SQLite file has %s %d and this Prism knows %d; use the Prism that wrote it or a newer one", name, what, found, known)
}

// versionBlock is how many versions are reserved at once. Those that are not
// used when the file is closed are never used.
const versionBlock = 1 << 20

// sequence gives out the versions of a file, in memory, below a bound that the
// file knows. Only the writer's goroutine uses it.
type sequence struct {
	last  int64 // given out, by a transaction that may have failed
	bound int64 // reserved by a transaction that was committed
}

var (
	reservedVersions = query{"SELECT value FROM prism_schema WHERE name = 'versions'"}
	reserveVersions  = query{"UPDATE prism_schema SET value = ? WHERE name = 'versions'"}
)

func (s *sequence) load(l *link) (err error) {
	s.bound, err = l.number(&reservedVersions)
	s.last = s.bound
	return err
}

func (s *sequence) next() int64 {
	s.last++
	return s.last
}

// reserve belongs into every transaction, before its end. It returns the bound
// that holds when the transaction is committed.
func (s *sequence) reserve(l *link) (bound int64, err error) {
	if s.last <= s.bound {
		return s.bound, nil
	}
	bound = s.last + versionBlock
	_, err = l.run(&reserveVersions, bound)
	return bound, err
}
