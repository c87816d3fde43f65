package wrap_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/memory"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

// shakyLog is the Log of memory, each method of which fails as the test wants.
type shakyLog struct {
	driver.Log
	calls   int
	outcome func(method string) error
}

type shakyTopic struct {
	driver.Topic
	log *shakyLog
}

type shakyMember struct {
	driver.Member
	log *shakyLog
}

func newShakyLog(t *testing.T, outcome func(method string) error) *shakyLog {
	t.Helper()
	conn, err := memory.Driver().Open(driver.Config{URL: "memory:"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	b, err := conn.Space(driver.Space{Namespace: "n", Pattern: "p"})
	if err != nil {
		t.Fatal(err)
	}
	return &shakyLog{Log: b.Log, outcome: outcome}
}

func (l *shakyLog) call(method string) error {
	l.calls++
	return l.outcome(method)
}

func (l *shakyLog) Topic(ctx context.Context, spec driver.TopicSpec) (driver.Topic, error) {
	if err := l.call("topic"); err != nil {
		return nil, err
	}
	t, err := l.Log.Topic(ctx, spec)
	return &shakyTopic{t, l}, err
}

func (t *shakyTopic) Append(ctx context.Context, records []driver.Record, results []driver.AppendResult) {
	if err := t.log.call("append"); err != nil {
		results[len(results)-1].Err = err
		return
	}
	t.Topic.Append(ctx, records, results)
}

func (t *shakyTopic) Read(ctx context.Context, r driver.ReadRequest) (driver.Records, error) {
	if err := t.log.call("read"); err != nil {
		return driver.Records{}, err
	}
	return t.Topic.Read(ctx, r)
}

func (t *shakyTopic) Join(ctx context.Context, r driver.JoinRequest) (driver.Member, error) {
	if err := t.log.call("join"); err != nil {
		return nil, err
	}
	m, err := t.Topic.Join(ctx, r)
	return &shakyMember{m, t.log}, err
}

func (t *shakyTopic) Stat(ctx context.Context, group string) ([]driver.PartitionStat, error) {
	if err := t.log.call("stat"); err != nil {
		return nil, err
	}
	return t.Topic.Stat(ctx, group)
}

func (t *shakyTopic) Seek(ctx context.Context, group string, to []driver.Target) error {
	if err := t.log.call("seek"); err != nil {
		return err
	}
	return t.Topic.Seek(ctx, group, to)
}

func (m *shakyMember) Commit(ctx context.Context, commits []driver.Commit, results []error) {
	if err := m.log.call("commit"); err != nil {
		results[0] = err
		return
	}
	m.Member.Commit(ctx, commits, results)
}

// askAll calls every method once, the topic's first, and returns their errors.
func askAll(ctx context.Context, t driver.Topic) map[string]error {
	out := map[string]error{}
	appended := make([]driver.AppendResult, 2)
	t.Append(ctx, []driver.Record{{Value: []byte("a")}, {Value: []byte("b")}}, appended)
	out["append"] = errors.Join(appended[0].Err, appended[1].Err)
	_, out["read"] = t.Read(ctx, driver.ReadRequest{Limit: 1})
	_, out["join"] = t.Join(ctx, driver.JoinRequest{Group: "g"})
	_, out["stat"] = t.Stat(ctx, "g")
	out["seek"] = t.Seek(ctx, "g", nil)
	return out
}

func TestObserveLog(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	var failing bool
	var s seen
	l := wrap.ObserveLog(newShakyLog(t, func(string) error {
		if failing {
			return boom
		}
		return nil
	}), "shelf", &s)
	topic, err := l.Topic(t.Context(), driver.TopicSpec{Name: "t", Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	m, err := topic.Join(t.Context(), driver.JoinRequest{Group: "g"})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close(t.Context())
	for method, err := range askAll(t.Context(), topic) {
		if err != nil {
			t.Errorf("%s: %v", method, err)
		}
	}
	failing = true
	all := askAll(t.Context(), topic)
	_, all["topic"] = l.Topic(t.Context(), driver.TopicSpec{Name: "t", Partitions: 1})
	committed := make([]error, 2)
	m.Commit(t.Context(), make([]driver.Commit, 2), committed)
	all["commit"] = committed[0]
	for method, err := range all {
		if !errors.Is(err, boom) || !strings.Contains(err.Error(), "backend shelf: "+method) {
			t.Errorf("%s: %v", method, err)
		}
	}
	want := "topic 1 0; join 1 0; append 2 0; read 1 0; join 1 0; stat 1 0; seek 1 0; " +
		"append 2 1; read 1 1; join 1 1; stat 1 1; seek 1 1; topic 1 1; commit 2 1"
	if got := strings.Join(s, "; "); got != want {
		t.Errorf("told\n%s, want\n%s", got, want)
	}
}

// A Log that is away opens the circuit for every method; who is a member stays
// one, and its commits are let through.
func TestBreakerOfLog(t *testing.T) {
	t.Parallel()
	away := false
	s := newShakyLog(t, func(method string) error {
		if away && method == "append" {
			return errs.BackendUnavailable
		}
		return nil
	})
	l := wrap.NewBreaker("shelf", nil).Log(s)
	topic, err := l.Topic(t.Context(), driver.TopicSpec{Name: "t", Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	m, err := topic.Join(t.Context(), driver.JoinRequest{Group: "g"})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close(t.Context())
	away = true
	results := make([]driver.AppendResult, 2)
	for errs.ReasonOf(results[1].Err) != errs.CircuitOpen {
		if s.calls > 100 {
			t.Fatalf("the circuit did not open: %v", results[1].Err)
		}
		topic.Append(t.Context(), make([]driver.Record, 2), results)
	}
	before, all := s.calls, askAll(t.Context(), topic)
	_, all["topic"] = l.Topic(t.Context(), driver.TopicSpec{Name: "t", Partitions: 1})
	for method, err := range all {
		if errs.ReasonOf(err) != errs.CircuitOpen {
			t.Errorf("%s: %v", method, err)
		}
	}
	m.Commit(t.Context(), []driver.Commit{{Claim: -1}}, make([]error, 1))
	if s.calls != before+1 {
		t.Errorf("%d calls reached the backend, want the commit's alone", s.calls-before)
	}
}

// A call over the limit waits; a member that waits for records takes no place.
func TestLimitOfLog(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	held := newShakyLog(t, func(method string) error {
		if method == "stat" {
			entered <- struct{}{}
			<-release
		}
		return nil
	})
	topic, err := wrap.NewLimiter(1).Log(held).Topic(t.Context(), driver.TopicSpec{Name: "t", Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	m, err := topic.Join(t.Context(), driver.JoinRequest{Group: "g"})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close(t.Context())
	events := make([]driver.LogEvent, 8)
	if n, err := m.Next(t.Context(), events); n != 1 || err != nil {
		t.Fatalf("%d events, %v", n, err)
	}
	waiting := make(chan error, 1)
	go func() { _, err := m.Next(t.Context(), events); waiting <- err }()
	go topic.Stat(t.Context(), "g")
	<-entered
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := topic.Read(ctx, driver.ReadRequest{Limit: 1}); errs.ReasonOf(err) != errs.Overloaded {
		t.Errorf("a second call: %v", err)
	}
	close(release)
	results := make([]driver.AppendResult, 1)
	topic.Append(t.Context(), make([]driver.Record, 1), results)
	if err := errors.Join(results[0].Err, <-waiting); err != nil {
		t.Error(err)
	}
}
