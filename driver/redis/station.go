package redis

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// A station is the server through which the messages of a link go. In a Cluster
// that is any one of its nodes, for publishing and for listening: a node passes
// on what it is told to the others, in no order with what those are told. (That
// costs each node something for each message. Sharded channels would not, but
// they have no patterns, and clients that do not know of them hear nothing.)
type station struct {
	client  rueidis.Client
	checked atomic.Int64 // when a node was last asked whether it belongs to the Cluster, in Unix nanoseconds
}

// where returns the address of the server.
func (s *station) where() string {
	for addr := range s.client.Nodes() { // one
		return addr
	}
	return ""
}

// station returns that through which messages go now.
func (l *link) station(ctx context.Context) (*station, error) {
	c, err := l.get(ctx)
	if err != nil {
		return nil, err
	}
	at := l.chosen.Load()
	if at != nil && (c.Mode() != rueidis.ClientModeCluster || !at.due() || l.belongs(ctx, c, at)) {
		return at, nil
	}
	return l.choose(c, at), nil
}

// choose returns another station than before, if there is one.
func (l *link) choose(c rueidis.Client, before *station) *station {
	next := &station{client: c}
	next.checked.Store(time.Now().UnixNano())
	if c.Mode() == rueidis.ClientModeCluster {
		for addr, node := range c.Nodes() { // in no order: the links of many processes spread
			next.client = node
			if before == nil || addr != before.where() {
				break
			}
		}
	}
	if l.chosen.CompareAndSwap(before, next) {
		return next
	}
	return l.chosen.Load()
}

// leave chooses another station than one that is in trouble.
func (l *link) leave(at *station) {
	if c := l.client.Load(); c != nil && (*c).Mode() == rueidis.ClientModeCluster {
		l.choose(*c, at)
	}
}

// due reports, to one of those who ask, whether a node is to be asked.
func (s *station) due() bool {
	last, now := s.checked.Load(), time.Now().UnixNano()
	return now-last >= int64(topologyEvery) && s.checked.CompareAndSwap(last, now)
}

// belongs reports whether a node still belongs to the Cluster. One that was
// taken out of it and lives on takes messages and tells them nobody.
func (l *link) belongs(ctx context.Context, c rueidis.Client, at *station) bool {
	if _, known := c.Nodes()[at.where()]; !known {
		return false
	}
	info, err := l.one(ctx, at.client, at.client.B().ClusterInfo().Build()).ToString()
	return err != nil || infoField(info, "cluster_slots_assigned") != "0"
}
