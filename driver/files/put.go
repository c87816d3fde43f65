package files

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

// copySize is how much of an object is in memory.
const copySize = 256 << 10

// blob is one space seen through one connection.
type blob struct {
	conn  *conn
	files *space
}

// Guarantees returns what the folder promises.
func (b *blob) Guarantees() driver.BlobGuarantees {
	return driver.BlobGuarantees{
		Version:     driver.WriteVersions,
		Conditional: true,
		ListCost:    driver.ScanKeyspace,
		MaxObject:   b.conn.settings.maxObject,
		Ack:         acks[b.conn.settings.sync],
	}
}

// Put writes a file beside the others and gives it its name when it is whole.
func (b *blob) Put(ctx context.Context, key string, r io.Reader, o driver.PutOptions) (driver.Object, error) {
	if err := cmp.Or(b.conn.usable(ctx), wrap.CheckPut(&o, b.conn.settings.maxObject)); err != nil {
		return driver.Object{}, err
	}
	file, err := b.begin(ctx, key, &o)
	if err != nil {
		return driver.Object{}, err
	}
	defer os.Remove(file.Name()) //nolint:errcheck // it has another name by then, or the next process sweeps it
	defer file.Close()           //nolint:errcheck // finish looks at it; here it ends what was cut off
	made := &record{Key: key, Version: strings.ToLower(rand.Text()), Metadata: o.Metadata}
	if made.Size, err = b.copy(ctx, file, wrap.PutReader(ctx, r, o.Size, b.conn.settings.maxObject)); err != nil {
		return driver.Object{}, err
	}
	if err := b.finish(file, made); err != nil {
		return driver.Object{}, b.conn.explain(err)
	}
	if err := b.name(ctx, file.Name(), key, &o); err != nil {
		return driver.Object{}, err
	}
	return driver.Object{Key: key, Size: made.Size, Version: made.Version}, nil
}

// begin makes the file, unless a condition does not hold already.
func (b *blob) begin(ctx context.Context, key string, o *driver.PutOptions) (*os.File, error) {
	leave, err := b.conn.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := b.check(key, o); err != nil {
		return nil, err
	}
	file, err := b.files.folder.begin()
	return file, b.conn.explain(err)
}

// check returns why the conditions do not hold.
func (b *blob) check(key string, o *driver.PutOptions) error {
	if !o.IfAbsent && o.IfVersion == "" {
		return nil
	}
	there, err := b.stat(key)
	switch {
	case errors.Is(err, errs.ObjectNotFound):
		if o.IfAbsent {
			return nil
		}
		return errs.VersionMismatch
	case err != nil:
		return err
	case o.IfAbsent:
		return errs.New(errs.AlreadyExists, "the object exists already").With("version", there.Version)
	case there.Version != o.IfVersion:
		return mismatch(there.Version)
	}
	return nil
}

func mismatch(current string) error {
	return errs.New(errs.VersionMismatch, "the object does not have this version; read it again and decide anew").With("current", current)
}

// copy writes what r yields. An error of r stays as it is.
func (b *blob) copy(ctx context.Context, w io.Writer, r io.Reader) (size int64, err error) {
	buf := make([]byte, copySize)
	for {
		n, err := r.Read(buf)
		if _, failed := w.Write(buf[:n]); failed != nil {
			return 0, b.conn.explain(failed)
		}
		size += int64(n)
		switch {
		case err == io.EOF:
			return size, b.conn.usable(ctx)
		case err != nil:
			return 0, err
		}
		if err := b.conn.usable(ctx); err != nil {
			return 0, err
		}
	}
}

// finish writes what the file is, and makes it durable.
func (b *blob) finish(file *os.File, r *record) error {
	r.Modified = b.conn.settings.now().UTC()
	end, err := r.end()
	if err != nil {
		return err
	}
	if _, err := file.Write(end); err != nil {
		return err
	}
	if b.conn.settings.sync == syncAlways {
		if err := file.Sync(); err != nil {
			return err
		}
	}
	return file.Close() // some file systems notice only now that they are full
}

// name gives a whole file its name, if the conditions hold.
func (b *blob) name(ctx context.Context, from, key string, o *driver.PutOptions) error {
	leave, err := b.conn.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if err := b.files.make(); err != nil {
		return b.conn.explain(err)
	}
	to := objectName(key)
	defer b.files.key(to)()
	if err := b.check(key, o); err != nil {
		return err
	}
	b.files.turn.RLock()
	err = os.Rename(from, filepath.Join(b.files.path, to))
	b.files.turn.RUnlock()
	if err != nil {
		return b.conn.explain(err)
	}
	return b.conn.unsure(b.settle())
}

// settle makes the names of the space durable.
func (b *blob) settle() error {
	if b.conn.settings.sync != syncAlways {
		return nil
	}
	return syncFolder(b.files.path)
}

// Delete removes the files and makes it durable once for all of them, also
// where they were removed already: somebody may be about to.
func (b *blob) Delete(ctx context.Context, keys []string, results []error) {
	leave, err := b.conn.enter(ctx)
	if err != nil {
		for i := range results {
			results[i] = err
		}
		return
	}
	defer leave()
	for i, key := range keys {
		results[i] = b.remove(ctx, key)
	}
	err = b.settle()
	if err == nil || errors.Is(err, fs.ErrNotExist) { // nothing was ever put into the space
		return
	}
	for i := range results {
		if results[i] == nil {
			results[i] = b.conn.unsure(err)
		}
	}
}

func (b *blob) remove(ctx context.Context, key string) error {
	if err := b.conn.usable(ctx); err != nil {
		return err
	}
	name := objectName(key)
	defer b.files.key(name)()
	b.files.turn.RLock()
	err := os.Remove(filepath.Join(b.files.path, name))
	b.files.turn.RUnlock()
	if errors.Is(err, fs.ErrNotExist) {
		return b.conn.explain(b.files.folder.there())
	}
	return b.conn.explain(err)
}
