// Package pubsub is the PubSub pattern: messages for whoever listens now, at
// most once, on any backend that has the primitive driver.PubSub. What is
// published is checked and completed in intake.go, what comes is read in
// layout.go; service.go has the wire contract, http.go the same over HTTP.
package pubsub

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	pubsubv1 "github.com/prismgw/prism/api/prism/pubsub/v1"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
	"github.com/prismgw/prism/pattern/trust"
)

// Limits of the pattern, as documented.
const (
	// buffer is how many bytes wait for one subscriber. As many again may be
	// on their way to it.
	buffer = 1 << 20

	// atOnce is how many messages one response has at most.
	atOnce = 64

	// beginTimeout bounds the beginning of a subscription; it then lives as
	// long as its client wants.
	beginTimeout = 5 * time.Second
)

// slot is the one slot of the pattern.
const slot = "messages-pubsub"

// What the pattern counts, as indexes into Kind.Counts.
const (
	countMissed = iota
	countGaps
	countUnreadable
	countUnverified
)

// Kind returns the pattern's row for the table of patterns.
func Kind() pattern.Kind {
	desc := pubsubv1.PubSub_ServiceDesc
	return pattern.Kind{
		Name:    "pubsub",
		Slots:   []pattern.Slot{{Name: slot, Primitive: "pubsub"}},
		Service: &desc,
		Lasting: []string{"Subscribe"},
		Item:    "subject",
		Routes:  routes(),
		Counts: []pattern.Count{
			countMissed:     {Name: "missed_messages", Help: "Messages that subscribers missed because they were slow."},
			countGaps:       {Name: "gaps", Help: "Times after which subscribers were told that nobody knows what they missed."},
			countUnreadable: {Name: "unreadable_messages", Help: "Messages of a backend that were not told, because they are no envelopes of this namespace."},
			countUnverified: {Name: "unverified_messages", Help: "Messages of a backend that were not told, because they are unsigned or their signature is wrong."},
		},
		Check: func(raw json.RawMessage) error {
			_, err := decodeSettings(raw)
			return err
		},
		CheckSigning: checkSigning,
		Open:         func(c pattern.Config) (pattern.Instance, error) { return open(c) },
	}
}

// service is the pattern of one namespace.
type service struct {
	pubsubv1.UnimplementedPubSubServer

	pubsub    driver.PubSub
	namespace string
	gate      trust.Gate
	native    bool // the layout
	unsigned  bool // what has no signature is told
	count     func(i int, n uint64)
}

var _ pubsubv1.PubSubServer = (*service)(nil)

func open(c pattern.Config) (*service, error) {
	set, err := decodeSettings(c.Settings)
	if err != nil {
		return nil, err
	}
	filled := c.Slots[slot]
	if filled.PubSub == nil {
		return nil, errs.New(errs.InvalidConfiguration, "slot %s needs a backend with the primitive pubsub", slot)
	}
	s := &service{
		pubsub: filled.PubSub, namespace: c.Namespace, gate: trust.Gate{Keys: c.Keys, Namespace: c.Namespace},
		native: set.Layout == layoutNative, unsigned: set.Unsigned == trust.Deliver, count: c.Count,
	}
	if s.count == nil {
		s.count = func(int, uint64) {}
	}
	return s, nil
}

// settings are what a Namespace document may say about the pattern.
type settings struct {
	// Layout is what travels through the backend: the envelope (the default),
	// or the payload alone, as other programs write and read it.
	Layout string `json:"layout"`

	// Unsigned is trust.Deliver, or empty: messages without a signature are
	// not told where the namespace signs.
	Unsigned string `json:"unsigned"`
}

const (
	layoutEnvelope = "envelope"
	layoutNative   = "native"
)

func decodeSettings(raw json.RawMessage) (settings, error) {
	set := settings{Layout: layoutEnvelope}
	if err := driver.DecodeStrict(raw, &set); err != nil {
		return set, errs.Invalid(errs.Field{Path: "settings", Text: err.Error()})
	}
	if set.Layout != layoutEnvelope && set.Layout != layoutNative {
		return set, errs.Invalid(errs.Field{Path: "settings.layout", Text: "must be envelope or native"})
	}
	if set.Unsigned != "" && set.Unsigned != trust.Deliver {
		return set, errs.Invalid(errs.Field{Path: "settings.unsigned", Text: "must be deliver, or be left out"})
	}
	return set, nil
}

// checkSigning says what the settings cannot mean in a namespace that signs, or
// does not.
func checkSigning(raw json.RawMessage, signs bool) error {
	set, err := decodeSettings(raw)
	if err != nil {
		return err
	}
	bad := trust.CheckUnsigned(set.Unsigned, "settings.unsigned", signs)
	if signs && set.Layout == layoutNative && set.Unsigned == "" {
		bad = append(bad, errs.Field{Path: "settings.layout", Text: "native carries no signature, and the namespace signs; write unsigned: deliver beside it, or take signing or this layout out"})
	}
	if bad != nil {
		return errs.Invalid(bad...)
	}
	return nil
}

// publish tells one message.
func (s *service) publish(ctx context.Context, subject string, payload []byte) error {
	messages := [1]driver.Message{{Subject: subject, Payload: payload}}
	var results [1]error
	s.pubsub.Publish(ctx, messages[:], results[:])
	return results[0]
}

// subscribe begins to listen.
func (s *service) subscribe(ctx context.Context, r *pubsubv1.SubscribeRequest) (driver.Subscription, error) {
	var bad []errs.Field
	if filter := r.GetFilter(); !driver.ValidFilter(filter) || !begins(filter) {
		bad = append(bad, errs.Field{Path: "filter", Text: "must be a subject, such as orders.eu.placed, in which a token may be * for any one, and the last may be > for the rest"})
	}
	if group := r.GetGroup(); group != "" && (!driver.ValidSubject(group) || strings.ContainsRune(group, '.')) {
		bad = append(bad, errs.Field{Path: "group", Text: "must be 1 to 128 of A-Z a-z 0-9 _ -"})
	}
	if bad != nil {
		return nil, errs.Invalid(bad...)
	}
	ctx, cancel := context.WithTimeout(ctx, beginTimeout)
	defer cancel()
	return s.pubsub.Subscribe(ctx, driver.SubscribeRequest{Filter: r.GetFilter(), Group: r.GetGroup(), Buffer: buffer})
}

// checkSubject says whether a message can be published under a subject.
func checkSubject(subject string) (errs.Field, bool) {
	switch {
	case validSubject(subject):
		return errs.Field{}, true
	case strings.ContainsAny(subject, "*>"):
		return errs.Field{Path: "subject", Text: "has a wildcard, which is for subscriptions; publish under one subject, such as orders.eu.placed"}, false
	}
	return errs.Field{Path: "subject", Text: "must be 1 to 128 of A-Z a-z 0-9 _ - in tokens with single dots between, and begin with a letter or digit, such as orders.eu.placed"}, false
}

// validSubject reports whether a subject can be the topic of an envelope, too.
func validSubject(s string) bool { return driver.ValidSubject(s) && begins(s) }

// begins reports whether a valid subject or filter begins as a topic may.
func begins(s string) bool { return s[0] != '_' && s[0] != '-' }
