package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	openCallers = 64  // the contests that also run an open loop
	openShare   = 0.6 // of the throughput of the closed loop
	openWorkers = 512 // calls at once, at most; what comes meanwhile waits, and its wait counts
)

// openLoop makes calls at a fixed rate, whether those before are answered or
// not, and takes each one's latency from the moment at which it was due: a
// stall of the server makes every call late that falls into it (no
// coordinated omission).
func openLoop(ctx context.Context, c *contender, do call, rate float64, warm, window time.Duration) (sample, error) {
	m := meter{process: c.server, noAllocs: c.noAllocs}
	if err := m.before(ctx); err != nil {
		return sample{}, err
	}
	if rate <= 0 {
		return sample{}, errors.New("there is no rate to call at")
	}
	begin := time.Now()
	s := schedule{begin: begin, measured: begin.Add(warm), end: begin.Add(warm + window), every: time.Duration(float64(time.Second) / rate)}
	due := make(chan time.Time, 1<<16)
	workers := make([]worker, openWorkers)
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() { workers[i].run(do, i, c.spans(), &s, due) })
	}
	err := s.feed(ctx, due, m.start)
	m.stop()
	close(due)
	if late := within(&wg, lateStop); late != nil {
		return sample{}, late
	}
	total := 0
	var took []time.Duration
	for i := range workers {
		err = errors.Join(err, workers[i].err)
		total += workers[i].all
		took = append(took, workers[i].took...)
	}
	if err != nil {
		return sample{}, err
	}
	if err := m.after(ctx, total); err != nil {
		return sample{}, err
	}
	return m.sample(took), nil
}

// A schedule says when calls are due.
type schedule struct {
	begin, measured, end time.Time
	every                time.Duration
}

// feed sends the moments at which calls are due, each when it has come, and
// calls start when the first that counts is due.
func (s *schedule) feed(ctx context.Context, due chan<- time.Time, start func()) error {
	p, err := newPacer(max(s.every, minPace))
	if err != nil {
		return err
	}
	defer p.close()
	for next := s.begin; next.Before(s.end); {
		for now := time.Now(); !next.After(now) && next.Before(s.end); next = next.Add(s.every) {
			if start != nil && !next.Before(s.measured) {
				start()
				start = nil
			}
			due <- next
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := p.wait(); err != nil {
			return err
		}
	}
	return nil
}

// A worker makes one call at a time.
type worker struct {
	all  int
	took []time.Duration
	err  error
}

func (w *worker) run(do call, number, span int, s *schedule, due <-chan time.Time) {
	r := rand.New(rand.NewPCG(uint64(number), 11))
	for at := range due {
		if w.err != nil {
			continue // the others go on; the window fails
		}
		w.err = do(number, r.IntN(span))
		w.all++
		if !at.Before(s.measured) {
			w.took = append(w.took, time.Since(at))
		}
	}
}

// minPace is how often calls are handed out at most; what is due in between
// goes together.
const minPace = 50 * time.Microsecond
