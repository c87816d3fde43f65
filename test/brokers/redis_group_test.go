package brokers

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prismgw/prism/internal/testutil/servers"
)

// Every entry goes to the member that asks first, as many as it asks for:
// neighbours are in two hands at once, and nothing limits how many are.
func TestRedisMembersShareAStream(t *testing.T) {
	t.Parallel()
	s := newRedisStream(t, servers.Redis(t))
	s.add(t, 1, 6)
	for _, next := range []struct{ member, want string }{{"a", "[1-0 2-0]"}, {"b", "[3-0 4-0]"}, {"a", "[5-0 6-0]"}, {"b", "[]"}} {
		if got := fmt.Sprint(s.read(t, next.member, 2)); got != next.want {
			t.Errorf("%s gets %s, want %s", next.member, got, next.want)
		}
	}
	s.is(t, "XACK KEY g 3-0 1-0", "2")
	s.wantPending(t, "2-0 a#1, 4-0 b#1, 5-0 a#1, 6-0 a#1")
}

// What a dead member had in hand stays its own until somebody claims it; the
// server does nothing by itself. A claim by idle time takes it in the log's
// order and counts a delivery; with JUSTID it does not.
func TestRedisClaimFromTheDead(t *testing.T) {
	t.Parallel()
	const idle = time.Second
	s := newRedisStream(t, servers.Redis(t))
	s.add(t, 1, 4)
	began := time.Now()
	s.read(t, "dead", 3)

	claim := fmt.Sprintf("XAUTOCLAIM KEY g b %d 0 COUNT 10 JUSTID", idle.Milliseconds())
	s.is(t, claim, "[0-0 [] []]")
	if got := s.read(t, "b", 9); !slices.Equal(got, []string{"4-0"}) {
		t.Errorf("b reads %v, want 4-0: newer ones overtake what the dead one has", got)
	}
	eventually(t, "they have been idle for long enough", func() bool { return strings.Contains(s.must(t, claim), "1-0 2-0 3-0") })
	if waited := time.Since(began); waited < idle {
		t.Errorf("claimed after %v, want %v", waited, idle)
	}
	s.wantPending(t, "1-0 b#1, 2-0 b#1, 3-0 b#1, 4-0 b#1")
	s.is(t, "XAUTOCLAIM KEY g c 0 0 COUNT 1", "[2-0 [[1-0 [m 1]]] []]")
	s.wantPending(t, "1-0 c#2, 2-0 b#1, 3-0 b#1, 4-0 b#1")
}

// Reading its own history again gives a member what it has in hand, and counts.
func TestRedisOwnHistoryCounts(t *testing.T) {
	t.Parallel()
	s := newRedisStream(t, servers.Redis(t))
	s.add(t, 1, 1)
	s.read(t, "a", 1)
	s.must(t, "XREADGROUP GROUP g a STREAMS KEY 0")
	s.wantPending(t, "1-0 a#2")
}

// Removing a member forgets what it had in hand: the group never gets it again.
func TestRedisRemovedMemberLoses(t *testing.T) {
	t.Parallel()
	s := newRedisStream(t, servers.Redis(t))
	s.add(t, 1, 3)
	s.read(t, "a", 2)
	s.is(t, "XGROUP DELCONSUMER KEY g a", "2")
	if got := s.read(t, "b", 9); !slices.Equal(got, []string{"3-0"}) {
		t.Errorf("b reads %v, want 3-0 only", got)
	}
	s.wantPending(t, "3-0 b#1")
}

// A claim can say how long an entry has been idle and how often it was
// delivered, so a member can give back at once and uncounted. It goes to the
// end of no queue: whoever claims next gets the oldest first.
func TestRedisGiveBackUncounted(t *testing.T) {
	t.Parallel()
	const idle = time.Minute
	s := newRedisStream(t, servers.Redis(t))
	s.add(t, 1, 3)
	s.read(t, "a", 3)

	s.is(t, fmt.Sprintf("XCLAIM KEY g nobody 0 1-0 2-0 IDLE %d RETRYCOUNT 0 JUSTID", idle.Milliseconds()), "[1-0 2-0]")
	s.wantPending(t, "1-0 nobody#0, 2-0 nobody#0, 3-0 a#1")
	s.is(t, fmt.Sprintf("XAUTOCLAIM KEY g b %d 0", idle.Milliseconds()), "[0-0 [[1-0 [m 1]] [2-0 [m 2]]] []]")
	s.wantPending(t, "1-0 b#1, 2-0 b#1, 3-0 a#1")
}

