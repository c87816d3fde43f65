package proxy

import (
	"context"
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/namespace"
	"github.com/prismgw/prism/secret"
	"github.com/prismgw/prism/signing"
)

// keyrings are the signing keys of all configurations that are in use, which
// share those of the same namespace from the same secret.
type keyrings struct {
	log   *slog.Logger
	reads *prometheus.CounterVec

	mu  sync.Mutex // guards what follows
	all map[keyringName]*keyring
}

type keyringName struct{ namespace, ref string }

type keyring struct {
	*signing.Keys

	name  keyringName
	users int // configurations; guarded by keyrings.mu
}

func newKeyrings(log *slog.Logger, registry *prometheus.Registry) *keyrings {
	k := &keyrings{log: log, all: make(map[keyringName]*keyring)}
	k.reads = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "prism_signing_keys_changes_total", Help: "Changes of the secret with a namespace's signing keys: taken, or refused because they are no ring of keys.",
	}, []string{"namespace", "result"})
	registry.MustRegister(k.reads)
	return k
}

// take returns the keys of a document, which can be read now: a configuration
// that is accepted is one that a proxy can be started with. release must follow.
func (k *keyrings) take(n *namespace.Namespace) (*keyring, error) {
	name := keyringName{n.Spec.GetName(), n.Spec.GetSigning().GetKeys()}
	k.mu.Lock()
	defer k.mu.Unlock()
	if one := k.all[name]; one != nil {
		if err := one.Refresh(); err != nil {
			return nil, err
		}
		one.users++
		return one, nil
	}
	taken, refused := k.reads.WithLabelValues(name.namespace, "taken"), k.reads.WithLabelValues(name.namespace, "refused")
	keys, err := signing.Open(context.Background(), signing.Options{
		Ref: name.ref, Namespace: name.namespace, Log: k.log,
		Taken: func(ok bool) {
			if ok {
				taken.Inc()
				return
			}
			refused.Inc()
		},
	})
	if err != nil {
		k.forget(name.namespace)
		return nil, err
	}
	one := &keyring{Keys: keys, name: name, users: 1}
	k.all[name] = one
	return one, nil
}

// release gives keys back. The last one to do so ends following the secret.
func (k *keyrings) release(one *keyring) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if one.users--; one.users > 0 {
		return
	}
	delete(k.all, one.name)
	one.Close()
	k.forget(one.name.namespace)
}

// close ends following for those that are left.
func (k *keyrings) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, one := range k.all {
		one.Close()
	}
}

// forget drops the series of a namespace that has no keys any more.
func (k *keyrings) forget(namespace string) {
	for name := range k.all {
		if name.namespace == namespace {
			return
		}
	}
	k.reads.DeletePartialMatch(prometheus.Labels{"namespace": namespace})
}

// checkKeys says what is wrong with the reference to a namespace's keys.
func checkKeys(n *namespace.Namespace) error {
	if err := secret.Check(n.Spec.GetSigning().GetKeys()); err != nil {
		return errs.New(errs.InvalidConfiguration, "%s", errs.From(err).Text())
	}
	return nil
}
