package drivertest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// A PubSubHarness says how the suite of PubSub reaches one technology. It is a
// Harness in everything but what it is handed to.
type PubSubHarness Harness

// RunPubSub is Run for the primitive PubSub.
func RunPubSub(t *testing.T, pubsub PubSubHarness) {
	t.Helper()
	h := Harness(pubsub)
	s := newPubSubSuite(t, &h)
	t.Run("checks", func(t *testing.T) {
		for _, c := range pubsubChecks() {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				s.run(t, c)
			})
		}
	})
	s.close(t)
	t.Run("leaks/goroutines", func(t *testing.T) { s.run(t, leakCheck) })
	s.write(t, matrix{Suite: "pubsub", Driver: h.Name, PubSub: &s.pubsub})
}

func newPubSubSuite(tb testing.TB, h *Harness) *suite {
	tb.Helper()
	s, b := openSuite(tb, h, append(pubsubChecks(), leakCheck))
	s.pubsub = b.PubSub.Guarantees()
	return s
}

func pubsubChecks() []check {
	return []check{
		{"listen/filters", nil, pubsubFilters},
		{"listen/everyone-is-told", nil, everyoneIsTold},
		{"listen/order", nil, pubsubOrder},
		{"listen/nothing-is-kept", nil, nothingIsKept},
		{"listen/slow-subscriber", nil, slowSubscriber},
		{"listen/close", nil, pubsubClose},
		{"listen/connection-closes", nil, pubsubConnCloses},
		{"listen/context", nil, pubsubContext},
		{"listen/other-spaces", nil, pubsubOtherSpaces},
		{"payloads/any-bytes", nil, pubsubPayloads},
		{"payloads/memory-is-not-shared", nil, pubsubMemory},
		{"groups/share", needsGroups, groupsShare},
		{"groups/of-others", needsGroups, groupsOfOthers},
		{"groups/member-leaves", needsGroups, memberLeaves},
		{"faults/away-at-open", needsServer, pubsubAway},
		{"faults/killed-and-restarted", needsServer, pubsubKilled},
		{"faults/paused", needsServer, pubsubPaused},
		{"faults/connections-cut", needsServer, pubsubCut},
		{"faults/garbage", needsServer, pubsubGarbage},
	}
}

func needsGroups(e *env) string {
	if !e.s.pubsub.Groups {
		return "subscriptions cannot share messages"
	}
	return ""
}

// topics is the PubSub of one space.
type topics struct {
	*env
	driver.PubSub
	space driver.Space
}

func (e *env) topics() *topics {
	e.Helper()
	return e.topicsOn(e.s.anchor, e.space())
}

func (e *env) topicsOn(conn driver.Conn, space driver.Space) *topics {
	e.Helper()
	b, err := conn.Space(space)
	if err != nil {
		e.Fatalf("space %q %q: %v", space.Namespace, space.Pattern, err)
	}
	if b.PubSub == nil {
		e.Fatalf("space %q %q has no PubSub", space.Namespace, space.Pattern)
	}
	return &topics{e, b.PubSub, space}
}

// publish publishes texts under a subject, all at once.
func (t *topics) publish(subject string, texts ...string) {
	t.Helper()
	messages := make([]driver.Message, len(texts))
	for i, text := range texts {
		messages[i] = driver.Message{Subject: subject, Payload: []byte(text)}
	}
	results := t.outcomes(messages...)
	for i, text := range texts {
		if err := results[i]; err != nil {
			t.Fatalf("publish of %s: %s", brief(text), describe(err))
		}
	}
}

// outcomes publishes messages. The results begin with what was never there, so
// that one that is left out shows.
func (t *topics) outcomes(messages ...driver.Message) []error {
	results := slices.Repeat([]error{errs.Internal}, len(messages))
	t.Publish(t.ctx, messages, results)
	return results
}

// A listener is a subscription with what it has brought so far.
type listener struct {
	*env
	driver.Subscription
	name   string
	got    []string // "subject=payload"
	missed int64
	vague  bool // somewhere an unknown number was missed
}

func (t *topics) listen(filter string) *listener {
	t.Helper()
	return t.subscribe(driver.SubscribeRequest{Filter: filter})
}

