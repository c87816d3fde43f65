package drivertest

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// A BlobHarness says how the suite of Blob reaches one technology. It is a
// Harness in everything but what it is handed to.
type BlobHarness Harness

func blobChecks() []check {
	return slices.Concat(
		blobConnChecks(), putChecks(), getChecks(), deleteChecks(), blobKeyChecks(), blobConditionChecks(),
		listChecks(), blobSpaceChecks(), cutOffChecks(), blobFaultChecks(),
	)
}

// aloneChecks measure the process, so that they run when nothing else does.
var aloneChecks = []check{
	{"memory/large-object", nil, largeObject},
	{"leaks/goroutines-and-files", nil, blobLeaks},
}

// RunBlob is Run for the primitive Blob.
func RunBlob(t *testing.T, blob BlobHarness) {
	t.Helper()
	h := Harness(blob)
	runChild(t, &h, blobWriter)
	s := newBlobSuite(t, &h)
	t.Run("checks", func(t *testing.T) {
		for _, c := range blobChecks() {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				s.run(t, c)
			})
		}
	})
	for _, c := range aloneChecks {
		t.Run(c.name, func(t *testing.T) { s.run(t, c) })
	}
	s.close(t)
	s.write(t, matrix{Suite: "blob", Driver: h.Name, Blob: &s.blob})
}

func newBlobSuite(tb testing.TB, h *Harness) *suite {
	tb.Helper()
	s, b := openSuite(tb, h, append(blobChecks(), aloneChecks...))
	s.blob = b.Blob.Guarantees()
	return s
}

// objects is one space with the short forms that checks are written in. Its
// methods fail the check when something is not as they say.
type objects struct {
	*env
	blob  driver.Blob
	space driver.Space
}

// objects returns a space of its own on the shared connection.
func (e *env) objects() *objects {
	e.Helper()
	return e.objectsOn(e.s.anchor, e.space())
}

func (e *env) objectsOn(conn driver.Conn, space driver.Space) *objects {
	e.Helper()
	b, err := conn.Space(space)
	if err != nil {
		e.Fatalf("space %q %q: %v", space.Namespace, space.Pattern, err)
	}
	return &objects{env: e, blob: b.Blob, space: space}
}

// again returns the same space through another connection.
func (s *objects) again(conn driver.Conn) *objects {
	s.Helper()
	return s.objectsOn(conn, s.space)
}

// put stores text.
func (s *objects) put(key, text string) driver.Object {
	s.Helper()
	return s.ok(key, text, driver.PutOptions{})
}

// ok stores text in a Put that has to succeed.
func (s *objects) ok(key, text string, o driver.PutOptions) driver.Object {
	s.Helper()
	made, err := s.blob.Put(s.ctx, key, strings.NewReader(text), o)
	if err != nil {
		s.Fatalf("put %s: %s", brief(key), describe(err))
	}
	return made
}

// putContent stores content in a Put that has to succeed, with metadata that
// tells what it is.
func (s *objects) putContent(key string, c content, o driver.PutOptions) driver.Object {
	s.Helper()
	o.Metadata = c.metadata()
	made, err := s.blob.Put(s.ctx, key, c.reader(), o)
	if err != nil {
		s.Fatalf("put %s: %s", brief(key), describe(err))
	}
	return made
}

// fails puts text, which has to fail for a reason.
func (s *objects) fails(key, text string, o driver.PutOptions, reason errs.Reason) {
	s.Helper()
	_ = s.failure(key, text, o, reason)
}

// failure is fails for those who look at the error.
func (s *objects) failure(key, text string, o driver.PutOptions, reason errs.Reason) *errs.Error {
	s.Helper()
	_, err := s.blob.Put(s.ctx, key, strings.NewReader(text), o)
	if !s.wants("put "+brief(key), err, reason) {
		s.FailNow()
	}
	return errs.From(err)
}

// read reads what o asks for.
func (s *objects) read(key string, o driver.GetOptions) (driver.Object, string) {
	s.Helper()
	there, body, err := s.blob.Get(s.ctx, key, o)
	if err != nil {
		s.Fatalf("get %s: %s", brief(key), describe(err))
	}
	text, err := io.ReadAll(body)
	if err != nil {
		s.Fatalf("read %s: %s", brief(key), describe(err))
	}
	if err := body.Close(); err != nil {
		s.Fatalf("close the body of %s: %v", brief(key), err)
	}
	return there, string(text)
}

// is checks that the object of key has a content.
func (s *objects) is(key, text string) driver.Object {
	s.Helper()
	there, got := s.read(key, driver.GetOptions{})
	if got != text || there.Size != int64(len(text)) || there.Key != key {
		s.Fatalf("get %s: got %d bytes %s of object %s of %d, want %s", brief(key), len(got), brief(got), brief(there.Key), there.Size, brief(text))
	}
	return there
}

// isContent checks that the object of key is the content.
func (s *objects) isContent(key string, want content) driver.Object {
	s.Helper()
	there, err := s.whole(key)
	if err != nil {
		s.Fatalf("get %s: %v", brief(key), err)
	}
	if got := there.Metadata; !maps.Equal(got, want.metadata()) {
		s.Fatalf("get %s: got the object %v, want %v", brief(key), got, want.metadata())
	}
	return there
}

