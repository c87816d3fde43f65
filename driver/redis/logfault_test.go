package redis_test

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/servers"
)

// TestLogFailover kills the master while records are appended and committed.
// What the replica had is there, in order and without holes; what it had not is
// lost from the end, as Guarantees says; and everything goes on.
func TestLogFailover(t *testing.T) {
	t.Parallel()
	master := servers.RedisWith(t, "--appendonly", "yes", "--appendfsync", "always")
	replica := servers.RedisReplica(t, master)
	guard := servers.RedisSentinel(t, "main", master, 1)
	sentinels := plain(t, guard.Addr)
	await(t, "the sentinel to know the replica", func() bool {
		list, err := sentinels.Do(t.Context(), "sentinel", "replicas", "main").Slice()
		return err == nil && len(list) == 1
	})
	conn := open(t, driver.Config{URL: guard.URL})
	b, err := conn.Space(orders)
	must(t, err)
	if ack := b.Log.Guarantees().Ack; ack.Node || ack.Process || !strings.Contains(ack.Why, "failover") {
		t.Errorf("the ack is %+v", ack)
	}
	topic := topicOf(t, conn, driver.TopicSpec{Name: "t", Partitions: 2})
	m := joins(t, topic, driver.JoinRequest{Group: "g"})
	claims := map[int]int64{}
	for len(claims) < 2 {
		e := gains(t, m)
		claims[e.Partition] = e.Claim
	}

	// These the replica has.
	kept := 100
	for i := range kept {
		appendAll(t, topic, driver.Record{Value: []byte(strconv.Itoa(i))})
	}
	commits(t, m, driver.Commit{Claim: claims[0], Checkpoint: driver.Checkpoint{Next: readAll(t, topic, 0)[49].Position, Note: "half"}})
	if n, err := plain(t, master.Addr).Wait(t.Context(), 1, patience).Result(); n != 1 {
		t.Fatalf("the replica has not followed: %d, %v", n, err)
	}

	var acked int // of partition 0, after which one fails
	var loading sync.WaitGroup
	loading.Go(func() {
		for acked = kept; ; acked++ {
			results := make([]driver.AppendResult, 1)
			topic.Append(t.Context(), []driver.Record{{Value: []byte(strconv.Itoa(acked))}}, results)
			if results[0].Err != nil {
				return
			}
		}
	})
	await(t, "appends under way", func() bool { return len(readAll(t, topic, 0)) > 2*kept })
	master.Kill()
	loading.Wait()

	await(t, "an append through the new master", func() bool {
		results := make([]driver.AppendResult, 1)
		topic.Append(t.Context(), []driver.Record{{Value: []byte("after")}}, results)
		return results[0].Err == nil
	})
	var got []string
	for _, text := range valuesOf(readAll(t, topic, 0)) {
		if text != "after" {
			got = append(got, text)
		}
	}
	if len(got) < kept || len(got) > acked+1 {
		t.Errorf("%d records are left; the replica had %d, %d were acknowledged", len(got), kept, acked)
	}
	for i, text := range got {
		if text != strconv.Itoa(i) {
			t.Fatalf("record %d is %s", i, text)
		}
	}
	await(t, "the group on the new master", func() bool {
		s, err := topic.Stat(t.Context(), "g")
		return err == nil && s[0].Known && s[0].Owner == s[1].Owner
	})
	other := plain(t, replica.Addr)
	if note := other.HGet(t.Context(), "prism!log:{orders.t}:notes:g", "0").Val(); note != "half" {
		t.Errorf("the note on the new master is %q", note)
	}
	late := joins(t, topic, driver.JoinRequest{Group: "late"})
	arrivals(t, late, len(got)+1)
	t.Logf("%d were acknowledged, %d are left", acked, len(got))
}

