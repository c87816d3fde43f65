package kafka

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/prismgw/prism/driver"
)

// A group is a consumer group in one topic, as one client asks for it.
type group struct {
	*route
	name string

	mu          sync.Mutex // guards what follows
	coordinator int32
	found       bool
}

// committed returns the checkpoints of partitions; those that the group has
// committed nothing for are left out. stable waits for transactions of other
// programs that commit for the group.
func (g *group) committed(ctx context.Context, partitions []int32, stable bool) (map[int32]driver.Checkpoint, error) {
	_, id, err := g.known(ctx)
	if err != nil {
		return nil, err
	}
	req := kmsg.NewPtrOffsetFetchRequest() // in the words of brokers before and after 3.0
	req.Group, req.RequireStable = g.name, stable
	t := kmsg.NewOffsetFetchRequestTopic()
	t.Topic, t.Partitions = g.topic, partitions
	req.Topics = append(req.Topics, t)
	rg := kmsg.NewOffsetFetchRequestGroup()
	rg.Group = g.name
	rt := kmsg.NewOffsetFetchRequestGroupTopic()
	rt.Topic, rt.TopicID, rt.Partitions = g.topic, id, partitions
	rg.Topics = append(rg.Topics, rt)
	req.Groups = append(req.Groups, rg)
	resp, err := req.RequestWith(ctx, prompt{g.client})
	if err != nil {
		return nil, err
	}
	return checkpoints(resp)
}

// checkpoints reads an answer about one topic of one group. Brokers say in
// several ways that they do not know the group.
func checkpoints(resp *kmsg.OffsetFetchResponse) (map[int32]driver.Checkpoint, error) {
	code, found := resp.ErrorCode, map[int32]driver.Checkpoint{}
	note := func(partition int32, at int64, metadata *string, code int16) error {
		if at >= 0 && code == 0 {
			c := driver.Checkpoint{Next: position(at)}
			if metadata != nil {
				c.Note = *metadata
			}
			found[partition] = c
		}
		return kerr.ErrorForCode(code)
	}
	var failed error
	for i := range resp.Groups {
		code = max(code, resp.Groups[i].ErrorCode)
		for j := range resp.Groups[i].Topics {
			for _, p := range resp.Groups[i].Topics[j].Partitions {
				failed = errors.Join(failed, note(p.Partition, p.Offset, p.Metadata, p.ErrorCode))
			}
		}
	}
	if len(resp.Groups) == 0 {
		for i := range resp.Topics {
			for _, p := range resp.Topics[i].Partitions {
				failed = errors.Join(failed, note(p.Partition, p.Offset, p.Metadata, p.ErrorCode))
			}
		}
	}
	if err := kerr.ErrorForCode(code); err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		return nil, err
	}
	return found, failed
}

// A mark is what is to be committed for one partition.
type mark struct {
	partition int32
	driver.Checkpoint
}

// nobody commits for a group that has no members.
const nobody = -1

// commit commits for a member of a generation, or for nobody, in one request,
// and returns the broker's answer for each mark. It is sent once; an error says
// that nobody knows what it did, unless the broker was not reached.
func (g *group) commit(ctx context.Context, id string, generation int32, marks []mark) ([]error, error) {
	_, topicID, err := g.known(ctx)
	if err != nil {
		return nil, notSent(err)
	}
	t := kmsg.NewOffsetCommitRequestTopic()
	t.Topic, t.TopicID = g.topic, topicID
	for _, m := range marks {
		p := kmsg.NewOffsetCommitRequestTopicPartition()
		p.Partition, p.Offset, p.Metadata = m.partition, offset(m.Next), kmsg.StringPtr(m.Note)
		t.Partitions = append(t.Partitions, p)
	}
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.MemberID, req.Generation = g.name, id, generation
	req.Topics = append(req.Topics, t)
	node, err := g.coordinate(ctx)
	if err != nil {
		return nil, notSent(err)
	}
	answer, err := prompt{g.client.Broker(int(node))}.Request(ctx, req)
	if err != nil {
		g.lose()
		return nil, err
	}
	resp, _ := answer.(*kmsg.OffsetCommitResponse)
	return g.outcomes(resp, marks), nil
}

// outcomes sorts the broker's answers by mark.
func (g *group) outcomes(resp *kmsg.OffsetCommitResponse, marks []mark) []error {
	codes := map[int32]int16{}
	for i := range resp.Topics {
		for _, p := range resp.Topics[i].Partitions {
			codes[p.Partition] = p.ErrorCode
		}
	}
	outcomes := make([]error, len(marks))
	for i, m := range marks {
		code, answered := codes[m.partition]
		if !answered {
			code = kerr.UnknownServerError.Code
		}
		outcomes[i] = kerr.ErrorForCode(code)
		if elsewhere(outcomes[i]) {
			g.lose()
		}
	}
	return outcomes
}

// elsewhere reports whether an error says that another broker keeps the group.
func elsewhere(err error) bool {
	return errors.Is(err, kerr.NotCoordinator) || errors.Is(err, kerr.CoordinatorNotAvailable) || errors.Is(err, kerr.CoordinatorLoadInProgress)
}

// unsentError is a failure before anything was sent.
type unsentError struct{ cause error }

func (e *unsentError) Error() string { return e.cause.Error() }
func (e *unsentError) Unwrap() error { return e.cause }

func notSent(err error) error { return &unsentError{err} }

