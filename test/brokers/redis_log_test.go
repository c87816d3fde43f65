package brokers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/prismgw/prism/internal/testutil/faultproxy"
	"github.com/prismgw/prism/internal/testutil/servers"
)

// Trimming deletes what a group has not read and what its members have in hand.
// The lag goes on counting what was deleted unread, also when the group has read
// everything: that remainder is the number of entries it has lost. What is in
// hand and deleted is told by the claim that finds it.
func TestRedisTrimDeletesUnread(t *testing.T) {
	t.Parallel()
	s := newRedisStream(t, servers.Redis(t))
	s.add(t, 1, 10)
	s.read(t, "a", 3)
	s.is(t, "XACK KEY g 1-0", "1")
	s.is(t, "XTRIM KEY MAXLEN = 4", "6") // of these 4-0, 5-0 and 6-0 are unread

	if lag := s.info(t, "g", "lag"); lag != 7 {
		t.Errorf("lag %d, want 7: what was deleted is still in it", lag)
	}
	s.wantPending(t, "2-0 a#1, 3-0 a#1")
	s.is(t, "XAUTOCLAIM KEY g b 0 0", "[0-0 [] [2-0 3-0]]")
	s.wantPending(t, "")
	if got := s.read(t, "b", 9); len(got) != 4 || got[0] != "7-0" {
		t.Errorf("b reads %v, want 7-0 to 10-0", got)
	}
	added, read, lag := s.info(t, "", "entries-added"), s.info(t, "g", "entries-read"), s.info(t, "g", "lag")
	if added != 10 || read != 7 || lag != 3 {
		t.Errorf("added %d, read %d, lag %d; want 10, 7, and for good the 3 that are lost", added, read, lag)
	}
}

// The cheap form of trimming, with ~, deletes whole nodes of 100 entries only.
func TestRedisCheapTrimKeepsMore(t *testing.T) {
	t.Parallel()
	s := newRedisStream(t, servers.RedisWith(t))
	s.add(t, 1, 250)
	s.is(t, "XTRIM KEY MAXLEN ~ 10", "200")
	s.is(t, "XTRIM KEY MINID ~ 240-0", "0")
	s.is(t, "XTRIM KEY MINID 240-0", "39")
	s.is(t, "XLEN KEY", "11")
}

// No trimming goes by size; Redis tells how much memory a stream takes, from
// which a number of entries to keep can be reckoned.
func TestRedisSizeIsTold(t *testing.T) {
	t.Parallel()
	const entries, size = 200, 4096
	s := newRedisStream(t, servers.RedisWith(t))
	for range entries {
		s.must(t, "XADD KEY * m "+strings.Repeat("x", size))
	}
	used := func() int {
		n, err := strconv.Atoi(s.must(t, "MEMORY USAGE KEY SAMPLES 0"))
		must(t, err)
		return n
	}
	whole := used()
	s.must(t, fmt.Sprintf("XTRIM KEY MAXLEN %d", entries/4))
	if part := used(); whole < entries*size || whole > 2*entries*size || part < whole/8 || part > whole/2 {
		t.Errorf("%d bytes, and %d after three quarters are deleted; want %d to twice that, and a quarter", whole, part, entries*size)
	}
	if _, err := s.do(t, "XTRIM KEY MAXBYTES 1000"); err == nil {
		t.Error("a limit in bytes is taken")
	}
}

// untilConsumed trims up to the oldest entry that a group has yet to settle.
const untilConsumed = `
local least
for _, g in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local last, oldest = g[8], redis.call('XPENDING', KEYS[1], g[2])[2]
  local ms, n = string.match(last, '(%d+)-(%d+)')
  local from = oldest or (ms .. '-' .. (n + 1))
  local fms, fn = string.match(from, '(%d+)-(%d+)')
  if not least or tonumber(fms) < least[1] or (tonumber(fms) == least[1] and tonumber(fn) < least[2]) then
    least = {tonumber(fms), tonumber(fn), from}
  end
end
return least and redis.call('XTRIM', KEYS[1], 'MINID', '=', least[3]) or 0`

