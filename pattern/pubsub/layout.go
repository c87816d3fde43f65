package pubsub

import (
	"errors"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/envelope"
)

// errUnreadable is of what is no envelope of the namespace and the subject.
var errUnreadable = errors.New("no envelope of this namespace and subject")

// read returns the envelope of a message that has come, as bytes: the ones that
// came wherever that is possible, so that nothing in it changes on the way. It
// fails with errUnreadable, or with why the message is not believed.
func (s *service) read(m *driver.Message) ([]byte, error) {
	if !validSubject(m.Subject) {
		return nil, errUnreadable
	}
	if s.native {
		wire, err := envelope.Marshal(s.wrap(m.Subject, m.Payload))
		if err != nil {
			return nil, errUnreadable
		}
		return wire, nil
	}
	h, err := envelope.Scan(m.Payload)
	if err != nil || string(h.Topic) != m.Subject || string(h.Namespace) != s.namespace {
		return nil, errUnreadable
	}
	return s.gate.Pass(m.Payload, &h, m.Subject, s.unsigned)
}

// wrap makes an envelope of what others publish.
func (s *service) wrap(subject string, payload []byte) *envelopev1.PrismEnvelope {
	return &envelopev1.PrismEnvelope{Metadata: &envelopev1.Metadata{Topic: subject, Namespace: s.namespace}, Payload: payload}
}

// A batch is messages in a row, with what was missed before them. It is a
// SubscribeResponse to gRPC, whose envelopes are bytes already.
type batch struct {
	missed   int64 // driver.MissedUnknown: nobody knows
	messages [][]byte
}

// batches reads events. What cannot be read is missed.
func (s *service) batches(events []driver.Event) (all []batch) {
	for i := range events {
		e := &events[i]
		missed, message := e.Missed, []byte(nil)
		switch {
		case missed == driver.MissedUnknown:
			s.count(countGaps, 1)
		case missed > 0:
			s.count(countMissed, uint64(missed))
		default:
			var err error
			if message, err = s.read(&e.Message); err != nil {
				missed = 1
				s.count(countOf(err), 1)
			}
		}
		if last := len(all) - 1; last < 0 || missed != 0 && len(all[last].messages) > 0 {
			all = append(all, batch{})
		}
		b := &all[len(all)-1]
		if missed != 0 {
			b.miss(missed)
			continue
		}
		b.messages = append(b.messages, message)
	}
	return all
}

func countOf(err error) int {
	if errors.Is(err, errUnreadable) {
		return countUnreadable
	}
	return countUnverified
}

func (b *batch) miss(n int64) {
	if n == driver.MissedUnknown || b.missed == driver.MissedUnknown {
		b.missed = driver.MissedUnknown
		return
	}
	b.missed += n
}
