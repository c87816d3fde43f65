package drivertest

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

// A mistake is something that drivers get wrong, and the checks that find it.
type mistake struct {
	name  string
	spoil func(*driver.Driver)
	found []string
}

// broken is a KV with some methods replaced.
type broken struct {
	driver.KV
	get        func(ctx context.Context, key string) (driver.Entry, error)
	op         func(ctx context.Context, op driver.Op) driver.Result // in the place of apply
	apply      func(ctx context.Context, ops []driver.Op, results []driver.Result)
	scan       func(ctx context.Context, r driver.ScanRequest) (driver.Page, error)
	guarantees func(driver.Guarantees) driver.Guarantees
}

func (b *broken) Get(ctx context.Context, key string, want driver.Want) (driver.Entry, error) {
	if b.get == nil {
		return b.KV.Get(ctx, key, driver.WithExpiry)
	}
	return b.get(ctx, key)
}

func (b *broken) GetMany(ctx context.Context, keys []string, want driver.Want, results []driver.GetResult) {
	if b.get == nil {
		b.KV.GetMany(ctx, keys, driver.WithExpiry, results)
		return
	}
	for i, key := range keys {
		results[i].Entry, results[i].Err = b.get(ctx, key)
	}
}

func (b *broken) Apply(ctx context.Context, ops []driver.Op, results []driver.Result) {
	switch {
	case b.op != nil:
		for i, op := range ops {
			results[i] = b.op(ctx, op)
		}
	case b.apply != nil:
		b.apply(ctx, ops, results)
	default:
		b.KV.Apply(ctx, ops, results)
	}
}

func (b *broken) Scan(ctx context.Context, r driver.ScanRequest) (driver.Page, error) {
	if b.scan == nil {
		return b.KV.Scan(ctx, r)
	}
	return b.scan(ctx, r)
}

func (b *broken) Guarantees() driver.Guarantees {
	if b.guarantees == nil {
		return b.KV.Guarantees()
	}
	return b.guarantees(b.KV.Guarantees())
}

// one carries out one operation rightly.
func (b *broken) one(ctx context.Context, op driver.Op) driver.Result {
	var r [1]driver.Result
	b.KV.Apply(ctx, []driver.Op{op}, r[:])
	return r[0]
}

// spoilConn replaces a driver's connections.
func spoilConn(replace func(driver.Conn) driver.Conn) func(*driver.Driver) {
	return func(d *driver.Driver) {
		open := d.Open
		d.Open = func(c driver.Config) (driver.Conn, error) {
			conn, err := open(c)
			if err != nil {
				return nil, err
			}
			return replace(conn), nil
		}
	}
}

type spoiledConn struct {
	driver.Conn
	spoil func(driver.Space, *driver.Backend)
}

func (c spoiledConn) Space(s driver.Space) (driver.Backend, error) {
	b, err := c.Conn.Space(s)
	if err == nil {
		c.spoil(s, &b)
	}
	return b, err
}

func spoilBackend(spoil func(driver.Space, *driver.Backend)) func(*driver.Driver) {
	return spoilConn(func(c driver.Conn) driver.Conn { return spoiledConn{c, spoil} })
}

func spoilKV(spoil func(*broken)) func(*driver.Driver) {
	return spoilBackend(func(_ driver.Space, b *driver.Backend) {
		kv := &broken{KV: b.KV}
		spoil(kv)
		b.KV = kv
	})
}

// spoilOps changes operations on their way.
func spoilOps(change func(*driver.Op)) func(*driver.Driver) {
	return spoilKV(func(b *broken) {
		b.apply = func(ctx context.Context, ops []driver.Op, results []driver.Result) {
			ops = slices.Clone(ops)
			for i := range ops {
				change(&ops[i])
			}
			b.KV.Apply(ctx, ops, results)
		}
	})
}

// spoilScan changes scan requests on their way.
func spoilScan(change func(*driver.ScanRequest)) func(*driver.Driver) {
	return spoilKV(func(b *broken) {
		b.scan = func(ctx context.Context, r driver.ScanRequest) (driver.Page, error) {
			change(&r)
			return b.KV.Scan(ctx, r)
		}
	})
}

