package test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	"github.com/prismgw/prism/client"
	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/servers"
)

// What was acknowledged to publishers comes, what consumers have acknowledged
// does not come again, and each key keeps its order, while proxies, the broker
// and consumers are killed at random moments. Nothing goes to the dead letters.
func TestKilledUnderMessages(t *testing.T) {
	t.Parallel()
	for _, on := range []struct {
		name   string
		start  func(t *testing.T) *drill
		rounds int
	}{
		{"nats", onNATS, 10},
		{"kafka", onKafka, 10},
		{"postgres", onPostgres, 10},
		{"sqlite", onSQLite, 10},
		{"dev", onDev, 3}, // what was killed is waited for, 10 s each time
	} {
		t.Run(on.name, func(t *testing.T) {
			t.Parallel()
			rounds := on.rounds
			if *long {
				rounds = 300
			}
			d := on.start(t)
			d.begin()
			d.run(rounds)
			d.finish()
		})
	}
}

const topicsOf = `, topics: [{name: orders, partitions: 4}], consumers: [{name: billing, ack_wait: 20s, max_deliveries: 2}]`

func onNATS(t *testing.T) *drill {
	broker := servers.NATSWith(t)
	return &drill{T: t, broker: broker, proxies: make([]*server, 2), command: "proxy", backend: "nats, url: \"" + broker.URL + "\"", topics: topicsOf}
}

func onKafka(t *testing.T) *drill {
	broker := servers.KafkaProcess(t)
	return &drill{T: t, broker: broker, proxies: make([]*server, 2), command: "proxy", backend: "kafka, url: \"kafka://" + broker.Addr + "\"", topics: topicsOf}
}

func onPostgres(t *testing.T) *drill {
	broker := servers.PostgresWith(t, "fsync=off", "synchronous_commit=on")
	user, password := servers.PostgresLogin(broker)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(user+":"+password), 0o600); err != nil {
		t.Fatal(err)
	}
	return &drill{
		T: t, broker: broker, proxies: make([]*server, 2), command: "proxy", topics: topicsOf,
		backend: "postgres, url: \"" + broker.URL + "\", credentials: \"file://" + secret + "\"",
	}
}

// The proxy is the broker, with a file.
func onSQLite(t *testing.T) *drill {
	return &drill{T: t, proxies: make([]*server, 1), command: "proxy", backend: "sqlite, url: \"sqlite:messages.db\"", topics: topicsOf}
}

// The proxy is the broker, with the NATS server inside prism dev.
func onDev(t *testing.T) *drill {
	const slot = `slots: {messages-log: {backend: broker}}, settings: {topics: [{name: orders, partitions: 4}]`
	return &drill{T: t, proxies: make([]*server, 1), command: "dev", backend: `memory, url: "memory:"`, topics: `, patterns: [
 {name: producer, kind: producer, ` + slot + `}},
 {name: consumer, kind: consumer, ` + slot + `, consumers: [{name: billing, ack_wait: 20s, max_deliveries: 2}]}}]`}
}

// The same drill finds what is lost when a consumer acknowledges too early.
func TestHastyTakersLose(t *testing.T) {
	t.Parallel()
	d := onSQLite(t)
	d.hasty = true
	d.begin()
	for round := range 5 {
		d.await("more messages", d.progress(20))
		d.swapTaker(round % len(d.takers))
	}
	d.stop()
	if eventually(5*time.Second, func() bool { return len(d.book.missing()) == 0 }) && len(d.book.mistakes()) == 0 {
		t.Error("nothing is missing: the drill could not see it if it were")
	}
}

// A drill is a topic with publishers and a group of takers.
type drill struct {
	*testing.T
	command         string          // that is a proxy
	backend, topics string          // of its documents
	broker          *servers.Server // nil: the proxy itself
	hasty           bool

	dir, documents string
	book           *deliveries
	proxies        []*server
	ready          []string // files with their addresses
	takers         []*taker
	say            *os.File
	publishing     sync.WaitGroup
	stop           context.CancelFunc
}

// begin starts everything and waits until messages come.
func (d *drill) begin() {
	t := d.T
	t.Helper()
	d.dir, d.book, d.takers = t.TempDir(), newDeliveries(), make([]*taker, 3)
	d.documents = filepath.Join(d.dir, "docs.yaml")
	text := "{kind: Backend, name: bus, driver: " + d.backend + "}\n---\n" +
		"{kind: Namespace, name: shop, auth: {anonymous: read_write}, needs: {durability: process}" + d.topics + "}\n"
	if err := os.WriteFile(d.documents, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	d.say = w
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		d.book.hear(bufio.NewScanner(r))
	}()
	t.Cleanup(func() { // the takers are gone by now
		_ = w.Close()
		<-heard
		_ = r.Close()
	})
	for i := range d.proxies {
		d.ready = append(d.ready, filepath.Join(d.dir, fmt.Sprintf("ready-%d.json", i)))
		d.startProxy(i)
	}
	for i := range d.takers {
		d.takers[i] = startTaker(t, d.say, d.ready, d.hasty)
	}
	var ctx context.Context
	ctx, d.stop = context.WithCancel(t.Context())
	t.Cleanup(func() {
		d.stop()
		d.publishing.Wait()
	})
	for p := range 4 {
		d.publishing.Go(func() { d.publish(ctx, p) })
	}
	d.await("first messages", d.progress(20))
}

