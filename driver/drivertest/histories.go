package drivertest

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

func historyChecks() []check {
	return []check{
		{"histories/linearizable", nil, linearizable},
		{"histories/batches-linearizable", nil, batchesLinearizable},
		{"histories/compare-and-set-counter", nil, casCounter},
	}
}

// A read is an input of a history that is no driver.Op.
const read driver.OpKind = 0

// register is the state of one key in the model.
type register struct {
	present bool
	value   string
	version string
}

// answer is the outcome of one operation, as the model compares it.
type answer struct {
	reason  errs.Reason // Unknown: it succeeded
	value   string      // of a read
	version string      // of a read and of a write
	number  int64       // of an add
	current string      // metadata: the version that a condition met
}

// model says what one key may answer. Versions are taken from the answers; how
// far they have to differ follows Guarantees.Version.
func model(kind driver.VersionKind) porcupine.Model {
	return porcupine.Model{
		Partition: byKey,
		Init:      func() any { return register{} },
		Step: func(state, input, output any) (bool, any) {
			//nolint:errcheck,forcetypeassert // a history holds nothing else
			return step(kind, state.(register), input.(driver.Op), output.(answer))
		},
		DescribeOperation: func(input, output any) string {
			return fmt.Sprintf("%+v -> %+v", input, output)
		},
	}
}

func byKey(history []porcupine.Operation) (parts [][]porcupine.Operation) {
	at := map[string]int{}
	for _, op := range history {
		key := op.Input.(driver.Op).Key //nolint:errcheck,forcetypeassert // as above
		if _, known := at[key]; !known {
			at[key] = len(parts)
			parts = append(parts, nil)
		}
		parts[at[key]] = append(parts[at[key]], op)
	}
	return parts
}

func step(kind driver.VersionKind, r register, op driver.Op, a answer) (legal bool, next any) {
	if want, current := refusal(r, op); want != errs.Unknown {
		return a.reason == want && a.current == current, r
	}
	if a.reason != errs.Unknown {
		return false, r
	}
	switch op.Kind { //nolint:exhaustive // the others store the value they bring
	case read:
		return a.value == r.value && a.version == r.version, r
	case driver.Delete:
		return true, register{}
	case driver.Add:
		var n int64
		if r.present {
			_, _ = fmt.Sscan(r.value, &n)
		}
		if a.number != n+op.Delta {
			return false, r
		}
		op.Value = fmt.Append(nil, a.number)
	}
	n := register{true, string(op.Value), a.version}
	if kind == driver.ContentVersions {
		return !r.present || (n.value == r.value) == (n.version == r.version), n
	}
	return n.version != r.version, n
}

// refusal returns why the model refuses an operation, Unknown if it does not.
func refusal(r register, op driver.Op) (reason errs.Reason, current string) {
	switch {
	case op.Kind == read && !r.present:
		return errs.KeyNotFound, ""
	case op.IfAbsent && r.present:
		return errs.AlreadyExists, r.version
	case op.IfVersion != "" && (!r.present || r.version != op.IfVersion):
		return errs.VersionMismatch, r.version
	}
	return errs.Unknown, ""
}

// history records operations with their times.
type history struct {
	start time.Time

	mu  sync.Mutex // guards all
	all []porcupine.Operation
}

func (h *history) add(client int, op driver.Op, call time.Duration, a answer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, porcupine.Operation{
		ClientId: client, Input: op, Call: call.Nanoseconds(), Output: a, Return: time.Since(h.start).Nanoseconds(),
	})
}

func (h *history) check(e *env) {
	e.Helper()
	switch porcupine.CheckOperationsTimeout(model(e.g.Version), h.all, patience/2) {
	case porcupine.Illegal:
		e.Errorf("no order of the %d operations explains their answers", len(h.all))
	case porcupine.Unknown:
		e.Errorf("the history of %d operations could not be decided in %s", len(h.all), patience/2)
	case porcupine.Ok:
	}
}

func answerOf(r driver.Result) answer {
	a := answer{version: r.Version, number: r.Number}
	if r.Err != nil {
		a = answer{reason: errs.ReasonOf(r.Err)}
		a.current = meta(r.Err, "current") + meta(r.Err, "version")
	}
	return a
}

func meta(err error, key string) string {
	if err == nil {
		return ""
	}
	return errs.From(err).Meta[key]
}

// player is one goroutine of a history with the versions it has seen.
type player struct {
	*store
	id       int
	h        *history
	rand     *rand.Rand
	versions map[string]string
	seq      int
}

func (p *player) key() string { return fmt.Sprint("k", p.rand.IntN(3)) }

