package groups

import (
	"time"

	"github.com/prismgw/prism/driver"
)

// A partition is what a member knows of one. Its methods are called with the
// member's lock held.
type partition struct {
	owned   bool
	claim   int64
	life    int       // changes with each gain and loss, so that a fetch of another life is known
	leaveAt time.Time // when it is taken away; zero: nobody else should have it

	// What is to be told, in the order of these fields.
	lost       bool // of the claim that was told
	gained     bool
	checkpoint driver.Checkpoint // of gained
	queue      []driver.Stored
	gaps       []gap
	leaving    bool
	told       int64 // the claim that the member's user knows
	listed     bool  // among those with something to tell

	// How it is fetched.
	next  driver.Position
	held  bool
	asked bool // by the fetch or wait under way
	busy  bool // the last fetch found something
	bytes int  // of queue
}

// A gap is what was deleted before it was fetched. It is told with the first
// record that follows it.
type gap struct {
	from    driver.Position
	skipped int64
}

// fetches reports whether records are wanted.
func (p *partition) fetches() bool { return p.owned && p.leaveAt.IsZero() && !p.held }

func (p *partition) silent() bool {
	return !p.lost && !p.gained && !p.leaving && len(p.queue) == 0
}

func (p *partition) gain(claim int64, c driver.Checkpoint) {
	p.owned, p.claim, p.life = true, claim, p.life+1
	p.gained, p.checkpoint, p.next = true, c, c.Next
	p.held, p.busy, p.leaveAt = false, false, time.Time{}
}

// end ends an ownership that was not given back by a commit. Where nobody was
// told of it, nobody is told of its end.
func (p *partition) end() {
	p.lost = p.lost || !p.gained
	p.clear()
}

// clear forgets what is to be told of an ownership that has ended.
func (p *partition) clear() {
	p.owned, p.gained, p.life = false, false, p.life+1
	p.quiet()
}

// quiet drops what was fetched and is not told.
func (p *partition) quiet() {
	p.queue, p.gaps, p.bytes, p.leaving = nil, nil, 0, false
	p.checkpoint = driver.Checkpoint{}
}

// tell puts what fits into events.
func (p *partition) tell(partition int, events []driver.LogEvent) int {
	n := 0
	say := func(e driver.LogEvent) {
		e.Partition = partition
		events[n] = e
		n++
	}
	if p.lost && n < len(events) {
		say(driver.LogEvent{Kind: driver.Lost})
		p.lost = false
	}
	if p.gained && n < len(events) {
		say(driver.LogEvent{Kind: driver.Gained, Claim: p.claim, Checkpoint: p.checkpoint})
		p.gained, p.told, p.checkpoint = false, p.claim, driver.Checkpoint{}
	}
	for len(p.queue) > 0 && n < len(events) {
		say(driver.LogEvent{Kind: driver.Arrived, Stored: p.queue[0], Skipped: p.skippedBefore(p.queue[0].Position)})
		p.bytes -= Size(&p.queue[0].Record)
		p.queue[0] = driver.Stored{}
		p.queue = p.queue[1:]
	}
	if len(p.queue) == 0 {
		p.queue = nil
	}
	if p.leaving && n < len(events) {
		say(driver.LogEvent{Kind: driver.Leaving})
		p.leaving = false
	}
	return n
}

// arrive adds what a fetch found and reports whether that was anything.
func (p *partition) arrive(from driver.Position, f *Found) bool {
	if f.Skipped != 0 {
		p.gaps = append(p.gaps, gap{from, f.Skipped})
	}
	next := f.Next
	if last := len(f.Records) - 1; next == 0 && last >= 0 {
		next = f.Records[last].Position + 1
	}
	p.next = max(next, from)
	p.busy = len(f.Records) > 0
	if p.queue == nil {
		p.queue = f.Records
	} else {
		p.queue = append(p.queue, f.Records...)
	}
	for i := range f.Records {
		p.bytes += Size(&f.Records[i].Record)
	}
	return p.busy || p.next > from
}

// skippedBefore returns what was skipped before the next record that is told.
func (p *partition) skippedBefore(next driver.Position) (skipped int64) {
	for len(p.gaps) > 0 && p.gaps[0].from <= next {
		switch n := p.gaps[0].skipped; {
		case n < 0 || skipped < 0:
			skipped = driver.SkippedUnknown
		default:
			skipped += n
		}
		p.gaps = p.gaps[1:]
	}
	return skipped
}
