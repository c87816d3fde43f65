// Package keyvalue is the KeyValue pattern: values under keys with versions,
// conditions, time to live, counters and scans, on any backend that has the
// primitive driver.KV. The semantics are here; service.go translates the wire
// contract, pipeline.go, answers.go and ending.go serve many operations on one
// stream, http.go is the same over HTTP.
package keyvalue

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
)

// Limits of the pattern, as documented.
const (
	maxValue      = 4 << 20
	maxBatchItems = 1000
	maxBatchBytes = 4 << 20
	maxPageKeys   = 1000
	maxPageBytes  = 1 << 20
	onceTTL       = 10 * time.Minute
	maxOnceKey    = 256

	// pageTimeout bounds one page of a scan; the scan itself lives as long as
	// its client wants.
	pageTimeout = 10 * time.Second
)

// slot is the one slot of the pattern.
const slot = "store-kv"

// Kind returns the pattern's row for the table of patterns.
func Kind() pattern.Kind {
	desc := keyvaluev1.KeyValue_ServiceDesc
	return pattern.Kind{
		Name:    "keyvalue",
		Slots:   []pattern.Slot{{Name: slot, Primitive: "kv"}},
		Service: &desc,
		Streams: map[string]pattern.StreamFunc{"Pipeline": servePipeline},
		Item:    "key",
		Routes:  routes(),
		Check: func(raw json.RawMessage) error {
			_, err := decodeSettings(raw)
			return err
		},
		Open: func(c pattern.Config) (pattern.Instance, error) { return open(c) },
	}
}

// store is the pattern of one namespace. Of its methods on the wire only
// Pipeline is not here: it outlives a configuration (Kind.Streams).
type store struct {
	keyvaluev1.UnimplementedKeyValueServer

	kv         driver.KV
	guarantees driver.Guarantees
	maxValue   int
	defaultTTL time.Duration
	cursors    cursors
	sizes      sizes
}

var _ keyvaluev1.KeyValueServer = (*store)(nil)

func open(c pattern.Config) (*store, error) {
	set, err := decodeSettings(c.Settings)
	if err != nil {
		return nil, err
	}
	filled := c.Slots[slot]
	if filled.KV == nil {
		return nil, errs.New(errs.InvalidConfiguration, "slot %s needs a backend with the primitive kv", slot)
	}
	now := c.Now
	if now == nil {
		now = time.Now
	}
	s := &store{kv: filled.KV, guarantees: filled.KV.Guarantees(), defaultTTL: time.Duration(set.DefaultTTL)}
	if s.defaultTTL > 0 && !s.guarantees.TTL {
		return nil, errs.Invalid(errs.Field{Path: "settings.default_ttl", Text: "cannot be given here: the backend keeps no expiry in this layout"})
	}
	s.maxValue = min(maxValue, s.guarantees.MaxValue)
	s.cursors = newCursors(c.Namespace, c.Name, filled.ID, now)
	return s, nil
}

// get reads one key.
func (s *store) get(ctx context.Context, key string, want driver.Want) (driver.Entry, error) {
	if err := checkKey(key); err != nil {
		return driver.Entry{}, err
	}
	return s.kv.Get(ctx, key, want)
}

// single lets a lone operation use the batch interface without allocating.
type single struct {
	op  [1]driver.Op
	res [1]driver.Result
}

var singles = sync.Pool{New: func() any { return new(single) }}

// apply carries out one operation that has been checked.
func (s *store) apply(ctx context.Context, op driver.Op) (driver.Result, error) {
	one := singles.Get().(*single) //nolint:errcheck,forcetypeassert // the pool holds nothing else
	one.op[0] = op
	s.kv.Apply(ctx, one.op[:], one.res[:])
	res := one.res[0]
	*one = single{}
	singles.Put(one)
	return res, res.Err
}

// once returns the identity under which an operation takes effect only once,
// nil if the caller asked for none. The identity is bound to who calls, the
// method and the item's place in a batch; the digest is the request's.
func (s *store) once(call *pattern.Call, method string, index int, request func() []byte) (*driver.Once, error) {
	if call.IdempotencyKey == "" {
		return nil, nil //nolint:nilnil // nothing asked, nothing given
	}
	if len(call.IdempotencyKey) > maxOnceKey {
		return nil, errs.Invalid(errs.Field{Path: "idempotency-key", Text: fmt.Sprintf("at most %d bytes", maxOnceKey)})
	}
	token := sha256.Sum256(fmt.Appendf(nil, "%d %s%d %s%s\x00%d",
		len(call.Subject), call.Subject, len(call.IdempotencyKey), call.IdempotencyKey, method, index))
	digest := sha256.Sum256(request())
	return &driver.Once{Token: [16]byte(token[:]), Digest: [16]byte(digest[:]), TTL: onceTTL}, nil
}

// checkKey says whether a key is one.
func checkKey(key string) error {
	if len(key) == 0 || len(key) > driver.MaxKey || !utf8.ValidString(key) || strings.IndexByte(key, 0) >= 0 {
		return badKey(key)
	}
	return nil
}

func badKey(key string) error {
	switch {
	case key == "":
		return errs.New(errs.InvalidKey, "the key is empty; a key is 1 to 1,024 bytes of UTF-8 without NUL")
	case len(key) > driver.MaxKey:
		return errs.New(errs.InvalidKey, "the key has %d bytes; a key has at most %d", len(key), driver.MaxKey).
			With("limit", fmt.Sprint(driver.MaxKey))
	case !utf8.ValidString(key):
		return errs.New(errs.InvalidKey, "the key is not valid UTF-8; encode binary keys, for example as base64url")
	}
	return errs.New(errs.InvalidKey, "the key has a NUL byte; a key is 1 to 1,024 bytes of UTF-8 without NUL")
}

// checkTTL says whether a time to live that was given is one.
func checkTTL(ttl time.Duration) (errs.Field, bool) {
	switch {
	case ttl <= 0:
		return errs.Field{Path: "ttl", Text: "must be positive; leave it out for a key that never expires"}, false
	case ttl < driver.MinTTL:
		return errs.Field{Path: "ttl", Text: "must be at least 1ms"}, false
	case ttl > driver.MaxTTL:
		return errs.Field{Path: "ttl", Text: "must be at most 10 years (87600h)"}, false
	}
	return errs.Field{}, true
}