// Idle time cannot be put off into the future, so a redelivery can be delayed
// up to the idle time after which the dead are taken over, and no longer.
func TestRedisDelayIsBelowTheIdleTime(t *testing.T) {
	t.Parallel()
	const takeover, delay = 10 * time.Second, time.Second
	s := newRedisStream(t, servers.Redis(t))
	s.add(t, 1, 1)
	s.read(t, "a", 1)

	began := time.Now()
	s.must(t, fmt.Sprintf("XCLAIM KEY g nobody 0 1-0 IDLE %d RETRYCOUNT 1 JUSTID", (takeover-delay).Milliseconds()))
	claim := fmt.Sprintf("XAUTOCLAIM KEY g b %d 0 JUSTID", takeover.Milliseconds())
	s.is(t, claim, "[0-0 [] []]")
	eventually(t, "the delay is over", func() bool { return s.must(t, claim) == "[0-0 [1-0] []]" })
	if waited := time.Since(began); waited < delay-time.Millisecond || waited > takeover {
		t.Errorf("claimed after %v, want %v", waited, delay)
	}

	// Each way to name a time in the future makes it now.
	for _, future := range []string{"IDLE -600000", fmt.Sprintf("TIME %d", time.Now().Add(time.Hour).UnixMilli())} {
		s.must(t, "XCLAIM KEY g nobody 0 1-0 "+future+" JUSTID")
		eventually(t, "idle time runs from now on", func() bool { return s.must(t, "XPENDING KEY g IDLE 20 - + 1 nobody") != "[]" })
	}
}

// XACK names the entry and no member: who has lost an entry settles it under
// the hands of who has it now.
func TestRedisStaleReceiptSettles(t *testing.T) {
	t.Parallel()
	s := newRedisStream(t, servers.Redis(t))
	s.add(t, 1, 1)
	s.read(t, "a", 1)
	s.must(t, "XCLAIM KEY g b 0 1-0")
	s.is(t, "XACK KEY g 1-0", "1")
	s.wantPending(t, "")
	s.is(t, "XACK KEY g 1-0", "0")
}

// settleIfMine settles an entry if it is still this delivery to this member:
// "settled", "stale", or "gone" where nobody has it in hand.
const settleIfMine = `
local p = redis.call('XPENDING', KEYS[1], 'g', ARGV[1], ARGV[1], 1)[1]
if not p then return 'gone' end
if p[2] ~= ARGV[2] or p[4] ~= tonumber(ARGV[3]) then return 'stale' end
redis.call('XACK', KEYS[1], 'g', ARGV[1])
return 'settled'`

func (s *redisStream) settleIfMine(t *testing.T, id, member string, delivery int) string {
	t.Helper()
	got, err := s.args(t.Context(), "EVAL", settleIfMine, "1", s.key, id, member, fmt.Sprint(delivery))
	if err != nil {
		t.Error(err)
	}
	return got
}

// A script guards settlements: member and number of the delivery are the
// receipt. What it cannot say is whose settlement it was when none has it in hand.
func TestRedisGuardedReceipt(t *testing.T) {
	t.Parallel()
	s := newRedisStream(t, servers.Redis(t))
	s.add(t, 1, 1)
	s.read(t, "a", 1)
	s.must(t, "XCLAIM KEY g b 0 1-0")
	s.must(t, "XCLAIM KEY g b 0 1-0")
	for _, try := range []struct {
		member   string
		delivery int
		want     string
	}{{"a", 1, "stale"}, {"b", 2, "stale"}, {"b", 3, "settled"}, {"b", 3, "gone"}, {"a", 1, "gone"}} {
		if got := s.settleIfMine(t, "1-0", try.member, try.delivery); got != try.want {
			t.Errorf("delivery %d to %s: %s, want %s", try.delivery, try.member, got, try.want)
		}
	}
}

