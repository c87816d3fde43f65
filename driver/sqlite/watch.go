package sqlite

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/wrap"
)

// Watch begins to watch what this process writes; nobody else may write.
func (s *space) Watch(ctx context.Context, prefix string) (driver.Watch, error) {
	if err := s.conn.usable(ctx); err != nil {
		return nil, err
	}
	hub := &s.conn.file.watchers
	w := &watch{conn: s.conn, space: s.id}
	w.Changes = wrap.NewChanges(prefix, func() { hub.remove(w) })
	if err := hub.add(w); err != nil {
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
		w.Tell(key)
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
		w.End(reason)
	}
}

// watch is a watch of one space, through one connection.
type watch struct {
	*wrap.Changes
	conn  *conn
	space string
}
