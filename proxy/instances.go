package proxy

import (
	"context"
	"sync"
	"time"

	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
)

// instances are the patterns that configurations have open. Configurations
// that follow each other share those that are the same in both.
type instances struct {
	mu      sync.Mutex           // guards what follows
	all     map[string]*instance // nil once the proxy stops
	closing sync.WaitGroup
}

// instance is one pattern of one namespace.
type instance struct {
	pattern.Instance

	key   string
	users int // configurations that have it; guarded by instances.mu
}

// take returns the instance with this key, opening it if there is none. release
// must follow.
func (s *instances) take(key string, open func() (pattern.Instance, error)) (*instance, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch one := s.all[key]; {
	case s.all == nil:
		return nil, errs.Draining
	case one != nil:
		one.users++
		return one, nil
	}
	opened, err := open()
	if err != nil {
		return nil, err
	}
	one := &instance{Instance: opened, key: key, users: 1}
	s.all[key] = one
	return one, nil
}

// release gives instances back. Those that nobody has any more are closed, and
// get some time for it.
func (s *instances) release(all []*instance, grace time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range all {
		if one.users--; one.users > 0 || s.all == nil {
			continue
		}
		delete(s.all, one.key)
		if closer, ok := one.Instance.(pattern.Closer); ok {
			s.closing.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), grace)
				defer cancel()
				closer.Close(ctx)
			})
		}
	}
}

// close closes what is open, and returns when that and everything that was
// being closed is done. No configuration is loaded any more.
func (s *instances) close(ctx context.Context) {
	s.mu.Lock()
	for _, one := range s.all {
		if closer, ok := one.Instance.(pattern.Closer); ok {
			s.closing.Go(func() { closer.Close(ctx) })
		}
	}
	s.all = nil
	s.mu.Unlock()
	s.closing.Wait()
}
