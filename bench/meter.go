package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A sample is one window of one contender.
type sample struct {
	ops      int
	rate     float64 // operations per second
	p50, p99 time.Duration
	cpu      time.Duration // of the server, per operation; unknownCPU if it is not known
	allocs   float64       // of the server, per operation; NaN if it is not known
}

const unknownCPU = time.Duration(-1)

// A meter takes what a window costs its server.
type meter struct {
	process  *process
	noAllocs bool

	objects    float64
	perOp      float64
	began      time.Time
	lasted     time.Duration
	cpuBegan   time.Duration
	cpu        time.Duration
	cpuUnknown bool
}

// before is called while nobody calls.
func (m *meter) before(ctx context.Context) error {
	m.perOp = math.NaN()
	if m.process == nil || m.noAllocs {
		return nil
	}
	var err error
	m.objects, err = m.process.mallocs(ctx)
	return err
}

func (m *meter) start() {
	m.cpuBegan, m.cpuUnknown = m.processCPU()
	m.began = time.Now()
}

func (m *meter) stop() {
	m.lasted = time.Since(m.began)
	end, unknown := m.processCPU()
	m.cpu = end - m.cpuBegan
	m.cpuUnknown = m.cpuUnknown || unknown
}

func (m *meter) processCPU() (cpu time.Duration, unknown bool) {
	if m.process == nil {
		return 0, true
	}
	cpu, err := cpuTime(m.process.pid())
	return cpu, err != nil
}

// after is called when all calls have returned. Allocations are counted over
// all of them, warm ones included, so that nobody calls while they are read.
func (m *meter) after(ctx context.Context, calls int) error {
	if m.process == nil || m.noAllocs || calls == 0 {
		return nil
	}
	n, err := m.process.mallocs(ctx)
	m.perOp = max(n-m.objects-m.process.reading, 0) / float64(calls)
	return err
}

// sample sorts took.
func (m *meter) sample(took []time.Duration) sample {
	s := sample{ops: len(took), cpu: unknownCPU, allocs: m.perOp}
	s.p50, s.p99 = percentiles(took)
	s.rate = float64(len(took)) / m.lasted.Seconds()
	if !m.cpuUnknown && len(took) > 0 {
		s.cpu = m.cpu / time.Duration(len(took))
	}
	return s
}

// mallocs returns how many objects the process has allocated since it began.
func (p *process) mallocs(ctx context.Context) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, lateStop)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.addrs.Ops+"/metrics", http.NoBody)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	found := math.NaN()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() { // to the end, so that the connection is used again
		if text, ok := strings.CutPrefix(lines.Text(), "go_memstats_mallocs_total "); ok {
			if found, err = strconv.ParseFloat(text, 64); err != nil {
				return 0, err
			}
		}
	}
	if math.IsNaN(found) {
		return 0, errors.Join(lines.Err(), fmt.Errorf("%s does not say how many objects it has allocated", req.URL))
	}
	return found, lines.Err()
}

// calibrate finds what reading the number of allocations allocates itself.
func (p *process) calibrate(ctx context.Context) error {
	var before float64
	p.reading = math.Inf(1)
	for i := range 4 {
		n, err := p.mallocs(ctx)
		if err != nil {
			return err
		}
		if i > 0 {
			p.reading = min(p.reading, n-before)
		}
		before = n
	}
	return nil
}

// within waits for a group, and fails if that takes too long.
func within(wg *sync.WaitGroup, limit time.Duration) error {
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-done:
		return nil
	case <-t.C:
		return fmt.Errorf("calls had not returned %v after the window", limit)
	}
}