func (t *topics) subscribe(r driver.SubscribeRequest) *listener {
	t.Helper()
	s, err := t.Subscribe(t.ctx, r)
	if err != nil {
		t.Fatalf("subscribe to %s: %s", r.Filter, describe(err))
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close of a subscription: %v", err)
		}
	})
	return &listener{env: t.env, Subscription: s, name: strings.TrimSpace(r.Filter + " " + r.Group)}
}

// take waits for more events.
func (l *listener) take(ctx context.Context) error {
	l.Helper()
	events := slices.Repeat([]driver.Event{{Message: driver.Message{Subject: "left-over"}}}, 16)
	n, err := l.Next(ctx, events)
	if err != nil {
		return err
	}
	if n < 1 || n > len(events) {
		l.Fatalf("next on %s: %d events", l.name, n)
	}
	for _, e := range events[:n] {
		switch {
		case e.Missed == 0:
			l.got = append(l.got, e.Subject+"="+string(e.Payload))
			continue
		case e.Missed == driver.MissedUnknown:
			l.vague = true
		case e.Missed < 0:
			l.Errorf("%s: missed %d", l.name, e.Missed)
		}
		l.missed += max(e.Missed, 0)
		if e.Subject != "" || e.Payload != nil {
			l.Errorf("%s: what was missed has a subject or a payload", l.name)
		}
	}
	return nil
}

// until takes events until one is last. It is of the same publisher, so that
// everything before it has come as well or never will.
func (l *listener) until(last string) []string {
	l.Helper()
	ctx, cancel := context.WithTimeout(l.ctx, hang)
	defer cancel()
	for !slices.Contains(l.got, last) {
		if err := l.take(ctx); err != nil {
			l.Fatalf("%s: waiting for %s: %s; got %s", l.name, last, describe(err), briefAll(l.got))
		}
	}
	return l.got
}

// gets waits for exactly these, in this order.
func (l *listener) gets(want ...string) {
	l.Helper()
	if got := l.until(want[len(want)-1]); !slices.Equal(got, want) || l.missed > 0 || l.vague {
		l.Errorf("%s: got %s, missed %d, want %s", l.name, briefAll(got), l.missed, briefAll(want))
	}
	l.got = nil
}

func pubsubFilters(e *env) {
	t := e.topics()
	subjects := []string{"a", "b", "a.b", "a.c", "a.b.c", "A", "a-b", "a_b", "ab.c", "0", strings.Repeat("s", driver.MaxSubject), strings.Repeat("t.", 63) + "tt"}
	filters := append([]string{"*", ">", "a.*", "a.>", "*.b", "*.*", "*.*.*", "a.*.c", "*.>", strings.Repeat("*.", 63) + ">"}, subjects...)
	listeners := make([]*listener, len(filters))
	for i, filter := range filters {
		listeners[i] = t.listen(filter)
	}
	for _, subject := range subjects {
		t.publish(subject, "1")
	}
	for i, filter := range filters {
		var want []string
		for _, subject := range subjects {
			if driver.Matches(filter, subject) {
				want = append(want, subject+"=1")
			}
		}
		// One more that matches shows that nothing else is on its way.
		subject := strings.NewReplacer("*", "z", ">", "z").Replace(filter)
		t.publish(subject, "2")
		got := slices.DeleteFunc(slices.Clone(listeners[i].until(subject+"=2")), func(s string) bool { return strings.HasSuffix(s, "=2") })
		slices.Sort(got) // there is no order among subjects
		slices.Sort(want)
		if !slices.Equal(got, want) {
			e.Errorf("%s: got %s, want %s", filter, briefAll(got), briefAll(want))
		}
	}
}

func everyoneIsTold(e *env) {
	t := e.topics()
	other := e.topicsOn(e.open(), t.space)
	all := []*listener{t.listen("a"), t.listen("a"), t.listen(">"), other.listen("a")}
	for _, from := range []*topics{t, other} {
		e.heard(from, all...)
		from.publish("a", "1", "2", "3")
		for _, l := range all {
			l.gets("a=1", "a=2", "a=3")
		}
	}
}

