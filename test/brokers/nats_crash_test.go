package brokers

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/prismgw/prism/internal/testutil/servers"
)

// rejoin returns the consumer of a group after its server has been restarted.
func rejoin(t *testing.T, s *natsStream, group string) (jetstream.Consumer, jetstream.JetStream) {
	t.Helper()
	js := natsClient(t, s.url)
	c, err := js.Consumer(t.Context(), s.name, group)
	must(t, err)
	return c, js
}

// untilLost does something to a group and kills the server right after, until
// the server has forgotten it.
func untilLost(t *testing.T, what string, try func(round int) (lost bool)) {
	t.Helper()
	for round := range 20 {
		if try(round) {
			t.Logf("%s: forgotten in round %d", what, round+1)
			return
		}
	}
	t.Errorf("%s was not forgotten in 20 crashes; the server has got better", what)
}

// A server by itself writes the state of its consumers behind its answers, also
// where it syncs each message: a confirmed settlement is forgotten by a crash
// within about 100 ms of it, and the message comes again; at once, if its
// delivery is forgotten too. Messages it has confirmed are all there.
func TestNATSCrashForgetsSettlements(t *testing.T) {
	t.Parallel()
	for name, config := range map[string][]string{
		"default":     nil,
		"sync always": {"jetstream { store_dir: '{dir}/data', sync_interval: always }"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			forgetsSettlements(t, servers.NATSWith(t, config...))
		})
	}
}

func forgetsSettlements(t *testing.T, server *servers.Server) {
	t.Helper()
	const each = 20
	s := newStream(t, server.URL)
	s.group(t, "g", nil)
	untilLost(t, "a confirmed settlement", func(round int) bool {
		c, js := rejoin(t, s, "g")
		for range each {
			_, err := js.Publish(t.Context(), s.subject(0), nil)
			must(t, err)
		}
		settle(t, take(t, c, each)...)
		server.Restart()

		c, _ = rejoin(t, s, "g")
		stream, err := s.Info(t.Context())
		must(t, err)
		if published := uint64(round+1) * each; stream.State.Msgs != published {
			t.Fatalf("%d messages after a crash, want the %d that were confirmed", stream.State.Msgs, published)
		}
		info := natsInfo(t, c)
		return info.NumPending+uint64(info.NumAckPending) > 0
	})
}

// A cluster confirms settlements and delivers when a majority knows: nothing is
// forgotten with the consumer's leader, neither settlements nor attempts.
func TestNATSClusterKeepsTheGroup(t *testing.T) {
	t.Parallel()
	nodes := servers.NATSCluster(t, 3)
	s := newClusterStream(t, nodes)
	c := s.group(t, "g", func(c *jetstream.ConsumerConfig) { c.AckWait = time.Second })
	s.publish(t, 0, texts(21)...)
	settle(t, take(t, c, 20)...)
	for range 4 {
		giveBack(t, s.js.Conn(), take(t, c, 1)[0], 0)
	}

	leader := natsInfo(t, c).Cluster.Leader
	i := slices.IndexFunc(nodes, func(n *servers.Server) bool { return leader == nodeName(nodes, n) })
	nodes[i].Kill()
	wantTold(t, takeSometime(t, s, "g"), "m21#5")
}

// The number of attempts is forgotten in the same way.
func TestNATSCrashForgetsAttempts(t *testing.T) {
	t.Parallel()
	const attempts = 10
	server := servers.NATSWith(t)
	s := newStream(t, server.URL)
	s.group(t, "g", func(c *jetstream.ConsumerConfig) { c.AckWait = 300 * time.Millisecond })
	untilLost(t, "attempts", func(int) bool {
		c, js := rejoin(t, s, "g")
		_, err := js.Publish(t.Context(), s.subject(0), nil)
		must(t, err)
		for range attempts {
			giveBack(t, js.Conn(), take(t, c, 1)[0], 0)
		}
		server.Restart()
		c, _ = rejoin(t, s, "g")
		again := take(t, c, 1)
		meta, err := again[0].Metadata()
		must(t, err)
		settle(t, again...)
		return meta.NumDelivered <= attempts
	})
}

