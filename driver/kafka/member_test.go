package kafka_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/servers"
)

// quick lets sessions end within a test; a real broker's least is 6 s.
func quick(t *testing.T) (*servers.KafkaCluster, driver.Config) {
	t.Helper()
	k := servers.KafkaWith(t, kfake.GroupMinSessionTimeout(time.Second))
	return k, driver.Config{URL: url(k.Brokers...), Options: json.RawMessage(`{"session": "2s"}`)}
}

// TestPutOutWhileJoiningAgain: a member that the broker has forgotten when it
// joins again comes back under a new id. It has lost everything, also what it is
// given again, since others may have had that in between.
func TestPutOutWhileJoiningAgain(t *testing.T) {
	t.Parallel()
	k, c := quick(t)
	topic := topicOf(t, open(t, c), driver.TopicSpec{Name: "t", Partitions: 4})
	put(t, topic, numbered(4, 10)...)
	one := join(t, topic, driver.JoinRequest{Group: "g", Name: "one"})
	until(t, "all records", func() bool { return one.records() == 40 }, one)
	for p, has := range one.has {
		one.commit(p, driver.Checkpoint{Next: has.got[3].Position, Note: "kept"}, false)
	}
	before, id := maps.Clone(one.has), memberID(t, k, "orders.t:g")
	put1 := k.Fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.JoinGroup}, Err: kerr.UnknownMemberID, TopLevel: true, When: func(r kmsg.Request) bool {
		return r.(*kmsg.JoinGroupRequest).MemberID == id
	}})
	two := join(t, topic, driver.JoinRequest{Group: "g", Name: "two"})
	until(t, "each has two", func() bool {
		return put1.Hits() == 1 && len(one.has) == 2 && len(two.has) == 2 && one.records()+two.records() == 28
	}, one, two)
	for p, has := range one.has {
		if has.id == before[p].id || has.from.Next != before[p].got[3].Position || has.from.Note != "kept" {
			t.Errorf("partition %d: claim %d was %d, from %+v", p, has.id, before[p].id, has.from)
		}
	}
	one.has = before
	for p := range 4 {
		wants(t, "a commit with a claim of before", one.tryCommit(p, driver.Checkpoint{Next: 11}, false), errs.StaleReceipt)
	}
}

// memberID is the broker's name of the only member of a group.
func memberID(t *testing.T, k *servers.KafkaCluster, group string) string {
	t.Helper()
	req := kmsg.NewPtrDescribeGroupsRequest()
	req.Groups = []string{group}
	resp, err := req.RequestWith(t.Context(), plainClient(t, k.Brokers))
	must(t, err)
	if n := len(resp.Groups[0].Members); n != 1 {
		t.Fatalf("%d members", n)
	}
	return resp.Groups[0].Members[0].MemberID
}

// TestCommitWhileTheGroupChanges: a commit of a partition that stays is carried
// out although the group's generation ends under it.
func TestCommitWhileTheGroupChanges(t *testing.T) {
	t.Parallel()
	_, c := quick(t)
	topic := topicOf(t, open(t, c), driver.TopicSpec{Name: "t", Partitions: 8})
	put(t, topic, numbered(8, 1)...)
	one := join(t, topic, driver.JoinRequest{Group: "g", Name: "one"})
	until(t, "all records", func() bool { return one.records() == 8 }, one)
	var others []*consumer
	for i := range 4 {
		others = append(others, join(t, topic, driver.JoinRequest{Group: "g", Name: fmt.Sprint("other", i)}))
		until(t, "a share", func() bool {
			for p, has := range one.has {
				err := one.tryCommit(p, driver.Checkpoint{Next: has.from.Next, Note: fmt.Sprint(i)}, false)
				if err != nil && errs.ReasonOf(err) != errs.StaleReceipt {
					t.Fatal(err)
				}
				if err != nil { // then it has lost it, which it is told
					until(t, "the loss", func() bool { return one.has[p] != has }, append(others, one)...)
				}
			}
			return len(others[i].has) > 0
		}, append(others, one)...)
	}
	if one.lost > 0 {
		t.Errorf("%d partitions were lost by a member that leaves what it should", one.lost)
	}
}

// TestTransactions: an open transaction of another program holds back what is
// behind it, and what was given up is never seen.
func TestTransactions(t *testing.T) {
	t.Parallel()
	k := servers.Kafka(t)
	conn := open(t, driver.Config{URL: url(k.Brokers...)})
	name := unique()
	topic := topicOf(t, conn, driver.TopicSpec{Name: name, Partitions: 1})
	group := join(t, topic, driver.JoinRequest{Group: "g", Name: "m"})
	reader := join(t, topic, driver.JoinRequest{})
	both := []*consumer{group, reader}
	tx := plainClient(t, k.Brokers, kgo.TransactionalID(name))
	begin := func(value string) {
		must(t, tx.BeginTransaction())
		must(t, tx.ProduceSync(t.Context(), &kgo.Record{Topic: "orders." + name, Value: []byte(value)}).FirstErr())
	}
	all := func(want ...string) {
		t.Helper()
		until(t, fmt.Sprint(want), func() bool { return group.records() >= len(want) && reader.records() >= len(want) }, both...)
		for _, got := range [][]string{values(read(t, topic, 0)), values(group.has[0].got), values(reader.has[0].got)} {
			if !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		}
	}
	put(t, topic, text("before"))
	begin("committed")
	put(t, topic, text("plain"))
	all("before")
	found, err := topic.Read(t.Context(), driver.ReadRequest{Limit: 10})
	must(t, err)
	stats, err := topic.Stat(t.Context(), "g")
	must(t, err)
	if found.Next != 2 || stats[0].End != 2 || stats[0].Waiting != 1 {
		t.Errorf("while a transaction is open a read goes on from %d, the stat is %+v", found.Next, stats[0])
	}
	must(t, tx.EndTransaction(t.Context(), kgo.TryCommit))
	all("before", "committed", "plain")
	for range 30 {
		begin("given up")
		must(t, tx.EndTransaction(t.Context(), kgo.TryAbort))
	}
	all("before", "committed", "plain")
	put(t, topic, text("last"))
	all("before", "committed", "plain", "last")
	last := group.has[0].got[3].Position
	if last != 65 { // three records, a mark, 30 times a record and a mark, and its own
		t.Errorf("the last record is at %d", last)
	}
	group.commit(0, driver.Checkpoint{Next: last + 1}, false)
	if stats, err = topic.Stat(t.Context(), "g"); err != nil || stats[0].Waiting != 0 || !stats[0].Oldest.IsZero() {
		t.Errorf("%+v, %v", stats, err)
	}
}

