package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"modernc.org/sqlite"

	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

// Sizes of what SQLite keeps, in KiB of memory and in pages of 4 KiB of the
// log. A longer log makes writes cheaper, as a page that is written often is
// moved to the file less often, and starting after a crash slower.
const (
	writerCache = 16 << 10
	readerCache = 4 << 10
	checkpoint  = 4000
	logLimit    = 64 << 20 // bytes that a log keeps on disk after a burst
)

var errStoreClosed = errors.New("the store was closed")

// store is the open file: the lock, one link that writes and several that read.
type store struct {
	path    string // without symbolic links
	file    fs.FileInfo
	lock    *os.File
	locked  fs.FileInfo   // of lock
	writer  *link         // only the writer's goroutine uses it
	free    chan *link    // the links for reading that nobody uses
	readers int           // how many there are
	closed  chan struct{} // closed when no more reads may begin

	versions sequence
}

// openStore opens the file, makes it and its folder if they are not there,
// takes the lock and sees to the schema.
func openStore(c *settings) (*store, error) {
	s := &store{closed: make(chan struct{}), free: make(chan *link, c.readers)}
	err := s.open(c)
	if err == nil {
		return s, nil
	}
	if closed := s.close(); closed != nil {
		c.log.Warn("closing what could not be opened", "backend", c.name, "error", closed)
	}
	return nil, explain(c.name, err)
}

func (s *store) open(c *settings) (err error) {
	// As SQLite's usual builds on Linux do: what is durable is the same, and
	// a commit does not wait for the file's times. Elsewhere it stays off.
	_, _ = sqlite.Fdatasync(true)
	if s.path, err = prepareFolder(c.path); err != nil {
		return errs.Wrap(err, errs.BackendUnavailable, "backend %s: the folder of the SQLite file cannot be made or read; check the permissions", c.name)
	}
	if s.lock, err = lockFile(c.name, s.path); err != nil {
		return err
	}
	if s.locked, err = s.lock.Stat(); err != nil {
		return errs.Wrap(err, errs.BackendUnavailable, "backend %s: the lock file beside the SQLite file cannot be read; check the disk", c.name)
	}
	if s.file, err = makeFile(s.path); err != nil {
		return errs.Wrap(err, errs.BackendUnavailable, "backend %s: the SQLite file cannot be made or read; check the permissions of its folder", c.name)
	}
	if s.writer, err = newLink(s.path, s); err != nil {
		return err
	}
	if err := patiently(c, func() error { return s.writer.configure(c) }); err != nil {
		return err
	}
	if err := patiently(c, func() error { return s.writer.prepareSchema(c.name) }); err != nil {
		return err
	}
	if err := s.versions.load(s.writer); err != nil {
		return err
	}
	return s.openReaders(c)
}

func (s *store) openReaders(c *settings) error {
	for range c.readers {
		l, err := newLink(s.path, s)
		if err != nil {
			return err
		}
		s.readers++
		s.free <- l
		if err := l.script(fmt.Sprintf("PRAGMA query_only = 1; PRAGMA cache_size = -%d", readerCache)); err != nil {
			return err
		}
	}
	return nil
}

func patiently(c *settings, f func() error) error {
	wait := newPatience(c.busy)
	for {
		if err := f(); !busy(err) || !wait.again(context.Background(), nil) {
			return err
		}
	}
}

var journalMode = query{"PRAGMA journal_mode = WAL"}

// configure makes l the link that writes.
func (l *link) configure(c *settings) error {
	cells, err := l.first(&journalMode)
	if err != nil {
		return err
	}
	if len(cells) == 0 || cells[0] != "wal" {
		return errs.New(errs.BackendUnavailable, "backend %s: the SQLite file cannot have a write-ahead log here; keep it on a local disk", c.name)
	}
	return l.script(fmt.Sprintf(
		"PRAGMA synchronous = %s; PRAGMA cache_size = -%d; PRAGMA wal_autocheckpoint = %d; PRAGMA journal_size_limit = %d",
		strings.ToUpper(c.synchronous), writerCache, checkpoint, logLimit))
}

// prepareFolder makes the file's folder if it is not there and returns the
// file's path without symbolic links, under which the lock is unambiguous.
func prepareFolder(path string) (string, error) {
	dir := filepath.Dir(path)
	if err := makeFolder(dir); err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return real, err
	}
	dir, err = filepath.EvalSymlinks(dir)
	return filepath.Join(dir, filepath.Base(path)), err
}

// makeFolder is os.MkdirAll that survives power loss.
func makeFolder(dir string) error {
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	parent := filepath.Dir(dir)
	if parent == dir {
		return fs.ErrNotExist
	}
	if err := makeFolder(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncFolder(parent)
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// makeFile makes the file for its owner alone; SQLite gives the files beside it
// the same permissions. A file that is there is not opened, as closing it would
// end the locks that this process may hold on it.
func makeFile(path string) (fs.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		err = errors.Join(f.Close(), syncFolder(filepath.Dir(path)))
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.Stat(path)
}

// moved reports that the file or its lock file was removed or replaced while it
// was open, so that what is written would be lost, or others could write too.
func (s *store) moved() bool {
	return !isAt(s.path, s.file) || !isAt(s.path+lockSuffix, s.locked)
}

func isAt(path string, f fs.FileInfo) bool {
	now, err := os.Stat(path)
	return err == nil && os.SameFile(f, now)
}

// borrow returns a link for reading, which the caller gives back to free.
func (s *store) borrow(ctx context.Context) (*link, error) {
	select {
	case l := <-s.free:
		return l, nil
	default:
	}
	select {
	case l := <-s.free:
		return l, nil
	case <-s.closed:
		return nil, errStoreClosed
	case <-ctx.Done():
		return nil, ended(ctx)
	}
}

var truncateLog = query{"PRAGMA wal_checkpoint(TRUNCATE)"}

// close waits for the reads under way, moves the log into the file and frees
// everything.
func (s *store) close() error {
	close(s.closed)
	var all error
	for range s.readers {
		l := <-s.free
		all = errors.Join(all, l.close())
	}
	if s.writer != nil {
		if s.readers > 0 { // it was open
			_, err := s.writer.first(&truncateLog)
			all = errors.Join(all, err)
		}
		all = errors.Join(all, s.writer.close())
	}
	if s.lock != nil {
		all = errors.Join(all, wrap.UnlockFile(s.lock))
	}
	return all
}
