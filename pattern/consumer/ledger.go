package consumer

import (
	"time"

	"github.com/prismgw/prism/driver"
)

// state is what has become of a record.
type state uint8

const (
	waiting state = iota // to be handed out, as soon as it is the first of its key
	inHand               // somebody has it until due
	resting              // it has failed, and waits until due
	dying                // on its way to the dead letters
	settled
)

// An entry is one record of a ledger.
type entry struct {
	ledger   *ledger
	lane     *lane // nil: it waits for no other one
	stored   driver.Stored
	here     bool // the record is in memory; else only its place
	size     int  // bytes that it takes there
	state    state
	queued   bool   // it stands in the group's queue of what can be handed out
	turn     uint32 // how often it was handed out since the partition was gained
	failures int
	first    time.Time // when it was handed out first
	due      time.Time
	timer    int // its place in the group's timers, from 1; 0: none
	session  *session
}

func (e *entry) at() driver.Position { return e.stored.Position }

// A lane is the records of one key that are not settled, in order. Only the
// first of them can be anywhere but waiting or resting.
type lane struct {
	key  string
	line ring[*entry]
}

// A ledger is what a group knows of a partition that it owns here: the records
// from the oldest unsettled one on. It knows no time and no lock: the group
// has both.
type ledger struct {
	partition int
	claim     int64
	nonce     uint64 // of this ownership, for receipts

	window   ring[*entry]        // in order of positions; the first is not settled
	beyond   ring[driver.Stored] // came although the window is full
	next     driver.Position     // of the checkpoint while the window is empty
	restored note                // what the one before has left about records that have not come yet
	lanes    map[string]*lane
	bytes    int             // of records in memory
	told     func(bytes int) // what is added to them
	hands    int             // entries in somebody's hands or dying
	failing  int             // entries that have failed

	held    bool // the driver fetches nothing
	leaving bool
	leaveBy time.Time
	lost    bool

	changed    bool // since the last checkpoint was taken
	committing bool // one is on its way
	cut        bool // the last one could not say everything
	waiters    []waiter
}

// A waiter wants to know when what is said about positions up to at has been
// committed.
type waiter struct {
	at   driver.Position
	done chan<- error // of capacity 1
}

func newLedger(e driver.LogEvent, nonce uint64) *ledger {
	return &ledger{
		partition: e.Partition, claim: e.Claim, nonce: nonce,
		next: e.Checkpoint.Next, restored: decodeNote(e.Checkpoint), lanes: make(map[string]*lane), told: func(int) {},
	}
}

// hold takes note of records that are in memory, or are not any more.
func (l *ledger) hold(bytes int) {
	l.bytes += bytes
	l.told(bytes)
}

// arrive takes the next record of the partition. It returns nil if that was
// settled before it came. With keyed, records of a key wait for each other.
func (l *ledger) arrive(s driver.Stored, keyed bool) *entry {
	e := &entry{ledger: l, stored: s, here: true, size: sizeOf(&s)}
	if l.restored.holds(s.Position) {
		e.state, e.here = settled, false
		e.stored = driver.Stored{Position: s.Position, Time: s.Time}
	}
	e.failures = l.restored.count(s.Position)
	l.next = s.Position + 1
	if e.state == settled {
		if l.window.len() > 0 {
			l.window.pushBack(e)
		}
		l.changed = true
		return nil
	}
	if e.failures > 0 {
		l.failing++
	}
	l.hold(e.size)
	l.window.pushBack(e)
	if keyed && s.Key != nil {
		l.join(e)
	}
	return e
}

func (l *ledger) join(e *entry) {
	e.lane = l.lanes[string(e.stored.Key)]
	if e.lane == nil {
		e.lane = &lane{key: string(e.stored.Key)}
		l.lanes[e.lane.key] = e.lane
	}
	e.lane.line.pushBack(e)
}

// recordCost is about what a record takes beside its bytes.
const recordCost = 256

func sizeOf(s *driver.Stored) int {
	size := recordCost + len(s.Key) + len(s.Value)
	for _, h := range s.Headers {
		size += len(h.Name) + len(h.Value)
	}
	return size
}

// forget lets go of the record and keeps its place.
func (e *entry) forget() {
	if e.here {
		e.ledger.hold(-e.size)
		e.stored = driver.Stored{Position: e.stored.Position, Time: e.stored.Time}
		e.here = false
	}
}

// free reports whether nothing of the same key stands before the entry.
func (e *entry) free() bool { return e.lane == nil || e.lane.line.at(0) == e }

// settle says that the record is done with. It returns the one that was only
// waiting for it, if there is one.
func (l *ledger) settle(e *entry) (freed *entry) {
	if e.failures > 0 {
		l.failing--
	}
	e.forget()
	e.state, l.changed = settled, true
	if e.lane != nil {
		freed = l.leaveLane(e)
	}
	for l.window.len() > 0 && l.window.at(0).state == settled {
		l.window.popFront()
	}
	return freed
}

func (l *ledger) leaveLane(e *entry) (freed *entry) {
	e.lane.line.popFront()
	if e.lane.line.len() == 0 {
		delete(l.lanes, e.lane.key)
		return nil
	}
	return e.lane.line.at(0)
}

// fail counts a failure.
func (l *ledger) fail(e *entry) {
	if e.failures == 0 {
		l.failing++
	}
	if e.failures < maxCount {
		e.failures++
	}
	l.changed = true
}

// find returns the entry at a position, nil if it is settled or was never
// there. settled says which.
func (l *ledger) find(at driver.Position) (e *entry, done bool) {
	if at < l.checkpointNext() {
		return nil, true
	}
	i := l.search(at)
	if i == l.window.len() || l.window.at(i).at() != at {
		return nil, l.restored.holds(at)
	}
	e = l.window.at(i)
	if e.state == settled {
		return nil, true
	}
	return e, false
}

// search returns the index of the first entry that is not below a position.
func (l *ledger) search(at driver.Position) int {
	low, high := 0, l.window.len()
	for low < high {
		if middle := (low + high) / 2; l.window.at(middle).at() < at {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low
}

func (l *ledger) checkpointNext() driver.Position {
	if l.window.len() == 0 {
		return l.next
	}
	return l.window.at(0).at()
}

// checkpoint is how far the group has come. covered is the highest position
// about which it says everything.
func (l *ledger) checkpoint(maxNote int) (c driver.Checkpoint, covered driver.Position) {
	var n note
	for i := range l.window.len() {
		e := l.window.at(i)
		last := len(n.settled) - 1
		switch {
		case e.state == settled && last >= 0 && l.window.at(i-1).state == settled:
			n.settled[last].last = e.at()
		case e.state == settled:
			n.settled = append(n.settled, span{e.at(), e.at()})
		case e.failures > 0:
			n.failures = append(n.failures, failures{e.at(), e.failures})
		}
	}
	rest := l.restored.after(l.next - 1)
	n.settled, n.failures = append(n.settled, rest.settled...), append(n.failures, rest.failures...)
	c.Next = l.checkpointNext()
	c.Note, covered = n.encode(c.Next, maxNote)
	return c, covered
}

// oldest is when the oldest unsettled record was appended.
func (l *ledger) oldest() time.Time {
	if l.window.len() == 0 {
		return time.Time{}
	}
	return l.window.at(0).stored.Time
}
