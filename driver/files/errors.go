package files

import (
	"errors"
	"io/fs"
	"syscall"

	"github.com/prismgw/prism/errs"
)

// explain gives an error of the file system its reason and advice. Nothing of
// what was asked has happened, unless the disk itself failed.
func (c *conn) explain(err error) error {
	var reason errs.Reason
	var own *errs.Error
	name := c.settings.name
	switch {
	case err == nil || errors.As(err, &reason):
		return err
	case errors.As(err, &own):
		return errs.New(own.Reason, "backend %s: %s", name, own.Text())
	case errors.Is(err, syscall.EIO):
		return errs.Wrap(err, errs.OutcomeUnknown, "backend %s: the disk failed; check it, and read before you repeat a write", name)
	case errors.Is(err, errDamaged):
		return errs.Wrap(err, errs.WrongType, "backend %s: the file of this object is not as it was put; restore it from a copy or delete the object", name)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return errs.Wrap(err, errs.ReadOnly, "backend %s: no space is left for the object; free some, and writes go on by themselves", name)
	case errors.Is(err, syscall.EFBIG):
		return errs.Wrap(err, errs.PayloadTooLarge, "backend %s: the object is larger than the file system takes", name)
	case errors.Is(err, syscall.EROFS), errors.Is(err, fs.ErrPermission):
		return errs.Wrap(err, errs.ReadOnly, "backend %s: the folder cannot be used; check owner, permissions and mount", name)
	case errors.Is(err, fs.ErrNotExist):
		return errs.Wrap(err, errs.BackendUnavailable, "backend %s: the folder, or the one above it, is not there; make it or mount its disk", name)
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return errs.Wrap(err, errs.BackendUnavailable, "backend %s: too many files are open; raise the limit of open files", name)
	}
	return errs.Wrap(err, errs.BackendUnavailable, "backend %s: the folder cannot be read or written; check the disk", name)
}

// unsure is explain for a name that was given or taken and could not be made
// durable.
func (c *conn) unsure(err error) error {
	if err == nil {
		return nil
	}
	return errs.Wrap(err, errs.OutcomeUnknown, "backend %s: the disk failed while the change was made durable; read before you repeat it, and check the disk", c.settings.name)
}
