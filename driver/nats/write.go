package nats

import (
	"bytes"
	"context"
	"errors"
	"hash/maphash"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// together is how many operations of a batch that take several steps are under
// way at once.
const together = 64

var errOnce = errs.New(errs.Unsupported, "NATS keeps no record of an operation in one step with its effect; the token has to be reserved by a write of its own")

func (k *kv) Apply(ctx context.Context, ops []driver.Op, results []driver.Result) {
	s, err := k.link.get(ctx)
	if err != nil {
		err = k.link.fail(ctx, err, true)
		for i := range results {
			results[i] = driver.Result{Err: err}
		}
		return
	}
	if len(ops) == 1 {
		results[0] = k.apply(ctx, s, &ops[0])
		return
	}
	k.applyMany(ctx, s, ops, results)
}

// applyMany sends the plain puts in one go, and lets the operations that take
// several steps run beside each other.
func (k *kv) applyMany(ctx context.Context, s *session, ops []driver.Op, results []driver.Result) {
	var steps sync.WaitGroup
	slots := make(chan struct{}, together)
	puts := make([]*call, len(ops))
	for i := range ops {
		if k.check(&ops[i]) == nil && oneStep(&ops[i]) {
			c, err := k.beginPut(ctx, s, &ops[i], nil)
			if err != nil {
				results[i] = driver.Result{Err: k.link.fail(ctx, err, true)}
			}
			puts[i] = c
			continue
		}
		slots <- struct{}{} // whoever holds one gives it back when the context ends
		steps.Go(func() {
			results[i] = k.apply(ctx, s, &ops[i])
			<-slots
		})
	}
	for i, c := range puts {
		if c != nil {
			results[i] = k.finishPut(ctx, s, c)
		}
	}
	steps.Wait()
}

func (k *kv) check(op *driver.Op) error {
	switch {
	case op.Once != nil:
		return errOnce
	case op.Kind < driver.Put || op.Kind > driver.Expire:
		return errs.New(errs.Internal, "operation of kind %d is none of KV", op.Kind)
	case op.Kind == driver.Put && len(op.Value) > k.set.maxValue:
		return errs.TooLarge("value", len(op.Value), k.set.maxValue)
	}
	return nil
}

func oneStep(op *driver.Op) bool {
	return op.Kind == driver.Put && !op.IfAbsent && op.IfVersion == ""
}

// apply carries out one operation.
func (k *kv) apply(ctx context.Context, s *session, op *driver.Op) driver.Result {
	if err := k.check(op); err != nil {
		return driver.Result{Err: err}
	}
	w := &write{kv: k, session: s, op: op, subject: k.subject(op.Key)}
	var r driver.Result
	var err error
	switch op.Kind {
	case driver.Put:
		r, err = w.put(ctx)
	case driver.Delete:
		err = w.remove(ctx)
	case driver.Add:
		r, err = w.add(ctx)
	case driver.Expire:
		r, err = w.expire(ctx)
	}
	if err != nil {
		return driver.Result{Err: k.link.fail(ctx, err, true)}
	}
	return r
}

// beginPut puts the write of a Put on its way; expect is the sequence that the
// subject's last message has to have.
func (k *kv) beginPut(ctx context.Context, s *session, op *driver.Op, expect *uint64) (*call, error) {
	var expires int64
	if op.TTL > 0 {
		expires = expiry(k.now(), op.TTL)
	}
	c := k.newWrite(k.subject(op.Key), bytes.Clone(op.Value), expires, expect)
	if err := s.begin(ctx, c); err != nil {
		return nil, err
	}
	return c, nil
}

func (k *kv) finishPut(ctx context.Context, s *session, c *call) driver.Result {
	seq, err := k.finishWrite(ctx, s, c)
	if err != nil {
		return driver.Result{Err: k.link.fail(ctx, err, true)}
	}
	return driver.Result{Version: versionOf(seq)}
}

// expiry returns when a time to live ends, in milliseconds, rounded up so that
// nothing expires before its time.
func expiry(now time.Time, ttl time.Duration) int64 {
	return (now.Add(ttl).UnixNano() + int64(time.Millisecond) - 1) / int64(time.Millisecond)
}

// newWrite returns the call that stores a value.
func (k *kv) newWrite(subject string, value []byte, expires int64, expect *uint64) *call {
	c := &call{subject: subject, data: value}
	if expires == 0 && expect == nil {
		return c
	}
	c.header = make(nats.Header, 3)
	if expires != 0 {
		// The server counts from when it stores the message, which is later.
		left := max(time.Second, time.UnixMilli(expires).Sub(k.now()))
		c.header[expiresHeader] = []string{strconv.FormatInt(expires, 10)}
		c.header[ttlHeader] = []string{strconv.FormatInt(int64((left+time.Second-1)/time.Second), 10)}
	}
	if expect != nil {
		c.header[expectHeader] = []string{versionOf(*expect)}
	}
	return c
}

func (k *kv) finishWrite(ctx context.Context, s *session, c *call) (seq uint64, err error) {
	m, err := s.wait(ctx, c)
	if err != nil {
		return 0, err
	}
	return s.ackOf(m, k.set.stream())
}

// write is one operation that may take several steps.
type write struct {
	kv      *kv
	session *session
	op      *driver.Op
	subject string
}

// store writes a value if the subject's last message is the expected one, else
// errConflict.
func (w *write) store(ctx context.Context, value []byte, expires int64, expect uint64) (uint64, error) {
	c := w.kv.newWrite(w.subject, value, expires, &expect)
	if err := w.session.begin(ctx, c); err != nil {
		return 0, err
	}
	return w.kv.finishWrite(ctx, w.session, c)
}

// look reads the subject. What cannot be read has not been written either.
func (w *write) look(ctx context.Context) (r record, live bool, err error) {
	r, err = w.kv.look(ctx, w.session, w.subject)
	if err != nil {
		return r, false, w.kv.link.fail(ctx, err, false)
	}
	return r, r.live(w.kv.now()), nil
}

// mismatch checks the operation's IfVersion.
func (w *write) mismatch(r *record, live bool) error {
	if w.op.IfVersion == "" || live && versionOf(r.seq) == w.op.IfVersion {
		return nil
	}
	e := errs.New(errs.VersionMismatch, "the key does not have this version; read it again and decide anew")
	if live {
		e = e.With("current", versionOf(r.seq))
	}
	return e
}

func (w *write) put(ctx context.Context) (driver.Result, error) {
	if oneStep(w.op) {
		c, err := w.kv.beginPut(ctx, w.session, w.op, nil)
		if err != nil {
			return driver.Result{}, err
		}
		return w.kv.finishPut(ctx, w.session, c), nil
	}
	var r record // a Put if absent begins with the guess that nothing was ever there
	for guessed := w.op.IfVersion == ""; ; guessed = false {
		if !guessed {
			var live bool
			var err error
			if r, live, err = w.look(ctx); err != nil {
				return driver.Result{}, err
			}
			if err := w.mismatch(&r, live); err != nil {
				return driver.Result{}, err
			}
			if w.op.IfAbsent && live {
				return driver.Result{}, errs.New(errs.AlreadyExists, "the key exists already").With("version", versionOf(r.seq))
			}
		}
		c, err := w.kv.beginPut(ctx, w.session, w.op, &r.seq)
		if err != nil {
			return driver.Result{}, err
		}
		seq, err := w.kv.finishWrite(ctx, w.session, c)
		if !errors.Is(err, errConflict) {
			return driver.Result{Version: versionOf(seq)}, err
		}
	}
}

// remove writes a marker, unless there is nothing to delete.
func (w *write) remove(ctx context.Context) error {
	for {
		r, live, err := w.look(ctx)
		if err != nil {
			return err
		}
		if err := w.mismatch(&r, live); err != nil || !live {
			return err
		}
		c := &call{subject: w.subject, header: nats.Header{
			operationHeader: {"DEL"},
			ttlHeader:       {strconv.Itoa(int(markerTTL / time.Second))},
		}}
		if w.op.IfVersion != "" {
			c.header[expectHeader] = []string{w.op.IfVersion}
		}
		if err := w.session.begin(ctx, c); err != nil {
			return err
		}
		if _, err = w.kv.finishWrite(ctx, w.session, c); !errors.Is(err, errConflict) {
			return err
		}
	}
}

// expire stores the value again, with another expiry.
func (w *write) expire(ctx context.Context) (driver.Result, error) {
	leave, err := w.session.numbers.turn(ctx, w.subject)
	if err != nil {
		return driver.Result{}, &lostError{cause: err}
	}
	defer leave()
	for {
		r, live, err := w.look(ctx)
		if err != nil {
			return driver.Result{}, err
		}
		if err := w.mismatch(&r, live); err != nil {
			return driver.Result{}, err
		}
		if !live {
			return driver.Result{}, errs.KeyNotFound
		}
		at := expiry(w.kv.now(), w.op.TTL)
		seq, err := w.store(ctx, r.value, at, r.seq)
		if !errors.Is(err, errConflict) {
			return driver.Result{Version: versionOf(seq), Expires: timeOf(at)}, err
		}
	}
}

// add stores the sum if nobody else has written meanwhile, else it begins
// again. It begins with what this session knows of the number, or with the
// guess that nothing was ever there, which a wrong guess costs one more trip.
func (w *write) add(ctx context.Context) (driver.Result, error) {
	leave, err := w.session.numbers.turn(ctx, w.subject)
	if err != nil {
		return driver.Result{}, &lostError{cause: err}
	}
	defer leave()
	r := w.session.numbers.known(w.subject)
	for guessed := w.mismatch(&r, r.live(w.kv.now())) == nil; ; guessed = false {
		if !guessed {
			if r, _, err = w.look(ctx); err != nil {
				return driver.Result{}, err
			}
		}
		live := r.live(w.kv.now())
		if err := w.mismatch(&r, live); err != nil {
			if guessed {
				continue // it expired just now: see what is there
			}
			return driver.Result{}, err
		}
		result, err := w.addTo(ctx, r, live)
		if !errors.Is(err, errConflict) {
			return result, err
		}
	}
}

func (w *write) addTo(ctx context.Context, r record, live bool) (driver.Result, error) {
	var old int64
	if live {
		var err error
		if old, err = number(r.value); err != nil {
			return driver.Result{}, err
		}
	} else {
		r.expires = 0
	}
	sum := old + w.op.Delta
	if (sum > old) != (w.op.Delta > 0) && w.op.Delta != 0 {
		return driver.Result{}, errs.OutOfRange
	}
	value := strconv.AppendInt(nil, sum, 10)
	seq, err := w.store(ctx, value, r.expires, r.seq)
	if err != nil {
		w.session.numbers.forget(w.subject)
		return driver.Result{}, err
	}
	w.session.numbers.learn(record{subject: w.subject, seq: seq, value: value, expires: r.expires})
	return driver.Result{Version: versionOf(seq), Number: sum, Expires: timeOf(r.expires)}, nil
}

// number reads a value as Add does.
func number(value []byte) (int64, error) {
	digits := bytes.TrimPrefix(value, []byte("-"))
	if len(digits) == 0 || len(digits) > 19 {
		return 0, errs.NotANumber
	}
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, errs.NotANumber
		}
	}
	n, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil {
		return 0, errs.OutOfRange
	}
	return n, nil
}

const (
	turnCount  = 256
	maxNumbers = 4096
)

// numbers lets the additions to one key go one after the other, and remembers
// what the last one has stored, so that the next one needs no read. What is
// remembered is only a guess: a write says by its sequence what it stands on.
type numbers struct {
	turns [turnCount]chan struct{} // of capacity 1

	mu   sync.Mutex // guards last
	last map[string]record
}

var seed = maphash.MakeSeed()

func (n *numbers) prepare() {
	for i := range n.turns {
		n.turns[i] = make(chan struct{}, 1)
	}
	n.last = make(map[string]record)
}

// turn waits for the turn of a key, until the context ends.
func (n *numbers) turn(ctx context.Context, subject string) (leave func(), err error) {
	t := n.turns[maphash.String(seed, subject)%turnCount]
	select {
	case t <- struct{}{}:
		return func() { <-t }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (n *numbers) known(subject string) record {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.last[subject]
}

func (n *numbers) learn(r record) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.last) >= maxNumbers {
		for subject := range n.last { // any one
			delete(n.last, subject)
			break
		}
	}
	n.last[r.subject] = r
}

func (n *numbers) forget(subject string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.last, subject)
}
