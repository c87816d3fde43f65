package kafka

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/prismgw/prism/errs"
)

// A route is the way from one client to a topic: which broker leads each
// partition.
type route struct {
	conn   *conn
	client *kgo.Client
	topic  string

	mu      sync.Mutex // guards what follows
	id      [16]byte   // zero on brokers that know none
	leaders []int32    // by partition; -1: nobody at the moment; nil: to be asked for
}

// metadata asks for topics, without making any.
func (c *conn) metadata(ctx context.Context, client *kgo.Client, topics ...string) (*kmsg.MetadataResponse, error) {
	req := kmsg.NewPtrMetadataRequest()
	req.AllowAutoTopicCreation = false
	req.Topics = []kmsg.MetadataRequestTopic{}
	for _, topic := range topics {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = kmsg.StringPtr(topic)
		req.Topics = append(req.Topics, t)
	}
	resp, err := req.RequestWith(ctx, prompt{client})
	if err == nil && len(resp.Topics) != len(topics) {
		return nil, errs.New(errs.Internal, "the backend answered for other topics")
	}
	return resp, err
}

// load asks for the leaders.
func (r *route) load(ctx context.Context) ([]int32, error) {
	resp, err := r.conn.metadata(ctx, r.client, r.topic)
	if err != nil {
		return nil, err
	}
	t := &resp.Topics[0]
	if err := kerr.ErrorForCode(t.ErrorCode); err != nil {
		return nil, err
	}
	leaders := slices.Repeat([]int32{-1}, len(t.Partitions))
	for _, p := range t.Partitions {
		if p.Partition >= 0 && int(p.Partition) < len(leaders) {
			leaders[p.Partition] = p.Leader
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.id, r.leaders = t.TopicID, leaders
	return leaders, nil
}

// known returns the leaders, asking for them if they are not known.
func (r *route) known(ctx context.Context) ([]int32, [16]byte, error) {
	r.mu.Lock()
	leaders, id := r.leaders, r.id
	r.mu.Unlock()
	if leaders != nil {
		return leaders, id, nil
	}
	leaders, err := r.load(ctx)
	if err != nil {
		return nil, id, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return leaders, r.id, nil
}

// leader returns who leads a partition.
func (r *route) leader(ctx context.Context, partition int32) (int32, error) {
	leaders, _, err := r.known(ctx)
	switch {
	case err != nil:
		return 0, err
	case int(partition) >= len(leaders):
		return 0, kerr.UnknownTopicOrPartition
	case leaders[partition] < 0:
		r.forget()
		return 0, kerr.LeaderNotAvailable
	}
	return leaders[partition], nil
}

// forget has the leaders asked for again.
func (r *route) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leaders = nil
}

// moved reports whether an error says that a partition, or the topic, is
// somewhere else.
func moved(code int16) bool {
	switch kerr.ErrorForCode(code) { //nolint:errorlint // kerr's errors are single values
	case kerr.NotLeaderForPartition, kerr.LeaderNotAvailable, kerr.ReplicaNotAvailable, kerr.FencedLeaderEpoch, kerr.UnknownLeaderEpoch,
		kerr.KafkaStorageError, kerr.OffsetNotAvailable, kerr.UnknownTopicOrPartition, kerr.UnknownTopicID, kerr.InconsistentTopicID:
		return true
	}
	return false
}

// A want is a partition that is to be fetched.
type want struct {
	partition int32
	offset    int64
}

// fetch asks a leader for records of its partitions: committed ones, of about
// most bytes together and each bytes of a partition, waiting so long for the
// first one. A first record that is larger comes alone.
func (r *route) fetch(ctx context.Context, leader int32, wants []want, most, each int, wait time.Duration) ([]kmsg.FetchResponseTopicPartition, error) {
	_, id, err := r.known(ctx)
	if err != nil {
		return nil, err
	}
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.TopicID = r.topic, id
	for _, w := range wants {
		p := kmsg.NewFetchRequestTopicPartition()
		p.Partition, p.FetchOffset, p.PartitionMaxBytes = w.partition, w.offset, int32(each)
		t.Partitions = append(t.Partitions, p)
	}
	req := kmsg.NewPtrFetchRequest()
	req.ReplicaID, req.SessionEpoch, req.IsolationLevel = -1, -1, 1
	req.MinBytes, req.MaxBytes, req.MaxWaitMillis = 1, int32(most), int32(wait.Milliseconds())
	req.Topics = append(req.Topics, t)
	answer, err := prompt{r.client.Broker(int(leader))}.Request(ctx, req)
	if err != nil {
		return nil, err
	}
	resp, _ := answer.(*kmsg.FetchResponse)
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return nil, err
	}
	if len(resp.Topics) != 1 {
		return nil, errs.New(errs.Internal, "the backend answered for other topics")
	}
	return resp.Topics[0].Partitions, nil
}

// decompressor undoes what producers have compressed.
var decompressor = kgo.DefaultDecompressor()

// decode returns the committed records of an answer from an offset on, and the
// offset behind all that was looked at.
func (r *route) decode(p *kmsg.FetchResponseTopicPartition, offset int64) ([]*kgo.Record, int64, error) {
	opts := kgo.ProcessFetchPartitionOpts{Offset: offset, IsolationLevel: kgo.ReadCommitted(), Topic: r.topic, Partition: p.Partition}
	found, next := kgo.ProcessFetchPartition(opts, p, decompressor, nil)
	if found.Err != nil && len(found.Records) == 0 {
		return nil, offset, errs.Wrap(found.Err, errs.Internal, "the backend's records cannot be read")
	}
	return found.Records, next, nil
}

// Places in a partition that have no offset yet, in the words of ListOffsets.
const (
	atStart = -2
	atEnd   = -1 // behind what is committed
)

// offsets asks for the offsets of a time (in milliseconds), of the start or of
// the end in partitions. -1: there is none.
func (r *route) offsets(ctx context.Context, at int64, partitions []int32) (map[int32]int64, error) {
	t := kmsg.NewListOffsetsRequestTopic()
	t.Topic = r.topic
	for _, partition := range partitions {
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Partition, p.Timestamp = partition, at
		t.Partitions = append(t.Partitions, p)
	}
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID, req.IsolationLevel = -1, 1
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, prompt{r.client})
	if err != nil {
		return nil, err
	}
	found := make(map[int32]int64, len(partitions))
	for i := range resp.Topics {
		for _, p := range resp.Topics[i].Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return nil, err
			}
			found[p.Partition] = p.Offset
		}
	}
	if len(found) < len(partitions) {
		return nil, kerr.LeaderNotAvailable
	}
	return found, nil
}
