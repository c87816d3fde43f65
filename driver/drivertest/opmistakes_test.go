package drivertest

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

func opMistakes() []mistake {
	return []mistake{
		{"deletes are lost", spoilOps(func(op *driver.Op) {
			if op.Kind == driver.Delete {
				op.Key += "!"
			}
		}), []string{"basic/put-and-delete"}},
		{"values end at a zero byte", spoilOps(func(op *driver.Op) {
			if i := slices.Index(op.Value, 0); i >= 0 {
				op.Value = op.Value[:i]
			}
		}), []string{"basic/values"}},
		{"the largest value is not kept", spoilKV(func(b *broken) {
			b.guarantees = func(g driver.Guarantees) driver.Guarantees { g.MaxValue--; return g }
		}), []string{"basic/largest-value"}},
		{"the largest value does not fit", spoilKV(func(b *broken) {
			b.guarantees = func(g driver.Guarantees) driver.Guarantees { g.MaxValue++; return g }
		}), []string{"basic/largest-value"}},
		{"conditions do not look at the size", spoilKV(func(b *broken) {
			most := b.KV.Guarantees().MaxValue
			b.op = func(ctx context.Context, op driver.Op) driver.Result {
				if op.IfVersion != "" && len(op.Value) > most {
					op.Value = op.Value[:most]
				}
				return b.one(ctx, op)
			}
		}), []string{"basic/largest-value"}},
		{"the largest value is cut when many are read", spoilKV(func(b *broken) {
			most := b.KV.Guarantees().MaxValue
			b.scan = func(ctx context.Context, r driver.ScanRequest) (driver.Page, error) {
				p, err := b.KV.Scan(ctx, r)
				for i := range p.Items {
					p.Items[i].Value = p.Items[i].Value[:min(len(p.Items[i].Value), most-1)]
				}
				return p, err
			}
		}), []string{"basic/largest-value"}},
		{"expiry is told to everybody", spoilBackend(func(_ driver.Space, b *driver.Backend) { b.KV = chatty{b.KV} }), []string{"basic/only-what-is-wanted"}},
		{"memory is shared", spoilKV(shareMemory), []string{"basic/no-shared-memory"}},
		{"answers are wrong", spoilKV(func(b *broken) {
			b.op = func(ctx context.Context, op driver.Op) driver.Result {
				r := b.one(ctx, op)
				r.Number++
				return r
			}
		}), []string{"basic/answers", "numbers/sums", "batch/concurrent"}},
		{"unknown kinds are deletes", spoilOps(func(op *driver.Op) {
			if op.Kind == 0 || op.Kind > driver.Expire {
				op.Kind = driver.Delete
			}
		}), []string{"basic/unknown-kind"}},
		{"one failure fails the batch", spoilKV(failTogether), []string{"batch/operations-are-independent"}},
		{"the last one of a key wins", spoilKV(lastOneWins), []string{"batch/one-key-twice", "once/within-a-batch"}},
		{"empty batches panic", spoilKV(func(b *broken) {
			b.apply = func(ctx context.Context, ops []driver.Op, results []driver.Result) {
				_ = ops[0]
				b.KV.Apply(ctx, ops, results)
			}
		}), []string{"batch/empty"}},
		{"large batches are cut", spoilKV(func(b *broken) {
			b.apply = func(ctx context.Context, ops []driver.Op, results []driver.Result) {
				n := min(len(ops), 1000)
				b.KV.Apply(ctx, ops[:n], results[:n])
			}
		}), []string{"batch/large"}},
		{"get many finds a key once", spoilKV(func(b *broken) {
			b.get = nil
			b.scan = nil
			kv := b.KV
			b.KV = manyOnce{kv}
		}), []string{"batch/get-many"}},
		{"ttl is ignored", spoilOps(func(op *driver.Op) {
			if op.Kind == driver.Put {
				op.TTL = 0
			}
		}), []string{"ttl/expires-when-it-says", "ttl/ten-years", "ttl/put-replaces-it"}},
		{"ttl of whole seconds", spoilOps(func(op *driver.Op) {
			if op.TTL > 0 {
				op.TTL = max(op.TTL.Truncate(time.Second), 2*time.Second)
			}
		}), []string{"ttl/one-millisecond", "ttl/expires-when-it-says"}},
		{"expired entries linger", spoilKV(linger), []string{"ttl/expired-is-absent-at-once", "scan/leaves-out-expired", "conditions/expired-is-absent"}},
		{"put without ttl keeps the old one", spoilKV(keepTTL), []string{"ttl/put-replaces-it"}},
		{"expire is ignored", spoilOps(func(op *driver.Op) {
			if op.Kind == driver.Expire {
				*op = driver.Op{Kind: driver.Delete, Key: "no such key", IfVersion: op.IfVersion}
			}
		}), []string{"ttl/expire"}},
		{"expiry removes what has replaced it", spoilKV(lateRemoval), []string{"ttl/removal-spares-new-values"}},
		{"add is read and write", spoilKV(unsafeAdd), []string{"numbers/concurrent", "numbers/expiry-stays"}},
		{"add takes anything", spoilKV(laxAdd), []string{"numbers/not-a-number", "numbers/out-of-range"}},
	}
}

