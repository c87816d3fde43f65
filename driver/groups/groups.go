// Package groups makes a driver.Member out of what nearly every technology has:
// a log that is read by position, something to wait on, and a small table in
// which a row changes only for who knows its claim. It shares the partitions of
// a topic among the members of a group, wherever they run, fetches ahead, and
// tells in order what happens. Technologies that keep a driver.Log use it, but
// for those whose servers know groups themselves. Nobody else does.
//
// # What a technology writes
//
// A Source and a Table, whose sentences say what each method has to do, and in
// its driver.Topic:
//
//   - Join makes the group known where it is not, in all partitions at once,
//     and then calls Members.Join. Without a group it finds the positions to
//     begin at and calls Members.Read.
//   - Seek changes the table: another checkpoint, the claim raised, the owner
//     cleared; then it calls Members.Ring. Owners notice by their next beat or
//     commit.
//   - The Conn closes its Members before what they use.
//
// # How partitions are shared
//
// What is leased is the member, not the partition: it beats every BeatEvery,
// and who has not done so for TTL is dead, by a clock that the technology
// chooses. The partitions of the dead are free. Each beat answers who is alive
// and who has what, and from that each member computes by itself how many
// partitions everybody should have: all shares are equal or differ by one, and
// those who have most keep most, so that nothing moves which need not. Who has
// too many is told driver.Leaving; who has too few takes what is free. Members
// that see the group at different moments may want the same partition; Take
// decides. Correct is what happens at any rate, since a commit names the claim
// and each Take raises it. Fair is what is left when all have seen the same.
//
// A member counts its own lease from when its last good beat began. So it knows
// that it is dead before anybody else does, and says driver.Lost.
//
// # Clocks
//
// Leases are measured, never dated, so that a wall clock which is set takes
// nobody's partitions: everything here uses the monotonic clock of package
// time, and tests run in a testing/synctest bubble.
package groups

import (
	"context"
	"time"

	"github.com/prismgw/prism/driver"
)

// How long members live.
const (
	TTL       = 10 * time.Second // after its last beat a member is dead
	BeatEvery = 2 * time.Second
)

// A Source reads a topic. Its methods may be called from several goroutines at
// once and return soon when their context ends.
type Source interface {
	// Fetch puts the records that are there now, from each cursor on, into
	// the Found of the same index, and waits for none. The mark is for Wait.
	// What was found counts even when it fails, so that a partition which
	// cannot be read holds up no other. len(found) is len(cursors), and found
	// is empty.
	Fetch(ctx context.Context, cursors []Cursor, found []Found) (mark uint64, err error)

	// Wait returns when a record may be there for one of the cursors. They
	// and the mark are those of a Fetch that found nothing: what was appended
	// since that began makes Wait return at once, even if it was before Wait
	// began. So whoever is told of appends counts them, Fetch returns the
	// count as it was before it looked, and Wait waits for another one (see
	// Bell); who asks the backend asks from the cursors on. A technology that
	// has neither sleeps as long as it thinks right. Returning for nothing
	// costs a Fetch.
	//
	// The context ends when other partitions are to be fetched. Where it is
	// dear to give up waiting, one goroutine for all members should wait and
	// ring a Bell.
	Wait(ctx context.Context, cursors []Cursor, mark uint64) error
}

// A Cursor is where a member goes on reading a partition.
type Cursor struct {
	Partition int
	From      driver.Position // the lowest position wanted
	Bytes     int             // stop after the record that reaches so many bytes, as Size counts them; at least 1
}

// Found is what a Fetch found in one partition. Fewer records than there are
// will do, but one at least if there are any.
type Found struct {
	Records []driver.Stored // the member's to keep
	Next    driver.Position // where to go on; 0: behind the last record, or where there is none at Cursor.From
	Skipped int64           // records from Cursor.From on that were deleted before the first of these, or before Next; driver.SkippedUnknown as there
}

// Size is what a record counts for in Cursor.Bytes.
func Size(r *driver.Record) int {
	const overhead = 64
	size := overhead + len(r.ID) + len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		size += len(h.Name) + len(h.Value)
	}
	return size
}

// A Table is what the members of one group have in common: who is alive, and
// for each partition an owner, a claim and a checkpoint. Claims of a partition
// only grow. A row changes in one atomic step; two rows have nothing to do with
// each other.
//
// A group or a topic that is gone is errs.GroupNotFound or errs.TopicNotFound,
// which end the member. Every other error is tried again. Methods may be called
// from several goroutines at once, but Beat, Take and Release of one member
// come one after the other.
type Table interface {
	// Beat makes the member live for another TTL, counted from some moment
	// during the call, whether it lived before or not, and returns the group.
	Beat(ctx context.Context, self Self) (View, error)

	// Take gives each of these partitions to the member if it has no owner, or
	// one that is dead, or is the member's already, which is so when the answer
	// of an earlier Take was lost. Each that it gives gets a new claim. It
	// returns those that it gave.
	Take(ctx context.Context, self Self, partitions []int) ([]Taken, error)

	// Commit keeps the checkpoint of each partition that the member owns with
	// this very claim, and with Release clears the owner. Else it changes
	// nothing and the result is errs.StaleReceipt; but a release that is
	// repeated, of a partition that still has this claim and no owner, is nil.
	// Whether the member has beaten lately does not matter. len(results) is
	// len(commits).
	Commit(ctx context.Context, self Self, commits []driver.Commit, results []error)

	// Release clears the owner of those partitions that the member owns with
	// this very claim. The checkpoint stays, and so does the claim.
	Release(ctx context.Context, self Self, claims []Claim) error

	// Leave forgets the member and clears it as the owner of whatever it owns.
	Leave(ctx context.Context, self Self) error
}

// Self is a member as a Table knows it.
type Self struct {
	ID   string // nobody else's: 16 letters or digits
	Name string // driver.JoinRequest.Name
}

// A View is a group at one moment, or as if each row were from a moment of its
// own during the call.
type View struct {
	Alive  []string // the IDs of the members that are not dead, in any order
	Owners []Owner  // by partition
}

// An Owner is who has a partition, and by which claim. ID is empty, or that of
// a member which is not alive, where the partition is free.
type Owner struct {
	ID    string
	Claim int64
}

// A Taken is a partition that Take gave.
type Taken struct {
	Claim
	driver.Checkpoint
}

// A Claim names one ownership of a partition.
type Claim struct {
	Partition int
	Number    int64
}
