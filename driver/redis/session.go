package redis

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/redis/rueidis"
)

var (
	errBroken = &setupError{cause: errors.New("the connection of the subscriptions broke")}
	errMoved  = &setupError{cause: errors.New("messages go through another server now")}
)

// A session is the connection of the subscriptions to one server.
type session struct {
	addr   string // of the server
	wire   rueidis.DedicatedClient
	broken <-chan error // yields when the connection has ended

	have map[source]standing // what the server sends; hub.mu guards it
}

// standing is what becomes of a source that a server sends.
type standing uint8

const (
	stays standing = iota
	leaves
)

// sends reports whether the server sends a source.
func (s *session) sends(one source) bool {
	_, ok := s.have[one]
	return ok
}

// hears reports whether everything of a source comes, now and later. s may be
// nil.
func (s *session) hears(one source) bool {
	if s == nil {
		return false
	}
	for _, by := range []source{one, one.whole()} {
		if is, ok := s.have[by]; ok && is == stays {
			return true
		}
	}
	return false
}

// keep holds a session while somebody listens, until the link is closed.
func (h *hub) keep() {
	for rest := backoffMin; h.wanted(); rest = min(2*rest, backoffMax) {
		began := time.Now()
		told, err := h.hold()
		if err != nil && !told { // else who waits gets another session
			h.refuse(err)
		}
		if time.Since(began) > backoffMax {
			rest = backoffMin
		}
		select {
		case <-h.link.ctx.Done():
		case <-time.After(rest):
		}
	}
}

// wanted waits until somebody listens. It is false when the link is closed.
func (h *hub) wanted() bool {
	for h.link.ctx.Err() == nil {
		if h.listened() {
			return true
		}
		select {
		case <-h.wake:
		case <-h.link.ctx.Done():
		}
	}
	return false
}

func (h *hub) listened() bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return len(h.parties) > 0
}

// hold opens a session and serves it until it ends. told says that the server
// was told everything at least once.
func (h *hub) hold() (told bool, err error) {
	at, err := h.link.station(h.link.ctx)
	if err != nil {
		return false, err
	}
	addr := at.where() // first: if it changes now, serve sees it later
	wire, _ := at.client.Dedicate()
	s := &session{addr: addr, wire: wire, have: map[source]standing{}}
	s.broken = wire.SetPubSubHooks(rueidis.PubSubHooks{
		OnMessage:      func(m rueidis.PubSubMessage) { h.take(s, m) },
		OnSubscription: func(c rueidis.PubSubSubscription) { h.confirm(s, c) },
	})
	h.begin(s)
	told, err = h.serve(s)
	h.gap()
	wire.Close()
	if err != nil {
		h.link.leave(at)
	}
	return told, err
}

func (h *hub) begin(s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.session = s
	for one := range h.parties {
		h.changed[one] = struct{}{}
	}
}

// confirm takes note of what the server says it sends. It comes in one order
// with the messages.
func (h *hub) confirm(s *session, c rueidis.PubSubSubscription) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch c.Kind {
	case "subscribe", "psubscribe":
		s.have[named(c.Channel)] = stays
	case "unsubscribe", "punsubscribe":
		delete(s.have, named(c.Channel))
	}
}

// serve tells the server what changes, until the session breaks, the link is
// closed or nobody has listened for a while; then it fails with nil.
func (h *hub) serve(s *session) (told bool, err error) {
	tick := time.NewTicker(topologyEvery)
	defer tick.Stop()
	for {
		if err := h.tell(s); err != nil {
			return told, err
		}
		told = true
		select {
		case <-h.wake:
		case err := <-s.broken:
			return told, cmp.Or[error](err, errBroken)
		case <-h.link.ctx.Done():
			return told, &setupError{cause: errClosed}
		case <-tick.C:
			if !h.listened() {
				return told, nil
			}
			if at, err := h.link.station(h.link.ctx); err == nil && at.where() != s.addr {
				return told, errMoved
			}
		}
	}
}

