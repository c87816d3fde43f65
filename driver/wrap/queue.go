package wrap

import (
	"context"
	"time"

	"github.com/prismgw/prism/driver"
)

// ObserveQueue is Observe for a Queue: o is told of every call. A Receive that
// waits is "wait" there, as its time says nothing about the backend.
func ObserveQueue(q driver.Queue, backend string, o Observer) driver.Queue {
	return &observedQueue{q, observation{backend, o}}
}

type observedQueue struct {
	driver.Queue
	observation
}

func (q *observedQueue) Enqueue(ctx context.Context, queue string, tasks []driver.Task, results []driver.EnqueueResult) {
	began := time.Now()
	q.Queue.Enqueue(ctx, queue, tasks, results)
	var failures []error
	for i := range results {
		failures = q.named(failures, "enqueue", &results[i].Err)
	}
	q.observer.Observe(ctx, "enqueue", len(tasks), began, failures)
}

func (q *observedQueue) Receive(ctx context.Context, r driver.ReceiveRequest) ([]driver.Leased, error) {
	method := "receive"
	if r.Wait > 0 {
		method = "wait"
	}
	began := time.Now()
	leased, err := q.Queue.Receive(ctx, r)
	q.one(ctx, method, began, &err)
	return leased, err
}

func (q *observedQueue) Settle(ctx context.Context, queue string, settlements []driver.Settlement, results []error) {
	began := time.Now()
	q.Queue.Settle(ctx, queue, settlements, results)
	var failures []error
	for i := range results {
		failures = q.named(failures, "settle", &results[i])
	}
	q.observer.Observe(ctx, "settle", len(settlements), began, failures)
}

func (q *observedQueue) Browse(ctx context.Context, r driver.BrowseRequest) ([]driver.Waiting, error) {
	began := time.Now()
	all, err := q.Queue.Browse(ctx, r)
	q.one(ctx, "browse", began, &err)
	return all, err
}

func (q *observedQueue) Stat(ctx context.Context, queue string) (driver.QueueStat, error) {
	began := time.Now()
	s, err := q.Queue.Stat(ctx, queue)
	q.one(ctx, "stat", began, &err)
	return s, err
}

// guardedQueue is a Queue behind a guard.
type guardedQueue struct {
	driver.Queue
	guard
}

func (q *guardedQueue) Enqueue(ctx context.Context, queue string, tasks []driver.Task, results []driver.EnqueueResult) {
	leave, err := q.enter(ctx)
	if err != nil {
		for i := range results {
			results[i] = driver.EnqueueResult{Err: err}
		}
		return
	}
	defer func() { leave(q.worst(len(results), func(i int) error { return results[i].Err })) }()
	q.Queue.Enqueue(ctx, queue, tasks, results)
}

// Receive lets those pass who wait: they would take the places of everybody
// else, and a breaker would learn late how they fared.
func (q *guardedQueue) Receive(ctx context.Context, r driver.ReceiveRequest) (leased []driver.Leased, err error) {
	if r.Wait > 0 {
		return q.Queue.Receive(ctx, r)
	}
	leave, err := q.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { leave(err) }()
	leased, err = q.Queue.Receive(ctx, r)
	return leased, err
}

func (q *guardedQueue) Settle(ctx context.Context, queue string, settlements []driver.Settlement, results []error) {
	leave, err := q.enter(ctx)
	if err != nil {
		for i := range results {
			results[i] = err
		}
		return
	}
	defer func() { leave(q.worst(len(results), func(i int) error { return results[i] })) }()
	q.Queue.Settle(ctx, queue, settlements, results)
}

func (q *guardedQueue) Browse(ctx context.Context, r driver.BrowseRequest) (all []driver.Waiting, err error) {
	leave, err := q.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { leave(err) }()
	all, err = q.Queue.Browse(ctx, r)
	return all, err
}

func (q *guardedQueue) Stat(ctx context.Context, queue string) (s driver.QueueStat, err error) {
	leave, err := q.enter(ctx)
	if err != nil {
		return driver.QueueStat{}, err
	}
	defer func() { leave(err) }()
	s, err = q.Queue.Stat(ctx, queue)
	return s, err
}
