package postgres

import (
	"slices"
	"strconv"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// maxTries bounds how often one operation is tried: each further try means
// that another writer came between its condition and the question why the
// condition failed.
const maxTries = 100

// A unit is one operation on its way.
type unit struct {
	op     driver.Op
	act    act
	result driver.Result
	done   bool

	alone bool // in a transaction of its own from now on
	ask   bool // the next step is to ask why nothing happened
	tries int

	got    bool // whether the statement of this step gave a row
	seen   seen
	record *record
}

// seen is what the question "why" found under the key.
type seen struct {
	present bool
	version string
	value   []byte // if it is short enough to be a number
}

// record is what is kept under the token of an operation.
type record struct {
	digest []byte
	result driver.Result
}

func (u *unit) finish(err error) {
	u.done = true
	if err != nil {
		u.result = driver.Result{Err: err}
	}
}

// newUnit copies an operation and refuses it if it can never be carried out.
func (s *kv) newUnit(op *driver.Op) unit {
	u := unit{op: *op}
	u.op.Value = append([]byte(nil), op.Value...)
	if op.Once != nil {
		once := *op.Once
		u.op.Once = &once
	}
	err := s.check(&u.op)
	if err != nil {
		u.finish(err)
		return u
	}
	switch op.Kind {
	case driver.Put:
		u.act = choose(op, actPut, actPutIf)
		if op.IfAbsent {
			u.act = actPutAbsent
		}
	case driver.Delete:
		u.act = choose(op, actDelete, actDeleteIf)
	case driver.Add:
		u.act = choose(op, actAdd, actAddIf)
	case driver.Expire:
		u.act = choose(op, actExpire, actExpireIf)
	}
	return u
}

func choose(op *driver.Op, plain, conditional act) act {
	if op.IfVersion != "" {
		return conditional
	}
	return plain
}

func (s *kv) check(op *driver.Op) error {
	if err := checkKey(op.Key); err != nil {
		return err
	}
	switch {
	case op.Kind < driver.Put || op.Kind > driver.Expire:
		return errs.Invalid(errs.Field{Path: "kind", Text: "is no kind of operation"})
	case op.IfAbsent && (op.IfVersion != "" || op.Kind != driver.Put):
		return errs.Invalid(errs.Field{Path: "if_absent", Text: "goes with a put alone and with no if_version"})
	case len(op.Value) > maxValue:
		return errs.TooLarge("value", len(op.Value), maxValue)
	case op.TTL != 0 && (op.TTL < driver.MinTTL || op.TTL > driver.MaxTTL), op.Kind == driver.Expire && op.TTL == 0:
		return errs.Invalid(errs.Field{Path: "ttl", Text: "must be 1ms to 10 years"})
	}
	if s.space.layout.adopted() {
		return s.checkAdopted(op)
	}
	return nil
}

// took notes the row (version, number, expires_at) of an operation that took
// effect.
func (u *unit) took(columns [][]byte) error {
	u.got = true
	var err error
	u.result, err = u.answer(columns[0], columns[1], columns[2])
	return err
}

// answer returns what this kind of operation answers.
func (u *unit) answer(version, number, expires []byte) (driver.Result, error) {
	r := driver.Result{Version: string(version)}
	if u.op.Kind == driver.Put || u.op.Kind == driver.Delete {
		return r, nil
	}
	var err error
	if number != nil {
		if r.Number, err = readInt8(number); err != nil {
			return r, err
		}
	}
	r.Expires, err = readTime(expires)
	return r, err
}

// questions asks what is recorded under the token, then what is there under
// the key.
func (u *unit) questions(st *statements, args *values) []query {
	look := query{st.look, args, func(columns [][]byte) error {
		u.seen = seen{present: true, version: string(columns[0]), value: append([]byte(nil), columns[1]...)}
		return nil
	}}
	if u.op.Once == nil {
		return []query{look}
	}
	recall := query{st.recall, args, func(columns [][]byte) error {
		u.record = &record{digest: append([]byte(nil), columns[0]...)}
		var err error
		u.record.result, err = u.answer(columns[1], columns[2], columns[3])
		u.record.result.Repeated = true
		return err
	}}
	return []query{recall, look}
}

// retry counts a further try and reports whether there may be one.
func (u *unit) retry() bool {
	u.tries++
	return u.tries < maxTries
}

// conclude answers an operation that did nothing, or lets it try again if
// what kept it from happening is gone.
func (s *kv) conclude(u *unit) {
	u.ask = false
	if r := u.record; r != nil {
		if string(r.digest) != string(u.op.Once.Digest[:]) {
			u.finish(errs.IdempotencyMismatch)
			return
		}
		u.result = r.result
		u.finish(nil)
		return
	}
	if err := u.why(); err != nil {
		u.finish(err)
		return
	}
	if !u.retry() {
		u.finish(errs.New(errs.BackendUnavailable, "other writers of this key came first too often; nothing was changed"))
		return
	}
	u.alone = true
}

// why returns the reason that nothing happened, nil if it is gone.
func (u *unit) why() error {
	here := u.seen
	if u.op.IfVersion != "" && (!here.present || here.version != u.op.IfVersion) {
		e := errs.New(errs.VersionMismatch, "")
		if here.present {
			e = e.With("current", here.version)
		}
		return e
	}
	switch {
	case u.act == actPutAbsent && here.present:
		return errs.New(errs.AlreadyExists, "").With("version", here.version)
	case u.act == actExpire && !here.present:
		return errs.KeyNotFound
	case u.op.Kind == driver.Add && here.present:
		return addError(here.value, u.op.Delta)
	}
	return nil
}

// addError returns why delta cannot be added to a value, nil if it can.
func addError(value []byte, delta int64) error {
	digits := value
	if len(digits) > 0 && digits[0] == '-' {
		digits = digits[1:]
	}
	if len(digits) == 0 || len(digits) > 19 || slices.ContainsFunc(digits, func(b byte) bool { return b < '0' || b > '9' }) {
		return errs.NotANumber
	}
	n, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil || delta > 0 && n+delta < n || delta < 0 && n+delta > n {
		return errs.OutOfRange
	}
	return nil
}
