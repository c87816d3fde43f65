package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"time"
)

// A verb is what callers do.
type verb string

const (
	retrieve verb = "Retrieve"
	store    verb = "Store"
)

// A workload is what every contender of a contest is given.
type workload struct {
	verb    verb
	size    int // of a value
	callers int
}

func (w workload) String() string {
	return fmt.Sprintf("%s %s, %s", w.verb, bytesText(w.size), callersText(w.callers))
}

// A call is one operation. n, below the contender's span, chooses the key.
// Calls are made from many goroutines at once, with one caller in each.
type call func(caller, n int) error

// A session is a contender that is ready for one workload.
type session struct {
	call  call
	close func()
}

// A contender is one way to get at data.
type contender struct {
	name     string
	server   *process // whose CPU and allocations are counted; nil: not counted
	noAllocs bool     // its allocations cannot be counted
	span     int      // of what calls choose from; 0: keyCount
	data     string   // which data it reads; empty: there is none to be filled in
	open     func(ctx context.Context, w workload) (session, error)
}

func (c *contender) spans() int {
	if c.span > 0 {
		return c.span
	}
	return keyCount
}

// A contest is a workload and those who compete in it; the first is what the
// others are compared with.
type contest struct {
	family     string
	work       workload
	contenders []*contender
	results    map[*contender]*result
}

// A result is what a contender did, round by round.
type result struct {
	closed, open []sample
	rate         float64 // of the open loop
	err          error   // why it is left out
}

func (t *contest) title() string { return t.family + ": " + t.work.String() }

// fillers remember which data is there already.
type fillers map[string]bool

// run lets the contenders take turns.
func (t *contest) run(ctx context.Context, o *options, filled fillers, progress func(string)) {
	t.results = make(map[*contender]*result)
	sessions := make(map[*contender]session)
	for _, c := range t.contenders {
		r := new(result)
		t.results[c] = r
		var s session
		if r.err = t.fill(ctx, c, filled); r.err == nil {
			s, r.err = c.open(ctx, t.work)
		}
		if r.err == nil {
			defer s.close()
			sessions[c] = s
		}
	}
	t.turns(o, func(c *contender) {
		r := t.results[c]
		s, err := closedLoop(ctx, c, sessions[c].call, t.work.callers, o.warm, o.window)
		r.closed, r.err = append(r.closed, s), err
		progress(fmt.Sprintf("%s: %s/s", c.name, countText(s.rate)))
	})
	if o.openLoop && t.work.callers == openCallers {
		t.turns(o, func(c *contender) {
			r := t.results[c]
			r.rate = openShare * medianOf(r.closed, rateOf)
			s, err := openLoop(ctx, c, sessions[c].call, r.rate, o.warm, o.window)
			r.open, r.err = append(r.open, s), err
			progress(fmt.Sprintf("%s: at %s/s p99 %s", c.name, countText(r.rate), timeText(s.p99)))
		})
	}
}

// turns calls f for every contender that has not failed, round by round. The
// order turns around each time, so that none always follows the same other.
func (t *contest) turns(o *options, f func(c *contender)) {
	order := slices.Clone(t.contenders)
	for range o.rounds {
		for _, c := range order {
			if t.results[c].err == nil {
				f(c)
			}
		}
		slices.Reverse(order)
	}
}

// fill stores what the contender will read.
func (t *contest) fill(ctx context.Context, c *contender, filled fillers) error {
	name := fmt.Sprint(c.data, t.work.size)
	if c.data == "" || filled[name] {
		return nil
	}
	const fillers = 64
	s, err := c.open(ctx, workload{store, t.work.size, fillers})
	if err != nil {
		return err
	}
	defer s.close()
	failed := make(chan error, fillers)
	for caller := range fillers {
		go func() {
			var err error
			for n := caller; n < c.spans() && err == nil; n += fillers {
				err = s.call(caller, n)
			}
			failed <- err
		}()
	}
	for range fillers {
		if e := <-failed; e != nil {
			err = e
		}
	}
	filled[name] = err == nil
	return err
}

// keyCount is how many keys there are, of each size of value.
const keyCount = 1024

// keys returns the keys of values of a size.
func keys(size int) []string {
	all := make([]string, keyCount)
	for i := range all {
		all[i] = fmt.Sprintf("%d-%04d", size, i)
	}
	return all
}

// value returns bytes that do not compress.
func value(size int) []byte {
	r := rand.New(rand.NewPCG(1, uint64(size)))
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// ticker prints how far a run is.
type ticker struct {
	out       io.Writer
	began     time.Time
	done, all int
	contest   string
}

func (t *ticker) tick(what string) {
	t.done++
	fmt.Fprintf(t.out, "[%d/%d] %4.0fs %s: %s\n", t.done, t.all, time.Since(t.began).Seconds(), t.contest, what)
}
