package main

import (
	"fmt"
	"strings"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/files"
	"github.com/prismgw/prism/driver/kafka"
	"github.com/prismgw/prism/driver/memory"
	"github.com/prismgw/prism/driver/nats"
	"github.com/prismgw/prism/driver/postgres"
	"github.com/prismgw/prism/driver/redis"
	"github.com/prismgw/prism/driver/s3"
	"github.com/prismgw/prism/driver/sqlite"
)

// A technology is a driver with what its own tables do not say. The examples
// are opened by a test.
type technology struct {
	driver.Driver
	url    string // an example
	own    string // where Prism's own layout puts the value of orders/carts, key k
	layout string // an example of one that adopts data; empty: there is none
}

// technologies are the drivers in the order of the page.
func technologies() []technology {
	return []technology{
		{memory.Driver(), "memory://name", "in the process", ""},
		{sqlite.Driver(), "sqlite:prism.db", "table `prism_kv`, a row `orders`, `carts`, `k`", `{"table": "carts", "key": "id", "value": "doc"}`},
		{files.Driver(), "file:objects", "objects only: file `spaces/orders+carts/k`", ""},
		{s3.Driver(), "s3://bucket?endpoint=http://localhost:9000", "objects only: object `orders/carts/k!`", ""},
		{redis.Driver(), "redis://localhost:6379/0", "string `orders:carts:k`", `{"keys": "cart:{key}"}`},
		{postgres.Driver(), "postgres://localhost:5432/prism", "table `prism_kv`, a row `orders`, `carts`, `k`", `{"table": "carts", "key": "id", "value": "doc"}`},
		{nats.Driver(), "nats://localhost:4222", "subject `$KV.prism.orders.carts.k`", ""},
		{kafka.Driver(), "kafka://localhost:9092", "messages only: topic `orders.carts`", ""},
	}
}

// A group is what the checks of one prefix are about.
type group struct{ prefix, about string }

// groups are the prefixes of drivertest in the order of the page.
var groups = []group{
	{"basic", "reads and writes: any value, any key"},
	{"batch", "batches, each operation with its own outcome"},
	{"conditions", "`if_version` and `if_absent`"},
	{"versions", "versions"},
	{"histories", "concurrent operations are linearizable"},
	{"numbers", "counters"},
	{"ttl", "time to live"},
	{"scan", "scans, also while keys come and go"},
	{"cursor", "cursors, also of an earlier connection"},
	{"once", "idempotency: effect and record in one step"},
	{"watch", "watching changes"},
	{"spaces", "namespaces never meet"},
	{"conn", "opening, health, closing under load"},
	{"context", "deadlines and cancellation"},
	{"faults", "killed, paused, cut off, answering garbage"},
	{"leaks", "nothing is left behind"},
}

// blobGroups are those of the suite of Blob.
var blobGroups = []group{
	{"put", "objects of any size from any reader, with metadata"},
	{"get", "ranges, also while the object is replaced or deleted"},
	{"delete", "deletes"},
	{"keys", "any key"},
	{"conditions", "`if_version` and `if_absent`, of many at once"},
	{"list", "lists, also while objects come and go"},
	{"cut-off", "an object is there whole or not at all"},
	{"spaces", "namespaces never meet"},
	{"conn", "opening, health, closing under load"},
	{"context", "deadlines and cancellation"},
	{"faults", "killed, paused, cut off, answering garbage"},
	{"memory", "memory does not grow with the object"},
	{"leaks", "nothing is left behind"},
}

// pubsubGroups are those of the suite of PubSub.
var pubsubGroups = []group{
	{"listen", "who listens is told, in order, or told what was missed"},
	{"groups", "groups share messages"},
	{"payloads", "any bytes"},
	{"faults", "killed, paused, cut off, answering garbage"},
	{"leaks", "nothing is left behind"},
}

// logGroups are those of the suite of Log.
var logGroups = []group{
	{"topics", "topics of any name, made once, never altered; those of others"},
	{"append", "any record, each with its own outcome, in order for every reader"},
	{"dedup", "duplicates by id"},
	{"read", "reads from any position or time"},
	{"groups", "members share the partitions of a topic"},
	{"moves", "partitions go from one member to another"},
	{"commits", "checkpoints with notes; stale ones change nothing"},
	{"seek", "groups are put to other places"},
	{"readers", "readers without a group"},
	{"stat", "positions, backlog and owners"},
	{"retention", "nothing goes too early, all goes in the end, what was skipped is counted"},
	{"conn", "closing members and connections under load"},
	{"context", "deadlines and cancellation"},
	{"faults", "killed, paused, cut off, answering garbage, while all of it is used"},
	{"leaks", "nothing is left behind"},
}

// queueGroups are those of the suite of Queue.
var queueGroups = []group{
	{"tasks", "any bytes, batches of thousands, tasks that stay"},
	{"order", "priority, then age"},
	{"delay", "delays"},
	{"lease", "each task is one receiver's, until its lease is over"},
	{"settle", "done, returned and extended, once or twice"},
	{"wait", "who waits is woken"},
	{"same-id", "duplicates are known for 10 min"},
	{"look", "counting and looking take nothing"},
	{"names", "any name; namespaces never meet"},
	{"conn", "closing"},
	{"context", "deadlines and cancellation"},
	{"faults", "killed, paused, cut off, answering garbage"},
	{"leaks", "nothing is left behind"},
}

// A guarantee is one row of the table of guarantees.
type guarantee struct {
	name  string
	about string // one line
	value func(r *result) string
}

