// Package files keeps objects as files of a local folder: the store of large
// objects that survives power loss and needs no server. Each object is a file
// of its own, named so that people know it again, with a line behind its bytes
// that says what it is. It has no keys and values; driver sqlite does.
//
// One process at a time uses the folder, which a lock file in it sees to.
// Others may read and copy the files at any time: a file has its name only
// when it is whole. Keep the folder on a local disk; the lock means nothing on
// most network file systems.
//
// Its url is "file:path", where a relative path starts at the configuration's
// directory. The folder is made if it is not there, the one above it is not, so
// that a disk that is not mounted is noticed.
package files

import (
	"cmp"
	"context"
	"sync"
	"sync/atomic"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// The values of option sync.
const (
	syncAlways = "always"
	syncNever  = "never"
)

var acks = map[string]driver.Ack{
	syncAlways: {
		Settings: "sync: always (default)", Process: true, OS: true,
		Why: "the file and the folder that names it are fsynced before an object is answered; it holds as far as the disk honours fsync",
	},
	syncNever: {
		Settings: "sync: never", Process: true,
		Why: "objects are with the operating system when they are answered, so power loss takes the last of them, and those that it leaves in part are reported as damaged",
	},
}

// Driver returns the technology. Connections that one returned Driver opened
// with the same path share the folder.
func Driver() driver.Driver {
	shared := &folders{known: make(map[string]*folder)}
	return driver.Driver{
		Name:    "files",
		Summary: "a local folder, an object a file, durable, without a server",
		Schemes: []string{"file"},
		Acks:    []driver.Ack{acks[syncAlways], acks[syncNever]},
		Open: func(c driver.Config) (driver.Conn, error) {
			s, err := parse(&c)
			if err != nil {
				return nil, err
			}
			return &conn{settings: s, folder: shared.take(s.path), bodies: make(map[*body]struct{})}, nil
		},
	}
}

var (
	_ driver.Conn = (*conn)(nil)
	_ driver.Blob = (*blob)(nil)
)

var errClosed = errs.New(errs.BackendUnavailable, "the connection is closed")

// conn is one user of a folder.
type conn struct {
	settings *settings
	folder   *folder
	closed   atomic.Bool

	mu     sync.Mutex         // guards bodies
	bodies map[*body]struct{} // those to close on Close
}

// Space returns the objects of a space. There are no layouts but its own.
func (c *conn) Space(s driver.Space) (driver.Backend, error) {
	if len(s.Layout) > 0 {
		return driver.Backend{}, errs.Invalid(errs.Field{
			Path: "layout", Text: "files that were there before cannot be adopted; leave it out",
		})
	}
	name := spaceName(s)
	return driver.Backend{
		Blob:   &blob{conn: c, files: c.folder.space(name)},
		Extent: driver.Extent{Container: c.settings.path, Prefix: name + "/"},
	}, nil
}

// usable returns why a call cannot go on, nil if it can.
func (c *conn) usable(ctx context.Context) error {
	if c.closed.Load() {
		return errClosed
	}
	if err := ctx.Err(); err != nil {
		return errs.ReasonOf(err)
	}
	return nil
}

// enter is usable for calls that need the folder until leave.
func (c *conn) enter(ctx context.Context) (leave func(), err error) {
	if err := c.usable(ctx); err != nil {
		return nil, err
	}
	leave, err = c.folder.enter()
	if err != nil {
		return nil, c.explain(err)
	}
	if err := c.usable(ctx); err != nil { // the folder stays open only for those that are
		leave()
		return nil, err
	}
	return leave, nil
}

// Ping opens the folder if it is not open, and anew if it is no longer there.
func (c *conn) Ping(ctx context.Context) error {
	leave, err := c.enter(ctx)
	if err != nil {
		return err
	}
	err = c.folder.there()
	leave()
	if err == nil {
		return nil
	}
	c.folder.shut()
	leave, err = c.enter(ctx)
	if err == nil {
		leave()
	}
	return err
}

// Close ends what is being read. Puts under way fail; the last connection of a
// folder gives its lock back.
func (c *conn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	c.mu.Lock()
	bodies := c.bodies
	c.bodies = nil
	c.mu.Unlock()
	var failed error
	for b := range bodies {
		failed = cmp.Or(failed, b.file.Close())
	}
	c.folder.release()
	return failed
}

// adopt registers a body to be closed with the connection, unless that has
// happened.
func (c *conn) adopt(b *body) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bodies == nil {
		return false
	}
	c.bodies[b] = struct{}{}
	return true
}

// forget reports whether the body was still to be closed.
func (c *conn) forget(b *body) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, open := c.bodies[b]
	delete(c.bodies, b)
	return open
}