func (d *drill) startProxy(i int) {
	d.proxies[i] = startServerAt(d.T, d.dir, d.ready[i], d.command, "--grpc-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0", "--drain=2s", "--lame-duck=0s", d.documents)
}

func (d *drill) swapTaker(i int) {
	d.takers[i].kill()
	d.takers[i] = startTaker(d.T, d.say, d.ready, d.hasty)
}

// publish publishes messages of three keys through whichever proxy is there.
// One that fails is published again, under its id, until it is answered.
func (d *drill) publish(ctx context.Context, publisher int) {
	clients := map[string]*client.Client{}
	defer func() {
		for _, c := range clients {
			_ = c.Close()
		}
	}()
	topics := func(n int) *client.Topics {
		at, err := readReady(d.ready[n%len(d.ready)])
		if err != nil {
			return nil
		}
		if clients[at.GRPC] == nil {
			c, err := client.Dial(at.GRPC, client.WithRetry(client.RetryPolicy{Tries: 1}), client.WithTimeout(3*time.Second))
			if err != nil {
				return nil
			}
			clients[at.GRPC] = c
		}
		return clients[at.GRPC].Topics("shop")
	}
	for n, turn := 1, publisher; ; n++ {
		for k := range 3 {
			key := fmt.Sprintf("k%d-%d", publisher, k)
			message := new(client.Topics).Message("orders", fmt.Append(nil, n), envelope.WithPartitionKey([]byte(key)))
			for tries := 1; ; tries++ {
				if ctx.Err() != nil {
					return
				}
				if t := topics(turn); t != nil && d.publishOne(ctx, t, message, k == 0) == nil {
					d.book.published(key, n, tries)
					break
				}
				turn++ // perhaps the other one
				time.Sleep(10 * time.Millisecond)
			}
		}
		time.Sleep(20 * time.Millisecond) // so that the machine does other things too
	}
}

// publishOne publishes a message over a stream, or by a call of its own.
func (d *drill) publishOne(ctx context.Context, t *client.Topics, m *envelopev1.PrismEnvelope, alone bool) error {
	if alone {
		answers, err := t.PublishBatch(ctx, "orders", []*envelopev1.PrismEnvelope{m})
		if err == nil {
			err = answers[0].Err
		}
		return err
	}
	_, err := t.Publish(ctx, "orders", m.GetPayload(), envelope.WithMessageID(m.GetMetadata().GetMessageId()), envelope.WithPartitionKey(m.GetMetadata().GetPartitionKey()))
	return err
}

// run injects faults, so many of each kind, each when messages have come since
// the one before.
func (d *drill) run(rounds int) {
	d.Helper()
	swap := func(i int, end func(*server)) func() {
		return func() {
			end(d.proxies[i])
			d.startProxy(i)
		}
	}
	injected := map[string]int{}
	for round := range rounds {
		one, other := round%len(d.proxies), (round+1)%len(d.proxies)
		for _, f := range []struct {
			what string
			skip bool
			do   func()
		}{
			{"killed proxy", false, swap(one, (*server).kill)},
			{"stopped proxy", round%2 > 0, swap(other, (*server).terminate)},
			{"killed broker", d.broker == nil, func() { d.broker.Restart() }},
			{"killed consumer", false, func() { d.swapTaker(round % len(d.takers)) }},
		} {
			if !f.skip {
				d.fault(f.what, f.do)
				injected[f.what]++
			}
		}
	}
	d.Logf("injected: %v", injected)
}

// fault does something while messages come, and waits until they come again.
func (d *drill) fault(what string, do func()) {
	d.Helper()
	time.Sleep(rand.N(200 * time.Millisecond))
	do()
	d.await("messages after a "+what, d.progress(20))
	if wrong := d.book.mistakes(); len(wrong) > 0 {
		d.Fatalf("after a %s: %s", what, strings.Join(wrong, "\n"))
	}
}

// progress returns whether so many messages have come, and been acknowledged,
// since now.
func (d *drill) progress(messages int) func() bool {
	published, got, _, done := d.book.count()
	return func() bool {
		p, g, _, k := d.book.count()
		return p >= published+messages && g >= got+messages && (d.hasty || k >= done+messages)
	}
}

func (d *drill) await(what string, there func() bool) {
	d.Helper()
	if !eventually(time.Minute, there) {
		d.Fatalf("no %s within a minute", what)
	}
}

func eventually(within time.Duration, there func() bool) bool {
	for end := time.Now().Add(within); !there(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// finish ends publishing and checks that everything has come, once it was
// acknowledged for good and in order, and that nothing was given up.
func (d *drill) finish() {
	d.Helper()
	d.stop()
	d.publishing.Wait()
	if !eventually(time.Minute, func() bool { return len(d.book.missing()) == 0 }) {
		d.Errorf("lost: %s", strings.Join(d.book.missing(), ", "))
	}
	for _, wrong := range d.book.mistakes() {
		d.Error(wrong)
	}
	c, err := client.Dial(d.proxies[0].GRPC)
	if err != nil {
		d.Fatal(err)
	}
	defer c.Close()
	for kept, err := range c.Topics("shop").Browse(d.Context(), "orders.dlq", client.Browsing{}) {
		if errs.ReasonOf(err) == errs.TopicNotFound {
			break
		}
		d.Errorf("a dead letter: %v %v", kept, err)
	}
	published, got, again, done := d.book.count()
	d.Logf("%d messages published, %d deliveries of which %d came again, %d acknowledgements answered", published, got, again, done)
}
