// Package redis stores KV data in Redis 7 or newer, and tells and keeps messages
// in it: one server, a Sentinel group or a Cluster. Patterns reach it through
// package driver; applications through package client.
//
// # Addresses
//
//	redis://host:port/db                          one server
//	redis+sentinel://host:port,host:port/name/db  the master that Sentinels name
//	redis+cluster://host:port,host:port           a Cluster
//
// Each has a form with TLS: rediss, rediss+sentinel, rediss+cluster. The port
// is 6379 (26379 for a Sentinel) and the db 0 unless the url says otherwise.
//
// # What lies in Redis
//
// A key is "<namespace>:<pattern>:<key>" and its value a plain Redis string,
// with Redis' own expiry, so that GET and SET of any other client work on it. A
// space with the layout {"keys": "cart:{key}"} reaches what lies under such
// keys already. Records of Op.Once lie under "prism!once:". What begins with
// "prism!" belongs to no space, whatever its layout is.
//
// A version is the beginning of the value's SHA-1, computed by the client for
// reads and puts. Conditions run as one script; where the present value is
// over 64 KiB, as WATCH and MULTI, so that the server hashes nothing big. A
// plain put under Prism's own keys is a SET and replaces data of any type; in
// an adopted layout, and for every other operation, data of another type is
// errs.WrongType.
//
// Commands of concurrent callers share few connections and are pipelined.
//
// # Messages
//
// A message goes through the channel "<namespace>:<pattern>:<subject>", in a
// database other than 0 through "<db>:<namespace>:<pattern>:<subject>", whatever
// the layout of keys. PUBLISH and SUBSCRIBE of any other client work on it.
//
// All subscriptions of a connection share one to the server, to which each
// message comes once. Filters without wildcards cost the server nothing; one
// with them makes it send all messages of the space, of which the driver takes
// those that match. Who loses that connection, as one does who is so slow that
// the server cuts it off, is told that messages may be missing. In a Cluster
// nobody is told what its nodes fail to pass on to each other.
//
// # Topics
//
// Each partition of a Log's topic is a stream, "{<namespace>.<topic>.<n>}". The
// braces let a Cluster spread them over its nodes. A record is an entry with the
// fields value, key, id and "h:<name>" for each header, so that XRANGE shows it
// and XADD of any other program makes one: of an entry's fields the one named
// value is the value, or the only one if it has another name; those named key
// and id are these; all others are headers. A position is an entry's id, its
// milliseconds times 2^20 plus its sequence; entries of other programs whose ids
// do not fit there cannot be read. While the server's clock is behind the last
// id, ids go on from that.
//
// Beside the streams lie, for each topic:
//
//	prism!log:{<namespace>.<topic>}                a hash: its settings and groups
//	prism!log:{<namespace>.<topic>}:group:<group>  a hash: who has which partition, and how far it is
//	prism!log:{<namespace>.<topic>}:notes:<group>  a hash: the notes of checkpoints
//	prism!log:{<namespace>.<topic>}:swept          when somebody last removed old records
//	prism!id:<stream>:<id>                         the entry with this id, for as long as duplicates are known
//	prism!trimmed:<stream>                         the last entry that retention removed
//	prism!bytes:<stream>                           how many bytes there are, where that is bounded
//
// and through the channel "prism!log:{<namespace>.<topic>}:appended" whoever
// reads is told of appends, as it is of what changes in groups. It is a hint:
// where it is lost, or another program appends, records come up to a second
// later. A topic is deleted by deleting these keys. Where memory is full and the
// server's maxmemory-policy is one of volatile-…, ids are forgotten early.
//
// Groups are not those of Redis, which have no owners of partitions and let
// anybody acknowledge anything; XINFO GROUPS shows nothing of them. A member is
// alive for as long as its beats say so by the server's clock.
//
// Retention by bytes counts those of names and values. Entries of other programs
// are not counted, but as MEMORY USAGE is asked too, a topic never has more than
// twice as much memory as it may, for more than a moment. What a group had not
// read is told as skipped without a number: ids have gaps.
//
// An adopted topic (physical) is the stream of that name, or, with a * in it,
// those with numbers from 0 on in its place. What is known of it lies under
// "prism!log:{<namespace>=<physical>}"; nothing is removed from it, and its
// records come within a tenth of a second. Where its owner removes entries, who
// had read none of those that are left is told that some may have been skipped.
//
// A failover loses what the replica did not have: the last records, and how far
// groups had come since, whose records come again.
package redis

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/groups"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

