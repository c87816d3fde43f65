package memory

import (
	"cmp"
	"context"
	"io"
	"maps"
	"sync"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

var _ driver.Blob = (*blob)(nil)

// The pieces that an object is kept in grow with it, so that small ones do not
// waste and large ones are not copied.
const (
	leastPiece = 4 << 10
	mostPiece  = 1 << 20
)

// objects are those of a space.
type objects struct {
	mu    sync.RWMutex // guards byKey
	byKey map[string]*object
	index index
}

// An object is never written to, only replaced, so it may be read after the
// lock has been given back.
type object struct {
	driver.Object
	pieces [][]byte
}

// known returns what is known about the object, as the caller's own.
func (o *object) known() driver.Object {
	own := o.Object
	own.Metadata = maps.Clone(own.Metadata)
	return own
}

// blob is one space seen through one connection.
type blob struct {
	conn  *conn
	space *space
}

// Guarantees returns what memory promises.
func (b *blob) Guarantees() driver.BlobGuarantees {
	return driver.BlobGuarantees{
		Version:     driver.WriteVersions,
		Conditional: true,
		ListCost:    driver.ScanPrefix,
		MaxObject:   b.conn.settings.maxObject,
		Ack:         ack,
	}
}

// Put keeps what r yields in pieces.
func (b *blob) Put(ctx context.Context, key string, r io.Reader, o driver.PutOptions) (driver.Object, error) {
	largest := b.conn.settings.maxObject
	if err := cmp.Or(b.conn.usable(ctx), wrap.CheckPut(&o, largest)); err != nil {
		return driver.Object{}, err
	}
	all := &b.space.objects
	if err := all.check(key, &o); err != nil {
		return driver.Object{}, err
	}
	pieces, size, err := gather(wrap.PutReader(ctx, r, o.Size, largest))
	if err != nil {
		return driver.Object{}, err
	}
	made := &object{pieces: pieces, Object: driver.Object{
		Key: key, Size: size, Version: b.space.nextVersion(), Modified: b.space.now(),
		Metadata: maps.Clone(o.Metadata),
	}}
	if err := b.conn.usable(ctx); err != nil {
		return driver.Object{}, err
	}
	if err := all.put(made, &o); err != nil {
		return driver.Object{}, err
	}
	return driver.Object{Key: key, Size: size, Version: made.Version}, nil
}

// gather reads to the end.
func gather(r io.Reader) (pieces [][]byte, size int64, err error) {
	for length := leastPiece; err == nil; length = min(2*length, mostPiece) {
		piece, n := make([]byte, length), 0
		for n < length && err == nil { // io.ReadFull takes the reader's own io.ErrUnexpectedEOF for an end
			var read int
			read, err = r.Read(piece[n:])
			n += read
		}
		size += int64(n)
		if n > 0 {
			pieces = append(pieces, piece[:n:n])
		}
	}
	if err == io.EOF {
		return pieces, size, nil
	}
	return nil, 0, err
}

// check returns why the conditions of a Put do not hold.
func (s *objects) check(key string, o *driver.PutOptions) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.holds(key, o)
}

func (s *objects) holds(key string, o *driver.PutOptions) error {
	there := s.byKey[key]
	switch {
	case o.IfAbsent && there != nil:
		return errs.New(errs.AlreadyExists, "the object exists already").With("version", there.Version)
	case o.IfVersion != "" && there == nil:
		return errs.VersionMismatch
	case o.IfVersion != "" && there.Version != o.IfVersion:
		return mismatch(there.Version)
	}
	return nil
}

func mismatch(current string) error {
	return errs.New(errs.VersionMismatch, "the object does not have this version; read it again and decide anew").With("current", current)
}

func (s *objects) put(made *object, o *driver.PutOptions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.holds(made.Key, o); err != nil {
		return err
	}
	if s.byKey == nil {
		s.byKey = make(map[string]*object)
	}
	s.byKey[made.Key] = made
	s.index.add(made.Key)
	return nil
}

