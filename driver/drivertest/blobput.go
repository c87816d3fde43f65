package drivertest

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing/iotest"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

func putChecks() []check {
	return []check{
		{"put/any-size", nil, putAnySize},
		{"put/any-reader", nil, putAnyReader},
		{"put/replaces", nil, putReplaces},
		{"put/metadata", nil, putMetadata},
		{"put/versions", nil, putVersions},
		{"put/modified", nil, putModified},
		{"put/every-connection-sees-it", nil, putSeen},
		{"put/wrong-size", nil, putWrongSize},
		{"put/stated-too-large", nil, putStatedTooLarge},
		{"put/largest", needsSmallLimit, putLargest},
	}
}

func putAnySize(e *env) {
	s := e.objects()
	for _, size := range []int64{0, 1, 7, 4095, 4096, 4097, 64 << 10, 1<<20 - 1, 1<<20 + 1, 5<<20 + 3} {
		c := content{uint64(size), min(size, e.s.blob.MaxObject)}
		for _, stated := range []int64{0, c.size} {
			key := fmt.Sprintf("size-%d-%d", size, stated)
			made := s.putContent(key, c, driver.PutOptions{Size: stated})
			if there := s.isContent(key, c); made.Key != key || made.Size != c.size || made.Version != there.Version {
				e.Errorf("put of %d bytes answers %+v, get %+v", c.size, made, there)
			}
		}
	}
}

// stingy returns nothing every other time it is read.
type stingy struct {
	io.Reader
	full bool
}

func (r *stingy) Read(b []byte) (int, error) {
	if r.full = !r.full; r.full {
		return 0, nil
	}
	return r.Reader.Read(b[:min(len(b), 5)])
}

// putAnyReader puts from readers that use all that io.Reader allows.
func putAnyReader(e *env) {
	s := e.objects()
	text := strings.Repeat("0123456789", 500)
	for name, r := range map[string]io.Reader{
		"one-byte":      iotest.OneByteReader(strings.NewReader(text)),
		"half":          iotest.HalfReader(strings.NewReader(text)),
		"end-with-data": iotest.DataErrReader(strings.NewReader(text)),
		"stingy":        &stingy{Reader: strings.NewReader(text)},
		"only-reader":   struct{ io.Reader }{strings.NewReader(text)},
	} {
		if _, err := s.blob.Put(e.ctx, name, r, driver.PutOptions{Size: int64(len(text))}); err != nil {
			e.Errorf("put from reader %s: %s", name, describe(err))
			continue
		}
		s.is(name, text)
	}
}

func putReplaces(e *env) {
	s := e.objects()
	for i, text := range []string{"first", "", "a longer one", "short", strings.Repeat("x", 100_000), "end"} {
		s.ok("a", text, driver.PutOptions{Metadata: map[string]string{fmt.Sprintf("n%d", i): "x"}})
		there := s.is("a", text)
		if want := map[string]string{fmt.Sprintf("n%d", i): "x"}; !maps.Equal(there.Metadata, want) {
			e.Errorf("metadata of put %d: got %q, want %q", i, there.Metadata, want)
		}
		s.holds("", 10, "a")
	}
	s.put("a", "nothing beside")
	if got := s.stat("a").Metadata; len(got) > 0 {
		e.Errorf("metadata %q stays after a put without any", got)
	}
}

func putMetadata(e *env) {
	s := e.objects()
	var printable strings.Builder
	for c := byte(' ') + 1; c < 0x7f; c++ {
		printable.WriteByte(c)
	}
	long := strings.Repeat("v", driver.MaxMetadata-1)
	many := map[string]string{}
	for i := range driver.MaxMetadata / 8 {
		many[fmt.Sprintf("k%03d", i)] = fmt.Sprintf("%04d", i)
	}
	for name, want := range map[string]map[string]string{
		"none": nil, "one": {"sha-256": "abc"}, "printable": {"a": printable.String(), "a-b-0": "in the middle"},
		"longest-value": {"v": long}, "longest-name": {"n" + strings.Repeat("-", driver.MaxMetadata-2): "v"}, "many": many,
	} {
		given := maps.Clone(want)
		s.ok(name, name, driver.PutOptions{Metadata: given})
		for key := range given {
			given[key] = "changed by the caller"
		}
		for range 2 {
			got := s.is(name, name).Metadata
			if !maps.Equal(got, want) || !maps.Equal(s.stat(name).Metadata, want) {
				e.Errorf("metadata %s: got %q, want %q", name, got, want)
			}
			for key := range got {
				got[key] = "changed by the caller"
			}
		}
	}
}

