// Package nats stores KV data and messages in NATS: in a key-value bucket and in
// streams of JetStream, on nats-server 2.11 or newer. Patterns reach it through
// package driver; applications through package client.
//
// # Addresses
//
//	nats://host:port,host:port   one server or the servers of a cluster
//	tls://host:port,host:port    the same, never without TLS
//
// The port is 4222 unless the url says otherwise. Only servers that the url
// names are used, not those that a cluster tells of. Credentials are a user and
// a password, or a token in the place of the password of no user.
//
// # What lies in NATS
//
// A Backend document has one bucket (the option bucket, else "prism"), which is
// the stream KV_<bucket>. It is made on first use; one that is there is refused
// if its settings would break a promise. A key is the subject
//
//	$KV.<bucket>.<namespace>.<pattern>.<key>
//
// each name one token with every byte other than A-Z a-z 0-9 - _ / written as
// =XX, and its value the plain data of the message, so that every key can be
// read and written with the KeyValue of any NATS client and with "nats kv". A
// namespace or pattern of over 200 bytes in this form is written as its hash.
// The longest keys need a server's max_control_line of 4096, which is the
// default.
//
// A version is the sequence of the message in the stream, a KeyValue client's
// revision. A time to live is the header Prism-Expires, in milliseconds of Unix
// time, by which reads go; the message's own ttl (Nats-TTL, whole seconds,
// rounded up) only removes it later. Entries of other programs that have only a
// Nats-TTL expire by that. The clock is the proxy's, so those of several proxies
// have to agree. A deleted key leaves a marker for an hour.
//
// # Reads
//
// With one replica, reads are direct gets. With several, any replica could
// answer a direct get, also one that is behind, so the leader of the stream is
// asked: a read after a write's OK sees it, at a lower rate, and a watch tells
// of a change once the leader has it. A mirror of the bucket that answers direct
// gets for it breaks this where a key is missing in the mirror; do not set
// mirror_direct on one.
//
// # Topics
//
// A topic of a Log is the stream <namespace>_<topic>, which has the topic's age,
// size and window of duplicates as settings of its own. A record is a message
// with the subject
//
//	<namespace>.<topic>.<partition>
//
// so that any NATS program and "nats stream view" read it, and whatever is
// published there is a record. Names have bytes that NATS does not take as =XX;
// those of over 200 bytes are hashes. The value is the message's data and headers
// are its headers. The key is the header Prism-Key, in which %XX stands for what
// is not printable ASCII; the record's ID is Nats-Msg-Id where the topic knows
// duplicates, which NATS looks for in the whole topic, else Prism-Id. A position
// is a sequence of the stream, so that partitions share them and have gaps.
//
// How many partitions there are stands in the stream's metadata
// (prism-partitions). A stream without it, made by another program, is one
// partition with all its subjects; records are appended to the first of these,
// with "prism" for a wildcard. It needs allow_direct.
//
// Bucket and namespace are apart here: topics bear the namespace's name alone, so
// that two installations in one account of NATS need different ones.
//
// Groups lie in the bucket prism-groups-<namespace>, below
// <stream>.<when it was made>.<group>: a key for each partition, with owner, claim
// and checkpoint, which changes only from the revision that its owner knows; one
// for each member, which lives as long as others see it change; and where the
// group began. A stream that is deleted and made again has other groups.
//
// Records are read by direct gets in batches, which any replica answers: what
// one that is behind does not have yet is not there yet, and comes later. Where
// reads have to be complete, and before a member waits, the leader is asked as
// well. Members that wait are told by one consumer for each topic and
// connection.
package nats

import (
	"context"
	"log/slog"
	"sync"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/groups"
	"github.com/prismgw/prism/errs"
)

// Driver returns the driver named "nats".
func Driver() driver.Driver {
	return driver.Driver{
		Name:    "nats",
		Summary: "NATS 2.11 or newer: a key-value bucket of JetStream",
		Schemes: []string{"nats", "tls"},
		Acks:    []driver.Ack{ackDefault, ackAlways, ackReplicated, ackReplicatedAlways},
		Open:    open,
	}
}

func open(c driver.Config) (driver.Conn, error) {
	s, err := parse(c)
	if err != nil {
		return nil, err
	}
	return &conn{set: s, link: newLink(s, c), now: c.Clock(), slog: c.Logger()}, nil
}

// conn is one backend.
type conn struct {
	set  settings
	link *link
	now  clock
	slog *slog.Logger
	once sync.Once // of Close

	members  groups.Members
	journals journals
}

var _ driver.Conn = (*conn)(nil)

func (c *conn) Space(s driver.Space) (driver.Backend, error) {
	if len(s.Layout) > 0 {
		return driver.Backend{}, errs.Invalid(errs.Field{Path: "layout", Text: "NATS has Prism's own layout only; leave it out"})
	}
	k := &kv{link: c.link, set: &c.set, now: c.now, prefix: spacePrefix(c.set.bucket, s)}
	return driver.Backend{
		KV: k, Watcher: k,
		Log:    &log{conn: c, namespace: s.Namespace},
		PubSub: &pubsub{link: c.link, set: &c.set, prefix: subjectPrefix(c.set.bucket, s)},
		Extent: driver.Extent{Container: c.set.container(), Prefix: k.prefix},
	}, nil
}

// Ping asks for the bucket's settings, which may have changed.
func (c *conn) Ping(ctx context.Context) error {
	s, err := c.link.get(ctx)
	if err != nil {
		return c.link.fail(ctx, err, false)
	}
	err = s.prepare(ctx, &c.set)
	if errs.ReasonOf(err) == errs.InvalidConfiguration {
		s.stale.Store(true) // operations are refused too from now on
	}
	return c.link.fail(ctx, err, false)
}

func (c *conn) Close() error {
	c.once.Do(func() {
		c.members.Close()
		c.link.close()
	})
	return nil
}
