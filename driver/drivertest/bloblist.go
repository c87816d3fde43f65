package drivertest

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

func listChecks() []check {
	return []check{
		{"list/prefixes", nil, listPrefixes},
		{"list/page-limits", nil, listPageLimits},
		{"list/many", nil, listMany},
		{"list/tells-what-stat-tells", nil, listTells},
		{"list/while-objects-come-and-go", nil, listDuringChanges},
		{"list/while-it-deletes", nil, listAndDelete},
		{"list/wrong-cursors", nil, listWrongCursors},
		{"list/cursor-outlives-its-connection", nil, listCursorOutlives},
	}
}

// checkObjects checks what holds for every page.
func (s *objects) checkObjects(r *driver.ListRequest, p *driver.ObjectPage) {
	s.Helper()
	if len(p.Objects) > r.Limit {
		s.Errorf("list %s: %d objects, at most %d asked for", brief(r.Prefix), len(p.Objects), r.Limit)
	}
	if p.Next != nil && len(p.Next) == 0 || len(p.Next) > driver.MaxBlobKey+64 {
		s.Errorf("list %s: Next has %d bytes, and is neither nil nor of 1 to %d", brief(r.Prefix), len(p.Next), driver.MaxBlobKey+64)
	}
	for _, o := range p.Objects {
		if !strings.HasPrefix(o.Key, r.Prefix) {
			s.Errorf("list %s: finds %s", brief(r.Prefix), brief(o.Key))
		}
		if o.Metadata != nil {
			s.Errorf("list %s: brings metadata of %s", brief(r.Prefix), brief(o.Key))
		}
	}
}

// listPrefixes lists hostile keys by each of their beginnings.
func listPrefixes(e *env) {
	s := e.objects()
	keys := hostileObjectKeys()
	for _, key := range keys {
		s.put(key, "")
	}
	prefixes := map[string]bool{"": true, "nothing begins so": true, "a%%": true, "A%": true}
	for _, key := range keys {
		runes := []rune(key)
		for _, n := range []int{1, 2, len(runes) - 1, len(runes)} {
			prefixes[string(runes[:n])] = true
		}
		prefixes[key[:min(len(key), 1)]] = true // half a character, too
	}
	for prefix := range prefixes {
		s.holds(prefix, 9, withPrefix(keys, prefix)...)
	}
}

func listPageLimits(e *env) {
	s := e.objects()
	s.holds("", 1)
	var keys []string
	for i := range 30 {
		keys = append(keys, fmt.Sprintf("k%02d", i))
		s.put(keys[i], "value")
		s.put(fmt.Sprintf("l%02d", i), "another")
	}
	for _, limit := range []int{1, 2, 7, 29, 30, 31, 60, 1000, 1 << 30} {
		s.holds("k", limit, keys...)
	}
	s.holds("k07", 1, "k07")
	s.holds("k1", 4, keys[10:20]...)
	s.holds("m", 1)
}

func listMany(e *env) {
	s := e.objects()
	n := 1100 // more than a page of most services
	keys := make([]string, n)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := w; i < n; i += 4 {
				keys[i] = fmt.Sprintf("k%d", i*7919%n)
				if _, err := s.blob.Put(e.ctx, keys[i], strings.NewReader(keys[i]), driver.PutOptions{}); err != nil {
					e.Errorf("put: %s", describe(err))
					return
				}
			}
		})
	}
	wg.Wait()
	s.holds("", 100, keys...)
	s.holds("", 5000, keys...)
}

func listTells(e *env) {
	s := e.objects()
	s.put("a", "")
	s.ok("b", "value", driver.PutOptions{Metadata: map[string]string{"a": "b"}})
	s.put(strings.Repeat("long", driver.MaxBlobKey/4), "of a long one")
	for _, listed := range s.all("", 2) {
		if got := s.stat(listed.Key); !sameObject(got, listed, false) {
			e.Errorf("%s: list tells %+v, stat %+v", brief(listed.Key), listed, got)
		}
	}
}