// tell asks the server for what is missing, and then no longer for what is too
// much: in between the same message may come twice, which take sees.
func (h *hub) tell(s *session) error {
	missing, surplus := h.compare(s)
	refused, err := s.ask(h.link.ctx, missing, subscribe)
	if err != nil {
		return err
	}
	h.settle(s, refused)
	if len(refused) > 0 {
		h.later(refused, surplus)
		return nil
	}
	_, err = s.ask(h.link.ctx, h.leaving(s, surplus), unsubscribe)
	return err
}

// compare returns the differences between what the server sends and what it is
// to send, as far as something changed.
func (h *hub) compare(s *session) (missing, surplus []source) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for one := range h.changed {
		if !one.all() {
			continue
		}
		for _, part := range h.parts(s, one) {
			h.changed[part] = struct{}{}
		}
	}
	for one := range h.changed {
		switch wanted, sent := h.wants(one), s.sends(one); {
		case wanted && !sent:
			missing = append(missing, one)
		case sent && !wanted:
			surplus = append(surplus, one)
		}
	}
	clear(h.changed)
	return missing, surplus
}

// parts returns the sources that are parts of another and known to us or to
// the server.
func (h *hub) parts(s *session, whole source) (all []source) {
	for one := range h.parties {
		if one.space == whole.space {
			all = append(all, one)
		}
	}
	for one := range s.have {
		if one.space == whole.space {
			all = append(all, one)
		}
	}
	return all
}

// leaving returns those of the sources that are still too much: nobody relies
// on them, and from now on nobody may.
func (h *hub) leaving(s *session, surplus []source) (all []source) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, one := range surplus {
		if h.relied(s, one) {
			h.changed[one] = struct{}{}
			h.signal()
			continue
		}
		s.have[one] = leaves
		all = append(all, one)
	}
	return all
}

// relied reports whether a listener hears by a source alone. It may have come
// since the server was told what is missing.
func (h *hub) relied(s *session, one source) bool {
	if len(h.parties[one]) > 0 && (one.all() || !s.hears(one.whole())) {
		return true
	}
	if !one.all() {
		return false
	}
	for other := range h.parties {
		if is, sent := s.have[other]; other.space == one.space && (!sent || is == leaves) {
			return true
		}
	}
	return false
}

// later lets the next tell look at sources once more. Who waited for one that
// was refused has gone; others still listen to it.
func (h *hub) later(refused map[source]error, surplus []source) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for one := range refused {
		h.changed[one] = struct{}{}
	}
	for _, one := range surplus {
		h.changed[one] = struct{}{}
	}
}

// ask sends one command for each source and waits for all answers. refused are
// those to which the server answered with an error.
func (s *session) ask(ctx context.Context, all []source, command func(rueidis.Builder, source) rueidis.Completed) (refused map[source]error, err error) {
	if len(all) == 0 {
		return nil, nil
	}
	cmds := make([]rueidis.Completed, len(all))
	for i, one := range all {
		cmds[i] = command(s.wire.B(), one)
	}
	for i, answer := range s.wire.DoMulti(ctx, cmds...) {
		err := answer.Error()
		if err == nil {
			continue
		}
		if _, said := rueidis.IsRedisErr(err); !said {
			return nil, err
		}
		if refused == nil {
			refused = map[source]error{}
		}
		refused[all[i]] = err
	}
	return refused, nil
}

func subscribe(b rueidis.Builder, s source) rueidis.Completed {
	if s.all() {
		return b.Psubscribe().Pattern(s.name()).Build()
	}
	return b.Subscribe().Channel(s.name()).Build()
}

func unsubscribe(b rueidis.Builder, s source) rueidis.Completed {
	if s.all() {
		return b.Punsubscribe().Pattern(s.name()).Build()
	}
	return b.Unsubscribe().Channel(s.name()).Build()
}