// whole reads an object and checks that it is what its metadata tells.
func (s *objects) whole(key string) (driver.Object, error) {
	there, body, err := s.blob.Get(s.ctx, key, driver.GetOptions{})
	if err != nil {
		return there, err
	}
	defer body.Close()
	c, err := contentOf(there)
	if err != nil {
		return there, err
	}
	return there, c.compare(body, 0, c.size)
}

func (s *objects) absent(key string) {
	s.Helper()
	_, body, err := s.blob.Get(s.ctx, key, driver.GetOptions{})
	if !s.wants("get "+brief(key), err, errs.ObjectNotFound) {
		if body != nil {
			_ = body.Close()
		}
		s.FailNow()
	}
	if _, err := s.blob.Stat(s.ctx, key); !s.wants("stat "+brief(key), err, errs.ObjectNotFound) {
		s.FailNow()
	}
}

func (s *objects) stat(key string) driver.Object {
	s.Helper()
	there, err := s.blob.Stat(s.ctx, key)
	if err != nil {
		s.Fatalf("stat %s: %s", brief(key), describe(err))
	}
	return there
}

func (s *objects) delete(keys ...string) {
	s.Helper()
	results := make([]error, len(keys))
	for i := range results {
		results[i] = errs.Internal // one that is left out shows
	}
	s.blob.Delete(s.ctx, keys, results)
	for i, key := range keys {
		if err := results[i]; err != nil {
			s.Fatalf("delete %s: %s", brief(key), describe(err))
		}
	}
}

// all lists to the end in pages of a size, each of which has to keep its
// limits and to go on behind the last one.
func (s *objects) all(prefix string, limit int) (found []driver.Object) {
	s.Helper()
	r := driver.ListRequest{Prefix: prefix, Limit: limit}
	for {
		p, err := s.blob.List(s.ctx, r)
		if err != nil {
			s.Fatalf("list %s: %s", brief(prefix), describe(err))
		}
		s.checkObjects(&r, &p)
		found = append(found, p.Objects...)
		if p.Next == nil {
			return found
		}
		r.Cursor = p.Next
	}
}

// holds checks that a list of prefix gives these keys and no others, each once
// and in order.
func (s *objects) holds(prefix string, limit int, want ...string) {
	s.Helper()
	got := objectKeys(s.all(prefix, limit))
	if !slices.IsSorted(got) {
		s.Errorf("list %s: not in the order of the keys' bytes: %s", brief(prefix), briefAll(got))
	}
	want = slices.Sorted(slices.Values(want))
	if slices.Sort(got); !slices.Equal(got, want) {
		s.Errorf("list %s: got %d keys, want %d; not found %s, not expected %s", brief(prefix), len(got), len(want),
			briefAll(without(want, got)), briefAll(without(got, want)))
	}
}

func objectKeys(found []driver.Object) []string {
	keys := make([]string, len(found))
	for i, o := range found {
		keys[i] = o.Key
	}
	return keys
}

// sameObject compares what two calls tell of an object, of which with says
// whether metadata is a part.
func sameObject(a, b driver.Object, withMetadata bool) bool {
	return a.Key == b.Key && a.Size == b.Size && a.Version == b.Version && a.Modified.Unix() == b.Modified.Unix() &&
		(!withMetadata || maps.Equal(a.Metadata, b.Metadata))
}

// content is an object that is made up as it is read, and known again from any
// of its parts.
type content struct {
	seed uint64
	size int64
}

func (c content) reader() io.Reader { return io.NewSectionReader(c, 0, c.size) }

// ReadAt makes up any part.
func (c content) ReadAt(b []byte, at int64) (int, error) {
	b = b[:max(0, min(int64(len(b)), c.size-at))]
	var word [8]byte
	for i := 0; i < len(b); {
		binary.LittleEndian.PutUint64(word[:], mix(c.seed<<40+uint64(at+int64(i))/8))
		n := copy(b[i:], word[(at+int64(i))%8:])
		i += n
	}
	if len(b) == 0 {
		return 0, io.EOF
	}
	return len(b), nil
}

// mix is the finalizer of splitmix64: what neighbours give has nothing in
// common.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// compare reads r to its end and reports whether it is the content from an
// offset on.
func (c content) compare(r io.Reader, offset, length int64) error {
	got, want := make([]byte, 64<<10), make([]byte, 64<<10)
	var done int64
	for {
		n, err := r.Read(got)
		if n > 0 {
			_, _ = c.ReadAt(want[:n], offset+done)
			if done+int64(n) > length || string(got[:n]) != string(want[:n]) {
				return fmt.Errorf("the bytes from %d on are not those of content %d of %d bytes", offset+done, c.seed, c.size)
			}
		}
		done += int64(n)
		switch {
		case err == io.EOF && done == length:
			return nil
		case err != nil:
			return fmt.Errorf("after %d of %d bytes: %w", done, length, err)
		}
	}
}

func (c content) metadata() map[string]string {
	return map[string]string{"seed": fmt.Sprint(c.seed), "size": fmt.Sprint(c.size)}
}

// contentOf returns the content that an object's metadata tells of.
func contentOf(o driver.Object) (c content, err error) {
	_, err = fmt.Sscan(o.Metadata["seed"]+" "+o.Metadata["size"], &c.seed, &c.size)
	if c.size != o.Size {
		err = cmp.Or(err, fmt.Errorf("its metadata tells of %d bytes, and it has %d", c.size, o.Size))
	}
	return c, err
}
