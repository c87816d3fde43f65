package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// A readJob is what one caller wants to read.
type readJob struct {
	keys    []string
	results []driver.GetResult
}

// A slot is where the entry of a key goes.
type slot struct {
	key string
	to  *driver.GetResult
}

// flyReads is one flight of the read lane.
func (s *kv) flyReads(take func() []*order[*readJob]) {
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
	slots := s.slots(orders, err)
	if pc != nil {
		err = s.readThrough(ctx, pc, func(ctx context.Context, pc *pgx.Conn) error { return s.read(ctx, pc, slots) })
	}
	if err != nil {
		for _, sl := range slots {
			*sl.to = driver.GetResult{Err: err}
		}
	}
}

// slots returns the places of all results in the order of their keys, each
// set to absent; keys that cannot be asked for are answered.
func (s *kv) slots(orders []*order[*readJob], err error) []slot {
	absent := err
	if absent == nil {
		absent = errs.KeyNotFound
	}
	var slots []slot
	for _, o := range orders {
		for i, k := range o.job.keys {
			to := &o.job.results[i]
			if to.Err = checkKey(k); to.Err == nil {
				to.Err = absent
				slots = append(slots, slot{k, to})
			}
		}
	}
	slices.SortFunc(slots, func(a, b slot) int { return strings.Compare(a.key, b.key) })
	return slots
}

// readThrough runs a read, releases its connection, and repeats it once on
// another one if the connection was lost or its statements were outdated.
func (s *kv) readThrough(ctx context.Context, pc *pgxpool.Conn, read func(context.Context, *pgx.Conn) error) error {
	for again := true; ; again = false {
		err := read(ctx, pc.Conn())
		outdated := isOutdated(err)
		if outdated {
			s.forgetTable()
			_ = pc.Conn().Close(ctx) // its prepared statements are of no use any more
		}
		gone := pc.Conn().IsClosed()
		pc.Release()
		if err == nil {
			return nil
		}
		if !again || !gone || ctx.Err() != nil {
			return s.c.failure(err, false)
		}
		if pc, err = s.c.acquire(ctx); err != nil {
			return err
		}
	}
}

// isOutdated reports whether a statement no longer fits its table.
func isOutdated(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return false
	}
	switch pg.Code {
	case "0A000", "26000", "42P01", "42703", "42804", "42883":
		return true
	}
	return false
}

// read asks for all keys in one query.
func (s *kv) read(ctx context.Context, pc *pgx.Conn, slots []slot) error {
	if len(slots) == 0 {
		return nil
	}
	st, err := s.statements(ctx, pc)
	if err != nil {
		return err
	}
	keys := make([]string, 0, len(slots))
	for i, sl := range slots {
		if i == 0 || sl.key != slots[i-1].key {
			keys = append(keys, sl.key)
		}
		*sl.to = driver.GetResult{Err: errs.KeyNotFound} // a repeat begins anew
	}
	args := s.scope()
	args[pKeys] = textArray(keys)
	tx := &transaction{queries: []query{{st.get, args, func(columns [][]byte) error { return fill(slots, columns) }}}}
	fly(ctx, pc, []*transaction{tx})
	return tx.err
}

// fill puts a row into every slot of its key.
func fill(slots []slot, columns [][]byte) error {
	key := string(columns[0])
	at, _ := slices.BinarySearchFunc(slots, key, func(sl slot, k string) int { return strings.Compare(sl.key, k) })
	for ; at < len(slots) && slots[at].key == key; at++ {
		e, err := entry(columns)
		*slots[at].to = driver.GetResult{Entry: e, Err: err}
		if err != nil {
			return err
		}
	}
	return nil
}

// entry reads the columns (key, value, version, expires_at). Where there is no
// version it is the hash of the value.
func entry(columns [][]byte) (driver.Entry, error) {
	e := driver.Entry{Value: append([]byte{}, columns[1]...)}
	if columns[2] == nil {
		e.Version = contentVersion(e.Value)
		return e, nil
	}
	n, err := readInt8(columns[2])
	if err != nil {
		return driver.Entry{}, err
	}
	e.Version = strconv.FormatInt(n, 10)
	e.Expires, err = readTime(columns[3])
	return e, err
}

// contentVersion is what hashSQL computes in the server.
func contentVersion(value []byte) string {
	sum := sha256.Sum256(value)
	return hex.EncodeToString(sum[:16])
}
