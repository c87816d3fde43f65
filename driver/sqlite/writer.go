package sqlite

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// tendEvery is the pause between two looks at what has expired, and whether
// the file is still the one that was opened.
const tendEvery = time.Second

// writer is the one goroutine that opens the file, writes to it and closes it.
// It takes whatever is queued at the moment into one transaction and answers
// after the commit; while that waits for the disk, the next group gathers.
type writer struct {
	*settings
	watchers *hub
	queue    queue
	store    atomic.Pointer[store] // nil while the file is not open
	suspect  atomic.Bool           // opening the file anew may help
	commits  atomic.Int64          // transactions that were committed
	looks    atomic.Int64          // at what topics need not keep

	closing chan struct{}
	done    chan struct{} // the goroutine has ended

	// Only the goroutine uses these.
	group []*request
	more  bool // the last sweep left something

	retained time.Time // when topics may be looked at again for what they need not keep
}

// startWriter starts the goroutine, which does nothing before after is closed,
// unless that is nil.
func startWriter(s *settings, watchers *hub, after <-chan struct{}) *writer {
	w := &writer{
		settings: s, watchers: watchers,
		queue:   queue{wake: make(chan struct{}, 1)},
		closing: make(chan struct{}), done: make(chan struct{}),
	}
	go func() {
		defer close(w.done)
		if after != nil {
			<-after
		}
		w.run()
	}()
	return w
}

// close lets the goroutine finish what is queued and end.
func (w *writer) close() {
	if w.queue.close() {
		close(w.closing)
	}
	<-w.done
}

// probe waits until the writer has opened the file, or says why it cannot.
func (w *writer) probe(ctx context.Context, lock bool) error {
	if err := ended(ctx); err != nil {
		return err
	}
	r := newRequest(nil, nil)
	r.probe = lock
	if err := w.queue.submit(ctx, r); err != nil {
		return err
	}
	err := r.err
	r.recycle()
	return err
}

// opened returns the open file, opening it if need be.
func (w *writer) opened(ctx context.Context) (*store, error) {
	if s := w.store.Load(); s != nil {
		return s, nil
	}
	if err := w.probe(ctx, false); err != nil {
		return nil, err
	}
	if s := w.store.Load(); s != nil {
		return s, nil
	}
	return nil, errs.BackendUnavailable // it was opened, and closed again for a fault
}

func (w *writer) run() {
	defer w.shut()
	<-w.queue.wake // until somebody needs the file, it is not touched
	if empty, closed := w.queue.empty(); empty && closed {
		return
	}
	if err := w.open(); err != nil {
		w.log.Warn("the SQLite file cannot be opened yet", "backend", w.name, "path", w.path, "error", err)
	}
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	for {
		empty, closed := w.queue.empty()
		switch {
		case !empty:
			w.serve()
		case closed:
			return
		case w.more:
		default:
			select {
			case <-w.queue.wake:
				continue
			case <-tick.C:
				w.tend()
			}
		}
		select {
		case <-tick.C:
			w.tend()
		default:
			if w.more {
				w.sweep()
			}
		}
	}
}

// open opens the file unless it is open.
func (w *writer) open() error {
	if w.store.Load() != nil {
		return nil
	}
	s, err := openStore(w.settings)
	if err != nil {
		return err
	}
	w.suspect.Store(false)
	w.store.Store(s)
	return nil
}

func (w *writer) shut() {
	s := w.store.Swap(nil)
	if s == nil {
		return
	}
	if err := s.close(); err != nil {
		w.log.Warn("closing the SQLite file", "backend", w.name, "path", w.path, "error", err)
	}
}

// blame remembers an error that opening the file anew may cure.
func (w *writer) blame(err error) {
	if damaging(err) {
		w.suspect.Store(true)
	}
}

// serve carries out one group. Its requests are taken as late as possible, when
// the lock is held, so that those whose context ends before are not executed.
func (w *writer) serve() {
	err := w.open()
	w.group = w.queue.takeOpeners(w.group[:0])
	w.answer(err)
	if empty, _ := w.queue.empty(); empty {
		return
	}
	var tx *transaction
	if err == nil {
		tx, err = w.begin()
	}
	w.group = w.queue.take(w.group[:0])
	if err != nil {
		w.answer(err)
	} else {
		w.carryOut(tx)
	}
}

func (w *writer) answer(err error) {
	for _, r := range w.group {
		r.answer(err)
	}
	clear(w.group)
}

var errMoved = errors.New("the SQLite file or its lock file was removed or replaced while it was open")

