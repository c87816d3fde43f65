package client

import (
	"bytes"
	"context"
	"encoding/base64"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/errs"
)

// A PayloadSource returns the id and the key of payloads that it refers to, as
// they are now: the key is 32 bytes in base64. A secret.Source of the text
// "2026-11:BASE64" is one.
type PayloadSource = func(ctx context.Context) (id, key string, err error)

// WithPayloadKeys encrypts the payload of each message that the client publishes
// with the key of current, by AES-256-GCM, and decrypts what comes with the key
// that it names, of current or the others. Payloads are plain in the program
// alone: the proxy and its backends never have a key. What was not encrypted
// comes as it is; SealedWith tells.
//
// The keys are asked for again within a second, and before one is said to be
// missing. To change keys, first give the new one to everybody as another, then
// make it the current one; the old one stays as long as its messages do.
func WithPayloadKeys(current PayloadSource, others ...PayloadSource) Option {
	return func(o *options) {
		o.payload = &payloadKeys{sources: append([]PayloadSource{current}, others...)}
	}
}

// keysLast is how long keys are used before they are asked for again.
const keysLast = time.Second

// payloadKeys are the keys of payloads, as their sources say them. Nil has none.
type payloadKeys struct {
	sources []PayloadSource

	mu      sync.Mutex // guards what follows
	asked   time.Time
	current string
	keys    map[string][]byte
	failed  error // of the first source that had no key
	sealing error // likewise of the first one of all
}

var _ envelope.Keys = (*payloadKeys)(nil)

// Key implements envelope.Keys.
func (p *payloadKeys) Key(ctx context.Context, id string) ([]byte, error) {
	if p == nil {
		return nil, errs.New(errs.InvalidConfiguration, "the payload is encrypted with the key %.256q, and this client has no keys; give it to Dial by WithPayloadKeys", id)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, last := range []time.Duration{keysLast, 0} {
		p.ask(ctx, last)
		if key, found := p.keys[id]; found {
			return key, nil
		}
	}
	if p.failed != nil {
		return nil, errs.Wrap(p.failed, errs.CredentialsUnavailable, "the payload is encrypted with the key %.256q, which is not among those that can be read", id)
	}
	return nil, errs.New(errs.InvalidConfiguration, "the payload is encrypted with the key %.256q, which this client does not have; add it to WithPayloadKeys", id)
}

// ask asks for the keys, unless that was done a short while ago.
func (p *payloadKeys) ask(ctx context.Context, last time.Duration) {
	if now := time.Now(); p.keys != nil && now.Sub(p.asked) < last {
		return
	}
	keys, failed := make(map[string][]byte, len(p.sources)), error(nil)
	p.current, p.sealing = "", nil
	for i, source := range p.sources {
		id, key, err := payloadKey(ctx, source)
		if old, twice := keys[id]; err == nil && twice && !bytes.Equal(old, key) {
			err = errs.New(errs.InvalidConfiguration, "two keys of payloads have the id %q; give each its own", id)
		}
		switch {
		case err == nil:
			keys[id] = key
		case failed == nil:
			failed = err
		}
		if i == 0 {
			p.current, p.sealing = id, err
		}
	}
	p.keys, p.failed, p.asked = keys, failed, time.Now()
}

func payloadKey(ctx context.Context, source PayloadSource) (id string, key []byte, err error) {
	id, text, err := source(ctx)
	if err != nil {
		return "", nil, errs.From(err)
	}
	key, err = base64.StdEncoding.DecodeString(text)
	switch {
	case id == "":
		return "", nil, errs.New(errs.InvalidConfiguration, "a key of payloads has no id; write ID:BASE64")
	case err != nil || len(key) != 32:
		return "", nil, errs.New(errs.InvalidConfiguration, "the key of payloads %.256q is not 32 bytes in base64; make one with: openssl rand -base64 32", id)
	}
	return id, key, nil
}

// seal encrypts the payload of e, which has its id, topic and namespace. Without
// keys, or when it is encrypted already, it stays as it is.
func (p *payloadKeys) seal(ctx context.Context, e *envelopev1.PrismEnvelope) error {
	if p == nil || e.GetSecurity().GetEncryption() != nil {
		return nil
	}
	p.mu.Lock()
	p.ask(ctx, keysLast)
	id, err := p.current, p.sealing
	p.mu.Unlock()
	if err != nil {
		return err
	}
	return envelope.Seal(ctx, e, p, id, envelopev1.EncryptionAlgorithm_ENCRYPTION_ALGORITHM_AES_256_GCM)
}

// sealed returns messages for a topic with encrypted payloads; the ones given
// stay as they are.
func (p *payloadKeys) sealed(ctx context.Context, namespace, topic string, all []*envelopev1.PrismEnvelope) ([]*envelopev1.PrismEnvelope, error) {
	if p == nil {
		return all, nil
	}
	out := make([]*envelopev1.PrismEnvelope, len(all))
	for i, e := range all {
		if e == nil {
			continue // the proxy says so
		}
		out[i] = proto.CloneOf(e)
		envelope.Fill(out[i], namespace, topic)
		if err := p.seal(ctx, out[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// open decrypts the payload of e and returns the id of its key, which is empty
// where it is plain. If it fails, e is as it was.
func (p *payloadKeys) open(ctx context.Context, e *envelopev1.PrismEnvelope) (id string, err error) {
	if e.GetSecurity().GetEncryption() == nil {
		return "", nil
	}
	id = e.GetSecurity().GetEncryption().GetKeyId()
	return id, envelope.Open(ctx, e, p)
}