var guarantees = []guarantee{
	{
		"versions", "`write`: every change gives a version that the key never had. `content`: a hash of the value, so that A to B to A is not seen. Compare-and-set is atomic on both.",
		func(r *result) string { return string(r.Guarantees.Version) },
	},
	{
		"time to live", "Entries can expire. Where they cannot, a write that asks for it is refused with UNSUPPORTED and never kept for good.",
		func(r *result) string { return yes(r.Guarantees.TTL) },
	},
	{
		"clock", "Whose clock decides that an entry has expired: that of the `proxy` or that of the `server`.",
		func(r *result) string { return string(r.Guarantees.Clock) },
	},
	{
		"ordered scan", "A scan gives each key exactly once, in the order of its bytes. Without it: at least once, in any order.",
		func(r *result) string { return yes(r.Guarantees.OrderedScan) },
	},
	{
		"scan cost", "What the work of a scan grows with: the keys below its `prefix`, or the whole `keyspace` of the backend.",
		func(r *result) string { return string(r.Guarantees.ScanCost) },
	},
	{
		"idempotency", "`atomic`: the effect and the record of an idempotency key are one step. `reserved`: the key is reserved first, and a repeat that cannot be decided is OUTCOME_UNKNOWN.",
		func(r *result) string { return string(r.Guarantees.Idempotency) },
	},
	{
		"watching", "Whether the backend tells of changes.",
		func(r *result) string { return yes(r.Watcher) },
	},
	{
		"largest value", "As far as the options do not say otherwise; Prism itself takes 4 MiB.",
		func(r *result) string { return size(r.Guarantees.MaxValue) },
	},
	{
		"shared", "Several proxies may serve the same data at once.",
		func(r *result) string { return yes(r.Guarantees.Shared) },
	},
	{
		"an OK survives", "With the settings of the run; [all of them](#what-an-ok-survives) are below.",
		func(r *result) string { return survives(r.Guarantees.Ack) },
	},
}

var blobGuarantees = []guarantee{
	{
		"versions", "`write`: every put gives a version that the key never had. `content`: a put of the same bytes may keep it.",
		func(r *result) string { return string(r.Blob.Version) },
	},
	{
		"conditions", "A put happens only if the object is absent, or has a version, in one atomic step.",
		func(r *result) string { return yes(r.Blob.Conditional) },
	},
	{
		"list cost", "What the work of a page grows with: the objects below its `prefix`, or all of the namespace's pattern (`keyspace`).",
		func(r *result) string { return string(r.Blob.ListCost) },
	},
	{
		"largest object", "As far as the options do not say otherwise.",
		func(r *result) string { return size(int(r.Blob.MaxObject)) },
	},
	{
		"shared", "Several proxies may serve the same objects at once.",
		func(r *result) string { return yes(r.Blob.Shared) },
	},
	{
		"an OK survives", "With the settings of the run; [all of them](#what-an-ok-survives) are below.",
		func(r *result) string { return survives(r.Blob.Ack) },
	},
}

var pubsubGuarantees = []guarantee{
	{
		"groups", "Subscriptions can share messages, each of which comes to one of them.",
		func(r *result) string { return yes(r.PubSub.Groups) },
	},
	{
		"largest payload", "As far as the options do not say otherwise.",
		func(r *result) string { return size(r.PubSub.MaxPayload) },
	},
	{
		"shared", "Messages come from one proxy to another.",
		func(r *result) string { return yes(r.PubSub.Shared) },
	},
}

var logGuarantees = []guarantee{
	{
		"duplicates", "A topic can remember the ids of records and append none again.",
		func(r *result) string { return yes(r.Log.Dedup) },
	},
	{
		"kept until consumed", "A topic can delete what every group has committed.",
		func(r *result) string { return yes(r.Log.UntilConsumed) },
	},
	{
		"seek", "A group can be put to another place while other processes have members of it.",
		func(r *result) string { return yes(r.Log.SeekLive) },
	},
	{
		"foreign members", "Consumers of other programs can be members of a group.",
		func(r *result) string { return yes(r.Log.Foreign) },
	},
	{
		"counting", "`exact`: how many records wait or were skipped is known. `at most`: positions leave gaps, so that fewer may wait than is told, and what was skipped is not always counted.",
		func(r *result) string {
			if r.Log.Sparse {
				return "at most"
			}
			return "exact"
		},
	},
	{
		"largest record", "Key, value and headers together, as far as the options do not say otherwise.",
		func(r *result) string { return size(r.Log.MaxRecord) },
	},
	{
		"largest note", "What may be kept beside a checkpoint.",
		func(r *result) string { return size(r.Log.MaxNote) },
	},
	{
		"shared", "Several proxies may serve the same topics at once.",
		func(r *result) string { return yes(r.Log.Shared) },
	},
	{
		"an OK survives", "With the settings of the run; [all of them](#what-an-ok-survives) are below.",
		func(r *result) string { return survives(r.Log.Ack) },
	},
}

var queueGuarantees = []guarantee{
	{
		"largest task", "Value and headers together, as far as the options do not say otherwise.",
		func(r *result) string { return size(r.Queue.MaxTask) },
	},
	{
		"shared", "Several proxies may serve the same tasks at once.",
		func(r *result) string { return yes(r.Queue.Shared) },
	},
	{
		"an OK survives", "Of a task that was enqueued or settled, with the settings of the run; [all of them](#what-an-ok-survives) are below.",
		func(r *result) string { return survives(r.Queue.Ack) },
	},
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func size(n int) string {
	switch {
	case n >= 1<<30 && n%(1<<30) == 0:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}

func survives(a driver.Ack) string {
	var what []string
	for _, s := range []struct {
		holds bool
		name  string
	}{{a.Process, "process"}, {a.OS, "OS"}, {a.Node, "node"}} {
		if s.holds {
			what = append(what, s.name)
		}
	}
	if what == nil {
		return "nothing"
	}
	return strings.Join(what, ", ")
}