// heard publishes until all listeners hear it: a backend may need a moment to
// spread the word. What they have heard is then forgotten.
func (e *env) heard(from *topics, all ...*listener) {
	e.Helper()
	for i := range 100 {
		probe := fmt.Sprintf("probe-%d", i)
		from.publish("a", probe)
		silent := false
		for _, l := range all {
			ctx, cancel := context.WithTimeout(e.ctx, 100*time.Millisecond)
			for !slices.Contains(l.got, "a="+probe) && ctx.Err() == nil {
				_ = l.take(ctx)
			}
			cancel()
			silent = silent || !slices.Contains(l.got, "a="+probe)
		}
		if !silent {
			for _, l := range all {
				l.got, l.missed, l.vague = nil, 0, false
			}
			return
		}
	}
	e.Fatal("a subscription hears nothing")
}

func pubsubOrder(e *env) {
	t := e.topics()
	const each = 500
	l := t.listen(">")
	var publishers sync.WaitGroup
	defer publishers.Wait() // a message can come before its publisher has the answer
	for _, subject := range []string{"a", "b"} {
		publishers.Go(func() {
			for i := 0; i < each; i += 10 {
				var batch []driver.Message
				for k := range 10 {
					batch = append(batch, driver.Message{Subject: subject, Payload: fmt.Append(nil, i+k)})
				}
				if err := worst(t.outcomes(batch...)); err != nil {
					t.Errorf("publish: %s", describe(err))
				}
			}
		})
	}
	for _, subject := range []string{"a", "b"} {
		var want []string
		for i := range each {
			want = append(want, fmt.Sprintf("%s=%d", subject, i))
		}
		got := l.until(want[each-1])
		got = slices.DeleteFunc(slices.Clone(got), func(s string) bool { return !strings.HasPrefix(s, subject+"=") })
		if !slices.Equal(got, want) {
			e.Errorf("%s: %d messages are not all in their order: %s", subject, len(got), briefAll(got))
		}
	}
}

func worst(all []error) error {
	for _, err := range all {
		if err != nil {
			return err
		}
	}
	return nil
}

func pubsubPayloads(e *env) {
	t := e.topics()
	most := e.s.pubsub.MaxPayload
	l := t.subscribe(driver.SubscribeRequest{Filter: "a", Buffer: 4 * most})
	for _, payload := range [][]byte{nil, {0}, []byte("\r\n"), []byte("é\xff\xfe"), noise(most)} {
		if err := worst(t.outcomes(driver.Message{Subject: "a", Payload: payload})); err != nil {
			e.Errorf("%d bytes: %s", len(payload), describe(err))
			continue
		}
		l.gets("a=" + string(payload))
	}
	large := driver.Message{Subject: "a", Payload: noise(most + 1)}
	results := t.outcomes(driver.Message{Subject: "a", Payload: []byte("1")}, large, driver.Message{Subject: "a", Payload: []byte("2")})
	e.wants("one byte too many", results[1], errs.PayloadTooLarge)
	if err := worst([]error{results[0], results[2]}); err != nil {
		e.Errorf("beside one that is too large: %s", describe(err))
	}
	l.gets("a=1", "a=2")
}

func pubsubMemory(e *env) {
	t := e.topics()
	one, two := t.listen("a"), t.listen(">")
	payload := []byte("given")
	if err := worst(t.outcomes(driver.Message{Subject: "a", Payload: payload})); err != nil {
		e.Fatalf("publish: %s", describe(err))
	}
	copy(payload, "taken")
	events := make([]driver.Event, 1)
	for _, l := range []*listener{one, two} {
		if n, err := l.Next(e.ctx, events); err != nil || n != 1 || string(events[0].Payload) != "given" {
			e.Fatalf("%s: %d events, %s, %s", l.name, n, describe(err), brief(string(events[0].Payload)))
		}
		copy(events[0].Payload, bytes.Repeat([]byte("x"), 5)) // it is ours
	}
}

func nothingIsKept(e *env) {
	t := e.topics()
	first := t.listen("a")
	t.publish("a", "1")
	first.gets("a=1")
	late := t.listen("a")
	t.publish("a", "2")
	late.gets("a=2")
}

