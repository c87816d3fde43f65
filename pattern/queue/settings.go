package queue

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// anyName is the name of the queue whose settings hold for all that are not
// listed.
const anyName = "*"

// deadSuffix is what the name of a queue's dead letters ends with.
const deadSuffix = ".dlq"

// maxName is the most bytes of a queue's name, so that there is room for
// deadSuffix.
const maxName = 128

// Defaults of a queue, as documented.
const (
	defaultAckWait       = 30 * time.Second
	defaultMaxDeliveries = 20
	defaultBackoff       = time.Second
	defaultMaxBackoff    = 5 * time.Minute
)

// Bounds of settings.
const (
	maxDeliveriesBound = 1000
	maxBackoffBound    = 24 * time.Hour
)

type settings struct {
	Queues []spec `json:"queues"`
}

// A spec is what a document says of one queue.
type spec struct {
	Name          string          `json:"name"`
	AckWait       driver.Duration `json:"ack_wait"`       // 0: 30 s
	MaxDeliveries int             `json:"max_deliveries"` // 0: 20
	Backoff       driver.Duration `json:"backoff"`        // 0: 1 s
	MaxBackoff    driver.Duration `json:"max_backoff"`    // 0: 5 min
}

// decode reads settings and says everything that is wrong with them, each as an
// errs.Field below "settings".
func decode(raw json.RawMessage) (*settings, error) {
	s := new(settings)
	if err := driver.DecodeStrict(raw, s); err != nil {
		return nil, errs.Invalid(errs.Field{Path: "settings", Text: err.Error()})
	}
	var c checker
	c.ok(len(s.Queues) > 0, "settings.queues", "names no queue; write queues: [{name: mails}], or [{name: \"*\"}] for any")
	seen := map[string]bool{}
	for i := range s.Queues {
		at := fmt.Sprintf("settings.queues[%d]", i)
		c.queue(&s.Queues[i], at)
		c.ok(!seen[s.Queues[i].Name], at+".name", "is here twice")
		seen[s.Queues[i].Name] = true
	}
	if len(c) > 0 {
		return nil, errs.Invalid(c...)
	}
	return s, nil
}

// A checker collects mistakes.
type checker []errs.Field

func (c *checker) ok(ok bool, path, text string) {
	if !ok {
		*c = append(*c, errs.Field{Path: path, Text: text})
	}
}

const nameRule = "must be 1 to 128 letters, digits, dots, dashes and underscores, and begin with a letter or digit"

func (c *checker) queue(q *spec, at string) {
	c.ok(q.Name == anyName || validName(q.Name), at+".name", nameRule+"; or be \"*\"")
	c.ok(!strings.HasSuffix(q.Name, deadSuffix), at+".name", "ends with "+deadSuffix+", as the dead letters of a queue do, which every queue has; choose another name")
	wait := time.Duration(q.AckWait)
	c.ok(wait == 0 || wait >= driver.MinLease && wait <= driver.MaxLease, at+".ack_wait", "must be 1s to 12h")
	c.ok(q.MaxDeliveries >= 0 && q.MaxDeliveries <= maxDeliveriesBound, at+".max_deliveries", fmt.Sprintf("must be 1 to %d", maxDeliveriesBound))
	c.ok(q.Backoff >= 0 && time.Duration(q.Backoff) <= maxBackoffBound, at+".backoff", "must be at most 24h")
	c.ok(q.MaxBackoff >= 0 && time.Duration(q.MaxBackoff) <= maxBackoffBound, at+".max_backoff", "must be at most 24h")
}

func validName(s string) bool { return len(s) <= maxName && driver.ValidTopic(s) }

// A policy is how one queue treats its tasks.
type policy struct {
	name          string
	dead          bool // it is that of the dead letters: nothing in it dies once more
	ackWait       time.Duration
	maxDeliveries int
	backoff       time.Duration
	maxBackoff    time.Duration
}

// policy returns how a queue of this name treats its tasks, or why there is none.
func (s *settings) policy(name string) (*policy, error) {
	of, dead := strings.CutSuffix(name, deadSuffix)
	if !validName(of) {
		return nil, errs.Invalid(errs.Field{Path: "queue", Text: nameRule})
	}
	q := s.find(of)
	if q == nil {
		return nil, errs.New(errs.QueueNotFound, "the namespace has no queue %.160q; its document lists them", name)
	}
	return &policy{
		name: name, dead: dead,
		ackWait:       cmp.Or(time.Duration(q.AckWait), defaultAckWait),
		maxDeliveries: cmp.Or(q.MaxDeliveries, defaultMaxDeliveries),
		backoff:       cmp.Or(time.Duration(q.Backoff), defaultBackoff),
		maxBackoff:    cmp.Or(time.Duration(q.MaxBackoff), defaultMaxBackoff),
	}, nil
}

func (s *settings) find(name string) *spec {
	var others *spec
	for i := range s.Queues {
		switch s.Queues[i].Name {
		case name:
			return &s.Queues[i]
		case anyName:
			others = &s.Queues[i]
		}
	}
	return others
}