// Redis keeps nothing for its groups, but a script can trim what all of them
// have settled. A group made later gets only what is left.
func TestRedisRetainUntilConsumed(t *testing.T) {
	t.Parallel()
	s := newRedisStream(t, servers.Redis(t))
	s.must(t, "XGROUP CREATE KEY slow 0")
	s.add(t, 1, 5)
	trim := func() string {
		got, err := s.args(t.Context(), "EVAL", untilConsumed, "1", s.key)
		must(t, err)
		return got
	}
	s.read(t, "a", 5)
	s.must(t, "XACK KEY g 1-0 2-0 4-0 5-0")
	if got := trim(); got != "0" {
		t.Errorf("%s deleted while a group has read nothing", got)
	}
	s.must(t, "XREADGROUP GROUP slow a COUNT 4 STREAMS KEY >")
	s.must(t, "XACK KEY slow 1-0 2-0 3-0 4-0")
	if got := trim(); got != "2" {
		t.Errorf("%s deleted, want 1-0 and 2-0: 3-0 is in hand", got)
	}
	s.must(t, "XGROUP CREATE KEY late 0")
	s.is(t, "XREADGROUP GROUP late a COUNT 1 STREAMS KEY >", "[[[3-0 [m 3]]]]")
}

// The lag of a group is exact until an entry behind its position is deleted by
// itself; then, and for a group that starts in the middle, Redis does not know
// it, until the group has read to the end.
func TestRedisLag(t *testing.T) {
	t.Parallel()
	s := newRedisStream(t, servers.Redis(t))
	s.add(t, 1, 10)
	wantLag := func(group, when string, want int64) {
		t.Helper()
		if got := s.info(t, group, "lag"); got != want {
			t.Errorf("%s: lag %d, want %d", when, got, want)
		}
	}
	wantLag("g", "nothing read", 10)
	s.read(t, "a", 3)
	wantLag("g", "three read, none settled", 7)
	if n := s.info(t, "g", "pending"); n != 3 {
		t.Errorf("%d in hand, want 3", n)
	}
	s.must(t, "XDEL KEY 2-0")
	wantLag("g", "one deleted that was read", 7)
	s.must(t, "XDEL KEY 6-0")
	wantLag("g", "one deleted that was not read", -1)
	s.read(t, "a", 2) // 4-0 and 5-0
	wantLag("g", "before the gap", -1)
	s.read(t, "a", 1) // 7-0
	wantLag("g", "past the gap", -1)
	s.read(t, "a", 9)
	wantLag("g", "at the end", 0)

	s.must(t, "XGROUP CREATE KEY end $")
	wantLag("end", "a group that starts at the end", 0)
	s.must(t, "XGROUP CREATE KEY middle 8-0")
	wantLag("middle", "a group that starts in the middle", -1)
	s.must(t, "XREADGROUP GROUP middle a STREAMS KEY >")
	wantLag("middle", "read to the end", 0)
}

// A group is made once, at the beginning, the end, or a position, which may be
// a time; making it again moves nothing.
func TestRedisGroupStart(t *testing.T) {
	t.Parallel()
	s := newRedisStream(t, servers.Redis(t))
	s.add(t, 1, 3)
	s.read(t, "a", 1)
	if _, err := s.do(t, "XGROUP CREATE KEY g $"); err == nil || !strings.HasPrefix(err.Error(), "BUSYGROUP") {
		t.Errorf("made again: %v, want BUSYGROUP", err)
	}
	if got := s.read(t, "a", 1); !slices.Equal(got, []string{"2-0"}) {
		t.Errorf("the group has moved to %v", got)
	}
	s.must(t, "XGROUP CREATE KEY time 2") // the position before 2-1: after all of 2 there is
	s.is(t, "XREADGROUP GROUP time a STREAMS KEY >", "[[[3-0 [m 3]]]]")
	s.must(t, "XGROUP CREATE KEY from 1-18446744073709551615")
	s.is(t, "XREADGROUP GROUP from a COUNT 1 STREAMS KEY >", "[[[2-0 [m 2]]]]")
}

