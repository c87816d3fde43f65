package driver

import (
	"context"
	"time"
)

// Limits that hold on every Log.
const (
	MaxTopic      = 160      // bytes of a topic's or a group's name
	MaxPartitions = 1024     // of a topic
	MaxRecordKey  = 1024     // bytes of Record.Key
	MaxRecordID   = 64       // bytes of Record.ID
	MaxHeaders    = 64       // of a record
	MaxHeaderSize = 16 << 10 // bytes of all names and values of a record's headers together
)

// Log is the primitive of messages that are kept: topics with partitions, in
// each of which records stand in an order that never changes, for everybody to
// read as often as they want. Groups share the work of reading a topic once.
//
// Topics belong to a namespace: its spaces have the same ones, whatever their
// patterns are, and no other namespace's. The name of a topic, and that of a
// group, is 1 to MaxTopic bytes of A-Z a-z 0-9 . _ - beginning with a letter or
// a digit; case matters. Callers check that (ValidTopic).
type Log interface {
	// Topic returns a topic that fits the spec, having made it if there was
	// none. One that is there is never altered: if it promises less than the
	// spec asks for, that is errs.InvalidConfiguration with an errs.Field for
	// each difference, below the name that the spec's field has in documents.
	Topic(ctx context.Context, spec TopicSpec) (Topic, error)

	// Guarantees returns what this Log promises beyond the contract. It never
	// changes while the connection is open.
	Guarantees() LogGuarantees
}

// A TopicSpec says which topic is wanted.
type TopicSpec struct {
	Name string

	// Physical is the technology's own name of a topic that other programs
	// made: it is used as it is and never made. Partitions may be 0, as many as
	// it has, and what is deleted of it is its owner's affair: the fields below
	// are zero. Where there is none, that is errs.TopicNotFound.
	Physical string

	Partitions int // "partitions"; a topic may have more of them, which Topic.Partitions tells

	// What may be deleted, zero for nothing by that measure. A record goes
	// some time after it may, a minute when the backend is at rest, and never
	// before.
	MaxAge        time.Duration // "retention.age"
	MaxBytes      int64         // "retention.bytes": the oldest ones, while the topic holds more, in the technology's way of counting
	UntilConsumed bool          // "retention.until_consumed": what every group has committed, once there is a group

	// Dedup is how long a Record.ID is remembered; 0: not at all.
	Dedup time.Duration // "dedup"
}

// A Position is the place of a record in its partition. Positions grow and are
// used once; they may leave gaps. All of them are positive.
type Position int64

// A Topic is one topic. Its partitions are numbered from 0. When it has been
// deleted by somebody else, everything is errs.TopicNotFound.
type Topic interface {
	// Partitions is how many there are.
	Partitions() int

	// Append adds the records to their partitions and puts each outcome into
	// the result of the same index. An OK survives what Guarantees.Ack says.
	// Of the records of one partition, those that are appended stand in the
	// order of the call, and behind those of every call that returned before
	// it began. A record whose ID is remembered in the topic is not appended
	// again: its result is an OK with Duplicate. IDs are compared among the
	// records of one partition at least. len(results) is len(records).
	Append(ctx context.Context, records []Record, results []AppendResult)

	// Read returns records of one partition as they stand there now, without
	// waiting and without taking them from anybody. Positions become visible
	// in order: what was not there when a later record was read never comes.
	Read(ctx context.Context, r ReadRequest) (Records, error)

	// Join makes a member of a group, or a reader by itself. The context
	// bounds the call alone.
	Join(ctx context.Context, r JoinRequest) (Member, error)

	// Stat returns what is known of each partition, by number, and of a group
	// in it if one is named. Of a group that nobody ever joined nothing is
	// Known.
	Stat(ctx context.Context, group string) ([]PartitionStat, error)

	// Seek puts a known group to other positions, with an empty note. A member
	// that has one of these partitions loses it, and whoever gains it goes on
	// at the new position. Each partition happens by itself; those that are
	// not named stay. A group that nobody ever joined is errs.GroupNotFound.
	// Where Guarantees.SeekLive is false, one with members in other processes
	// is errs.Unsupported.
	Seek(ctx context.Context, group string, to []Target) error
}

// A Record is a message as it stands in a topic.
type Record struct {
	Partition int
	ID        string // by which duplicates are known: printable ASCII without spaces; empty: by nothing
	Key       []byte // nil: none; records with equal keys have an order only in one partition, see PartitionOf
	Headers   []Header
	Value     []byte
}

