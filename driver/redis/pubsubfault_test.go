package redis_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/servers"
)

// hears waits until what others publish comes to a listener, which has to say
// before that it may have missed something.
func hears(t testing.TB, s driver.Subscription, publish func(payload string) error) {
	t.Helper()
	told := false
	for i := range 300 {
		last := fmt.Sprint("a=", i)
		_ = publish(fmt.Sprint(i)) // it may be away itself
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		events := make([]driver.Event, 1)
		for ctx.Err() == nil {
			if _, err := s.Next(ctx, events); err != nil {
				break
			}
			told = told || events[0].Missed == driver.MissedUnknown
			if events[0].Subject+"="+string(events[0].Payload) == last && told {
				cancel()
				return
			}
		}
		cancel()
	}
	t.Fatalf("nothing comes; that something may be missing was told: %v", told)
}

// subscriber returns the id of the only connection with subscriptions, "" if
// there is none.
func subscriber(t testing.TB, c *goredis.Client) string {
	t.Helper()
	list := c.Do(t.Context(), "client", "list", "type", "pubsub").String()
	_, rest, ok := strings.Cut(list, "id=")
	if !ok {
		return ""
	}
	id, _, _ := strings.Cut(rest, " ")
	return id
}

// A server cuts off a subscriber for whom too much waits.
func TestServerCutsOffSubscriber(t *testing.T) {
	t.Parallel()
	s := servers.RedisWith(t, "--client-output-buffer-limit", "pubsub 1mb 0 0")
	p, other := topics(t, open(t, driver.Config{URL: s.URL}), orders), plain(t, s.Addr)
	l := listen(t, p, "a")
	before := subscriber(t, other)
	publish(t, p, "a", strings.Repeat("x", 2<<20))
	await(t, "another connection", func() bool { now := subscriber(t, other); return now != before && now != "" })
	gets(t, l, "missed -1")
	publish(t, p, "a", "small")
	gets(t, l, "a=small")
}

func TestSubscriberWithoutRights(t *testing.T) {
	t.Parallel()
	s := servers.RedisWith(t, "--user", "default", "on", "nopass", "~*", "+@all", "resetchannels", "&orders:carts:*")
	conn := open(t, driver.Config{URL: s.URL})
	own, other := topics(t, conn, orders), topics(t, conn, driver.Space{Namespace: "other", Pattern: "p"})
	l := listen(t, own, "a")
	_, err := other.Subscribe(t.Context(), driver.SubscribeRequest{Filter: ">"})
	wants(t, "subscribe", err, errs.BackendUnavailable)
	_, err = other.Subscribe(t.Context(), driver.SubscribeRequest{Filter: "a"})
	wants(t, "subscribe", err, errs.BackendUnavailable)
	wants(t, "publish", tryPublish(t.Context(), other, "a", "x"), errs.BackendUnavailable)
	wild := listen(t, own, "*")
	publish(t, own, "a", "1")
	gets(t, l, "a=1")
	gets(t, wild, "a=1")
}

// The rights are there for the channel but not for the pattern: who hears by
// the channel goes on.
func TestPatternIsRefused(t *testing.T) {
	t.Parallel()
	s := servers.RedisWith(t, "--user", "default", "on", "nopass", "~*", "&*", "+@all", "-psubscribe")
	p := topics(t, open(t, driver.Config{URL: s.URL}), orders)
	l := listen(t, p, "a")
	for range 3 {
		_, err := p.Subscribe(t.Context(), driver.SubscribeRequest{Filter: ">"})
		wants(t, "subscribe", err, errs.BackendUnavailable)
		publish(t, p, "a", "1")
		gets(t, l, "a=1")
		another := listen(t, p, "a")
		publish(t, p, "a", "2")
		gets(t, l, "a=2")
		gets(t, another, "a=2")
	}
}

// Rights that are taken away while a connection is made again end no
// subscription.
func TestRightsComeBack(t *testing.T) {
	t.Parallel()
	s := servers.RedisWith(t, "--user", "admin", "on", ">sesame", "&*", "+@all")
	p := topics(t, open(t, driver.Config{URL: s.URL}), orders)
	all := []driver.Subscription{listen(t, p, "a"), listen(t, p, "*")}
	admin := goredis.NewClient(&goredis.Options{Addr: s.Addr, Username: "admin", Password: "sesame", DisableIdentity: true})
	defer func() { must(t, admin.Close()) }()
	ctx := t.Context()
	tried := func() int {
		_, rest, _ := strings.Cut(admin.Info(ctx, "commandstats").Val(), "cmdstat_psubscribe:")
		_, rest, _ = strings.Cut(rest, "rejected_calls=")
		n, _ := strconv.Atoi(rest[:max(strings.IndexByte(rest, ','), 0)])
		return n
	}
	must(t, admin.Do(ctx, "acl", "setuser", "default", "-psubscribe").Err())
	must(t, admin.Do(ctx, "client", "kill", "type", "pubsub").Err())
	for _, l := range all {
		gets(t, l, "missed -1")
	}
	await(t, "a refused try", func() bool { return tried() > 0 })
	_, err := p.Subscribe(ctx, driver.SubscribeRequest{Filter: "*.*"})
	wants(t, "subscribe", err, errs.BackendUnavailable)
	if n := tried(); n > 20 {
		t.Errorf("the server was asked %d times", n)
	}
	must(t, admin.Do(ctx, "acl", "setuser", "default", "+psubscribe").Err())
	heard := func(l driver.Subscription) bool {
		ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		_, err := l.Next(ctx, make([]driver.Event, 1))
		return err == nil
	}
	await(t, "all hear again", func() bool {
		publish(t, p, "a", "1")
		one, two := heard(all[0]), heard(all[1])
		return one && two
	})
}

