package memory

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// maxPending is how many keys a watch remembers before it only knows that it
// has lost some.
const maxPending = 4096

// watchers are the watches of one space.
type watchers struct {
	count atomic.Int32 // len(all), so that writes without watches take no lock

	mu  sync.RWMutex // guards all
	all map[*watch]struct{}
}

func (ws *watchers) add(w *watch) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.all == nil {
		ws.all = make(map[*watch]struct{})
	}
	ws.all[w] = struct{}{}
	ws.count.Store(int32(len(ws.all)))
}

func (ws *watchers) remove(w *watch) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	delete(ws.all, w)
	ws.count.Store(int32(len(ws.all)))
}

func (ws *watchers) tell(key string) {
	if ws.count.Load() == 0 {
		return
	}
	ws.mu.RLock()
	defer ws.mu.RUnlock()
	for w := range ws.all {
		if strings.HasPrefix(key, w.prefix) {
			w.tell(key)
		}
	}
}

// A watch collects changed keys until somebody takes them.
type watch struct {
	prefix string
	ended  func(*watch)  // called once, without locks
	wake   chan struct{} // of capacity 1: there may be something to take

	mu   sync.Mutex // guards what follows
	keys map[string]struct{}
	lost bool
	err  error // why it ended
}

func newWatch(prefix string, ended func(*watch)) *watch {
	return &watch{prefix: prefix, ended: ended, wake: make(chan struct{}, 1), keys: make(map[string]struct{})}
}

func (w *watch) tell(key string) {
	w.mu.Lock()
	switch {
	case w.lost:
	case len(w.keys) < maxPending:
		w.keys[strings.Clone(key)] = struct{}{}
	default:
		w.lost = true
		clear(w.keys)
	}
	w.mu.Unlock()
	w.signal()
}

func (w *watch) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Next waits for changes.
func (w *watch) Next(ctx context.Context) (driver.Change, error) {
	for {
		if err := ctx.Err(); err != nil {
			return driver.Change{}, errs.ReasonOf(err)
		}
		if change, ok, err := w.take(); ok || err != nil {
			return change, err
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
		}
	}
}

// take returns what has been collected, if anything.
func (w *watch) take() (change driver.Change, ok bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return driver.Change{}, false, w.err
	}
	if len(w.keys) == 0 && !w.lost {
		return driver.Change{}, false, nil
	}
	change.Lost = w.lost
	change.Keys = make([]string, 0, len(w.keys))
	for key := range w.keys {
		change.Keys = append(change.Keys, key)
	}
	clear(w.keys)
	w.lost = false
	return change, true, nil
}

// Close ends the watch.
func (w *watch) Close() error {
	w.end(errs.Cancelled)
	return nil
}

func (w *watch) end(reason error) {
	w.mu.Lock()
	first := w.err == nil
	if first {
		w.err = reason
	}
	w.mu.Unlock()
	if first {
		w.signal()
		w.ended(w)
	}
}
