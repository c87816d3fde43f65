package drivertest

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// brokenBlob is a Blob with some methods replaced.
type brokenBlob struct {
	driver.Blob
	put        func(ctx context.Context, key string, r io.Reader, o driver.PutOptions) (driver.Object, error)
	get        func(ctx context.Context, key string, o driver.GetOptions) (driver.Object, io.ReadCloser, error)
	stat       func(ctx context.Context, key string) (driver.Object, error)
	remove     func(ctx context.Context, keys []string, results []error)
	list       func(ctx context.Context, r driver.ListRequest) (driver.ObjectPage, error)
	guarantees func(driver.BlobGuarantees) driver.BlobGuarantees
}

func (b *brokenBlob) Put(ctx context.Context, key string, r io.Reader, o driver.PutOptions) (driver.Object, error) {
	if b.put == nil {
		return b.Blob.Put(ctx, key, r, o)
	}
	return b.put(ctx, key, r, o)
}

func (b *brokenBlob) Get(ctx context.Context, key string, o driver.GetOptions) (driver.Object, io.ReadCloser, error) {
	if b.get == nil {
		return b.Blob.Get(ctx, key, o)
	}
	return b.get(ctx, key, o)
}

func (b *brokenBlob) Stat(ctx context.Context, key string) (driver.Object, error) {
	if b.stat == nil {
		return b.Blob.Stat(ctx, key)
	}
	return b.stat(ctx, key)
}

func (b *brokenBlob) Delete(ctx context.Context, keys []string, results []error) {
	if b.remove == nil {
		b.Blob.Delete(ctx, keys, results)
		return
	}
	b.remove(ctx, keys, results)
}

func (b *brokenBlob) List(ctx context.Context, r driver.ListRequest) (driver.ObjectPage, error) {
	if b.list == nil {
		return b.Blob.List(ctx, r)
	}
	return b.list(ctx, r)
}

func (b *brokenBlob) Guarantees() driver.BlobGuarantees {
	if b.guarantees == nil {
		return b.Blob.Guarantees()
	}
	return b.guarantees(b.Blob.Guarantees())
}

func spoilBlob(spoil func(*brokenBlob)) func(*driver.Driver) {
	return spoilBackend(func(_ driver.Space, b *driver.Backend) {
		blob := &brokenBlob{Blob: b.Blob}
		spoil(blob)
		b.Blob = blob
	})
}

// spoilPuts changes what is put on its way.
func spoilPuts(change func(r io.Reader, o *driver.PutOptions) io.Reader) func(*driver.Driver) {
	return spoilBlob(func(b *brokenBlob) {
		b.put = func(ctx context.Context, key string, r io.Reader, o driver.PutOptions) (driver.Object, error) {
			return b.Blob.Put(ctx, key, change(r, &o), o)
		}
	})
}

// spoilGets changes what is asked for on its way.
func spoilGets(change func(o *driver.GetOptions)) func(*driver.Driver) {
	return spoilBlob(func(b *brokenBlob) {
		b.get = func(ctx context.Context, key string, o driver.GetOptions) (driver.Object, io.ReadCloser, error) {
			change(&o)
			return b.Blob.Get(ctx, key, o)
		}
	})
}

// spoilLists changes lists on their way in and out.
func spoilLists(in func(*driver.ListRequest), out func(*driver.ObjectPage)) func(*driver.Driver) {
	return spoilBlob(func(b *brokenBlob) {
		b.list = func(ctx context.Context, r driver.ListRequest) (driver.ObjectPage, error) {
			if in != nil {
				in(&r)
			}
			p, err := b.Blob.List(ctx, r)
			if out != nil {
				out(&p)
			}
			return p, err
		}
	})
}

// spoilObjectKeys changes keys on their way in.
func spoilObjectKeys(change func(string) string) func(*driver.Driver) {
	return spoilBlob(func(b *brokenBlob) {
		b.put = func(ctx context.Context, key string, r io.Reader, o driver.PutOptions) (driver.Object, error) {
			return b.Blob.Put(ctx, change(key), r, o)
		}
		b.get = func(ctx context.Context, key string, o driver.GetOptions) (driver.Object, io.ReadCloser, error) {
			there, body, err := b.Blob.Get(ctx, change(key), o)
			there.Key = key
			return there, body, err
		}
		b.stat = func(ctx context.Context, key string) (driver.Object, error) { return b.Blob.Stat(ctx, change(key)) }
		b.remove = func(ctx context.Context, keys []string, results []error) {
			keys = slices.Clone(keys)
			for i := range keys {
				keys[i] = change(keys[i])
			}
			b.Blob.Delete(ctx, keys, results)
		}
	})
}

