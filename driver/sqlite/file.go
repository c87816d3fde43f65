package sqlite

import (
	"sync"

	"github.com/prismgw/prism/driver/wrap"
)

// file is what the connections of one process to one SQLite file share, so that
// a configuration can be reloaded while the connections of the one before are
// still in use.
type file struct {
	key      fileKey
	writer   *writer
	watchers hub
	bell     wrap.Bell[queueName] // rings for tasks
	topics   topics
	users    int // guarded by files.mu

	mu      sync.Mutex // guards adopted
	adopted map[layout]*adopted
}

// fileKey is what connections must have in common to share a file. Those that
// differ in a setting meet at the lock file: the second one waits until the
// first is closed.
type fileKey struct {
	path string
	fileSettings
}

// files knows the open files by what can be shared.
type files struct {
	mu      sync.Mutex // guards what follows and every file's users
	open    map[fileKey]*file
	closing map[string]<-chan struct{} // by path: closed when the last release has ended
}

// take returns the file of these settings. Each take is ended by one release.
func (fs *files) take(s *settings) *file {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	key := fileKey{s.path, s.fileSettings}
	f := fs.open[key]
	if f == nil {
		f = &file{key: key, adopted: make(map[layout]*adopted)}
		f.writer = startWriter(s, &f.watchers, fs.closing[s.path])
		fs.open[key] = f
	}
	f.users++
	return f
}

// release closes the file after its last user.
func (fs *files) release(f *file) {
	fs.mu.Lock()
	f.users--
	last := f.users == 0
	if last {
		delete(fs.open, f.key)
		fs.closing[f.key.path] = f.writer.done
	}
	fs.mu.Unlock()
	if last {
		f.writer.close()
	}
}

// adopt returns the one adopted table of a layout, so that statements are
// prepared once however often the space is opened.
func (f *file) adopt(l layout) *adopted {
	f.mu.Lock()
	defer f.mu.Unlock()
	a := f.adopted[l]
	if a == nil {
		a = newAdopted(l)
		f.adopted[l] = a
	}
	return a
}

func (fs *files) connect(s *settings) *conn {
	return &conn{settings: s, files: fs, file: fs.take(s), ended: make(chan struct{}), adopted: make(map[*adopted]struct{})}
}