// chatty tells the expiry whether it is wanted or not.
type chatty struct{ driver.KV }

func (c chatty) Get(ctx context.Context, key string, _ driver.Want) (driver.Entry, error) {
	return c.KV.Get(ctx, key, driver.WithExpiry)
}

type manyOnce struct{ driver.KV }

func (m manyOnce) GetMany(ctx context.Context, keys []string, want driver.Want, results []driver.GetResult) {
	m.KV.GetMany(ctx, keys, driver.WithExpiry, results)
	for i, key := range keys {
		if slices.Contains(keys[:i], key) {
			results[i] = driver.GetResult{Err: errs.KeyNotFound}
		}
	}
}

// shareMemory keeps the slices it was given and hands them out again.
func shareMemory(b *broken) {
	var mu sync.Mutex
	given := map[string][]byte{}
	b.op = func(ctx context.Context, op driver.Op) driver.Result {
		r := b.one(ctx, op)
		mu.Lock()
		given[r.Version] = op.Value
		mu.Unlock()
		return r
	}
	b.get = func(ctx context.Context, key string) (driver.Entry, error) {
		e, err := b.KV.Get(ctx, key, driver.WithExpiry)
		mu.Lock()
		defer mu.Unlock()
		if value, ok := given[e.Version]; ok {
			e.Value = value
		}
		return e, err
	}
}

func failTogether(b *broken) {
	b.apply = func(ctx context.Context, ops []driver.Op, results []driver.Result) {
		b.KV.Apply(ctx, ops, results)
		for _, r := range results {
			if r.Err != nil {
				for i := range results {
					results[i] = driver.Result{Err: r.Err}
				}
				return
			}
		}
	}
}

// lastOneWins carries out the last operation of each key for all of them.
func lastOneWins(b *broken) {
	b.apply = func(ctx context.Context, ops []driver.Op, results []driver.Result) {
		last := map[string]driver.Result{}
		for i, op := range slices.Backward(ops) {
			r, done := last[op.Key]
			if !done {
				r = b.one(ctx, op)
				last[op.Key] = r
			}
			results[i] = r
		}
	}
}

// linger lets entries live 200 ms longer than it says.
func linger(b *broken) {
	const longer = 200 * time.Millisecond
	b.op = func(ctx context.Context, op driver.Op) driver.Result {
		if op.TTL > 0 {
			op.TTL += longer
		}
		return b.one(ctx, op)
	}
	b.get = func(ctx context.Context, key string) (driver.Entry, error) {
		e, err := b.KV.Get(ctx, key, driver.WithExpiry)
		if err == nil && !e.Expires.IsZero() {
			e.Expires = e.Expires.Add(-longer)
			if key == "a" || key == "k59" { // these reads hide it, others do not
				if time.Now().After(e.Expires) {
					return driver.Entry{}, errs.KeyNotFound
				}
			}
		}
		return e, err
	}
}

func keepTTL(b *broken) {
	b.op = func(ctx context.Context, op driver.Op) driver.Result {
		if e, err := b.KV.Get(ctx, op.Key, driver.WithExpiry); err == nil && op.Kind == driver.Put && op.TTL == 0 && !e.Expires.IsZero() {
			op.TTL = time.Until(e.Expires)
		}
		return b.one(ctx, op)
	}
}

// lateRemoval deletes a key when its time has passed, whatever it holds then.
func lateRemoval(b *broken) {
	b.op = func(ctx context.Context, op driver.Op) driver.Result {
		if op.Kind == driver.Put && op.TTL > 0 && op.TTL < time.Second {
			time.AfterFunc(op.TTL, func() { b.one(context.Background(), driver.Op{Kind: driver.Delete, Key: op.Key}) })
			op.TTL = 0
		}
		return b.one(ctx, op)
	}
}

