package keyvalue

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func dueIn(d ...time.Duration) (ops []*operation) {
	for _, d := range d {
		ops = append(ops, &operation{due: time.Now().Add(d)})
	}
	return ops
}

func TestTermsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		p := &pipe{ctx: ctx}
		first := p.term(dueIn(time.Second, 8*time.Second, 2*time.Second))
		if end, _ := first.Deadline(); time.Until(end) != 9*time.Second {
			t.Errorf("it ends in %v, want an eighth more than 8 s", time.Until(end))
		}
		time.Sleep(500 * time.Millisecond)
		if again := p.term(dueIn(8 * time.Second)); again != first {
			t.Error("one that is due at about the same time has a term of its own")
		}
		first.leave()
		sooner := p.term(dueIn(time.Second))
		if sooner == first {
			t.Error("one that is due soon has the term of one that is due late")
		}
		if first.Err() != nil {
			t.Error("a term that is in use has ended")
		}
		first.leave()
		if first.Err() == nil {
			t.Error("a term that nobody uses goes on")
		}
		time.Sleep(2 * time.Second)
		if sooner.Err() == nil {
			t.Error("it has not ended in time")
		}
		sooner.leave()
		later := p.term(dueIn(time.Second))
		if later.Err() != nil {
			t.Error("the next one has ended already")
		}
		if over := p.term(dueIn(-time.Second)); over == later || over.Err() == nil {
			t.Error("what is due already has a term that goes on")
		}
		last := p.term(dueIn(time.Minute))
		cancel()
		if last.Err() == nil {
			t.Error("it outlives the stream")
		}
	})
}