var (
	begin    = query{"BEGIN IMMEDIATE"}
	commit   = query{"COMMIT"}
	rollback = query{"ROLLBACK"}
)

// begin begins a transaction, waiting for other programs' ones.
func (w *writer) begin() (*transaction, error) {
	s := w.store.Load()
	if s.moved() {
		w.shut()
		return nil, errs.Wrap(errMoved, errs.BackendUnavailable, "backend %s: %v; it is opened anew", w.name, errMoved)
	}
	wait := newPatience(w.busy)
	for {
		_, err := s.writer.run(&begin)
		if err == nil {
			return &transaction{store: s, link: s.writer}, nil
		}
		if !busy(err) || !wait.again(context.Background(), w.closing) {
			w.blame(err)
			return nil, explain(w.name, err)
		}
	}
}

// maxRestarts bounds how often a group begins again without an operation that
// spoiled its transaction. Each restart decides one operation.
const maxRestarts = 8

var errSpoiled = errors.New("too many operations spoil the transaction of the others")

// carryOut executes and commits the group and answers it. Where many operations
// spoil the transaction, each request gets one of its own.
func (w *writer) carryOut(tx *transaction) {
	err := w.attempt(tx)
	if !errors.Is(err, errSpoiled) {
		w.answer(err)
		return
	}
	for _, r := range slices.Clone(w.group) {
		w.group = append(w.group[:0], r)
		if tx, err = w.begin(); err == nil {
			err = w.attempt(tx)
		}
		w.answer(err)
	}
}

// attempt executes and commits the group. An error means that nothing of it was
// done, unless its reason says otherwise.
func (w *writer) attempt(tx *transaction) error {
	for restarts := 0; ; restarts++ {
		h, err := w.execute(tx)
		if err == nil {
			return w.commit(tx)
		}
		w.blame(err)
		w.rollback(tx)
		if h == fatal {
			return explain(w.name, err)
		}
		if restarts == maxRestarts && len(w.group) > 1 {
			return errSpoiled
		}
		if tx, err = w.begin(); err != nil {
			return err
		}
	}
}

// rollback fails where SQLite has rolled back by itself.
func (w *writer) rollback(tx *transaction) {
	if _, err := tx.link.run(&rollback); err != nil {
		w.log.Debug("rollback", "backend", w.name, "error", err)
	}
}

// execute carries out every operation of the group that is not decided. After
// an error of harm poisoned the operation that caused it is decided.
func (w *writer) execute(tx *transaction) (harm, error) {
	for _, r := range w.group {
		if r.space != nil {
			tx.now = r.space.conn.settings.now()
		}
		if r.job != nil && r.failed == nil {
			if h, err := w.carryOutJob(tx, r); h != harmless {
				return h, err
			}
		}
		for i := range r.ops {
			op := &r.ops[i]
			if op.Kind == decided {
				continue
			}
			before := tx.writes
			r.results[i] = r.space.execute(tx, op)
			err := r.results[i].Err
			if err == nil {
				continue
			}
			h := harmOf(err)
			r.results[i].Err = explain(w.name, err)
			switch {
			case h == fatal:
				return fatal, err
			case h == poisoned, h == refused && (tx.writes != before || !tx.alive()):
				op.Kind = decided
				return poisoned, err
			}
		}
	}
	return harmless, nil
}

// carryOutJob carries out the job of a request. It returns an error only if that
// harms the others; the job has failed then, unless the harm is fatal.
func (w *writer) carryOutJob(tx *transaction, r *request) (harm, error) {
	before := tx.writes
	err := r.job.do(tx)
	if err == nil {
		return harmless, nil
	}
	h := harmOf(err)
	if h == fatal {
		return fatal, err
	}
	r.failed = explain(w.name, err)
	if h == poisoned || tx.writes != before {
		return poisoned, err
	}
	return harmless, nil
}

// alive reports whether the transaction still runs: a trigger of an adopted
// table may have rolled it back.
func (tx *transaction) alive() bool {
	_, err := tx.link.run(&begin)
	return err != nil // SQLite knows no transaction within a transaction
}

func (w *writer) commit(tx *transaction) error {
	bound, err := tx.store.versions.reserve(tx.link)
	if err == nil {
		err = tx.keepHeads()
	}
	if err != nil {
		w.blame(err)
		w.rollback(tx)
		return explain(w.name, err)
	}
	if _, err := tx.link.run(&commit); err != nil {
		w.blame(err)
		w.rollback(tx)
		w.tell() // it may have happened
		return explainCommit(w.name, err)
	}
	tx.store.versions.bound = bound
	w.commits.Add(1)
	w.tell()
	return nil
}

