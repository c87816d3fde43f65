package consumer

import (
	"slices"
	"testing"

	"github.com/prismgw/prism/driver"
)

// A checkpoint that is made before the records have come about which the owner
// before has left something says that again.
func TestCheckpointKeepsWhatHasNotComeYet(t *testing.T) {
	t.Parallel()
	was := note{settled: []span{{5, 7}, {9, 9}}, failures: []failures{{3, 2}, {8, 4}}}
	text, _ := was.encode(2, 4096)
	l := newLedger(driver.LogEvent{Kind: driver.Gained, Checkpoint: driver.Checkpoint{Next: 2, Note: text}}, 1)
	for _, at := range []driver.Position{2, 3, 4, 5} {
		if e := l.arrive(driver.Stored{Position: at}, true); (e == nil) != (at == 5) {
			t.Fatalf("%d: %v", at, e)
		}
	}
	e, _ := l.find(2)
	l.settle(e)
	c, _ := l.checkpoint(4096)
	if got := decodeNote(c); c.Next != 3 || !slices.Equal(got.settled, was.settled) || !slices.Equal(got.failures, was.failures) {
		t.Errorf("from %d on: %v, want %v", c.Next, got, was)
	}
}

// Records that were settled before they came move the checkpoint on, also if
// nothing else comes.
func TestCheckpointMovesOverWhatWasSettled(t *testing.T) {
	t.Parallel()
	was := note{settled: []span{{5, 6}}}
	text, _ := was.encode(5, 4096)
	l := newLedger(driver.LogEvent{Kind: driver.Gained, Checkpoint: driver.Checkpoint{Next: 5, Note: text}}, 1)
	l.arrive(driver.Stored{Position: 5}, true)
	l.arrive(driver.Stored{Position: 6}, true)
	if c, _ := l.checkpoint(4096); c.Next != 7 || c.Note != "" || !l.changed {
		t.Errorf("%+v, changed %v", c, l.changed)
	}
}