// Positions only grow, also where the clock has gone back: the time in them
// stands still then, and is no time.
func TestRedisClockGoesBack(t *testing.T) {
	t.Parallel()
	s := newRedisStream(t, servers.Redis(t))
	ahead := time.Now().Add(time.Hour).UnixMilli()
	s.must(t, fmt.Sprintf("XADD KEY %d-0 m 1", ahead))
	s.is(t, "XADD KEY * m 2", fmt.Sprintf("%d-1", ahead))
	s.must(t, fmt.Sprintf("XDEL KEY %d-1", ahead))
	s.is(t, "XADD KEY * m 3", fmt.Sprintf("%d-2", ahead))

	for _, id := range []string{fmt.Sprintf("%d-2", ahead), fmt.Sprintf("%d-*", ahead-1)} {
		if _, err := s.do(t, "XADD KEY "+id+" m 4"); err == nil || !strings.Contains(err.Error(), "equal or smaller") {
			t.Errorf("%s: %v, want a refusal: it is not above the last one", id, err)
		}
	}
}

// Positions become visible in order while many publish, and reading by position
// takes nothing from any group.
func TestRedisPositionsAppearInOrder(t *testing.T) {
	t.Parallel()
	const writers, each = 8, 100
	s := newRedisStream(t, servers.RedisWith(t))
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				s.must(t, "XADD KEY * m 1")
			}
		})
	}
	var seen []string
	last := "0"
	eventually(t, "all are seen", func() bool {
		next := s.client.B().Xrange().Key(s.key).Start("(" + last).End("+").Count(50).Build()
		entries, err := s.client.Do(t.Context(), next).AsXRange()
		must(t, err)
		for _, id := range entryIDs(entries) {
			seen, last = append(seen, id), id
		}
		return len(seen) >= writers*each
	})
	wg.Wait()
	all, err := s.client.Do(t.Context(), s.client.B().Xrange().Key(s.key).Start("-").End("+").Build()).AsXRange()
	must(t, err)
	if !slices.Equal(seen, entryIDs(all)) {
		t.Errorf("a reader that followed saw %d entries, one that came after saw %d others", len(seen), len(all))
	}
	if n := s.info(t, "g", "lag"); n != writers*each {
		t.Errorf("lag %d, want %d", n, writers*each)
	}
}

// addOnce adds an entry unless one with its message id was added within a time,
// and answers with the position of the first one and whether it is new.
const addOnce = `
local seen = redis.call('GET', KEYS[2])
if seen then return {seen, 0} end
local id = redis.call('XADD', KEYS[1], '*', 'm', ARGV[1])
redis.call('SET', KEYS[2], id, 'PX', ARGV[2])
return {id, 1}`

// Redis suppresses no duplicates; a script with a key per message id does.
func TestRedisDedup(t *testing.T) {
	t.Parallel()
	s := newRedisStream(t, servers.Redis(t))
	add := func() string {
		got, err := s.args(t.Context(), "EVAL", addOnce, "2", s.key, s.key+".id.x", "text", "1000")
		must(t, err)
		return got
	}
	first := add()
	if again := add(); strings.TrimSuffix(first, " 1]") != strings.TrimSuffix(again, " 0]") {
		t.Errorf("first %s, again %s; want the same position, not new", first, again)
	}
	eventually(t, "the time is over", func() bool { return strings.HasSuffix(add(), " 1]") })
	s.is(t, "XLEN KEY", "2")
}