// joinedBlobs keeps all spaces in one.
type joinedBlobs struct{ driver.Conn }

func (c joinedBlobs) Space(driver.Space) (driver.Backend, error) { return c.Conn.Space(driver.Space{}) }

// lenientReader ends where its reader fails, unless its context has ended.
type lenientReader struct {
	ctx  context.Context
	from io.Reader
}

func (r lenientReader) Read(b []byte) (int, error) {
	n, err := r.from.Read(b)
	if err != nil && r.ctx.Err() == nil {
		err = io.EOF
	}
	return n, err
}

// bodyOf is a body that calls read.
type bodyOf struct {
	io.ReadCloser
	read func(b []byte) (int, error)
}

func (b bodyOf) Read(p []byte) (int, error) { return b.read(p) }

// spoilBodies replaces what Get returns.
func spoilBodies(replace func(b *brokenBlob, key string, o driver.GetOptions, there driver.Object, body io.ReadCloser) io.ReadCloser) func(*driver.Driver) {
	return spoilBlob(func(b *brokenBlob) {
		b.get = func(ctx context.Context, key string, o driver.GetOptions) (driver.Object, io.ReadCloser, error) {
			there, body, err := b.Blob.Get(ctx, key, o)
			if err != nil {
				return there, nil, err
			}
			return there, replace(b, key, o, there, body), nil
		}
	})
}

// followsTheName reads each piece from what the key holds at that time, as one
// does who asks a server for range after range without a condition.
func followsTheName(b *brokenBlob, key string, o driver.GetOptions, _ driver.Object, body io.ReadCloser) io.ReadCloser {
	at := o.Offset
	return bodyOf{body, func(p []byte) (int, error) {
		want := int64(len(p))
		if o.Length > 0 {
			want = min(want, o.Offset+o.Length-at)
		}
		if want <= 0 {
			return 0, io.EOF
		}
		_, part, err := b.Blob.Get(context.Background(), key, driver.GetOptions{Offset: at, Length: want})
		if err != nil {
			return 0, io.EOF
		}
		defer part.Close()
		n, err := part.Read(p)
		at += int64(n)
		return n, err
	}}
}

// checkThenPut looks at conditions before it puts, which is not atomic.
func checkThenPut(b *brokenBlob) {
	b.put = func(ctx context.Context, key string, r io.Reader, o driver.PutOptions) (driver.Object, error) {
		if o.Size < 0 || o.Size > b.Blob.Guarantees().MaxObject || o.IfAbsent && o.IfVersion != "" {
			return b.Blob.Put(ctx, key, r, o)
		}
		there, err := b.Blob.Stat(ctx, key)
		switch {
		case o.IfAbsent && err == nil:
			return driver.Object{}, errs.New(errs.AlreadyExists, "there").With("version", there.Version)
		case o.IfVersion != "" && err != nil:
			return driver.Object{}, errs.VersionMismatch
		case o.IfVersion != "" && there.Version != o.IfVersion:
			return driver.Object{}, errs.New(errs.VersionMismatch, "another").With("current", there.Version)
		}
		runtime.Gosched()
		time.Sleep(time.Millisecond) // what makes it certain that two meet
		o.IfAbsent, o.IfVersion = false, ""
		return b.Blob.Put(ctx, key, r, o)
	}
}

// piecemeal shows an object while it is being put.
func piecemeal(b *brokenBlob) {
	b.put = func(ctx context.Context, key string, r io.Reader, o driver.PutOptions) (driver.Object, error) {
		begun := false
		return b.Blob.Put(ctx, key, readerOf(func(p []byte) (int, error) {
			n, err := r.Read(p)
			if n > 0 && !begun {
				begun = true
				_, _ = b.Blob.Put(ctx, key, bytes.NewReader(p[:n]), driver.PutOptions{Metadata: o.Metadata})
			}
			return n, err
		}), o)
	}
}

type readerOf func([]byte) (int, error)

func (r readerOf) Read(b []byte) (int, error) { return r(b) }

