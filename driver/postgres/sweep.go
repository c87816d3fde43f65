package postgres

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	sweepRows    = 1000 // of one DELETE
	sweepDeletes = 100  // of one round, so that a sweep never holds a connection for long
)

// startSweeping removes expired rows in the background until Close.
func (c *conn) startSweeping() {
	if !c.enter() {
		return
	}
	go func() {
		defer c.leave()
		timer := time.NewTimer(c.nextSweep())
		defer timer.Stop()
		for {
			select {
			case <-c.stop:
				return
			case <-timer.C:
			}
			more, err := c.sweep()
			if err != nil {
				c.cfg.Logger().Warn("expired rows could not be removed", slog.String("backend", c.name), slog.Any("error", err))
			}
			if more {
				timer.Reset(time.Second)
			} else {
				timer.Reset(c.nextSweep())
			}
		}
	}()
}

// nextSweep is the interval, give or take half, so that proxies that started
// together do not sweep together.
func (c *conn) nextSweep() time.Duration {
	every := time.Duration(c.opts.SweepInterval)
	return every/2 + rand.N(every)
}

// sweep removes what has expired, a small delete at a time, and reports whether
// more is left. Rows that somebody is writing are left for the next time.
func (c *conn) sweep() (more bool, err error) {
	ctx, cancel, pc, err := c.flight()
	defer cancel()
	if err != nil {
		return false, err
	}
	defer pc.Release()
	for _, t := range []struct {
		of            *tables
		table, column string
	}{
		{&c.kvTables, "prism_kv", "expires_at"},
		{&c.kvTables, "prism_once", "kept_until"},
		{&c.queueTables, "prism_queue_id", "kept_until"},
		{&c.logTables, "prism_log_id", "kept_until"},
		{&c.logTables, "prism_log_member", "until"},
	} {
		if !t.of.ready.Load() {
			continue
		}
		left, err := c.sweepTable(ctx, pc.Conn(), quote(c.opts.Schema)+"."+t.table, t.column)
		if err != nil {
			return false, c.failure(err, false)
		}
		more = more || left
	}
	return more, nil
}

func (c *conn) sweepTable(ctx context.Context, pc *pgx.Conn, table, column string) (more bool, err error) {
	text := fmt.Sprintf(`DELETE FROM %[1]s WHERE ctid = ANY (ARRAY(SELECT ctid FROM %[1]s WHERE %[2]s <= clock_timestamp() ORDER BY %[2]s LIMIT %[3]d FOR UPDATE SKIP LOCKED))`,
		table, column, sweepRows)
	for range sweepDeletes {
		select {
		case <-c.stop:
			return false, nil
		default:
		}
		results, err := pc.PgConn().Exec(ctx, text).ReadAll()
		if err != nil {
			return false, err
		}
		if results[0].CommandTag.RowsAffected() < sweepRows {
			return false, nil
		}
	}
	return true, nil
}
