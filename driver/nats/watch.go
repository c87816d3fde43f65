package nats

import (
	"context"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

const (
	heartbeat   = time.Second      // of a consumer without news
	silence     = 5 * heartbeat    // after which it is taken for lost
	abandoned   = 30 * time.Second // after which the server drops a consumer that nobody hears
	lookEvery   = time.Millisecond // whether the leader has applied a change
	againAfter  = 50 * time.Millisecond
	againAtMost = time.Second
)

// Watch begins to watch: a consumer of the stream tells of each new message
// without its data. When it is lost, another one is made, and then Lost told.
func (k *kv) Watch(ctx context.Context, prefix string) (driver.Watch, error) {
	w := &watch{kv: k}
	live, cancel := context.WithCancel(k.link.ctx) //nolint:contextcheck // ctx bounds the beginning only
	w.ctx, w.Changes = live, wrap.NewChanges(prefix, cancel)
	f, err := w.follow(ctx)
	if err != nil {
		cancel()
		return nil, k.link.fail(ctx, err, false)
	}
	if err := k.link.work(func() { w.run(f) }); err != nil {
		cancel()
		f.close()
		return nil, k.link.fail(ctx, err, false)
	}
	return w, nil
}

// work runs something until the link is closed.
func (l *link) work(run func()) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return &lostError{cause: errClosed}
	}
	l.workers.Go(run)
	return nil
}

// watch is one watch of a space.
type watch struct {
	*wrap.Changes
	kv  *kv
	ctx context.Context // ends with the watch
}

// run keeps the watch fed until it or the link ends.
func (w *watch) run(f *feed) {
	for f != nil && f.wait(w.ctx) == nil {
		f.close()
		if f = w.again(w.ctx); f != nil {
			w.Lose()
		}
	}
	if f != nil {
		f.close()
	}
	w.End(errs.Wrap(errClosed, errs.BackendUnavailable, "the backend cannot be reached"))
}

// again makes another feed, trying until the context ends.
func (w *watch) again(ctx context.Context) *feed {
	for rest := againAfter; ; rest = min(2*rest, againAtMost) {
		try, cancel := context.WithTimeout(ctx, w.kv.set.connect)
		f, err := w.follow(try)
		cancel()
		if err == nil {
			return f
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(rest):
		}
	}
}

// feed is one consumer of the stream. With several replicas, that of any node
// can feed it, also of one that applies changes before the leader does.
type feed struct {
	session *session
	stream  string
	sub     *nats.Subscription
	path    string // of the consumer in the API
	tell    teller
	ctx     context.Context // ends with the feed
	cancel  context.CancelFunc
	broken  chan struct{} // of capacity 1: something was missed
	heard   atomic.Int64  // when the last message came, in nanoseconds
	last    uint64        // number of the last message; of take
	applied uint64        // what the leader has applied at least; of take
}

// A teller is told of each message, one after the other. What it returns ends
// the feed.
type teller func(f *feed, subject string, seq uint64) error

type consumerRequest struct {
	Stream string         `json:"stream_name"`
	Config consumerConfig `json:"config"`
	Action string         `json:"action"`
}

// consumerConfig is an ephemeral push consumer.
type consumerConfig struct {
	Name          string        `json:"name"`
	DeliverPolicy string        `json:"deliver_policy"`
	Start         uint64        `json:"opt_start_seq"`
	AckPolicy     string        `json:"ack_policy"`
	ReplayPolicy  string        `json:"replay_policy"`
	Deliver       string        `json:"deliver_subject"`
	Filter        string        `json:"filter_subject,omitempty"`
	HeadersOnly   bool          `json:"headers_only"`
	Memory        bool          `json:"mem_storage"`
	Replicas      int           `json:"num_replicas"`
	MaxDeliver    int           `json:"max_deliver"`
	Heartbeat     time.Duration `json:"idle_heartbeat"`
	Inactive      time.Duration `json:"inactive_threshold"`
}

