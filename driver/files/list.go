package files

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

const (
	mostObjects = 1000 // of a page, however many are asked for
	nameBatch   = 1024 // names read at once
)

// List reads all names of the space for each page, and the records of those
// that are in it.
func (b *blob) List(ctx context.Context, r driver.ListRequest) (driver.ObjectPage, error) {
	leave, err := b.conn.enter(ctx)
	if err != nil {
		return driver.ObjectPage{}, err
	}
	defer leave()
	if r.Limit < 1 {
		return driver.ObjectPage{}, errs.Invalid(errs.Field{Path: "limit", Text: "must be at least 1"})
	}
	find := finder{ctx: ctx, conn: b.conn, files: b.files, prefix: r.Prefix, limit: min(r.Limit, mostObjects)}
	if r.Cursor != nil {
		if find.last, err = wrap.ParseCursor(r.Prefix, r.Cursor); err != nil {
			return driver.ObjectPage{}, err
		}
	}
	keys, err := find.keys()
	if err != nil {
		return driver.ObjectPage{}, b.conn.explain(err)
	}
	var p driver.ObjectPage
	if len(keys) > find.limit {
		keys = keys[:find.limit]
		p.Next = wrap.NewCursor(r.Prefix, keys[len(keys)-1])
	}
	p.Objects, err = b.records(ctx, keys)
	return p, err
}

// records returns the objects that are still there.
func (b *blob) records(ctx context.Context, keys []string) ([]driver.Object, error) {
	var found []driver.Object
	for _, key := range keys {
		if err := b.conn.usable(ctx); err != nil {
			return nil, err
		}
		o, err := b.stat(key)
		if errors.Is(err, errs.ObjectNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		o.Metadata = nil
		found = append(found, o)
	}
	return found, nil
}

// finder looks for the first keys of a space that begin with prefix and follow
// last.
type finder struct {
	ctx    context.Context
	conn   *conn
	files  *space
	prefix string
	last   string
	limit  int
	found  []string
}

// keys returns limit keys in order, and one more if there is one.
func (f *finder) keys() ([]string, error) {
	dir, err := os.Open(f.files.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, f.files.folder.there() // nothing was ever put into the space
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close() //nolint:errcheck // it was only read
	f.files.turn.Lock()
	defer f.files.turn.Unlock()
	for {
		names, err := dir.Readdirnames(nameBatch)
		for _, name := range names {
			if err := f.add(name); err != nil {
				return nil, err
			}
		}
		switch {
		case err == io.EOF:
			f.cut()
			return f.found, nil
		case err != nil:
			return nil, err
		}
		if err := f.conn.usable(f.ctx); err != nil {
			return nil, err
		}
	}
}

// add takes the key of a name, if it is wanted. Of a long key the name tells
// the beginning; the file is opened only if that does not rule it out.
func (f *finder) add(name string) error {
	key, whole, ok := decode(name)
	if !ok {
		return nil // not ours
	}
	if !whole {
		if !agree(key, f.prefix) || key < f.last && !agree(key, f.last) {
			return nil
		}
		file, r, err := f.files.open(name)
		if errors.Is(err, errs.ObjectNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		_ = file.Close()
		key = r.Key
	}
	if key <= f.last || !strings.HasPrefix(key, f.prefix) {
		return nil
	}
	if f.found = append(f.found, key); len(f.found) > 4*mostObjects {
		f.cut()
	}
	return nil
}

// agree reports whether one text is the beginning of the other.
func agree(a, b string) bool {
	n := min(len(a), len(b))
	return a[:n] == b[:n]
}

// cut leaves the first keys, one more than is asked for.
func (f *finder) cut() {
	slices.Sort(f.found)
	f.found = f.found[:min(len(f.found), f.limit+1)]
}
