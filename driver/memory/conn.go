package memory

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/groups"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

var (
	_ driver.Conn    = (*conn)(nil)
	_ driver.KV      = (*kv)(nil)
	_ driver.Watcher = (*kv)(nil)
	_ driver.PubSub  = (*pubsub)(nil)
)

type conn struct {
	data     *data
	names    *names
	settings settings
	log      *slog.Logger
	closed   atomic.Bool
	members  groups.Members
	ended    chan struct{} // closed by Close

	mu        sync.Mutex            // guards listeners
	listeners map[listener]struct{} // those to end on Close
}

// A listener is a watch or a subscription.
type listener interface{ End(reason error) }

// Space returns the primitives of a space. There are no layouts but its own.
func (c *conn) Space(s driver.Space) (driver.Backend, error) {
	if len(s.Layout) > 0 {
		return driver.Backend{}, errs.Invalid(errs.Field{
			Path: "layout", Text: "the memory driver holds nothing that was there before; leave it out",
		})
	}
	space := c.data.space(s)
	kv := &kv{conn: c, space: space}
	return driver.Backend{
		KV:      kv,
		Watcher: kv,
		Log:     &log{conn: c, topics: c.data.topicsOf(s.Namespace), name: s.Namespace},
		PubSub:  &pubsub{conn: c, space: space},
		Queue:   &tasks{conn: c, lines: c.data.linesOf(s.Namespace)},
		Blob:    &blob{conn: c, space: space},
		Extent:  driver.Extent{Container: c.settings.name, Prefix: wrap.KeyPrefix(s)},
	}, nil
}

// Ping succeeds until the connection is closed.
func (c *conn) Ping(ctx context.Context) error { return c.usable(ctx) }

// Close frees the data, unless another connection shares it.
func (c *conn) Close() error {
	c.mu.Lock()
	if c.closed.Swap(true) {
		c.mu.Unlock()
		return nil
	}
	listeners := c.listeners
	c.listeners = nil
	c.mu.Unlock()
	close(c.ended)
	for l := range listeners {
		l.End(errs.BackendUnavailable)
	}
	c.members.Close()
	c.names.release(c.data)
	return nil
}

// usable returns why an operation cannot begin, nil if it can.
func (c *conn) usable(ctx context.Context) error {
	if c.closed.Load() {
		return errs.BackendUnavailable
	}
	if err := ctx.Err(); err != nil {
		return errs.ReasonOf(err)
	}
	return nil
}

// adopt registers l to be ended with the connection, unless that has happened.
func (c *conn) adopt(l listener) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed.Load() {
		return false
	}
	if c.listeners == nil {
		c.listeners = make(map[listener]struct{})
	}
	c.listeners[l] = struct{}{}
	return true
}

func (c *conn) forget(l listener) {
	c.mu.Lock()
	delete(c.listeners, l)
	c.mu.Unlock()
}

// kv is one space seen through one connection.
type kv struct {
	conn  *conn
	space *space
}

// Guarantees returns what memory promises.
func (k *kv) Guarantees() driver.Guarantees {
	return driver.Guarantees{
		Version:     driver.WriteVersions,
		Clock:       driver.ProxyClock,
		OrderedScan: true,
		ScanCost:    driver.ScanPrefix,
		Idempotency: driver.IdempotencyAtomic,
		MaxValue:    k.conn.settings.maxValue,
		TTL:         true,
		Ack:         ack,
	}
}

// Get allocates nothing but the value.
func (k *kv) Get(ctx context.Context, key string, want driver.Want) (driver.Entry, error) {
	if err := k.conn.usable(ctx); err != nil {
		return driver.Entry{}, err
	}
	e, err := k.space.get(key)
	return e.Wanted(want), err
}

// GetMany reads one key after the other.
func (k *kv) GetMany(ctx context.Context, keys []string, want driver.Want, results []driver.GetResult) {
	const asked = 64 // reads between two looks at the context
	var err error
	for i, key := range keys {
		if i%asked == 0 {
			err = k.conn.usable(ctx)
		}
		if err != nil {
			results[i] = driver.GetResult{Err: err}
			continue
		}
		e, err := k.space.get(key)
		results[i] = driver.GetResult{Entry: e.Wanted(want), Err: err}
	}
}

// Apply carries out one operation after the other.
func (k *kv) Apply(ctx context.Context, ops []driver.Op, results []driver.Result) {
	for i := range ops {
		if err := k.conn.usable(ctx); err != nil {
			results[i] = driver.Result{Err: err}
			continue
		}
		results[i] = k.space.apply(&ops[i], k.conn.settings.maxValue)
	}
}

// Scan reads a page in the order of the keys.
func (k *kv) Scan(ctx context.Context, r driver.ScanRequest) (driver.Page, error) {
	if err := k.conn.usable(ctx); err != nil {
		return driver.Page{}, err
	}
	return k.space.scan(ctx, &r)
}

// Watch begins a watch that ends with the connection at the latest.
func (k *kv) Watch(ctx context.Context, prefix string) (driver.Watch, error) {
	if err := k.conn.usable(ctx); err != nil {
		return nil, err
	}
	var w *wrap.Changes
	w = wrap.NewChanges(prefix, func() {
		k.space.watchers.remove(w)
		k.conn.forget(w)
	})
	k.space.watchers.add(w)
	if !k.conn.adopt(w) {
		k.space.watchers.remove(w)
		return nil, errs.BackendUnavailable
	}
	return w, nil
}