// blobUnconditional is a technology whose puts take no conditions.
func blobUnconditional(b *brokenBlob) {
	b.guarantees = func(g driver.BlobGuarantees) driver.BlobGuarantees { g.Conditional = false; return g }
	b.put = func(ctx context.Context, key string, r io.Reader, o driver.PutOptions) (driver.Object, error) {
		if o.IfAbsent || o.IfVersion != "" {
			return driver.Object{}, errs.Unsupported
		}
		return b.Blob.Put(ctx, key, r, o)
	}
}

// objectOffsets are cursors that count, and are not checked.
func objectOffsets(b *brokenBlob) {
	b.list = func(ctx context.Context, r driver.ListRequest) (driver.ObjectPage, error) {
		if r.Limit < 1 {
			return b.Blob.List(ctx, r)
		}
		all, err := everyObject(ctx, b.Blob, r.Prefix)
		offset := 0
		if len(r.Cursor) > 0 {
			offset = int(r.Cursor[0])
		}
		all = all[min(offset, len(all)):]
		p := driver.ObjectPage{Objects: all}
		if len(all) > r.Limit {
			p = driver.ObjectPage{Objects: all[:r.Limit], Next: []byte{byte(offset + r.Limit)}}
		}
		return p, err
	}
}

func everyObject(ctx context.Context, b driver.Blob, prefix string) (all []driver.Object, err error) {
	r := driver.ListRequest{Prefix: prefix, Limit: 1000}
	for {
		p, err := b.List(ctx, r)
		all = append(all, p.Objects...)
		if err != nil || p.Next == nil {
			return all, err
		}
		r.Cursor = p.Next
	}
}

func blobMistakes() []mistake {
	return slices.Concat(connMistakes()[:6], blobPutMistakes(), blobGetMistakes(), blobListMistakes(), blobOtherMistakes())
}

func blobPutMistakes() []mistake {
	return []mistake{
		{"objects are cut at 4 KiB", spoilPuts(func(r io.Reader, o *driver.PutOptions) io.Reader {
			o.Size = 0
			return io.LimitReader(r, 4096)
		}), []string{"put/any-size", "put/wrong-size", "get/ranges"}},
		{"empty reads end an object", spoilPuts(func(r io.Reader, o *driver.PutOptions) io.Reader {
			o.Size = 0
			return readerOf(func(b []byte) (int, error) {
				n, err := r.Read(b)
				if n == 0 {
					err = cmp.Or(err, io.EOF)
				}
				return n, err
			})
		}), []string{"put/any-reader"}},
		{"sizes are not checked", spoilPuts(func(r io.Reader, o *driver.PutOptions) io.Reader {
			o.Size = 0
			return r
		}), []string{"put/wrong-size", "put/stated-too-large"}},
		{"limits are not kept", spoilBlob(func(b *brokenBlob) {
			b.guarantees = func(g driver.BlobGuarantees) driver.BlobGuarantees { g.MaxObject--; return g }
		}), []string{"put/largest"}},
		{"metadata is forgotten", spoilPuts(func(r io.Reader, o *driver.PutOptions) io.Reader {
			o.Metadata = nil
			return r
		}), []string{"put/metadata", "put/replaces"}},
		{"metadata is shared with the caller", spoilBlob(func(b *brokenBlob) {
			kept := map[string]string{}
			b.put = func(ctx context.Context, key string, r io.Reader, o driver.PutOptions) (driver.Object, error) {
				made, err := b.Blob.Put(ctx, key, r, o)
				kept = o.Metadata
				return made, err
			}
			b.stat = func(ctx context.Context, key string) (driver.Object, error) {
				there, err := b.Blob.Stat(ctx, key)
				there.Metadata = kept
				return there, err
			}
		}), []string{"put/metadata"}},
		{"errors of the reader end the object", spoilBlob(func(b *brokenBlob) {
			b.put = func(ctx context.Context, key string, r io.Reader, o driver.PutOptions) (driver.Object, error) {
				return b.Blob.Put(ctx, key, lenientReader{ctx, r}, o)
			}
		}), []string{"cut-off/reader-fails", "list/while-objects-come-and-go"}},
		{"errors of the reader are the backend's", spoilPuts(func(r io.Reader, _ *driver.PutOptions) io.Reader {
			return readerOf(func(b []byte) (int, error) {
				n, err := r.Read(b)
				if err != nil && err != io.EOF {
					err = errs.BackendUnavailable
				}
				return n, err
			})
		}), []string{"cut-off/reader-fails"}},
		{"contexts of puts are ignored", spoilBlob(func(b *brokenBlob) {
			b.put = func(_ context.Context, key string, r io.Reader, o driver.PutOptions) (driver.Object, error) {
				return b.Blob.Put(context.Background(), key, r, o)
			}
		}), []string{"cut-off/context-ends", "context/ended-before"}},
		{"objects are seen while they are put", spoilBlob(piecemeal), []string{"cut-off/whole-or-not-at-all", "cut-off/reader-panics", "list/while-objects-come-and-go"}},
		{"versions are one", spoilBlob(func(b *brokenBlob) {
			b.put = func(ctx context.Context, key string, r io.Reader, o driver.PutOptions) (driver.Object, error) {
				made, err := b.Blob.Put(ctx, key, r, o)
				made.Version = "1"
				return made, err
			}
		}), []string{"put/versions", "put/any-size"}},
		{"objects have no time", spoilBlob(func(b *brokenBlob) {
			b.stat = func(ctx context.Context, key string) (driver.Object, error) {
				there, err := b.Blob.Stat(ctx, key)
				there.Modified = time.Time{}
				return there, err
			}
		}), []string{"put/modified"}},
		{"conditions are checked before", spoilBlob(checkThenPut), []string{"conditions/one-of-many-wins", "conditions/no-update-is-lost", "conditions/of-the-end"}},
		{"conditions are ignored", spoilPuts(func(r io.Reader, o *driver.PutOptions) io.Reader {
			o.IfAbsent, o.IfVersion = false, ""
			return r
		}), []string{"conditions/if-absent", "conditions/if-version"}},
	}
}

