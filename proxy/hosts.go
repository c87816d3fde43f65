package proxy

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// hosts are the Host headers that a listener serves. A web page can have its
// own name point at any address, loopback too, and is then free to read what
// that answers (DNS rebinding); its requests still carry that name.
type hosts struct {
	names []string // beside localhost
	anyIP bool     // every address, not only loopback and the listener's own
}

func (h *hosts) known(r *http.Request) bool {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.Trim(host, "[]")
	if strings.EqualFold(host, "localhost") || slices.ContainsFunc(h.names, func(n string) bool { return strings.EqualFold(n, host) }) {
		return true
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return h.anyIP && host == "" // as over HTTP/1.0; every browser sends one
	}
	if h.anyIP || ip.Unmap().IsLoopback() {
		return true
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return ok && local.AddrPort().Addr().Unmap() == ip.Unmap()
}
