package wrap

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"
)

// holder is what a lock file says about who holds it.
const holder = "pid %d since %s"

// A HeldError says that a lock is somebody else's, and whose.
type HeldError struct{ By string }

// Error returns who holds the lock.
func (e *HeldError) Error() string { return "it is locked " + e.By }

// LockFile makes the caller the only one, in any process, until UnlockFile. The
// file is made if it is not there, and stays when it is not held: removing it
// would let two processes hold two files of one name. A lock that is held is a
// *HeldError, a file that cannot be opened an *os.PathError.
func LockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = &HeldError{heldBy(f)}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if err := f.Truncate(0); err == nil { // a full disk takes nothing from the lock
		fmt.Fprintf(f, holder+"\n", os.Getpid(), time.Now().UTC().Format(time.RFC3339))
	}
	return f, nil
}

// UnlockFile gives a lock back. Closing the file would not do: a process that is
// being started at this moment has a copy of it until it runs.
func UnlockFile(f *os.File) error {
	return errors.Join(f.Truncate(0), syscall.Flock(int(f.Fd()), syscall.LOCK_UN), f.Close())
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
