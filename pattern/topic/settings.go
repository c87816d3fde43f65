// Package topic is what the patterns Producer and Consumer share: which topics
// and groups a namespace has, and how a message stands in them.
package topic

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern/trust"
)

// Any is the name of the topic, or group, whose settings hold for all that are
// not listed.
const Any = "*"

// DeadSuffix is what the name of a topic's dead letters ends with.
const DeadSuffix = ".dlq"

// DeadGroup is the group that takes dead letters to publish them again, or to
// have them out of the way.
const DeadGroup = "prism-dlq"

// maxName is the most bytes of the name of a topic or a group, so that there is
// room for DeadSuffix.
const maxName = 128

const defaultPartitions = 16

// Settings are those of a pattern of either kind.
type Settings struct {
	Topics    []Topic `json:"topics"`
	Consumers []Group `json:"consumers"` // of a producer: none
}

// A Topic is one topic of a namespace.
type Topic struct {
	Name       string    `json:"name"`
	Partitions int       `json:"partitions"` // 0: 16, or as many as an adopted topic has
	Retention  Retention `json:"retention"`
	Layout     string    `json:"layout"`   // Envelope or Native; empty: Envelope, for an adopted topic Native
	Physical   string    `json:"physical"` // the backend's own name of a topic that other programs made
	Unsigned   string    `json:"unsigned"` // of a consumer: trust.Deliver, or empty
}

// Retention says what may be deleted; nothing by default.
type Retention struct {
	Age           driver.Duration `json:"age"`
	Bytes         int64           `json:"bytes"`
	UntilConsumed bool            `json:"until_consumed"`
}

// The layouts of a topic.
const (
	Envelope = "envelope" // a record's value is the whole envelope
	Native   = "native"   // it is the payload; the rest is in a header
)

// A Group is one group of consumers.
type Group struct {
	Name          string          `json:"name"`
	Topic         string          `json:"topic"`          // empty: every topic
	Start         string          `json:"start"`          // "earliest" (default), "latest", or a time as RFC 3339 has it
	Order         string          `json:"order"`          // "key" (default) or "none"
	AckWait       driver.Duration `json:"ack_wait"`       // 0: 30 s
	MaxDeliveries int             `json:"max_deliveries"` // 0: 20
	Backoff       driver.Duration `json:"backoff"`        // 0: 1 s
	MaxBackoff    driver.Duration `json:"max_backoff"`    // 0: 5 min
}

// The orders of a group.
const (
	ByKey   = "key"  // a message waits for the ones before it that have its key
	NoOrder = "none" // it waits for nothing
)

// Bounds of settings.
const (
	minAckWait, maxAckWait = time.Second, 12 * time.Hour
	maxDeliveriesBound     = 1000
	maxBackoffBound        = 24 * time.Hour
	minAge                 = time.Minute
	minBytes               = 1 << 20
)

// Decode reads settings and says everything that is wrong with them, each as an
// errs.Field below "settings".
func Decode(raw json.RawMessage) (*Settings, error) {
	s := new(Settings)
	if err := driver.DecodeStrict(raw, s); err != nil {
		return nil, errs.Invalid(errs.Field{Path: "settings", Text: err.Error()})
	}
	var c checker
	c.ok(len(s.Topics) > 0, "settings.topics", "names no topic; write topics: [{name: orders}], or [{name: \"*\"}] for any")
	seen := map[string]bool{}
	for i := range s.Topics {
		t := &s.Topics[i]
		c.topic(t, fmt.Sprintf("settings.topics[%d]", i))
		c.ok(!seen[t.Name], fmt.Sprintf("settings.topics[%d].name", i), "is here twice")
		seen[t.Name] = true
	}
	groups := map[[2]string]bool{}
	for i := range s.Consumers {
		g := &s.Consumers[i]
		at := fmt.Sprintf("settings.consumers[%d]", i)
		c.group(g, at)
		c.ok(g.Topic == "" || seen[g.Topic] || seen[Any], at+".topic", "is none of the topics")
		c.ok(!groups[[2]string{g.Topic, g.Name}], at+".name", "is here twice for this topic")
		groups[[2]string{g.Topic, g.Name}] = true
	}
	if len(c) > 0 {
		return nil, errs.Invalid(c...)
	}
	return s, nil
}

// CheckSigning says which settings mean nothing in a namespace that does not sign
// its messages. The settings have been decoded once.
func CheckSigning(raw json.RawMessage, signs bool) error {
	s, err := Decode(raw)
	if err != nil {
		return err
	}
	var bad []errs.Field
	for i := range s.Topics {
		bad = append(bad, trust.CheckUnsigned(s.Topics[i].Unsigned, fmt.Sprintf("settings.topics[%d].unsigned", i), signs)...)
	}
	if bad != nil {
		return errs.Invalid(bad...)
	}
	return nil
}

// A checker collects mistakes.
type checker []errs.Field

func (c *checker) ok(ok bool, path, text string) {
	if !ok {
		*c = append(*c, errs.Field{Path: path, Text: text})
	}
}

