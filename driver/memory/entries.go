package memory

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

func (s *space) get(key string) (driver.Entry, error) {
	sh := s.shard(key)
	sh.mu.RLock()
	e := sh.entries[key]
	if e == nil {
		sh.mu.RUnlock()
		return driver.Entry{}, errs.KeyNotFound
	}
	value, version, at := e.value, e.version, e.at
	sh.mu.RUnlock()
	if at != 0 && at <= s.now().UnixNano() {
		return driver.Entry{}, errs.KeyNotFound
	}
	return driver.Entry{Value: clone(value), Version: version, Expires: expires(at)}, nil
}

// clone copies a value; one of no bytes is not nil.
func clone(value []byte) []byte {
	c := make([]byte, len(value))
	copy(c, value)
	return c
}

func expires(at int64) time.Time {
	if at == 0 {
		return time.Time{}
	}
	return time.Unix(0, at)
}

// apply carries out one operation and tells watchers what it changed.
func (s *space) apply(op *driver.Op, maxValue int) driver.Result {
	if (op.TTL > 0 || op.Once != nil) && !s.timed.Load() {
		s.timed.Store(true)
	}
	if op.Once != nil {
		return s.applyOnce(op, maxValue)
	}
	r := s.change(op, maxValue)
	if r.Err == nil {
		s.watchers.tell(op.Key)
	}
	return r
}

// change carries out one operation under the lock of its key.
func (s *space) change(op *driver.Op, maxValue int) driver.Result {
	if len(op.Value) > maxValue {
		return driver.Result{Err: errs.TooLarge("value", len(op.Value), maxValue)}
	}
	sh := s.shard(op.Key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	stored := sh.entries[op.Key]
	e := stored
	if e != nil && e.at != 0 && e.passed(s.now().UnixNano()) {
		e = nil
	}
	if err := check(op, e); err != nil {
		return driver.Result{Err: err}
	}
	switch op.Kind {
	case driver.Put:
		return s.put(sh, op, stored)
	case driver.Delete:
		s.remove(sh, stored)
		return driver.Result{}
	case driver.Add:
		return s.add(sh, op, stored, e)
	case driver.Expire:
		return s.expire(sh, op, e)
	}
	return driver.Result{Err: errs.New(errs.Internal, "operation kind %d does not exist", op.Kind)}
}

// check returns why op's condition does not hold for e, which is nil if the
// key is absent.
func check(op *driver.Op, e *entry) error {
	if op.IfAbsent && e != nil {
		return errs.New(errs.AlreadyExists, "").With("version", e.version)
	}
	switch {
	case op.IfVersion == "":
		return nil
	case e == nil:
		return errs.VersionMismatch
	case e.version != op.IfVersion:
		return errs.New(errs.VersionMismatch, "").With("current", e.version)
	}
	return nil
}

// put stores a value over stored, which may be nil or have expired.
func (s *space) put(sh *shard, op *driver.Op, stored *entry) driver.Result {
	e := stored
	if e == nil {
		e = s.insert(sh, op.Key)
	}
	e.value, e.version = clone(op.Value), s.nextVersion()
	at := int64(0)
	if op.TTL > 0 {
		at = s.now().Add(op.TTL).UnixNano()
	}
	sh.expiring.set(&e.deadline, at)
	return driver.Result{Version: e.version}
}

// insert makes an entry. The key is copied: it may be part of a request that
// would be kept in memory by it.
func (s *space) insert(sh *shard, key string) *entry {
	e := &entry{deadline: deadline[string]{key: strings.Clone(key)}}
	sh.entries[e.key] = e
	s.index.add(e.key)
	return e
}

func (s *space) remove(sh *shard, stored *entry) {
	if stored == nil {
		return
	}
	sh.expiring.set(&stored.deadline, 0)
	delete(sh.entries, stored.key)
	s.index.remove(stored.key)
}

// add adds to e, nil counting as 0. stored is e, or what e was before it
// expired.
func (s *space) add(sh *shard, op *driver.Op, stored, e *entry) driver.Result {
	sum := op.Delta
	if e != nil {
		n, err := parseNumber(e.value)
		if err != nil {
			return driver.Result{Err: err}
		}
		if op.Delta > 0 && n > math.MaxInt64-op.Delta || op.Delta < 0 && n < math.MinInt64-op.Delta {
			return driver.Result{Err: errs.OutOfRange}
		}
		sum += n
	}
	if stored == nil {
		stored = s.insert(sh, op.Key)
	}
	if e == nil {
		sh.expiring.set(&stored.deadline, 0)
	}
	stored.value, stored.version = strconv.AppendInt(nil, sum, 10), s.nextVersion()
	return driver.Result{Version: stored.version, Number: sum, Expires: expires(stored.at)}
}

// parseNumber reads -?[0-9]{1,19}.
func parseNumber(value []byte) (int64, error) {
	digits := value
	if len(digits) > 0 && digits[0] == '-' {
		digits = digits[1:]
	}
	if len(digits) == 0 || len(digits) > 19 {
		return 0, errs.NotANumber
	}
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, errs.NotANumber
		}
	}
	n, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil {
		return 0, errs.OutOfRange
	}
	return n, nil
}

func (s *space) expire(sh *shard, op *driver.Op, e *entry) driver.Result {
	if e == nil {
		return driver.Result{Err: errs.KeyNotFound}
	}
	e.version = s.nextVersion()
	sh.expiring.set(&e.deadline, s.now().Add(op.TTL).UnixNano())
	return driver.Result{Version: e.version, Expires: expires(e.at)}
}
