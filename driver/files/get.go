package files

import (
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

// open opens the file of an object and reads its record.
func (b *blob) open(key string) (*os.File, *record, error) {
	file, r, err := b.files.open(objectName(key))
	if err == nil && r.Key != key {
		err = errors.Join(errDamaged, file.Close())
	}
	if err != nil {
		return nil, nil, b.conn.explain(err)
	}
	return file, r, nil
}

// open opens a file by its name.
func (s *space) open(name string) (*os.File, *record, error) {
	file, err := os.Open(filepath.Join(s.path, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, cmp.Or(s.folder.there(), error(errs.ObjectNotFound))
	}
	if err != nil {
		return nil, nil, err
	}
	r, err := readRecord(file)
	if err != nil {
		return nil, nil, errors.Join(err, file.Close())
	}
	return file, r, nil
}

func (b *blob) stat(key string) (driver.Object, error) {
	file, r, err := b.open(key)
	if err != nil {
		return driver.Object{}, err
	}
	return r.object(), file.Close()
}

// Stat reads the record of one object.
func (b *blob) Stat(ctx context.Context, key string) (driver.Object, error) {
	leave, err := b.conn.enter(ctx)
	if err != nil {
		return driver.Object{}, err
	}
	defer leave()
	return b.stat(key)
}

// Get opens the file, which stays what it is whatever happens to its name.
func (b *blob) Get(ctx context.Context, key string, o driver.GetOptions) (driver.Object, io.ReadCloser, error) {
	leave, err := b.conn.enter(ctx)
	if err != nil {
		return driver.Object{}, nil, err
	}
	defer leave()
	file, r, err := b.open(key)
	if err != nil {
		return driver.Object{}, nil, err
	}
	read, err := b.body(ctx, file, r, &o)
	if err != nil {
		_ = file.Close()
		return driver.Object{}, nil, err
	}
	return r.object(), read, nil
}

func (b *blob) body(ctx context.Context, file *os.File, r *record, o *driver.GetOptions) (*body, error) {
	if o.IfVersion != "" && o.IfVersion != r.Version {
		return nil, mismatch(r.Version)
	}
	length, err := wrap.GetRange(o, r.Size)
	if err != nil {
		return nil, err
	}
	read := &body{ctx: ctx, conn: b.conn, file: file, part: io.NewSectionReader(file, o.Offset, length), left: length}
	if !b.conn.adopt(read) {
		return nil, errClosed
	}
	return read, nil
}

// body is an object, or a part of it, that is being read.
type body struct {
	ctx  context.Context
	conn *conn
	file *os.File
	part *io.SectionReader
	left int64
}

// Read reads from the file. One that somebody has cut does not end as if that
// were all.
func (r *body) Read(p []byte) (int, error) {
	if err := r.conn.usable(r.ctx); err != nil {
		return 0, err
	}
	n, err := r.part.Read(p)
	r.left -= int64(n)
	switch {
	case err == nil || err == io.EOF && r.left == 0:
		return n, err
	case err == io.EOF:
		err = errDamaged
	case errors.Is(err, fs.ErrClosed) && r.conn.usable(r.ctx) == nil:
		return n, errs.Wrap(err, errs.Internal, "the body of an object is read after it was closed")
	case errors.Is(err, fs.ErrClosed):
		return n, r.conn.usable(r.ctx)
	}
	return n, r.conn.explain(err)
}

// Close closes the file, unless the connection has done so.
func (r *body) Close() error {
	if !r.conn.forget(r) {
		return nil
	}
	return r.file.Close()
}
