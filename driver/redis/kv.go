package redis

import (
	"context"
	"crypto/sha1" //nolint:gosec // the hash that scripts of Redis have
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/redis/rueidis"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// kv is one space.
type kv struct {
	link       *link
	layout     layout
	clustered  bool
	max        int // bytes of a value
	guarantees driver.Guarantees
}

var _ driver.KV = (*kv)(nil)

func (k *kv) Guarantees() driver.Guarantees { return k.guarantees }

// commandsPerRead returns how many commands read appends for one key: the
// expiry costs as much as the value.
func commandsPerRead(want driver.Want) int {
	if want == driver.WithExpiry {
		return 2
	}
	return 1
}

// read appends the commands that read the entry under name, and entry decodes
// their answers: the one place that decides what a read costs.
func read(cmds []rueidis.Completed, c rueidis.Client, name string, want driver.Want) []rueidis.Completed {
	cmds = append(cmds, c.B().Get().Key(name).Build())
	if want == driver.WithExpiry {
		cmds = append(cmds, c.B().Pexpiretime().Key(name).Build())
	}
	return cmds
}

func (k *kv) entry(ctx context.Context, answers []rueidis.RedisResult, want driver.Want) (driver.Entry, error) {
	e, err := k.value(ctx, answers[0])
	if err != nil || want != driver.WithExpiry {
		return e, err
	}
	expires, err := answers[1].AsInt64()
	if err != nil {
		return driver.Entry{}, k.link.fail(ctx, err, false)
	}
	if expires == -2 { // went between the two commands
		return driver.Entry{}, errs.KeyNotFound
	}
	e.Expires = expiry(expires)
	return e, nil
}

func (k *kv) value(ctx context.Context, answer rueidis.RedisResult) (driver.Entry, error) {
	value, err := answer.AsBytes()
	if err != nil {
		if rueidis.IsRedisNil(err) {
			return driver.Entry{}, errs.KeyNotFound
		}
		return driver.Entry{}, k.link.fail(ctx, err, false)
	}
	if value == nil {
		value = []byte{}
	}
	return driver.Entry{Value: value, Version: versionOf(value)}, nil
}

// expiry returns the time of an answer of PEXPIRETIME.
func expiry(ms int64) time.Time {
	if ms < 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// versionLength is how many hex digits of the SHA-1 are the version; the
// scripts know it too.
const versionLength = 32

func versionOf(value []byte) string {
	sum := sha1.Sum(value) //nolint:gosec // see the import
	var text [versionLength]byte
	hex.Encode(text[:], sum[:versionLength/2])
	return string(text[:])
}

func (k *kv) Get(ctx context.Context, key string, want driver.Want) (driver.Entry, error) {
	c, err := k.link.get(ctx)
	if err != nil {
		return driver.Entry{}, k.link.fail(ctx, err, false)
	}
	name := k.layout.readable(key)
	if want != driver.WithExpiry {
		return k.value(ctx, k.link.one(ctx, c, c.B().Get().Key(name).Build()))
	}
	cmds := read(make([]rueidis.Completed, 0, commandsPerRead(want)), c, name, want)
	return k.entry(ctx, k.link.many(ctx, c, cmds), want)
}

func (k *kv) GetMany(ctx context.Context, keys []string, want driver.Want, results []driver.GetResult) {
	if len(keys) == 0 {
		return
	}
	c, err := k.link.get(ctx)
	if err != nil {
		err = k.link.fail(ctx, err, false)
		for i := range results {
			results[i] = driver.GetResult{Err: err}
		}
		return
	}
	each := commandsPerRead(want)
	cmds := make([]rueidis.Completed, 0, each*len(keys))
	for _, key := range keys {
		cmds = read(cmds, c, k.layout.readable(key), want)
	}
	answers := k.link.many(ctx, c, cmds)
	for i := range results {
		e, err := k.entry(ctx, answers[each*i:], want)
		results[i] = driver.GetResult{Entry: e, Err: err}
	}
}

func (k *kv) Apply(ctx context.Context, ops []driver.Op, results []driver.Result) {
	if len(ops) == 0 {
		return
	}
	c, err := k.link.get(ctx)
	if err != nil {
		err = k.link.fail(ctx, err, true)
		for i := range results {
			results[i] = driver.Result{Err: err}
		}
		return
	}
	if len(ops) == 1 {
		results[0] = k.applyOne(ctx, c, &ops[0])
		return
	}
	k.applyMany(ctx, c, ops, results)
}

func (k *kv) applyOne(ctx context.Context, c rueidis.Client, op *driver.Op) driver.Result {
	call, err := k.plan(op)
	if err != nil {
		return driver.Result{Err: err}
	}
	if k.clustered && call.record != "" {
		return k.claimed(ctx, c, &call)
	}
	return k.finish(ctx, c, &call, k.link.one(ctx, c, call.command(c)))
}

// applyMany sends all operations in one round trip; those that need more get
// it afterwards.
func (k *kv) applyMany(ctx context.Context, c rueidis.Client, ops []driver.Op, results []driver.Result) {
	calls := make([]call, len(ops))
	together := make([]int, 0, len(ops)) // indexes of the operations of the round trip
	var claims []int                     // indexes of those that are carried out alone
	cmds := make([]rueidis.Completed, 0, len(ops))
	for i := range ops {
		var err error
		if calls[i], err = k.plan(&ops[i]); err != nil {
			results[i] = driver.Result{Err: err}
			continue
		}
		if k.clustered && calls[i].record != "" {
			claims = append(claims, i)
			continue
		}
		together = append(together, i)
		cmds = append(cmds, calls[i].command(c))
	}
	if len(cmds) > 0 {
		for n, answer := range k.link.many(ctx, c, cmds) {
			i := together[n]
			results[i] = k.finish(ctx, c, &calls[i], answer)
		}
	}
	for _, i := range claims {
		results[i] = k.claimed(ctx, c, &calls[i])
	}
}

// A call is one operation on its way to Redis.
type call struct {
	op      *driver.Op
	name    string // of the data
	record  string // of the once record; "" for none
	version string // of a Put's value
	value   string // a copy of a Put's value: a call that was left may still send it

	scripted bool
}

func (k *kv) plan(op *driver.Op) (call, error) {
	c := call{op: op, name: k.layout.name(op.Key)}
	if k.layout.hides(c.name) {
		return call{}, errs.New(errs.InvalidKey, "under this layout the key lies where Prism keeps its own records; choose another key")
	}
	switch op.Kind {
	case driver.Put:
		if len(op.Value) > k.max {
			return call{}, errs.TooLarge("value", len(op.Value), k.max)
		}
		c.version, c.value = versionOf(op.Value), string(op.Value)
	case driver.Delete, driver.Add, driver.Expire:
	default:
		return call{}, errs.New(errs.Internal, "operation of kind %d is none of KV", op.Kind)
	}
	if op.Once != nil {
		c.record = k.recordName(c.name, op.Once)
	}
	// A script is needed for all but the plain put of Prism's own keys.
	c.scripted = op.Kind != driver.Put || op.IfAbsent || op.IfVersion != "" || op.Once != nil || k.layout.adopted
	return c, nil
}

// milliseconds rounds up, so that nothing expires before its time.
func milliseconds(d time.Duration) int64 {
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}

func (c *call) command(client rueidis.Client) rueidis.Completed {
	switch {
	case c.scripted:
		return c.evalsha(client)
	case c.op.TTL > 0:
		return client.B().Set().Key(c.name).Value(c.value).PxMilliseconds(milliseconds(c.op.TTL)).Build()
	}
	return client.B().Set().Key(c.name).Value(c.value).Build()
}

// finish decodes the answer to a call's command, and takes the further steps
// that it asks for.
func (k *kv) finish(ctx context.Context, client rueidis.Client, c *call, answer rueidis.RedisResult) driver.Result {
	if !c.scripted {
		if err := answer.Error(); err != nil {
			return driver.Result{Err: k.link.fail(ctx, err, true)}
		}
		return driver.Result{Version: c.version}
	}
	for {
		if e, ok := rueidis.IsRedisErr(answer.Error()); ok && e.IsNoScript() {
			answer = k.link.one(ctx, client, c.eval(client))
		}
		parts, err := answer.AsStrSlice()
		if err != nil || len(parts) == 0 {
			return driver.Result{Err: k.link.fail(ctx, err, true)}
		}
		if parts[0] != "big" {
			return outcome(c.op.Kind, parts)
		}
		r, err := k.applyBig(ctx, client, c)
		if err == nil {
			return r
		}
		if !errors.Is(err, errConflict) {
			return driver.Result{Err: err}
		}
		answer = k.link.one(ctx, client, c.evalsha(client))
	}
}

// outcome turns what the script answers into a result.
func outcome(kind driver.OpKind, parts []string) driver.Result {
	switch parts[0] {
	case "ok":
		return success(kind, parts[1:], false)
	case "repeated":
		return success(kind, strings.Split(parts[1], "\n"), true)
	}
	return driver.Result{Err: refusal(parts)}
}

func refusal(parts []string) error {
	switch parts[0] {
	case "exists":
		return errs.New(errs.AlreadyExists, "the key exists already").With("version", parts[1])
	case "changed":
		e := errs.New(errs.VersionMismatch, "the key does not have this version; read it again and decide anew")
		if parts[1] != "" {
			e = e.With("current", parts[1])
		}
		return e
	case "absent":
		return errs.KeyNotFound
	case "type":
		return errs.WrongType
	case "nan":
		return errs.NotANumber
	case "range":
		return errs.OutOfRange
	case "mismatch":
		return errs.IdempotencyMismatch
	}
	return errs.New(errs.Internal, "the script answered something unknown")
}

// success reads version, number and expiry from the three texts of a script or
// a record.
func success(kind driver.OpKind, texts []string, repeated bool) driver.Result {
	r := driver.Result{Repeated: repeated}
	if len(texts) != 3 {
		return driver.Result{Err: errs.New(errs.Internal, "the record of an earlier operation is damaged")}
	}
	if kind != driver.Delete {
		r.Version = texts[0]
	}
	if kind == driver.Add {
		n, err := strconv.ParseInt(texts[1], 10, 64)
		if err != nil {
			return driver.Result{Err: errs.New(errs.Internal, "the sum that Redis answered is no number")}
		}
		r.Number = n
	}
	if ms, err := strconv.ParseInt(texts[2], 10, 64); err == nil {
		r.Expires = expiry(ms)
	}
	return r
}

// valid reports whether a key may be one of KV at all: adopted data can hold
// others, which nobody could ask for.
func valid(key string) bool {
	return key != "" && len(key) <= driver.MaxKey && utf8.ValidString(key) && strings.IndexByte(key, 0) < 0
}
