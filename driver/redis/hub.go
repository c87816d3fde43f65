package redis

import (
	"strings"
	"sync"

	"github.com/redis/rueidis"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

// A source is what a server is asked to send: the messages under one subject of
// a space, or all of that space. Whoever listens with wildcards takes all: a
// PUBLISH compares its channel with every pattern of the server (a thousand
// cost 140 µs, and nobody else is served meanwhile), while channels without
// wildcards, however many, cost nothing.
type source struct {
	space   string // the prefix of its channels
	subject string // "": all
}

func sourceOf(space, filter string) source {
	if strings.ContainsAny(filter, "*>") {
		return source{space: space}
	}
	return source{space: space, subject: filter}
}

// whole returns the source that sends what s does and more.
func (s source) whole() source { return source{space: s.space} }

func (s source) all() bool { return s.subject == "" }

// name returns the channel, or the pattern, as Redis has it. No prefix and no
// subject holds a character with a meaning in patterns.
func (s source) name() string {
	if s.all() {
		return s.space + "*"
	}
	return s.space + s.subject
}

// named returns the source of a channel or a pattern.
func named(name string) source {
	at := strings.LastIndexByte(name, ':') + 1
	if name[at:] == "*" {
		return source{space: name[:at]}
	}
	return source{space: name[:at], subject: name[at:]}
}

// A listener is one subscription.
type listener struct {
	*wrap.Inbox
	source source
	filter string
	stood  chan error // of capacity 1: gets nil once the server has confirmed the source
	hears  bool       // it has; hub.mu guards this
}

// hub hands the messages of one connection to a server to all subscriptions of
// a link. Each message comes over that connection once.
type hub struct {
	link *link
	wake chan struct{} // of capacity 1: the server has to be told something

	mu      sync.RWMutex // guards what follows
	kept    bool         // keep runs, or has
	ended   bool
	parties map[source][]*listener
	waiting map[*listener]struct{} // whose source is not confirmed
	changed map[source]struct{}    // what the server may have to be told about
	session *session               // else nil
}

func newHub(l *link) *hub {
	return &hub{
		link: l, wake: make(chan struct{}, 1),
		parties: map[source][]*listener{}, waiting: map[*listener]struct{}{}, changed: map[source]struct{}{},
	}
}

func (h *hub) signal() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// add makes a listener hear. What has become of it comes through stood.
func (h *hub) add(l *listener) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended {
		return &setupError{cause: errClosed}
	}
	if !h.kept {
		if err := h.link.work(h.keep); err != nil {
			return err
		}
		h.kept = true
	}
	h.parties[l.source] = append(h.parties[l.source], l)
	if h.session.hears(l.source) {
		l.stand()
		return nil
	}
	h.waiting[l] = struct{}{}
	h.changed[l.source] = struct{}{}
	h.signal()
	return nil
}

// remove undoes add, whatever has become of that.
func (h *hub) remove(l *listener) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.waiting, l)
	party := h.parties[l.source]
	for i := range party {
		if party[i] == l { // there is no order among listeners
			last := len(party) - 1
			party[i], party[last] = party[last], nil
			party = party[:last]
			break
		}
	}
	if len(party) > 0 {
		h.parties[l.source] = party
		return
	}
	delete(h.parties, l.source)
	h.changed[l.source] = struct{}{}
	h.signal()
}

// wants reports whether the server has to send a source: somebody listens to
// it, and it is no part of another that is sent.
func (h *hub) wants(s source) bool {
	return len(h.parties[s]) > 0 && (s.all() || len(h.parties[s.whole()]) == 0)
}

// take hands on what has come over the connection of a session.
func (h *hub) take(s *session, m rueidis.PubSubMessage) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	from := named(m.Channel)
	if h.session != s || m.Pattern == "" && s.sends(from.whole()) {
		return // what is a part of another source comes with that
	}
	// Other programs may publish here as well; what no subject of ours can be
	// is not told.
	if !driver.ValidSubject(from.subject) {
		return
	}
	for _, l := range h.parties[from] {
		l.hand(from.subject, m.Message)
	}
	for _, l := range h.parties[from.whole()] {
		if driver.Matches(l.filter, from.subject) {
			l.hand(from.subject, m.Message)
		}
	}
}

// stand says that all that is told from now on comes.
func (l *listener) stand() {
	l.hears = true
	l.stood <- nil
}

// hand gives a listener a message that belongs to it alone. One that waits gets
// none: what it is told is to have no holes.
func (l *listener) hand(subject, payload string) {
	if l.hears {
		l.Tell(driver.Message{Subject: subject, Payload: []byte(payload)})
	}
}

// gap tells all who were promised to hear that they may have missed something.
func (h *hub) gap() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.session = nil
	for _, party := range h.parties {
		for _, l := range party {
			if l.hears {
				l.Miss(driver.MissedUnknown)
			}
		}
	}
}

// refuse tells all who wait that there is no connection.
func (h *hub) refuse(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for l := range h.waiting {
		l.stood <- err
	}
	clear(h.waiting)
}

// settle tells those who wait what has become of their sources.
func (h *hub) settle(s *session, refused map[source]error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for l := range h.waiting {
		err := refused[l.source]
		if err == nil {
			err = refused[l.source.whole()]
		}
		switch {
		case s.hears(l.source):
			l.stand()
		case err != nil:
			l.stood <- err
		default: // came later
			continue
		}
		delete(h.waiting, l)
	}
}

// end ends all subscriptions. There will be no others.
func (h *hub) end() {
	h.mu.Lock()
	h.ended = true
	var all []*listener
	for _, party := range h.parties {
		all = append(all, party...)
	}
	h.mu.Unlock()
	h.refuse(&setupError{cause: errClosed}) // first: who has ended waits no longer
	for _, l := range all {
		l.End(errs.Wrap(errClosed, errs.BackendUnavailable, "the backend cannot be reached"))
	}
}
