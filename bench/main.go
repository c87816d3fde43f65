// Command bench measures Prism beside what one would use without it: a bare
// gRPC or HTTP server that answers constants, which is the limit of the
// protocol on this machine, and the backends' own Go clients used directly.
//
//	go run ./bench                          everything, about 20 minutes
//	go run ./bench -quick -json out.json    what the goals need, 40 seconds
//	go run ./bench -only 'stream.*64'       the contests whose title matches
//	go run ./bench -also ./prism.old        the same, with another build beside it
//
// Contenders take turns in short windows, several rounds of them, so that a
// machine that becomes faster or slower meanwhile does so for all; what is
// compared are ratios of windows that lie side by side. docs/performance.md
// says more.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
)

// options are what a run is told.
type options struct {
	quick    bool
	rounds   int
	window   time.Duration // of one measurement
	warm     time.Duration // before each
	openLoop bool
	only     *regexp.Regexp
	prism    string // the binary; empty: build it
	also     string // another one to measure beside it; empty: none
	backends []string
	json     string
}

func main() {
	if serveEcho() || serveNATS() {
		return
	}
	debug.SetGCPercent(400) // the generator shares the cores with what it measures
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out, progress io.Writer) error {
	o, err := parse(args, progress)
	if err != nil {
		return err
	}
	b, err := newBench(ctx, o.prism, progress)
	if err != nil {
		return err
	}
	defer b.close()
	began := time.Now()
	p, err := newPlan(ctx, b, o, progress)
	if err != nil {
		return err
	}
	defer p.close()
	r := p.run()
	if err := ctx.Err(); err != nil {
		return err
	}
	r.Seconds = time.Since(began).Seconds()
	if o.json != "" {
		if err := r.write(o.json); err != nil {
			return err
		}
	}
	return r.print(out)
}

func parse(args []string, usage io.Writer) (options, error) {
	var o options
	var only, backends string
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(usage)
	f.BoolVar(&o.quick, "quick", false, "only what the goals need, in 40 s")
	f.StringVar(&o.json, "json", "", "write rows and ratios to this file")
	f.StringVar(&only, "only", "", "run the contests whose title matches this regular expression")
	f.StringVar(&backends, "backends", "memory,redis,postgres,sqlite,nats", "run Prism on these only")
	f.IntVar(&o.rounds, "rounds", 3, "turns of each contender; medians are printed")
	f.DurationVar(&o.window, "window", 0, "length of one measurement (default 800ms, with -quick 590ms)")
	f.BoolVar(&o.openLoop, "open", true, "run open loops too; -quick never does")
	f.StringVar(&o.prism, "prism", "", "measure this prism binary instead of building one")
	f.StringVar(&o.also, "also", "", "measure this prism binary too, such as one built before a change")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("%q is no flag; see -help", f.Arg(0))
	}
	var err error
	if o.only, err = regexp.Compile(only); err != nil {
		return o, fmt.Errorf("-only: %w", err)
	}
	o.backends = strings.Split(backends, ",")
	if o.rounds < 1 {
		return o, fmt.Errorf("-rounds is at least 1, not %d", o.rounds)
	}
	o.openLoop = o.openLoop && !o.quick
	o.warm = 100 * time.Millisecond
	if o.quick {
		o.warm = 30 * time.Millisecond
	}
	switch {
	case o.window < 0:
		return o, fmt.Errorf("-window is positive, not %v", o.window)
	case o.window == 0 && o.quick:
		o.window = 590 * time.Millisecond
	case o.window == 0:
		o.window = 800 * time.Millisecond
	}
	return o, nil
}
