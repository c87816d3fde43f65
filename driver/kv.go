package driver

import (
	"context"
	"time"
)

// Limits that hold on every KV.
const (
	MaxKey     = 1024 // bytes of a key
	MaxVersion = 64   // bytes of a version

	MinTTL = time.Millisecond
	MaxTTL = 10 * 365 * 24 * time.Hour
)

// KV is the primitive of keys and values. A key is 1 to MaxKey bytes of UTF-8
// without NUL and otherwise any text; callers check that, drivers escape. A
// value is any bytes, empty ones included, up to Guarantees.MaxValue.
//
// Each operation is atomic and, once acknowledged, visible to every read that
// begins afterwards, through any connection. Operations of one Apply or
// GetMany have nothing to do with each other: one that fails changes no other
// one, and no order is promised between them, not even on one key; two writes
// of one key in one Apply happen one after the other in some order. When the
// context ends, each operation of a batch has its own outcome in its result.
//
// An entry whose time to live has passed is absent at once for reads,
// conditions and scans, whether or not it has been removed.
type KV interface {
	// Get returns the entry of key as far as it is wanted, or
	// errs.KeyNotFound.
	Get(ctx context.Context, key string, want Want) (Entry, error)

	// GetMany reads len(keys) keys into the results of the same index. A key
	// may occur twice. len(results) is len(keys); what was in results does
	// not matter.
	GetMany(ctx context.Context, keys []string, want Want, results []GetResult)

	// Apply carries out the operations and puts each outcome into the result
	// of the same index. When it returns, every result without an error is
	// as durable as Guarantees.Ack says. len(results) is len(ops); what was
	// in results does not matter.
	Apply(ctx context.Context, ops []Op, results []Result)

	// Scan returns a page of the entries whose keys begin with the request's
	// prefix. Going from the zero cursor through every Next to the end
	// returns each key that was present all the time at least once (exactly
	// once, and in the order of the keys' bytes, where
	// Guarantees.OrderedScan); keys that come or go meanwhile may be in it or
	// not. A page may be empty and yet have a Next. A cursor keeps its
	// meaning when the connection is closed and opened again; where the backend
	// itself has lost it since, it is errs.StaleCursor. A cursor that this
	// driver never gave out is errs.InvalidCursor.
	Scan(ctx context.Context, r ScanRequest) (Page, error)

	// Guarantees returns what this KV promises beyond the contract. It never
	// changes while the connection is open.
	Guarantees() Guarantees
}

// Want says how much of an entry a read needs. What is not wanted is left
// empty: on some backends it would cost as much as the value.
type Want uint8

// What can be wanted.
const (
	ValueOnly  Want = iota // Value and Version
	WithExpiry             // and Expires
)

// An Entry is a value with what is known about it.
type Entry struct {
	Value   []byte
	Version string    // opaque text, at most MaxVersion bytes of A-Z a-z 0-9 - _ .
	Expires time.Time // zero: never, or not wanted; otherwise true to the millisecond
}

// Wanted returns the entry without what is not wanted.
func (e Entry) Wanted(want Want) Entry {
	if want != WithExpiry {
		e.Expires = time.Time{}
	}
	return e
}

// A GetResult is the outcome of one key of GetMany.
type GetResult struct {
	Entry
	Err error // errs.KeyNotFound where there is none
}

// OpKind says what an Op does.
type OpKind uint8

// The kinds of operations. The zero OpKind is none of them.
const (
	// Put sets value and time to live (0: it never expires, also if it did
	// before). Answers Version.
	Put OpKind = iota + 1

	// Delete removes the key. An absent key is no error without a condition.
	// Answers nothing.
	Delete

	// Add adds Delta to a value that reads -?[0-9]{1,19}; an absent key
	// counts as 0, an expiry stays as it is. The sum is stored in decimal.
	// A value of another form is errs.NotANumber, a value or a sum beyond 64
	// bits is errs.OutOfRange, and both change nothing. Answers Version, Number
	// and Expires.
	Add

	// Expire sets the time to live of a present key; an absent one is
	// errs.KeyNotFound. Under Guarantees.Version WriteVersions this is a
	// change and gives a new version. Answers Version and Expires.
	Expire
)

