package postgres

import (
	"log/slog"
	"math/rand/v2"
	"time"
)

const (
	retainRows  = 1000 // of one statement, about
	retainTurns = 100  // of one round, so that it never holds a connection for long
	retainEvery = 5 * time.Second

	// lookShare is how many times as long as a look at all topics took nothing
	// looks at them again.
	lookShare = 20
)

// startRetaining removes, until Close, the records that topics need not keep.
// Several processes take turns by a lock of the server.
func (c *conn) startRetaining() {
	if !c.enter() {
		return
	}
	go func() {
		defer c.leave()
		every := min(retainEvery, time.Duration(c.opts.SweepInterval))
		timer := time.NewTimer(every/2 + rand.N(every))
		defer timer.Stop()
		for {
			select {
			case <-c.stop:
				return
			case <-timer.C:
			}
			began := time.Now()
			if err := c.retain(); err != nil {
				c.cfg.Logger().Warn("records that need not be kept could not be removed", slog.String("backend", c.name), slog.Any("error", err))
			}
			timer.Reset(max(every/2+rand.N(every), lookShare*time.Since(began)))
		}
	}()
}

// retain removes records, a few at a time, until there is nothing to remove or
// it was long enough.
func (c *conn) retain() error {
	if !c.logTables.ready.Load() {
		return nil
	}
	ctx, cancel, pc, err := c.flight()
	defer cancel()
	if err != nil {
		return err
	}
	defer pc.Release()
	for _, st := range []*statement{c.logs.retain, c.logs.shrink, c.logs.orphan} {
		for removed, turn := int64(1), 0; removed > 0 && turn < retainTurns; turn++ {
			select {
			case <-c.stop:
				return nil
			default:
			}
			if err := c.run(ctx, pc.Conn(), &c.logTables, query{st, &values{}, readNumber(&removed)}); err != nil {
				return err
			}
		}
	}
	return nil
}
