package postgres

import (
	"context"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

const (
	maxValue    = 16 << 20 // bytes; PostgreSQL takes more, a pipeline of many should stay small
	readWeight  = 512      // keys of one query
	writeWeight = 8 << 20  // bytes of one pipeline
	opWeight    = 16 << 10 // what an operation counts beside its bytes
)

// kv is one space.
type kv struct {
	c     *conn
	space spaceKey

	namespace, pattern []byte
	reads              lane[*readJob]
	writes             lane[*writeJob]

	table atomic.Pointer[adoptedTable] // what is known of an adopted table
}

var _ driver.KV = (*kv)(nil)

func newKV(c *conn, k spaceKey) *kv {
	s := &kv{c: c, space: k, namespace: []byte(k.namespace), pattern: []byte(k.pattern)}
	s.reads.max, s.reads.weight, s.reads.fly = c.opts.Flights, readWeight, s.flyReads
	s.writes.max, s.writes.weight, s.writes.fly = c.opts.Flights, writeWeight, s.flyWrites
	return s
}

// scope returns parameters that name the space.
func (s *kv) scope() *values {
	return &values{pNamespace: s.namespace, pPattern: s.pattern}
}

// Guarantees returns what this space promises.
func (s *kv) Guarantees() driver.Guarantees {
	g := driver.Guarantees{
		Version:     driver.WriteVersions,
		Clock:       driver.ServerClock,
		OrderedScan: true,
		ScanCost:    driver.ScanPrefix,
		Idempotency: driver.IdempotencyAtomic,
		MaxValue:    maxValue,
		TTL:         !s.space.layout.adopted(),
		Shared:      true,
		Ack:         s.c.assert.ack(),
	}
	if s.space.layout.adopted() {
		g.Version = driver.ContentVersions
		g.ScanCost = driver.ScanKeyspace // nobody promises an index in the order of bytes
	}
	return g
}

// checkKey refuses what PostgreSQL cannot hold, so that one caller's key never
// fails a query that others share.
func checkKey(key string) error {
	if key == "" || len(key) > driver.MaxKey || strings.IndexByte(key, 0) >= 0 || !utf8.ValidString(key) {
		return errs.InvalidKey
	}
	return nil
}

// Get returns the entry of key.
func (s *kv) Get(ctx context.Context, key string, want driver.Want) (driver.Entry, error) {
	var results [1]driver.GetResult
	s.GetMany(ctx, []string{key}, want, results[:])
	return results[0].Entry, results[0].Err
}

// GetMany reads the keys with one query, shared with other callers.
func (s *kv) GetMany(ctx context.Context, keys []string, want driver.Want, results []driver.GetResult) {
	if len(keys) == 0 {
		return
	}
	if ctx.Err() != nil {
		failReads(results, contextError(ctx))
		return
	}
	job := &readJob{keys: append([]string(nil), keys...), results: make([]driver.GetResult, len(keys))}
	if !s.reads.do(ctx, job, len(keys)) {
		failReads(results, contextError(ctx))
		return
	}
	for i := range results {
		results[i] = driver.GetResult{Entry: job.results[i].Wanted(want), Err: job.results[i].Err}
	}
}

// Apply carries the operations out, in pipelines shared with other callers.
func (s *kv) Apply(ctx context.Context, ops []driver.Op, results []driver.Result) {
	for from := 0; from < len(ops); {
		if ctx.Err() != nil {
			failWrites(results[from:], contextError(ctx))
			return
		}
		job, weight := s.job(ops[from:])
		n := len(job.units)
		if s.writes.do(ctx, job, weight) {
			for i := range job.units {
				results[from+i] = job.units[i].result
			}
		} else {
			failWrites(results[from:from+n], contextError(ctx))
		}
		from += n
	}
}

// job copies as many operations as one flight takes.
func (s *kv) job(ops []driver.Op) (*writeJob, int) {
	job := &writeJob{units: make([]unit, 0, min(len(ops), writeWeight/opWeight))}
	weight := 0
	for i := range ops {
		if i > 0 && weight >= writeWeight {
			break
		}
		weight += opWeight + len(ops[i].Value)
		job.units = append(job.units, s.newUnit(&ops[i]))
	}
	return job, weight
}

func failReads(results []driver.GetResult, err error) {
	for i := range results {
		results[i] = driver.GetResult{Err: err}
	}
}

func failWrites(results []driver.Result, err error) {
	for i := range results {
		results[i] = driver.Result{Err: err}
	}
}
