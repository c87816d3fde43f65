package driver

import (
	"context"
	"strings"
)

// MaxSubject is how many bytes a subject or a filter has at most.
const MaxSubject = 128

// PubSub is the primitive of messages for whoever listens now. Nothing is kept:
// a message reaches each subscription at most once, and who comes later never
// sees it. What a subscription misses it is told of.
//
// A subject is 1 to MaxSubject bytes of A-Z a-z 0-9 _ - in tokens that single
// dots separate: "orders.eu.placed". A filter is a subject in which a token may
// be *, which is any one token, and the last may be >, which is one token or
// more. Callers check both (ValidSubject, ValidFilter). A payload is any bytes,
// empty ones included, up to PubSubGuarantees.MaxPayload; a larger one is
// errs.PayloadTooLarge.
type PubSub interface {
	// Publish tells the messages and puts each outcome into the result of the
	// same index. nil says that the backend has taken the message for whoever
	// listens, which may be nobody. What one connection publishes on one
	// subject, one call after the other or in the order of one call, comes in
	// that order. len(results) is len(messages).
	Publish(ctx context.Context, messages []Message, results []error)

	// Subscribe listens from now on: what is published on the same connection
	// after it has returned comes, or is counted as missed. Of what others
	// publish the same is true a moment later, when the backend has spread the
	// word. The context bounds the call alone.
	Subscribe(ctx context.Context, r SubscribeRequest) (Subscription, error)

	// Guarantees returns what this PubSub promises beyond the contract. It
	// never changes while the connection is open.
	Guarantees() PubSubGuarantees
}

// A Message is what is told under a subject.
type Message struct {
	Subject string
	Payload []byte
}

// A SubscribeRequest says what to listen to.
type SubscribeRequest struct {
	Filter string

	// Group shares the messages: each comes to one of the subscriptions that
	// have the same group and the same filter, whatever connection they were
	// made on. It has the form of one token; empty: every message comes here.
	// Only where PubSubGuarantees.Groups, else errs.Unsupported.
	Group string

	// Buffer bounds the bytes that wait to be taken, of payloads, subjects and
	// 64 for each message. What does not fit is missed; a message always fits
	// where none waits. 0 is DefaultBuffer.
	Buffer int
}

// DefaultBuffer is how many bytes wait for a subscriber unless it says otherwise.
const DefaultBuffer = 4 << 20

// A Subscription is one listener. Nobody else is held up by one that does not
// take its messages. Next may be called from one goroutine at a time, Close
// from any.
type Subscription interface {
	// Next waits until there is something and puts as many events as there
	// are and fit, in their order, into events; at least one. When the
	// subscription has been closed it fails with errs.Cancelled, and when its
	// connection has, with errs.BackendUnavailable. A backend that is away
	// ends no subscription: it goes on when that is back.
	Next(ctx context.Context, events []Event) (int, error)

	// Close ends the subscription. What was not taken is gone. Closing twice
	// is allowed.
	Close() error
}

// An Event is a message or, where Missed is not 0, the place of messages that
// were missed.
type Event struct {
	Message
	Missed int64 // how many; MissedUnknown: nobody knows
}

// MissedUnknown is the number of missed messages that nobody counted, such as
// those of a time without a connection. There may have been none.
const MissedUnknown = -1

// PubSubGuarantees are the differences between technologies that patterns
// compare when configuration loads.
type PubSubGuarantees struct {
	Groups     bool // subscriptions can share messages
	MaxPayload int  // bytes
	Shared     bool // messages of other processes come as well
}

// ValidSubject reports whether messages can be published under s.
func ValidSubject(s string) bool {
	return validTokens(s, func(token string, _ bool) bool { return validToken(token) })
}

// ValidFilter reports whether s can be subscribed to.
func ValidFilter(s string) bool {
	return validTokens(s, func(token string, last bool) bool {
		return token == "*" || token == ">" && last || validToken(token)
	})
}

func validTokens(s string, valid func(token string, last bool) bool) bool {
	if len(s) > MaxSubject {
		return false
	}
	for more := true; more; {
		var token string
		token, s, more = strings.Cut(s, ".")
		if !valid(token, !more) {
			return false
		}
	}
	return true
}

func validToken(token string) bool {
	for i := range len(token) {
		c := token[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (c < '0' || c > '9') && c != '_' && c != '-' {
			return false
		}
	}
	return token != ""
}

// Matches reports whether a valid subject falls under a valid filter.
func Matches(filter, subject string) bool {
	for {
		want, restOfFilter, moreFilter := strings.Cut(filter, ".")
		have, restOfSubject, moreSubject := strings.Cut(subject, ".")
		switch {
		case want == ">":
			return true
		case want != "*" && want != have:
			return false
		case !moreFilter || !moreSubject:
			return moreFilter == moreSubject
		}
		filter, subject = restOfFilter, restOfSubject
	}
}
