package proxy_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/memory"
	"github.com/prismgw/prism/errs"
)

// tap is the driver "tap": memory that the test can hold, break and count. All
// its connections share their data. Keys that begin with "hang" wait for the
// tap while it is shut; with whole set, every key does. Keys that begin with
// "panic" panic.
type tap struct {
	driver.Driver

	opened, closed atomic.Int64 // connections
	begun          atomic.Int64 // operations
	waiting        atomic.Int64 // operations that wait for the tap, now

	mu     sync.Mutex    // guards the fields below
	shut   chan struct{} // closed when the tap is opened again; nil: it is open
	whole  bool
	broken error // what every operation and ping answers; nil: it works
	failed error // what every operation answers, but no ping
}

func newTap() *tap {
	t := &tap{}
	inner := memory.Driver()
	t.Driver = driver.Driver{Name: "tap", Summary: "a test's own", Schemes: []string{"tap"}, Open: func(c driver.Config) (driver.Conn, error) {
		c.URL, c.Options = "memory://tap", nil
		conn, err := inner.Open(c)
		if err != nil {
			return nil, err
		}
		t.opened.Add(1)
		return &tapConn{Conn: conn, tap: t}, nil
	}}
	return t
}

// hold makes operations wait: those on keys that begin with "hang", or all.
// What it returns lets them go on.
func (t *tap) hold(all bool) (open func()) {
	shut := make(chan struct{})
	t.mu.Lock()
	t.shut, t.whole = shut, all
	t.mu.Unlock()
	return sync.OnceFunc(func() {
		t.mu.Lock()
		t.shut = nil
		t.mu.Unlock()
		close(shut)
	})
}

// smash makes the backend unreachable with err, or well again with nil.
func (t *tap) smash(err error) {
	t.mu.Lock()
	t.broken = err
	t.mu.Unlock()
}

// fail makes every operation fail with err, though the backend can be reached.
func (t *tap) fail(err error) {
	t.mu.Lock()
	t.failed = err
	t.mu.Unlock()
}

// pass counts an operation and holds or fails it.
func (t *tap) pass(ctx context.Context, keys ...string) error {
	t.begun.Add(int64(len(keys)))
	t.mu.Lock()
	shut, whole, err := t.shut, t.whole, t.broken
	if err == nil {
		err = t.failed
	}
	t.mu.Unlock()
	held := whole
	for _, key := range keys {
		if strings.HasPrefix(key, "panic") {
			panic("made up by " + key)
		}
		held = held || strings.HasPrefix(key, "hang")
	}
	if shut == nil || !held {
		return err
	}
	t.waiting.Add(1)
	defer t.waiting.Add(-1)
	select {
	case <-shut:
		return err
	case <-ctx.Done():
		return errs.ReasonOf(ctx.Err())
	}
}

type tapConn struct {
	driver.Conn
	tap  *tap
	once sync.Once
}

func (c *tapConn) Space(s driver.Space) (driver.Backend, error) {
	b, err := c.Conn.Space(s)
	b.KV = &tapKV{KV: b.KV, tap: c.tap}
	return b, err
}

func (c *tapConn) Ping(context.Context) error {
	c.tap.mu.Lock()
	defer c.tap.mu.Unlock()
	return c.tap.broken
}

func (c *tapConn) Close() error {
	c.once.Do(func() { c.tap.closed.Add(1) })
	return c.Conn.Close()
}

type tapKV struct {
	driver.KV
	tap *tap
}

func (k *tapKV) Guarantees() driver.Guarantees {
	g := k.KV.Guarantees()
	g.Shared = true // so that it gets a breaker
	return g
}

func (k *tapKV) Get(ctx context.Context, key string, want driver.Want) (driver.Entry, error) {
	if err := k.tap.pass(ctx, key); err != nil {
		return driver.Entry{}, err
	}
	return k.KV.Get(ctx, key, want)
}

func (k *tapKV) GetMany(ctx context.Context, keys []string, want driver.Want, results []driver.GetResult) {
	if err := k.tap.pass(ctx, keys...); err != nil {
		for i := range results {
			results[i] = driver.GetResult{Err: err}
		}
		return
	}
	k.KV.GetMany(ctx, keys, want, results)
}

func (k *tapKV) Apply(ctx context.Context, ops []driver.Op, results []driver.Result) {
	keys := make([]string, len(ops))
	for i := range ops {
		keys[i] = ops[i].Key
	}
	if err := k.tap.pass(ctx, keys...); err != nil {
		for i := range results {
			results[i] = driver.Result{Err: err}
		}
		return
	}
	k.KV.Apply(ctx, ops, results)
}

func (k *tapKV) Scan(ctx context.Context, r driver.ScanRequest) (driver.Page, error) {
	if err := k.tap.pass(ctx, r.Prefix); err != nil {
		return driver.Page{}, err
	}
	return k.KV.Scan(ctx, r)
}
