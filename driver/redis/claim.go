package redis

import (
	"context"
	"encoding/hex"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

const (
	claimLease = 5 * time.Second // how long an unfinished claim is respected
	claimPoll  = 20 * time.Millisecond
)

// A claim says, in a Cluster, which request a token belongs to: there a record
// lies beside its data, so records alone would not keep a token from being
// used on two keys. The claim lies under a key of its own, is made before the
// operation, marked done after it, and removed if the operation did nothing.
// One whose maker went away is removed after claimLease if it left no record.
type claim struct {
	kv     *kv
	client rueidis.Client
	call   *call
	key    string
	text   claimText
}

// claimText is what lies under a claim's key.
type claimText struct {
	done   bool
	life   int64  // ms from the making to the expiry
	digest string // of the request
	record string // where its record is, once it has taken effect
}

func (c claimText) String() string {
	state := "busy"
	if c.done {
		state = "done"
	}
	return strings.Join([]string{state, strconv.FormatInt(c.life, 10), c.digest, c.record}, "\n")
}

func parseClaim(text string) (c claimText, ok bool) {
	parts := strings.SplitN(text, "\n", 4)
	if len(parts) != 4 {
		return c, false
	}
	life, err := strconv.ParseInt(parts[1], 10, 64)
	return claimText{done: parts[0] == "done", life: life, digest: parts[2], record: parts[3]}, err == nil
}

// claimed carries out an operation under its token's claim.
func (k *kv) claimed(ctx context.Context, client rueidis.Client, c *call) driver.Result {
	o := c.op.Once
	m := claim{
		kv: k, client: client, call: c,
		key:  oncePrefix + "token:" + k.layout.space + hex.EncodeToString(o.Token[:]),
		text: claimText{life: milliseconds(o.TTL + claimLease), digest: digestOf(o), record: c.record},
	}
	earlier, err := m.take(ctx)
	if err != nil {
		return driver.Result{Err: err}
	}
	if earlier != nil {
		return *earlier
	}
	r := k.finish(ctx, client, c, k.link.one(ctx, client, c.command(client)))
	switch errs.ReasonOf(r.Err) {
	case errs.Unknown:
		m.settle(ctx)
	case errs.OutcomeUnknown, errs.Deadline, errs.Cancelled:
	default:
		m.remove(ctx, m.text)
	}
	return r
}

// take makes the claim, or finds it made for the same data by this request
// before. Where the token was used on other data, it returns what came of it;
// while that is undecided, it waits.
func (m *claim) take(ctx context.Context) (earlier *driver.Result, err error) {
	for {
		set := m.client.B().Set().Key(m.key).Value(m.text.String()).Nx().Get().PxMilliseconds(m.text.life).Build()
		held, err := m.kv.link.one(ctx, m.client, set).ToString()
		if rueidis.IsRedisNil(err) {
			return nil, nil //nolint:nilnil // nothing came earlier
		}
		if err != nil {
			return nil, m.kv.link.fail(ctx, err, false)
		}
		other, ok := parseClaim(held)
		if !ok {
			return nil, errs.New(errs.Internal, "the claim of an idempotency token is damaged")
		}
		if other.digest == m.text.digest && other.record == m.text.record {
			return nil, nil //nolint:nilnil // the script finds the record
		}
		if earlier, err := m.look(ctx, other); earlier != nil || err != nil {
			return earlier, err
		}
	}
}

// look deals with a claim for other data: what it has recorded is the answer,
// or shows a mismatch; one without a record is removed if it is done or old,
// and gets time if it is young.
func (m *claim) look(ctx context.Context, other claimText) (*driver.Result, error) {
	b, link := m.client.B(), m.kv.link
	answers := link.many(ctx, m.client, []rueidis.Completed{b.Pttl().Key(m.key).Build(), b.Get().Key(other.record).Build()})
	left, err := answers[0].AsInt64()
	if err != nil {
		return nil, link.fail(ctx, err, false)
	}
	text, err := answers[1].ToString()
	if err == nil {
		return recorded(m.call, text)
	}
	if !rueidis.IsRedisNil(err) {
		return nil, link.fail(ctx, err, false)
	}
	if left < 0 || other.done || other.life-left > claimLease.Milliseconds() {
		m.remove(ctx, other)
		return nil, nil //nolint:nilnil // nothing came of it
	}
	select {
	case <-time.After(claimPoll):
		return nil, nil //nolint:nilnil // look again
	case <-ctx.Done():
		return nil, link.fail(ctx, ctx.Err(), false)
	}
}

// settle marks the claim done. If that fails, the record still stands for it.
func (m *claim) settle(ctx context.Context) {
	done := m.text
	done.done = true
	life := milliseconds(m.call.op.Once.TTL)
	_ = m.kv.link.one(ctx, m.client, m.client.B().Set().Key(m.key).Value(done.String()).PxMilliseconds(life).Build()).Error()
}

// remove removes a claim if it still is what it was. If that fails, it gets
// old.
func (m *claim) remove(ctx context.Context, c claimText) {
	const script = `if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0`
	_ = m.kv.link.one(ctx, m.client, m.client.B().Eval().Script(script).Numkeys(1).Key(m.key).Arg(c.String()).Build()).Error()
}
