package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/groups"
	"github.com/prismgw/prism/errs"
)

// group is the table of one group as one member uses it.
type group struct {
	topic   *topic
	number  int64
	key     wakeKey
	changed *groups.Bell
	beaten  atomic.Bool  // others have been told that the member has come
	commits atomic.Int64 // numbers the member's commits
}

// args are parameters with the group's number and the member.
func (g *group) args(self groups.Self) *values {
	return &values{pGroup: int8Value(g.number), pMember: []byte(self.ID), pName: []byte(self.Name)}
}

// tell has members in other processes look at the group.
func (g *group) tell() { g.topic.log.c.wakes.ring(g.key, 1) }

var errView = errors.New("the owners of a group's partitions are damaged")

// Beat implements groups.Table.
func (g *group) Beat(ctx context.Context, self groups.Self) (groups.View, error) {
	args := g.args(self)
	v, err := change(ctx, g.topic.log.c, &g.topic.log.c.logTables, func(v *groups.View) []query {
		return []query{{g.topic.log.st.beat, args, func(columns [][]byte) error { return readView(v, columns) }}}
	})
	if err != nil {
		return groups.View{}, err
	}
	if len(v.Owners) != g.topic.spec.Partitions {
		return groups.View{}, errs.GroupNotFound
	}
	if !slices.Contains(v.Alive, self.ID) {
		v.Alive = append(v.Alive, self.ID) // this beat is its first
	}
	if !g.beaten.Swap(true) {
		g.tell()
	}
	return v, nil
}

// readView reads what a beat answers.
func readView(v *groups.View, columns [][]byte) error {
	v.Alive = strings.Fields(string(columns[0]))
	if len(columns[1]) == 0 {
		return nil
	}
	for one := range strings.SplitSeq(string(columns[1]), ",") {
		id, claim, _ := strings.Cut(one, " ")
		number, err := strconv.ParseInt(claim, 10, 64)
		if err != nil {
			return errView
		}
		v.Owners = append(v.Owners, groups.Owner{ID: id, Claim: number})
	}
	return nil
}

// Take implements groups.Table.
func (g *group) Take(ctx context.Context, self groups.Self, partitions []int) ([]groups.Taken, error) {
	args := g.args(self)
	args[pPartitions] = int8Array(sorted(partitions))
	return change(ctx, g.topic.log.c, &g.topic.log.c.logTables, func(taken *[]groups.Taken) []query {
		return []query{{g.topic.log.st.take, args, func(columns [][]byte) error {
			n, err := readNumbers(columns[:3])
			if err != nil {
				return err
			}
			*taken = append(*taken, groups.Taken{
				Claim:      groups.Claim{Partition: int(n[0]), Number: n[1]},
				Checkpoint: driver.Checkpoint{Next: driver.Position(n[2]), Note: string(columns[3])},
			})
			return nil
		}}}
	})
}

// Release implements groups.Table.
func (g *group) Release(ctx context.Context, self groups.Self, claims []groups.Claim) error {
	own := slices.SortedFunc(slices.Values(claims), func(a, b groups.Claim) int { return cmp.Compare(a.Partition, b.Partition) })
	partitions, numbers := make([]int64, len(own)), make([]int64, len(own))
	for i, c := range own {
		partitions[i], numbers[i] = int64(c.Partition), c.Number
	}
	args := g.args(self)
	args[pPartitions], args[pClaims] = int8Array(partitions), int8Array(numbers)
	if err := g.topic.log.change(ctx, query{g.topic.log.st.release, args, nil}); err != nil {
		return err
	}
	g.tell()
	return nil
}

// Leave implements groups.Table.
func (g *group) Leave(ctx context.Context, self groups.Self) error {
	if err := g.topic.log.change(ctx, query{g.topic.log.st.leave, g.args(self), nil}); err != nil {
		return err
	}
	g.tell()
	return nil
}

// A commitJob is a call of Commit.
type commitJob struct {
	group   *group
	owner   string
	number  int64 // among the member's commits
	commits []driver.Commit
	results []error
}

// Commit implements groups.Table.
func (g *group) Commit(ctx context.Context, self groups.Self, commits []driver.Commit, results []error) {
	job := &commitJob{
		group: g, owner: self.ID, number: g.commits.Add(1),
		commits: slices.Clone(commits), results: make([]error, len(commits)),
	}
	for i := range job.commits {
		c := &job.commits[i]
		if c.Note = strings.Clone(c.Note); !isText(c.Note) {
			job.results[i] = errs.Invalid(errs.Field{Path: "note", Text: "is no text"})
		}
	}
	if ctx.Err() != nil || !g.topic.log.commits.do(ctx, job, len(commits)) {
		err := contextError(ctx)
		for i := range results {
			results[i] = err
		}
		return
	}
	copy(results, job.results)
}

