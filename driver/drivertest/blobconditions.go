package drivertest

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

func blobConditionChecks() []check {
	return []check{
		{"conditions/if-absent", needsConditional, blobIfAbsent},
		{"conditions/if-version", needsConditional, blobIfVersion},
		{"conditions/one-of-many-wins", needsConditional, oneWins},
		{"conditions/no-update-is-lost", needsConditional, noUpdateIsLost},
		{"conditions/of-the-end", needsConditional, conditionsOfTheEnd},
		{"conditions/refused", needsUnconditional, conditionsRefused},
	}
}

func needsConditional(e *env) string {
	if !e.s.blob.Conditional {
		return "a put takes no conditions"
	}
	return ""
}

func needsUnconditional(e *env) string {
	if e.s.blob.Conditional {
		return "a put takes conditions"
	}
	return ""
}

func blobIfAbsent(e *env) {
	s := e.objects()
	absent := driver.PutOptions{IfAbsent: true}
	first := s.ok("a", "1", absent)
	if got := s.failure("a", "2", absent, errs.AlreadyExists).Meta["version"]; got != first.Version {
		e.Errorf("the error tells of version %q, want %q", got, first.Version)
	}
	s.is("a", "1")
	s.delete("a")
	s.ok("a", "", absent)
	s.fails("a", "3", absent, errs.AlreadyExists)
	s.is("a", "")
	s.fails("b", "1", driver.PutOptions{IfAbsent: true, IfVersion: first.Version}, errs.InvalidField)
	s.absent("b")
}

func blobIfVersion(e *env) {
	s := e.objects()
	first := s.put("a", "1").Version
	second := s.ok("a", "2", driver.PutOptions{IfVersion: first}).Version
	if got := s.failure("a", "3", driver.PutOptions{IfVersion: first}, errs.VersionMismatch).Meta["current"]; got != second {
		e.Errorf("the error tells of version %q, want %q", got, second)
	}
	s.is("a", "2")
	s.delete("a")
	err := s.failure("a", "3", driver.PutOptions{IfVersion: second}, errs.VersionMismatch)
	if current, there := err.Meta["current"]; there {
		e.Errorf("the error tells of version %q of an absent object", current)
	}
	s.absent("a")
	s.fails("never", "1", driver.PutOptions{IfVersion: second}, errs.VersionMismatch)
	s.fails("a", "1", driver.PutOptions{IfVersion: "no version of anybody"}, errs.VersionMismatch)
	s.holds("", 10)
}

// sides returns two connections' views of one space.
func (e *env) sides() [2]*objects {
	e.Helper()
	s := e.objects()
	return [2]*objects{s, s.again(e.open())}
}

// oneWins lets many put one absent key at once: each has begun before one ends,
// as far as the driver lets them.
func oneWins(e *env) {
	sides := e.sides()
	const putters = 12
	for round := range 20 {
		key := fmt.Sprint("round ", round)
		var wg sync.WaitGroup
		var read atomic.Int64
		all := make(chan struct{})
		together := func() {
			if read.Add(1) == putters {
				close(all)
			}
			select {
			case <-all:
			case <-time.After(100 * time.Millisecond):
			}
		}
		var won [putters]bool
		for w := range putters {
			wg.Go(func() {
				c := content{uint64(w), int64(10_000 + w)}
				r := io.MultiReader(c.reader(), after(sync.OnceFunc(together)))
				_, err := sides[w%2].blob.Put(e.ctx, key, r, driver.PutOptions{IfAbsent: true, Metadata: c.metadata()})
				if won[w] = err == nil; !won[w] {
					e.wants("put if absent", err, errs.AlreadyExists)
				}
			})
		}
		wg.Wait()
		winners := 0
		for w := range putters {
			if won[w] {
				winners++
				sides[0].isContent(key, content{uint64(w), int64(10_000 + w)})
			}
		}
		if winners != 1 {
			e.Errorf("%d of %d putters if absent were told that they won", winners, putters)
		}
	}
}

// noUpdateIsLost lets many add 1 to a number that an object holds.
func noUpdateIsLost(e *env) {
	sides := e.sides()
	sides[0].put("n", "0")
	const workers, each = 6, 5
	var lost atomic.Int64
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			s := sides[w%2]
			for done := 0; done < each; {
				there, text := s.read("n", driver.GetOptions{})
				n, err := strconv.Atoi(text)
				if err != nil {
					e.Errorf("the number reads %q", text)
					return
				}
				_, err = s.blob.Put(e.ctx, "n", strings.NewReader(strconv.Itoa(n+1)), driver.PutOptions{IfVersion: there.Version})
				switch {
				case err == nil:
					done++
				case !e.wants("put if version", err, errs.VersionMismatch):
					return
				default:
					lost.Add(1)
				}
			}
		})
	}
	wg.Wait()
	sides[0].is("n", fmt.Sprint(workers*each))
	if lost.Load() == 0 {
		e.Logf("no two of %d updates met", workers*each)
	}
}

// conditionsOfTheEnd changes the object while a put whose condition held at its
// beginning is still being read.
func conditionsOfTheEnd(e *env) {
	s := e.objects()
	version := s.put("a", "1").Version
	for key, o := range map[string]driver.PutOptions{"a": {IfVersion: version}, "b": {IfAbsent: true}} {
		reason := errs.VersionMismatch
		if o.IfAbsent {
			reason = errs.AlreadyExists
		}
		_, err := s.blob.Put(e.ctx, key, &interrupted{text: "begun before", then: func() { s.put(key, "of another") }}, o)
		e.wants("put whose condition went while it was read", err, reason)
		s.is(key, "of another")
	}
}

// interrupted is text in which something happens after the first byte.
type interrupted struct {
	text string
	then func()
	once sync.Once
	at   int
}

func (r *interrupted) Read(b []byte) (int, error) {
	if r.at > 0 {
		r.once.Do(r.then)
	}
	n, err := strings.NewReader(r.text[r.at:]).Read(b[:min(len(b), 1)])
	r.at += n
	return n, err
}

func conditionsRefused(e *env) {
	s := e.objects()
	s.fails("a", "1", driver.PutOptions{IfAbsent: true}, errs.Unsupported)
	s.put("a", "1")
	s.fails("a", "2", driver.PutOptions{IfVersion: s.stat("a").Version}, errs.Unsupported)
	s.is("a", "1")
}
