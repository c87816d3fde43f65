package memory_test

import (
	"fmt"
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/memory"
)

// BenchmarkAppend adds records of a key and 128 bytes in calls of a hundred.
func BenchmarkAppend(b *testing.B) {
	topic := topicOf(b, logOf(b, open(b, memory.Driver(), driver.Config{URL: "memory:"})), driver.TopicSpec{
		Name: "t", Partitions: 16, MaxBytes: 64 << 20,
	})
	b.ReportAllocs()
	b.ResetTimer()
	fill(b, topic, b.N)
}

// BenchmarkNext takes records of a key and 128 bytes as a member of a group,
// and commits after each time it has taken some.
func BenchmarkNext(b *testing.B) {
	topic := topicOf(b, logOf(b, open(b, memory.Driver(), driver.Config{URL: "memory:"})), driver.TopicSpec{
		Name: "t", Partitions: 16,
	})
	const kept = 100_000
	fill(b, topic, kept)
	var m driver.Member
	events, commits, results := make([]driver.LogEvent, 1000), make([]driver.Commit, 16), make([]error, 16)
	b.ReportAllocs()
	b.ResetTimer()
	for left, n := 0, 0; n < b.N; {
		if left == 0 { // another group reads them again
			left = kept
			m = join(b, topic, driver.JoinRequest{Group: fmt.Sprint("g", n), Name: "m"})
		}
		took, err := m.Next(b.Context(), events)
		if err != nil {
			b.Fatal(err)
		}
		for i := range events[:took] {
			switch e := &events[i]; e.Kind {
			case driver.Gained:
				commits[e.Partition] = driver.Commit{Partition: e.Partition, Claim: e.Claim, Checkpoint: e.Checkpoint}
			case driver.Leaving, driver.Lost:
				b.Fatal("there is no other member")
			case driver.Arrived:
				commits[e.Partition].Next = e.Stored.Position + 1
				left--
				n++
			}
		}
		m.Commit(b.Context(), commits, results)
		if left == 0 {
			if err := m.Close(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func fill(b *testing.B, topic driver.Topic, n int) {
	b.Helper()
	records, results := make([]driver.Record, 100), make([]driver.AppendResult, 100)
	key, value := []byte("customer-4711"), make([]byte, 128)
	for i := 0; i < n; i += len(records) {
		for j := range records {
			records[j] = driver.Record{Partition: (i + j) % topic.Partitions(), Key: key, Value: value}
		}
		topic.Append(b.Context(), records[:min(len(records), n-i)], results[:min(len(records), n-i)])
		if results[0].Err != nil {
			b.Fatal(results[0].Err)
		}
	}
}