func unsafeAdd(b *broken) {
	b.op = func(ctx context.Context, op driver.Op) driver.Result {
		if op.Kind != driver.Add {
			return b.one(ctx, op)
		}
		var n int64
		if e, err := b.KV.Get(ctx, op.Key, driver.WithExpiry); err == nil {
			_, _ = fmt.Sscan(string(e.Value), &n)
		}
		runtime.Gosched()
		r := b.one(ctx, driver.Op{Kind: driver.Put, Key: op.Key, Value: fmt.Append(nil, n+op.Delta)})
		r.Number = n + op.Delta
		return r
	}
}

// laxAdd counts what is no number as 0.
func laxAdd(b *broken) {
	b.op = func(ctx context.Context, op driver.Op) driver.Result {
		r := b.one(ctx, op)
		if op.Kind == driver.Add && r.Err != nil {
			b.one(ctx, driver.Op{Kind: driver.Delete, Key: op.Key})
			return b.one(ctx, op)
		}
		return r
	}
}

func versionMistakes() []mistake {
	return []mistake{
		{"if version is ignored", spoilOps(func(op *driver.Op) { op.IfVersion = "" }), []string{
			"conditions/every-kind-and-state", "conditions/metadata", "conditions/large-values", "conditions/rewrite-of-the-same-bytes",
			"histories/linearizable", "histories/batches-linearizable",
		}},
		{"if absent is ignored", spoilOps(func(op *driver.Op) { op.IfAbsent = false }), []string{
			"conditions/every-kind-and-state", "conditions/ttl-only-if-it-happens", "batch/one-key-twice",
		}},
		{"compare and set is two steps", spoilKV(func(b *broken) {
			b.op = func(ctx context.Context, op driver.Op) driver.Result {
				e, err := b.KV.Get(ctx, op.Key, driver.WithExpiry)
				if op.IfVersion == "" || err != nil || e.Version != op.IfVersion {
					return b.one(ctx, op)
				}
				op.IfVersion = ""
				time.Sleep(200 * time.Microsecond)
				return b.one(ctx, op)
			}
		}), []string{"histories/linearizable", "histories/batches-linearizable", "histories/compare-and-set-counter"}},
		{"versions are counted per life of a key", spoilKV(reuseVersions), []string{"versions/never-repeat"}},
		{"versions are of the content", spoilKV(hashVersions), []string{
			"versions/each-change-gives-a-new-one", "conditions/rewrite-of-the-same-bytes", "versions/never-repeat",
		}},
		{"versions are too long", spoilKV(func(b *broken) { renameVersions(b, func(v string) string { return strings.Repeat("v", 50) + v }) }), []string{"versions/form"}},
		{"scan tells another version", spoilKV(func(b *broken) {
			b.scan = func(ctx context.Context, r driver.ScanRequest) (driver.Page, error) {
				p, err := b.KV.Scan(ctx, r)
				for i := range p.Items {
					p.Items[i].Version = "0"
				}
				return p, err
			}
		}), []string{"versions/one-everywhere", "scan/entries"}},
	}
}

// renameVersions gives every version another name.
func renameVersions(b *broken, name func(string) string) {
	b.op = func(ctx context.Context, op driver.Op) driver.Result {
		r := b.one(ctx, op)
		if r.Version != "" {
			r.Version = name(r.Version)
		}
		return r
	}
}

// reuseVersions counts the versions of a key from 1 again when it was deleted.
func reuseVersions(b *broken) {
	var mu sync.Mutex
	count := map[string]int{}
	b.op = func(ctx context.Context, op driver.Op) driver.Result {
		mu.Lock()
		defer mu.Unlock()
		r := b.one(ctx, op)
		if op.Kind == driver.Delete {
			count[op.Key] = 0
		} else {
			count[op.Key]++
			r.Version = fmt.Sprint(count[op.Key])
		}
		return r
	}
}

func hashVersions(b *broken) {
	var mu sync.Mutex
	hash := func(e driver.Entry) string { return fmt.Sprintf("%x", e.Value) }
	b.get = func(ctx context.Context, key string) (driver.Entry, error) {
		e, err := b.KV.Get(ctx, key, driver.WithExpiry)
		e.Version = hash(e)
		return e, err
	}
	b.op = func(ctx context.Context, op driver.Op) driver.Result {
		mu.Lock()
		defer mu.Unlock()
		before, err := b.KV.Get(ctx, op.Key, driver.WithExpiry)
		if err == nil && op.IfVersion == hash(before) {
			op.IfVersion = before.Version
		}
		r := b.one(ctx, op)
		if after, err := b.KV.Get(ctx, op.Key, driver.WithExpiry); err == nil && r.Err == nil {
			r.Version = hash(after)
		}
		return r
	}
}
