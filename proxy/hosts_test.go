package proxy_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"testing"

	"github.com/prismgw/prism/proxy"
)

// Neither door answers a name that it does not know; addresses that nobody
// could have a name point at it are the operations port's too.
func TestHosts(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *proxy.Options) {
		o.HTTPHosts, o.OpsHosts = []string{"gateway.example"}, []string{"prism.monitoring.svc"}
	}, documents)
	for _, x := range []struct {
		host      string
		http, ops bool
	}{
		{"localhost", true, true},
		{"LocalHost:99", true, true},
		{"127.0.0.1", true, true},
		{"127.9.9.9:1", true, true},
		{"[::1]:1", true, true},
		{"[::1]", true, true},
		{"[::ffff:127.0.0.1]", true, true},
		{s.Ops, true, true},
		{"10.2.3.4:8982", false, true},
		{"[fd00::7]:8982", false, true},
		{"[fe80::1%25eth0]:8982", false, true},
		{"gateway.example", true, false},
		{"prism.monitoring.svc:8982", false, true},
		{"PRISM.monitoring.svc", false, true},
		{"evil.example", false, false},
		{"evil.example:8982", false, false},
		{"localhost.evil.example", false, false},
		{"127.0.0.1.evil.example", false, false},
		{"1.2.3", false, false},
		{"", false, true}, // no browser sends none
	} {
		for _, path := range []string{"/healthz", "/readyz", "/metrics", "/nothing"} {
			if got := askFor(t, s.Ops, "HTTP/1.1\r\nHost: "+x.host, path) != http.StatusForbidden; got != x.ops {
				t.Errorf("operations, %s of %q: served %v", path, x.host, got)
			}
		}
		if got := askFor(t, s.HTTP, "HTTP/1.1\r\nHost: "+x.host, "/openapi.json") == http.StatusOK; got != x.http {
			t.Errorf("HTTP, %q: served %v", x.host, got)
		}
	}
	// A probe of a load balancer that speaks HTTP/1.0 has no Host at all.
	if status := askFor(t, s.Ops, "HTTP/1.0", "/readyz"); status != http.StatusOK {
		t.Errorf("HTTP/1.0 without a Host: %d", status)
	}
	if status := askFor(t, s.HTTP, "HTTP/1.0", "/openapi.json"); status != http.StatusForbidden {
		t.Errorf("data over HTTP/1.0 without a Host: %d", status)
	}
}

// askFor sends one request as it stands there and returns the status.
func askFor(t *testing.T, address, version, path string) int {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "GET %s %s\r\n\r\n", path, version); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}
