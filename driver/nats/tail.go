package nats

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/groups"
	"github.com/prismgw/prism/errs"
)

const (
	tailEvery = 2 * time.Second  // between two looks at how far the leader is
	tailRest  = 15 * time.Second // after nobody has waited for so long, a tail ends
	pollEvery = time.Second      // how long somebody waits who is told of nothing
)

// A tail tells the members of a connection of new messages in a topic, without
// their data: a consumer of the stream, made anew when it is lost, for as long
// as somebody waits. Between two looks, whoever has read a partition to its end
// knows that nothing has come there as long as a live tail has told nothing.
type tail struct {
	topic *topic
	bell  groups.Bell // rung by each message, and when it goes live or is lost

	mu      sync.Mutex // guards what follows
	life    uint64     // a number for each time it went live
	live    bool
	heard   []heard // by partition
	told    uint64  // the highest sequence that it told of, or that was there before
	running bool
	waiting int
	used    time.Time // when somebody has waited
	gone    error     // why there is nothing to wait for any more
}

// heard is what a tail has told of one partition.
type heard struct {
	count int
	last  driver.Position
}

func (t *tail) init(of *topic) { t.topic, t.heard = of, make([]heard, len(of.subjects)) }

// A view of a tail is what it has told so far.
type tailView struct {
	life  uint64 // 0: it is not live
	heard []heard
}

// look fills in the view of some partitions.
func (t *tail) look(v *tailView, cursors []groups.Cursor) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v.life = 0
	if t.live {
		v.life = t.life
	}
	v.heard = v.heard[:0]
	for i := range cursors {
		v.heard = append(v.heard, t.heard[cursors[i].Partition])
	}
}

// wait begins to wait, which keeps the tail going until leave.
func (t *tail) wait() (leave func(), err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.gone != nil {
		return nil, t.gone
	}
	if !t.running {
		if err := t.topic.link.work(t.run); err != nil {
			return nil, t.topic.link.fail(t.topic.link.ctx, err, false)
		}
		t.running = true
	}
	t.waiting++
	return t.leave, nil
}

func (t *tail) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting--
	t.used = time.Now()
}

// rests reports whether nobody needs the tail, and with end set ends it then.
func (t *tail) rests(end bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.gone == nil && (t.waiting > 0 || time.Since(t.used) < tailRest) {
		return false
	}
	t.running = t.running && !end
	return true
}

// run keeps the tail fed.
func (t *tail) run() {
	ctx := t.topic.link.ctx
	for rest := againAfter; ctx.Err() == nil && !t.rests(true); {
		f, err := t.follow(ctx)
		if err == nil {
			rest = againAfter
			t.goLive(true)
			err = t.attend(ctx, f)
			t.goLive(false)
			f.close()
		}
		if errors.Is(err, errs.TopicNotFound) {
			t.give(errs.TopicNotFound)
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(rest):
		}
		rest = min(2*rest, againAtMost)
	}
}

// give ends the tail for good.
func (t *tail) give(reason error) {
	t.mu.Lock()
	t.gone = reason
	t.mu.Unlock()
	t.bell.Ring()
}

func (t *tail) goLive(live bool) {
	t.mu.Lock()
	t.live = live
	if live {
		t.life++
	}
	t.mu.Unlock()
	t.bell.Ring()
}

// follow makes a feed of what the leader has not applied yet.
func (t *tail) follow(ctx context.Context) (*feed, error) {
	short, cancel := context.WithTimeout(ctx, t.topic.set.connect)
	defer cancel()
	s, err := t.topic.link.online(short)
	if err != nil {
		return nil, err
	}
	info, err := t.topic.state(short, s)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	t.told = info.State.LastSeq
	t.mu.Unlock()
	f, err := s.follow(short, ctx, t.topic.stream, "", info, t.tell)
	if errs.ReasonOf(err) == errs.KeyNotFound {
		err = errs.TopicNotFound
	}
	return f, err
}

// tell is called with each new message.
func (t *tail) tell(_ *feed, subject string, seq uint64) error {
	t.mu.Lock()
	t.told = max(t.told, seq)
	p := t.topic.partitionOf(subject)
	if p >= 0 {
		h := &t.heard[p]
		h.count++
		h.last = max(h.last, driver.Position(seq))
	}
	t.mu.Unlock()
	if p >= 0 {
		t.bell.Ring()
	}
	return nil
}

// attend returns when the feed is lost, nobody needs the tail any more, or the
// stream is gone. A feed that does not tell of what the leader has is lost too.
func (t *tail) attend(ctx context.Context, f *feed) error {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		ended <- t.compare(ctx, f)
		cancel()
	}()
	lost := f.wait(ctx) == nil
	cancel()
	if err := <-ended; !lost {
		return err
	}
	return errEnded
}

// compare asks the leader again and again how far it is.
func (t *tail) compare(ctx context.Context, f *feed) error {
	tick := time.NewTicker(tailEvery)
	defer tick.Stop()
	for before := uint64(0); !t.rests(false); {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		info, err := t.topic.state(ctx, f.session)
		switch {
		case errors.Is(err, errs.TopicNotFound):
			return err
		case err != nil:
			continue
		case t.behind(before):
			return errEnded
		}
		before = info.State.LastSeq
	}
	return nil
}

// behind reports whether the feed has not told of a message that the leader had
// a look ago.
func (t *tail) behind(leader uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.told < leader
}
