package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	"github.com/prismgw/prism/client"
	"github.com/prismgw/prism/errs"
)

// A redriver publishes dead letters to their topic again.
type redriver struct {
	topics  *client.Topics
	topic   string
	letters string
}

// redrive publishes one dead letter. If it is published already under its new
// id, by a run that broke off, that is as good.
func (r *redriver) redrive(ctx context.Context, m *message) (*client.Published, error) {
	e, err := r.envelope(ctx, m)
	if err != nil {
		return nil, err
	}
	again := proto.CloneOf(e)
	renewed := r.renew(again, m)
	p, err := r.publish(ctx, again)
	if err == nil && p.Duplicate && !renewed {
		err = errs.New(errs.InvalidField, "its payload is encrypted and holds under its own id alone, which the topic has had within the last ten minutes; redrive it later")
	}
	return &p, err
}

// publish publishes a message. What passes by itself is waited for.
func (r *redriver) publish(ctx context.Context, e *envelopev1.PrismEnvelope) (client.Published, error) {
	for try := 1; ; try++ {
		p, err := r.topics.Publish(ctx, r.topic, nil, func(empty *envelopev1.PrismEnvelope) {
			proto.Reset(empty)
			proto.Merge(empty, e)
		})
		if err == nil || try == maxTries || errs.ReasonOf(err).Retry() == errs.RetryNever {
			return p, err
		}
		select {
		case <-time.After(max(errs.From(err).Delay(), 200*time.Millisecond)):
		case <-ctx.Done():
			return p, err
		}
	}
}

// envelope is the message that died. One that was too large to be moved still
// stands where it died.
func (r *redriver) envelope(ctx context.Context, m *message) (*envelopev1.PrismEnvelope, error) {
	if m.headers[deadLeft] != "" {
		partition, err := strconv.Atoi(m.headers[deadPartition])
		at, err2 := strconv.ParseInt(m.headers[deadPosition], 10, 64)
		if err := cmpErr(err, err2); err != nil {
			return nil, errs.New(errs.InvalidField, "it was too large to be moved, and does not say where it stands")
		}
		found, err := messageAt(ctx, r.topics, r.topic, partition, at)
		if err != nil {
			return nil, errs.New(errs.InvalidField, "it was too large to be moved, and does not stand at %d:%d any more; drop it", partition, at)
		}
		m = found
	}
	if m.envelope == nil {
		return nil, errs.New(errs.InvalidField, "it cannot be read (%s); drop it", m.unreadable)
	}
	return m.envelope, nil
}

// renew makes a message of its own of one that died, and reports whether it has
// an id of its own: whoever encrypted the payload bound it to the old one.
func (r *redriver) renew(e *envelopev1.PrismEnvelope, m *message) bool {
	meta := e.GetMetadata()
	meta.Topic = r.topic
	meta.PublishedAtMs = time.Now().UnixMilli()
	if s := e.GetSecurity(); s != nil { // what was signed is another message
		s.Signature, s.SignatureAlgorithm, s.SigningKeyId = nil, 0, ""
	}
	for name := range e.GetExtensions() { // its story, where headers of other programs are kept
		if strings.HasPrefix(name, "x-header-prism-dead-") {
			delete(e.Extensions, name)
		}
	}
	if e.GetSecurity().GetEncryption() != nil {
		return false
	}
	meta.CausalityParent = meta.GetMessageId()
	meta.MessageId = r.id(m, meta)
	return true
}

// id is the id of what a dead letter becomes: a UUID of version 8, always the
// same of one dead letter, so that a repeat is known.
func (r *redriver) id(m *message, meta *envelopev1.Metadata) string {
	text := strings.Join([]string{"redrive", meta.GetNamespace(), r.letters, strconv.FormatInt(m.position, 10), m.headers[deadAt], meta.GetCausalityParent()}, "\x00")
	sum := sha256.Sum256([]byte(text))
	id := sum[:16]
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}
