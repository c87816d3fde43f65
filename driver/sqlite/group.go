package sqlite

import (
	"context"
	sqldriver "database/sql/driver"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/groups"
	"github.com/prismgw/prism/errs"
)

var _ groups.Table = (*group)(nil)

type groupName struct {
	topicName
	group string
}

// living are the members of a group, all of which are in this process: no other
// one has the file open. So those of a process that was killed are dead at once.
type living struct {
	changed groups.Bell

	mu    sync.Mutex // guards alive
	alive map[string]lease
}

type lease struct {
	name  string
	until time.Time // by the monotonic clock
}

// living returns the one of a group, of which this process keeps one for good.
func (s *topics) living(name groupName) *living {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.groups == nil {
		s.groups = make(map[groupName]*living)
	}
	if s.groups[name] == nil {
		s.groups[name] = &living{alive: make(map[string]lease)}
	}
	return s.groups[name]
}

func (v *living) beat(self groups.Self) (alive []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	v.alive[self.ID] = lease{self.Name, now.Add(groups.TTL)}
	for id, l := range v.alive {
		if !now.Before(l.until) {
			delete(v.alive, id)
			continue
		}
		alive = append(alive, id)
	}
	return alive
}

// name returns how a member is called, and whether it lives.
func (v *living) name(id string) (name string, lives bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	l, lives := v.alive[id]
	if !lives || !time.Now().Before(l.until) {
		return "", false
	}
	return l.name, true
}

func (v *living) leave(id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.alive, id)
}

// The place of a claim is the group's number and the partition.
const partitionBits = 10

func claimAt(number int64, partition int) int64 { return number<<partitionBits + int64(partition) }

// group is the table of one group. Its calls may come when the connection is
// being closed: members leave then.
type group struct {
	topic  *topic
	name   string
	living *living
	found  atomic.Pointer[numbered]
}

func (t *topic) group(name string) *group {
	return &group{topic: t, name: name, living: t.conn.file.topics.living(groupName{t.name, name})}
}

var findGroup = query{"SELECT number FROM prism_log_group WHERE base = ? AND name = ?"}

// number returns the group's number in the file.
func (g *group) number(l *link) (int64, error) {
	if n, known := g.found.Load().in(l); known {
		return n, nil
	}
	base, err := g.topic.base(l)
	if err != nil {
		return 0, err
	}
	n, err := l.number(&findGroup, base, g.name)
	if err == nil && n == 0 {
		err = errs.GroupNotFound
	}
	if err == nil && l != l.store.writer {
		g.found.Store(&numbered{l.store, n})
	}
	return n, err
}

// A change is a job that changes a group's rows.
type change struct {
	group *group
	make  func(tx *transaction, number int64) error
	rows  int
	after func() // nil: nothing is to be told
}

func (j *change) do(tx *transaction) error {
	number, err := j.group.number(tx.link)
	if err != nil {
		return err
	}
	return j.make(tx, number)
}

func (j *change) tell() {
	if j.after != nil {
		j.after()
	}
}

func (j *change) weight() (ops, bytes int) { return j.rows, 0 }

func (g *group) change(ctx context.Context, rows int, f func(tx *transaction, number int64) error) error {
	if err := ended(ctx); err != nil {
		return err
	}
	return g.topic.conn.file.submit(ctx, &change{group: g, make: f, rows: rows})
}

var loadOwners = query{"SELECT owner, claim FROM prism_log_claim WHERE place >= ? AND place < ? ORDER BY place"}

// Beat implements groups.Table.
func (g *group) Beat(ctx context.Context, self groups.Self) (groups.View, error) {
	owners, err := read(ctx, g.topic.conn, func(l *link) (owners []groups.Owner, err error) {
		number, err := g.number(l)
		if err != nil {
			return nil, err
		}
		owners = make([]groups.Owner, 0, g.topic.spec.Partitions)
		err = l.each(&loadOwners, func(cells []sqldriver.Value) bool { //nolint:contextcheck // see link
			var o groups.Owner
			o.ID, _ = cells[0].(string)
			o.Claim, _ = cells[1].(int64)
			owners = append(owners, o)
			return true
		}, claimAt(number, 0), claimAt(number, g.topic.spec.Partitions))
		if err == nil && len(owners) != g.topic.spec.Partitions {
			err = errs.GroupNotFound
		}
		return owners, err
	})
	if err != nil {
		return groups.View{}, err
	}
	return groups.View{Alive: g.living.beat(self), Owners: owners}, nil
}

