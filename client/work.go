package client

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/prismgw/prism/errs"
)

// A WorkOption is one of Concurrency, MaxHandling and OnTaskError.
type WorkOption interface{ work(o *workOptions) }

type workOptions struct {
	concurrency int
	maxHandling time.Duration
	taskError   func(t *Task, err error)
}

func (n Concurrency) work(o *workOptions) { o.concurrency = max(1, int(n)) }

func (d MaxHandling) work(o *workOptions) { o.maxHandling = time.Duration(d) }

// OnTaskError is told of outcomes that could not be settled, such as of tasks
// that went to another worker meanwhile. It may be called from several goroutines.
type OnTaskError func(t *Task, err error)

func (f OnTaskError) work(o *workOptions) { o.taskError = f }

// Work does the tasks of a queue, until ctx ends; it then returns those that were
// not begun, uncounted, lets the handlers that run finish, settles what they did,
// and returns nil. Before that it returns only what keeps it from working, such as
// errs.QueueNotFound: connections that break, and proxies that go, are replaced.
//
// A handler that returns nil acknowledges its task, which is gone when the proxy
// has said so. One that returns an error rejects it: it comes again later, and
// after the last attempt goes to the dead letters. A task comes at least once:
// what was done and could not be acknowledged comes again. While a handler runs,
// the client keeps its task in hand; if it is lost all the same, the handler's
// context ends.
func (q *Queues) Work(ctx context.Context, queue string, handle func(ctx context.Context, t *Task) error, opts ...WorkOption) error {
	o := workOptions{concurrency: 16, maxHandling: 10 * time.Minute, taskError: func(*Task, error) {}}
	for _, opt := range opts {
		opt.work(&o)
	}
	w := &working{queues: q, queue: queue, handle: handle, workOptions: o, places: make(chan struct{}, o.concurrency)}
	defer w.handlers.Wait()
	for try := 1; ; {
		tasks, err := w.receive(ctx)
		if ctx.Err() != nil || q.client.closed.Load() {
			w.giveBack(ctx, tasks)
			return nil
		}
		switch {
		case err == nil:
			try = 1
			w.begin(ctx, tasks)
			continue
		case !worthwhile(err, true) && !errors.Is(err, errs.Deadline):
			return err
		}
		if !sleep(ctx, q.client.retry.delay(min(try, 20), errs.From(err).RetryAfter)) {
			return nil
		}
		try++
	}
}

// working is one call of Work.
type working struct {
	workOptions
	queues   *Queues
	queue    string
	handle   func(ctx context.Context, t *Task) error
	places   chan struct{} // one for each handler that runs
	handlers sync.WaitGroup
}

const (
	// workTurn is how long one Receive of a Work waits. None is given up while
	// it does: what its answer brings would be nobody's until the lease ends.
	workTurn = 2 * time.Second

	maxTurn = 1000 // tasks of one Receive
)

// receive waits for a place and takes as many tasks as there are places.
func (w *working) receive(ctx context.Context) ([]*Task, error) {
	select {
	case w.places <- struct{}{}:
	case <-ctx.Done():
		return nil, errs.From(ctx.Err())
	}
	<-w.places // nobody else takes one
	n := min(w.concurrency-len(w.places), maxTurn)
	return w.queues.Receive(context.WithoutCancel(ctx), w.queue, n, workTurn)
}

// begin works on tasks, for which there are places.
func (w *working) begin(ctx context.Context, tasks []*Task) {
	for _, t := range tasks {
		w.places <- struct{}{}
		w.handlers.Go(func() {
			defer func() { <-w.places }()
			w.work(context.WithoutCancel(ctx), t)
		})
	}
}

// giveBack returns tasks that were not begun.
func (w *working) giveBack(ctx context.Context, tasks []*Task) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTime)
	defer cancel()
	for _, t := range tasks {
		if err := w.queues.Return(ctx, t); err != nil {
			w.taskError(t, err)
		}
	}
}

// work does one task and settles it.
func (w *working) work(ctx context.Context, t *Task) {
	own, cancel := context.WithTimeout(ctx, w.maxHandling)
	defer cancel()
	var keeper sync.WaitGroup
	keeper.Go(func() { w.keep(own, t, cancel) })
	err := w.handle(own, t)
	cancel()
	keeper.Wait()
	w.settle(ctx, t, err)
}

// keep keeps a task in hand until the context ends.
func (w *working) keep(ctx context.Context, t *Task, lost context.CancelFunc) {
	for wait := extendFirst; sleep(ctx, wait); wait = extendEvery {
		w.extend(ctx, t, lost)
	}
}

// extend keeps a task in hand. One that is somebody else's is worked on no more.
func (w *working) extend(ctx context.Context, t *Task, lost context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, extendEvery)
	defer cancel()
	if err := w.queues.Extend(ctx, t, 3*extendEvery); errors.Is(err, errs.StaleReceipt) {
		lost()
	}
}

func (w *working) settle(ctx context.Context, t *Task, outcome error) {
	ctx, cancel := context.WithTimeout(ctx, finishTime)
	defer cancel()
	var err error
	if outcome == nil {
		err = w.queues.Acknowledge(ctx, t)
	} else {
		err = w.queues.Reject(ctx, t, outcome)
	}
	if err != nil {
		w.taskError(t, err)
	}
}
