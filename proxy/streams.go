package proxy

import (
	"math/rand/v2"
	"sync"
	"time"
)

// streamAge is when a stream is asked to move to another connection, give or
// take a fifth, so that load follows new proxies.
const streamAge = 10 * time.Minute

// streams are the open streams of operations. They are asked to go when they
// are old and when the proxy stops.
type streams struct {
	once sync.Once
	all  chan struct{} // closed when every stream should go
}

func newStreams() *streams { return &streams{all: make(chan struct{})} }

// goAway asks every stream to go.
func (s *streams) goAway() { s.once.Do(func() { close(s.all) }) }

// join returns the channel that tells a new stream to go; leave must follow.
func (s *streams) join() (leave func(), going <-chan struct{}) {
	own, gone := make(chan struct{}), make(chan struct{})
	age := streamAge*4/5 + rand.N(streamAge*2/5)
	go func() {
		defer close(own)
		t := time.NewTimer(age)
		defer t.Stop()
		select {
		case <-t.C:
		case <-s.all:
		case <-gone:
		}
	}()
	return func() { close(gone) }, own
}