func (s *objects) get(key string) (*object, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if o := s.byKey[key]; o != nil {
		return o, nil
	}
	return nil, errs.ObjectNotFound
}

func (s *objects) remove(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byKey, key)
	s.index.remove(key)
}

// Get opens the object as it is now.
func (b *blob) Get(ctx context.Context, key string, o driver.GetOptions) (driver.Object, io.ReadCloser, error) {
	if err := b.conn.usable(ctx); err != nil {
		return driver.Object{}, nil, err
	}
	there, err := b.space.objects.get(key)
	if err != nil {
		return driver.Object{}, nil, err
	}
	if o.IfVersion != "" && o.IfVersion != there.Version {
		return driver.Object{}, nil, mismatch(there.Version)
	}
	length, err := wrap.GetRange(&o, there.Size)
	if err != nil {
		return driver.Object{}, nil, err
	}
	return there.known(), &body{ctx: ctx, conn: b.conn, pieces: there.pieces, skip: o.Offset, left: length}, nil
}

// body is an object, or a part of it, that is being read.
type body struct {
	ctx        context.Context
	conn       *conn
	pieces     [][]byte
	skip, left int64
	closed     bool
}

// Read copies from one piece.
func (r *body) Read(b []byte) (int, error) {
	if err := r.conn.usable(r.ctx); err != nil {
		return 0, err
	}
	if r.closed {
		return 0, errs.New(errs.Internal, "the body of an object is read after it was closed")
	}
	for r.left > 0 && r.skip >= int64(len(r.pieces[0])) {
		r.skip -= int64(len(r.pieces[0]))
		r.pieces = r.pieces[1:]
	}
	if r.left == 0 {
		return 0, io.EOF
	}
	piece := r.pieces[0][r.skip:]
	n := copy(b, piece[:min(int64(len(piece)), r.left)])
	r.skip += int64(n)
	r.left -= int64(n)
	return n, nil
}

// Close lets go of the object.
func (r *body) Close() error {
	r.closed, r.pieces = true, nil
	return nil
}

// Stat looks at one object.
func (b *blob) Stat(ctx context.Context, key string) (driver.Object, error) {
	if err := b.conn.usable(ctx); err != nil {
		return driver.Object{}, err
	}
	there, err := b.space.objects.get(key)
	if err != nil {
		return driver.Object{}, err
	}
	return there.known(), nil
}

// Delete removes one object after the other.
func (b *blob) Delete(ctx context.Context, keys []string, results []error) {
	for i, key := range keys {
		if results[i] = b.conn.usable(ctx); results[i] == nil {
			b.space.objects.remove(key)
		}
	}
}

// List reads a page in the order of the keys.
func (b *blob) List(ctx context.Context, r driver.ListRequest) (driver.ObjectPage, error) {
	if err := b.conn.usable(ctx); err != nil {
		return driver.ObjectPage{}, err
	}
	if r.Limit < 1 {
		return driver.ObjectPage{}, errs.Invalid(errs.Field{Path: "limit", Text: "must be at least 1"})
	}
	from := position{key: r.Prefix}
	if r.Cursor != nil {
		last, err := wrap.ParseCursor(r.Prefix, r.Cursor)
		if err != nil {
			return driver.ObjectPage{}, err
		}
		from = position{key: last, after: true}
	}
	return b.space.objects.list(from, &r), nil
}

func (s *objects) list(from position, r *driver.ListRequest) (p driver.ObjectPage) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	keys := make([]string, min(r.Limit, scanBatch)+1)
	found := s.index.collect(from, r.Prefix, keys)
	for i, key := range found {
		if i == len(keys)-1 {
			p.Next = wrap.NewCursor(r.Prefix, found[i-1])
			break
		}
		o := s.byKey[key].Object
		o.Metadata = nil
		p.Objects = append(p.Objects, o)
	}
	return p
}