// A server that ends in order forgets nothing: neither settlements above the
// floor, nor attempts, nor what members have in hand, which comes again when
// its time is over (it keeps whole seconds of it) and not because of the restart.
func TestNATSRestartKeepsTheGroup(t *testing.T) {
	t.Parallel()
	server := servers.NATSWith(t)
	s := newStream(t, server.URL)
	c := s.group(t, "g", func(c *jetstream.ConsumerConfig) { c.AckWait = 2 * time.Second })
	s.publish(t, 0, texts(4)...)
	got := take(t, c, 3)
	settle(t, got[1])
	giveBack(t, s.js.Conn(), got[0], 0)
	wantTold(t, take(t, c, 1), "m1#2")
	began := time.Now()
	server.Stop()
	server.Start()

	c, _ = rejoin(t, s, "g")
	if info := natsInfo(t, c); info.NumAckPending != 2 || info.NumPending != 1 || info.NumRedelivered != 1 {
		t.Errorf("%d in hand, %d to come, %d redelivered; want 2, 1, 1", info.NumAckPending, info.NumPending, info.NumRedelivered)
	}
	got = take(t, c, 3)
	if again := slices.Sorted(slices.Values(told(got))); !slices.Equal(again, []string{"m1#3", "m3#2", "m4#1"}) {
		t.Errorf("%v came, want m1 and m3 again and m4", again)
	}
	if waited := time.Since(began); waited < 900*time.Millisecond {
		t.Errorf("what was in hand came again after %v, want AckWait, 2s, or a second less", waited)
	}
}

// Once the state is in the consumer's file, a crash keeps it.
func TestNATSCrashKeepsWhatIsWritten(t *testing.T) {
	t.Parallel()
	server := servers.NATSWith(t)
	s := newStream(t, server.URL)
	c := s.group(t, "g", nil)
	s.publish(t, 0, texts(3)...)
	settle(t, take(t, c, 2)...)
	settled := time.Now()
	var wrote time.Time
	eventually(t, "the state is written", func() bool {
		files, err := filepath.Glob(filepath.Join(server.Dir, "data/jetstream/*/streams", s.name, "obs/g/o.dat"))
		must(t, err)
		for _, file := range files {
			if at, err := os.Stat(file); err == nil {
				wrote = at.ModTime()
			}
		}
		return wrote.After(settled)
	})
	t.Logf("written %v after the settlement", wrote.Sub(settled))
	server.Restart()
	c, _ = rejoin(t, s, "g")
	wantTold(t, take(t, c, 1), "m3#1")
	nothing(t, c)
}

func nodeName(nodes []*servers.Server, n *servers.Server) string {
	return fmt.Sprintf("n%d", slices.Index(nodes, n))
}

// newClusterStream makes a stream that every node has, once the cluster has
// elected who decides.
func newClusterStream(t *testing.T, nodes []*servers.Server) *natsStream {
	t.Helper()
	var urls []string
	for _, n := range nodes {
		urls = append(urls, n.URL)
	}
	s := &natsStream{url: strings.Join(urls, ","), name: t.Name()}
	s.js = natsClient(t, s.url)
	eventually(t, "the cluster makes a stream", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var err error
		s.Stream, err = s.js.CreateStream(ctx, jetstream.StreamConfig{Name: s.name, Subjects: []string{s.name + ".>"}, Replicas: len(nodes)})
		return err == nil
	})
	return s
}

// takeSometime takes one message from a group that has no leader for a while.
func takeSometime(t *testing.T, s *natsStream, group string) (got []jetstream.Msg) {
	t.Helper()
	// Electing a leader takes 4 to 9 s.
	for end := time.Now().Add(20 * time.Second); len(got) == 0; time.Sleep(poll) {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond) // nobody answers meanwhile
		c, err := s.js.Consumer(ctx, s.name, group)
		cancel()
		if err == nil {
			if m, err := c.Next(jetstream.FetchMaxWait(time.Second)); err == nil {
				got = append(got, m)
			}
		}
		if time.Now().After(end) {
			t.Fatalf("the group does not deliver: %v", err)
		}
	}
	return got
}
