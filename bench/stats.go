package main

import (
	"math"
	"slices"
	"time"
)

// percentiles sorts took and returns its median and its 99th percentile.
func percentiles(took []time.Duration) (p50, p99 time.Duration) {
	if len(took) == 0 {
		return 0, 0
	}
	slices.Sort(took)
	at := func(share float64) time.Duration {
		return took[min(int(share*float64(len(took))), len(took)-1)]
	}
	return at(0.50), at(0.99)
}

// median returns the middle of the numbers that are known, NaN if none is.
func median(all []float64) float64 {
	known := slices.DeleteFunc(slices.Clone(all), math.IsNaN)
	if len(known) == 0 {
		return math.NaN()
	}
	slices.Sort(known)
	mid := len(known) / 2
	if len(known)%2 == 1 {
		return known[mid]
	}
	return (known[mid-1] + known[mid]) / 2
}

// A measure is one figure of a sample.
type measure func(s sample) float64

func rateOf(s sample) float64 { return s.rate }
func p50Of(s sample) float64  { return micros(s.p50) }
func p99Of(s sample) float64  { return micros(s.p99) }
func allocsOf(s sample) float64 {
	return s.allocs
}

func cpuOf(s sample) float64 {
	if s.cpu == unknownCPU {
		return math.NaN()
	}
	return micros(s.cpu)
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func medianOf(all []sample, m measure) float64 {
	values := make([]float64, len(all))
	for i, s := range all {
		values[i] = m(s)
	}
	return median(values)
}

// ratioOf returns the median of what a measures to what b measures in the same
// round: the two windows lie side by side, and whatever slowed one down slowed
// the other down too.
func ratioOf(a, b []sample, m measure) float64 {
	var ratios []float64
	for i, s := range a {
		if i < len(b) {
			ratios = append(ratios, m(s)/m(b[i]))
		}
	}
	return median(ratios)
}
