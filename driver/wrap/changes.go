package wrap

import (
	"context"
	"strings"
	"sync"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// maxPending is how many keys a watch remembers before it only knows that it
// has lost some.
const maxPending = 4096

// Changes is a driver.Watch that a technology tells of changes: it collects
// them until somebody takes them, and forgets which they were if there are too
// many.
type Changes struct {
	prefix string
	ended  func()        // called once, without locks
	wake   chan struct{} // of capacity 1: there may be something to take

	mu   sync.Mutex // guards what follows
	keys map[string]struct{}
	lost bool
	err  error // why it ended
}

var _ driver.Watch = (*Changes)(nil)

// NewChanges returns a watch of the keys below prefix. ended is called when it
// ends, however that happens.
func NewChanges(prefix string, ended func()) *Changes {
	return &Changes{prefix: prefix, ended: ended, wake: make(chan struct{}, 1), keys: make(map[string]struct{})}
}

// Tell says that a key has changed; one that is not below the prefix is passed
// over. It never blocks.
func (c *Changes) Tell(key string) {
	if !strings.HasPrefix(key, c.prefix) {
		return
	}
	c.mu.Lock()
	switch {
	case c.lost:
	case len(c.keys) < maxPending:
		c.keys[strings.Clone(key)] = struct{}{}
	default:
		c.lose()
	}
	c.mu.Unlock()
	c.signal()
}

// Lose says that changes may have been missed.
func (c *Changes) Lose() {
	c.mu.Lock()
	c.lose()
	c.mu.Unlock()
	c.signal()
}

func (c *Changes) lose() {
	c.lost = true
	clear(c.keys)
}

func (c *Changes) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Next implements driver.Watch.
func (c *Changes) Next(ctx context.Context) (driver.Change, error) {
	for {
		if err := ctx.Err(); err != nil {
			return driver.Change{}, errs.ReasonOf(err)
		}
		if change, ok, err := c.take(); ok || err != nil {
			return change, err
		}
		select {
		case <-c.wake:
		case <-ctx.Done():
		}
	}
}

// take returns what has been collected, if anything.
func (c *Changes) take() (change driver.Change, ok bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return driver.Change{}, false, c.err
	}
	if len(c.keys) == 0 && !c.lost {
		return driver.Change{}, false, nil
	}
	change.Lost = c.lost
	change.Keys = make([]string, 0, len(c.keys))
	for key := range c.keys {
		change.Keys = append(change.Keys, key)
	}
	clear(c.keys)
	c.lost = false
	return change, true, nil
}

// Close implements driver.Watch.
func (c *Changes) Close() error {
	c.End(errs.Cancelled)
	return nil
}

// End ends the watch: Next answers reason from now on.
func (c *Changes) End(reason error) {
	c.mu.Lock()
	first := c.err == nil
	if first {
		c.err = reason
	}
	c.mu.Unlock()
	if first {
		c.signal()
		c.ended()
	}
}
