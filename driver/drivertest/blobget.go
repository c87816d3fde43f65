package drivertest

import (
	"context"
	"io"
	"strings"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

func getChecks() []check {
	return []check{
		{"get/absent", nil, getAbsent},
		{"get/ranges", nil, getRanges},
		{"get/beyond-the-end", nil, getBeyond},
		{"get/if-version", nil, getIfVersion},
		{"get/closed-early", nil, getClosedEarly},
		{"get/while-replaced", nil, getWhileReplaced},
		{"get/while-deleted", nil, getWhileDeleted},
		{"get/context-ends", nil, getContextEnds},
		{"get/many-at-once", nil, getManyAtOnce},
	}
}

func deleteChecks() []check {
	return []check{{"delete/many", nil, deleteMany}}
}

func blobKeyChecks() []check {
	return []check{{"keys/hostile", nil, hostileObjects}}
}

func getAbsent(e *env) {
	s := e.objects()
	s.absent("a")
	s.put("ab", "1")
	s.put("a/b", "1")
	for _, key := range []string{"a", "abc", "a/", "a/b/c", "AB", "Ab", "b"} {
		s.absent(key)
	}
}

func getRanges(e *env) {
	s := e.objects()
	for _, c := range []content{{1, 0}, {2, 1}, {3, 10}, {4, 200_001}} {
		s.putContent("a", c, driver.PutOptions{})
		for _, offset := range []int64{0, 1, 9, 10, 65_536, 200_000, c.size - 1, c.size} {
			for _, length := range []int64{0, 1, 2, 10, 65_536, c.size - 1, c.size, c.size + 1, driver.MaxBlob} {
				if offset > c.size || offset < 0 || length < 0 {
					continue
				}
				want := c.size - offset
				if length > 0 {
					want = min(want, length)
				}
				there, body, err := s.blob.Get(e.ctx, "a", driver.GetOptions{Offset: offset, Length: length})
				if err != nil {
					e.Fatalf("get of %d bytes from %d of %d: %s", length, offset, c.size, describe(err))
				}
				if err := c.compare(body, offset, want); err != nil {
					e.Errorf("get of %d bytes from %d of %d: %v", length, offset, c.size, err)
				}
				if _, err := body.Read(make([]byte, 1)); err != io.EOF {
					e.Errorf("read after the end: %v", err)
				}
				if err := body.Close(); err != nil || there.Size != c.size {
					e.Errorf("get of %d bytes from %d of %d tells a size of %d; close: %v", length, offset, c.size, there.Size, err)
				}
			}
		}
	}
}

func getBeyond(e *env) {
	s := e.objects()
	s.put("a", "0123456789")
	s.put("empty", "")
	for key, o := range map[string]driver.GetOptions{"a": {Offset: 11}, "empty": {Offset: 1, Length: 1}} {
		_, _, err := s.blob.Get(e.ctx, key, o)
		e.wants("get from beyond the end", err, errs.OutOfRange)
	}
	for _, o := range []driver.GetOptions{{Offset: -1}, {Length: -1}} {
		_, _, err := s.blob.Get(e.ctx, "a", o)
		e.wants("get of a negative range", err, errs.InvalidField)
	}
}

func getIfVersion(e *env) {
	s := e.objects()
	old := s.put("a", "old").Version
	s.read("a", driver.GetOptions{IfVersion: old})
	current := s.put("a", "new").Version
	_, _, err := s.blob.Get(e.ctx, "a", driver.GetOptions{IfVersion: old})
	if e.wants("get of an old version", err, errs.VersionMismatch) && errs.From(err).Meta["current"] != current {
		e.Errorf("the error tells of version %q, want %q", errs.From(err).Meta["current"], current)
	}
	if _, got := s.read("a", driver.GetOptions{IfVersion: current}); got != "new" {
		e.Errorf("get of the current version: %q", got)
	}
	s.delete("a")
	_, _, err = s.blob.Get(e.ctx, "a", driver.GetOptions{IfVersion: current})
	e.wants("get of a version of an absent object", err, errs.ObjectNotFound)
}

// streamed is the size of objects that no buffer on the way holds as a whole.
func (e *env) streamed() int64 { return min(8<<20, e.s.blob.MaxObject) }

// begun opens an object and reads its beginning.
func (s *objects) begun(ctx context.Context, key string, c content) io.ReadCloser {
	s.Helper()
	_, body, err := s.blob.Get(ctx, key, driver.GetOptions{})
	if err != nil {
		s.Fatalf("get %s: %s", brief(key), describe(err))
	}
	if err := c.compare(io.LimitReader(body, 100), 0, 100); err != nil {
		s.Errorf("the beginning of %s: %v", brief(key), err)
	}
	return body
}

func getClosedEarly(e *env) {
	s := e.objects()
	c := content{1, e.streamed()}
	s.putContent("a", c, driver.PutOptions{})
	for range 20 {
		if err := s.begun(e.ctx, "a", c).Close(); err != nil {
			e.Errorf("close: %v", err)
		}
	}
	body := s.begun(e.ctx, "a", c)
	_ = body.Close()
	if n, err := body.Read(make([]byte, 10)); n > 0 || err == nil || err == io.EOF {
		e.Errorf("read after close: %d, %v", n, err)
	}
	s.isContent("a", c)
}

// goesOn checks that a body that was begun yields the rest of its own object,
// or says that it is no longer there.
func (s *objects) goesOn(body io.ReadCloser, c content) {
	s.Helper()
	defer body.Close()
	if err := c.compare(body, 100, c.size-100); err != nil && errs.ReasonOf(err) != errs.VersionMismatch {
		s.Errorf("the rest of an object that was begun: %v", err)
	}
}

func getWhileReplaced(e *env) {
	s := e.objects()
	old, current := content{1, e.streamed()}, content{2, e.streamed()}
	s.putContent("a", old, driver.PutOptions{})
	body := s.begun(e.ctx, "a", old)
	s.putContent("a", current, driver.PutOptions{})
	s.goesOn(body, old)
	s.isContent("a", current)
}

func getWhileDeleted(e *env) {
	s := e.objects()
	c := content{1, e.streamed()}
	s.putContent("a", c, driver.PutOptions{})
	body := s.begun(e.ctx, "a", c)
	s.delete("a")
	s.goesOn(body, c)
	s.absent("a")
}

func getContextEnds(e *env) {
	s := e.objects()
	c := content{1, e.streamed()}
	s.putContent("a", c, driver.PutOptions{})
	ctx, cancel := context.WithCancel(e.ctx)
	body := s.begun(ctx, "a", c)
	cancel()
	_, err := io.Copy(io.Discard, body)
	e.wants("reading after the context has ended", err, errs.Cancelled)
	if err := body.Close(); err != nil {
		e.Errorf("close: %v", err)
	}
}

// getManyAtOnce reads several objects side by side, one of them from both ends.
func getManyAtOnce(e *env) {
	s := e.objects()
	a, b := content{1, 300_000}, content{2, 300_000}
	s.putContent("a", a, driver.PutOptions{})
	s.putContent("b", b, driver.PutOptions{})
	first, second, third := s.begun(e.ctx, "a", a), s.begun(e.ctx, "b", b), s.begun(e.ctx, "a", a)
	s.goesOn(third, a)
	s.goesOn(first, a)
	s.goesOn(second, b)
}

func deleteMany(e *env) {
	s := e.objects()
	for _, key := range []string{"a", "b", "c", "d"} {
		s.put(key, key)
	}
	s.delete("a", "not-there", "c", "a")
	s.absent("a")
	s.absent("c")
	s.holds("", 10, "b", "d")
	s.delete()
	s.delete("b", "d", "b")
	s.holds("", 10)
	s.put("a", "again")
	s.is("a", "again")
}

// hostileObjectKeys are the hostile keys that fit an object's, those that mean
// something to file systems, and the longest ones.
func hostileObjectKeys() (keys []string) {
	for _, key := range hostileKeys() {
		if len(key) <= driver.MaxBlobKey {
			keys = append(keys, key)
		}
	}
	keys = append(keys,
		"./a", "a/.", "a/..", "a//", "//a", "a///b", "a/b/", "a.", "a..", ".a", "~a", "a~", "con", "nul", "aux.txt", "lost+found", ".lock", "tmp", "a,b", "^a", "A/b", "a/B",
		strings.Repeat("a/", driver.MaxBlobKey/2), strings.Repeat("../", driver.MaxBlobKey/3), strings.Repeat("%", driver.MaxBlobKey), strings.Repeat("A", driver.MaxBlobKey))
	for _, n := range []int{60, 100, 127, 128, 139, 140, 141, 199, 200, 201, 242, 250, 254, 255, 256, driver.MaxBlobKey - 1, driver.MaxBlobKey} {
		long := strings.Repeat("k", n-1)
		keys = append(keys, long+"k", long+"l", long+"K")
	}
	for _, r := range []string{"é", "日", "😀"} {
		keys = append(keys, strings.Repeat(r, driver.MaxBlobKey/len(r)))
	}
	return keys
}

func hostileObjects(e *env) {
	s := e.objects()
	keys := hostileObjectKeys()
	for _, key := range keys {
		s.put(key, "of "+key)
	}
	for _, key := range keys {
		s.is(key, "of "+key)
	}
	s.holds("", 7, keys...)
	for i, key := range keys {
		if i%2 == 0 {
			s.delete(key)
		}
	}
	for i, key := range keys {
		if i%2 == 0 {
			s.absent(key)
		} else {
			s.is(key, "of "+key)
		}
	}
}
