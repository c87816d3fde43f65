package files

import (
	"crypto/rand"
	"errors"
	"hash/maphash"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

// What is in a folder.
const (
	lockName   = "lock"       // stays when nobody holds it: removing it would let two processes hold one folder
	unfinished = "unfinished" // what is being put; swept by the next process
	spaces     = "spaces"     // a folder for each space, a file for each of its objects
)

// folders knows those of one Driver by their paths, for good: so whoever opens
// one again waits for those who are closing it.
type folders struct {
	mu    sync.Mutex // guards known
	known map[string]*folder
}

// take returns the folder of a path. Each take is ended by one release.
func (all *folders) take(path string) *folder {
	all.mu.Lock()
	defer all.mu.Unlock()
	f := all.known[path]
	if f == nil {
		f = &folder{path: path, spaces: make(map[string]*space), seed: maphash.MakeSeed()}
		all.known[path] = f
	}
	f.mu.Lock()
	f.users++
	f.mu.Unlock()
	return f
}

// folder is what the connections of one process to one folder share.
type folder struct {
	path string
	seed maphash.Seed

	mu    sync.RWMutex // guards what follows; held for reading by those who need the folder open
	lock  *os.File     // nil: not open
	users int

	names  sync.Mutex // guards spaces
	spaces map[string]*space
}

// stripes are the locks that keys share.
const stripes = 64

// space is what all connections share of one space.
type space struct {
	folder *folder
	name   string
	path   string

	// keys are locked while conditions are checked and the outcome gets its
	// name.
	keys [stripes]sync.Mutex

	// turn is shared by those who give and take names, and is held by one who
	// reads them all: some file systems would tell him of a file that is
	// replaced meanwhile twice, or not at all.
	turn sync.RWMutex

	made sync.Mutex // guards last
	last *os.File   // the lock of the folder under which the space's folder was made durable
}

func (f *folder) space(name string) *space {
	f.names.Lock()
	defer f.names.Unlock()
	s := f.spaces[name]
	if s == nil {
		s = &space{folder: f, name: name, path: filepath.Join(f.path, spaces, name)}
		f.spaces[name] = s
	}
	return s
}

// key locks a key until unlock.
func (s *space) key(name string) (unlock func()) {
	mu := &s.keys[maphash.String(s.folder.seed, name)%stripes]
	mu.Lock()
	return mu.Unlock
}

// enter opens the folder if it is not open, and keeps it so until leave.
func (f *folder) enter() (leave func(), err error) {
	for {
		f.mu.RLock()
		if f.lock != nil {
			return f.mu.RUnlock, nil
		}
		f.mu.RUnlock()
		if err := f.open(); err != nil {
			return nil, err
		}
	}
}

// open makes the folder what it has to be, locks it and sweeps it. That it is
// there is durable before the first object is.
func (f *folder) open() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.lock != nil:
		return nil
	case f.users == 0:
		return errClosed
	}
	if err := makeFolder(f.path); err != nil {
		return err
	}
	lock, err := lockFile(filepath.Join(f.path, lockName))
	if err != nil {
		return err
	}
	err = f.prepare()
	if err != nil {
		return errors.Join(err, wrap.UnlockFile(lock))
	}
	f.lock = lock
	return nil
}

// prepare removes what processes that died have left unfinished: whoever holds
// the lock is the only one who could still be at it.
func (f *folder) prepare() error {
	for _, name := range []string{unfinished, spaces} {
		if err := makeFolder(filepath.Join(f.path, name)); err != nil {
			return err
		}
	}
	left, err := os.ReadDir(filepath.Join(f.path, unfinished))
	for _, file := range left {
		err = errors.Join(err, os.Remove(filepath.Join(f.path, unfinished, file.Name())))
	}
	return err
}

// makeFolder makes a folder in one that is there, durably also if somebody else
// has made it just now.
func makeFolder(path string) error {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

func syncFolder(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// there fails if the lock file is not the one that is held: then nothing can be
// said of what is not found. The caller has entered.
func (f *folder) there() error {
	held, err := f.lock.Stat()
	if err != nil {
		return err
	}
	now, err := os.Stat(filepath.Join(f.path, lockName))
	if err != nil || !os.SameFile(held, now) {
		return errs.New(errs.BackendUnavailable, "the folder was removed or replaced while it was in use; the next look at its health opens it anew")
	}
	return nil
}

// shut gives the lock back when nobody needs the folder open.
func (f *folder) shut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lock != nil {
		_ = wrap.UnlockFile(f.lock) // there is nobody to tell
		f.lock = nil
	}
}

func (f *folder) release() {
	f.mu.Lock()
	f.users--
	last := f.users == 0
	f.mu.Unlock()
	if last {
		f.shut()
	}
}

// begin makes a file for what is being put. The caller has entered.
func (f *folder) begin() (*os.File, error) {
	name := filepath.Join(f.path, unfinished, strings.ToLower(rand.Text()))
	return os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

// make makes the space's folder, once for each time that the folder above is
// opened. The caller has entered.
func (s *space) make() error {
	s.made.Lock()
	defer s.made.Unlock()
	if s.last == s.folder.lock {
		return nil
	}
	if err := makeFolder(s.path); err != nil {
		return err
	}
	s.last = s.folder.lock
	return nil
}

// lockFile makes this process the only one until the returned file is unlocked.
func lockFile(path string) (*os.File, error) {
	f, err := wrap.LockFile(path)
	var held *wrap.HeldError
	if errors.As(err, &held) {
		return nil, errs.New(errs.BackendUnavailable, "the folder is open already (%s); one process opens it, and in that one backend", held.By)
	}
	return f, err
}
