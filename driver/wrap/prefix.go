// Package wrap holds the decorators of primitives: each takes one, returns the
// same and changes one thing about it. It knows no technology.
package wrap

import (
	"context"
	"crypto/sha256"
	"strings"

	"github.com/prismgw/prism/driver"
)

// KeyPrefix returns the prefix under which a technology with flat keys keeps a
// space: "<namespace>:<pattern>:", every byte of the two names other than
// A-Z a-z 0-9 - _ . written as %XX. No two spaces have the same prefix and none
// is the beginning of another one, whatever the names are. It holds no
// character with a meaning in globs, hash tags or SQL patterns except _ and %.
func KeyPrefix(s driver.Space) string {
	var b strings.Builder
	b.Grow(len(s.Namespace) + len(s.Pattern) + 2)
	escape(&b, s.Namespace)
	b.WriteByte(':')
	escape(&b, s.Pattern)
	b.WriteByte(':')
	return b.String()
}

func escape(b *strings.Builder, name string) {
	const hex = "0123456789ABCDEF"
	for i := range len(name) {
		c := name[i]
		if plain(c) {
			b.WriteByte(c)
			continue
		}
		b.Write([]byte{'%', hex[c>>4], hex[c&15]})
	}
}

func plain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '-' || c == '_' || c == '.'
}

// Prefix returns the part of a flat kv in which every key begins with prefix,
// under keys without it. Tokens of Op.Once are kept apart in the same way. kv
// has to take keys that are longer than driver.MaxKey by len(prefix).
func Prefix(kv driver.KV, prefix string) driver.KV {
	return &prefixed{KV: kv, prefix: prefix}
}

type prefixed struct {
	driver.KV
	prefix string
}

func (p *prefixed) Get(ctx context.Context, key string, want driver.Want) (driver.Entry, error) {
	return p.KV.Get(ctx, p.prefix+key, want)
}

func (p *prefixed) GetMany(ctx context.Context, keys []string, want driver.Want, results []driver.GetResult) {
	full := make([]string, len(keys))
	for i, key := range keys {
		full[i] = p.prefix + key
	}
	p.KV.GetMany(ctx, full, want, results)
}

func (p *prefixed) Apply(ctx context.Context, ops []driver.Op, results []driver.Result) {
	full := make([]driver.Op, len(ops))
	for i, op := range ops {
		op.Key = p.prefix + op.Key
		op.Once = p.once(op.Once)
		full[i] = op
	}
	p.KV.Apply(ctx, full, results)
}

// once returns o under a token of this prefix alone.
func (p *prefixed) once(o *driver.Once) *driver.Once {
	if o == nil {
		return nil
	}
	h := sha256.New()
	h.Write(o.Token[:])
	h.Write([]byte(p.prefix))
	own := *o
	copy(own.Token[:], h.Sum(nil))
	return &own
}

func (p *prefixed) Scan(ctx context.Context, r driver.ScanRequest) (driver.Page, error) {
	r.Prefix = p.prefix + r.Prefix
	page, err := p.KV.Scan(ctx, r)
	for i := range page.Items {
		page.Items[i].Key = strings.TrimPrefix(page.Items[i].Key, p.prefix)
	}
	return page, err
}

// PrefixWatcher returns the part of a flat watcher that belongs to Prefix of
// the same prefix.
func PrefixWatcher(w driver.Watcher, prefix string) driver.Watcher {
	return &prefixedWatcher{watcher: w, prefix: prefix}
}

type prefixedWatcher struct {
	watcher driver.Watcher
	prefix  string
}

func (p *prefixedWatcher) Watch(ctx context.Context, prefix string) (driver.Watch, error) {
	w, err := p.watcher.Watch(ctx, p.prefix+prefix)
	if err != nil {
		return nil, err
	}
	return &prefixedWatch{Watch: w, prefix: p.prefix}, nil
}

type prefixedWatch struct {
	driver.Watch
	prefix string
}

func (p *prefixedWatch) Next(ctx context.Context) (driver.Change, error) {
	change, err := p.Watch.Next(ctx)
	for i, key := range change.Keys {
		change.Keys[i] = strings.TrimPrefix(key, p.prefix)
	}
	return change, err
}
