package nats

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/groups"
	"github.com/prismgw/prism/errs"
)

// The keys of a group, behind its prefix: the number of a partition for its row,
// and these.
const (
	startKey   = "start"
	memberMark = "member-" // before the ID of one
)

// beatTTL is how long the server keeps the beat of a member that beats no more.
// It is dead before that, as soon as others have seen nothing new for groups.TTL.
const beatTTL = 2 * groups.TTL

// group is one group of a topic as a connection knows it: keys of a bucket,
// each changed by who names the revision that it stands on. What is known of a
// key never becomes older, though a replica that is behind may tell older things.
type group struct {
	*topic
	name   string
	bucket string
	prefix string

	mu      sync.Mutex // guards what follows
	start   driver.Position
	rows    []row
	members map[string]sight
	ready   *session // on which the bucket has been looked at
}

var _ groups.Table = (*group)(nil)

// A row is what the group has of one partition: JSON, and a note, if there is
// one, in a line of its own, which makes it no longer than it is.
type row struct {
	rev  uint64 // 0: nobody has ever owned it
	note string

	Owner string          `json:"owner,omitempty"` // the ID of a member
	Name  string          `json:"name,omitempty"`  // and how it calls itself
	Claim int64           `json:"claim"`
	Next  driver.Position `json:"next"`
}

func (r *row) encode() ([]byte, error) {
	b, err := json.Marshal(r)
	if err != nil || r.note == "" {
		return b, err
	}
	return append(append(b, '\n'), r.note...), nil
}

func (r *row) decode(b []byte) error {
	text, note, _ := bytes.Cut(b, []byte("\n"))
	r.note = string(note)
	return json.Unmarshal(text, r)
}

// beginning is the value of the start key, by which a group is known.
type beginning struct {
	Next driver.Position `json:"next"`
}

// A sight is when a member was first seen with its last beat.
type sight struct {
	rev   uint64
	since time.Time
}

func newGroup(t *topic, name string) *group {
	bucket := groupBucket(t.namespace)
	return &group{
		topic: t, name: name, bucket: bucket, prefix: groupPrefix(bucket, t.stream, t.created, name),
		rows: make([]row, len(t.subjects)), members: make(map[string]sight),
	}
}

func (g *group) bucketStream() string { return "KV_" + g.bucket }

// session returns one on which the bucket is as it has to be. With create it is
// made if it is not there, else that is errs.GroupNotFound.
func (g *group) session(ctx context.Context, create bool) (*session, error) {
	s, err := g.link.online(ctx)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	ready := g.ready == s
	g.mu.Unlock()
	if ready {
		return s, nil
	}
	set := g.set
	set.bucket = g.bucket
	_, err = s.checkSettings(ctx, &set)
	for create && errs.ReasonOf(err) == errs.KeyNotFound {
		err = g.within(ctx, func(ctx context.Context) error { return s.makeBucket(ctx, &set) })
		if err == nil {
			_, err = s.checkSettings(ctx, &set)
		}
	}
	if errs.ReasonOf(err) == errs.KeyNotFound {
		return nil, errs.GroupNotFound
	}
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	g.ready = s
	g.mu.Unlock()
	return s, nil
}

// failed turns the failure of a call into an error of errs. Nobody answers for
// a bucket that is gone.
func (g *group) failed(ctx context.Context, s *session, err error, write bool) error {
	if s == nil || !errors.Is(err, errNoLeader) && !errors.Is(err, errNoStream) && !errors.Is(err, errGone) {
		return g.link.fail(ctx, err, write)
	}
	if _, gone := s.info(ctx, g.bucketStream()); errs.ReasonOf(gone) == errs.KeyNotFound {
		return errs.GroupNotFound
	}
	return errs.New(errs.BackendUnavailable, "the bucket %s does not answer; it may be without a leader at the moment", g.bucket)
}

// know makes the group known where it is not.
func (g *group) know(ctx context.Context, start driver.Start) error {
	s, err := g.session(ctx, true)
	if err != nil {
		return g.failed(ctx, s, err, true)
	}
	for {
		rev, err := g.begun(ctx, s)
		if !errors.Is(err, errs.GroupNotFound) {
			return g.failed(ctx, s, err, false)
		}
		next, err := g.startOf(ctx, s, start)
		if err != nil {
			return g.fail(ctx, s, err, false)
		}
		value, err := json.Marshal(beginning{next})
		if err == nil {
			err = g.put(ctx, s, startKey, value, &rev)
		}
		if !errors.Is(err, errConflict) {
			g.begins(next)
			return g.failed(ctx, s, err, true)
		}
	}
}

// begun asks the leader where the group has begun. A group that is not known is
// errs.GroupNotFound, and rev what its key stands on.
func (g *group) begun(ctx context.Context, s *session) (rev uint64, err error) {
	r, err := g.key(ctx, s, startKey)
	if err != nil || r.seq == 0 || r.gone {
		return r.seq, firstError(err, errs.GroupNotFound)
	}
	var b beginning
	if err := json.Unmarshal(r.value, &b); err != nil {
		return r.seq, errs.Wrap(err, errs.Internal, "the start of a group is not what Prism has written")
	}
	g.begins(b.Next)
	return r.seq, nil
}

