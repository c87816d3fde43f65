package sqlite

import (
	"errors"
	"os"

	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

const lockSuffix = ".lock"

// lockFile makes this connection the only one, in any process, until the
// returned file is unlocked. SQLite's exclusive mode would do so too, and keep
// out those who only want to read.
func lockFile(name, path string) (*os.File, error) {
	f, err := wrap.LockFile(path + lockSuffix)
	var held *wrap.HeldError
	var unopened *os.PathError
	switch {
	case err == nil:
		return f, nil
	case errors.As(err, &held):
		return nil, errs.New(errs.BackendUnavailable,
			"backend %s: the SQLite file is open already (%s); one process opens it, and in that one backend", name, held.By)
	case errors.As(err, &unopened):
		return nil, errs.Wrap(err, errs.BackendUnavailable, "backend %s: the lock file beside the SQLite file cannot be opened; check the permissions of the folder", name)
	}
	return nil, errs.Wrap(err, errs.BackendUnavailable, "backend %s: the lock file beside the SQLite file cannot be locked; keep the file on a local disk", name)
}
