package driver_test

import (
	"strings"
	"testing"

	"github.com/prismgw/prism/driver"
)

func TestTopics(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", driver.MaxTopic)
	for s, want := range map[string]bool{
		"a": true, "0": true, "A.b-c_d": true, "orders.dlq": true, "a..b": true, long: true,
		"": false, ".a": false, "-a": false, "_a": false, "a b": false, "a*": false, ">": false, "a/b": false, "é": false, "a\n": false, long + "a": false,
	} {
		if got := driver.ValidTopic(s); got != want {
			t.Errorf("ValidTopic(%q): %v", s, got)
		}
	}
}

// The hashes are those of Kafka's own UtilsTest.testMurmur2.
func TestPartitionOf(t *testing.T) {
	t.Parallel()
	for key, hash := range map[string]int32{
		"21":                         -973932308,
		"foobar":                     -790332482,
		"a-little-bit-long-string":   -985981536,
		"a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
		"abc": 479470107,
	} {
		for _, partitions := range []int{1, 2, 16, 1000} {
			want := int(hash&0x7fffffff) % partitions
			if got := driver.PartitionOf([]byte(key), partitions); got != want {
				t.Errorf("PartitionOf(%s, %d): %d, want %d", key, partitions, got, want)
			}
		}
	}
	if got := driver.PartitionOf(nil, 16); got < 0 || got > 15 {
		t.Errorf("PartitionOf(nothing): %d", got)
	}
}
