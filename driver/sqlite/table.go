package sqlite

import (
	sqldriver "database/sql/driver"
	"strconv"

	"github.com/prismgw/prism/driver"
)

// table is where and how the entries of a space lie. Errors are SQLite's or
// have a reason. Nothing here knows of expiry but scan: a record that has
// expired is a record.
type table interface {
	versions() driver.VersionKind

	// load returns the record of key as far as want says, false if there is
	// none.
	load(l *link, key string, w want) (record, bool, error)

	// put writes the record and returns its version.
	put(tx *transaction, key string, r record) (version string, err error)

	// expire writes another expiry to a record that is there and returns
	// its new version.
	expire(tx *transaction, key string, expires int64) (version string, err error)

	remove(tx *transaction, key string) error

	// scan calls f for the records from key from on and below key below, in
	// the order of the keys' bytes, without those that have expired by now,
	// until f returns false.
	scan(l *link, r scanRange, f func(key string, r record) bool) error
}

// want says how much of a record is read.
type want int

const (
	everything want = iota
	numeral         // the value only if it is short enough for a number
	metadata        // no value
)

type record struct {
	value   []byte
	version string
	expires int64 // unix milliseconds; 0: never
}

func (r *record) expired(now int64) bool { return r.expires != 0 && r.expires <= now }

type scanRange struct {
	from, below string
	now         int64
	keysOnly    bool
}

// maxNumeral is the length of the longest text that Add takes.
const maxNumeral = 1 + 19

const nativeTable = "prism_kv"

const (
	nativeKey   = " FROM prism_kv WHERE namespace = ? AND pattern = ? AND key = ?"
	nativeRange = " FROM prism_kv INDEXED BY sqlite_autoindex_prism_kv_1" +
		" WHERE namespace = ? AND pattern = ? AND key >= ? AND key < ?" +
		" AND (expires_at IS NULL OR expires_at > ?) ORDER BY key"
)

// The first three columns of every SELECT are version, expires_at, value; the
// unary plus spares the library to look up the columns' declared types.
var (
	nativeLoad = [...]query{
		everything: {"SELECT +version, +expires_at, +value" + nativeKey},
		numeral:    {"SELECT +version, +expires_at, CASE WHEN length(value) <= 20 THEN value END" + nativeKey},
		metadata:   {"SELECT +version, +expires_at, NULL" + nativeKey},
	}
	nativeScan   = query{"SELECT +version, +expires_at, +value, +key" + nativeRange}
	nativeKeys   = query{"SELECT NULL, NULL, NULL, +key" + nativeRange}
	nativeRemove = query{"DELETE" + nativeKey}
	nativeExpire = query{"UPDATE prism_kv SET version = ?, expires_at = ? WHERE namespace = ? AND pattern = ? AND key = ?"}
	nativePut    = query{"INSERT INTO prism_kv (namespace, pattern, key, version, expires_at, value) VALUES (?, ?, ?, ?, ?, ?)" +
		" ON CONFLICT DO UPDATE SET version = excluded.version, expires_at = excluded.expires_at, value = excluded.value"}
)

// native is a space's part of prism_kv.
type native struct {
	namespace, pattern sqldriver.Value // boxed once
}

func newNative(s driver.Space) *native {
	return &native{namespace: s.Namespace, pattern: s.Pattern}
}

func (*native) versions() driver.VersionKind { return driver.WriteVersions }

func (n *native) load(l *link, key string, w want) (record, bool, error) {
	cells, err := l.first(&nativeLoad[w], n.namespace, n.pattern, key)
	if err != nil || cells == nil {
		return record{}, false, err
	}
	return newRecord(cells), true, nil
}

func newRecord(cells []sqldriver.Value) record {
	version, _ := cells[0].(int64)
	expires, _ := cells[1].(int64)
	value, _ := cells[2].([]byte)
	return record{value: notNil(value), version: strconv.FormatInt(version, 10), expires: expires}
}

// notNil tells an empty value from NULL, which the library reads alike.
func notNil(value []byte) []byte {
	if value == nil {
		return []byte{}
	}
	return value
}

func (n *native) put(tx *transaction, key string, r record) (string, error) {
	version := tx.store.versions.next()
	_, err := tx.run(&nativePut, n.namespace, n.pattern, key, version, expiry(r.expires), notNil(r.value))
	return strconv.FormatInt(version, 10), err
}

// expiry is NULL for never.
func expiry(expires int64) sqldriver.Value {
	if expires == 0 {
		return nil
	}
	return expires
}

func (n *native) expire(tx *transaction, key string, expires int64) (string, error) {
	version := tx.store.versions.next()
	_, err := tx.run(&nativeExpire, version, expires, n.namespace, n.pattern, key)
	return strconv.FormatInt(version, 10), err
}

func (n *native) remove(tx *transaction, key string) error {
	_, err := tx.run(&nativeRemove, n.namespace, n.pattern, key)
	return err
}

func (n *native) scan(l *link, r scanRange, f func(string, record) bool) error {
	q := &nativeScan
	if r.keysOnly {
		q = &nativeKeys
	}
	return l.each(q, func(cells []sqldriver.Value) bool {
		key, _ := cells[3].(string)
		if r.keysOnly {
			return f(key, record{})
		}
		return f(key, newRecord(cells))
	}, n.namespace, n.pattern, r.from, r.below, r.now)
}
