package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"

	_ "modernc.org/sqlite" // the library under measurement, through database/sql
)

// newSQLite is the library used directly, in this process, with what one needs
// to write for it to be fast and durable: a write-ahead log that is flushed
// with each commit, one writer that commits together what has come meanwhile,
// and readers beside it.
func newSQLite(name string, b *bench) *contender {
	return &contender{name: name, data: name, open: func(ctx context.Context, w workload) (session, error) {
		s, err := openSQLite(ctx, filepath.Join(b.dir, "direct.db"))
		if err != nil {
			return session{}, err
		}
		all, val := keys(w.size), value(w.size)
		do := func(_, n int) error { return s.get(ctx, all[n%len(all)]) }
		if w.verb == store {
			do = func(_, n int) error { return s.put(ctx, all[n%len(all)], val) }
		}
		return session{do, s.close}, nil
	}}
}

const (
	groupLimit = 256 // writes in one commit
	readers    = 8
)

type directSQLite struct {
	db     *sql.DB
	read   *sql.Stmt
	writes chan *directWrite
	done   chan struct{} // closed when nothing more is written
}

type directWrite struct {
	key   string
	value []byte
	done  chan error
}

func openSQLite(ctx context.Context, path string) (*directSQLite, error) {
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(5000)&_txlock=immediate")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(readers + 1)
	db.SetMaxIdleConns(readers + 1)
	s := &directSQLite{db: db, writes: make(chan *directWrite, 2*groupLimit), done: make(chan struct{})}
	_, err = db.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS kv (key TEXT PRIMARY KEY, version INTEGER NOT NULL, value BLOB NOT NULL) STRICT")
	if err == nil {
		s.read, err = db.PrepareContext(ctx, "SELECT value, version FROM kv WHERE key = ?")
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	go s.write(ctx)
	return s, nil
}

func (s *directSQLite) close() {
	close(s.writes)
	<-s.done
	_ = s.read.Close()
	_ = s.db.Close()
}

func (s *directSQLite) get(ctx context.Context, key string) error {
	var v []byte
	var version int64
	return s.read.QueryRowContext(ctx, key).Scan(&v, &version)
}

func (s *directSQLite) put(ctx context.Context, key string, v []byte) error {
	w := &directWrite{key, v, make(chan error, 1)}
	select {
	case s.writes <- w:
		return <-w.done
	case <-ctx.Done():
		return ctx.Err()
	}
}

// write commits together what has queued up.
func (s *directSQLite) write(ctx context.Context) {
	defer close(s.done)
	insert, err := s.db.PrepareContext(ctx, `INSERT INTO kv (key, version, value) VALUES (?1, 1, ?2)
		ON CONFLICT (key) DO UPDATE SET version = version + 1, value = ?2 RETURNING version`)
	if err == nil {
		defer insert.Close() //nolint:errcheck // nothing is lost with it
	}
	for first := range s.writes {
		group := []*directWrite{first}
		for len(group) < groupLimit && len(s.writes) > 0 {
			group = append(group, <-s.writes)
		}
		failed := err
		if failed == nil {
			failed = s.commit(ctx, insert, group)
		}
		for _, w := range group {
			w.done <- failed
		}
	}
}

func (s *directSQLite) commit(ctx context.Context, insert *sql.Stmt, group []*directWrite) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	stmt := tx.StmtContext(ctx, insert) //nolint:sqlclosecheck // the transaction's end closes it
	for _, w := range group {
		var version int64
		if err := stmt.QueryRowContext(ctx, w.key, w.value).Scan(&version); err != nil {
			return errors.Join(fmt.Errorf("insert: %w", err), tx.Rollback())
		}
	}
	return tx.Commit()
}
