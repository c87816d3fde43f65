package redis

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/groups"
	"github.com/prismgw/prism/errs"
)

// group is the table of one group, which a script changes and reads.
type group struct {
	*topic
	name string
	keys []string
}

var _ groups.Table = (*group)(nil)

func (t *topic) group(name string) *group {
	return &group{topic: t, name: name, keys: []string{t.key, t.key + ":group:" + name, t.key + ":notes:" + name}}
}

// call runs the script and returns what it answers behind the first text.
func (g *group) call(ctx context.Context, what string, write bool, args ...string) ([]string, error) {
	c, err := g.client(ctx)
	if err != nil {
		return nil, g.link.fail(ctx, err, write)
	}
	return g.callOn(ctx, c, what, write, args...)
}

func (g *group) callOn(ctx context.Context, c rueidis.Client, what string, write bool, args ...string) ([]string, error) {
	e := execution{groupScript, g.keys, append([]string{what, g.channel, g.name, strconv.FormatInt(groups.TTL.Milliseconds(), 10)}, args...)}
	texts, err := g.link.execute(ctx, c, e)[0].AsStrSlice()
	switch {
	case err != nil:
		return nil, g.link.fail(ctx, err, write)
	case len(texts) > 0 && texts[0] == "ok":
		return texts[1:], nil
	case len(texts) > 0 && texts[0] == "topic":
		return nil, errs.TopicNotFound
	case len(texts) > 0 && texts[0] == "group":
		return nil, errs.GroupNotFound
	}
	return nil, errForm
}

var errForm = errs.New(errs.Internal, "the backend answered about a group in an unknown form")

// known reports whether somebody has ever joined the group.
func (g *group) known(ctx context.Context, c rueidis.Client) (bool, error) {
	_, err := g.callOn(ctx, c, "stand", false, "0")
	if errors.Is(err, errs.GroupNotFound) {
		return false, nil
	}
	return err == nil, err
}

// know makes the group known where it is not.
func (g *group) know(ctx context.Context, c rueidis.Client, from []driver.Position) error {
	args := make([]string, len(from))
	for i, next := range from {
		args[i] = strconv.FormatInt(int64(next), 10)
	}
	_, err := g.callOn(ctx, c, "know", true, args...)
	return err
}

// Beat implements groups.Table.
func (g *group) Beat(ctx context.Context, self groups.Self) (groups.View, error) {
	g.tail.use()
	n := len(g.streams)
	said, err := g.call(ctx, "beat", true, self.ID, self.Name, strconv.Itoa(n))
	if err != nil {
		return groups.View{}, err
	}
	if len(said) < 2*n {
		return groups.View{}, errForm
	}
	v := groups.View{Alive: said[2*n:], Owners: make([]groups.Owner, n)}
	for i := range v.Owners {
		claim, err := strconv.ParseInt(said[2*i+1], 10, 64)
		if err != nil {
			return groups.View{}, errForm
		}
		v.Owners[i] = groups.Owner{ID: said[2*i], Claim: claim}
	}
	return v, nil
}

// Take implements groups.Table.
func (g *group) Take(ctx context.Context, self groups.Self, partitions []int) ([]groups.Taken, error) {
	args := []string{self.ID}
	for _, p := range partitions {
		args = append(args, strconv.Itoa(p))
	}
	said, err := g.call(ctx, "take", true, args...)
	if err != nil {
		return nil, err
	}
	taken := make([]groups.Taken, len(said)/4)
	for i := range taken {
		var numbers [3]int64
		for n := range numbers {
			if numbers[n], err = strconv.ParseInt(said[4*i+n], 10, 64); err != nil {
				return nil, errForm
			}
		}
		taken[i].Partition, taken[i].Number = int(numbers[0]), numbers[1]
		taken[i].Next, taken[i].Note = driver.Position(numbers[2]), said[4*i+3]
	}
	return taken, nil
}

// Commit implements groups.Table. Each commit has a number, so that one which
// was given up and comes late does not undo a later one.
func (g *group) Commit(ctx context.Context, self groups.Self, commits []driver.Commit, results []error) {
	args := make([]string, 0, 1+6*len(commits))
	args = append(args, self.ID)
	number := strconv.FormatInt(g.commits.Add(1), 10)
	for i := range commits {
		c := &commits[i]
		release := ""
		if c.Release {
			release = "release"
		}
		args = append(args, strconv.Itoa(c.Partition), strconv.FormatInt(c.Claim, 10), number, strconv.FormatInt(int64(c.Next), 10), release, c.Note)
	}
	said, err := g.call(ctx, "commit", true, args...)
	if err == nil && len(said) != len(results) {
		err = errForm
	}
	for i := range results {
		switch results[i] = err; {
		case err != nil:
		case said[i] != "ok":
			results[i] = errs.StaleReceipt
		}
	}
}

// Release implements groups.Table.
func (g *group) Release(ctx context.Context, self groups.Self, claims []groups.Claim) error {
	args := []string{self.ID}
	for _, c := range claims {
		args = append(args, strconv.Itoa(c.Partition), strconv.FormatInt(c.Number, 10))
	}
	_, err := g.call(ctx, "release", true, args...)
	return err
}

// leaveTime is how long to try to leave a server that cannot be reached: one
// that was away a moment ago is not asked again at once.
const leaveTime = 2 * backoffMax

// Leave implements groups.Table.
func (g *group) Leave(ctx context.Context, self groups.Self) error {
	for until := time.Now().Add(leaveTime); ; {
		_, err := g.call(ctx, "leave", true, self.ID)
		if !errors.Is(err, errs.BackendUnavailable) || time.Now().After(until) || g.link.ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(backoffMin):
		}
	}
}

// stand fills in what is known of the group.
func (g *group) stand(ctx context.Context, stats []driver.PartitionStat) error {
	said, err := g.call(ctx, "stand", false, strconv.Itoa(len(stats)))
	if errors.Is(err, errs.GroupNotFound) {
		return nil
	}
	if err == nil && len(said) != 2*len(stats) {
		err = errForm
	}
	if err != nil {
		return err
	}
	for i := range stats {
		next, err := strconv.ParseInt(said[2*i], 10, 64)
		if err != nil {
			return errForm
		}
		stats[i].Known, stats[i].Next, stats[i].Owner = true, driver.Position(next), said[2*i+1]
	}
	return nil
}