// spoilKeys changes keys on their way in, as a technology does that folds or
// cuts them.
func spoilKeys(change func(string) string) func(*driver.Driver) {
	return spoilKV(func(b *broken) {
		b.get = func(ctx context.Context, key string) (driver.Entry, error) {
			return b.KV.Get(ctx, change(key), driver.WithExpiry)
		}
		b.op = func(ctx context.Context, op driver.Op) driver.Result {
			op.Key = change(op.Key)
			return b.one(ctx, op)
		}
	})
}

// deaf answers no Ping.
type deaf struct{ driver.Conn }

func (deaf) Ping(context.Context) error { return errs.BackendUnavailable }

func mistakes() []mistake {
	return slices.Concat(connMistakes(), keyMistakes(), opMistakes(), versionMistakes(), scanMistakes(), onceMistakes(), watchMistakes())
}

func connMistakes() []mistake {
	return []mistake{
		{"configuration is not checked", func(d *driver.Driver) {
			open := d.Open
			d.Open = func(c driver.Config) (driver.Conn, error) {
				c.Options = nil
				return open(c)
			}
		}, []string{"conn/open-reports-every-mistake"}},
		{"layout is ignored", spoilConn(func(c driver.Conn) driver.Conn { return laxConn{c} }), []string{"conn/layout-mistakes"}},
		{"ping fails", spoilConn(func(c driver.Conn) driver.Conn { return deaf{c} }), []string{"conn/ping"}},
		{"closing twice fails", spoilConn(func(c driver.Conn) driver.Conn { return &onceClosed{Conn: c} }), []string{"conn/close-twice", "conn/use-after-close"}},
		{"close does nothing", spoilConn(func(c driver.Conn) driver.Conn { return unclosed{c} }), []string{"conn/use-after-close"}},
		{"close waits for everybody", spoilConn(func(c driver.Conn) driver.Conn { return politeConn{c} }), []string{"conn/close-under-load"}},
		{"guarantees are unknown", spoilKV(func(b *broken) {
			b.guarantees = func(g driver.Guarantees) driver.Guarantees { g.Ack.OS = true; return g }
		}), []string{"conn/guarantees"}},
		{"extents are one", spoilBackend(func(_ driver.Space, b *driver.Backend) { b.Extent = driver.Extent{} }), []string{"conn/extents"}},
		{"contexts are ignored", spoilKV(func(b *broken) {
			b.get = func(_ context.Context, key string) (driver.Entry, error) {
				return b.KV.Get(context.Background(), key, driver.WithExpiry)
			}
		}), []string{"context/ended-before"}},
	}
}

type laxConn struct{ driver.Conn }

func (c laxConn) Space(s driver.Space) (driver.Backend, error) {
	s.Layout = nil
	return c.Conn.Space(s)
}

type onceClosed struct {
	driver.Conn
	closed bool
}

func (c *onceClosed) Close() error {
	if c.closed {
		return errors.New("closed already")
	}
	c.closed = true
	return c.Conn.Close()
}

type unclosed struct{ driver.Conn }

func (unclosed) Close() error { return nil }

// politeConn waits with closing until its users have gone.
type politeConn struct{ driver.Conn }

func (c politeConn) Close() error {
	time.Sleep(closing + time.Second)
	return c.Conn.Close()
}

func keyMistakes() []mistake {
	return []mistake{
		{"keys fold case", spoilKeys(strings.ToLower), []string{"basic/hostile-keys", "basic/absent"}},
		{"keys lose spaces", spoilKeys(func(k string) string { return strings.TrimRight(k, " ") + "" }), []string{"basic/hostile-keys"}},
		{"keys are cut", spoilKeys(func(k string) string { return k[:min(len(k), 1000)] }), []string{"basic/hostile-keys"}},
		{"spaces are joined with colons", spoilConn(func(c driver.Conn) driver.Conn { return joined{c} }), []string{
			"spaces/hostile-pairs", "spaces/never-meet", "spaces/tokens-never-meet", "watch/other-spaces",
		}},
		{"every connection has its data", func(d *driver.Driver) {
			open := d.Open
			d.Open = func(c driver.Config) (driver.Conn, error) {
				c.URL = "memory:"
				return open(c)
			}
		}, []string{"basic/every-connection-sees-it", "spaces/same-names-same-data", "cursor/outlives-its-connection", "once/outlives-its-connection"}},
	}
}