const nameRule = "must be 1 to 128 letters, digits, dots, dashes and underscores, and begin with a letter or digit; or be \"*\""

// ValidName reports whether a topic or a group can have this name.
func ValidName(s string) bool { return len(s) <= maxName && driver.ValidTopic(s) }

func (c *checker) topic(t *Topic, at string) {
	c.ok(t.Name == Any || ValidName(t.Name), at+".name", nameRule)
	c.ok(t.Partitions >= 0 && t.Partitions <= driver.MaxPartitions, at+".partitions", fmt.Sprintf("must be 1 to %d", driver.MaxPartitions))
	c.ok(t.Layout == "" || t.Layout == Envelope || t.Layout == Native, at+".layout", "must be envelope or native")
	c.ok(t.Unsigned == "" || t.Unsigned == trust.Deliver, at+".unsigned", "must be deliver, or be left out")
	c.ok(t.Physical == "" || t.Name != Any, at+".physical", "names one topic, and the name stands for many")
	r := t.Retention
	c.ok(r.Age == 0 || time.Duration(r.Age) >= minAge, at+".retention.age", "must be at least 1m")
	c.ok(r.Bytes == 0 || r.Bytes >= minBytes, at+".retention.bytes", fmt.Sprintf("must be at least %d", minBytes))
	c.ok(t.Physical == "" || r == Retention{}, at+".retention", "is its owner's affair for a topic that other programs made")
}

func (c *checker) group(g *Group, at string) {
	c.ok(g.Name == Any || ValidName(g.Name), at+".name", nameRule)
	_, err := g.start()
	c.ok(err == nil, at+".start", "must be earliest, latest, or a time such as 2026-01-31T12:00:00Z")
	c.ok(g.Order == "" || g.Order == ByKey || g.Order == NoOrder, at+".order", "must be key or none")
	wait := time.Duration(g.AckWait)
	c.ok(wait == 0 || wait >= minAckWait && wait <= maxAckWait, at+".ack_wait", "must be 1s to 12h")
	c.ok(g.MaxDeliveries >= 0 && g.MaxDeliveries <= maxDeliveriesBound, at+".max_deliveries", fmt.Sprintf("must be 1 to %d", maxDeliveriesBound))
	c.ok(g.Backoff >= 0 && time.Duration(g.Backoff) <= maxBackoffBound, at+".backoff", "must be at most 24h")
	c.ok(g.MaxBackoff >= 0 && time.Duration(g.MaxBackoff) <= maxBackoffBound, at+".max_backoff", "must be at most 24h")
}

func (g *Group) start() (driver.Start, error) {
	switch g.Start {
	case "", "earliest":
		return driver.Start{}, nil
	case "latest":
		return driver.Start{From: driver.StartLatest}, nil
	}
	at, err := time.Parse(time.RFC3339, g.Start)
	return driver.Start{From: driver.StartTime, Time: at}, err
}

// StartOf is where the group begins.
func (g *Group) StartOf() driver.Start {
	s, _ := g.start() // Decode has seen that it is one
	return s
}

// Topic returns the settings of a topic, nil if the namespace has none of this
// name. The dead letters of a topic are a topic that nobody lists.
func (s *Settings) Topic(name string) *Topic {
	if of, dead := strings.CutSuffix(name, DeadSuffix); dead {
		if t := s.Topic(of); t != nil {
			return &Topic{Name: name, Partitions: 1, Layout: t.layout(), Unsigned: t.Unsigned}
		}
	}
	var anyOf *Topic
	for i := range s.Topics {
		switch s.Topics[i].Name {
		case name:
			return &s.Topics[i]
		case Any:
			anyOf = &s.Topics[i]
		}
	}
	return anyOf
}

// ForDeadLetters reports whether a group is the one that remembers of the dead
// letters in a topic which are done with. Every namespace has it.
func ForDeadLetters(topic, group string) bool {
	return group == DeadGroup && strings.HasSuffix(topic, DeadSuffix)
}

func (t *Topic) layout() string {
	switch {
	case t.Layout != "":
		return t.Layout
	case t.Physical != "":
		return Native
	}
	return Envelope
}

// Group returns the settings of a group on a topic, nil if the namespace has
// none of this name. Where no group is listed, all are welcome.
func (s *Settings) Group(topic, name string) *Group {
	if ForDeadLetters(topic, name) { // some may be settled before others of their key, and none is given up
		return &Group{Name: name, Order: NoOrder, MaxDeliveries: maxDeliveriesBound}
	}
	if len(s.Consumers) == 0 {
		return &Group{Name: name}
	}
	var best *Group
	rank := 0
	for i := range s.Consumers {
		g := &s.Consumers[i]
		if g.Topic != "" && g.Topic != topic && g.Topic != Any || g.Name != name && g.Name != Any {
			continue
		}
		r := 1
		if g.Name == name {
			r += 2
		}
		if g.Topic == topic {
			r++
		}
		if r > rank {
			best, rank = g, r
		}
	}
	return best
}