// A done commit is one that a flight sends.
type done struct {
	job *commitJob
	i   int
}

func (d done) what() *driver.Commit { return &d.job.commits[d.i] }

// compare orders by claims, so that nobody waits for each other in a circle.
func (d done) compare(other done) int {
	return cmp.Or(cmp.Compare(d.job.group.number, other.job.group.number), cmp.Compare(d.what().Partition, other.what().Partition))
}

// commitAll carries out the commits of all jobs in one transaction.
func (l *log) commitAll(ctx context.Context, pc *pgx.Conn, jobs []*commitJob) error {
	var all []done
	for _, job := range jobs {
		for i := range job.commits {
			if job.results[i] == nil {
				all = append(all, done{job, i})
			}
		}
	}
	if len(all) == 0 {
		return nil
	}
	slices.SortStableFunc(all, done.compare)
	applied := map[done]bool{}
	if err := l.c.run(ctx, pc, &l.c.logTables, l.commitQueries(all, applied)...); err != nil {
		return err
	}
	l.judge(ctx, pc, all, applied)
	var told []*group
	for _, d := range all {
		if g := d.job.group; applied[d] && d.what().Release && !slices.Contains(told, g) {
			told = append(told, g)
			g.tell()
		}
	}
	return nil
}

func failCommit(job *commitJob, err error) {
	for i := range job.results {
		if job.results[i] == nil {
			job.results[i] = err
		}
	}
}

// commitQueries puts commits of different claims into one statement. What is
// said of one again goes into the next.
func (l *log) commitQueries(all []done, applied map[done]bool) (queries []query) {
	for len(all) > 0 {
		var now, later []done
		for i, d := range all {
			if i > 0 && all[i-1].compare(d) == 0 {
				later = append(later, d)
			} else {
				now = append(now, d)
			}
		}
		queries = append(queries, query{l.st.commit, commitValues(now), named(now, func(d done) { applied[d] = true })})
		all = later
	}
	return queries
}

// named reads rows of a place from 1.
func named(all []done, each func(done)) func([][]byte) error {
	return func(columns [][]byte) error {
		n, err := readInt8(columns[0])
		if err == nil && (n < 1 || n > int64(len(all))) {
			err = fmt.Errorf("the server answered place %d of %d", n, len(all))
		}
		if err == nil {
			each(all[n-1])
		}
		return err
	}
}

func commitValues(all []done) *values {
	numbers := func(of func(done) int64) []byte {
		return arrayValue(oidInt8, len(all), 8*len(all), func(to []byte, i int) []byte { return append(to, int8Value(of(all[i]))...) })
	}
	texts := func(of func(done) string) []byte {
		return arrayValue(oidText, len(all), 0, func(to []byte, i int) []byte { return append(to, of(all[i])...) })
	}
	return &values{
		pGroups:     numbers(func(d done) int64 { return d.job.group.number }),
		pPartitions: numbers(func(d done) int64 { return int64(d.what().Partition) }),
		pOwners:     texts(func(d done) string { return d.job.owner }),
		pClaims:     numbers(func(d done) int64 { return d.what().Claim }),
		pNumbers:    numbers(func(d done) int64 { return d.job.number }),
		pNexts:      numbers(func(d done) int64 { return int64(d.what().Next) }),
		pNotes:      texts(func(d done) string { return d.what().Note }),
		pReleases: numbers(func(d done) int64 {
			if d.what().Release {
				return 1
			}
			return 0
		}),
	}
}

// judge looks at the claims of the commits that had no effect: they are over,
// unless the commit was a release that is repeated, or one that others of the
// same member have overtaken.
func (l *log) judge(ctx context.Context, pc *pgx.Conn, all []done, applied map[done]bool) {
	rest := slices.DeleteFunc(slices.Clone(all), func(d done) bool { return applied[d] })
	if len(rest) == 0 {
		return
	}
	fine := map[done]bool{}
	tx := &transaction{queries: []query{{l.st.judge, commitValues(rest), named(rest, func(d done) { fine[d] = true })}}}
	fly(ctx, pc, []*transaction{tx})
	for _, d := range rest {
		switch {
		case tx.err != nil:
			d.job.results[d.i] = l.c.failure(tx.err, false)
		case !fine[d]:
			d.job.results[d.i] = errs.StaleReceipt
		}
	}
}
