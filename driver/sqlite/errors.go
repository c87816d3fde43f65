package sqlite

import (
	"context"
	"errors"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/prismgw/prism/errs"
)

// ended returns why ctx has ended, nil if it has not.
func ended(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return errs.ReasonOf(err)
	}
	return nil
}

// code returns SQLite's primary result code, 0 for errors of other origin.
func code(err error) int {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return 0
	}
	return e.Code() & 0xff
}

// A harm says how far the failure of one statement reaches.
type harm int

const (
	harmless harm = iota
	refused       // SQLite undid the statement, and the transaction goes on
	poisoned      // the transaction must be rolled back; it may succeed without this operation
	fatal         // the transaction failed for everybody in it
)

func harmOf(err error) harm {
	if err == nil || ours(err) {
		return harmless
	}
	switch code(err) {
	case sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_ERROR:
		return refused
	case sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED,
		sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_INTERRUPT:
		return fatal
	}
	return poisoned
}

// damaging reports whether closing the file and opening it again may help.
func damaging(err error) bool {
	switch code(err) {
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN,
		sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_READONLY:
		return true
	}
	return false
}

func busy(err error) bool {
	c := code(err)
	return c == sqlite3.SQLITE_BUSY || c == sqlite3.SQLITE_LOCKED
}

// ours reports whether err has a reason already.
func ours(err error) bool {
	var reason errs.Reason
	var e *errs.Error
	return errors.As(err, &reason) || errors.As(err, &e)
}

// explain gives an error of SQLite its reason and advice; nothing of it has
// happened. name is the backend's.
func explain(name string, err error) error {
	if err == nil || ours(err) {
		return err
	}
	switch code(err) {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return errs.Wrap(err, errs.BackendUnavailable, "backend %s: another program holds the lock of the SQLite file; end its transaction", name)
	case sqlite3.SQLITE_FULL:
		return errs.Wrap(err, errs.ReadOnly, "backend %s: no space is left for the SQLite file; free some, and writes go on by themselves", name)
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM:
		return errs.Wrap(err, errs.ReadOnly, "backend %s: the SQLite file or its folder cannot be written; check owner, permissions and mount", name)
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return errs.Wrap(err, errs.BackendUnavailable, "backend %s: the file is no sound SQLite file; move it away and restore it from a copy", name)
	case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL:
		return errs.Wrap(err, errs.BackendUnavailable, "backend %s: the SQLite file cannot be read or written; check the disk and the permissions", name)
	case sqlite3.SQLITE_NOMEM:
		return errs.Wrap(err, errs.BackendUnavailable, "backend %s: SQLite is out of memory", name)
	case sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH:
		return errs.Wrap(err, errs.InvalidField, "backend %s: a constraint or trigger of the adopted table refuses this row", name)
	case sqlite3.SQLITE_TOOBIG:
		return errs.Wrap(err, errs.PayloadTooLarge, "backend %s: the row is larger than SQLite takes", name)
	}
	return errs.Wrap(err, errs.Internal, "backend %s: SQLite refused a statement; the cause is in the log", name)
}

// explainCommit is explain for a commit, which a failing disk may yet have
// taken: SQLite finds a whole log entry when it opens the file the next time.
func explainCommit(name string, err error) error {
	if code(err) == sqlite3.SQLITE_IOERR {
		return errs.Wrap(err, errs.OutcomeUnknown, "backend %s: the disk failed while the write was made durable; read before you repeat it, and check the disk", name)
	}
	return explain(name, err)
}

// patience waits for a lock that another program holds. SQLite can only be
// asked again; its own waiting would not end with a context.
type patience struct {
	until time.Time
	pause time.Duration
}

const (
	firstPause = 500 * time.Microsecond
	lastPause  = 20 * time.Millisecond
)

func newPatience(d time.Duration) patience {
	return patience{until: time.Now().Add(d), pause: firstPause}
}

// again reports after a pause that it is worth asking once more; false when
// the time is over, ctx has ended or stop is closed.
func (p *patience) again(ctx context.Context, stop <-chan struct{}) bool {
	if !time.Now().Before(p.until) {
		return false
	}
	t := time.NewTimer(p.pause)
	defer t.Stop()
	p.pause = min(2*p.pause, lastPause)
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
	case <-stop:
	}
	return false
}