func groupsShare(e *env) {
	t := e.topics()
	other := e.topicsOn(e.open(), t.space)
	const all = 300
	members := []*listener{
		t.subscribe(driver.SubscribeRequest{Filter: "a", Group: "g"}),
		t.subscribe(driver.SubscribeRequest{Filter: "a", Group: "g"}),
	}
	alone := t.listen("a")
	e.heard(other, alone) // the others' word has spread as well: they came before
	members = append(members, other.subscribe(driver.SubscribeRequest{Filter: "a", Group: "g"}))
	e.memberHeard(t, members[2])
	for i := range all {
		t.publish("a", fmt.Sprint("m", i))
	}
	seen := e.collect(members, "a=m", all)
	for text, n := range seen {
		if n != 1 {
			e.Errorf("%s came to %d members", text, n)
		}
	}
	alone.until(fmt.Sprint("a=m", all-1))
	if n := len(slices.DeleteFunc(slices.Clone(alone.got), func(s string) bool { return !strings.HasPrefix(s, "a=m") })); n != all {
		e.Errorf("who shares with nobody got %d of %d", n, all)
	}
}

// memberHeard publishes until a member of a group gets one.
func (e *env) memberHeard(from *topics, l *listener) {
	e.Helper()
	e.await("a member of a group gets something", func() bool {
		from.publish("a", "probe")
		ctx, cancel := context.WithTimeout(e.ctx, 20*time.Millisecond)
		defer cancel()
		return l.take(ctx) == nil
	})
}

// collect takes from all listeners by turns until so many different messages
// have come, and once more for those that come twice. It returns how often each
// of those came whose text begins with prefix.
func (e *env) collect(all []*listener, prefix string, want int) map[string]int {
	e.Helper()
	seen := map[string]int{}
	for turn, complete := 0, false; ; turn++ {
		for _, l := range all {
			ctx, cancel := context.WithTimeout(e.ctx, 20*time.Millisecond)
			for l.take(ctx) == nil {
			}
			cancel()
			for _, text := range l.got {
				if strings.HasPrefix(text, prefix) {
					seen[text]++
				}
			}
			l.got = nil
		}
		if complete {
			return seen
		}
		if complete = len(seen) == want; turn > 100 {
			e.Fatalf("%d of %d messages have come", len(seen), want)
		}
	}
}

// groupsOfOthers has groups that share nothing: of another name, of another
// filter, and in another space.
func groupsOfOthers(e *env) {
	t := e.topics()
	elsewhere := e.topics()
	all := []*listener{
		t.subscribe(driver.SubscribeRequest{Filter: "a", Group: "g"}),
		t.subscribe(driver.SubscribeRequest{Filter: "a", Group: "h"}),
		t.subscribe(driver.SubscribeRequest{Filter: "*", Group: "g"}),
		t.subscribe(driver.SubscribeRequest{Filter: ">", Group: "g"}),
	}
	foreign := elsewhere.subscribe(driver.SubscribeRequest{Filter: "a", Group: "g"})
	want := []string{}
	for i := range 50 {
		t.publish("a", fmt.Sprint(i))
		want = append(want, fmt.Sprint("a=", i))
	}
	for _, l := range all {
		l.gets(want...)
	}
	elsewhere.publish("a", "own")
	foreign.gets("a=own")
}

func memberLeaves(e *env) {
	t := e.topics()
	stays := t.subscribe(driver.SubscribeRequest{Filter: "a", Group: "g"})
	leaves := t.subscribe(driver.SubscribeRequest{Filter: "a", Group: "g"})
	if err := leaves.Close(); err != nil {
		e.Fatalf("close: %v", err)
	}
	for range 25 {
		stays.got = nil
		var want []string
		for i := range 20 {
			t.publish("a", fmt.Sprint(i))
			want = append(want, fmt.Sprint("a=", i))
		}
		ctx, cancel := context.WithTimeout(e.ctx, 200*time.Millisecond)
		for !slices.Contains(stays.got, want[19]) && stays.take(ctx) == nil {
		}
		cancel()
		if slices.Equal(stays.got, want) {
			return
		}
	}
	e.Error("the one that stays does not get what the other one had")
}