// follow makes a feed of the changes from now on: of those that the leader has
// not applied yet. "New" ones would be those that are new to the node of the
// consumer, and anew so when that node restarts.
func (w *watch) follow(ctx context.Context) (*feed, error) {
	s, err := w.kv.link.get(ctx)
	if err != nil {
		return nil, err
	}
	stream := w.kv.set.stream()
	before, err := s.info(ctx, stream)
	if err != nil {
		return nil, err
	}
	return s.follow(ctx, w.ctx, stream, w.kv.prefix+"*", before, w.told)
}

// follow makes a consumer of what comes behind the last message that was there
// before. It lives until its feed is closed, or live ends.
func (s *session) follow(ctx, live context.Context, stream, filter string, before *jetstream.StreamInfo, tell teller) (*feed, error) {
	deliver := nats.NewInbox()
	name := "prism-" + strings.TrimPrefix(deliver, nats.InboxPrefix)
	f := &feed{session: s, stream: stream, path: stream + "." + name, tell: tell, broken: make(chan struct{}, 1), applied: before.State.LastSeq}
	f.ctx, f.cancel = context.WithCancel(live)
	f.heard.Store(time.Now().UnixNano())
	var err error
	if f.sub, err = s.nc.Subscribe(deliver, f.take); err != nil {
		f.cancel()
		return nil, &lostError{cause: err}
	}
	err = s.request(ctx, "CONSUMER.CREATE."+f.path, consumerRequest{Stream: stream, Action: "create", Config: consumerConfig{
		Name: name, DeliverPolicy: "by_start_sequence", Start: before.State.LastSeq + 1, AckPolicy: "none", ReplayPolicy: "instant",
		Deliver: deliver, Filter: filter, HeadersOnly: true, Memory: true, Replicas: 1, MaxDeliver: 1,
		Heartbeat: heartbeat, Inactive: abandoned,
	}}, nil)
	if err == nil {
		err = f.sameSince(ctx, before.Created)
	}
	if err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

// sameSince reports a stream that is not the one that was made at that time:
// its sequences have begun again.
func (f *feed) sameSince(ctx context.Context, created time.Time) error {
	now, err := f.session.info(ctx, f.stream)
	if err == nil && !now.Created.Equal(created) {
		return errs.New(errs.BackendUnavailable, "the bucket has just been made anew")
	}
	return err
}

// take is called with each message of the consumer.
func (f *feed) take(m *nats.Msg) {
	f.heard.Store(time.Now().UnixNano())
	if first(m.Header, "Status") != "" {
		if last := first(m.Header, "Nats-Last-Consumer"); last != "" && last != versionOf(f.last) {
			f.fail()
		}
		return
	}
	about, err := m.Metadata()
	if err != nil || about.Sequence.Consumer != f.last+1 {
		f.fail()
		return
	}
	f.last = about.Sequence.Consumer
	if err := f.tell(f, m.Subject, about.Sequence.Stream); err != nil {
		f.fail()
	}
}

func (w *watch) told(f *feed, subject string, seq uint64) error {
	if err := f.readable(seq); err != nil {
		return err
	}
	if key, ok := w.kv.key(subject); ok {
		w.Tell(key)
	}
	return nil
}

// readable waits until the leader, which answers reads, has applied a change.
// Who is told of it reads it at once, and would not be told again.
func (f *feed) readable(seq uint64) error {
	for f.applied < seq && !f.session.direct.Load() {
		info, err := f.session.info(f.ctx, f.stream)
		if err != nil {
			return err
		}
		if f.applied = info.State.LastSeq; f.applied >= seq {
			return nil
		}
		select {
		case <-time.After(lookEvery):
		case <-f.ctx.Done():
			return f.ctx.Err()
		}
	}
	return nil
}

func (f *feed) fail() {
	select {
	case f.broken <- struct{}{}:
	default:
	}
}

// wait returns nil when the feed is lost, else why nobody wants it any more.
func (f *feed) wait(ctx context.Context) error {
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-f.session.done:
			return nil
		case <-f.broken:
			return nil
		case now := <-tick.C:
			if now.Sub(time.Unix(0, f.heard.Load())) > silence {
				return nil
			}
		}
	}
}

// close ends the feed; if the server does not hear of it, it will notice.
func (f *feed) close() {
	f.cancel()
	_ = f.sub.Unsubscribe()
	_ = f.session.nc.Publish(api+"CONSUMER.DELETE."+f.path, nil)
}
