package memory

import (
	"sync"
	"sync/atomic"

	"github.com/prismgw/prism/driver/wrap"
)

// watchers are the watches of one space.
type watchers struct {
	count atomic.Int32 // len(all), so that writes without watches take no lock

	mu  sync.RWMutex // guards all
	all map[*wrap.Changes]struct{}
}

func (ws *watchers) add(w *wrap.Changes) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.all == nil {
		ws.all = make(map[*wrap.Changes]struct{})
	}
	ws.all[w] = struct{}{}
	ws.count.Store(int32(len(ws.all)))
}

func (ws *watchers) remove(w *wrap.Changes) {
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
		w.Tell(key)
	}
}
