package sqlite

import (
	"context"
	"errors"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// read calls f with a link for reading, again while another program has the
// file locked.
func read[T any](ctx context.Context, c *conn, f func(*link) (T, error)) (T, error) {
	var zero T
	if err := c.usable(ctx); err != nil {
		return zero, err
	}
	var wait patience
	for {
		s, err := c.file.writer.opened(ctx)
		if err != nil {
			return zero, err
		}
		l, err := s.borrow(ctx)
		if errors.Is(err, errStoreClosed) {
			continue // and see whether the file is opened again
		}
		if err != nil {
			return zero, err
		}
		v, err := f(l)
		s.free <- l
		if err == nil {
			return v, nil
		}
		if busy(err) {
			if wait.pause == 0 {
				wait = newPatience(c.settings.busy)
			}
			if wait.again(ctx, nil) {
				continue
			}
			if err := ended(ctx); err != nil {
				return zero, err
			}
		}
		c.file.writer.blame(err)
		return zero, explain(c.settings.name, err)
	}
}

// Get reads one row.
func (s *space) Get(ctx context.Context, key string, want driver.Want) (driver.Entry, error) {
	return read(ctx, s.conn, func(l *link) (driver.Entry, error) { return s.get(l, key, want) })
}

func (s *space) get(l *link, key string, want driver.Want) (driver.Entry, error) {
	r, found, err := s.table.load(l, key, everything)
	if err != nil {
		return driver.Entry{}, err
	}
	if !found || r.expires != 0 && r.expired(s.conn.settings.now().UnixMilli()) {
		return driver.Entry{}, errs.KeyNotFound
	}
	return r.entry().Wanted(want), nil
}

func (r *record) entry() driver.Entry {
	return driver.Entry{Value: r.value, Version: r.version, Expires: moment(r.expires)}
}

// checkEvery is how many rows are read between two looks at the context.
const checkEvery = 64

var (
	beginRead = query{"BEGIN"}
	endRead   = query{"COMMIT"}
)

// GetMany reads all keys in one read transaction, which costs less than one for
// each.
func (s *space) GetMany(ctx context.Context, keys []string, want driver.Want, results []driver.GetResult) {
	_, err := read(ctx, s.conn, func(l *link) (none struct{}, err error) {
		if _, err := l.run(&beginRead); err != nil { //nolint:contextcheck // see link
			return none, err
		}
		s.getMany(ctx, l, keys, want, results)
		_, err = l.run(&endRead) //nolint:contextcheck // see link
		return none, err
	})
	if err == nil {
		return
	}
	for i := range keys {
		results[i] = driver.GetResult{Err: err}
	}
}

func (s *space) getMany(ctx context.Context, l *link, keys []string, want driver.Want, results []driver.GetResult) {
	var over error
	for i, key := range keys {
		if i%checkEvery == 0 {
			over = ended(ctx)
		}
		if over != nil {
			results[i] = driver.GetResult{Err: over}
			continue
		}
		e, err := s.get(l, key, want)
		s.conn.file.writer.blame(err)
		results[i] = driver.GetResult{Entry: e, Err: explain(s.conn.settings.name, err)}
	}
}

// Apply hands copies of the operations to the writer.
func (s *space) Apply(ctx context.Context, ops []driver.Op, results []driver.Result) {
	err := s.conn.usable(ctx)
	if err == nil {
		err = s.apply(ctx, ops, results)
	}
	if err == nil {
		return
	}
	for i := range ops {
		results[i] = driver.Result{Err: err}
	}
}

func (s *space) apply(ctx context.Context, ops []driver.Op, results []driver.Result) error {
	r := newRequest(s, ops)
	if err := s.conn.file.writer.queue.submit(ctx, r); err != nil {
		return err
	}
	for i := range ops {
		results[i] = r.results[i]
		if r.err != nil && r.ops[i].Kind != decided {
			results[i] = driver.Result{Err: r.err}
		}
	}
	r.recycle()
	return nil
}

// top is above every key, as no UTF-8 has this byte.
const top = "\xff"

// Scan reads the rows between the cursor and the end of the prefix.
func (s *space) Scan(ctx context.Context, r driver.ScanRequest) (driver.Page, error) {
	bounds := scanRange{from: r.Prefix, below: successor(r.Prefix), keysOnly: r.KeysOnly}
	if r.Cursor != nil {
		last, ok := parseCursor(s.id, r.Prefix, r.Cursor)
		if !ok {
			return driver.Page{}, errs.InvalidCursor
		}
		bounds.from = last + "\x00" // the next text in the order of bytes
	}
	return read(ctx, s.conn, func(l *link) (driver.Page, error) { return s.page(ctx, l, &r, bounds) })
}

func (s *space) page(ctx context.Context, l *link, r *driver.ScanRequest, bounds scanRange) (p driver.Page, over error) {
	bounds.now = s.conn.settings.now().UnixMilli()
	size, rows := 0, 0
	err := s.table.scan(l, bounds, func(key string, rec record) bool {
		if rows++; rows%checkEvery == 0 {
			if over = ended(ctx); over != nil {
				return false
			}
		}
		if len(p.Items) >= r.Limit || r.MaxBytes > 0 && size >= r.MaxBytes {
			p.Next = newCursor(s.id, r.Prefix, p.Items[len(p.Items)-1].Key)
			return false
		}
		item := driver.Item{Key: key}
		if !r.KeysOnly {
			item.Entry = rec.entry()
		}
		size += len(key) + len(rec.value)
		p.Items = append(p.Items, item)
		return true
	})
	if err == nil {
		err = over
	}
	if err != nil {
		return driver.Page{}, err
	}
	return p, nil
}

// successor returns the first text, in the order of bytes, that is above all
// that begin with prefix.
func successor(prefix string) string {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] < 0xff {
			return prefix[:i] + string([]byte{prefix[i] + 1})
		}
	}
	return top
}
