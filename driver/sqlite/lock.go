package sqlite

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/prismgw/prism/errs"
)

// lockSuffix is that of the lock file, which stays when it is not held:
// removing it would let two processes hold two files of one name.
const lockSuffix = ".lock"

// holder is what a lock file says about who holds it.
const holder = "pid %d since %s"

// lockFile makes this connection the only one, in any process, until the
// returned file is unlocked. SQLite's exclusive mode would do so too, and keep
// out those who only want to read.
func lockFile(name, path string) (*os.File, error) {
	f, err := os.OpenFile(path+lockSuffix, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, errs.Wrap(err, errs.BackendUnavailable, "backend %s: the lock file beside the SQLite file cannot be opened; check the permissions of the folder", name)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = fmt.Fprintf(f, holder+"\n", os.Getpid(), time.Now().UTC().Format(time.RFC3339))
	}
	if err == nil || errors.Is(err, syscall.ENOSPC) { // it is locked all the same
		return f, nil
	}
	defer f.Close() //nolint:errcheck // it holds nothing
	if !errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, errs.Wrap(err, errs.BackendUnavailable, "backend %s: the lock file beside the SQLite file cannot be locked; keep the file on a local disk", name)
	}
	return nil, errs.New(errs.BackendUnavailable,
		"backend %s: the SQLite file is open already (%s); one process opens it, and in that one backend", name, heldBy(f))
}

// heldBy returns who holds a lock that was not given.
func heldBy(f io.Reader) string {
	text, err := io.ReadAll(io.LimitReader(f, 100))
	said := strings.TrimSpace(string(text))
	var pid int
	var since string
	if _, bad := fmt.Sscanf(said, holder, &pid, &since); err != nil || bad != nil {
		return "by an unknown process"
	}
	if pid == os.Getpid() {
		return "by this process since " + since
	}
	return "by " + said
}

// unlock gives the lock back. Closing the file would not do: a process that is
// being started at this moment has a copy of it until it runs.
func unlock(f *os.File) error {
	return errors.Join(f.Truncate(0), syscall.Flock(int(f.Fd()), syscall.LOCK_UN), f.Close())
}
