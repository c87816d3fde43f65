package driver

import (
	"context"
	"time"
)

// Limits that hold on every Queue.
const (
	MinPriority     = 1
	DefaultPriority = 5
	MaxPriority     = 10

	MaxDelay = 30 * 24 * time.Hour // of Task.Delay and Settlement.After
	MinLease = time.Second
	MaxLease = 12 * time.Hour
)

// Queue is the primitive of work that is done once: a task waits until somebody
// leases it, and is gone when they say that it is done. If they do not, it comes
// to somebody again.
//
// Queues belong to a namespace, as topics do, and have names of the same form
// (ValidTopic). A queue is there as soon as something is put into it; an empty
// one and one that never was are the same.
type Queue interface {
	// Enqueue puts the tasks into the queue and puts each outcome into the
	// result of the same index. An OK survives what Guarantees.Ack says. A task
	// whose ID is remembered in the queue is not put there again: its result is
	// an OK with Duplicate. IDs are remembered for DedupWindow. len(results) is
	// len(tasks).
	Enqueue(ctx context.Context, queue string, tasks []Task, results []EnqueueResult)

	// Receive leases tasks: those of the highest priority first, and among them
	// those that came first. It waits until there is one, for r.Wait at most;
	// after that it returns none. Of several receivers each gets other tasks.
	// A call that fails or is given up may have leased some, which come to
	// somebody again when the lease is over.
	Receive(ctx context.Context, r ReceiveRequest) ([]Leased, error)

	// Settle says what became of leased tasks and puts each outcome into the
	// result of the same index. A receipt settles the lease that it came with
	// and no other: once that is over, and until the task is done, it is
	// errs.StaleReceipt and changes nothing. What is said of a task that is not
	// in the queue any more is an OK without effect, so that a settlement may
	// be repeated. A text that is no receipt is errs.StaleReceipt. len(results)
	// is len(settlements).
	Settle(ctx context.Context, queue string, settlements []Settlement, results []error)

	// Browse returns tasks in the order in which they came, leased and delayed
	// ones too, and takes nothing from anybody.
	Browse(ctx context.Context, r BrowseRequest) ([]Waiting, error)

	// Stat counts what is in the queue.
	Stat(ctx context.Context, queue string) (QueueStat, error)

	// Guarantees returns what this Queue promises beyond the contract. It never
	// changes while the connection is open.
	Guarantees() QueueGuarantees
}

// DedupWindow is how long a Queue remembers the ID of a task, also when that is
// done meanwhile.
const DedupWindow = 10 * time.Minute

// A Task is what is put into a queue.
type Task struct {
	ID       string        // as Record.ID; empty: duplicates are not known
	Priority int           // MinPriority to MaxPriority
	Delay    time.Duration // it can be leased after that long; 0 to MaxDelay
	Headers  []Header      // as those of a Record
	Value    []byte
}

// An EnqueueResult is the outcome of one task.
type EnqueueResult struct {
	Duplicate bool
	Err       error
}

// A ReceiveRequest asks for tasks to work on.
type ReceiveRequest struct {
	Queue    string
	Limit    int           // at most so many; at least 1
	MaxBytes int           // stop after the task that reaches so many bytes; 0: no bound
	Lease    time.Duration // how long they are the receiver's; MinLease to MaxLease
	Wait     time.Duration // 0: only what is there now
}

// A Leased task is somebody's to work on until Until.
type Leased struct {
	Waiting
	Receipt string // printable ASCII without spaces, at most 64 bytes; nobody can guess one
	Until   time.Time
}

// Waiting is a task that is in a queue.
type Waiting struct {
	Task               // Delay is what is left of it
	Position Position  // in which they came
	Attempt  int       // how often it has been leased, this time included; uncounted ones are not
	Enqueued time.Time // by the backend's clock, true to the millisecond, like the times below
	First    time.Time // when it was leased first; zero: never
}

// SettlementKind says what became of a leased task.
type SettlementKind uint8

// The kinds of settlements.
const (
	// Done takes the task out of the queue.
	Done SettlementKind = iota + 1

	// Return puts it back, to be leased again after Settlement.After.
	Return

	// Extend keeps it for Settlement.After from now on, MinLease to MaxLease.
	Extend
)

// A Settlement says what became of one leased task.
type Settlement struct {
	Receipt   string
	Kind      SettlementKind
	After     time.Duration
	Uncounted bool // Return: the lease does not count as an attempt
}

// A BrowseRequest asks to see tasks.
type BrowseRequest struct {
	Queue string
	From  Position // the lowest position wanted
	Limit int      // at most so many; at least 1
}

// A QueueStat counts the tasks of a queue.
type QueueStat struct {
	Ready   int64     // can be leased now
	Delayed int64     // can be later
	Leased  int64     // are somebody's
	Oldest  time.Time // when the oldest of the ready ones came; zero: there is none
}

// QueueGuarantees are the differences between technologies that patterns compare
// when configuration loads.
type QueueGuarantees struct {
	MaxTask int  // bytes of value and headers; more is errs.PayloadTooLarge
	Shared  bool // several processes may open the same backend
	Ack     Ack  // what an OK of Enqueue and of Settle survives, with the settings as they are
}
