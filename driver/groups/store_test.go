package groups_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/groups"
	"github.com/prismgw/prism/errs"
)

// A store is a topic and its one group, in memory and to be broken.
type store struct {
	appended groups.Bell
	unfenced bool // Commit compares no claims

	mu       sync.Mutex // guards what follows
	trouble  trouble
	records  [][]driver.Stored
	first    []driver.Position
	fetched  int // bytes
	alive    map[string]time.Time
	names    map[string]string // by ID
	rows     []row
	accepted []commit
	wrong    []string // what the judge has seen
}

// A trouble is called before and after everything that the store does for a
// member, of which reads know no name. What it returns is what the member gets.
type trouble func(ctx context.Context, member, what string, after bool) error

// meet sets the trouble; nil is none.
func (s *store) meet(t trouble) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trouble = t
}

type row struct {
	owner      string
	claim      int64
	checkpoint driver.Checkpoint
}

// A commit is one that the store has accepted.
type commit struct {
	driver.Commit
	member string
}

func newStore(partitions int) *store {
	s := &store{
		records: make([][]driver.Stored, partitions), first: make([]driver.Position, partitions),
		rows: make([]row, partitions), alive: make(map[string]time.Time), names: make(map[string]string),
	}
	for i := range s.rows {
		s.first[i] = 1
		s.rows[i].checkpoint.Next = 1
	}
	return s
}

// begin is the beginning of everything; the function it returns is the end.
func (s *store) begin(ctx context.Context, member, what string) (end func() error, err error) {
	ask := func(after bool) error {
		s.mu.Lock()
		trouble := s.trouble
		s.mu.Unlock()
		if trouble != nil {
			if err := trouble(ctx, member, what, after); err != nil {
				return err
			}
		}
		return ctx.Err()
	}
	if err := ask(false); err != nil {
		return nil, err
	}
	s.mu.Lock()
	return func() error {
		s.mu.Unlock()
		return ask(true)
	}, nil
}

func (s *store) append(partition, n int) {
	s.mu.Lock()
	for range n {
		all := &s.records[partition]
		*all = append(*all, driver.Stored{
			Record:   driver.Record{Partition: partition, Value: make([]byte, 100)},
			Position: s.first[partition] + driver.Position(len(*all)), Time: time.Now(),
		})
	}
	s.mu.Unlock()
	s.appended.Ring()
}

// trim deletes the first records of a partition.
func (s *store) trim(partition, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n = min(n, len(s.records[partition]))
	s.records[partition] = slices.Clone(s.records[partition][n:])
	s.first[partition] += driver.Position(n)
}

// seek is what a Topic's Seek does, but for the ring.
func (s *store) seek(partition int, next driver.Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rows[partition] = row{claim: s.rows[partition].claim + 1, checkpoint: driver.Checkpoint{Next: next}}
}

func (s *store) Fetch(ctx context.Context, cursors []groups.Cursor, found []groups.Found) (uint64, error) {
	mark := s.appended.Count()
	end, err := s.begin(ctx, "", "fetch")
	if err != nil {
		return 0, err
	}
	for i, c := range cursors {
		from := max(c.From, s.first[c.Partition])
		found[i].Skipped = int64(from - c.From)
		all := s.records[c.Partition]
		for size := 0; from < s.first[c.Partition]+driver.Position(len(all)) && size < c.Bytes; from++ {
			r := all[from-s.first[c.Partition]]
			found[i].Records = append(found[i].Records, r)
			size += groups.Size(&r.Record)
			s.fetched += groups.Size(&r.Record)
		}
		found[i].Next = from
	}
	return mark, end()
}

func (s *store) Wait(ctx context.Context, _ []groups.Cursor, mark uint64) error {
	return s.appended.Wait(ctx, mark)
}

func (s *store) lives(id string) bool { return time.Now().Before(s.alive[id]) }