func TestCloseBesidePausedServer(t *testing.T) {
	t.Parallel()
	s := servers.RedisWith(t)
	conn := open(t, driver.Config{URL: s.URL})
	p := topics(t, conn, orders)
	l := listen(t, p, "a")
	s.Pause()
	defer s.Resume()
	const callers = 20 // of whom some wait when the connection is closed
	waiting := make(chan error, callers)
	var begun sync.WaitGroup
	begun.Add(callers)
	for range callers {
		go func() {
			begun.Done()
			_, err := p.Subscribe(t.Context(), driver.SubscribeRequest{Filter: "b"})
			waiting <- err
		}()
	}
	begun.Wait()
	start := time.Now()
	must(t, conn.Close())
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("close took %v", took)
	}
	for range callers {
		select {
		case err := <-waiting:
			wants(t, "subscribe", err, errs.BackendUnavailable)
		case <-time.After(20 * time.Second):
			t.Fatal("a subscribe goes on after its connection was closed")
		}
	}
	_, err := l.Next(t.Context(), make([]driver.Event, 1))
	wants(t, "next", err, errs.BackendUnavailable)
}

func TestSentinelFailoverOfMessages(t *testing.T) {
	t.Parallel()
	master := servers.RedisWith(t)
	replica := servers.RedisReplica(t, master)
	guard := servers.RedisSentinel(t, "main", master, 1)
	p := topics(t, open(t, driver.Config{URL: guard.URL}), orders)
	l := listen(t, p, "a")
	publish(t, p, "a", "before")
	gets(t, l, "a=before")
	sentinels := plain(t, guard.Addr)
	await(t, "the sentinel to know the replica", func() bool {
		list, err := sentinels.Do(t.Context(), "sentinel", "replicas", "main").Slice()
		return err == nil && len(list) == 1
	})
	master.Kill()
	hears(t, l, func(payload string) error {
		return plain(t, replica.Addr).Publish(t.Context(), "orders:carts:a", payload).Err()
	})
	await(t, "a publish through the new master", func() bool { return tryPublish(t.Context(), p, "a", "after") == nil })
}

// A planned failover leaves the old master alive.
func TestSentinelSwitchOfMessages(t *testing.T) {
	t.Parallel()
	master := servers.RedisWith(t)
	replica := servers.RedisReplica(t, master)
	guard := servers.RedisSentinel(t, "main", master, 1)
	p := topics(t, open(t, driver.Config{URL: guard.URL}), orders)
	l := listen(t, p, "a")
	sentinels := plain(t, guard.Addr)
	await(t, "a failover", func() bool { return sentinels.Do(t.Context(), "sentinel", "failover", "main").Err() == nil })
	now := plain(t, replica.Addr)
	await(t, "another master", func() bool { return strings.Contains(now.Info(t.Context(), "replication").Val(), "role:master") })
	hears(t, l, func(payload string) error { return now.Publish(t.Context(), "orders:carts:a", payload).Err() })
	await(t, "a message that goes the whole way", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if tryPublish(ctx, p, "a", "through") != nil {
			return false
		}
		n, _ := l.Next(ctx, make([]driver.Event, 1))
		return n == 1
	})
}

// clusterOf returns a Cluster's nodes with the one that a connection has
// subscribed at first.
func clusterOf(t testing.TB) (nodes []*servers.Server, clients []*goredis.Client, p driver.PubSub, l driver.Subscription) {
	t.Helper()
	nodes = servers.RedisCluster(t, 3)
	p = topics(t, open(t, driver.Config{URL: "redis+cluster://" + nodes[0].Addr + "," + nodes[1].Addr}), orders)
	l = listen(t, p, "a")
	for i := range nodes {
		clients = append(clients, plain(t, nodes[i].Addr))
		if subscriber(t, clients[i]) != "" {
			nodes[0], nodes[i] = nodes[i], nodes[0]
			clients[0], clients[i] = clients[i], clients[0]
		}
	}
	if subscriber(t, clients[0]) == "" {
		t.Fatal("nobody has a subscription")
	}
	return nodes, clients, p, l
}

func TestClusterNodeOfMessagesFails(t *testing.T) {
	t.Parallel()
	nodes, clients, p, l := clusterOf(t)
	publish(t, p, "a", "before")
	gets(t, l, "a=before")
	must(t, clients[1].Publish(t.Context(), "orders:carts:a", "elsewhere").Err())
	gets(t, l, "a=elsewhere")
	nodes[0].Kill()
	hears(t, l, func(payload string) error { return clients[1].Publish(t.Context(), "orders:carts:a", payload).Err() })
	await(t, "a publish through another node", func() bool { return tryPublish(t.Context(), p, "a", "after") == nil })
}

// A node that is taken out of the Cluster lives on, and tells nobody what it is
// told.
func TestClusterNodeOfMessagesIsTakenOut(t *testing.T) {
	t.Parallel()
	_, clients, p, l := clusterOf(t)
	ctx := t.Context()
	id := clients[0].ClusterMyID(ctx).Val()
	for _, c := range clients[1:] {
		must(t, c.ConfigSet(ctx, "cluster-require-full-coverage", "no").Err())
		must(t, c.ClusterForget(ctx, id).Err())
	}
	must(t, clients[0].ClusterResetHard(ctx).Err())
	hears(t, l, func(payload string) error { return clients[1].Publish(ctx, "orders:carts:a", payload).Err() })
	await(t, "what is published comes to all nodes", func() bool {
		must(t, tryPublish(ctx, p, "a", "after"))
		theirs := clients[2].PubSubNumSub(ctx, "orders:carts:a").Val()["orders:carts:a"]
		return theirs+clients[1].PubSubNumSub(ctx, "orders:carts:a").Val()["orders:carts:a"] == 1
	})
}
