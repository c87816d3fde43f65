package drivertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

func cutOffChecks() []check {
	return []check{
		{"cut-off/reader-fails", nil, readerFails},
		{"cut-off/reader-panics", nil, readerPanics},
		{"cut-off/context-ends", nil, putContextEnds},
		{"cut-off/whole-or-not-at-all", nil, wholeOrNot},
	}
}

var errCaller = errors.New("the caller's own error")

// readerFails cuts puts off at several places, by errors of all kinds.
func readerFails(e *env) {
	s := e.objects()
	s.put("there", "before")
	for _, failure := range []error{errCaller, io.ErrUnexpectedEOF, fmt.Errorf("wrapped: %w", io.EOF), errs.KeyNotFound} {
		for _, after := range []int64{0, 1, 100_000, e.streamed()} {
			for _, key := range []string{"there", "not"} {
				r := io.MultiReader(content{1, after}.reader(), failing{failure})
				_, err := s.blob.Put(e.ctx, key, r, driver.PutOptions{})
				if !errors.Is(err, failure) {
					e.Errorf("put whose reader fails with %q after %d bytes: %v", failure, after, err)
				}
			}
		}
	}
	s.is("there", "before")
	s.absent("not")
	s.holds("", 10, "there")
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// readerPanics checks that a put whose caller's reader is broken leaves nothing
// behind either, locks included.
func readerPanics(e *env) {
	s := e.objects()
	s.put("a", "before")
	func() {
		defer func() { _ = recover() }()
		r := &interrupted{text: "text", then: func() { panic("of the reader") }} //nolint:forbidigo // what is tested
		_, err := s.blob.Put(e.ctx, "a", r, driver.PutOptions{})
		e.Errorf("put whose reader panics: %v", err)
	}()
	s.is("a", "before")
	s.put("a", "after")
	s.is("a", "after")
}

func putContextEnds(e *env) {
	s := e.objects()
	s.put("there", "before")
	for _, key := range []string{"there", "not"} {
		ctx, cancel := context.WithCancel(e.ctx)
		c := content{1, e.streamed() / 2}
		_, err := s.blob.Put(ctx, key, io.MultiReader(c.reader(), after(cancel), c.reader()), driver.PutOptions{})
		e.wants("put whose context ends in the middle", err, errs.Cancelled)
	}
	s.is("there", "before")
	s.absent("not")
	s.holds("", 10, "there")
}

// after is an empty reader that calls f when it is reached.
func after(f func()) io.Reader { return atEnd(f) }

type atEnd func()

func (f atEnd) Read([]byte) (int, error) {
	f()
	return 0, io.EOF
}

// wholeOrNot lets some put, delete and cut off puts of one key while others
// read it: whoever finds it finds one object as a whole.
func wholeOrNot(e *env) {
	sides := e.sides()
	const rounds = 40
	var wg, readers sync.WaitGroup
	done := make(chan struct{})
	for w := range 3 {
		wg.Go(func() {
			s := sides[w%2]
			for i := range rounds {
				c := content{uint64(w*rounds + i), int64(1+w*100_000) + int64(i*1000)}
				o := driver.PutOptions{Metadata: c.metadata()}
				switch _, err := s.blob.Put(e.ctx, "a", c.reader(), o); {
				case err != nil:
					e.Errorf("put: %s", describe(err))
				case i%5 == 0:
					s.delete("a")
				case i%5 == 1:
					_, _ = s.blob.Put(e.ctx, "a", io.MultiReader(c.reader(), failing{errCaller}), o)
				}
			}
		})
	}
	for w := range 3 {
		readers.Go(func() {
			for {
				_, err := sides[w%2].whole("a")
				if reason := errs.ReasonOf(err); err != nil && reason != errs.ObjectNotFound && reason != errs.VersionMismatch {
					e.Errorf("get: %v", err)
					return
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	wg.Wait()
	close(done)
	readers.Wait()
	sides[0].put("a", "")
	sides[1].is("a", "")
}

func needsEmbeddedBlob(e *env) string {
	switch {
	case e.s.h.Server != nil || e.s.blob.Shared:
		return "the data lies in a server; faults/killed-and-restarted kills that"
	case !e.s.h.Persistent || !e.s.blob.Ack.Process:
		return "an acknowledged object does not survive the process"
	}
	return ""
}

// putterKilled kills a process that puts objects, and looks for those that it
// was acknowledged.
func putterKilled(e *env) {
	c := e.s.h.Config
	if c.Dir != "" {
		c.Dir = e.TempDir()
	}
	space := e.spaceIn(c)
	o := orders{Test: testName(e.Name()), URL: c.URL, Dir: c.Dir, Options: c.Options, Asserts: c.Asserts, Namespace: space.Namespace, Layout: space.Layout}
	for i := range o.First {
		o.First[i] = 1
	}
	for range 4 {
		acked := e.killChild(o)
		conn := e.openConfig(c)
		s := e.objectsOn(conn, space)
		var keys []string
		for w := range writers {
			keys = append(keys, writerKey(w))
			o.First[w] = s.objectAfterKill(w, acked[w]) + 1
		}
		s.holds("", 10, keys...)
		if err := conn.Close(); err != nil {
			e.Fatalf("close: %v", err)
		}
	}
}

// objectAfterKill checks what a writer left behind and returns its number: that
// of the last object it was acknowledged, or of the one that was under way.
func (s *objects) objectAfterKill(w, acked int) int {
	s.Helper()
	for _, i := range []int{acked, acked + 1} {
		if there := s.stat(writerKey(w)); there.Metadata["seed"] == fmt.Sprint(i) {
			s.isContent(writerKey(w), killedContent(w, i))
			return i
		}
	}
	s.Fatalf("writer %d: %d objects were acknowledged, and %v is there", w, acked, s.stat(writerKey(w)).Metadata)
	return 0
}

// killedContent is the i-th object of a writer.
func killedContent(w, i int) content { return content{uint64(i), int64(w * 70_000)} }

// blobWriter puts one object after the other until its process is killed.
func blobWriter(t *testing.T, b driver.Backend, o *orders, w int) {
	for i := o.First[w]; ; i++ {
		c := killedContent(w, i)
		if _, err := b.Blob.Put(context.Background(), writerKey(w), c.reader(), driver.PutOptions{Metadata: c.metadata()}); err != nil {
			t.Errorf("writer %d: put %d: %v", w, i, err)
			return
		}
		if _, err := fmt.Fprintf(os.Stdout, "acked %d %d\n", w, i); err != nil {
			return
		}
	}
}