// coordinate returns the broker that keeps the group.
func (g *group) coordinate(ctx context.Context) (int32, error) {
	g.mu.Lock()
	node, found := g.coordinator, g.found
	g.mu.Unlock()
	if found {
		return node, nil
	}
	req := kmsg.NewPtrFindCoordinatorRequest()
	req.CoordinatorKey, req.CoordinatorKeys = g.name, []string{g.name}
	resp, err := req.RequestWith(ctx, prompt{g.client})
	if err != nil {
		return 0, err
	}
	node, code := resp.NodeID, resp.ErrorCode
	if len(resp.Coordinators) > 0 {
		node, code = resp.Coordinators[0].NodeID, resp.Coordinators[0].ErrorCode
	}
	if err := kerr.ErrorForCode(code); err != nil {
		return 0, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.coordinator, g.found = node, true
	return node, nil
}

// lose has the coordinator looked for again.
func (g *group) lose() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.found = false
}

// A membership is what the brokers say of a group.
type membership struct {
	settled bool             // nobody joins or leaves at the moment
	members []string         // their ids
	owners  map[int32]string // the client id of who has each partition
}

// describe asks for the members of the group.
func (g *group) describe(ctx context.Context) (membership, error) {
	req := kmsg.NewPtrDescribeGroupsRequest()
	req.Groups = []string{g.name}
	resp, err := req.RequestWith(ctx, prompt{g.client})
	if err != nil {
		return membership{}, err
	}
	found := membership{settled: true, owners: map[int32]string{}}
	for i := range resp.Groups {
		d := &resp.Groups[i]
		if err := kerr.ErrorForCode(d.ErrorCode); err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
			return membership{}, err
		}
		found.settled = d.State != "PreparingRebalance" && d.State != "CompletingRebalance"
		for j := range d.Members {
			found.note(g.topic, &d.Members[j])
		}
	}
	return found, nil
}

func (m *membership) note(topic string, d *kmsg.DescribeGroupsResponseGroupMember) {
	m.members = append(m.members, d.MemberID)
	var assigned kmsg.ConsumerMemberAssignment
	if assigned.ReadFrom(d.MemberAssignment) != nil {
		return // of a member that is being given some, or no consumer's
	}
	for _, t := range assigned.Topics {
		if t.Topic != topic {
			continue
		}
		for _, p := range t.Partitions {
			m.owners[p] = d.ClientID
		}
	}
}

// start begins a group that nobody knows, in all partitions at once, and
// reports whether it is known now. The places are looked up before it is asked
// whether the group is known: of two that start it at once the second may
// overwrite the first, but not with places behind what the first one's caller
// appends after its Join. Brokers refuse it when the group has members.
func (g *group) start(ctx context.Context, partitions []int32, s driver.Start) (known bool, err error) {
	at, err := g.begin(ctx, partitions, s)
	if err != nil {
		return false, notSent(err)
	}
	for tries := 1; ; tries++ {
		found, err := g.committed(ctx, partitions, false)
		if err != nil {
			return false, notSent(err)
		}
		if len(found) > 0 {
			return true, nil
		}
		marks := make([]mark, 0, len(partitions))
		for _, p := range partitions {
			marks = append(marks, mark{p, driver.Checkpoint{Next: position(at[p])}})
		}
		outcomes, err := g.commit(ctx, "", nobody, marks)
		if err != nil {
			return false, err
		}
		switch err := first(outcomes); {
		case err == nil:
			return true, nil
		case elsewhere(err) && tries < 10:
			if err := pause(ctx, rest(tries)); err != nil {
				return false, notSent(err)
			}
		case outsider(err): // it has members of other programs that have committed nothing
			return false, nil
		default:
			return false, err
		}
	}
}

// outsider reports whether a commit was refused because it came from no member
// of the group's present generation.
func outsider(err error) bool {
	return errors.Is(err, kerr.UnknownMemberID) || errors.Is(err, kerr.IllegalGeneration) || errors.Is(err, kerr.FencedInstanceID) ||
		errors.Is(err, kerr.RebalanceInProgress)
}

func first(all []error) error {
	for _, err := range all {
		if err != nil {
			return err
		}
	}
	return nil
}

// begin returns the offset of a start in each partition.
func (r *route) begin(ctx context.Context, partitions []int32, s driver.Start) (map[int32]int64, error) {
	if s.From == driver.StartEarliest {
		return r.offsets(ctx, atStart, partitions)
	}
	ends, err := r.offsets(ctx, atEnd, partitions)
	if err != nil || s.From == driver.StartLatest {
		return ends, err
	}
	found, err := r.offsets(ctx, max(s.Time.UnixMilli(), 0), partitions)
	if err != nil {
		return nil, err
	}
	for p, end := range ends {
		if found[p] < 0 {
			found[p] = end
		}
	}
	return found, nil
}

// memberOpts are those of a member of a group. kgo fetches nothing for it: it
// is told of no offsets to begin at.
func (c *conn) memberOpts(name, topic string, m *member) []kgo.Opt {
	balancers := []kgo.GroupBalancer{kgo.CooperativeStickyBalancer()}
	if c.set.SharedWithOthers {
		balancers = append(balancers, kgo.RangeBalancer(), kgo.RoundRobinBalancer())
	}
	return []kgo.Opt{
		kgo.ConsumerGroup(name),
		kgo.ConsumeTopics(topic),
		kgo.DisableAutoCommit(),
		kgo.Balancers(balancers...),
		kgo.SessionTimeout(c.set.session),
		kgo.HeartbeatInterval(c.set.session / 9),
		kgo.RebalanceTimeout(driver.LeaveTime + 5*time.Second),
		kgo.OnPartitionsAssigned(m.onAssigned),
		kgo.OnPartitionsRevoked(m.onRevoked),
		kgo.OnPartitionsLost(m.onLost),
		kgo.AdjustFetchOffsetsFn(func(context.Context, map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
			return nil, nil
		}),
	}
}