// next returns an operation. Values are few, so that content versions meet.
func (p *player) next() driver.Op {
	p.seq++
	op := driver.Op{Kind: driver.Put, Key: p.key(), Value: fmt.Append(nil, p.rand.IntN(50))}
	switch p.rand.IntN(9) {
	case 0, 1:
		op = driver.Op{Kind: read, Key: op.Key}
	case 2, 3, 4:
		op.IfVersion = p.versions[op.Key]
	case 5:
		op.IfAbsent = true
	case 6:
		op = driver.Op{Kind: driver.Delete, Key: op.Key, IfVersion: p.versions[op.Key]}
	case 7:
		op = driver.Op{Kind: driver.Add, Key: op.Key, Delta: p.rand.Int64N(5)}
	}
	return op
}

func (p *player) play(op driver.Op) {
	call := time.Since(p.h.start)
	var a answer
	if op.Kind == read {
		entry, err := p.kv.Get(p.ctx, op.Key, driver.WithExpiry)
		a = answer{value: string(entry.Value), version: entry.Version}
		if err != nil {
			a = answer{reason: errs.ReasonOf(err)}
		}
	} else {
		a = answerOf(p.do(op))
	}
	p.h.add(p.id, op, call, a)
	p.learn(op.Key, a)
}

func (p *player) learn(key string, a answer) {
	switch {
	case a.version != "":
		p.versions[key] = a.version
	case a.current != "":
		p.versions[key] = a.current
	}
}

func (e *env) players(n int) (*history, []*player) {
	e.Helper()
	one := e.store()
	stores := []*store{one, one.again(e.open())}
	h := &history{start: time.Now()}
	all := make([]*player, n)
	for i := range all {
		all[i] = &player{
			store: stores[i%2], id: i, h: h, versions: map[string]string{},
			rand: rand.New(rand.NewPCG(uint64(i), uint64(time.Now().UnixNano()))),
		}
	}
	return h, all
}

func rounds(full int) int {
	if testing.Short() {
		return full / 4
	}
	return full
}

// linearizable lets goroutines on two connections read, write, compare and
// set, create, delete and add on a few keys, and looks for an order that
// explains what they were answered.
func linearizable(e *env) {
	h, players := e.players(6)
	var wg sync.WaitGroup
	for _, p := range players {
		wg.Go(func() {
			for range rounds(200) {
				p.play(p.next())
			}
		})
	}
	wg.Wait()
	h.check(e)
}

// batchesLinearizable does the same with batches: each of their operations
// happened at some time while the batch did.
func batchesLinearizable(e *env) {
	h, players := e.players(4)
	var wg sync.WaitGroup
	for _, p := range players {
		wg.Go(func() {
			for range rounds(60) {
				p.playBatch()
			}
		})
	}
	wg.Wait()
	h.check(e)
}

func (p *player) playBatch() {
	var ops []driver.Op
	for len(ops) < 4 {
		if op := p.next(); op.Kind != read {
			ops = append(ops, op)
		}
	}
	keys := []string{"k0", "k1", "k2"}
	call := time.Since(p.h.start)
	for i, r := range p.apply(ops...) {
		p.h.add(p.id*100+i, ops[i], call, answerOf(r))
		p.learn(ops[i].Key, answerOf(r))
	}
	call = time.Since(p.h.start)
	for i, r := range p.getMany(keys...) {
		a := answer{value: string(r.Value), version: r.Version}
		if r.Err != nil {
			a = answer{reason: errs.ReasonOf(r.Err)}
		}
		p.h.add(p.id*100+10+i, driver.Op{Kind: read, Key: keys[i]}, call, a)
	}
}

// casCounter counts with compare-and-set alone: no increment is lost.
func casCounter(e *env) {
	one := e.store()
	stores := []*store{one, one.again(e.open())}
	one.put("n", "0")
	const workers = 4
	increments := rounds(40)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for range increments {
				if err := stores[w%2].increment("n"); err != nil {
					e.Errorf("compare and set: %s", describe(err))
					return
				}
			}
		})
	}
	wg.Wait()
	one.is("n", fmt.Sprint(workers*increments))
}

func (s *store) increment(key string) error {
	for {
		entry, err := s.kv.Get(s.ctx, key, driver.WithExpiry)
		if err != nil {
			return err
		}
		var n int
		_, _ = fmt.Sscan(string(entry.Value), &n)
		r := s.do(driver.Op{Kind: driver.Put, Key: key, Value: fmt.Append(nil, n+1), IfVersion: entry.Version})
		if errs.ReasonOf(r.Err) != errs.VersionMismatch {
			return r.Err
		}
	}
}
