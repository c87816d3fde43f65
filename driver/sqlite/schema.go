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

var (
	encoding      = query{"PRAGMA encoding"}
	schemaExists  = query{"SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'prism_schema'"}
	schemaVersion = query{"SELECT value FROM prism_schema WHERE name = 'schema'"}
	queueVersion  = query{"SELECT value FROM prism_schema WHERE name = 'queue'"}
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
		return l.script("BEGIN IMMEDIATE;" + fmt.Sprintf(createSchema+createQueues, schema, queueSchema) + "COMMIT")
	}
	if found, err := l.number(&schemaVersion); err != nil || found != schema {
		return otherSchema(name, "schema", found, schema, err)
	}
	found, err := l.number(&queueVersion)
	if err == nil && found == 0 {
		return l.script("BEGIN IMMEDIATE;" + fmt.Sprintf(createQueues, queueSchema) + "COMMIT")
	}
	if err != nil || found != queueSchema {
		return otherSchema(name, "schema of queues", found, queueSchema, err)
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
