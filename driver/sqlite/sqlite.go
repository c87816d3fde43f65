// Package sqlite keeps keys and values in one SQLite file: the embedded store
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
	"sync"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
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

// Driver returns the technology.
func Driver() driver.Driver {
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
			return open(s), nil
		},
	}
}

var (
	_ driver.Conn    = (*conn)(nil)
	_ driver.KV      = (*space)(nil)
	_ driver.Watcher = (*space)(nil)
)

type conn struct {
	settings *settings
	writer   *writer
	watchers hub

	mu      sync.Mutex // guards adopted
	adopted map[layout]*adopted
}

func open(s *settings) *conn {
	c := &conn{settings: s, adopted: make(map[layout]*adopted)}
	c.writer = startWriter(s, &c.watchers)
	return c
}

// Space returns Prism's own table, or the adopted one that the layout names.
func (c *conn) Space(s driver.Space) (driver.Backend, error) {
	sp := &space{conn: c, id: wrap.KeyPrefix(s), ack: acks[c.settings.synchronous]}
	if len(s.Layout) == 0 {
		sp.table = newNative(s)
		extent := driver.Extent{Container: c.settings.path + "#" + nativeTable, Prefix: sp.id}
		return driver.Backend{KV: sp, Watcher: sp, Extent: extent}, nil
	}
	l, err := parseLayout(s.Layout)
	if err != nil {
		return driver.Backend{}, err
	}
	sp.table = c.adopt(l)
	sp.id += l.String()
	// There is no Watcher: other programs write to the table as well, and
	// nobody tells of that.
	return driver.Backend{KV: sp, Extent: driver.Extent{Container: c.settings.path + "#" + l.folded()}}, nil
}

// adopt returns the one adopted table of a layout, so that statements are
// prepared once however often the space is opened.
func (c *conn) adopt(l layout) *adopted {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.adopted[l]
	if a == nil {
		a = newAdopted(l)
		c.adopted[l] = a
	}
	return a
}

func (c *conn) adoptions() []*adopted {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]*adopted, 0, len(c.adopted))
	for _, a := range c.adopted {
		all = append(all, a)
	}
	return all
}

// Ping opens the file if it is not open, takes SQLite's write lock once, reads,
// and looks at every adopted table again.
func (c *conn) Ping(ctx context.Context) error {
	if err := c.writer.probe(ctx, true); err != nil {
		return err
	}
	_, err := read(ctx, c, func(l *link) (none struct{}, err error) {
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

// Close finishes the writes that are queued, moves the log into the file and
// closes it.
func (c *conn) Close() error {
	c.writer.close()
	c.watchers.close(errs.BackendUnavailable)
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
