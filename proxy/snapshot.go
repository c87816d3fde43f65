package proxy

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/namespace"
	"github.com/prismgw/prism/pattern"
)

// closeAfter is how long an old configuration's backends stay open for what
// still uses them.
const closeAfter = 30 * time.Second

// snapshot is one configuration in service. It is never changed; a new one
// replaces it whole.
type snapshot struct {
	namespaces map[string]*tenant
	backends   map[string]*backend
	keys       map[string]*keyring // by namespace; none: it does not sign
	open       bool                // every namespace lets anonymous callers in, so that saying which exist reveals nothing

	instances []*instance // of its patterns

	users  atomic.Int64 // calls under way, and one while it is current
	free   func()
	closed sync.Once
	freed  chan struct{} // closed when its backends have been given back
	counts []*counters   // of its patterns; given back when no call is left
	ended  sync.Once
	timer  *time.Timer // since it was replaced
}

// newSnapshot returns an empty configuration.
func newSnapshot() *snapshot {
	s := &snapshot{namespaces: map[string]*tenant{}, backends: map[string]*backend{}, keys: map[string]*keyring{}, open: true, free: func() {}, freed: make(chan struct{})}
	s.users.Store(1)
	return s
}

// tenant is one namespace.
type tenant struct {
	plan  *namespace.Placement
	kinds [][]*target // by kind; in the order of the document
}

// target is one pattern of one namespace: what a call runs on.
type target struct {
	name      string
	kind      int
	identity  string // equal ones are the same pattern on the same backends
	anonymous string
	instance  pattern.Instance
	limits    *limits
	counters  *counters
	backends  []*backend
}

// current returns the configuration in service; release must follow.
func (p *Proxy) current() *snapshot {
	for {
		s := p.snapshot.Load()
		s.users.Add(1)
		if p.snapshot.Load() == s {
			return s
		}
		s.release() // it was replaced meanwhile, and may have been freed
	}
}

// release ends a use. Closing backends takes time, which no call should spend.
func (s *snapshot) release() {
	if s.users.Add(-1) == 0 {
		go s.end()
	}
}

// end gives back all that a configuration without users holds.
func (s *snapshot) end() {
	s.close()
	s.ended.Do(func() {
		for _, c := range s.counts {
			c.drop()
		}
	})
}

// close gives back its backends, whether or not calls still use them.
func (s *snapshot) close() {
	s.closed.Do(func() {
		s.free()
		close(s.freed)
	})
}

// retire gives up a configuration that is no longer current: it is freed when
// nothing uses it, or after a while.
func (s *snapshot) retire() {
	s.timer = time.AfterFunc(closeAfter, s.close)
	if s.users.Add(-1) == 0 {
		s.end()
	}
}

// forget keeps those that have not been freed.
func forget(all []*snapshot) []*snapshot {
	return slices.DeleteFunc(all, func(s *snapshot) bool {
		select {
		case <-s.freed:
			s.timer.Stop()
			return true
		default:
			return false
		}
	})
}

// resolve finds the target of a request. What does not exist is told only to
// callers who could not learn anything from it.
func (s *snapshot) resolve(sel *selectors, m *method) (*target, error) {
	t := s.namespaces[sel.namespace]
	if t == nil {
		if sel.credential || !s.open {
			return nil, unauthenticated(sel)
		}
		return nil, errs.New(errs.NamespaceNotFound, "there is no namespace %.64q; see the documents that this proxy was started with", sel.namespace)
	}
	all := t.kinds[m.kind]
	if sel.pattern == "" && len(all) == 1 {
		return all[0], nil
	}
	for _, one := range all {
		if one.name == sel.pattern {
			return one, nil
		}
	}
	return nil, t.noPattern(sel, len(all))
}

// noPattern says why a request selects none of a namespace's patterns.
func (t *tenant) noPattern(sel *selectors, of int) error {
	switch {
	case sel.credential || t.plan.Anonymous == namespace.AnonymousDeny:
		return unauthenticated(sel)
	case sel.pattern == "" && of > 1:
		return errs.Invalid(errs.Field{Path: "x-prism-pattern", Text: "is missing, and the namespace has several patterns of this kind; name one"})
	case sel.pattern == "":
		return errs.New(errs.PatternNotFound, "the namespace has no pattern of this kind")
	}
	return errs.New(errs.PatternNotFound, "the namespace has no pattern %.64q of this kind", sel.pattern)
}

// Ping asks a backend of the current configuration whether it can serve.
func (p *Proxy) Ping(ctx context.Context, name string) error {
	s := p.current()
	defer s.release()
	b := s.backends[name]
	if b == nil {
		return errs.New(errs.BackendUnavailable, "there is no backend %q", name)
	}
	return b.ping(ctx)
}

