package redis_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/drivertest"
	"github.com/prismgw/prism/driver/redis"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/servers"
)

func TestPubSubConformance(t *testing.T) {
	drivertest.RunPubSub(t, drivertest.PubSubHarness{
		Name:   "redis",
		Driver: redis.Driver(),
		Config: driver.Config{Name: "test", URL: servers.Redis(t).URL},
		Server: func(tb testing.TB) drivertest.Server {
			s := servers.RedisWith(tb)
			return drivertest.Server{
				Process: s, Addr: s.Addr,
				Config: func(addr string) driver.Config { return driver.Config{URL: "redis://" + addr + "/0"} },
			}
		},
	})
}

func TestPubSubConformanceCluster(t *testing.T) {
	node := servers.RedisCluster(t, 3)[0]
	drivertest.RunPubSub(t, drivertest.PubSubHarness{
		Name:   "redis (cluster)",
		Driver: redis.Driver(),
		Config: driver.Config{Name: "test", URL: "redis+cluster://" + node.Addr},
	})
}

// topics returns the messages of a space.
func topics(t testing.TB, c driver.Conn, s driver.Space) driver.PubSub {
	t.Helper()
	b, err := c.Space(s)
	must(t, err)
	return b.PubSub
}

func publish(t testing.TB, p driver.PubSub, subject, payload string) {
	t.Helper()
	must(t, tryPublish(t.Context(), p, subject, payload))
}

func tryPublish(ctx context.Context, p driver.PubSub, subject, payload string) error {
	results := make([]error, 1)
	p.Publish(ctx, []driver.Message{{Subject: subject, Payload: []byte(payload)}}, results)
	return results[0]
}

func listen(t testing.TB, p driver.PubSub, filter string) driver.Subscription {
	t.Helper()
	s, err := p.Subscribe(t.Context(), driver.SubscribeRequest{Filter: filter, Buffer: 64 << 20})
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// next takes one event: "subject=payload", or how many were missed.
func next(t testing.TB, s driver.Subscription) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	events := make([]driver.Event, 1)
	_, err := s.Next(ctx, events)
	must(t, err)
	if events[0].Missed != 0 {
		return fmt.Sprint("missed ", events[0].Missed)
	}
	return events[0].Subject + "=" + string(events[0].Payload)
}

func gets(t testing.TB, s driver.Subscription, want ...string) {
	t.Helper()
	for _, one := range want {
		if got := next(t, s); got != one {
			t.Fatalf("got %q, want %q", got, one)
		}
	}
}

// The other program is redis-cli: what Prism publishes it hears on the channel
// that has the form of keys, and what it publishes there Prism hears.
func TestOtherProgramsShareChannels(t *testing.T) {
	t.Parallel()
	s := servers.RedisWith(t)
	p := topics(t, open(t, driver.Config{URL: s.URL}), driver.Space{Namespace: "shop:eu", Pattern: "news"})
	cli := func(args ...string) *exec.Cmd {
		return exec.CommandContext(t.Context(), "redis-cli", append([]string{"-p", strconv.Itoa(s.Port)}, args...)...)
	}
	theirs := cli("--csv", "psubscribe", "shop%3Aeu:news:*")
	out, err := theirs.StdoutPipe()
	must(t, err)
	must(t, theirs.Start())
	t.Cleanup(func() { _ = theirs.Process.Kill(); _ = theirs.Wait() })
	lines := bufio.NewScanner(out)
	said := func(want string) {
		t.Helper()
		for lines.Scan() && strings.HasPrefix(lines.Text(), "Reading messages") {
		}
		if lines.Text() != want {
			t.Fatalf("redis-cli says %s, want %s", lines.Text(), want)
		}
	}
	said(`"psubscribe","shop%3Aeu:news:*",1`)
	publish(t, p, "a.b", "from Prism")
	said(`"pmessage","shop%3Aeu:news:*","shop%3Aeu:news:a.b","from Prism"`)

	all := []driver.Subscription{listen(t, p, "a.b"), listen(t, p, "a.*")}
	for _, channel := range []string{"a..b", "a.b:c", "a.b ", "é", ">"} { // no subjects of ours
		must(t, cli("publish", "shop%3Aeu:news:"+channel, "x").Run())
	}
	if told, err := cli("publish", "shop%3Aeu:news:a.b", "from redis-cli").Output(); err != nil || string(told) != "2\n" {
		t.Fatalf("publish of redis-cli: %q, %v", told, err)
	}
	for _, l := range all {
		gets(t, l, "a.b=from redis-cli")
	}
}

// Redis tells a message to the subscribers of all databases.
func TestDatabasesAreApart(t *testing.T) {
	t.Parallel()
	s := servers.RedisWith(t)
	zero := topics(t, open(t, driver.Config{URL: "redis://" + s.Addr + "/0"}), orders)
	one := topics(t, open(t, driver.Config{URL: "redis://" + s.Addr + "/1"}), orders)
	// Its keys and channels begin with "1:orders:", as the other's channels do.
	odd := topics(t, open(t, driver.Config{URL: s.URL}), driver.Space{Namespace: "1", Pattern: "orders"})
	for _, filter := range []string{"a", ">"} {
		inZero, inOne, inOdd := listen(t, zero, filter), listen(t, one, filter), listen(t, odd, filter)
		publish(t, zero, "a", "of 0")
		publish(t, one, "a", "of 1")
		publish(t, odd, "a", "odd")
		for l, want := range map[driver.Subscription]string{inZero: "a=of 0", inOne: "a=of 1", inOdd: "a=odd"} {
			gets(t, l, want)
		}
		publish(t, zero, "a", "last")
		gets(t, inZero, "a=last")
	}
	other := plain(t, s.Addr)
	if got := other.PubSubChannels(t.Context(), "1:orders:carts:*").Val(); len(got) != 0 {
		t.Errorf("channels of a space that is heard as a whole: %q", got)
	}
}