// listDuringChanges lists while others put and delete, and while one is being
// put that is never finished.
func listDuringChanges(e *env) {
	s := e.objects()
	var stay []string
	for i := range 50 {
		stay = append(stay, fmt.Sprintf("k%02d-stays", i))
		s.put(stay[i], "1")
	}
	never, unfinished := io.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() {
		defer func() { _ = never.Close() }() // frees who writes into it
		_, _ = s.blob.Put(e.ctx, "k10-never", never, driver.PutOptions{})
	})
	if _, err := unfinished.Write([]byte("a beginning")); err != nil {
		e.Fatal(err)
	}
	stop := make(chan struct{})
	for w := range 2 {
		wg.Go(func() {
			for i := w; ; i = (i + 7) % 50 {
				select {
				case <-stop:
					return
				default:
				}
				key := fmt.Sprintf("k%02d-comes", i)
				_, _ = s.blob.Put(e.ctx, key, strings.NewReader("1"), driver.PutOptions{})
				s.blob.Delete(e.ctx, []string{key}, make([]error, 1))
			}
		})
	}
	for _, limit := range []int{1, 3, 20, 1000, 3, 3} {
		keys := objectKeys(s.all("k", limit))
		if !slices.IsSorted(keys) || len(slices.Compact(slices.Clone(keys))) != len(keys) {
			e.Errorf("list in pages of %d: not in order, or not each once: %s", limit, briefAll(keys))
		}
		if lost := without(stay, keys); len(lost) > 0 {
			e.Errorf("list in pages of %d: %s were there all the time", limit, briefAll(lost))
		}
		if slices.Contains(keys, "k10-never") {
			e.Errorf("list in pages of %d: finds an object that is still being put", limit)
		}
	}
	close(stop)
	_ = unfinished.CloseWithError(io.ErrUnexpectedEOF)
	wg.Wait()
	s.absent("k10-never")
}

// listAndDelete deletes each page before it asks for the next one.
func listAndDelete(e *env) {
	s := e.objects()
	for i := range 30 {
		s.put(fmt.Sprintf("k%02d", i), "1")
	}
	found := 0
	r := driver.ListRequest{Limit: 4}
	for {
		p, err := s.blob.List(e.ctx, r)
		if err != nil {
			e.Fatalf("list: %s", describe(err))
		}
		found += len(p.Objects)
		s.delete(objectKeys(p.Objects)...)
		if p.Next == nil {
			break
		}
		r.Cursor = p.Next
	}
	if found != 30 {
		e.Errorf("found %d of 30 objects while deleting them", found)
	}
	s.holds("", 10)
}

func (s *objects) firstPage(prefix string) driver.ObjectPage {
	s.Helper()
	p, err := s.blob.List(s.ctx, driver.ListRequest{Prefix: prefix, Limit: 2})
	if err != nil || p.Next == nil {
		s.Fatalf("list: %d objects and no next page: %v", len(p.Objects), err)
	}
	return p
}

func listWrongCursors(e *env) {
	s := e.objects()
	for _, key := range []string{"a", "aa", "aaa", "aaaa", "b"} {
		s.put(key, "1")
	}
	good := s.firstPage("a").Next
	for what, r := range map[string]driver.ListRequest{
		"an empty one": {Prefix: "a", Cursor: []byte{}}, "text": {Prefix: "a", Cursor: []byte("aaa")},
		"a cut one": {Prefix: "a", Cursor: good[:len(good)-1]}, "a longer one": {Prefix: "a", Cursor: append(slices.Clone(good), 'a')},
		"another prefix": {Prefix: "aa", Cursor: good}, "no prefix": {Cursor: good},
	} {
		r.Limit = 2
		_, err := s.blob.List(e.ctx, r)
		e.wants("list with a wrong cursor: "+what, err, errs.InvalidCursor)
	}
	_, err := s.blob.List(e.ctx, driver.ListRequest{})
	e.wants("list without a limit", err, errs.InvalidField)
}

func listCursorOutlives(e *env) {
	conn := e.open()
	s := e.objectsOn(conn, e.space())
	for _, key := range []string{"a", "b", "c", "d"} {
		s.put(key, "1")
	}
	next := s.firstPage("").Next
	if err := conn.Close(); err != nil {
		e.Fatalf("close: %v", err)
	}
	s = s.again(e.open())
	p, err := s.blob.List(e.ctx, driver.ListRequest{Cursor: next, Limit: 5})
	if got := objectKeys(p.Objects); err != nil || !slices.Equal(got, []string{"c", "d"}) {
		e.Errorf("the page behind b, through another connection: %q, %v", got, err)
	}
}
