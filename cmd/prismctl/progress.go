package main

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/schollz/progressbar/v3"
)

const (
	redrawEvery = 100 * time.Millisecond
	reportEvery = 5 * time.Second
)

// progress tells how far something is that takes long: a bar at a terminal, plain
// lines where that is wanted, nothing otherwise.
type progress struct {
	done, bytes atomic.Int64

	what  string // is done
	unit  string // with what
	size  int64  // bytes in all; 0: nobody knows
	begun time.Time

	mu  sync.Mutex // guards what is written
	out io.Writer
	bar *progressbar.ProgressBar // nil: none

	quit chan struct{}
	told sync.WaitGroup
}

// startProgress begins to tell of what is done to w. A size of 0 is unknown.
func startProgress(w io.Writer, what, unit string, size int64, verbose bool) *progress {
	p := &progress{what: what, unit: unit, size: size, out: w, begun: time.Now(), quit: make(chan struct{})}
	every := reportEvery
	switch {
	case isTerminal(w):
		every = redrawEvery
		total := size
		if total == 0 {
			total = -1
		}
		p.bar = progressbar.NewOptions64(
			total, progressbar.OptionSetWriter(w), progressbar.OptionShowBytes(true), progressbar.OptionClearOnFinish(),
			progressbar.OptionSetPredictTime(true), progressbar.OptionSetElapsedTime(true), progressbar.OptionSetWidth(24),
		)
	case !verbose:
		return p
	}
	p.told.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				p.tell()
			case <-p.quit:
				return
			}
		}
	})
	return p
}

// count returns in, with what is read from it counted.
func (p *progress) count(in io.Reader) io.Reader { return &counted{in, &p.bytes} }

func (p *progress) elapsed() time.Duration { return time.Since(p.begun) }

func (p *progress) tell() {
	p.mu.Lock()
	defer p.mu.Unlock()
	done, bytes, elapsed := p.done.Load(), p.bytes.Load(), p.elapsed()
	text := fmt.Sprintf("%s %d %s (%.0f/s)", p.what, done, p.unit, float64(done)/elapsed.Seconds())
	if p.bar != nil {
		p.bar.Describe(text)
		_ = p.bar.Set64(bytes) // it can only fail to draw
		return
	}
	if p.size > 0 && bytes > 0 {
		left := time.Duration(float64(elapsed) * float64(p.size-bytes) / float64(bytes))
		text += fmt.Sprintf(", %d%%, %s left", bytes*100/p.size, left.Round(time.Second))
	}
	fmt.Fprintln(p.out, text)
}

// report writes a line of its own.
func (p *progress) report(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		_ = p.bar.Clear() // it can only fail to draw
	}
	fmt.Fprintln(p.out, "prismctl:", line)
}

// stop tells no more. It may be called once.
func (p *progress) stop() {
	close(p.quit)
	p.told.Wait()
	if p.bar != nil {
		_ = p.bar.Clear() // it can only fail to draw
	}
}

// counted counts what is read.
type counted struct {
	in io.Reader
	n  *atomic.Int64
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.in.Read(b)
	c.n.Add(int64(n))
	return n, err
}
