package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// The names of contenders, which goals compare.
const (
	nameEcho       = "gRPC echo"
	nameEchoConns  = "gRPC echo, 1,000 connections"
	nameEchoMany   = "gRPC echo, 10,000 namespaces"
	nameConns      = "Prism unary, memory, 1,000 connections"
	nameMany       = "Prism unary, memory, 10,000 namespaces"
	nameStreamEcho = "stream echo, SDK"
	nameBidi       = "stream echo, a message each"
	nameHTTPEcho   = "net/http echo"
	nameREST       = "Prism REST, memory"
	nameGoRedis    = "go-redis"
	nameGoRedisP   = "go-redis, pipelined"
	nameRueidis    = "rueidis"
	namePgx        = "pgx"
	nameSQLite     = "SQLite, group commit"
)

func nameUnary(backend string) string { return "Prism unary, " + backend }
func nameSDK(backend string) string   { return "Prism SDK, " + backend }
func nameDaprd(backend string) string { return "daprd, " + backend }

const (
	manyConns      = 1000
	manyNamespaces = 10_000
	manyServer     = "10,000 namespaces" // the name of the proxy that has them
)

// A plan is what a run does.
type plan struct {
	ctx      context.Context //nolint:containedctx // of the run
	bench    *bench
	opts     options
	progress io.Writer
	contests []*contest
	limits   limits
	missing  []string // what is left out, and why

	servers map[string]*process // by name; nil: it could not be started
	stops   []*process
}

