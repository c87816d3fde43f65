package namespace

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern/topic"
	"github.com/prismgw/prism/secret"
)

// testCatalog describes a few technologies as their documentation does. What
// is tested is which of them is chosen, so there is nothing behind them.
func testCatalog() Catalog {
	return Catalog{
		Drivers:     []string{"memory", "sqlite", "redis", "postgres", "blobs", "nats"},
		Credentials: secret.Check,
		Kinds: []Kind{
			{Name: "keyvalue", Slots: []SlotNeed{{Name: "store-kv", Primitive: PrimitiveKV}}},
			{Name: "pubsub", Slots: []SlotNeed{{Name: "messages-pubsub", Primitive: PrimitivePubSub}}},
			{Name: "producer", Slots: []SlotNeed{{Name: "messages-log", Primitive: PrimitiveLog}}, CheckSettings: checkTopics, CheckSigning: topic.CheckSigning},
			{Name: "consumer", Slots: []SlotNeed{{Name: "messages-log", Primitive: PrimitiveLog}}, CheckSettings: checkTopics, CheckSigning: topic.CheckSigning},
			{Name: "queue", Slots: []SlotNeed{{Name: "messages-queue", Primitive: PrimitiveQueue}}, CheckSettings: checkQueues},
			{Name: "lease", Slots: []SlotNeed{{Name: "lock-kv", Primitive: PrimitiveKV, Versions: driver.WriteVersions}}, CheckSettings: checkLease},
		},
		Keys: func(n *Namespace) error { return secret.Check(n.Spec.GetSigning().GetKeys()) },
		Open: func(b *Backend) (driver.Conn, error) {
			var options struct {
				Pool int `json:"pool"`
			}
			if err := driver.DecodeStrict(b.Config().Options, &options); err != nil {
				return nil, errs.Invalid(errs.Field{Path: "options", Text: err.Error()})
			}
			if b.Spec.GetDriver() == "redis" && !strings.HasPrefix(b.Spec.GetUrl(), "redis") {
				return nil, errs.Invalid(errs.Field{Path: "url", Text: "write redis://HOST:PORT"})
			}
			return described{b, technologies(b)}, nil
		},
	}
}

func checkLease(settings json.RawMessage) error {
	var s struct {
		TTL driver.Duration `json:"ttl"`
	}
	if err := driver.DecodeStrict(settings, &s); err != nil {
		return err
	}
	if s.TTL < 0 {
		return errs.Invalid(errs.Field{Path: "settings.ttl", Text: "a lease lasts for some time; write 10s"})
	}
	return nil
}

// technologies returns the guarantees of a document's driver.
func technologies(b *Backend) driver.Guarantees {
	write := driver.Guarantees{
		Version: driver.WriteVersions, Clock: driver.ProxyClock, OrderedScan: true, ScanCost: driver.ScanPrefix,
		Idempotency: driver.IdempotencyAtomic, MaxValue: 4 << 20,
	}
	switch b.Spec.GetDriver() {
	case "memory":
		write.Ack.Why = "memory is gone with the process"
	case "sqlite", "postgres":
		write.Ack = driver.Ack{Process: true, OS: true, Why: "each commit is synced"}
	case "redis":
		write.Version, write.OrderedScan, write.ScanCost = driver.ContentVersions, false, driver.ScanKeyspace
		write.Ack.Why = "no append-only file is asserted"
		if b.Spec.GetAsserts().GetFields()["appendfsync"].GetStringValue() == "everysec" {
			write.Ack = driver.Ack{Settings: "appendfsync: everysec", Process: true, Why: "synced each second"}
		}
	}
	return write
}

// described is a connection to nothing.
type described struct {
	doc        *Backend
	guarantees driver.Guarantees
}

func (described) Ping(context.Context) error { return nil }
func (described) Close() error               { return nil }

func (d described) Space(s driver.Space) (driver.Backend, error) {
	if d.doc.Spec.GetDriver() == "blobs" {
		return driver.Backend{}, nil
	}
	var layout struct {
		Keys  string `json:"keys"`
		Table string `json:"table"`
	}
	if err := driver.DecodeStrict(s.Layout, &layout); err != nil {
		return driver.Backend{}, errs.Invalid(errs.Field{Path: "layout", Text: err.Error()})
	}
	b := driver.Backend{KV: describedKV{guarantees: d.guarantees}}
	b.Extent = driver.Extent{Prefix: s.Namespace + ":" + s.Pattern + ":"}
	b.Log = d.log()
	b.Queue = queueOf(d.doc.Spec.GetDriver(), d.guarantees.Ack)
	switch d.doc.Spec.GetDriver() {
	case "memory":
		b.PubSub = describedPubSub{guarantees: driver.PubSubGuarantees{Groups: true, MaxPayload: 4 << 20}}
	case "nats":
		b.PubSub = describedPubSub{guarantees: driver.PubSubGuarantees{Groups: true, MaxPayload: 1 << 20, Shared: true}}
	}
	switch {
	case layout.Keys != "":
		prefix, suffix, found := strings.Cut(layout.Keys, "{key}")
		if !found {
			return driver.Backend{}, errs.Invalid(errs.Field{Path: "layout.keys", Text: "write {key} where the key stands"})
		}
		b.Extent = driver.Extent{Prefix: prefix, Suffix: suffix}
	case layout.Table != "":
		b.Extent = driver.Extent{Container: "table " + layout.Table}
	}
	return b, nil
}

// describedKV answers what it promises, and nothing else.
type describedKV struct {
	driver.KV
	guarantees driver.Guarantees
}

func (k describedKV) Guarantees() driver.Guarantees { return k.guarantees }

// describedPubSub likewise.
type describedPubSub struct {
	driver.PubSub
	guarantees driver.PubSubGuarantees
}

func (p describedPubSub) Guarantees() driver.PubSubGuarantees { return p.guarantees }

// log returns what the driver keeps messages in, nil for none.
func (d described) log() driver.Log {
	g := driver.LogGuarantees{Dedup: true, MaxRecord: 4 << 20, Shared: true, Ack: d.guarantees.Ack}
	switch d.doc.Spec.GetDriver() {
	case "sqlite":
		g.Shared = false
	case "redis":
		g.Foreign, g.Dedup = true, false
	case "memory":
	default:
		return nil
	}
	return describedLog{guarantees: g}
}

// describedLog likewise.
type describedLog struct {
	driver.Log
	guarantees driver.LogGuarantees
}

func (l describedLog) Guarantees() driver.LogGuarantees { return l.guarantees }

// describedQueue likewise.
type describedQueue struct {
	driver.Queue
	guarantees driver.QueueGuarantees
}

func (q describedQueue) Guarantees() driver.QueueGuarantees { return q.guarantees }

// queueOf describes the queues of the technologies that have some.
func queueOf(name string, ack driver.Ack) driver.Queue {
	switch name {
	case "memory", "sqlite", "postgres":
		return describedQueue{guarantees: driver.QueueGuarantees{MaxTask: 4 << 20, Shared: name == "postgres", Ack: ack}}
	}
	return nil
}

func checkQueues(settings json.RawMessage) error {
	s := struct {
		Queues []map[string]any `json:"queues"`
	}{}
	if err := driver.DecodeStrict(settings, &s); err != nil {
		return err
	}
	if len(s.Queues) > 0 && s.Queues[0]["ack_wait"] == "1ms" {
		return errs.Invalid(errs.Field{Path: "settings.queues[0].ack_wait", Text: "must be 1s to 12h"})
	}
	return nil
}

func checkTopics(settings json.RawMessage) error {
	_, err := topic.Decode(settings)
	return err
}
