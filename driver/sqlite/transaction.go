package sqlite

import (
	sqldriver "database/sql/driver"
	"errors"
	"strconv"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// transaction is the one that a group of operations shares.
type transaction struct {
	store  *store
	link   *link
	now    time.Time
	writes int // how many statements have changed rows
	heads  map[int64]*head
}

// run is link.run for what changes something.
func (tx *transaction) run(q *query, args ...sqldriver.Value) (int64, error) {
	changed, err := tx.link.run(q, args...)
	if changed > 0 {
		tx.writes++
	}
	return changed, err
}

// after returns the moment ttl from now in unix milliseconds, 0 for no ttl. An
// entry rather lives a part of a millisecond too long than too short.
func (tx *transaction) after(ttl time.Duration) int64 {
	if ttl == 0 {
		return 0
	}
	return tx.now.Add(ttl + time.Millisecond - 1).UnixMilli()
}

func moment(expires int64) time.Time {
	if expires == 0 {
		return time.Time{}
	}
	return time.UnixMilli(expires)
}

// execute carries out one operation in the group's transaction. An error of
// SQLite is returned as it is.
func (s *space) execute(tx *transaction, op *driver.Op) driver.Result {
	if op.Once == nil {
		return s.perform(tx, op)
	}
	res, done := s.recorded(tx, op.Once)
	if done {
		return res
	}
	if res = s.perform(tx, op); res.Err == nil {
		res.Err = s.record(tx, op.Once, &res)
	}
	return res
}

func (s *space) perform(tx *transaction, op *driver.Op) driver.Result {
	old, present, err := s.current(tx, op)
	if err != nil {
		return driver.Result{Err: err}
	}
	if err := checkConditions(op, &old, present); err != nil {
		return driver.Result{Err: err}
	}
	var res driver.Result
	switch op.Kind {
	case driver.Put:
		res.Version, res.Err = s.table.put(tx, op.Key, record{value: op.Value, expires: tx.after(op.TTL)})
	case driver.Delete:
		res.Err = s.table.remove(tx, op.Key)
	case driver.Add:
		res = s.add(tx, op, &old, present)
	case driver.Expire:
		if !present {
			return driver.Result{Err: errs.KeyNotFound}
		}
		expires := tx.after(op.TTL)
		res.Expires = moment(expires)
		res.Version, res.Err = s.table.expire(tx, op.Key, expires)
	}
	return res
}

// current reads what the operation's outcome depends on.
func (s *space) current(tx *transaction, op *driver.Op) (old record, present bool, err error) {
	w := metadata
	switch {
	case op.Kind == driver.Add:
		w = numeral
	case op.Kind != driver.Expire && op.IfVersion == "" && !op.IfAbsent:
		return record{}, false, nil
	}
	old, present, err = s.table.load(tx.link, op.Key, w)
	if old.expired(tx.now.UnixMilli()) {
		return record{}, false, err
	}
	return old, present, err
}

func checkConditions(op *driver.Op, old *record, present bool) error {
	switch {
	case op.IfVersion != "" && !present:
		return errs.VersionMismatch
	case op.IfVersion != "" && old.version != op.IfVersion:
		return (&errs.Error{Reason: errs.VersionMismatch}).With("current", old.version)
	case op.IfAbsent && op.Kind == driver.Put && present:
		return (&errs.Error{Reason: errs.AlreadyExists}).With("version", old.version)
	}
	return nil
}

func (s *space) add(tx *transaction, op *driver.Op, old *record, present bool) driver.Result {
	var n int64
	if present {
		var err error
		if n, err = parseNumber(old.value); err != nil {
			return driver.Result{Err: err}
		}
	}
	sum := n + op.Delta
	if (sum > n) != (op.Delta > 0) && op.Delta != 0 {
		return driver.Result{Err: errs.OutOfRange}
	}
	version, err := s.table.put(tx, op.Key, record{value: strconv.AppendInt(nil, sum, 10), expires: old.expires})
	return driver.Result{Version: version, Number: sum, Expires: moment(old.expires), Err: err}
}

// parseNumber reads -?[0-9]{1,19}.
func parseNumber(value []byte) (int64, error) {
	digits := value
	if len(digits) > 0 && digits[0] == '-' {
		digits = digits[1:]
	}
	if len(digits) == 0 || len(digits) > maxNumeral-1 {
		return 0, errs.NotANumber
	}
	for _, d := range digits {
		if d < '0' || d > '9' {
			return 0, errs.NotANumber
		}
	}
	n, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil { // with such digits only for being too large
		return 0, errs.OutOfRange
	}
	return n, nil
}

var (
	loadOnce = query{"SELECT expires_at, digest, version, number, until FROM prism_once WHERE space = ? AND token = ?"}
	saveOnce = query{"INSERT OR REPLACE INTO prism_once (space, token, digest, expires_at, version, number, until) VALUES (?, ?, ?, ?, ?, ?, ?)"}
)

// recorded returns the result of the operation that took effect under the
// token before, if there was one and it is not forgotten.
func (s *space) recorded(tx *transaction, once *driver.Once) (res driver.Result, done bool) {
	cells, err := tx.link.first(&loadOnce, s.id, once.Token[:])
	if err != nil {
		return driver.Result{Err: err}, true
	}
	if cells == nil {
		return driver.Result{}, false
	}
	if expires, _ := cells[0].(int64); expires <= tx.now.UnixMilli() {
		return driver.Result{}, false
	}
	if digest, _ := cells[1].([]byte); string(digest) != string(once.Digest[:]) {
		return driver.Result{Err: errs.IdempotencyMismatch}, true
	}
	res.Version, _ = cells[2].(string)
	res.Number, _ = cells[3].(int64)
	until, _ := cells[4].(int64)
	res.Expires = moment(until)
	res.Repeated = true
	return res, true
}

var errNoRecord = errors.New("the table of idempotency records is damaged")

func (s *space) record(tx *transaction, once *driver.Once, res *driver.Result) error {
	var until int64
	if !res.Expires.IsZero() {
		until = res.Expires.UnixMilli()
	}
	changed, err := tx.run(&saveOnce, s.id, once.Token[:], once.Digest[:], tx.after(once.TTL), res.Version, res.Number, until)
	if err == nil && changed == 0 {
		return errNoRecord
	}
	return err
}
