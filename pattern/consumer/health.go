package consumer

import "time"

const (
	// recent is how many outcomes a group is judged by. If more than half of
	// them are failures, it pauses.
	recent = 100

	// probeEvery is how often a group that has paused tries one message.
	probeEvery = time.Minute
)

// health watches what becomes of a group's messages. A group in which most
// fail pauses, instead of moving its backlog to the dead letters: what is wrong
// is then more likely the consumer than the messages.
type health struct {
	outcomes [recent]bool // true: it failed
	next     int
	known    int
	bad      int

	probe time.Time // when the next message may be tried; zero: the group has not paused
}

func (h *health) succeeded() {
	if h.paused() {
		*h = health{}
	}
	h.add(false)
}

func (h *health) failed(now time.Time) {
	h.add(true)
	if !h.paused() && h.known == recent && h.bad > recent/2 {
		h.probe = now.Add(probeEvery)
	}
}

func (h *health) add(failed bool) {
	if h.known == recent && h.outcomes[h.next] {
		h.bad--
	}
	h.outcomes[h.next] = failed
	if failed {
		h.bad++
	}
	h.next = (h.next + 1) % recent
	h.known = min(h.known+1, recent)
}

func (h *health) paused() bool { return !h.probe.IsZero() }

// may reports whether a message may be handed out; of a group that has paused
// it is one, and then none for a while.
func (h *health) may(now time.Time) bool {
	if !h.paused() {
		return true
	}
	if now.Before(h.probe) {
		return false
	}
	h.probe = now.Add(probeEvery)
	return true
}