// joined keeps all spaces in one, under keys that are joined carelessly.
type joined struct{ driver.Conn }

func (c joined) Space(s driver.Space) (driver.Backend, error) {
	b, err := c.Conn.Space(driver.Space{})
	prefix := s.Namespace + ":" + s.Pattern + ":"
	return driver.Backend{KV: wrap.Prefix(b.KV, prefix), Watcher: wrap.PrefixWatcher(b.Watcher, prefix)}, err
}

func scanMistakes() []mistake {
	return []mistake{
		{"prefixes are patterns", spoilScan(func(r *driver.ScanRequest) { r.Prefix = strings.TrimRight(r.Prefix, "%*") }), []string{"scan/prefixes"}},
		{"limits are passed", spoilScan(func(r *driver.ScanRequest) { r.Limit++ }), []string{"scan/page-limits"}},
		{"pages are not bounded", spoilScan(func(r *driver.ScanRequest) { r.MaxBytes = 0 }), []string{"scan/page-bytes"}},
		{"scans of keys bring values", spoilScan(func(r *driver.ScanRequest) { r.KeysOnly = false }), []string{"scan/keys-only"}},
		{"cursors are offsets", spoilKV(offsetCursors), []string{"scan/while-it-deletes", "scan/while-keys-come-and-go", "cursor/of-another-prefix"}},
		{"scans end early", spoilKV(func(b *broken) {
			b.scan = func(ctx context.Context, r driver.ScanRequest) (driver.Page, error) {
				p, err := b.KV.Scan(ctx, r)
				if len(p.Items) == 1000 {
					p.Next = nil
				}
				return p, err
			}
		}), []string{"scan/many-keys"}},
		{"wrong cursors begin anew", spoilKV(func(b *broken) {
			b.scan = func(ctx context.Context, r driver.ScanRequest) (driver.Page, error) {
				p, err := b.KV.Scan(ctx, r)
				if errors.Is(err, errs.InvalidCursor) {
					r.Cursor = nil
					return b.KV.Scan(ctx, r)
				}
				return p, err
			}
		}), []string{"cursor/wrong-ones", "cursor/of-another-prefix"}},
	}
}

// offsetCursors counts how many keys have been passed.
func offsetCursors(b *broken) {
	b.scan = func(ctx context.Context, r driver.ScanRequest) (driver.Page, error) {
		offset := 0
		if r.Cursor != nil {
			offset = int(binary.BigEndian.Uint32(r.Cursor))
		}
		p, err := b.KV.Scan(ctx, driver.ScanRequest{Prefix: r.Prefix, Limit: 1 << 20})
		if err != nil {
			return p, err
		}
		p.Items = p.Items[min(offset, len(p.Items)):]
		if len(p.Items) > r.Limit {
			p.Items = p.Items[:r.Limit]
			p.Next = binary.BigEndian.AppendUint32(nil, uint32(offset+r.Limit))
		}
		if r.KeysOnly {
			for i := range p.Items {
				p.Items[i].Entry = driver.Entry{}
			}
		}
		return p, nil
	}
}

// withoutTTL makes a driver one whose entries cannot expire.
func withoutTTL(d *driver.Driver) {
	spoilKV(func(b *broken) {
		forgetTTL(b)
		b.op = func(ctx context.Context, op driver.Op) driver.Result {
			if op.TTL > 0 {
				return driver.Result{Err: errs.Unsupported}
			}
			return b.one(ctx, op)
		}
	})(d)
}

// forgetTTL says that entries cannot expire, and does nothing for it.
func forgetTTL(b *broken) {
	b.guarantees = func(g driver.Guarantees) driver.Guarantees { g.TTL = false; return g }
}

