// Package kafka keeps topics in Kafka 2.4 or newer, or in what speaks its
// protocol. Patterns reach it through package driver; applications through
// package client.
//
// # Addresses
//
//	kafka://host:port,host:port    brokers to begin with
//	kafkas://host:port,host:port   the same over TLS
//
// The port is 9092 unless the url says otherwise. Brokers tell of each other, so
// the addresses that they advertise have to be reachable too. Credentials are
// shown by SASL (option sasl), anew for each connection.
//
// # What lies in Kafka
//
// A topic is the topic <namespace>.<topic>. A namespace is written as it is, with
// every byte other than A-Z a-z 0-9 - as _XX, or as its hash if it is very long.
// Kafka refuses a topic whose name differs from another one's in . and _ only.
// A group is the consumer group
//
//	<namespace>.<topic>:<group>              of a topic of Prism's own
//	<namespace>:<kafka's topic>:<group>      of a topic of another program
//
// A record's key, headers and value are its own, for every Kafka client to read
// and write; an id is the first header, prism-id. A position is the offset and
// one, since offsets begin at 0. A checkpoint is the group's committed offset,
// and its note is the commit's metadata. Commits of a group that has no members
// expire (offsets.retention.minutes, 7 days by default); after that it is a group
// that nobody knows.
//
// # What Kafka does differently
//
// Retention by size is that of each partition: a topic's bytes are divided among
// its partitions. What may be deleted goes when a segment of the log ends and
// the brokers look (log.retention.check.interval.ms, 5 minutes by default); own
// topics have segments of a quarter of what they keep.
//
// # Groups
//
// Members join as cooperative-sticky consumers do, so that other programs'
// consumers with that strategy can share a group; with the option
// shared_with_others any can. A commit is fenced twice: the brokers take it only
// from a member of the group's present generation, and a member sends it only
// for a partition that it has owned since then under the same name.
//
// kgo runs the group's protocol. Records are fetched here and not by it, because
// a Member has to stop, go back and start anew in one partition, with bounds on
// what is on its way, while the others go on.
package kafka

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// Driver returns the driver named "kafka".
func Driver() driver.Driver {
	return driver.Driver{
		Name:    "kafka",
		Summary: "Kafka 2.4 or newer: topics, and groups of its own protocol",
		Schemes: []string{"kafka", "kafkas"},
		Acks:    []driver.Ack{ackDefault, ackFlushed, ackReplicated, ackReplicatedFlushed},
		Open:    open,
	}
}

// closeWithin bounds how long brokers are told that members leave.
const closeWithin = time.Second

// conn is one cluster. Its client produces and asks; each member has a client
// of its own, because a broker answers the requests of a connection one by one
// and a fetch waits for records.
type conn struct {
	set         settings
	credentials driver.Credentials
	log         logger
	base        context.Context // ends with the connection
	cancel      context.CancelFunc
	client      *kgo.Client
	gate        gate         // bounds the bytes of appends under way
	claims      atomic.Int64 // the last number that was given to a claim

	mu      sync.Mutex // guards what follows
	closing bool
	members map[*member]struct{}
	lanes   map[string][]*lane // by topic and partition
}

var _ driver.Conn = (*conn)(nil)

func open(c driver.Config) (driver.Conn, error) {
	s, err := parse(c)
	if err != nil {
		return nil, err
	}
	k := &conn{set: s, credentials: c.Credentials, log: logger{c.Logger().With("backend", c.Name)}, members: map[*member]struct{}{}, lanes: map[string][]*lane{}}
	k.gate.free = gateBytes
	k.claims.Store(rand.Int64N(1 << 62)) // those of other processes have other ones
	k.base, k.cancel = context.WithCancel(context.Background())
	if k.client, err = kgo.NewClient(append(k.clientOpts(k.base, s.ClientID), k.producerOpts()...)...); err != nil {
		k.cancel()
		return nil, errs.Wrap(err, errs.InvalidConfiguration, "the client cannot be made of this configuration")
	}
	return k, nil
}

func (c *conn) Space(s driver.Space) (driver.Backend, error) {
	if len(s.Layout) > 0 {
		return driver.Backend{}, errs.Invalid(errs.Field{Path: "layout", Text: "Kafka has no layouts; topics of other programs are named where they are used"})
	}
	return driver.Backend{
		Log:    &log{conn: c, namespace: s.Namespace},
		Extent: driver.Extent{Container: c.set.container(), Prefix: nameToken(s.Namespace) + "."},
	}, nil
}

// Ping asks a broker for its version, and the cluster for what this
// configuration relies on.
func (c *conn) Ping(ctx context.Context) error {
	if err := c.ready(ctx); err != nil {
		return err
	}
	versions, err := kmsg.NewPtrApiVersionsRequest().RequestWith(ctx, prompt{c.client})
	if err != nil {
		return c.fail(ctx, err, false)
	}
	if !recent(versions) {
		return errs.New(errs.InvalidConfiguration, "the backend is too old; Prism needs Kafka 2.4 or newer")
	}
	meta, err := c.metadata(ctx, c.client)
	if err != nil {
		return c.fail(ctx, err, false)
	}
	return c.fail(ctx, c.inspect(ctx, meta.ControllerID), false)
}

// recent reports whether a broker has what came with Kafka 2.4, such as default
// numbers of replicas.
func recent(v *kmsg.ApiVersionsResponse) bool {
	for _, k := range v.ApiKeys {
		if k.ApiKey == int16(kmsg.CreateTopics) {
			return k.MaxVersion >= 4
		}
	}
	return false
}

func (c *conn) Close() error {
	c.mu.Lock()
	c.closing = true
	members := make([]*member, 0, len(c.members))
	for m := range c.members {
		members = append(members, m)
	}
	c.mu.Unlock()
	c.cancel()
	ctx, cancel := context.WithTimeout(context.Background(), closeWithin)
	defer cancel()
	var all sync.WaitGroup
	for _, m := range members {
		all.Go(func() { m.end(ctx, errClosed) })
	}
	all.Wait()
	c.client.Close()
	return nil
}

// add notes a member, for Close to end; false: the connection is closed.
func (c *conn) add(m *member) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing {
		c.members[m] = struct{}{}
	}
	return !c.closing
}

func (c *conn) remove(m *member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.members, m)
}