func blobGetMistakes() []mistake {
	return []mistake{
		{"ranges are ignored", spoilGets(func(o *driver.GetOptions) { o.Offset, o.Length = 0, 0 }), []string{"get/ranges", "get/beyond-the-end"}},
		{"the length is that of an end", spoilGets(func(o *driver.GetOptions) { o.Length = max(0, o.Length-o.Offset) }), []string{"get/ranges"}},
		{"versions are not compared", spoilGets(func(o *driver.GetOptions) { o.IfVersion = "" }), []string{"get/if-version"}},
		{"absent objects are empty", spoilBlob(func(b *brokenBlob) {
			b.get = func(ctx context.Context, key string, o driver.GetOptions) (driver.Object, io.ReadCloser, error) {
				there, body, err := b.Blob.Get(ctx, key, o)
				if errs.ReasonOf(err) == errs.ObjectNotFound {
					return driver.Object{}, io.NopCloser(strings.NewReader("")), nil
				}
				return there, body, err
			}
		}), []string{"get/absent"}},
		{"bodies follow the name", spoilBodies(followsTheName), []string{"get/while-replaced", "get/while-deleted", "get/context-ends"}},
		{"bodies share a position", spoilBlob(func(b *brokenBlob) {
			var mu sync.Mutex
			bodies := map[string]io.ReadCloser{}
			b.get = func(ctx context.Context, key string, o driver.GetOptions) (driver.Object, io.ReadCloser, error) {
				there, body, err := b.Blob.Get(ctx, key, o)
				mu.Lock()
				defer mu.Unlock()
				if bodies[key] == nil {
					bodies[key] = body
				}
				return there, bodies[key], err
			}
		}), []string{"get/many-at-once"}},
		{"closed bodies go on", spoilBodies(func(_ *brokenBlob, _ string, _ driver.GetOptions, _ driver.Object, body io.ReadCloser) io.ReadCloser {
			return io.NopCloser(body)
		}), []string{"get/closed-early"}},
	}
}

