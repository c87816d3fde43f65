package test

import (
	"bufio"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
)

// deliveries is what is known of the messages of a topic and of its one group.
// The messages of a key are numbered from 1, each published when the one before
// was acknowledged.
type deliveries struct {
	mu   sync.Mutex // guards what follows
	keys map[string]*keyed

	got, again, done int // lines of the takers
	wrong            []string
}

// keyed is what is known of one key.
type keyed struct {
	published int          // so many were acknowledged to the publisher
	unsure    map[int]bool // were published more than once, perhaps
	got       int          // the highest number that came
	done      map[int]bool // whose acknowledgement was answered
}

func newDeliveries() *deliveries { return &deliveries{keys: map[string]*keyed{}} }

func (d *deliveries) key(name string) *keyed {
	if d.keys[name] == nil {
		d.keys[name] = &keyed{unsure: map[int]bool{}, done: map[int]bool{}}
	}
	return d.keys[name]
}

func (d *deliveries) published(key string, n int, tries int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.key(key).published = n
	if tries > 1 {
		d.key(key).unsure[n] = true
	}
}

// hear takes the lines of takers until there are no more.
func (d *deliveries) hear(lines *bufio.Scanner) {
	for lines.Scan() {
		d.line(lines.Text())
	}
}

func (d *deliveries) line(text string) {
	var what, key string
	var n int
	if _, err := fmt.Sscan(text, &what, &key, &n); err != nil {
		d.complain("a taker says %q", text)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	k := d.key(key)
	if what == "done" {
		d.done++
		k.done[n] = true
		return
	}
	d.got++
	switch {
	case k.done[n] && !k.unsure[n]:
		d.complain("%s %d: came again when its acknowledgement had been answered", key, n)
	case n <= k.got:
		d.again++
	case n > k.got+1:
		d.complain("%s %d: came before %d", key, n, k.got+1)
	}
	k.got = max(k.got, n)
}

// complain takes note of the first mistakes. The lock is held.
func (d *deliveries) complain(format string, args ...any) {
	if len(d.wrong) < 20 {
		d.wrong = append(d.wrong, fmt.Sprintf(format, args...))
	}
}

// missing returns messages that were acknowledged to the publisher and have not
// come.
func (d *deliveries) missing() (lost []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(d.keys)) {
		if k := d.keys[key]; k.got < k.published {
			lost = append(lost, fmt.Sprintf("%s %d to %d", key, k.got+1, k.published))
		}
	}
	return lost
}

func (d *deliveries) mistakes() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.wrong)
}

func (d *deliveries) count() (published, got, again, done int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, k := range d.keys {
		published += k.published
	}
	return published, d.got, d.again, d.done
}

// The book of deliveries finds what the crashes look for.
func TestDeliveriesNotice(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, lines, wrong, missing string }{
		{"all is well", "got a 1;done a 1;got a 2;done a 2;got a 3", "", ""},
		{"again without an answer", "got a 1;got a 1;done a 1;got a 2;got a 3", "", ""},
		{"again, published twice", "got a 1;got a 2;done a 2;got a 2;got a 3", "", ""},
		{"lost at the end", "got a 1;got a 2", "", "a 3 to 3"},
		{"lost in between", "got a 1;got a 3", "a 3: came before 2", ""},
		{"in another order", "got a 2;got a 1;got a 3", "a 2: came before 1", ""},
		{"again after its answer", "got a 1;done a 1;got a 1;got a 2;got a 3", "a 1: came again", ""},
		{"no line", "got a", "a taker says", "a 1 to 3"},
	} {
		d := newDeliveries()
		d.published("a", 3, 1)
		d.key("a").unsure[2] = true
		for line := range strings.SplitSeq(tt.lines, ";") {
			d.line(line)
		}
		if got := strings.Join(d.wrong, "\n"); tt.wrong == "" && got != "" || !strings.Contains(got, tt.wrong) {
			t.Errorf("%s: found %q, want %q", tt.name, got, tt.wrong)
		}
		if got := strings.Join(d.missing(), ", "); got != tt.missing {
			t.Errorf("%s: misses %q, want %q", tt.name, got, tt.missing)
		}
	}
}