// newPlan makes the contests that are wanted and starts the servers that they
// need. Nothing can be measured without the echo server; every other one that
// does not start is left out.
func newPlan(ctx context.Context, b *bench, o options, progress io.Writer) (*plan, error) {
	p := &plan{ctx: ctx, bench: b, opts: o, progress: progress, servers: make(map[string]*process)}
	if p.server("echo", b.startEcho) == nil {
		p.close()
		return nil, errors.New(p.missing[0])
	}
	if o.only.MatchString("limits") {
		p.limits.measure(p)
	}
	if o.quick {
		p.composeQuick()
	} else {
		p.compose()
	}
	if err := ctx.Err(); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// server returns the server of a name, which it starts when it is first asked
// for; nil if that failed.
func (p *plan) server(name string, start func(context.Context) (*process, error)) *process {
	if s, known := p.servers[name]; known {
		return s
	}
	fmt.Fprintln(p.progress, "starting", name)
	s, err := start(p.ctx)
	if err != nil {
		p.leaveOut(name, err)
		s = nil
	} else {
		p.stops = append(p.stops, s)
	}
	p.servers[name] = s
	return s
}

func (p *plan) leaveOut(what string, err error) {
	p.missing = append(p.missing, fmt.Sprintf("%s: %v", what, err))
}

func (p *plan) close() {
	for i := len(p.stops) - 1; i >= 0; i-- {
		p.stops[i].stop()
	}
}

func (p *plan) echo() *process  { return p.servers["echo"] }
func (p *plan) redis() *process { return p.server("Redis", p.bench.startRedis) }
func (p *plan) pg() *process    { return p.server("PostgreSQL", p.bench.startPostgres) }

// many is the proxy with many namespaces.
func (p *plan) many() *process {
	return p.server(manyServer, func(ctx context.Context) (*process, error) {
		return p.bench.proxy(ctx, p.bench.prism, documents(memoryBackend, "none", manyNamespaces))
	})
}

// A build is one prism binary that serves a backend.
type build struct {
	server *process
	suffix string // of its contenders' names
}

// prism returns the proxies on a backend: one, or two with -also.
func (p *plan) prism(backend string) []build {
	var all []build
	if !slices.Contains(p.opts.backends, backend) {
		return nil
	}
	for _, b := range []struct{ binary, suffix string }{{p.bench.prism, ""}, {p.opts.also, ", also"}} {
		if b.binary == "" {
			continue
		}
		s := p.server("Prism on "+backend+b.suffix, func(ctx context.Context) (*process, error) {
			texts, err := p.documents(backend, b.suffix)
			if err != nil {
				return nil, err
			}
			return p.bench.proxy(ctx, b.binary, texts)
		})
		if s != nil {
			all = append(all, build{s, b.suffix})
		}
	}
	return all
}

// documents returns those of a proxy on a backend, which it starts first.
func (p *plan) documents(backend, suffix string) ([]string, error) {
	missing := errors.New("its server is missing")
	switch backend {
	case "redis":
		if s := p.redis(); s != nil {
			return documents(redisBackend(s.addrs.GRPC), "none", 1), nil
		}
		return nil, missing
	case "postgres":
		if s := p.pg(); s != nil {
			file := filepath.Join(p.bench.dir, "postgres.secret")
			err := os.WriteFile(file, []byte(postgresUser+":"+postgresPassword), 0o600)
			return documents(postgresBackend(s.addrs.GRPC, file), "process", 1), err
		}
		return nil, missing
	case "nats":
		if s := p.nats(); s != nil {
			return documents(natsBackend(s.addrs.GRPC), "process", 1), nil
		}
		return nil, missing
	case "sqlite":
		return documents(sqliteBackend(filepath.Join(p.bench.dir, "prism"+suffix+".db")), "process", 1), nil
	}
	return documents(memoryBackend, "none", 1), nil
}

// composeQuick makes what the goals need.
func (p *plan) composeQuick() {
	p.add("unary", at64, func() []*contender { return append(p.unary("memory", "redis"), p.growth()...) })
	p.add("unary", at1, func() []*contender { return p.unary("memory") })
	p.add("stream", at64, func() []*contender { return p.stream(true) })
	p.add("Redis", at64, func() []*contender { return p.directRedis(false) })
	p.add("SQLite", put64, p.directSQLite)
	p.add("HTTP", at64, p.rest)
	p.add("messages", publish64, func() []*contender { return p.messages(publish64) })
}

// compose makes everything.
func (p *plan) compose() {
	for _, size := range []int{128, 4096} {
		for _, v := range []verb{retrieve, store} {
			for _, callers := range []int{1, 16, 64, 256} {
				w := workload{v, size, callers}
				p.add("unary", w, func() []*contender { return p.unary("memory", "redis", "postgres", "sqlite") })
				p.add("stream", w, func() []*contender { return p.stream(v == retrieve) })
				p.add("Redis", w, func() []*contender { return p.directRedis(true) })
				p.add("PostgreSQL", w, p.directPostgres)
				p.add("SQLite", w, p.directSQLite)
				p.add("HTTP", w, p.rest)
			}
		}
	}
	p.add("growth", at64, func() []*contender { return append(p.unary("memory"), p.growth()...) })
	for _, size := range []int{128, 4096} {
		for _, v := range []verb{publish, deliver} {
			for _, callers := range []int{1, 64} {
				w := workload{v, size, callers}
				p.add("messages", w, func() []*contender { return p.messages(w) })
			}
		}
	}
}

// add appends a contest if it is wanted and there is somebody to compare with.
func (p *plan) add(family string, w workload, contenders func() []*contender) {
	t := &contest{family: family, work: w}
	if !p.opts.only.MatchString(t.title()) {
		return
	}
	if t.contenders = contenders(); len(t.contenders) > 1 {
		p.contests = append(p.contests, t)
	}
}

func (p *plan) unary(backends ...string) []*contender {
	all := []*contender{newUnary(nameEcho, "", p.echo(), unaryConns)}
	for _, b := range backends {
		for _, s := range p.prism(b) {
			all = append(all, newUnary(nameUnary(b)+s.suffix, "Prism "+b+s.suffix, s.server, unaryConns))
		}
	}
	for _, b := range backends {
		all = append(all, p.daprd(b)...)
	}
	return all
}

// daprd returns the sidecar on a backend, if it is installed.
func (p *plan) daprd(backend string) []*contender {
	var component string
	switch backend {
	case "memory":
		component = daprComponent("state.in-memory", "")
	case "redis":
		if s := p.redis(); s != nil {
			component = daprComponent("state.redis", fmt.Sprintf("{name: redisHost, value: %q}", s.addrs.GRPC))
		}
	}
	if component == "" || !slices.Contains(p.opts.backends, backend) {
		return nil
	}
	s := p.server(nameDaprd(backend), func(ctx context.Context) (*process, error) { return p.bench.startDaprd(ctx, component) })
	if s == nil {
		return nil
	}
	return []*contender{newDaprd(nameDaprd(backend), s)}
}

// growth is unary with much more of what should cost nothing.
func (p *plan) growth() []*contender {
	all := []*contender{newUnary(nameEchoConns, "", p.echo(), manyConns)}
	for _, s := range p.prism("memory") {
		all = append(all, newUnary(nameConns+s.suffix, "Prism memory"+s.suffix, s.server, manyConns))
	}
	if s := p.many(); s != nil {
		all = append(all, newSpread(nameEchoMany, "", p.echo()), newSpread(nameMany, "Prism many", s))
	}
	return all
}

func (p *plan) stream(bare bool) []*contender {
	all := append([]*contender{newSDK(nameStreamEcho, "", p.echo())}, p.sdk("memory")...)
	if bare {
		all = append(all, newBidi(nameBidi, p.echo()))
	}
	return all
}

func (p *plan) sdk(backend string) []*contender {
	var all []*contender
	for _, s := range p.prism(backend) {
		all = append(all, newSDK(nameSDK(backend)+s.suffix, "Prism "+backend+s.suffix, s.server))
	}
	return all
}

func (p *plan) directRedis(everything bool) []*contender {
	s := p.redis()
	if s == nil {
		return nil
	}
	all := []*contender{newGoRedis(nameGoRedis, s.addrs.GRPC, false)}
	if everything {
		all = append(all, newGoRedis(nameGoRedisP, s.addrs.GRPC, true))
	}
	all = append(append(all, newRueidis(nameRueidis, s.addrs.GRPC)), p.sdk("redis")...)
	return append(all, p.daprd("redis")...)
}

func (p *plan) directPostgres() []*contender {
	s := p.pg()
	if s == nil {
		return nil
	}
	return append([]*contender{newPgx(namePgx, s.addrs.GRPC)}, p.sdk("postgres")...)
}

func (p *plan) directSQLite() []*contender {
	return append([]*contender{newSQLite(nameSQLite, p.bench)}, p.sdk("sqlite")...)
}

func (p *plan) rest() []*contender {
	all := []*contender{newREST(nameHTTPEcho, "", p.echo())}
	for _, s := range p.prism("memory") {
		all = append(all, newREST(nameREST+s.suffix, "Prism memory"+s.suffix, s.server))
	}
	return all
}

// run holds the contests.
func (p *plan) run() *report {
	filled := make(fillers)
	t := &ticker{out: p.progress, began: time.Now()}
	for _, c := range p.contests {
		t.all += len(c.contenders) * p.opts.rounds
		if p.opts.openLoop && c.work.callers == openCallers {
			t.all += len(c.contenders) * p.opts.rounds
		}
	}
	for _, c := range p.contests {
		if p.ctx.Err() != nil {
			break
		}
		t.contest = c.title()
		c.run(p.ctx, &p.opts, filled, t.tick)
	}
	return newReport(p)
}