func blobListMistakes() []mistake {
	return []mistake{
		{"prefixes are patterns", spoilLists(func(r *driver.ListRequest) { r.Prefix = strings.TrimRight(r.Prefix, "%*") }, nil), []string{"list/prefixes"}},
		{"slashes divide", spoilLists(nil, func(p *driver.ObjectPage) {
			p.Objects = slices.DeleteFunc(p.Objects, func(o driver.Object) bool { return strings.HasSuffix(o.Key, "/") })
		}), []string{"list/prefixes", "keys/hostile"}},
		{"limits are passed", spoilLists(func(r *driver.ListRequest) { r.Limit++ }, nil), []string{"list/page-limits", "list/wrong-cursors"}},
		{"lists end early", spoilLists(nil, func(p *driver.ObjectPage) {
			if len(p.Objects) >= 100 {
				p.Next = nil
			}
		}), []string{"list/many"}},
		{"lists know no sizes", spoilLists(nil, func(p *driver.ObjectPage) {
			for i := range p.Objects {
				p.Objects[i].Size = 0
			}
		}), []string{"list/tells-what-stat-tells"}},
		{"cursors are offsets", spoilBlob(objectOffsets), []string{"list/while-it-deletes", "list/wrong-cursors"}},
		{"cursors are of a connection", spoilConn(func(c driver.Conn) driver.Conn { return ownCursors{c, unique()} }), []string{"list/cursor-outlives-its-connection"}},
	}
}

// ownCursors makes cursors that no other connection knows.
type ownCursors struct {
	driver.Conn
	mark string
}

func (c ownCursors) Space(s driver.Space) (driver.Backend, error) {
	b, err := c.Conn.Space(s)
	blob := &brokenBlob{Blob: b.Blob}
	blob.list = func(ctx context.Context, r driver.ListRequest) (driver.ObjectPage, error) {
		r.Cursor = bytes.TrimSuffix(r.Cursor, []byte(c.mark))
		p, err := blob.Blob.List(ctx, r)
		if p.Next != nil {
			p.Next = append(p.Next, c.mark...)
		}
		return p, err
	}
	b.Blob = blob
	return b, err
}

func blobOtherMistakes() []mistake {
	return []mistake{
		{"keys fold case", spoilObjectKeys(strings.ToLower), []string{"keys/hostile", "get/absent"}},
		{"keys lose slashes", spoilObjectKeys(func(k string) string { return strings.ReplaceAll(k, "//", "/") }), []string{"keys/hostile"}},
		{"keys are cut", spoilObjectKeys(func(k string) string { return k[:min(len(k), 255)] }), []string{"keys/hostile"}},
		{"deletes stop at what is absent", spoilBlob(func(b *brokenBlob) {
			b.remove = func(ctx context.Context, keys []string, results []error) {
				clear(results)
				for i, key := range keys {
					if _, err := b.Blob.Stat(ctx, key); err != nil {
						return
					}
					b.Blob.Delete(ctx, keys[i:i+1], results[i:i+1])
				}
			}
		}), []string{"delete/many"}},
		{"all spaces are one", spoilConn(func(c driver.Conn) driver.Conn { return joinedBlobs{c} }), []string{"spaces/hostile-pairs", "conn/extents"}},
		{"every connection has its objects", func(d *driver.Driver) {
			open := d.Open
			d.Open = func(c driver.Config) (driver.Conn, error) {
				c.URL = "memory:"
				return open(c)
			}
		}, []string{"put/every-connection-sees-it", "spaces/same-names-same-data"}},
		{"entries are objects", spoilBackend(func(_ driver.Space, b *driver.Backend) {
			blob := &brokenBlob{Blob: b.Blob}
			kv := b.KV
			blob.get = func(ctx context.Context, key string, o driver.GetOptions) (driver.Object, io.ReadCloser, error) {
				if e, err := kv.Get(ctx, key, driver.ValueOnly); err == nil {
					return driver.Object{Key: key}, io.NopCloser(bytes.NewReader(e.Value)), nil
				}
				return blob.Blob.Get(ctx, key, o)
			}
			b.Blob = blob
		}), []string{"spaces/apart-from-kv"}},
		{"promises are of nobody", spoilBlob(func(b *brokenBlob) {
			b.guarantees = func(g driver.BlobGuarantees) driver.BlobGuarantees { g.Ack.Node = true; return g }
		}), []string{"conn/guarantees"}},
		{"stat is deaf to contexts", spoilBlob(func(b *brokenBlob) {
			b.stat = func(_ context.Context, key string) (driver.Object, error) {
				return b.Blob.Stat(context.Background(), key)
			}
		}), []string{"context/ended-before"}},
	}
}

func blobKit() *kit {
	return &kit{append(blobChecks(), aloneChecks...), newBlobSuite, smallObjects, blobMistakes(), slowMistakes}
}

// TestBrokenBlobsAreFound runs checks against drivers with one mistake each.
func TestBrokenBlobsAreFound(t *testing.T) { blobKit().findMistakes(t) }

