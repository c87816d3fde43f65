// Package postgres is the driver for PostgreSQL 12 and newer: keys and values
// in the table prism_kv, or in a table that is already there, tasks in the table
// prism_queue, and records in the table prism_log_record, which the view prism_log
// shows with the names of their topics.
//
// Concurrent calls on one space share round trips and commits: while as many
// flights are under way as the space may have, further calls queue up and go
// together, reads as one query, writes as one pipeline of a few transactions.
// No call ever waits on a timer, and a caller whose context ends leaves
// without disturbing the others.
//
// Every condition is decided by the server in the statement that writes, so
// any number of proxies and other programs can share a database. Versions come
// from one sequence. PostgreSQL logs a sequence ahead of its use, so a server
// that crashed skips numbers and repeats none; only where acknowledged writes
// themselves can be lost (synchronous_commit=off, fsync=off, a failover to a
// standby that lagged) can the numbers they had be given out again.
//
// Positions of a partition have no gaps and become visible in order: an append
// takes the partition's advisory lock until it is committed, and the position
// after the last record's. There is no counter to write: a row that changes with
// each append would be slower than a lock, and grow with every one beside a long
// transaction; a sequence would leave gaps, so that nobody knew how many records
// wait or were deleted unread. Whoever deletes the last records of a partition by
// hand, or loses them as above, has their positions given again. A topic whose row
// in prism_log_topic is deleted is gone with its groups, and its records are
// removed.
//
// Connections are not made through PgBouncer in transaction mode: statements
// are prepared once per connection and settings are sent at its start.
package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/groups"
	"github.com/prismgw/prism/errs"
)

// Driver returns the driver "postgres".
func Driver() driver.Driver {
	return driver.Driver{
		Name:    "postgres",
		Summary: "PostgreSQL 12 or newer: one table, or tables that are already there",
		Schemes: []string{"postgres", "postgresql"},
		Acks:    acks(),
		Open:    open,
	}
}

// conn is one pool of connections to one database.
type conn struct {
	name   string // of the Backend document
	where  string // host:port/db
	opts   options
	assert asserts
	cfg    driver.Config

	pool *pgxpool.Pool
	own  *statements // of prism_kv

	tasks *queueStatements
	logs  *logStatements

	base   context.Context // ends when Close has waited long enough
	cancel context.CancelFunc
	stop   chan struct{} // closed by Close: background work ends

	kvTables    tables
	queueTables tables
	logTables   tables
	sweeping    sync.Once
	retaining   sync.Once
	wakes       *wakes // those who wait for tasks or records
	members     groups.Members

	mu      sync.Mutex // guards the fields below
	closing bool
	closed  bool
	running sync.WaitGroup // flights and background work
	spaces  map[spaceKey]*kv
	queues  map[string]*queues // by namespace
	topics  map[string]*log    // by namespace
}

// spaceKey is what makes two spaces the same.
type spaceKey struct {
	namespace, pattern string
	layout             layout
}

var errClosed = errs.New(errs.BackendUnavailable, "the connection to the backend is closed")

// closeGrace is how long Close lets operations under way finish.
const closeGrace = 2 * time.Second

func open(cfg driver.Config) (driver.Conn, error) {
	p, err := parse(&cfg)
	if err != nil {
		return nil, err
	}
	c := &conn{
		name: cfg.Name, where: p.where, opts: p.options, assert: p.asserts, cfg: cfg,
		stop: make(chan struct{}), spaces: map[spaceKey]*kv{}, queues: map[string]*queues{}, topics: map[string]*log{},
	}
	c.own = ownStatements(c.opts.Schema)
	c.kvTables.mark, c.kvTables.version, c.kvTables.ddl = "prism_schema", 1, kvTables
	c.queueTables.mark, c.queueTables.version, c.queueTables.ddl = "prism_queue_schema", 1, queueTables
	c.logTables.mark, c.logTables.version, c.logTables.ddl = "prism_log_schema", 1, logTables
	c.base, c.cancel = context.WithCancel(context.Background())
	c.wakes = newWakes(c)
	c.tasks = newQueueStatements(c.opts.Schema, c.wakes.channel)
	c.logs = newLogStatements(c.opts.Schema)
	p.pool.ConnConfig.DialFunc = dialing(c.base, p.pool.ConnConfig.DialFunc)
	c.pool, err = pgxpool.NewWithConfig(c.base, p.pool) // dials nobody: it keeps no minimum of connections
	if err != nil {
		return nil, errs.Wrap(err, errs.InvalidConfiguration, "backend %q cannot be opened", cfg.Name)
	}
	return c, nil
}