// tell tells the watchers before the callers are answered.
func (w *writer) tell() {
	for _, r := range w.group {
		if r.job != nil && r.failed == nil {
			r.job.tell()
		}
	}
	if w.watchers.count.Load() == 0 {
		return
	}
	for _, r := range w.group {
		for i := range r.ops {
			if r.ops[i].Kind != decided && r.results[i].Err == nil && !r.results[i].Repeated {
				w.watchers.tell(r.space.id, r.ops[i].Key)
			}
		}
	}
}

// tend closes a file that is not sound or not there any more, to be opened anew
// by the next operation, and removes what has expired.
func (w *writer) tend() {
	s := w.store.Load()
	if s == nil {
		return
	}
	if w.suspect.Swap(false) || s.moved() {
		w.shut()
		return
	}
	w.sweep()
}

// sweepRows bounds what one transaction removes, as writers wait for it.
const sweepRows = 128

var sweeps = [...]struct {
	find, remove query
	rows         int64
}{
	{
		query{"SELECT count(*) FROM (SELECT 1 FROM prism_kv INDEXED BY prism_kv_expires WHERE expires_at <= ? LIMIT 1)"},
		query{"DELETE FROM prism_kv WHERE rowid IN (SELECT rowid FROM prism_kv INDEXED BY prism_kv_expires WHERE expires_at <= ? LIMIT ?)"},
		sweepRows,
	},
	{
		query{"SELECT count(*) FROM (SELECT 1 FROM prism_once INDEXED BY prism_once_expires WHERE expires_at <= ? LIMIT 1)"},
		query{"DELETE FROM prism_once WHERE (space, token) IN (SELECT space, token FROM prism_once INDEXED BY prism_once_expires WHERE expires_at <= ? LIMIT ?)"},
		sweepRows,
	},
	{
		query{"SELECT count(*) FROM (SELECT 1 FROM prism_queue_id INDEXED BY prism_queue_id_expires WHERE expires_at <= ? LIMIT 1)"},
		query{"DELETE FROM prism_queue_id WHERE (namespace, queue, id) IN (SELECT namespace, queue, id FROM prism_queue_id INDEXED BY prism_queue_id_expires WHERE expires_at <= ? LIMIT ?)"},
		sweepRows,
	},
	{
		query{"SELECT count(*) FROM (SELECT 1 FROM prism_log_id INDEXED BY prism_log_id_expires WHERE expires_at <= ? LIMIT 1)"},
		query{"DELETE FROM prism_log_id WHERE (number, id) IN (SELECT number, id FROM prism_log_id INDEXED BY prism_log_id_expires WHERE expires_at <= ? LIMIT ?)"},
		maxGroupOps, // as many as one transaction adds
	},
}

// sweep removes some of what has expired.
func (w *writer) sweep() {
	w.more = false
	s := w.store.Load()
	if s == nil {
		return
	}
	for i := range sweeps {
		x := &sweeps[i]
		removed, err := w.remove(s, &x.find, &x.remove, x.rows)
		if err != nil {
			w.blame(err)
			w.log.Debug("removing what has expired", "backend", w.name, "error", err)
			return
		}
		w.more = w.more || removed == x.rows
	}
	more, err := w.retain(s)
	if err != nil {
		w.blame(err)
		w.log.Debug("removing what topics need not keep", "backend", w.name, "error", err)
	}
	w.more = w.more || more
}

func (w *writer) remove(s *store, find, remove *query, rows int64) (removed int64, err error) {
	now := w.now().UnixMilli()
	if found, err := s.writer.number(find, now); err != nil || found == 0 {
		return 0, err
	}
	return s.writer.run(remove, now, rows)
}

// refuse returns why an operation cannot be carried out whatever the data are.
func (s *space) refuse(op *driver.Op) error {
	switch {
	case op.Kind < driver.Put || op.Kind > driver.Expire:
		return errs.Invalid(errs.Field{Path: "kind", Text: "is none of put, delete, add and expire"})
	case len(op.Value) > s.conn.settings.maxValue:
		return errs.TooLarge("value", len(op.Value), s.conn.settings.maxValue)
	case s.table.versions() == driver.ContentVersions && (op.TTL != 0 || op.Kind == driver.Expire):
		return errNoExpiry
	}
	return nil
}
