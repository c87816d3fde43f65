// Package sqlite keeps keys, values, tasks and topics in one SQLite file: the embedded store
// that survives power loss and needs no server. Writes of all callers that come
// together share one transaction and one fsync; reads go beside them.
//
// One process at a time opens the file, which a lock file beside it sees to.
// Other programs may read it meanwhile, with the sqlite3 command for one, and
// may write to adopted tables as far as SQLite's own locks let them.
//
// Its url is "sqlite:path", where a relative path starts at the configuration's
// directory. Data that may be lost belongs into driver memory instead.
package sqlite

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/groups"
	"github.com/prismgw/prism/driver/wrap"
)

var acks = map[string]driver.Ack{
	syncFull: {
		Settings: "synchronous: full (default)", Process: true, OS: true,
		Why: "the write-ahead log is fsynced before a group of writes is answered; it holds as far as the disk honours fsync",
	},
	syncNormal: {
		Settings: "synchronous: normal", Process: true,
		Why: "writes are with the operating system when they are answered and fsynced only at checkpoints, so power loss takes the last of them and leaves the file sound",
	},
}

// Driver returns the technology. Connections that one returned Driver opened
// with the same path, synchronous, busy_timeout and readers share the file.
func Driver() driver.Driver {
	shared := &files{open: make(map[fileKey]*file), closing: make(map[string]<-chan struct{})}
	return driver.Driver{
		Name:    "sqlite",
		Summary: "one file, durable, without a server",
		Schemes: []string{"sqlite"},
		Acks:    []driver.Ack{acks[syncFull], acks[syncNormal]},
		Open: func(c driver.Config) (driver.Conn, error) {
			s, err := parse(&c)
			if err != nil {
				return nil, err
			}
			return shared.connect(s), nil
		},
	}
}

var (
	_ driver.Conn    = (*conn)(nil)
	_ driver.KV      = (*space)(nil)
	_ driver.Watcher = (*space)(nil)
)

// conn is one user of a file.
type conn struct {
	settings *settings
	files    *files
	file     *file
	closed   atomic.Bool
	ended    chan struct{} // closed by Close
	members  groups.Members

	mu      sync.Mutex // guards adopted
	adopted map[*adopted]struct{}
}

// Space returns Prism's own table, or the adopted one that the layout names.
func (c *conn) Space(s driver.Space) (driver.Backend, error) {
	sp := &space{conn: c, id: wrap.KeyPrefix(s), ack: acks[c.settings.synchronous]}
	queues := &queues{conn: c, namespace: s.Namespace, ack: sp.ack}
	log := &log{conn: c, namespace: s.Namespace, ack: sp.ack}
	if len(s.Layout) == 0 {
		sp.table = newNative(s)
		extent := driver.Extent{Container: c.settings.path + "#" + nativeTable, Prefix: sp.id}
		return driver.Backend{KV: sp, Watcher: sp, Log: log, Queue: queues, Extent: extent}, nil
	}
	l, err := parseLayout(s.Layout)
	if err != nil {
		return driver.Backend{}, err
	}
	a := c.file.adopt(l)
	c.remember(a)
	sp.table = a
	sp.id += l.String()
	// There is no Watcher: other programs write to the table as well, and
	// nobody tells of that.
	return driver.Backend{KV: sp, Log: log, Queue: queues, Extent: driver.Extent{Container: c.settings.path + "#" + l.folded()}}, nil
}

// remember lets Ping look at an adopted table.
func (c *conn) remember(a *adopted) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.adopted[a] = struct{}{}
}

func (c *conn) adoptions() []*adopted {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Keys(c.adopted))
}

// usable returns why an operation cannot begin, nil if it can.
func (c *conn) usable(ctx context.Context) error {
	if c.closed.Load() {
		return errClosed
	}
	return ended(ctx)
}

// Ping opens the file if it is not open, takes SQLite's write lock once, reads,
// and looks at every adopted table again.
func (c *conn) Ping(ctx context.Context) error {
	if err := c.usable(ctx); err != nil {
		return err
	}
	if err := c.file.writer.probe(ctx, true); err != nil {
		return err
	}
	_, err := read(ctx, c, func(l *link) (none struct{}, err error) { //nolint:contextcheck // see link
		if _, err := l.number(&schemaVersion); err != nil {
			return none, err
		}
		for _, a := range c.adoptions() {
			if err := a.examine(l); err != nil {
				return none, err
			}
		}
		return none, nil
	})
	return err
}

// Close ends the watches and the members of groups. The last connection of a file finishes the writes
// that are queued, moves the log into the file and closes it.
func (c *conn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	close(c.ended)
	c.file.watchers.end(c, errClosed)
	c.members.Close()
	c.files.release(c.file)
	return nil
}

// space is one space of a connection.
type space struct {
	conn  *conn
	id    string // no other space has it
	table table
	ack   driver.Ack
}

// Guarantees returns what the file promises.
func (s *space) Guarantees() driver.Guarantees {
	return driver.Guarantees{
		Version:     s.table.versions(),
		Clock:       driver.ProxyClock,
		OrderedScan: true,
		ScanCost:    driver.ScanPrefix,
		Idempotency: driver.IdempotencyAtomic,
		MaxValue:    s.conn.settings.maxValue,
		TTL:         s.table.versions() == driver.WriteVersions, // an adopted table has no place for it
		Ack:         s.ack,
	}
}

// String names the layout's columns without ambiguity.
func (l layout) String() string {
	text, err := json.Marshal(l)
	if err != nil { // three strings always can
		return ""
	}
	return string(text)
}
