//go:build race

package namespace

// raceEnabled: times mean nothing under the race detector.
const raceEnabled = true
