//go:build !linux

package main

import "time"

// A pacer wakes at fixed intervals, as exactly as the runtime's timers do.
type pacer struct{ ticker *time.Ticker }

func newPacer(every time.Duration) (*pacer, error) { return &pacer{time.NewTicker(every)}, nil }

// wait returns when an interval is over.
func (p *pacer) wait() error { <-p.ticker.C; return nil }

func (p *pacer) close() { p.ticker.Stop() }