// putVersions checks the form of versions, and that each put has one of its
// own where that is promised.
func putVersions(e *env) {
	s := e.objects()
	seen := map[string]bool{}
	see := func(version string) {
		if version == "" || len(version) > driver.MaxVersion || strings.Trim(version, versionBytes) != "" {
			e.Errorf("version %q is no version", version)
		}
		if seen[version] {
			e.Errorf("version %q was there before", version)
		}
		seen[version] = true
	}
	for i := range 5 {
		text := "the same"
		if e.s.blob.Version == driver.ContentVersions {
			text = fmt.Sprint("content ", i)
		}
		see(s.put("a", text).Version)
		if i == 3 {
			s.delete("a")
		}
	}
	first := s.stat("a").Version
	s.put("b", "other")
	if again := s.stat("a").Version; again != first {
		e.Errorf("the version of an object that nobody touched went from %q to %q", first, again)
	}
}

const versionBytes = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."

func putModified(e *env) {
	s := e.objects()
	s.put("a", "1")
	first := s.stat("a").Modified
	if away := time.Since(first).Abs(); first.IsZero() || away > time.Hour {
		e.Fatalf("an object that was just put was modified %s ago", away)
	}
	e.await("a later time", func() bool {
		s.put("a", "2")
		return s.stat("a").Modified.After(first)
	})
	if got := s.stat("a"); !sameObject(s.is("a", "2"), got, true) {
		e.Errorf("get and stat tell different things of one object: %+v", got)
	}
}

func putSeen(e *env) {
	one := e.objects()
	two := one.again(e.open())
	one.put("a", "1")
	two.is("a", "1")
	two.put("a", "2")
	one.is("a", "2")
	one.delete("a")
	two.absent("a")
	two.holds("", 10)
}

func putWrongSize(e *env) {
	s := e.objects()
	s.put("there", "before")
	for _, key := range []string{"there", "not"} {
		for text, stated := range map[string]int64{"abc": 4, "abcd": 3, "": 1, "x": -1, strings.Repeat("x", 100_000): 99_999} {
			err := s.failure(key, text, driver.PutOptions{Size: stated}, errs.InvalidField)
			if !slices.ContainsFunc(err.Fields, func(f errs.Field) bool { return f.Path == "size" }) {
				e.Errorf("put of %d bytes as %d: the error does not name the size: %v", len(text), stated, err)
			}
		}
	}
	s.is("there", "before")
	s.absent("not")
	s.holds("", 10, "there")
}

// unread fails the check when it is read.
type unread struct{ e *env }

func (r unread) Read([]byte) (int, error) {
	r.e.Error("the reader of a put that cannot succeed is read")
	return 0, io.EOF
}

func putStatedTooLarge(e *env) {
	s := e.objects()
	_, err := s.blob.Put(e.ctx, "a", unread{e}, driver.PutOptions{Size: e.s.blob.MaxObject + 1})
	e.wants("put", err, errs.PayloadTooLarge)
	if got := errs.From(err).Meta["limit"]; got != fmt.Sprint(e.s.blob.MaxObject) {
		e.Errorf("the error's limit is %q, want %d", got, e.s.blob.MaxObject)
	}
	s.absent("a")
}

// affordable is the largest object that is put to see the limit.
const affordable = 64 << 20

func needsSmallLimit(e *env) string {
	if e.s.blob.MaxObject > affordable {
		return "an object of the largest size takes too long; the driver's own tests lower the limit"
	}
	return ""
}

func putLargest(e *env) {
	s := e.objects()
	c := content{1, e.s.blob.MaxObject}
	s.putContent("largest", c, driver.PutOptions{})
	s.isContent("largest", c)
	c.size++
	_, err := s.blob.Put(e.ctx, "larger", c.reader(), driver.PutOptions{})
	e.wants("put of a byte more", err, errs.PayloadTooLarge)
	s.holds("", 10, "largest")
	s.delete("largest")
}
