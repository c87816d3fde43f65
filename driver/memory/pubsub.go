package memory

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

// hub tells the messages of one space to its listeners.
type hub struct {
	mu    sync.RWMutex        // guards what follows
	exact map[string][]*party // by filter: those without wildcards
	wild  []*party
}

// A party is the listeners with one filter and one group. Without a group each
// of them is told everything, else they take turns.
type party struct {
	filter, group string
	members       []*wrap.Inbox
	turn          atomic.Uint64
}

func (p *party) tell(m driver.Message) {
	if p.group != "" {
		p.members[p.turn.Add(1)%uint64(len(p.members))].Tell(own(m))
		return
	}
	for _, b := range p.members {
		b.Tell(own(m))
	}
}

// own returns a message that belongs to one listener.
func own(m driver.Message) driver.Message {
	return driver.Message{Subject: strings.Clone(m.Subject), Payload: bytes.Clone(m.Payload)}
}

func (h *hub) tell(m driver.Message) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for _, p := range h.exact[m.Subject] {
		p.tell(m)
	}
	for _, p := range h.wild {
		if driver.Matches(p.filter, m.Subject) {
			p.tell(m)
		}
	}
}

func wildcard(filter string) bool { return strings.ContainsAny(filter, "*>") }

// parties returns the parties that a filter is looked up in.
func (h *hub) parties(filter string) []*party {
	if wildcard(filter) {
		return h.wild
	}
	return h.exact[filter]
}

func (h *hub) setParties(filter string, all []*party) {
	switch {
	case wildcard(filter):
		h.wild = all
	case len(all) == 0:
		delete(h.exact, filter)
	default:
		if h.exact == nil {
			h.exact = make(map[string][]*party)
		}
		h.exact[filter] = all
	}
}

func (h *hub) add(filter, group string, b *wrap.Inbox) {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := h.parties(filter)
	i := slices.IndexFunc(all, func(p *party) bool { return p.filter == filter && p.group == group })
	if i < 0 {
		i = len(all)
		all = append(all, &party{filter: filter, group: group})
		h.setParties(filter, all)
	}
	all[i].members = append(all[i].members, b)
}

func (h *hub) remove(filter, group string, b *wrap.Inbox) {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := h.parties(filter)
	i := slices.IndexFunc(all, func(p *party) bool { return p.filter == filter && p.group == group })
	if i < 0 {
		return
	}
	p := all[i]
	if p.members = slices.DeleteFunc(p.members, func(m *wrap.Inbox) bool { return m == b }); len(p.members) == 0 {
		h.setParties(filter, slices.Delete(all, i, i+1))
	}
}

// pubsub is one space seen through one connection.
type pubsub struct {
	conn  *conn
	space *space
}

// Guarantees implements driver.PubSub.
func (p *pubsub) Guarantees() driver.PubSubGuarantees {
	return driver.PubSubGuarantees{Groups: true, MaxPayload: p.conn.settings.maxValue}
}

// Publish implements driver.PubSub.
func (p *pubsub) Publish(ctx context.Context, messages []driver.Message, results []error) {
	for i, m := range messages {
		if results[i] = p.conn.usable(ctx); results[i] != nil {
			continue
		}
		if most := p.conn.settings.maxValue; len(m.Payload) > most {
			results[i] = errs.TooLarge("payload", len(m.Payload), most)
			continue
		}
		p.space.hub.tell(m)
	}
}

// Subscribe implements driver.PubSub.
func (p *pubsub) Subscribe(ctx context.Context, r driver.SubscribeRequest) (driver.Subscription, error) {
	if err := p.conn.usable(ctx); err != nil {
		return nil, err
	}
	var b *wrap.Inbox
	b = wrap.NewInbox(r.Buffer, func() {
		p.space.hub.remove(r.Filter, r.Group, b)
		p.conn.forget(b)
	})
	p.space.hub.add(r.Filter, r.Group, b)
	if !p.conn.adopt(b) { // closed meanwhile
		b.End(errs.BackendUnavailable)
		return nil, errs.BackendUnavailable
	}
	return b, nil
}
