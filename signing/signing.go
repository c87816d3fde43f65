// Package signing has the keys of a namespace as their secret says them now: a
// ring of which one key signs and all verify. It owns the form of that secret
// and when it is read again; what a signature covers is package envelope's, and
// who is believed is package trust's.
package signing

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/secret"
)

// every is how often the secret is looked at.
const every = time.Second

// Options are how the keys of one secret are read.
type Options struct {
	Ref       string // env://NAME or file:///path
	Namespace string // for the log
	Log       *slog.Logger

	// Taken is called when a ring that differs has been taken (true), and when
	// the secret began to be none (false). nil: nobody counts.
	Taken func(ok bool)
}

// Keys are the keys that a secret holds now. They follow its changes: one that
// is no ring of keys changes nothing, is logged, and is told by Options.Taken.
// The methods may be called from several goroutines.
type Keys struct {
	opts Options
	text secret.Text
	ring atomic.Pointer[envelope.Ring]
	life context.Context //nolint:containedctx // ends with Close
	end  context.CancelFunc
	done chan struct{}

	mu    sync.Mutex        // one reads at a time; guards what follows
	taken [sha256.Size]byte // of the ring's text
	ill   string            // why the secret was none when it was read last; empty: it was one
}

// Open reads the keys, or says why it cannot. Close must follow.
func Open(ctx context.Context, o Options) (*Keys, error) {
	text, err := secret.ResolveText(o.Ref, o.Log)
	if err != nil {
		return nil, err
	}
	k := &Keys{opts: o, text: text, done: make(chan struct{})}
	if err := k.read(ctx); err != nil {
		return nil, err
	}
	k.life, k.end = context.WithCancel(context.Background())
	go k.follow()
	return k, nil
}

// Close ends following: the keys stay as they are, and nothing is told any more.
func (k *Keys) Close() {
	k.end()
	<-k.done
	k.mu.Lock() // who reads now is the last to do so
	defer k.mu.Unlock()
}

// Sign signs with the current key; see envelope.Ring.
func (k *Keys) Sign(e *envelopev1.PrismEnvelope) ([]byte, error) { return k.ring.Load().Sign(e) }

// Verify verifies with all keys; see envelope.Ring. Where the key is not among
// them the secret is read once more: another proxy may have seen its change
// sooner, and what that has signed since is as good.
func (k *Keys) Verify(wire []byte) (envelope.Header, error) {
	ring := k.ring.Load()
	h, err := ring.Verify(wire)
	if err == nil {
		return h, nil
	}
	if h, _ := envelope.Scan(wire); len(h.SigningKeyID) == 0 || ring.Has(h.SigningKeyID) {
		return envelope.Header{}, err
	}
	_ = k.Refresh() // what is wrong has been logged
	return k.ring.Load().Verify(wire)
}

// Refresh looks at the secret now, and says why it is no ring of keys.
func (k *Keys) Refresh() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.life.Err() != nil {
		return nil
	}
	before := k.ring.Load()
	err := k.read(k.life)
	switch {
	case k.life.Err() != nil:
		return nil
	case err != nil && err.Error() != k.ill:
		k.ill = err.Error()
		k.tell(false)
		k.opts.Log.Error("the signing keys cannot be used; those from before stay", "namespace", k.opts.Namespace, "keys", k.opts.Ref, "error", err)
	case err == nil && (k.ill != "" || k.ring.Load() != before):
		k.ill = ""
		k.tell(true)
		k.opts.Log.Info("signing keys taken", "namespace", k.opts.Namespace, "keys", k.opts.Ref, "ring", k.ring.Load().String())
	}
	return err
}

// read takes the ring that the secret holds, if it is another one.
func (k *Keys) read(ctx context.Context) error {
	text, err := k.text(ctx)
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(text))
	if sum == k.taken {
		return nil
	}
	ring, err := parse(text)
	if err != nil {
		return errs.New(errs.InvalidConfiguration, "%s: %s", k.opts.Ref, errs.From(err).Text())
	}
	k.taken = sum
	k.ring.Store(ring)
	return nil
}

func (k *Keys) tell(ok bool) {
	if k.opts.Taken != nil {
		k.opts.Taken(ok)
	}
}

func (k *Keys) follow() {
	defer close(k.done)
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-k.life.Done():
			return
		case <-t.C:
			_ = k.Refresh() // what is wrong has been logged
		}
	}
}
