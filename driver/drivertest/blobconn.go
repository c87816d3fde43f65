package drivertest

import (
	"context"
	"io"
	"os"
	"runtime"
	"runtime/metrics"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

func blobConnChecks() []check {
	return []check{
		{"conn/open-reports-every-mistake", nil, openReportsMistakes},
		{"conn/layout-mistakes", nil, layoutMistakes},
		{"conn/ping", nil, ping},
		{"conn/extents", nil, extents},
		{"conn/close-twice", nil, closeTwiceBlob},
		{"conn/use-after-close", nil, blobAfterClose},
		{"conn/close-under-load", nil, blobCloseUnderLoad},
		{"conn/persists", needsPersistent, blobPersists},
		{"conn/guarantees", nil, blobGuaranteesHold},
		{"context/ended-before", nil, blobEndedBefore},
	}
}

func closeTwiceBlob(e *env) {
	conn := e.open()
	e.objectsOn(conn, e.space()).put("a", "1")
	for range 2 {
		if err := conn.Close(); err != nil {
			e.Errorf("close: %v", err)
		}
	}
}

// endedWith checks that each method answers reason, in each result.
func (s *objects) endedWith(ctx context.Context, reason errs.Reason) {
	s.Helper()
	_, err := s.blob.Put(ctx, "a", strings.NewReader("2"), driver.PutOptions{})
	s.wants("put", err, reason)
	_, body, err := s.blob.Get(ctx, "a", driver.GetOptions{})
	s.wants("get", err, reason)
	if err == nil {
		_ = body.Close()
	}
	_, err = s.blob.Stat(ctx, "a")
	s.wants("stat", err, reason)
	_, err = s.blob.List(ctx, driver.ListRequest{Limit: 1})
	s.wants("list", err, reason)
	results := make([]error, 2)
	s.blob.Delete(ctx, []string{"a", "b"}, results)
	for _, err := range results {
		s.wants("delete", err, reason)
	}
}

func blobAfterClose(e *env) {
	conn := e.open()
	s := e.objectsOn(conn, e.space())
	c := content{1, e.streamed()}
	s.putContent("a", c, driver.PutOptions{})
	body := s.begun(e.ctx, "a", c)
	if err := conn.Close(); err != nil {
		e.Fatalf("close: %v", err)
	}
	s.endedWith(e.ctx, errs.BackendUnavailable)
	e.wants("ping", conn.Ping(e.ctx), errs.BackendUnavailable)
	_, err := io.Copy(io.Discard, body)
	e.wants("reading what was opened before", err, errs.BackendUnavailable)
	if err := body.Close(); err != nil {
		e.Errorf("close of a body after its connection: %v", err)
	}
}

// blobCloseUnderLoad closes a connection while others put and read through it:
// what is under way ends, one way or the other.
func blobCloseUnderLoad(e *env) {
	conn := e.open()
	s := e.objectsOn(conn, e.space())
	c := content{1, 100_000}
	s.putContent("a", c, driver.PutOptions{})
	const workers = 4
	started, ended := make(chan struct{}, 2*workers), make(chan error, 2*workers)
	until := func(call func() error) {
		started <- struct{}{}
		for {
			if err := call(); err != nil {
				ended <- err
				return
			}
		}
	}
	for range workers {
		go until(func() error {
			_, err := s.blob.Put(e.ctx, "b", c.reader(), driver.PutOptions{})
			return err
		})
		go until(func() error {
			_, err := s.whole("a")
			return err
		})
	}
	for range 2 * workers {
		<-started
	}
	e.within("close", closing, func() {
		if err := conn.Close(); err != nil {
			e.Errorf("close: %v", err)
		}
	})
	e.within("calls under way", closing, func() {
		for range 2 * workers {
			e.wants("a call under way or after it", <-ended, errs.BackendUnavailable, errs.OutcomeUnknown)
		}
	})
}

func blobPersists(e *env) {
	space := e.space()
	conn := e.open()
	s := e.objectsOn(conn, space)
	c := content{1, e.streamed()}
	s.putContent("a", c, driver.PutOptions{})
	long := strings.Repeat("k", driver.MaxBlobKey)
	s.put(long, "of a long key")
	s.put("empty", "")
	want := map[string]driver.Object{"a": s.stat("a"), long: s.stat(long), "empty": s.stat("empty")}
	if err := conn.Close(); err != nil {
		e.Fatalf("close: %v", err)
	}
	s = e.objectsOn(e.open(), space)
	for key, o := range want {
		if got := s.stat(key); !sameObject(got, o, true) {
			e.Errorf("%s after reopening: %+v, want %+v", brief(key), got, o)
		}
	}
	s.isContent("a", c)
	s.holds("", 2, "a", long, "empty")
}

func blobGuaranteesHold(e *env) {
	g := e.s.blob
	if g.Version != driver.WriteVersions && g.Version != driver.ContentVersions {
		e.Errorf("unknown Version %q", g.Version)
	}
	if g.ListCost != driver.ScanPrefix && g.ListCost != driver.ScanKeyspace {
		e.Errorf("unknown ListCost %q", g.ListCost)
	}
	if g.MaxObject < 1 || g.MaxObject > driver.MaxBlob {
		e.Errorf("MaxObject is %d", g.MaxObject)
	}
	if g.Ack.Settings == "" || g.Ack.Why == "" || !slices.Contains(e.s.h.Driver.Acks, g.Ack) {
		e.Errorf("Ack %+v says too little, or is not among the driver's Acks", g.Ack)
	}
	if g.Ack.Process && !e.s.h.Persistent && e.s.h.Server == nil {
		e.Error("Ack.Process, but the harness is neither Persistent nor has a Server: nothing shows it")
	}
	if again := e.objects().blob.Guarantees(); again != g {
		e.Errorf("Guarantees differ between two spaces: %+v and %+v", g, again)
	}
}

func blobEndedBefore(e *env) {
	s := e.objects()
	s.put("a", "1")
	cancelled, cancel := context.WithCancel(e.ctx)
	cancel()
	s.endedWith(cancelled, errs.Cancelled)
	late, cancel := context.WithDeadline(e.ctx, time.Now().Add(-time.Second))
	defer cancel()
	s.endedWith(late, errs.Deadline)
	s.is("a", "1")
}

func blobSpaceChecks() []check {
	return []check{
		{"spaces/same-names-same-data", nil, sameBlobSpace},
		{"spaces/hostile-pairs", nil, hostileBlobSpaces},
		{"spaces/apart-from-kv", needsKV, apartFromKV},
	}
}

func sameBlobSpace(e *env) {
	space := e.named(driver.Space{Namespace: "drivertest-" + unique() + `:%_*{}[]?\'"/ é`, Pattern: `p:%_*{}[]?\'"/ é..`})
	one, two := e.objectsOn(e.s.anchor, space), e.objectsOn(e.open(), space)
	one.put("a", "1")
	two.is("a", "1")
	two.delete("a")
	one.absent("a")
}

func hostileBlobSpaces(e *env) {
	for _, pair := range e.pairs() {
		a, b := e.objectsOn(e.s.anchor, pair[0]), e.objectsOn(e.s.anchor, pair[1])
		for _, key := range []string{"a", "b:a", "../a", "b/a"} {
			a.put(key, "of a")
			b.absent(key)
			b.holds("", 10)
			b.put(key, "of b")
			a.is(key, "of a")
			b.delete(key)
			a.holds("", 10, key)
			a.delete(key)
		}
	}
}

func needsKV(e *env) string {
	if b, err := e.s.anchor.Space(driver.Space{Namespace: "drivertest", Pattern: "kv"}); err != nil || b.KV == nil {
		return "there are only objects"
	}
	return ""
}

func apartFromKV(e *env) {
	space := e.space()
	s, kv := e.objectsOn(e.s.anchor, space), e.storeOn(e.s.anchor, space)
	kv.put("a", "entry")
	s.absent("a")
	s.holds("", 10)
	s.put("a", "object")
	s.put("b", "object")
	kv.is("a", "entry")
	kv.absent("b")
	kv.delete("a")
	s.is("a", "object")
}

// heap returns how many bytes are in use or not yet collected.
func heap() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// most runs f and returns by how much the heap grew at most meanwhile.
func most(f func()) uint64 {
	runtime.GC()
	before := heap()
	var peak atomic.Uint64
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				peak.Store(max(peak.Load(), heap()))
			}
		}
	}()
	f()
	close(stop)
	<-done
	return max(peak.Load(), before) - before
}

