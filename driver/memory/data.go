package memory

import (
	"hash/maphash"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prismgw/prism/driver"
)

const (
	shards     = 16          // of each space, by the hash of the key; many spaces are small
	sweepEvery = time.Second // how often expired entries are removed
	sweepBatch = 128         // entries removed under one lock
)

// data is what the connections of one name share.
type data struct {
	name  string
	now   func() time.Time // of the connection that made it
	epoch string
	seq   atomic.Uint64 // the last version
	seed  maphash.Seed
	users int // guarded by names.mu

	mu     sync.RWMutex // guards what follows
	spaces map[spaceName]*space
	topics map[string]*topics // by namespace
	lines  map[string]*lines  // by namespace

	stop chan struct{}
	done sync.WaitGroup
}

type spaceName struct{ namespace, pattern string }

// space is the data of one driver.Space.
type space struct {
	*data
	shards   [shards]shard
	index    index
	onces    [shards]onces
	objects  objects
	watchers watchers
	hub      hub

	// timed is set once anything here expires. Until then there is nothing to
	// sweep, so that thousands of idle spaces cost no time.
	timed atomic.Bool
}

// A shard holds the entries whose keys have one hash. Its padding keeps two
// locks out of one cache line.
type shard struct {
	mu       sync.RWMutex // guards what follows; taken before index.mu
	entries  map[string]*entry
	expiring queue[string]
	_        [8]byte
}

// An entry is a key that is present or has expired. Its value is never written
// to, only replaced, so it may be read after the lock has been given back.
type entry struct {
	deadline[string]
	value   []byte
	version string
}

func newData(name string, now func() time.Time) *data {
	d := &data{
		name: name, now: now, epoch: newEpoch(), seed: maphash.MakeSeed(),
		spaces: make(map[spaceName]*space), topics: make(map[string]*topics), lines: make(map[string]*lines), stop: make(chan struct{}),
	}
	d.done.Go(d.sweep)
	return d
}

func (d *data) close() {
	close(d.stop)
	d.done.Wait()
}

func (d *data) space(s driver.Space) *space {
	name := spaceName{s.Namespace, s.Pattern}
	d.mu.Lock()
	defer d.mu.Unlock()
	sp := d.spaces[name]
	if sp == nil {
		sp = &space{data: d}
		for i := range sp.shards {
			sp.shards[i].entries = make(map[string]*entry)
		}
		d.spaces[name] = sp
	}
	return sp
}

// topicsOf returns the topics of a namespace, which its spaces share.
func (d *data) topicsOf(namespace string) *topics {
	d.mu.Lock()
	defer d.mu.Unlock()
	t := d.topics[namespace]
	if t == nil {
		t = &topics{byName: make(map[string]*topic)}
		d.topics[namespace] = t
	}
	return t
}

// linesOf returns the queues of a namespace.
func (d *data) linesOf(namespace string) *lines {
	d.mu.Lock()
	defer d.mu.Unlock()
	ls := d.lines[namespace]
	if ls == nil {
		ls = &lines{queues: make(map[string]*line)}
		d.lines[namespace] = ls
	}
	return ls
}

func (d *data) allLines() []*lines {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return slices.Collect(maps.Values(d.lines))
}

func (s *space) shard(key string) *shard {
	return &s.shards[maphash.String(s.seed, key)%shards]
}

// nextVersion returns a version that nothing ever had.
func (d *data) nextVersion() string {
	var buf [40]byte
	return string(strconv.AppendUint(append(buf[:0], d.epoch...), d.seq.Add(1), 10))
}

// sweep removes what has expired, until the data is closed. Entries are absent
// from the moment they expire; this only frees their memory.
func (d *data) sweep() {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-d.stop:
			return
		case <-tick.C:
		}
		for _, s := range d.all() {
			s.sweep()
		}
		for _, t := range d.allTopics() {
			if !d.closing() {
				t.sweep()
			}
		}
		for _, ls := range d.allLines() {
			ls.sweep(d.now().UnixNano())
		}
	}
}

func (d *data) allTopics() (all []*topic) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, t := range d.topics {
		all = append(all, t.all()...)
	}
	return all
}

func (d *data) all() []*space {
	d.mu.RLock()
	defer d.mu.RUnlock()
	all := make([]*space, 0, len(d.spaces))
	for _, s := range d.spaces {
		all = append(all, s)
	}
	return all
}

func (d *data) closing() bool {
	select {
	case <-d.stop:
		return true
	default:
		return false
	}
}

func (s *space) sweep() {
	if !s.timed.Load() {
		return
	}
	now := s.now().UnixNano()
	for i := range shards {
		for !s.closing() && s.shards[i].sweep(s, now) {
		}
		for !s.closing() && s.onces[i].sweep(now) {
		}
	}
}

// sweep removes some expired entries and reports whether more may be left.
func (sh *shard) sweep(s *space, now int64) bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for range sweepBatch {
		key, ok := sh.expiring.pop(now)
		if !ok {
			return false
		}
		delete(sh.entries, key)
		s.index.remove(key)
	}
	return true
}