// slowSubscriber has one that takes nothing while much is published: it holds
// up nobody, and what comes and what it is told to have missed are all.
func slowSubscriber(e *env) {
	t := e.topics()
	const all, size = 2000, 1000
	slow := t.subscribe(driver.SubscribeRequest{Filter: "a", Buffer: 100 << 10})
	quick := t.subscribe(driver.SubscribeRequest{Filter: "a", Buffer: 16 << 20})
	pad := strings.Repeat("x", size)
	e.within("publishing beside a slow subscriber", patience, func() {
		for i := range all {
			t.publish("a", fmt.Sprintf("%05d%s", i, pad))
		}
	})
	last := fmt.Sprintf("a=%05d%s", all-1, pad)
	if quick.until(last); len(quick.got) != all || quick.missed != 0 {
		e.Errorf("the quick one got %d and missed %d, of %d", len(quick.got), quick.missed, all)
	}
	ctx, cancel := context.WithTimeout(e.ctx, hang)
	defer cancel()
	for !slow.vague && int64(len(slow.got))+slow.missed < all {
		if err := slow.take(ctx); err != nil {
			e.Fatalf("slow: %s; %d came and %d were missed, of %d", describe(err), len(slow.got), slow.missed, all)
		}
	}
	if !slices.IsSorted(slow.got) || len(slow.got) == 0 || len(slow.got) > 200 {
		e.Errorf("the slow one got %d messages, in their order: %v", len(slow.got), slices.IsSorted(slow.got))
	}
	if n := int64(len(slow.got)) + slow.missed; !slow.vague && n != all {
		e.Errorf("%d came or were missed, of %d", n, all)
	}
	slow.got, slow.missed = nil, 0
	t.publish("a", "after")
	slow.until("a=after")
}

func pubsubOtherSpaces(e *env) {
	for _, pair := range e.pairs() {
		one, other := e.topicsOn(e.s.anchor, pair[0]), e.topicsOn(e.s.anchor, pair[1])
		all := []*listener{one.listen(">"), one.listen("a")}
		other.publish("a", "of the other")
		other.publish("b.a", "of the other")
		one.publish("a", "own")
		for _, l := range all {
			l.gets("a=own")
			if err := l.Close(); err != nil {
				e.Errorf("close: %v", err)
			}
		}
	}
}

func pubsubClose(e *env) {
	t := e.topics()
	l := t.listen("a")
	waiting := make(chan error, 1)
	go func() {
		events := make([]driver.Event, 1)
		for {
			if _, err := l.Next(e.ctx, events); err != nil {
				waiting <- err
				return
			}
		}
	}()
	t.publish("a", "1")
	e.within("close of a subscription", 5*time.Second, func() {
		for range 2 {
			if err := l.Close(); err != nil {
				e.Errorf("close of a subscription: %v", err)
			}
		}
	})
	e.within("next under way", 5*time.Second, func() { e.wants("next under way", <-waiting, errs.Cancelled) })
	t.publish("a", "2")
	e.wants("next after close", l.take(e.ctx), errs.Cancelled)
}

func pubsubConnCloses(e *env) {
	conn := e.open()
	t := e.topicsOn(conn, e.space())
	l := t.listen("a")
	t.publish("a", "1")
	l.gets("a=1")
	if err := conn.Close(); err != nil {
		e.Fatalf("close: %v", err)
	}
	e.within("next on a closed connection", 5*time.Second, func() {
		ctx, cancel := context.WithTimeout(e.ctx, 2*time.Second)
		defer cancel()
		e.wants("next on a closed connection", l.take(ctx), errs.BackendUnavailable)
	})
	e.wants("publish on a closed connection", worst(t.outcomes(driver.Message{Subject: "a"})), errs.BackendUnavailable)
	_, err := t.Subscribe(e.ctx, driver.SubscribeRequest{Filter: "a"})
	e.wants("subscribe on a closed connection", err, errs.BackendUnavailable)
}

func pubsubContext(e *env) {
	t := e.topics()
	l := t.listen("a")
	ended, cancel := context.WithCancel(e.ctx)
	cancel()
	results := make([]error, 2)
	t.Publish(ended, []driver.Message{{Subject: "a"}, {Subject: "a"}}, results)
	for _, err := range results {
		e.wants("publish", err, errs.Cancelled)
	}
	_, err := t.Subscribe(ended, driver.SubscribeRequest{Filter: "a"})
	e.wants("subscribe", err, errs.Cancelled)
	e.wants("next", l.take(ended), errs.Cancelled)
	short, cancel := context.WithTimeout(e.ctx, 50*time.Millisecond)
	defer cancel()
	e.within("next that waits for nothing", 5*time.Second, func() { e.wants("next", l.take(short), errs.Deadline) })
	t.publish("a", "1")
	l.gets("a=1")
}