// Load reads documents and serves them in place of the ones before: decode,
// validate, open, swap, drain. A mistake changes nothing. Calls that are
// under way finish on what they began with.
func (p *Proxy) Load(files ...namespace.File) error {
	p.loading.Lock()
	defer p.loading.Unlock()
	next, err := p.prepare(files)
	if err != nil {
		p.metrics.reloads.WithLabelValues("refused").Inc()
		return err
	}
	old := p.snapshot.Swap(next)
	p.streams.reconsider(next)
	p.instances.release(old.instances, p.opts.DrainTime)
	old.retire()
	p.retired = append(forget(p.retired), old)
	p.metrics.reloads.WithLabelValues("applied").Inc()
	return nil
}

// prepare builds a snapshot, or leaves nothing behind.
func (p *Proxy) prepare(files []namespace.File) (_ *snapshot, err error) {
	s := newSnapshot()
	s.free = func() {
		for _, b := range s.backends {
			p.pool.release(b)
		}
		for _, k := range s.keys {
			p.keys.release(k)
		}
	}
	defer func() {
		if err != nil {
			p.instances.release(s.instances, 0)
			s.end()
		}
	}()
	set, plan, err := namespace.Load(p.opts.catalog(func(doc *namespace.Backend) (driver.Conn, error) {
		b, err := p.pool.take(doc)
		if err != nil {
			return nil, err
		}
		s.backends[b.name] = b
		return b.conn, nil
	}, func(doc *namespace.Namespace) error {
		k, err := p.keys.take(doc)
		if err == nil {
			s.keys[doc.Spec.GetName()] = k
		}
		return err
	}), files...)
	if err != nil {
		return nil, err
	}
	if err := set.Exposed(p.opts.Loopback, p.opts.AllowAnonymousWrites); err != nil {
		return nil, err
	}
	for i := range plan.Namespaces {
		if err := p.addTenant(s, &plan.Namespaces[i]); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (p *Proxy) addTenant(s *snapshot, plan *namespace.Placement) error {
	t := &tenant{plan: plan, kinds: make([][]*target, len(p.kinds.all))}
	l := p.limitsOf(plan)
	for i := range plan.Patterns {
		pp := &plan.Patterns[i]
		one := &target{name: pp.Name, kind: p.kinds.byName[pp.Kind], anonymous: plan.Anonymous, limits: l}
		one.counters = p.metrics.hold(plan.Name, pp.Name)
		s.counts = append(s.counts, one.counters)
		if err := p.fill(one, s, pp); err != nil {
			return err
		}
		t.kinds[one.kind] = append(t.kinds[one.kind], one)
	}
	s.open = s.open && plan.Anonymous != namespace.AnonymousDeny
	s.namespaces[plan.Name] = t
	return nil
}

// fill opens a pattern on the backends of its slots.
func (p *Proxy) fill(one *target, s *snapshot, plan *namespace.PlacedPattern) error {
	config := pattern.Config{
		Namespace: one.counters.namespace, Name: plan.Name, Settings: plan.Settings,
		Slots: map[string]pattern.Filled{}, Now: p.opts.Now, Count: one.counters.eventsFrom(p.kinds.firstEvent(one.kind)),
	}
	parts := []string{plan.Name, plan.Kind, one.anonymous, string(plan.Settings)}
	for k := range plan.Slots {
		sp := &plan.Slots[k]
		b := s.backends[sp.Backend]
		space, err := p.pool.space(b, sp.Space)
		if err != nil {
			return err
		}
		one.backends = append(one.backends, b)
		config.Slots[sp.Name] = pattern.Filled{Backend: space, ID: sp.Extent.Container + "\x00" + sp.Extent.Prefix + "\x00" + sp.Extent.Suffix}
		parts = append(parts, sp.Name, b.key, string(sp.Space.Layout))
	}
	if k := s.keys[config.Namespace]; k != nil && p.kinds.all[one.kind].CheckSigning != nil {
		config.Keys = k
		parts = append(parts, "signing", k.name.ref)
	}
	one.identity = fmt.Sprintf("%q", parts)
	held, err := p.instances.take(fmt.Sprintf("%q %s", config.Namespace, one.identity), func() (pattern.Instance, error) {
		return p.kinds.all[one.kind].Open(config)
	})
	if err != nil {
		return err
	}
	one.instance = held.Instance
	s.instances = append(s.instances, held)
	return nil
}

// limitsOf returns a namespace's limits: the ones it has already, unless the
// document changed them.
func (p *Proxy) limitsOf(plan *namespace.Placement) *limits {
	l := plan.Spec.GetLimits()
	next := newLimits(int(l.GetReadRps()), int(l.GetWriteRps()), int(l.GetConcurrency()))
	if old := p.snapshot.Load().namespaces[plan.Name]; old != nil {
		for _, all := range old.kinds {
			if len(all) > 0 && all[0].limits.same(next) {
				return all[0].limits
			}
		}
	}
	return next
}
