package wrap

import (
	"container/list"
	"context"
	"sync"
	"time"

	"github.com/prismgw/prism/errs"
)

// Bell wakes those who wait for something to come under a key: in turn, as many
// as something came for. The zero value is ready for use.
type Bell[K comparable] struct {
	mu   sync.Mutex // guards what follows
	keys map[K]*queued
}

// queued are those who wait under one key.
type queued struct {
	members int         // how many there are
	idle    list.List   // of *sleeper: those of them that no ring is on its way to
	timer   *time.Timer // rings; nil: nothing is to happen by itself
	at      time.Time   // when it does
}

type sleeper struct {
	ring  chan ring // of capacity 1
	place *list.Element
}

// A ring is what wakes a sleeper.
type ring int

const (
	silence ring = iota
	once         // something has come for one of them
	pass         // something may have come: whoever finds it rings for the next one
)

// firstRing is how soon a timer rings at the earliest, so that a clock that is
// less precise than it is makes nobody ask in a circle.
const firstRing = time.Millisecond

// Wait calls try until it has found something or fails, and after so long a wait
// gives up without an error. Between two calls it waits for a ring, or for the
// time that try says something may come by itself, 0 for never. When closed is
// closed it fails with errs.BackendUnavailable.
func (b *Bell[K]) Wait(ctx context.Context, closed <-chan struct{}, key K, wait time.Duration, try func() (found bool, next time.Duration, err error)) error {
	if wait <= 0 {
		_, _, err := try()
		return err
	}
	w, heard := b.join(key), silence
	defer func() { b.leave(key, w, heard) }()
	over := time.NewTimer(wait)
	defer over.Stop()
	for {
		found, next, err := try()
		if err != nil {
			return err
		}
		if found {
			if heard == once {
				heard = silence
			}
			return nil
		}
		b.After(key, next)
		heard = silence
		select {
		case heard = <-w.ring:
			b.back(key, w)
		case <-over.C:
			return nil
		case <-ctx.Done():
			return errs.ReasonOf(ctx.Err())
		case <-closed:
			return errs.BackendUnavailable
		}
	}
}

func (b *Bell[K]) join(key K) *sleeper {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.keys == nil {
		b.keys = make(map[K]*queued)
	}
	q := b.keys[key]
	if q == nil {
		q = &queued{}
		b.keys[key] = q
	}
	q.members++
	w := &sleeper{ring: make(chan ring, 1)}
	w.place = q.idle.PushBack(w)
	return w
}

// back makes a sleeper that has been woken the first in turn again.
func (b *Bell[K]) back(key K, w *sleeper) {
	b.mu.Lock()
	w.place = b.keys[key].idle.PushFront(w)
	b.mu.Unlock()
}

// leave hands a ring that was heard and not used, or not even heard, to the next
// in turn.
func (b *Bell[K]) leave(key K, w *sleeper, heard ring) {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := b.keys[key]
	if w.place != nil {
		q.idle.Remove(w.place)
	}
	select {
	case late := <-w.ring:
		heard = max(heard, late)
	default:
	}
	if heard != silence {
		q.wake(heard)
	}
	if q.members--; q.members > 0 {
		return
	}
	if q.timer != nil {
		q.timer.Stop()
	}
	delete(b.keys, key)
}

// wake wakes the next in turn and reports whether there was one.
func (q *queued) wake(r ring) bool {
	front := q.idle.Front()
	if front == nil {
		return false // all of them are about to look anyway
	}
	w, _ := q.idle.Remove(front).(*sleeper)
	w.place = nil
	w.ring <- r
	return true
}

// Ring says that n things have come under a key.
func (b *Bell[K]) Ring(key K, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if q := b.keys[key]; q != nil {
		for ; n > 0 && q.wake(once); n-- {
		}
	}
}

// RingAll says that any number of things may have come under any key.
func (b *Bell[K]) RingAll() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, q := range b.keys {
		q.wake(pass)
	}
}

// After says that things may come under a key by themselves after d; 0: never.
func (b *Bell[K]) After(key K, d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := b.keys[key]
	if q == nil || d == 0 {
		return
	}
	d = max(d, firstRing)
	at := time.Now().Add(d)
	if q.timer != nil {
		if !at.Before(q.at) {
			return
		}
		q.timer.Stop()
	}
	q.at = at
	var timer *time.Timer
	timer = time.AfterFunc(d, func() { b.expire(q, func() bool { return q.timer == timer }) })
	q.timer = timer
}

// expire rings for a timer that has not been replaced meanwhile. The last to
// leave may have stopped it too late, after which q is nobody's.
func (b *Bell[K]) expire(q *queued, current func() bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if current() {
		q.timer = nil
		q.wake(pass)
	}
}