// A Header is a name and a value beside a record's own. Append takes names of
// a-z 0-9 - that begin with a letter, and values of printable ASCII without a
// space at either end; callers check that. What other programs have written may
// have any. Values of one name keep their order, names among each other may
// not.
type Header struct {
	Name  string
	Value string
}

// An AppendResult is the outcome of one record.
type AppendResult struct {
	Position  Position // of a duplicate: where the first one stands, or 0 if the backend does not tell
	Duplicate bool
	Err       error
}

// A ReadRequest asks for records of one partition.
type ReadRequest struct {
	Partition int

	// From is the lowest position wanted. Where Time is set, it is that of the
	// first record which is not older instead.
	From Position
	Time time.Time

	Limit    int // at most so many records; at least 1
	MaxBytes int // stop after the record that reaches so many bytes; 0: no bound
}

// Records are what a read found.
type Records struct {
	Records []Stored // in order; may be empty
	Next    Position // From of the read that goes on from here; where nothing was found, the end or a place before it
}

// A Stored record is one with its place.
type Stored struct {
	Record
	Position Position

	// Time is when it was appended, by the clock of the backend or of whoever
	// did it, true to the millisecond.
	Time time.Time
}

// Start says where a group begins in a topic.
type Start struct {
	From StartFrom
	Time time.Time // of StartTime
}

// StartFrom is a kind of Start.
type StartFrom uint8

// The kinds of starts.
const (
	StartEarliest StartFrom = iota // the first record that is there
	StartLatest                    // what is appended from now on
	StartTime                      // the first record that is not older than Start.Time
)

// A JoinRequest says who reads.
type JoinRequest struct {
	// Group is whom the partitions are shared with: each has one owner among
	// the members of the group, whatever process they are in, and new members
	// get their part. Empty: the member is nobody's, has all partitions at
	// once and for as long as it is there, and keeps nothing; its commits are
	// errs.Unsupported.
	Group string

	// Name describes the member in the backend's own tools: printable ASCII
	// without spaces. Two members may have the same.
	Name string

	// Start is where the group begins if the topic has never known it, in
	// all partitions at once. A group that is known begins where it stands.
	Start Start

	// At is where a member without a group begins in these partitions, whatever
	// Start says.
	At []Target

	// Buffer is about how many bytes of records are on their way to a member
	// that does not take them; 0 is FetchBytes. One record of each partition
	// always may be.
	Buffer int
}

// A Member reads the partitions that it owns. A partition is owned by one
// member at a time as far as Commit is concerned: one that has lost it, and
// perhaps does not know, can commit nothing any more. A member that dies is
// followed by others within TakeOver.
//
// A backend that is away ends no member: it loses its partitions when it can no
// longer hold them, and gains some when the backend is there again.
type Member interface {
	// Next waits until something has happened and puts as much as there is and
	// fits, in order, into events; at least one. It is called by one goroutine
	// at a time. When the member has been closed it fails with errs.Cancelled,
	// and when its connection has, with errs.BackendUnavailable.
	//
	// The life of a partition is: one Gained, then its records from
	// Checkpoint.Next on, each once and in order, then Lost, or perhaps Leaving
	// and then the commit that releases it. After that nothing comes of it until
	// the next Gained.
	Next(ctx context.Context, events []LogEvent) (int, error)

	// Hold keeps records of a partition from being fetched, or lets them come
	// again. What is on its way still comes. A partition begins without a hold.
	// It may be called from any goroutine; one that is not owned is passed over.
	Hold(partition int, hold bool)

	// Commit keeps how far the group has come in its partitions and puts each
	// outcome into the result of the same index; errs.StaleReceipt says that
	// the claim is over and nothing was changed. A commit may be repeated. It
	// may be called from any goroutine, for each partition from one at a time.
	// len(results) is len(commits).
	Commit(ctx context.Context, commits []Commit, results []error)

	// Close gives up all partitions, for others to have at once. What was not
	// committed others get again. Closing twice is allowed; the context bounds
	// how long the backend is waited for.
	Close(ctx context.Context) error
}

// How members behave in time.
const (
	// TakeOver is how long a partition of a member that has died is without
	// an owner, at most, while the backend answers.
	TakeOver = 15 * time.Second

	// LeaveTime is how long after Leaving a partition is taken away.
	LeaveTime = 5 * time.Second

	// FetchBytes is JoinRequest.Buffer unless it says otherwise.
	FetchBytes = 4 << 20
)

