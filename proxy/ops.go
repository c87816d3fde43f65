package proxy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/prismgw/prism/errs"
)

// newOps returns the operations port: is it alive, is it ready, what does it
// count.
func (p *Proxy) newOps() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte("ok\n")) // the client is gone if this fails
	})
	mux.HandleFunc("GET /readyz", p.readyz)
	mux.Handle("GET /metrics", promhttp.HandlerFor(p.metrics.registry, promhttp.HandlerOpts{}))
	return guardOps(hosts{names: p.opts.OpsHosts, anyIP: true}, mux)
}

// guardOps serves only hosts that are known. Whoever scrapes or probes by
// address is served whatever it is, since here it may be translated on the
// way. Cross-site requests are let through: a link in a dashboard is one, and
// no page of another site can read the answer.
func guardOps(known hosts, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !known.known(r) {
			http.Error(w, fmt.Sprintf("the Host %.100q is none of this proxy's; use its IP address, or name the host in --ops-host", r.Host), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// readiness is what /readyz says.
type readiness struct {
	Ready      bool             `json:"ready"`
	Draining   bool             `json:"draining,omitempty"`
	Backends   []readyBackend   `json:"backends"`
	Namespaces []readyNamespace `json:"namespaces"`
	Notes      []string         `json:"notes,omitempty"`
}

type readyBackend struct {
	Name   string    `json:"name"`
	Ready  bool      `json:"ready"`
	Since  time.Time `json:"since"`
	Reason string    `json:"reason,omitempty"`
	Detail string    `json:"detail,omitempty"`
}

type readyNamespace struct {
	Name     string   `json:"name"`
	Ready    bool     `json:"ready"`
	InFlight int64    `json:"in_flight"`
	Waits    []string `json:"waits_for,omitempty"` // backends that do not answer
}

// readyz answers 200 while the proxy takes requests. A backend that is away
// makes its namespaces unready, not the proxy: ask /readyz?namespace=NAME for
// one of them.
func (p *Proxy) readyz(w http.ResponseWriter, r *http.Request) {
	out := p.readiness()
	status := http.StatusOK
	if !out.Ready {
		status = http.StatusServiceUnavailable
	}
	if name := r.URL.Query().Get("namespace"); name != "" {
		i := slices.IndexFunc(out.Namespaces, func(n readyNamespace) bool { return n.Name == name })
		if i < 0 {
			http.Error(w, "no such namespace", http.StatusNotFound)
			return
		}
		if out.Namespaces = out.Namespaces[i : i+1]; !out.Namespaces[0].Ready {
			status = http.StatusServiceUnavailable
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(out) // the client is gone if this fails
}

func (p *Proxy) readiness() readiness {
	s := p.current()
	defer s.release()
	draining := p.draining.Load()
	out := readiness{Ready: !draining, Draining: draining, Backends: []readyBackend{}, Namespaces: []readyNamespace{}}
	ill := map[string]bool{}
	for name, b := range s.backends {
		known, since, err := b.health()
		one := readyBackend{Name: name, Ready: known && err == nil, Since: since.UTC()}
		if !known {
			one.Detail = "not asked yet"
		} else if err != nil {
			e := errs.From(err)
			one.Reason, one.Detail = e.Reason.String(), e.Text()
		}
		ill[name] = !one.Ready
		out.Backends = append(out.Backends, one)
	}
	for name, t := range s.namespaces {
		out.Namespaces = append(out.Namespaces, t.readiness(name, ill))
	}
	slices.SortFunc(out.Backends, func(a, b readyBackend) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(out.Namespaces, func(a, b readyNamespace) int { return strings.Compare(a.Name, b.Name) })
	if p.opts.AllowAnonymousWrites && !p.opts.Loopback {
		out.Notes = append(out.Notes, "anonymous writes are allowed on listeners beyond loopback (--allow-anonymous-writes)")
	}
	return out
}

func (t *tenant) readiness(name string, ill map[string]bool) readyNamespace {
	n := readyNamespace{Name: name}
	for _, all := range t.kinds {
		for _, one := range all {
			n.InFlight = one.limits.inFlight.Load()
			for _, b := range one.backends {
				if ill[b.name] && !slices.Contains(n.Waits, b.name) {
					n.Waits = append(n.Waits, b.name)
				}
			}
		}
	}
	n.Ready = len(n.Waits) == 0
	return n
}
