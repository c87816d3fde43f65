package wrap_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

func inbox(buffer int) *wrap.Inbox { return wrap.NewInbox(buffer, func() {}) }

// next takes what is there, n events at a time, as text: a subject, or how
// many were missed.
func next(t *testing.T, b *wrap.Inbox, n int) string {
	t.Helper()
	events := make([]driver.Event, n)
	n, err := b.Next(t.Context(), events)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range events[:n] {
		if e.Missed != 0 {
			all = append(all, fmt.Sprint(e.Missed))
			continue
		}
		all = append(all, e.Subject)
	}
	return strings.Join(all, " ")
}

func TestInboxCountsWhatItHasNoRoomFor(t *testing.T) {
	t.Parallel()
	b := inbox(3 * 65)
	tell := func(subjects ...string) {
		for _, s := range subjects {
			b.Tell(driver.Message{Subject: s})
		}
	}
	tell("a", "b", "c", "d", "e")
	if got := next(t, b, 2); got != "a b" {
		t.Errorf("got %s", got)
	}
	tell("f")
	if got := next(t, b, 9); got != "c 2 f" {
		t.Errorf("got %s, want the place of what was missed between", got)
	}
	b.Miss(3)
	b.Miss(4)
	tell("g")
	b.Miss(1)
	b.Miss(driver.MissedUnknown)
	b.Miss(5)
	if got := next(t, b, 9); got != "7 g -1" {
		t.Errorf("got %s", got)
	}
	b.Tell(driver.Message{Subject: "large", Payload: make([]byte, 1000)})
	tell("small")
	if got := next(t, b, 9); got != "large 1" {
		t.Errorf("got %s, want what is larger than the room where nothing else waits", got)
	}
	tell("a", "b", "c")
	if got := next(t, b, 9); got != "a b c" {
		t.Errorf("got %s, want the whole room again", got)
	}
}

func TestInboxEnds(t *testing.T) {
	t.Parallel()
	ended := 0
	b := wrap.NewInbox(0, func() { ended++ })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Next(ctx, make([]driver.Event, 1)); errs.ReasonOf(err) != errs.Cancelled {
		t.Errorf("a context that has ended: %v", err)
	}
	waiting := make(chan error)
	go func() {
		_, err := b.Next(context.Background(), make([]driver.Event, 1))
		waiting <- err
	}()
	b.End(errs.BackendUnavailable)
	if err := <-waiting; errs.ReasonOf(err) != errs.BackendUnavailable {
		t.Errorf("next under way: %v", err)
	}
	b.Tell(driver.Message{Subject: "late"})
	b.Miss(1)
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if _, err := b.Next(t.Context(), make([]driver.Event, 1)); errs.ReasonOf(err) != errs.BackendUnavailable {
		t.Errorf("next after the end: %v", err)
	}
	if ended != 1 {
		t.Errorf("it ended %d times", ended)
	}
}

// Whatever the sizes are, what comes and what is counted are all.
func TestInboxLosesNoneUncounted(t *testing.T) {
	t.Parallel()
	const senders, each = 4, 5000
	b := inbox(64 << 10)
	for s := range senders {
		go func() {
			for i := range each {
				b.Tell(driver.Message{Subject: fmt.Sprint(s), Payload: fmt.Append(nil, i)})
			}
		}()
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	came, missed, last := 0, 0, map[string]int{}
	for came+missed < senders*each {
		events := make([]driver.Event, 7)
		n, err := b.Next(ctx, events)
		if err != nil {
			t.Fatalf("%v; %d came and %d were counted, of %d", err, came, missed, senders*each)
		}
		for _, e := range events[:n] {
			if e.Missed != 0 {
				missed += int(e.Missed)
				continue
			}
			came++
			var i int
			_, _ = fmt.Sscan(string(e.Payload), &i)
			if before, known := last[e.Subject]; known && i <= before {
				t.Fatalf("%d of %s comes after %d", i, e.Subject, before)
			}
			last[e.Subject] = i
		}
	}
	if came+missed != senders*each {
		t.Errorf("%d came and %d were counted, of %d", came, missed, senders*each)
	}
}
