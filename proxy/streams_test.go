package proxy

import (
	"math"
	"testing"
)

// A small process gives a part of its memory, and what one stream may hold
// shrinks as others hold more, down to nothing.
func TestUnsentRoom(t *testing.T) {
	t.Parallel()
	for memory, want := range map[int64]int64{math.MaxInt64: 256 << 20, 512 << 20: 128 << 20} {
		if got := unsentLimit(memory); got != want {
			t.Errorf("of %d bytes %d, want %d", memory, got, want)
		}
	}
	u := unsent{limit: 800}
	for _, step := range []struct {
		held int64
		want int
	}{{0, 100}, {400, 50}, {799, 0}, {800, 0}, {1600, 0}, {1601, -1}} {
		u.held.Store(step.held)
		if got := u.room(); got != step.want {
			t.Errorf("while %d are held: %d, want %d", step.held, got, step.want)
		}
	}
}