func (g *group) begins(next driver.Position) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.start = next
}

// key asks the leader for a key. The zero record is none.
func (g *group) key(ctx context.Context, s *session, name string) (record, error) {
	body, err := messageGet{LastFor: g.prefix + name}.encode()
	if err != nil {
		return record{}, err
	}
	m, err := s.ask(ctx, &call{subject: api + "STREAM.MSG.GET." + g.bucketStream(), data: body})
	if err == nil {
		err = topicStatus(m)
	}
	if err != nil {
		return record{}, err
	}
	r, err := s.storedRecord(m)
	return r, absentIsNone(err)
}

// write returns the call that sets a key, or deletes it where there is no value;
// expect is the revision that it has to stand on.
func (g *group) write(name string, value []byte, expect *uint64) *call {
	c := &call{subject: g.prefix + name, data: value, header: make(nats.Header, 2)}
	if value == nil {
		c.header[operationHeader] = []string{"DEL"}
	}
	if strings.HasPrefix(name, memberMark) {
		c.header[ttlHeader] = []string{strconv.Itoa(int(beatTTL / time.Second))}
	}
	if expect != nil {
		c.header[expectHeader] = []string{versionOf(*expect)}
	}
	return c
}

// put sets a key.
func (g *group) put(ctx context.Context, s *session, name string, value []byte, expect *uint64) error {
	c := g.write(name, value, expect)
	if err := s.begin(ctx, c); err != nil {
		return err
	}
	_, err := g.written(ctx, s, c)
	return err
}

// written waits for the revision of a key that was written.
func (g *group) written(ctx context.Context, s *session, c *call) (rev uint64, err error) {
	m, err := s.wait(ctx, c)
	if err == nil {
		err = topicStatus(m)
	}
	if err != nil {
		return 0, err
	}
	return s.ackOf(m, g.bucketStream())
}

// list reads all keys of the group that whoever answers knows, and learns from
// them. It returns the members.
func (g *group) list(ctx context.Context, s *session) (alive []string, begun bool, err error) {
	seen := make(map[string]uint64)
	for from, end := uint64(1), false; !end; {
		p, err := s.pull(ctx, g.bucketStream(), messageGet{Seq: from, NextFor: g.prefix + "*", Batch: pullCount, MaxBytes: pullBytes})
		if err != nil {
			return nil, false, err
		}
		if _, err := s.wait(ctx, &p.call); err != nil {
			return nil, false, err
		}
		if p.err != nil {
			return nil, false, p.err
		}
		for _, m := range p.messages {
			r, _, err := directRecord(m, g.bucketStream())
			if err != nil {
				return nil, false, err
			}
			from = r.seq + 1
			begun = g.learn(&r, seen) || begun
		}
		end = p.end || len(p.messages) == 0
	}
	return g.sighted(seen), begun, nil
}

// learn takes in a key, and tells whether it is the one by which the group is
// known.
func (g *group) learn(r *record, seen map[string]uint64) (begun bool) {
	name := strings.TrimPrefix(r.subject, g.prefix)
	if id, ok := strings.CutPrefix(name, memberMark); ok {
		delete(seen, id)
		if !r.gone {
			seen[id] = r.seq
		}
		return false
	}
	if name == startKey {
		var b beginning
		if r.gone || json.Unmarshal(r.value, &b) != nil {
			return false
		}
		g.begins(b.Next)
		return true
	}
	if i, err := strconv.Atoi(name); err == nil && i >= 0 && i < len(g.rows) {
		g.learnRow(i, r)
	}
	return false
}

// learnRow takes in the row of a partition unless a newer one is known.
func (g *group) learnRow(i int, r *record) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.seq <= g.rows[i].rev {
		return
	}
	read := row{rev: r.seq}
	if r.gone || read.decode(r.value) != nil { // somebody has deleted it
		read = row{rev: r.seq, Claim: g.rows[i].Claim, Next: g.start}
	}
	g.rows[i] = read
}

// sighted notes which beats were seen now and returns who is alive.
func (g *group) sighted(seen map[string]uint64) (alive []string) {
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	for id := range g.members {
		if _, there := seen[id]; !there {
			delete(g.members, id)
		}
	}
	for id, rev := range seen {
		m := g.members[id]
		if rev > m.rev {
			m = sight{rev, now}
			g.members[id] = m
		}
		if now.Sub(m.since) < groups.TTL {
			alive = append(alive, id)
		}
	}
	return alive
}

// row returns what is known of a partition.
func (g *group) row(i int) row {
	g.mu.Lock()
	defer g.mu.Unlock()
	r := g.rows[i]
	if r.rev == 0 {
		r.Next = g.start
	}
	return r
}

// ask asks the leader for a row.
func (g *group) ask(ctx context.Context, s *session, i int) (row, error) {
	found, err := g.key(ctx, s, strconv.Itoa(i))
	if err != nil {
		return row{}, err
	}
	if found.seq != 0 {
		g.learnRow(i, &found)
	}
	return g.row(i), nil
}

// keep notes a row that was written.
func (g *group) keep(i int, r row) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.rev > g.rows[i].rev {
		g.rows[i] = r
	}
}