func onceMistakes() []mistake {
	changeOnce := func(change func(op *driver.Op, o *driver.Once)) func(*driver.Driver) {
		return spoilOps(func(op *driver.Op) {
			if op.Once != nil {
				o := *op.Once
				op.Once = &o
				change(op, &o)
			}
		})
	}
	return []mistake{
		{"tokens are ignored", spoilOps(func(op *driver.Op) { op.Once = nil }), []string{"once/repeat", "once/concurrent", "once/within-a-batch"}},
		{"digests are ignored", changeOnce(func(_ *driver.Op, o *driver.Once) { clear(o.Digest[:]) }), []string{"once/mismatch"}},
		{"tokens are kept per key", changeOnce(func(op *driver.Op, o *driver.Once) { copy(o.Token[:], op.Key) }), []string{"once/mismatch"}},
		{"records do not expire", changeOnce(func(_ *driver.Op, o *driver.Once) { o.TTL = time.Hour }), []string{"once/record-expires"}},
		{"failures are recorded", spoilKV(recordFailures), []string{"once/failed-records-nothing"}},
	}
}

func recordFailures(b *broken) {
	var mu sync.Mutex
	failed := map[[16]byte]error{}
	b.op = func(ctx context.Context, op driver.Op) driver.Result {
		r := b.one(ctx, op)
		if op.Once == nil {
			return r
		}
		mu.Lock()
		defer mu.Unlock()
		if err := failed[op.Once.Token]; err != nil {
			return driver.Result{Err: err}
		}
		failed[op.Once.Token] = r.Err
		return r
	}
}

func watchMistakes() []mistake {
	spoilNext := func(change func(*driver.Change)) func(*driver.Driver) {
		return spoilBackend(func(_ driver.Space, b *driver.Backend) { b.Watcher = spoiledWatcher{b.Watcher, change} })
	}
	return []mistake{
		{"changes are lost", spoilNext(func(c *driver.Change) {
			c.Keys = slices.DeleteFunc(c.Keys, func(k string) bool { return strings.HasPrefix(k, "n") || k == "k7" })
		}), []string{"watch/each-change-is-told", "watch/mirror-converges"}},
		{"Lost is lost", spoilNext(func(c *driver.Change) { c.Lost = false }), []string{"watch/slow-reader"}},
		{"watches see everything", spoilBackend(func(_ driver.Space, b *driver.Backend) { b.Watcher = allSeeing{b.Watcher} }), []string{"watch/prefixes"}},
		{"watches are deaf to Close", spoilBackend(func(_ driver.Space, b *driver.Backend) { b.Watcher = unclosedWatcher{b.Watcher} }), []string{"watch/close"}},
		{"watches end with their context", spoilBackend(func(_ driver.Space, b *driver.Backend) { b.Watcher = boundWatcher{b.Watcher} }), []string{"watch/context"}},
	}
}

type spoiledWatcher struct {
	driver.Watcher
	change func(*driver.Change)
}

func (s spoiledWatcher) Watch(ctx context.Context, prefix string) (driver.Watch, error) {
	w, err := s.Watcher.Watch(ctx, prefix)
	return spoiledWatch{w, s.change}, err
}

type spoiledWatch struct {
	driver.Watch
	change func(*driver.Change)
}

func (s spoiledWatch) Next(ctx context.Context) (driver.Change, error) {
	for {
		c, err := s.Watch.Next(ctx)
		if s.change(&c); err != nil || len(c.Keys) > 0 || c.Lost {
			return c, err
		}
	}
}

type allSeeing struct{ driver.Watcher }

func (a allSeeing) Watch(ctx context.Context, _ string) (driver.Watch, error) {
	return a.Watcher.Watch(ctx, "")
}

type unclosedWatcher struct{ driver.Watcher }

func (u unclosedWatcher) Watch(ctx context.Context, prefix string) (driver.Watch, error) {
	w, err := u.Watcher.Watch(ctx, prefix)
	return unclosedWatch{w}, err
}

type unclosedWatch struct{ driver.Watch }

func (unclosedWatch) Close() error { return nil }

type boundWatcher struct{ driver.Watcher }

func (b boundWatcher) Watch(ctx context.Context, prefix string) (driver.Watch, error) {
	w, err := b.Watcher.Watch(ctx, prefix)
	if err == nil {
		context.AfterFunc(ctx, func() { _ = w.Close() })
	}
	return w, err
}