func (s *store) Beat(ctx context.Context, self groups.Self) (groups.View, error) {
	end, err := s.begin(ctx, self.Name, "beat")
	if err != nil {
		return groups.View{}, err
	}
	s.alive[self.ID], s.names[self.ID] = time.Now().Add(groups.TTL), self.Name
	var v groups.View
	for id := range s.alive {
		if s.lives(id) {
			v.Alive = append(v.Alive, id)
		}
	}
	for _, r := range s.rows {
		v.Owners = append(v.Owners, groups.Owner{ID: r.owner, Claim: r.claim})
	}
	return v, end()
}

func (s *store) Take(ctx context.Context, self groups.Self, partitions []int) (taken []groups.Taken, err error) {
	end, err := s.begin(ctx, self.Name, "take")
	if err != nil {
		return nil, err
	}
	for _, i := range partitions {
		r := &s.rows[i]
		if r.owner == self.ID || !s.lives(r.owner) {
			r.owner, r.claim = self.ID, r.claim+1
			taken = append(taken, groups.Taken{Claim: groups.Claim{Partition: i, Number: r.claim}, Checkpoint: r.checkpoint})
		}
	}
	return taken, end()
}

func (s *store) Commit(ctx context.Context, self groups.Self, commits []driver.Commit, results []error) {
	end, err := s.begin(ctx, self.Name, "commit")
	if err != nil {
		for i := range results {
			results[i] = err
		}
		return
	}
	for i, c := range commits {
		results[i] = s.commit(self, c)
	}
	if err := end(); err != nil {
		for i := range results {
			results[i] = errs.OutcomeUnknown
		}
	}
}

func (s *store) commit(self groups.Self, c driver.Commit) error {
	r := &s.rows[c.Partition]
	owns := r.claim == c.Claim && (r.owner == self.ID || r.owner == "" && c.Release)
	if !owns && !s.unfenced {
		return errs.StaleReceipt
	}
	s.judge(r, c)
	s.accepted = append(s.accepted, commit{c, self.Name})
	r.checkpoint = c.Checkpoint
	if c.Release && owns {
		r.owner = ""
	}
	return nil
}

// judge sees commits that must not be, whatever the store compares: of a claim
// after one of a later claim, or back to an earlier position.
func (s *store) judge(r *row, c driver.Commit) {
	for _, before := range slices.Backward(s.accepted) {
		if before.Partition == c.Partition && before.Claim > c.Claim {
			s.wrong = append(s.wrong, fmt.Sprintf("partition %d: claim %d has committed after claim %d of %s", c.Partition, c.Claim, before.Claim, before.member))
			break
		}
	}
	if c.Next < r.checkpoint.Next {
		s.wrong = append(s.wrong, fmt.Sprintf("partition %d: the checkpoint went from %d back to %d", c.Partition, r.checkpoint.Next, c.Next))
	}
}

func (s *store) Release(ctx context.Context, self groups.Self, claims []groups.Claim) error {
	end, err := s.begin(ctx, self.Name, "release")
	if err != nil {
		return err
	}
	for _, c := range claims {
		if r := &s.rows[c.Partition]; r.owner == self.ID && r.claim == c.Number {
			r.owner = ""
		}
	}
	return end()
}

func (s *store) Leave(ctx context.Context, self groups.Self) error {
	end, err := s.begin(ctx, self.Name, "leave")
	if err != nil {
		return err
	}
	delete(s.alive, self.ID)
	for i := range s.rows {
		if s.rows[i].owner == self.ID {
			s.rows[i].owner = ""
		}
	}
	return end()
}

// owners returns the names of the members that have the partitions, empty for
// those that are free.
func (s *store) owners() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := make([]string, len(s.rows))
	for i, r := range s.rows {
		if s.lives(r.owner) {
			names[i] = s.names[r.owner]
		}
	}
	return names
}

func (s *store) checkpoint(partition int) driver.Checkpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rows[partition].checkpoint
}