// Space returns the primitives over one space.
func (c *conn) Space(s driver.Space) (driver.Backend, error) {
	l, err := parseLayout(s.Layout, c.opts.Schema)
	if err != nil {
		return driver.Backend{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	k := spaceKey{s.Namespace, s.Pattern, l}
	if c.spaces[k] == nil {
		c.spaces[k] = newKV(c, k)
	}
	if c.queues[s.Namespace] == nil {
		c.queues[s.Namespace] = newQueues(c, s.Namespace)
		c.topics[s.Namespace] = newLog(c, s.Namespace)
	}
	return driver.Backend{KV: c.spaces[k], Log: c.topics[s.Namespace], Queue: c.queues[s.Namespace], Extent: c.extent(k)}, nil
}

func (c *conn) extent(k spaceKey) driver.Extent {
	if k.layout.adopted() {
		return driver.Extent{Container: c.where + "/" + k.layout.Schema + "." + k.layout.Table}
	}
	return driver.Extent{
		Container: c.where + "/" + c.opts.Schema + ".prism_kv",
		Prefix:    k.namespace + "\x00" + k.pattern + "\x00",
	}
}

// enter counts the caller as work under way, which Close waits for until it
// ends c.base; leave says that it is over. It returns false if the connection
// is closed.
func (c *conn) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.running.Add(1)
	}
	return !c.closed
}

func (c *conn) leave() { c.running.Done() }

// flight returns the context of one flight, and a connection for it. The
// caller has entered.
func (c *conn) flight() (context.Context, context.CancelFunc, *pgxpool.Conn, error) {
	ctx, cancel := context.WithTimeout(c.base, c.flightTime())
	pc, err := c.acquire(ctx)
	return ctx, cancel, pc, err
}

// Close ends the connection; members leave their groups, and operations under
// way get a moment to finish.
func (c *conn) Close() error {
	c.mu.Lock()
	already := c.closing
	c.closing = true
	c.mu.Unlock()
	if already {
		return nil
	}
	c.members.Close()
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	close(c.stop)
	c.wakes.end()
	late := time.AfterFunc(closeGrace, c.cancel)
	c.running.Wait()
	late.Stop()
	c.pool.Close()
	c.cancel()
	return nil
}

// layouts returns one space per adopted table, and whether there is a space of
// Prism's own layout.
func (c *conn) layouts() (adopted []*kv, own bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	seen := map[layout]bool{}
	for k, s := range c.spaces {
		if !k.layout.adopted() {
			own = true
		} else if !seen[k.layout] {
			seen[k.layout] = true
			adopted = append(adopted, s)
		}
	}
	return adopted, own
}

// Ping asks whether the server answers and is what the configuration claims.
func (c *conn) Ping(ctx context.Context) error {
	err := c.ping(ctx)
	if err != nil && ctx.Err() != nil {
		return contextError(ctx)
	}
	return err
}

func (c *conn) ping(ctx context.Context) error {
	if !c.enter() {
		return errClosed
	}
	defer c.leave()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.base, cancel)() //nolint:contextcheck // Close ends it too
	pc, err := c.acquire(ctx)
	if err != nil {
		return err
	}
	defer pc.Release()
	if err := c.checkSettings(ctx, pc.Conn()); err != nil {
		return err
	}
	adopted, own := c.layouts()
	for _, s := range adopted {
		if _, err := s.describe(ctx, pc.Conn()); err != nil {
			return err
		}
	}
	if !own {
		return nil
	}
	return c.ensureSchema(ctx, pc.Conn())
}

// acquire takes a connection from the pool, a new one if need be.
func (c *conn) acquire(ctx context.Context) (*pgxpool.Conn, error) {
	pc, err := c.pool.Acquire(ctx)
	if err == nil {
		return pc, nil
	}
	if c.base.Err() != nil {
		return nil, errClosed
	}
	return nil, c.connectFailure(err)
}

// flightTime bounds what one flight may take: a connection, the statements and
// a little more than the server's own limit for them.
func (c *conn) flightTime() time.Duration {
	return time.Duration(c.opts.ConnectTimeout) + time.Duration(c.opts.StatementTimeout) + 2*time.Second
}

// contextError is the error for a caller whose context has ended.
func contextError(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return errs.Deadline
	}
	return errs.Cancelled
}

// mistakes collects every violation of one document.
type mistakes []errs.Field

func (m *mistakes) add(path, text string) { *m = append(*m, errs.Field{Path: path, Text: text}) }

func (m *mistakes) decode(path string, raw json.RawMessage, into any) {
	if err := driver.DecodeStrict(raw, into); err != nil {
		m.add(path, err.Error())
	}
}

func (m mistakes) err() error {
	if len(m) == 0 {
		return nil
	}
	return errs.Invalid(m...)
}