// A LogEvent is one thing that a member is told. Which fields are set depends
// on its kind.
type LogEvent struct {
	Kind      LogEventKind
	Partition int

	Claim      int64      // Gained: names this ownership; see Commit
	Checkpoint Checkpoint // Gained: where the group stands

	Stored Stored // Arrived

	// Skipped is of Arrived and Gained: so many records before this place were
	// deleted although the group had not come so far. SkippedUnknown, where
	// Guarantees.Sparse: some were, nobody knows how many.
	Skipped int64
}

// SkippedUnknown is the number of skipped records that cannot be counted.
const SkippedUnknown = -1

// LogEventKind says what happened.
type LogEventKind uint8

// The kinds of events.
const (
	Gained  LogEventKind = iota + 1 // the partition is the member's from now on
	Arrived                         // the next record of it
	Leaving                         // somebody else should have it: settle what is in hand and release it
	Lost                            // it is not the member's any more
)

// A Checkpoint is how far a group has come in a partition.
type Checkpoint struct {
	Next Position // every record below is done with

	// Note is what is known about records from Next on, in the owner's words:
	// printable ASCII, at most Guarantees.MaxNote bytes. Empty where nothing is
	// known, which is also what it is after a program that is not Prism has
	// owned the partition (Guarantees.Foreign).
	Note string
}

// A Commit says how far the owner of a partition has come.
type Commit struct {
	Partition int
	Claim     int64 // of the Gained that it follows
	Checkpoint

	Release bool // and gives it up, in the same step
}

// A Target is a place to go on from in one partition.
type Target struct {
	Partition int
	Next      Position
}

// A PartitionStat is what is known of one partition, and of a group in it.
type PartitionStat struct {
	First Position // of the first record that is there; End if there is none
	End   Position // higher than that of the last record, and not higher than that of the next

	// Of the group:
	Known   bool
	Next    Position  // of its checkpoint
	Waiting int64     // how many records from Next on are there; may be too high where Guarantees.Sparse
	Oldest  time.Time // when the first of them was appended; zero if there is none
	Owner   string    // the Name of the member that has it; empty: nobody
}

// LogGuarantees are the differences between technologies that patterns compare
// when configuration loads.
type LogGuarantees struct {
	Dedup         bool // TopicSpec.Dedup can be asked for; else it is errs.Unsupported
	UntilConsumed bool // TopicSpec.UntilConsumed can be, likewise
	SeekLive      bool // Seek works while other processes have members
	Foreign       bool // consumers of other programs can be members of a group
	Sparse        bool // positions leave gaps: PartitionStat.Waiting may be too high, and what was skipped unknown
	MaxRecord     int  // bytes of key, value and headers; more is errs.PayloadTooLarge
	MaxNote       int  // bytes; at least 4,096
	Shared        bool // several processes may open the same backend
	Ack           Ack  // what an OK of Append and of Commit survives, with the settings as they are
}

// ValidTopic reports whether s can be the name of a topic or of a group.
func ValidTopic(s string) bool {
	if s == "" || len(s) > MaxTopic {
		return false
	}
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && (i == 0 || c != '.' && c != '_' && c != '-') {
			return false
		}
	}
	return true
}

// ValidHeader reports whether a record can be appended with the header.
func ValidHeader(h Header) bool {
	if h.Name == "" || h.Name[0] < 'a' || h.Name[0] > 'z' {
		return false
	}
	for i := range len(h.Name) {
		if c := h.Name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	for i := range len(h.Value) {
		if c := h.Value[i]; c < ' ' || c > '~' {
			return false
		}
	}
	return h.Value == "" || h.Value[0] != ' ' && h.Value[len(h.Value)-1] != ' '
}

// PartitionOf returns the partition of a key among so many, as the producers of
// Kafka's Java client choose it (murmur2 of the key without its sign), so that
// other programs' records of a key stand beside Prism's.
func PartitionOf(key []byte, partitions int) int {
	return int(murmur2(key)&0x7fffffff) % partitions
}

// murmur2 is Austin Appleby's MurmurHash2 with the seed of
// org.apache.kafka.common.utils.Utils.
func murmur2(b []byte) uint32 {
	const mix = 0x5bd1e995
	h := 0x9747b28c ^ uint32(len(b))
	for ; len(b) >= 4; b = b[4:] {
		k := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
		k *= mix
		k ^= k >> 24
		h = h*mix ^ k*mix
	}
	if len(b) > 0 {
		for i := len(b) - 1; i >= 0; i-- {
			h ^= uint32(b[i]) << (8 * i)
		}
		h *= mix
	}
	h ^= h >> 13
	h *= mix
	return h ^ h>>15
}