// smallObjects is memory whose largest object is put soon.
func smallObjects() *Harness {
	h := memoryHarness()
	h.Config.Options = []byte(`{"max_object": 300000}`)
	return h
}

// TestBlobWithoutConditions runs all checks on puts that take no conditions.
func TestBlobWithoutConditions(t *testing.T) {
	for _, c := range blobChecks() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := smallObjects()
			spoilBlob(blobUnconditional)(&h.Driver)
			if said := blobKit().record(t, h, c.name); len(said) > 0 {
				t.Errorf("fails: %q", said)
			}
			if c.name != "conditions/refused" {
				return
			}
			h = smallObjects()
			spoilBlob(func(b *brokenBlob) {
				blobUnconditional(b)
				b.put = nil
			})(&h.Driver)
			if said := blobKit().record(t, h, c.name); len(said) == 0 {
				t.Error("passes where puts take conditions after all")
			}
		})
	}
}

// TestEachBlobCheckCanFail checks that every check that a driver in memory is
// subject to finds some mistake.
func TestEachBlobCheckCanFail(t *testing.T) {
	t.Parallel()
	k := blobKit()
	k.checks = blobChecks()
	k.canAllFail(t)
}

func TestHostileObjectKeysAreValid(t *testing.T) {
	t.Parallel()
	keys := slices.Sorted(slices.Values(hostileObjectKeys()))
	for i, key := range keys {
		if key == "" || len(key) > driver.MaxBlobKey || strings.ToValidUTF8(key, "") != key {
			t.Errorf("%s is no valid key", brief(key))
		}
		if i > 0 && key == keys[i-1] {
			t.Errorf("%s is there twice", brief(key))
		}
	}
}

// TestContent checks what knows objects again.
func TestContent(t *testing.T) {
	t.Parallel()
	c := content{7, 100_003}
	text, err := io.ReadAll(c.reader())
	if err != nil || int64(len(text)) != c.size {
		t.Fatalf("%d bytes, %v", len(text), err)
	}
	for _, offset := range []int64{0, 1, 7, 8, 100_002, 100_003} {
		if err := c.compare(bytes.NewReader(text[offset:]), offset, c.size-offset); err != nil {
			t.Errorf("from %d on: %v", offset, err)
		}
	}
	flipped := slices.Clone(text)
	flipped[70_000] ^= 1
	for what, other := range map[string][]byte{
		"flipped": flipped, "cut": text[:100_002], "longer": append(slices.Clone(text), 0), "moved": append([]byte{text[0]}, text[:100_002]...), "empty": nil,
	} {
		if c.compare(bytes.NewReader(other), 0, c.size) == nil {
			t.Errorf("%s bytes are taken for the content", what)
		}
	}
	other := content{8, c.size}
	if other.compare(bytes.NewReader(text), 0, c.size) == nil || maps.Equal(other.metadata(), c.metadata()) {
		t.Error("one content is taken for another")
	}
}

// TestBlobHungerIsFound and the next one are not parallel: they measure the
// process.
func TestBlobHungerIsFound(t *testing.T) {
	h := memoryHarness()
	if said := blobKit().record(t, h, "memory/large-object"); len(said) == 0 {
		t.Error("memory/large-object passes where objects are kept in memory")
	}
}

func TestBlobLeaksAreFound(t *testing.T) {
	const name = "leaks/goroutines-and-files"
	h := memoryHarness()
	if said := blobKit().record(t, h, name); len(said) > 0 {
		t.Errorf("fails without a leak: %s", said)
	}
	open := h.Driver.Open
	stop := make(chan struct{})
	defer close(stop)
	h.Driver.Open = func(c driver.Config) (driver.Conn, error) {
		go func() { <-stop }()
		return open(c)
	}
	if said := blobKit().record(t, h, name); len(said) == 0 {
		t.Error("passes with a goroutine left behind by each Open")
	}
	var left []*os.File
	h.Driver.Open = func(c driver.Config) (driver.Conn, error) {
		f, err := os.Open(os.DevNull)
		left = append(left, f)
		if err != nil {
			return nil, err
		}
		return open(c)
	}
	defer func() {
		for _, f := range left {
			f.Close()
		}
	}()
	if said := blobKit().record(t, h, name); len(said) == 0 {
		t.Error("passes with a file left open by each Open")
	}
}