// Given back uncounted and taken by the same member, a delivery has the number
// of the one before: member and number are no receipt then, unless members
// change their name.
func TestRedisUncountedReceiptRepeats(t *testing.T) {
	t.Parallel()
	s := newRedisStream(t, servers.Redis(t))
	s.add(t, 1, 1)
	s.read(t, "a", 1)
	s.must(t, "XCLAIM KEY g nobody 0 1-0 RETRYCOUNT 0 JUSTID")
	s.must(t, "XCLAIM KEY g a 0 1-0")
	s.wantPending(t, "1-0 a#1")
	if got := s.settleIfMine(t, "1-0", "a", 1); got != "settled" {
		t.Errorf("the receipt of the first delivery: %s, want settled, by mistake", got)
	}
}

// claim takes an entry, whoever has it, and returns the number of the delivery.
const claim = `
if #redis.call('XCLAIM', KEYS[1], 'g', ARGV[2], 0, ARGV[1]) == 0 then return 'gone' end
return redis.call('XPENDING', KEYS[1], 'g', ARGV[1], ARGV[1], 1)[1][4]`

// While members take entries from each other, each entry is settled once, by
// who had it last.
func TestRedisGuardedReceiptUnderRaces(t *testing.T) {
	t.Parallel()
	const entries, members = 100, 4
	s := newRedisStream(t, servers.RedisWith(t))
	s.add(t, 1, entries)
	ids := s.read(t, "nobody", entries)
	var settled, stale atomic.Int64
	take := func(id, member string) (gone bool) {
		delivery, err := s.args(t.Context(), "EVAL", claim, "1", s.key, id, member)
		if err != nil || delivery == "gone" {
			return true
		}
		n, _ := strconv.Atoi(delivery) // no number is no delivery
		switch s.settleIfMine(t, id, member, n) {
		case "settled":
			settled.Add(1)
		case "stale":
			stale.Add(1)
		}
		return false
	}
	var wg sync.WaitGroup
	for m := range members {
		wg.Go(func() {
			for _, id := range ids {
				for !take(id, fmt.Sprintf("m%d", m)) {
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d settled, %d refused as stale", settled.Load(), stale.Load())
	if settled.Load() != entries || s.pending(t) != "" {
		t.Errorf("%d settled, in hand: %s; want each of %d once", settled.Load(), s.pending(t), entries)
	}
}

// readIfLeased reads for the holder of a partition's lease, and for nobody else.
const readIfLeased = `
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 'no lease' end
return redis.call('XREADGROUP', 'GROUP', 'g', ARGV[1], 'COUNT', 1, 'STREAMS', KEYS[1], '>')`

// Redis has no pinned member. A key with a time to live beside the stream is a
// lease, and a script that reads it together with the stream fences whoever has
// lost it; the next one takes over when the time is over.
func TestRedisLease(t *testing.T) {
	t.Parallel()
	const ttl = time.Second
	s := newRedisStream(t, servers.Redis(t))
	s.add(t, 1, 3)
	lease := func(member string) bool {
		return s.must(t, fmt.Sprintf("SET KEY.lease %s NX PX %d", member, ttl.Milliseconds())) == "OK"
	}
	read := func(member string) string {
		got, err := s.args(t.Context(), "EVAL", readIfLeased, "2", s.key, s.key+".lease", member)
		must(t, err)
		return strings.ReplaceAll(got, s.key, "KEY")
	}
	began := time.Now()
	if !lease("a") || lease("b") {
		t.Fatal("a has no lease, or b has one too")
	}
	if got := read("a"); got != "[[KEY [[1-0 [m 1]]]]]" {
		t.Errorf("a reads %s", got)
	}
	if got := read("b"); got != "no lease" {
		t.Errorf("b reads %s", got)
	}
	eventually(t, "b takes over", func() bool { return lease("b") })
	if waited := time.Since(began); waited < ttl {
		t.Errorf("b took over after %v, want %v", waited, ttl)
	}
	if got := read("a"); got != "no lease" {
		t.Errorf("a reads %s after it has lost the lease", got)
	}
	s.is(t, "XCLAIM KEY g b 0 1-0", "[[1-0 [m 1]]]") // first what the dead one had
	if got := read("b"); got != "[[KEY [[2-0 [m 2]]]]]" {
		t.Errorf("b reads %s", got)
	}
}
