package main

import "time"

// limits are figures of one process, not of a race.
type limits struct {
	idle, many int64         // resident bytes of prism proxy: with one namespace, with manyNamespaces
	ready      time.Duration // of prism dev, from its start to its ready file
}

const settle = 200 * time.Millisecond // for what a server still does after it is ready

// measure starts prism in several ways. The proxy with many namespaces goes on
// for the contest that needs it.
func (l *limits) measure(p *plan) {
	var took []float64
	for range 3 {
		s, err := p.bench.command(p.ctx, p.bench.prism, "dev", "--data-dir", "data")
		if err != nil {
			p.leaveOut("prism dev", err)
			break
		}
		took = append(took, s.took.Seconds())
		s.stop()
	}
	if len(took) > 0 {
		l.ready = time.Duration(median(took) * float64(time.Second))
	}
	idle, err := p.bench.proxy(p.ctx, p.bench.prism, documents(memoryBackend, "none", 1))
	if err != nil {
		p.leaveOut("memory of an idle proxy", err)
	} else {
		wait(p.ctx, settle)
		l.idle, _ = idle.resident() // 0: not known
		idle.stop()
	}
	if many := p.many(); many != nil {
		wait(p.ctx, settle)
		l.many, _ = many.resident() // 0: not known
	}
}