// An Op is one operation on one key.
type Op struct {
	Kind  OpKind
	Key   string
	Value []byte        // Put
	Delta int64         // Add
	TTL   time.Duration // Put: 0 or MinTTL to MaxTTL; Expire: MinTTL to MaxTTL

	// IfVersion makes the operation happen only if the key is present with
	// this version, else errs.VersionMismatch with the metadata "current"
	// (absent if the key is). Any kind.
	IfVersion string

	// IfAbsent makes a Put happen only if the key is absent, else
	// errs.AlreadyExists with the metadata "version".
	IfAbsent bool

	// Once makes the operation take effect at most once; nil asks for
	// nothing. Only where Guarantees.Idempotency is IdempotencyAtomic.
	Once *Once
}

// Once identifies one request, so that its repeat does nothing again. An
// operation that takes effect records its result under the token, in the same
// atomic step. Another operation with that token and digest, until the record
// expires, changes nothing and answers the recorded result; one with another
// digest is errs.IdempotencyMismatch. A failed operation records nothing. If
// two come at once, one waits for the other. Tokens of one space meet each
// other whatever their keys are, and no other space's.
type Once struct {
	Token  [16]byte
	Digest [16]byte
	TTL    time.Duration
}

// A Result is the outcome of one Op; which fields are set depends on its kind.
type Result struct {
	Version  string
	Number   int64
	Expires  time.Time
	Repeated bool // the answer is the recorded one of an earlier operation (Op.Once)
	Err      error
}

// A ScanRequest asks for one page.
type ScanRequest struct {
	Prefix   string
	Cursor   []byte // nil: from the beginning; else a Next of the same prefix
	Limit    int    // at most so many items; at least 1
	MaxBytes int    // stop after the item that reaches so many bytes of keys and values; 0: no bound
	KeysOnly bool   // leave Value, Version and Expires empty
}

// A Page is one page of a scan.
type Page struct {
	Items []Item
	Next  []byte // nil at the end; at most MaxKey+64 bytes
}

// An Item is one key of a page.
type Item struct {
	Key string
	Entry
}

// Guarantees are the differences of quality between technologies that
// patterns compare when configuration loads.
type Guarantees struct {
	Version     VersionKind
	Clock       ClockKind
	OrderedScan bool
	ScanCost    ScanCost
	Idempotency Idempotency
	MaxValue    int  // bytes
	TTL         bool // entries can expire; false: a Put with a ttl, and Expire, are errs.Unsupported
	Shared      bool // several processes may open the same backend
	Ack         Ack  // what an OK survives, with the settings as they are
}

// VersionKind says what a version identifies. Compare-and-set is atomic under
// both.
type VersionKind string

// The kinds of versions.
const (
	// WriteVersions: every change gives a version that the key never had,
	// also after it was deleted and made again.
	WriteVersions VersionKind = "write"
	// ContentVersions: a hash of the value. A to B to A is not seen, nor is
	// a rewrite of the same bytes.
	ContentVersions VersionKind = "content"
)

// ClockKind says whose clock decides that an entry has expired.
type ClockKind string

// The clocks.
const (
	ProxyClock  ClockKind = "proxy"
	ServerClock ClockKind = "server"
)

// ScanCost says what the work of a scan grows with.
type ScanCost string

// The costs.
const (
	ScanPrefix   ScanCost = "prefix"   // the keys below the prefix
	ScanKeyspace ScanCost = "keyspace" // everything the backend holds
)

// Idempotency says how Op.Once is kept.
type Idempotency string

// The kinds of idempotency.
const (
	// IdempotencyAtomic: effect and record are one atomic step.
	IdempotencyAtomic Idempotency = "atomic"
	// IdempotencyReserved: the driver refuses Op.Once with
	// errs.Unsupported; wrap.Once reserves the token with a write of its own,
	// and a repeat that cannot be decided is errs.OutcomeUnknown.
	IdempotencyReserved Idempotency = "reserved"
)

// Watcher tells that keys changed. It gives the level, not the history:
// several changes of a key may be told as one, and a key may be told without
// having changed.
type Watcher interface {
	// Watch begins to watch the keys below prefix. Every change that takes
	// effect after Watch has returned is told, by its key or by Lost. That a
	// key expired is not told. The context bounds the beginning only.
	Watch(ctx context.Context, prefix string) (Watch, error)
}

// A Watch is one running subscription of a Watcher.
type Watch interface {
	// Next waits for changes. Only one goroutine may call it at a time.
	// After Close it is errs.Cancelled; once the connection is closed, it is
	// that or errs.BackendUnavailable.
	Next(ctx context.Context) (Change, error)

	// Close ends the watch. Closing twice is allowed.
	Close() error
}

// A Change is what happened since the last one.
type Change struct {
	Keys []string // in no order, each once
	Lost bool     // more may have changed than Keys tells: scan again
}
