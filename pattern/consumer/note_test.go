package consumer

import (
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/prismgw/prism/driver"
)

// spread returns a note of records from next on, of which each has its place
// step above the one before.
func spread(r *rand.Rand, next, step driver.Position, records int) note {
	var n note
	at := next
	for range records {
		at += 1 + driver.Position(r.Int64N(int64(step)))
		last := len(n.settled) - 1
		switch r.IntN(4) {
		case 0:
			if last >= 0 && n.settled[last].last == at-1 {
				n.settled[last].last = at
			} else {
				n.settled = append(n.settled, span{at, at})
			}
		case 1:
			n.failures = append(n.failures, failures{at, 1 + r.IntN(20)})
		}
	}
	return n
}

func TestNoteComesBack(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for _, step := range []driver.Position{1, 3, 200, 1 << 30} {
		for records := range 200 {
			next := 1 + driver.Position(r.Int64N(1<<40))
			want := spread(r, next, step, records)
			text, covered := want.encode(next, 1<<20)
			if covered != 1<<63-1 {
				t.Fatalf("step %d, %d records: covered %d", step, records, covered)
			}
			got := decodeNote(driver.Checkpoint{Next: next, Note: text})
			if !same(got, want) {
				t.Fatalf("step %d: got %v\nwant %v", step, got, want)
			}
		}
	}
}

func same(a, b note) bool {
	return len(a.settled) == len(b.settled) && len(a.failures) == len(b.failures) &&
		(len(a.settled) == 0 || reflect.DeepEqual(a.settled, b.settled)) &&
		(len(a.failures) == 0 || reflect.DeepEqual(a.failures, b.failures))
}

// A note that is too long is cut, and says how far it goes: everything up to
// there is in it, and nothing that is not true.
func TestNoteIsCut(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	for _, limit := range []int{0, 1, 5, 40, 400, 4096} {
		want := spread(r, 7, 1000, 5000)
		text, covered := want.encode(7, limit)
		if len(text) > limit {
			t.Fatalf("limit %d: %d characters", limit, len(text))
		}
		got := decodeNote(driver.Checkpoint{Next: 7, Note: text})
		if !same(got, *want.upTo(covered)) {
			t.Errorf("limit %d: what is covered up to %d did not come back", limit, covered)
		}
		if longer, _ := want.encode(7, limit+16); limit >= 40 && len(longer) == len(text) {
			t.Errorf("limit %d: %d characters, and no more fit into %d", limit, len(text), limit+16)
		}
	}
}

// What fits beside a commit of Kafka: a full window of which every second
// record is settled, and as many failed ones as fetching stops at.
func TestNoteOfAFullWindowFitsKafka(t *testing.T) {
	t.Parallel()
	var n note
	for at := driver.Position(1000); at < 1000+maxWindow; at += 2 {
		n.settled = append(n.settled, span{at + 1, at + 1})
		if len(n.failures) < maxFailing {
			n.failures = append(n.failures, failures{at + 16*driver.Position(len(n.failures)), 20})
		}
	}
	for i := range n.failures {
		n.failures[i].at = 1000 + 16*driver.Position(i)
	}
	if text, covered := n.encode(1000, 4096); covered != 1<<63-1 {
		t.Errorf("it does not fit: %d characters reach %d", len(text), covered)
	}
}

func TestNoteOfOthers(t *testing.T) {
	t.Parallel()
	good, _ := (&note{settled: []span{{12, 14}}, failures: []failures{{11, 3}}}).encode(10, 100)
	for _, text := range []string{"", "1", "0AAAA", "kcat-member-1", good[:len(good)-1], good + "A", "1" + strings.Repeat("_", 400), "1AAA", "\x00"} {
		if n := decodeNote(driver.Checkpoint{Next: 10, Note: text}); !same(n, note{}) {
			t.Errorf("%q says %v", text, n)
		}
	}
}

func FuzzNote(f *testing.F) {
	n := spread(rand.New(rand.NewPCG(5, 6)), 100, 5, 50)
	text, _ := n.encode(100, 4096)
	f.Add(int64(100), text)
	f.Add(int64(0), "1AAA")
	f.Add(int64(1<<62), "1AQD_")
	f.Fuzz(func(t *testing.T, next int64, text string) {
		if next < 0 {
			return
		}
		n := decodeNote(driver.Checkpoint{Next: driver.Position(next), Note: text})
		for i, s := range n.settled {
			if s.first > s.last || int64(s.first) < next || i > 0 && s.first <= n.settled[i-1].last {
				t.Fatalf("%q: settled %v", text, n.settled)
			}
		}
		for i, x := range n.failures {
			if x.count < 1 || int64(x.at) < next || i > 0 && x.at <= n.failures[i-1].at {
				t.Fatalf("%q: failures %v", text, n.failures)
			}
		}
		again, covered := n.encode(driver.Position(next), 1<<20)
		if covered == 1<<63-1 && !same(decodeNote(driver.Checkpoint{Next: driver.Position(next), Note: again}), n) {
			t.Fatalf("%q: %v did not come back", text, n)
		}
	})
}
