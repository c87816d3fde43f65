package main

import (
	"math"
	"time"
)

// A goal is what a ratio should be. Its id is the one that the project's goals
// have; one with a suffix belongs to the goal before the underscore.
type goal struct {
	id     string
	text   string
	want   float64
	atMost bool // else at least

	// What is compared: a to b, in a contest of this workload that has both.
	work workload
	a, b string
	of   measure
}

var (
	at64  = workload{retrieve, 128, 64}
	at1   = workload{retrieve, 128, 1}
	put64 = workload{store, 128, 64}

	publish64 = workload{publish, 128, 64}
)

var goals = []goal{
	{"P1", "unary on memory : echo, throughput", 0.90, false, at64, nameUnary("memory"), nameEcho, rateOf},
	{"P1_cpu", "unary on memory : echo, CPU per operation", 1.2, true, at64, nameUnary("memory"), nameEcho, cpuOf},
	{"P2", "unary on Redis : echo, throughput", 0.70, false, at64, nameUnary("redis"), nameEcho, rateOf},
	{"P2_daprd", "unary on Redis : daprd on Redis, throughput", 3, false, at64, nameUnary("redis"), nameDaprd("redis"), rateOf},
	{"P3", "SDK on Redis : go-redis, throughput", 1.0, false, at64, nameSDK("redis"), nameGoRedis, rateOf},
	{"P3_rueidis", "SDK on Redis : rueidis, throughput", 0.6, false, at64, nameSDK("redis"), nameRueidis, rateOf},
	{"P3_daprd", "SDK on Redis : daprd on Redis, throughput", 8, false, at64, nameSDK("redis"), nameDaprd("redis"), rateOf},
	{"P4", "SDK on memory : bare stream echo, throughput", 0.9, false, at64, nameSDK("memory"), nameBidi, rateOf},
	{"P4_sdk", "SDK on memory : stream echo driven by the SDK, throughput", math.NaN(), false, at64, nameSDK("memory"), nameStreamEcho, rateOf},
	{"P4_sdk_cpu", "SDK on memory : stream echo driven by the SDK, CPU", math.NaN(), true, at64, nameSDK("memory"), nameStreamEcho, cpuOf},
	{"P5", "one caller, unary on memory : echo, p50", 1.15, true, at1, nameUnary("memory"), nameEcho, p50Of},
	{"P7", "Publish, a call each, on JetStream : echo, throughput", 0.65, false, publish64, nameCalls("nats"), nameEcho, rateOf},
	{"P7_stream", "PublishStream on JetStream : nats.go asynchronous, throughput", 0.7, false, publish64, nameStream("nats"), nameNATSAsync, rateOf},
	{"P8", "durable Store, SDK on SQLite : the library with group commit", 0.8, false, put64, nameSDK("sqlite"), nameSQLite, rateOf},
	{"P9", "REST on memory : net/http echo, throughput", 0.75, false, at64, nameREST, nameHTTPEcho, rateOf},
	{"P9_cpu", "REST on memory : net/http echo, CPU per operation", math.NaN(), true, at64, nameREST, nameHTTPEcho, cpuOf},
	{"P12", "10,000 namespaces : 1, throughput", 0.9, false, at64, nameMany, nameUnary("memory"), rateOf},
	{"P12_names", "10,000 namespaces : 1, of the echo itself", math.NaN(), false, at64, nameEchoMany, nameEcho, rateOf},
	{"P12_connections", "1,000 connections : 8, throughput", 0.8, false, at64, nameConns, nameUnary("memory"), rateOf},
	{"P12_echo", "1,000 connections : 8, of the echo itself", math.NaN(), false, at64, nameEchoConns, nameEcho, rateOf},
}

// An outcome is a goal and what was measured.
type outcome struct {
	id, text string
	measured float64
	want     float64 // NaN: only looked at
	atMost   bool
}

func (o outcome) met() bool {
	if o.atMost {
		return o.measured <= o.want
	}
	return o.measured >= o.want
}

// outcomes returns what can be said after the contests, in the order of goals.
func outcomes(contests []*contest, l limits) []outcome {
	var all []outcome
	for _, g := range goals {
		if m := g.measured(contests); !math.IsNaN(m) {
			all = append(all, outcome{g.id, g.text, m, g.want, g.atMost})
		}
	}
	const mib = 1 << 20
	for _, o := range []outcome{
		{"P11", "resident memory of an idle proxy, MiB", float64(l.idle) / mib, 40, true},
		{"P11_namespaces", "resident memory with 10,000 namespaces, MiB", float64(l.many) / mib, 200, true},
		{"P11_ready", "prism dev until it is ready, s", float64(l.ready) / float64(time.Second), 1, true},
	} {
		if o.measured > 0 {
			all = append(all, o)
		}
	}
	return all
}

func (g *goal) measured(contests []*contest) float64 {
	for _, t := range contests {
		if t.work != g.work {
			continue
		}
		a, b := t.find(g.a), t.find(g.b)
		if a != nil && b != nil {
			return ratioOf(a.closed, b.closed, g.of)
		}
	}
	return math.NaN()
}

// find returns what a contender did, nil if it is not here or has failed.
func (t *contest) find(name string) *result {
	for _, c := range t.contenders {
		if r := t.results[c]; c.name == name && r != nil && r.err == nil {
			return r
		}
	}
	return nil
}