// In a Cluster all keys of a script must share a slot, and so must all streams of
// one read: the same text in braces, or one call each.
func TestRedisClusterNeedsOneSlot(t *testing.T) {
	t.Parallel()
	s := newRedisStream(t, servers.RedisCluster(t, 2)[0])
	if got, err := s.args(t.Context(), "EVAL", addOnce, "2", s.key, s.key+".id.x", "text", "9"); err != nil || !strings.HasSuffix(got, " 1]") {
		t.Errorf("keys with the same text in braces: %s, %v", got, err)
	}
	s.must(t, "XGROUP CREATE KEY.b g 0 MKSTREAM")
	if _, err := s.do(t, "XREADGROUP GROUP g a STREAMS KEY KEY.b > >"); err != nil {
		t.Errorf("one read of two streams with the same text in braces: %v", err)
	}
	// The library does not even send a command with keys of two slots, so this
	// one hides its keys from it.
	bare := s.client.B().Arbitrary("EVAL", addOnce, "2", "a", "b", "text", "9").Build()
	if err := s.client.Do(t.Context(), bare).Error(); err == nil || !strings.HasPrefix(err.Error(), "CROSSSLOT") {
		t.Errorf("keys of two slots: %v, want CROSSSLOT", err)
	}
	if _, err := s.do(t, "XREADGROUP GROUP g a STREAMS a b > >"); err == nil || !strings.HasPrefix(err.Error(), "CROSSSLOT") {
		t.Errorf("one read of streams of two slots: %v, want CROSSSLOT", err)
	}
}

// A blocked read waits on a connection of its own if the library is told that it
// blocks; else it holds up every command of the client.
func TestRedisBlockingRead(t *testing.T) {
	t.Parallel()
	server := servers.RedisWith(t) // nobody else blocks there
	s := newRedisStream(t, server)
	read := func() []string { return []string{"XREADGROUP", "GROUP", "g", "a", "BLOCK", "0", "STREAMS", s.key, ">"} }
	made := s.client.B().Xreadgroup().Group("g", "a").Block(0).Streams().Key(s.key).Id(">").Build()
	watch := &redisStream{client: redisClient(t, server), key: s.key}
	for i, c := range []struct {
		name  string
		cmd   rueidis.Completed
		holds bool
	}{
		{"made by its builder", made, false},
		{"told", s.client.B().Arbitrary(read()...).Blocking(), false},
		{"not told", s.client.B().Arbitrary(read()...).Build(), true},
	} {
		done := make(chan error, 1)
		go func() { done <- s.client.Do(context.Background(), c.cmd).Error() }()
		eventually(t, "the read blocks", func() bool { return watch.blocked(t) == 1 })
		limit := soon
		if c.holds {
			limit = never
		}
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		err := s.client.Do(ctx, s.client.B().Ping().Build()).Error()
		cancel()
		if held := errors.Is(err, context.DeadlineExceeded); held != c.holds {
			t.Errorf("%s: another command answers %v, held up %v, want %v", c.name, err, held, c.holds)
		}
		watch.add(t, i+1, i+1) // ends the read
		must(t, <-done)
	}
}

// block leaves a read of member a blocking on the server.
func (s *redisStream) block(t *testing.T, watch *redisStream) (giveUp func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		read := s.client.B().Xreadgroup().Group("g", "a").Block(0).Streams().Key(s.key).Id(">").Build()
		done <- s.client.Do(ctx, read).Error()
	}()
	eventually(t, "the read blocks", func() bool { return watch.blocked(t) == 1 })
	return func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("the read ends with %v, want %v", err, context.Canceled)
		}
	}
}

func (s *redisStream) blocked(t *testing.T) int {
	t.Helper()
	return strings.Count(s.must(t, "CLIENT LIST"), "flags=b ")
}

// A read that is given up while it blocks ends its connection, and takes nothing
// once the server knows. An entry whose answer is on its way then is in the hand
// of a member that does not know, until somebody claims it.
func TestRedisAbandonedRead(t *testing.T) {
	t.Parallel()
	server := servers.RedisWith(t) // nobody else blocks there
	watch := newRedisStream(t, server)

	reached := &redisStream{client: redisClient(t, server), key: watch.key}
	reached.block(t, watch)()
	eventually(t, "the server knows", func() bool { return watch.blocked(t) == 0 })
	watch.add(t, 1, 1)
	watch.wantPending(t, "")
	watch.read(t, "b", 1)

	between := faultproxy.Listen(t, server.Addr)
	cut := &redisStream{client: redisClient(t, &servers.Server{URL: "redis://" + between.Addr + "/0"}), key: watch.key}
	giveUp := cut.block(t, watch)
	between.Set(faultproxy.Pause)
	watch.add(t, 2, 2)
	giveUp()
	watch.wantPending(t, "1-0 b#1, 2-0 a#1")
}