// largeObject puts and reads an object that is far larger than what the heap
// may grow by.
func largeObject(e *env) {
	size, bound := int64(256<<20), uint64(32<<20)
	if testing.Short() {
		size, bound = 64<<20, 16<<20
	}
	s := e.objects()
	c := content{1, min(size, e.s.blob.MaxObject)}
	if grown := most(func() { s.putContent("a", c, driver.PutOptions{}) }); grown > bound {
		e.Errorf("putting %d MiB took %d MiB of memory, at most %d may be", c.size>>20, grown>>20, bound>>20)
	}
	if grown := most(func() { s.isContent("a", c) }); grown > bound {
		e.Errorf("reading %d MiB took %d MiB of memory, at most %d may be", c.size>>20, grown>>20, bound>>20)
	}
	s.delete("a")
}

// blobLeaks opens, uses and closes connections, leaves bodies open and puts cut
// off, and looks for goroutines and files that are left.
func blobLeaks(e *env) {
	space := e.space()
	use := func() {
		conn := e.openAlone()
		e.useBlob(conn, space)
		if err := conn.Close(); err != nil {
			e.Errorf("close: %v", err)
		}
	}
	use() // what is made once and for all
	files, before := openFiles(), goleak.IgnoreCurrent()
	for range 3 {
		use()
	}
	if err := goleak.Find(before); err != nil {
		e.Errorf("after close: %v", err)
	}
	if now := openFiles(); now > files {
		e.Errorf("after close: %d files are open, %d were before", now, files)
	}
	if e.s.h.Server != nil {
		e.blobLeaksAfterFaults()
	}
}

// openAlone is open for who closes by himself.
func (e *env) openAlone() driver.Conn {
	e.Helper()
	conn, err := e.s.h.Driver.Open(e.s.h.Config)
	if err != nil {
		e.Fatalf("open: %v", err)
	}
	return conn
}

// openFiles returns how many files and sockets this process has open, 0 where
// the system does not tell.
func openFiles() int {
	all, _ := os.ReadDir("/proc/self/fd")
	return len(all)
}

func (e *env) useBlob(conn driver.Conn, space driver.Space) {
	e.Helper()
	s := e.objectsOn(conn, space)
	if err := conn.Ping(e.ctx); err != nil {
		e.Errorf("ping: %s", describe(err))
	}
	c := content{1, 300_000}
	s.putContent("a", c, driver.PutOptions{})
	s.stat("a")
	s.all("", 1)
	_ = s.begun(e.ctx, "a", c).Close()
	_ = s.begun(e.ctx, "a", c) // and never closed
	s.absent("b")
	_, _ = s.blob.Put(e.ctx, "b", io.MultiReader(c.reader(), failing{errCaller}), driver.PutOptions{})
	_, err := s.blob.Put(e.ctx, "b", unread{e}, driver.PutOptions{Size: -1})
	e.wants("put", err, errs.InvalidField)
	s.delete("a")
}