var (
	loadClaim = query{"SELECT owner, claim, next, note FROM prism_log_claim WHERE place = ?"}
	takeClaim = query{"UPDATE prism_log_claim SET owner = ?, owner_name = ?, claim = claim + 1 WHERE place = ?"}
)

// Take implements groups.Table.
func (g *group) Take(ctx context.Context, self groups.Self, partitions []int) ([]groups.Taken, error) {
	var taken []groups.Taken
	err := g.change(ctx, len(partitions), func(tx *transaction, number int64) error {
		taken = nil
		for _, p := range partitions {
			cells, err := tx.link.first(&loadClaim, claimAt(number, p))
			if err != nil {
				return err
			}
			if cells == nil {
				return errs.GroupNotFound
			}
			owner, _ := cells[0].(string)
			if _, lives := g.living.name(owner); lives && owner != self.ID {
				continue
			}
			t := groups.Taken{Claim: groups.Claim{Partition: p}}
			t.Number, _ = cells[1].(int64)
			t.Number++
			t.Checkpoint = readCheckpoint(cells[2:])
			if _, err := tx.run(&takeClaim, self.ID, self.Name, claimAt(number, p)); err != nil {
				return err
			}
			taken = append(taken, t)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return taken, nil
}

// readCheckpoint reads next and note.
func readCheckpoint(cells []sqldriver.Value) (c driver.Checkpoint) {
	next, _ := cells[0].(int64)
	c.Next = driver.Position(next)
	c.Note, _ = cells[1].(string)
	return c
}

var (
	commitClaim   = query{"UPDATE prism_log_claim SET next = ?, note = ? WHERE place = ? AND owner = ? AND claim = ?"}
	finishClaim   = query{"UPDATE prism_log_claim SET next = ?, note = ?, owner = '', owner_name = '' WHERE place = ? AND owner = ? AND claim = ?"}
	claimReleased = query{"SELECT count(*) FROM prism_log_claim WHERE place = ? AND owner = '' AND claim = ?"}
)

// Commit implements groups.Table.
func (g *group) Commit(ctx context.Context, self groups.Self, commits []driver.Commit, results []error) {
	own := append([]driver.Commit(nil), commits...)
	outcomes := make([]error, len(commits))
	err := g.change(ctx, len(commits), func(tx *transaction, number int64) (err error) {
		for i := range own {
			if outcomes[i], err = g.commit(tx, self, number, &own[i]); err != nil {
				return err
			}
		}
		return nil
	})
	for i := range results {
		if results[i] = err; err == nil {
			results[i] = outcomes[i]
		}
	}
}

// commit carries out one. failed is an error of SQLite.
func (g *group) commit(tx *transaction, self groups.Self, number int64, c *driver.Commit) (outcome, failed error) {
	place, how := claimAt(number, c.Partition), &commitClaim
	if c.Release {
		how = &finishClaim
	}
	changed, err := tx.run(how, int64(c.Next), c.Note, place, self.ID, c.Claim)
	if err != nil || changed > 0 {
		return nil, err
	}
	if c.Release {
		if again, err := tx.link.number(&claimReleased, place, c.Claim); err != nil || again > 0 {
			return nil, err
		}
	}
	return errs.StaleReceipt, nil
}

var (
	releaseClaim = query{"UPDATE prism_log_claim SET owner = '', owner_name = '' WHERE place = ? AND owner = ? AND claim = ?"}
	leaveClaims  = query{"UPDATE prism_log_claim SET owner = '', owner_name = '' WHERE place >= ? AND place < ? AND owner = ?"}
)

// Release implements groups.Table.
func (g *group) Release(ctx context.Context, self groups.Self, claims []groups.Claim) error {
	return g.change(ctx, len(claims), func(tx *transaction, number int64) error {
		for _, c := range claims {
			if _, err := tx.run(&releaseClaim, claimAt(number, c.Partition), self.ID, c.Number); err != nil {
				return err
			}
		}
		return nil
	})
}

// Leave implements groups.Table. Where the file cannot be written, the member is
// dead all the same.
func (g *group) Leave(ctx context.Context, self groups.Self) error {
	g.living.leave(self.ID)
	return g.change(ctx, 1, func(tx *transaction, number int64) error {
		_, err := tx.run(&leaveClaims, claimAt(number, 0), claimAt(number+1, 0), self.ID)
		return err
	})
}

var seekClaim = query{"UPDATE prism_log_claim SET next = ?, note = '', owner = '', owner_name = '', claim = claim + 1 WHERE place = ?"}

// Seek implements driver.Topic.
func (t *topic) Seek(ctx context.Context, name string, to []driver.Target) error {
	if err := t.conn.usable(ctx); err != nil {
		return err
	}
	for _, target := range to {
		if err := t.check(target.Partition); err != nil {
			return err
		}
	}
	g, to := t.group(name), append([]driver.Target(nil), to...)
	return t.conn.file.submit(ctx, &change{group: g, rows: len(to), after: g.living.changed.Ring, make: func(tx *transaction, number int64) error {
		for _, target := range to {
			if _, err := tx.run(&seekClaim, int64(target.Next), claimAt(number, target.Partition)); err != nil {
				return err
			}
		}
		return nil
	}})
}

// knowing makes a group known.
type knowing struct {
	topic *topic
	name  string
	start driver.Start
}

var (
	insertGroup = query{"INSERT INTO prism_log_group (base, name) VALUES (?, ?) ON CONFLICT DO NOTHING"}
	insertClaim = query{"INSERT INTO prism_log_claim (place, owner, owner_name, claim, next, note) VALUES (?, '', '', 0, ?, '')"}
)

func (j *knowing) do(tx *transaction) error {
	base, err := j.topic.base(tx.link)
	if err != nil {
		return err
	}
	if added, err := tx.run(&insertGroup, base, j.name); err != nil || added == 0 {
		return err
	}
	number, err := tx.link.number(&findGroup, base, j.name)
	if err != nil {
		return err
	}
	for i := range j.topic.spec.Partitions {
		h, err := tx.head(base + int64(i))
		if err != nil {
			return err
		}
		next, err := tx.link.begin(h, j.start)
		if err != nil {
			return err
		}
		if _, err := tx.run(&insertClaim, claimAt(number, i), int64(next)); err != nil {
			return err
		}
	}
	return nil
}

func (j *knowing) tell() {}

func (j *knowing) weight() (ops, bytes int) { return j.topic.spec.Partitions, 0 }

// Stat implements driver.Topic.
func (t *topic) Stat(ctx context.Context, name string) ([]driver.PartitionStat, error) {
	return read(ctx, t.conn, func(l *link) (stats []driver.PartitionStat, err error) {
		err = l.snapshot(func() error {
			heads, err := t.heads(l, 0, t.spec.Partitions-1)
			if err != nil {
				return err
			}
			stats = make([]driver.PartitionStat, len(heads))
			for i, h := range heads {
				stats[i] = driver.PartitionStat{First: h.first, End: h.next}
			}
			if name == "" {
				return nil
			}
			return t.group(name).stat(l, heads, stats)
		})
		return stats, err
	})
}

var loadStands = query{"SELECT place, owner, next FROM prism_log_claim WHERE place >= ? AND place < ? ORDER BY place"}

func (g *group) stat(l *link, heads []head, stats []driver.PartitionStat) error {
	base, err := g.topic.base(l)
	if err != nil {
		return err
	}
	number, err := l.number(&findGroup, base, g.name)
	if err != nil || number == 0 {
		return err
	}
	err = l.each(&loadStands, func(cells []sqldriver.Value) bool {
		place, _ := cells[0].(int64)
		s := &stats[place-claimAt(number, 0)]
		owner, _ := cells[1].(string)
		next, _ := cells[2].(int64)
		s.Known, s.Next = true, driver.Position(next)
		s.Owner, _ = g.living.name(owner)
		return true
	}, claimAt(number, 0), claimAt(number, len(stats)))
	for i := 0; i < len(stats) && err == nil; i++ {
		s := &stats[i]
		next := max(s.Next, s.First)
		if !s.Known || next >= s.End {
			continue
		}
		s.Waiting = int64(s.End - next)
		var at int64
		at, err = l.number(&loadTime, placeOf(heads[i].number, next))
		s.Oldest = time.UnixMilli(at)
	}
	return err
}
