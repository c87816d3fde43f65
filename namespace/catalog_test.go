package namespace

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/secret"
)

// testCatalog describes a few technologies as their documentation does. What
// is tested is which of them is chosen, so there is nothing behind them.
func testCatalog() Catalog {
	return Catalog{
		Drivers:     []string{"memory", "sqlite", "redis", "postgres", "blobs"},
		Credentials: secret.Check,
		Kinds: []Kind{
			{Name: "keyvalue", Slots: []SlotNeed{{Name: "store-kv", Primitive: PrimitiveKV}}},
			{Name: "lease", Slots: []SlotNeed{{Name: "lock-kv", Primitive: PrimitiveKV, Versions: driver.WriteVersions}}, CheckSettings: checkLease},
		},
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