// TestSkippedInACompactedTopic: how many are gone cannot be counted there.
func TestSkippedInACompactedTopic(t *testing.T) {
	t.Parallel()
	k := servers.KafkaWith(t)
	cl := plainClient(t, k.Brokers)
	conn := open(t, driver.Config{URL: url(k.Brokers...)})
	for policy, want := range map[string]int64{"compact,delete": driver.SkippedUnknown, "delete": 4} {
		name := makeTopic(t, cl, 1, map[string]string{"cleanup.policy": policy})
		topic := topicOf(t, conn, driver.TopicSpec{Physical: name})
		put(t, topic, numbered(1, 10)...)
		m := join(t, topic, driver.JoinRequest{Group: "g"})
		until(t, "all records", func() bool { return m.records() == 10 }, m)
		m.commit(0, driver.Checkpoint{Next: m.has[0].got[2].Position, Note: "note"}, true)
		must(t, m.Close(t.Context()))
		deleteRecords(t, cl, name, 6)
		m = join(t, topic, driver.JoinRequest{Group: "g"})
		until(t, "what is left", func() bool { return m.records() == 4 }, m)
		if has := m.has[0]; has.skipped != want || has.from.Next != 3 || has.from.Note != "note" || has.got[0].Position != 7 {
			t.Errorf("%s: from %+v, %d skipped, the first record is at %d", policy, has.from, has.skipped, has.got[0].Position)
		}
	}
}

func deleteRecords(t *testing.T, cl *kgo.Client, topic string, before int64) {
	t.Helper()
	p := kmsg.NewDeleteRecordsRequestTopicPartition()
	p.Offset = before
	rt := kmsg.NewDeleteRecordsRequestTopic()
	rt.Topic, rt.Partitions = topic, append(rt.Partitions, p)
	req := kmsg.NewPtrDeleteRecordsRequest()
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(t.Context(), cl)
	must(t, err)
	must(t, kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode))
}

// TestGroupOfAnotherProgram: one that has committed in some partitions only is
// known in all of them, and what it never read comes.
func TestGroupOfAnotherProgram(t *testing.T) {
	t.Parallel()
	k := servers.Kafka(t)
	conn := open(t, driver.Config{URL: url(k.Brokers...)})
	name := unique()
	topic := topicOf(t, conn, driver.TopicSpec{Name: name, Partitions: 2})
	put(t, topic, numbered(2, 3)...)
	cl := plainClient(t, k.Brokers)
	p := kmsg.NewOffsetCommitRequestTopicPartition()
	p.Partition, p.Offset, p.Metadata = 1, 2, kmsg.StringPtr("theirs")
	rt := kmsg.NewOffsetCommitRequestTopic()
	rt.Topic, rt.Partitions = "orders."+name, append(rt.Partitions, p)
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.Generation, req.Topics = "orders."+name+":g", -1, append(req.Topics, rt)
	_, err := req.RequestWith(t.Context(), cl)
	must(t, err)
	stats, err := topic.Stat(t.Context(), "g")
	must(t, err)
	if !stats[0].Known || stats[0].Waiting != 3 || stats[1].Waiting != 1 {
		t.Errorf("the stat is %+v", stats)
	}
	m := join(t, topic, driver.JoinRequest{Group: "g", Start: driver.Start{From: driver.StartLatest}})
	until(t, "what it has not read", func() bool { return m.records() == 4 }, m)
	if note := m.has[1].from.Note; note != "theirs" {
		t.Errorf("the note is %q", note)
	}
}

// TestDeletedTopicEndsItsMembers: what nobody can answer for any more ends, when
// it is certain that it does not come back at once.
func TestDeletedTopicEndsItsMembers(t *testing.T) {
	t.Parallel()
	k := servers.KafkaWith(t)
	cl := plainClient(t, k.Brokers)
	name := makeTopic(t, cl, 1, nil)
	topic := topicOf(t, open(t, driver.Config{URL: url(k.Brokers...)}), driver.TopicSpec{Physical: name})
	put(t, topic, text("a"))
	var both []*consumer
	for _, group := range []string{"", "g"} {
		m := join(t, topic, driver.JoinRequest{Group: group})
		until(t, "the record", func() bool { return m.records() == 1 }, m)
		both = append(both, m)
	}
	deleteTopic(t, cl, name)
	for _, m := range both {
		var err error
		events := make([]driver.LogEvent, 1)
		for end := time.Now().Add(2 * driver.TakeOver); err == nil && time.Now().Before(end); {
			_, err = m.Next(t.Context(), events)
		}
		wants(t, "next", err, errs.TopicNotFound)
	}
}
