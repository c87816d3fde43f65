package sqlite

import (
	"crypto/sha256"
	sqldriver "database/sql/driver"
	"encoding/base64"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// adopted is a table that was there before Prism. Its rows have no version and
// no expiry: the version is a hash of the value, and a time to live is refused.
// A row whose key is no key of ours, such as a number, is not seen.
type adopted struct {
	layout
	shape atomic.Pointer[shape]

	loadRow, updateRow, insertRow, removeRow, scanRows, scanKeys query
}

// shape is what the two columns hold, as seen through one open file.
type shape struct {
	store               *store
	keyBytes, valueText bool
}

func newAdopted(l layout) *adopted {
	// The columns are qualified, as a quoted name that is no column would be
	// a text to SQLite.
	table, key, value := quote(l.Table)+" AS t", "t."+quote(l.Key), "t."+quote(l.Value)
	where := " WHERE " + key + " COLLATE BINARY = ?"
	scan := " FROM " + table + " WHERE " + key + " COLLATE BINARY >= ? AND " + key + " COLLATE BINARY < ?" +
		" AND typeof(" + key + ") = ? ORDER BY " + key + " COLLATE BINARY"
	content := "CAST(" + value + " AS BLOB)"
	return &adopted{
		layout:    l,
		loadRow:   query{"SELECT " + content + " FROM " + table + where},
		updateRow: query{"UPDATE " + table + " SET " + quote(l.Value) + " = ?" + where},
		insertRow: query{"INSERT INTO " + quote(l.Table) + " (" + quote(l.Key) + ", " + quote(l.Value) + ") VALUES (?, ?)"},
		removeRow: query{"DELETE FROM " + table + where},
		scanRows:  query{"SELECT " + key + ", " + content + scan},
		scanKeys:  query{"SELECT " + key + ", NULL" + scan},
	}
}

func (*adopted) versions() driver.VersionKind { return driver.ContentVersions }

// contentVersion hashes to 24 characters of base64, 144 bits.
func contentVersion(value []byte) string {
	sum := sha256.Sum256(value)
	return base64.RawURLEncoding.EncodeToString(sum[:18])
}

func (a *adopted) load(l *link, key string, _ want) (record, bool, error) {
	s, err := a.shapeFor(l)
	if err != nil {
		return record{}, false, err
	}
	cells, err := l.first(&a.loadRow, s.key(key))
	if err != nil || cells == nil {
		return record{}, false, a.doubt(err)
	}
	value, _ := cells[0].([]byte)
	return newContent(value), true, nil
}

func newContent(value []byte) record {
	return record{value: notNil(value), version: contentVersion(value)}
}

func (s *shape) key(key string) sqldriver.Value {
	if s.keyBytes {
		return []byte(key)
	}
	return key
}

// value stays text where the column is text, for the sake of its other readers.
func (s *shape) value(value []byte) sqldriver.Value {
	if s.valueText && utf8.Valid(value) {
		return string(value)
	}
	return notNil(value)
}

func (a *adopted) put(tx *transaction, key string, r record) (string, error) {
	s, err := a.shapeFor(tx.link)
	if err != nil {
		return "", err
	}
	changed, err := tx.run(&a.updateRow, s.value(r.value), s.key(key))
	if err == nil && changed == 0 {
		_, err = tx.run(&a.insertRow, s.key(key), s.value(r.value))
	}
	return contentVersion(r.value), a.doubt(err)
}

func (a *adopted) expire(*transaction, string, int64) (string, error) {
	return "", errNoExpiry
}

var errNoExpiry = errs.New(errs.Unsupported,
	"an adopted table has no place for a time to live; leave the ttl out, or use Prism's own layout").With("ability", "ttl")

func (a *adopted) remove(tx *transaction, key string) error {
	s, err := a.shapeFor(tx.link)
	if err != nil {
		return err
	}
	_, err = tx.run(&a.removeRow, s.key(key))
	return a.doubt(err)
}

func (a *adopted) scan(l *link, r scanRange, f func(string, record) bool) error {
	s, err := a.shapeFor(l)
	if err != nil {
		return err
	}
	q, kind := &a.scanRows, "text"
	if r.keysOnly {
		q = &a.scanKeys
	}
	if s.keyBytes {
		kind = "blob"
	}
	err = l.each(q, func(cells []sqldriver.Value) bool {
		key, ok := validKey(cells[0])
		if !ok {
			return true
		}
		if r.keysOnly {
			return f(key, record{})
		}
		value, _ := cells[1].([]byte)
		return f(key, newContent(value))
	}, s.key(r.from), s.key(r.below), kind)
	return a.doubt(err)
}

func validKey(cell sqldriver.Value) (key string, ok bool) {
	switch c := cell.(type) {
	case string:
		key = c
	case []byte:
		key = string(c)
	}
	return key, key != "" && len(key) <= driver.MaxKey && utf8.ValidString(key) && !strings.Contains(key, "\x00")
}

// shapeFor returns what is known of the columns, looking at them once for each
// open file.
func (a *adopted) shapeFor(l *link) (*shape, error) {
	if s := a.shape.Load(); s != nil && s.store == l.store {
		return s, nil
	}
	if err := a.examine(l); err != nil {
		return nil, err
	}
	if s := a.shape.Load(); s != nil {
		return s, nil
	}
	return nil, a.unfit("it is being changed; repeat the call")
}

// doubt forgets what is known of the columns if err says that it is not true any
// more.
func (a *adopted) doubt(err error) error {
	if code(err) != sqlite3.SQLITE_ERROR {
		return err
	}
	a.shape.Store(nil)
	return errs.Wrap(err, errs.BackendUnavailable, "adopted table %q: it was changed while it was in use; it is looked at again", a.Table)
}

var (
	tableKind   = query{"SELECT type FROM pragma_table_list WHERE schema = 'main' AND name = ? COLLATE NOCASE"}
	columnType  = query{"SELECT upper(type), hidden FROM pragma_table_xinfo(?) WHERE name = ? COLLATE NOCASE"}
	uniqueIndex = query{`SELECT count(*) FROM pragma_index_list(?) AS i WHERE i."unique" AND NOT i.partial
		AND (SELECT count(*) FROM pragma_index_xinfo(i.name) AS c WHERE c.key) = 1
		AND (SELECT count(*) FROM pragma_index_xinfo(i.name) AS c
			WHERE c.key AND c.name = ? COLLATE NOCASE AND c.coll = 'BINARY') = 1`}
)

// examine checks that the table is one that keeps what it is given.
func (a *adopted) examine(l *link) error {
	cells, err := l.first(&tableKind, a.Table)
	if err != nil {
		return err
	}
	if cells == nil || cells[0] != "table" {
		return a.unfit("the SQLite file has no such table; create it, or correct layout.table")
	}
	keyType, err := a.column(l, "layout.key", a.Key)
	if err != nil {
		return err
	}
	valueType, err := a.column(l, "layout.value", a.Value)
	if err != nil {
		return err
	}
	indexes, err := l.number(&uniqueIndex, a.Table, a.Key)
	if err != nil {
		return err
	}
	if indexes == 0 {
		return a.unfit("the column of layout.key alone has no unique index with collation BINARY; create one")
	}
	a.shape.Store(&shape{store: l.store, keyBytes: keyType == "BLOB", valueText: valueType == "TEXT"})
	return nil
}

// column returns TEXT, BLOB or "" for a column that keeps every value as it is.
// In the others SQLite makes a number of a text that looks like one.
func (a *adopted) column(l *link, path, name string) (string, error) {
	cells, err := l.first(&columnType, a.Table, name)
	if err != nil {
		return "", err
	}
	if cells == nil {
		return "", a.unfit("the table lacks the column of " + path + "; add it, or correct the name")
	}
	declared, _ := cells[0].(string)
	if hidden, _ := cells[1].(int64); hidden != 0 {
		return "", a.unfit("the column of " + path + " is computed; name one that can be written")
	}
	has := func(part string) bool { return strings.Contains(declared, part) }
	switch { // the order is that of SQLite's own rule
	case declared == "":
		return "", nil
	case has("INT"):
	case has("CHAR"), has("CLOB"), has("TEXT"):
		return "TEXT", nil
	case has("BLOB"):
		return "BLOB", nil
	}
	return "", a.unfit("the column of " + path + " is declared so that SQLite changes what looks like a number; it must be TEXT or BLOB")
}

func (a *adopted) unfit(why string) error {
	return errs.New(errs.BackendUnavailable, "adopted table %q: %s", a.Table, why)
}