func TestNoGroups(t *testing.T) {
	t.Parallel()
	p := topics(t, open(t, driver.Config{URL: servers.RedisWith(t).URL}), orders)
	_, err := p.Subscribe(t.Context(), driver.SubscribeRequest{Filter: "a", Group: "g"})
	wants(t, "a group", err, errs.Unsupported)
}

// A subscriber to whom nothing larger than this can be told safely would be cut
// off by the server.
func TestLargestMessage(t *testing.T) {
	t.Parallel()
	s := servers.RedisWith(t)
	big := topics(t, open(t, driver.Config{URL: s.URL, Options: json.RawMessage(`{"max_value": 536870912}`)}), orders)
	if most := big.Guarantees().MaxPayload; most != 8<<20 {
		t.Errorf("at most %d bytes", most)
	}
	small := topics(t, open(t, driver.Config{URL: s.URL, Options: json.RawMessage(`{"max_value": 10}`)}), orders)
	if most := small.Guarantees().MaxPayload; most != 10 {
		t.Errorf("at most %d bytes", most)
	}
	// However many filters a message falls under, it comes over once.
	var all []driver.Subscription
	for _, filter := range []string{"a.b", ">", "*.*", "a.>", "a.*", "*.b", "*.>"} {
		all = append(all, listen(t, big, filter))
	}
	payload := strings.Repeat("x", 8<<20)
	for range 2 {
		publish(t, big, "a.b", payload)
		for _, l := range all {
			gets(t, l, "a.b="+payload)
		}
	}
}

// The server is asked for what somebody listens to, once, and no longer.
func TestSubscriptionsAreShared(t *testing.T) {
	t.Parallel()
	s := servers.RedisWith(t)
	conn := open(t, driver.Config{URL: s.URL})
	p, other := topics(t, conn, orders), plain(t, s.Addr)
	ctx := t.Context()
	server := func(what string, channels, patterns int64) {
		t.Helper()
		await(t, what, func() bool {
			return int64(len(other.PubSubChannels(ctx, "*").Val())) == channels && other.PubSubNumPat(ctx).Val() == patterns
		})
	}
	a1, a2, b := listen(t, p, "a"), listen(t, p, "a"), listen(t, p, "b")
	server("two channels", 2, 0)
	must(t, a1.Close())
	must(t, b.Close())
	server("one channel", 1, 0)
	wild1, wild2 := listen(t, p, "a.*"), listen(t, p, "*.b")
	server("all of the space", 0, 1)
	c := listen(t, p, "c")
	must(t, wild1.Close())
	publish(t, p, "c", "1")
	gets(t, c, "c=1")
	server("all of the space still", 0, 1)
	must(t, wild2.Close())
	server("two channels again", 2, 0)
	publish(t, p, "a", "2")
	gets(t, a2, "a=2")
	must(t, a2.Close())
	must(t, c.Close())
	server("nothing", 0, 0)
	if n := strings.Count(other.Do(ctx, "client", "list", "type", "pubsub").String(), "id="); n > 1 {
		t.Errorf("%d connections", n)
	}
}

// TestListenersComeAndGo has what the server sends change all the time, while
// somebody publishes. Nobody may get a message twice, or miss one unheard.
func TestListenersComeAndGo(t *testing.T) {
	t.Parallel()
	p := topics(t, open(t, driver.Config{URL: servers.RedisWith(t).URL}), orders)
	var sent atomic.Int64 // the last message whose publish has begun
	var work sync.WaitGroup
	publishing, stop := context.WithCancel(t.Context())
	work.Go(func() {
		for publishing.Err() == nil {
			if err := publishNumbers(t.Context(), p, &sent); err != nil {
				t.Errorf("publish: %v", err)
				return
			}
		}
	})
	var listeners sync.WaitGroup
	for _, filter := range []string{"a.b", "a.b", "a.c", "*.b"} {
		listeners.Go(func() {
			for range 200 {
				if err := contiguous(t.Context(), p, filter, &sent); err != nil {
					t.Errorf("%s: %v", filter, err)
					return
				}
				time.Sleep(rand.N(200 * time.Microsecond)) // about as long as the server needs to hear of it
			}
		})
	}
	listeners.Wait()
	stop()
	work.Wait()
}

// publishNumbers publishes the next numbers under two subjects, all at once.
func publishNumbers(ctx context.Context, p driver.PubSub, sent *atomic.Int64) error {
	const n = 32
	first := sent.Add(n) - n + 1
	batch, results := make([]driver.Message, 2*n), make([]error, 2*n)
	for i := range batch {
		payload := strconv.AppendInt(nil, first+int64(i/2), 10)
		batch[i] = driver.Message{Subject: []string{"a.b", "a.c"}[i%2], Payload: payload}
	}
	p.Publish(ctx, batch, results)
	return errors.Join(results...)
}

// contiguous listens for some messages, each of which is to follow the last.
func contiguous(ctx context.Context, p driver.PubSub, filter string, sent *atomic.Int64) error {
	s, err := p.Subscribe(ctx, driver.SubscribeRequest{Filter: filter})
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	last, events := sent.Load(), make([]driver.Event, 1)
	for i := range 1 + rand.IntN(20) {
		if _, err := s.Next(ctx, events); err != nil {
			return err
		}
		n, err := strconv.ParseInt(string(events[0].Payload), 10, 64)
		if err != nil || n > last+1 || i > 0 && n != last+1 {
			return fmt.Errorf("message %d: %q after %d, missed %d", i, events[0].Payload, last, events[0].Missed)
		}
		last = n
	}
	return nil
}
