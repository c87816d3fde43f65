package postgres

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// A writeJob is a part of one caller's operations.
type writeJob struct{ units []unit }

// flyWrites is one flight of the write lane.
func (s *kv) flyWrites(take func() []*order[*writeJob]) {
	err := error(errClosed)
	var ctx context.Context
	var pc *pgxpool.Conn
	if s.c.enter() {
		defer s.c.leave()
		var cancel context.CancelFunc
		ctx, cancel, pc, err = s.c.flight()
		defer cancel()
	}
	orders := take()
	defer func() {
		for _, o := range orders {
			close(o.done)
		}
	}()
	var units []*unit
	for _, o := range orders {
		for i := range o.job.units {
			if u := &o.job.units[i]; !u.done {
				units = append(units, u)
			}
		}
	}
	if err == nil {
		err = s.write(ctx, pc, slices.Clone(units))
	}
	for _, u := range units {
		if !u.done {
			u.finish(err)
		}
	}
}

// write carries the units out, in rounds of one pipeline each, and releases
// the connection. What it returns is the fate of those it could not send.
func (s *kv) write(ctx context.Context, pc *pgxpool.Conn, units []*unit) error {
	defer func() {
		if pc != nil {
			pc.Release()
		}
	}()
	fresh := true // one new connection is allowed, when the statements were outdated
	for len(units) > 0 {
		st, err := s.statements(ctx, pc.Conn())
		if err != nil {
			return s.c.failure(err, false)
		}
		if units = s.admit(ctx, pc.Conn(), units); len(units) == 0 {
			break
		}
		plans := s.plan(st, units)
		txs := make([]*transaction, len(plans))
		for i := range plans {
			txs[i] = plans[i].tx
		}
		fly(ctx, pc.Conn(), txs)
		outdated := false
		for _, p := range plans {
			outdated = s.settle(p, fresh) || outdated
		}
		units = slices.DeleteFunc(units, func(u *unit) bool { return u.done })
		if outdated && len(units) > 0 {
			fresh = false
			s.forgetTable()
			_ = pc.Conn().Close(ctx)
			pc.Release()
			if pc, err = s.c.acquire(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// admit answers the units that what is known of the server refuses, and
// returns the others.
func (s *kv) admit(ctx context.Context, pc *pgx.Conn, units []*unit) []*unit {
	if !s.space.layout.adopted() {
		return units
	}
	table := s.table.Load()
	for _, u := range units {
		if table != nil && u.op.Kind == driver.Put && u.tries == 0 {
			if err := table.checkValue(u.op.Value); err != nil {
				u.finish(err)
				continue
			}
		}
		if u.op.Once != nil {
			if err := s.c.ensureSchema(ctx, pc); err != nil {
				u.finish(s.c.failure(err, false))
			}
		}
	}
	return slices.DeleteFunc(units, func(u *unit) bool { return u.done })
}

// A plan is a transaction and the units that depend on it.
type plan struct {
	tx    *transaction
	units []*unit
}

// plan orders the units' next steps into transactions. Within one, rows are
// written in the order of their keys, so that transactions of any number of
// proxies never wait for each other in a circle.
func (s *kv) plan(st *statements, units []*unit) []plan {
	var puts, singles, asks []*unit
	var alone []plan
	for _, u := range units {
		u.got, u.seen, u.record = false, seen{}, nil
		switch {
		case u.ask:
			asks = append(asks, u)
		case u.alone:
			alone = append(alone, plan{&transaction{queries: s.steps(st, u)}, []*unit{u}})
		case u.act == actPut && u.op.Once == nil:
			puts = append(puts, u)
		default:
			singles = append(singles, u)
		}
	}
	plans := s.planPuts(st, puts)
	for _, group := range [][]*unit{singles, asks} {
		if len(group) == 0 {
			continue
		}
		slices.SortStableFunc(group, byKey)
		tx := &transaction{}
		for _, u := range group {
			tx.queries = append(tx.queries, s.steps(st, u)...)
		}
		plans = append(plans, plan{tx, group})
	}
	return append(plans, alone...)
}

func byKey(a, b *unit) int { return cmp.Compare(a.op.Key, b.op.Key) }

// planPuts puts all keys into one statement; a statement cannot write a row
// twice, so a key's second value goes into a second one, and so on.
func (s *kv) planPuts(st *statements, puts []*unit) []plan {
	slices.SortStableFunc(puts, byKey)
	var plans []plan
	for len(puts) > 0 {
		now, later := make([]*unit, 0, len(puts)), puts[:0]
		for _, u := range puts {
			if len(now) > 0 && now[len(now)-1].op.Key == u.op.Key {
				later = append(later, u)
				continue
			}
			now = append(now, u)
		}
		plans = append(plans, plan{&transaction{queries: []query{s.putMany(st, now)}}, now})
		puts = later
	}
	return plans
}

func (s *kv) putMany(st *statements, units []*unit) query {
	keys := make([]string, len(units))
	size := 0
	for i, u := range units {
		keys[i] = u.op.Key
		size += len(u.op.Value)
	}
	args := s.scope()
	args[pKeys] = textArray(keys)
	args[pValues] = arrayValue(oidBytea, len(units), size, func(to []byte, i int) []byte { return append(to, units[i].op.Value...) })
	args[pTTLs] = arrayValue(oidInt8, len(units), 8*len(units), func(to []byte, i int) []byte {
		return append(to, int8Value(units[i].op.TTL.Microseconds())...)
	})
	next := 0
	row := func(columns [][]byte) error {
		for next < len(units) && units[next].op.Key != string(columns[0]) {
			next++ // a trigger of an adopted table has kept this row out
		}
		if next == len(units) {
			return errors.New("the server answered a key that it was not given")
		}
		units[next].got = true
		units[next].result = driver.Result{Version: string(columns[1])}
		return nil
	}
	return query{st.puts, args, row}
}

// steps returns the queries of one unit's next step.
func (s *kv) steps(st *statements, u *unit) []query {
	args := s.scope()
	args[pKey], args[pValue] = []byte(u.op.Key), u.op.Value
	args[pTTL], args[pDelta] = int8Value(u.op.TTL.Microseconds()), int8Value(u.op.Delta)
	args[pHash], args[pSeq] = hashText(u.op.IfVersion), int8Value(sequenceNumber(u.op.IfVersion))
	if u.op.Once != nil {
		args[pToken], args[pDigest] = u.op.Once.Token[:], u.op.Once.Digest[:]
		args[pKeep] = int8Value(u.op.Once.TTL.Microseconds())
	}
	if u.ask {
		return u.questions(st, args)
	}
	done := query{st.single[u.act], args, u.took}
	if u.op.Once == nil {
		u.got = u.act == actDelete
		return []query{done}
	}
	done.stmt = st.once[u.act]
	return []query{{st.claim, args, nil}, done, {st.drop, args, nil}}
}

// sequenceNumber reads a version of the own layout; what is none matches no
// row.
func sequenceNumber(version string) int64 {
	n, err := strconv.ParseInt(version, 10, 64)
	if err != nil || strconv.FormatInt(n, 10) != version {
		return -1
	}
	return n
}

// settle turns the outcome of a transaction into the outcomes or the next
// steps of its units. It reports whether the statements were outdated, which
// is an outcome only if no other connection may be tried.
func (s *kv) settle(p plan, mayRetry bool) (outdated bool) {
	err := p.tx.err
	if err == nil {
		for _, u := range p.units {
			s.advance(u)
		}
		return false
	}
	if mayRetry && isOutdated(err) {
		return true
	}
	first := p.units[0]
	switch {
	case first.ask: // a read
		p.tx.sent = false
	case len(p.units) > 1 && apart(err), again(err) && first.retry():
		for _, u := range p.units {
			u.alone = true
		}
		return false
	}
	failed := s.c.failure(err, p.tx.sent)
	for _, u := range p.units {
		u.finish(failed)
	}
	return false
}

// advance decides how a unit goes on after its step has been committed.
func (s *kv) advance(u *unit) {
	switch {
	case u.ask:
		s.conclude(u)
	case u.got:
		u.finish(nil)
	case u.op.Once == nil && (u.act == actPut || u.act == actDelete):
		u.finish(errs.New(errs.Unsupported, "the table takes no such row; one of its triggers or rules keeps it out"))
	default:
		u.ask = true
	}
}

// hashText is a version as an adopted table's statements compare it. What is no
// text to the server would fail the statement; it is nobody's version.
func hashText(version string) []byte {
	if !utf8.ValidString(version) || strings.Contains(version, "\x00") {
		return []byte{}
	}
	return []byte(version)
}