// TestTailComesBack cuts the connection through which appends are told, and has
// them told again.
func TestTailComesBack(t *testing.T) {
	t.Parallel()
	conn, other := startLog(t)
	topic := topicOf(t, conn, driver.TopicSpec{Name: "t", Partitions: 2})
	m := joins(t, topic, driver.JoinRequest{Group: "g"})
	for i := range 5 {
		await(t, "somebody listens", func() bool {
			n, err := other.PubSubNumSub(t.Context(), "prism!log:{orders.t}:appended").Result()
			return err == nil && n["prism!log:{orders.t}:appended"] == 1
		})
		must(t, other.Do(t.Context(), "client", "kill", "type", "pubsub").Err())
		appendAll(t, topic, driver.Record{Partition: i % 2, Value: []byte(fmt.Sprint(i))})
		arrivals(t, m, 1)
	}
}

// TestChannelThatIsForbidden has a user who may tell nobody of appends: they
// are appended all the same, and found later.
func TestChannelThatIsForbidden(t *testing.T) {
	t.Parallel()
	conn, other := startLog(t)
	must(t, other.Do(t.Context(), "acl", "setuser", "default", "resetchannels").Err())
	topic := topicOf(t, conn, driver.TopicSpec{Name: "t", Partitions: 1})
	m := joins(t, topic, driver.JoinRequest{Group: "g"})
	for range 2 {
		appendAll(t, topic, driver.Record{Value: []byte("v")})
		arrivals(t, m, 1)
	}
	if n := len(readAll(t, topic, 0)); n != 2 {
		t.Errorf("%d records", n)
	}
}

// TestLogOnServerThatTakesNoWrites has the memory full.
func TestLogOnServerThatTakesNoWrites(t *testing.T) {
	t.Parallel()
	conn, other := startLog(t)
	topic := topicOf(t, conn, driver.TopicSpec{Name: "t", Partitions: 1, Dedup: 1})
	m := joins(t, topic, driver.JoinRequest{Group: "g"})
	claim := gains(t, m).Claim
	appendAll(t, topic, driver.Record{Value: []byte("before")})
	must(t, other.ConfigSet(t.Context(), "maxmemory", "1").Err())
	results := make([]driver.AppendResult, 3)
	topic.Append(t.Context(), []driver.Record{{ID: "a"}, {ID: "b"}, {}}, results)
	for _, r := range results {
		wants(t, "append", r.Err, errs.ReadOnly)
	}
	outcomes := make([]error, 1)
	m.Commit(t.Context(), []driver.Commit{{Claim: claim, Checkpoint: driver.Checkpoint{Next: 9}}}, outcomes)
	wants(t, "commit", outcomes[0], errs.ReadOnly)
	must(t, other.ConfigSet(t.Context(), "maxmemory", "0").Err())
	appendAll(t, topic, driver.Record{ID: "a", Value: []byte("after")})
	if n := len(readAll(t, topic, 0)); n != 2 {
		t.Errorf("%d records", n)
	}
}

// TestLogRights has a user who may do what the message about rights says, and
// nothing else.
func TestLogRights(t *testing.T) {
	t.Parallel()
	s := servers.RedisWith(t, "--user", "default", "on", "nopass", "~*", "&*", "-@all",
		"+@read", "+@write", "+@scripting", "+@connection", "+@transaction", "+info", "+scan", "+@pubsub", "+time")
	spec := driver.TopicSpec{Name: "t", Partitions: 1, MaxBytes: 1 << 20, UntilConsumed: true, Dedup: driver.TakeOver}
	topic := topicOf(t, open(t, driver.Config{URL: s.URL}), spec)
	m := joins(t, topic, driver.JoinRequest{Group: "g"})
	claim := gains(t, m).Claim
	at := appendAll(t, topic, driver.Record{ID: "a"})[0].Position
	arrivals(t, m, 1)
	commits(t, m, driver.Commit{Claim: claim, Checkpoint: driver.Checkpoint{Next: at + 1}})
	await(t, "the record goes", func() bool { return len(readAll(t, topic, 0)) == 0 })
}
