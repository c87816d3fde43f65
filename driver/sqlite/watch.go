package sqlite

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

// Watch begins to watch what this process writes; nobody else may write.
func (s *space) Watch(ctx context.Context, prefix string) (driver.Watch, error) {
	if err := s.conn.usable(ctx); err != nil {
		return nil, err
	}
	w := &watch{
		hub: &s.conn.file.watchers, conn: s.conn, space: s.id, prefix: prefix,
		wake: make(chan struct{}, 1), keys: make(map[string]struct{}),
	}
	if err := w.hub.add(w); err != nil {
		return nil, err
	}
	return w, nil
}

// hub knows the watches of all spaces of a file.
type hub struct {
	count atomic.Int32 // of watches, so that writes without any take no lock

	mu     sync.RWMutex // guards spaces
	spaces map[string]map[*watch]struct{}
}

func (h *hub) add(w *watch) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if w.conn.closed.Load() { // which is set before end takes the lock
		return errClosed
	}
	if h.spaces == nil {
		h.spaces = make(map[string]map[*watch]struct{})
	}
	if h.spaces[w.space] == nil {
		h.spaces[w.space] = make(map[*watch]struct{})
	}
	h.spaces[w.space][w] = struct{}{}
	h.count.Add(1)
	return nil
}

func (h *hub) remove(w *watch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, there := h.spaces[w.space][w]; !there {
		return
	}
	delete(h.spaces[w.space], w)
	if len(h.spaces[w.space]) == 0 {
		delete(h.spaces, w.space)
	}
	h.count.Add(-1)
}

// tell tells every watch that key has changed.
func (h *hub) tell(space, key string) {
	if h.count.Load() == 0 {
		return
	}
	h.mu.RLock()
	defer h.mu.RUnlock()
	for w := range h.spaces[space] {
		if strings.HasPrefix(key, w.prefix) {
			w.tell(key)
		}
	}
}

// end ends the watches of a connection.
func (h *hub) end(c *conn, reason error) {
	h.mu.Lock()
	var all []*watch
	for _, watches := range h.spaces {
		for w := range watches {
			if w.conn == c {
				all = append(all, w)
			}
		}
	}
	h.mu.Unlock()
	for _, w := range all {
		w.end(reason)
	}
}

// watch collects changed keys until somebody takes them.
type watch struct {
	hub           *hub
	conn          *conn
	space, prefix string
	wake          chan struct{} // of capacity 1: there may be something to take

	mu   sync.Mutex // guards what follows
	keys map[string]struct{}
	lost bool
	err  error // why it ended
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
		if err := ended(ctx); err != nil {
			return driver.Change{}, err
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
	if w.err == nil {
		w.err = reason
	}
	w.mu.Unlock()
	w.signal()
	w.hub.remove(w)
}