// Driver returns the driver named "redis".
func Driver() driver.Driver {
	return driver.Driver{
		Name:    "redis",
		Summary: "Redis 7 or newer: one server, Sentinel or Cluster",
		Schemes: []string{"redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"},
		Acks:    []driver.Ack{ackDefault, ackNo, ackEverySec, ackAlways, ackReplicated},
		Open:    open,
	}
}

func open(c driver.Config) (driver.Conn, error) {
	s, err := parse(c)
	if err != nil {
		return nil, err
	}
	l := newLink(s, c)
	return &conn{set: s, link: l, slog: c.Logger(), sweeper: sweeper{link: l, log: c.Logger()}}, nil
}

// conn is one backend.
type conn struct {
	set  settings
	link *link
	slog *slog.Logger
	once sync.Once // of Close

	journals journals
	members  groups.Members
	sweeper  sweeper
	commits  atomic.Int64 // numbers those of groups
}

var _ driver.Conn = (*conn)(nil)

func (c *conn) Space(s driver.Space) (driver.Backend, error) {
	l, err := layoutOf(s)
	if err != nil {
		return driver.Backend{}, err
	}
	return driver.Backend{
		KV:     &kv{link: c.link, layout: l, clustered: c.set.mode == cluster, max: c.set.maxValue, guarantees: c.set.guarantees()},
		PubSub: &pubsub{link: c.link, prefix: channelPrefix(c.set.db, s), max: min(c.set.maxValue, maxMessage)},
		Log:    &log{conn: c, namespace: namespaceName(s.Namespace)},
		Extent: driver.Extent{Container: c.set.container(), Prefix: l.prefix, Suffix: l.suffix},
	}, nil
}

func (c *conn) Close() error {
	c.once.Do(func() {
		c.members.Close()
		c.link.close()
	})
	return nil
}

func (c *conn) Ping(ctx context.Context) error { return ping(ctx, c.link, c.set) }

// keyMark stands for the key in the layout of adopted data.
const keyMark = "{key}"

// layout says which Redis key holds which key of a space.
type layout struct {
	prefix, suffix string
	adopted        bool
	space          string // names the space in the keys of once records
}

func layoutOf(s driver.Space) (layout, error) {
	own := wrap.KeyPrefix(s)
	if len(s.Layout) == 0 {
		return layout{prefix: own, space: own}, nil
	}
	var in struct {
		Keys string `json:"keys"`
	}
	if err := driver.DecodeStrict(s.Layout, &in); err != nil {
		return layout{}, errs.Invalid(errs.Field{Path: "layout", Text: err.Error() + `; write {"keys": "cart:{key}"}`})
	}
	if n := strings.Count(in.Keys, keyMark); n != 1 {
		return layout{}, errs.Invalid(errs.Field{Path: "layout.keys", Text: fmt.Sprintf("%s occurs %d times; write it exactly once, as in cart:{key}", keyMark, n)})
	}
	if len(in.Keys) > driver.MaxKey {
		return layout{}, errs.Invalid(errs.Field{Path: "layout.keys", Text: fmt.Sprintf("is over %d bytes", driver.MaxKey)})
	}
	before, after, _ := strings.Cut(in.Keys, keyMark)
	if strings.HasPrefix(before, reserved) {
		return layout{}, errs.Invalid(errs.Field{Path: "layout.keys", Text: reserved + " is where Prism keeps its own records; adopt other keys"})
	}
	text, err := json.Marshal([]string{own, in.Keys})
	if err != nil {
		return layout{}, errs.Wrap(err, errs.Internal, "encoding a layout")
	}
	return layout{prefix: before, suffix: after, adopted: true, space: string(text)}, nil
}

// name returns the Redis key of key.
func (l *layout) name(key string) string { return l.prefix + key + l.suffix }

// hides reports whether name is one of Prism's own records, which an adopted
// layout may not reach even where it covers their names.
func (l *layout) hides(name string) bool { return l.adopted && strings.HasPrefix(name, reserved) }

// readable returns the Redis key to read for key: where it is hidden, one that
// is never there.
func (l *layout) readable(key string) string {
	name := l.name(key)
	if l.hides(name) {
		return reserved
	}
	return name
}

// key returns the key that lies under the Redis key name, ok false if it is
// none of this space.
func (l *layout) key(name string) (key string, ok bool) {
	if l.hides(name) || len(name) <= len(l.prefix)+len(l.suffix) {
		return "", false
	}
	if !strings.HasPrefix(name, l.prefix) || !strings.HasSuffix(name, l.suffix) {
		return "", false
	}
	key = name[len(l.prefix) : len(name)-len(l.suffix)]
	return key, valid(key)
}
