package nats_test

import (
	"crypto/tls"
	"strings"
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/nats"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/kvtest"
	"github.com/prismgw/prism/internal/testutil/servers"
	"github.com/prismgw/prism/internal/testutil/testca"
)

func TestTLS(t *testing.T) {
	t.Parallel()
	ca := testca.New(t)
	dir := ca.Issue(t)
	block := "tls { cert_file: '" + dir + "/cert.pem', key_file: '" + dir + "/key.pem', ca_file: '" + dir + "/ca.pem'"
	s := servers.NATSWith(t, block+" }")
	kvtest.TLS(t, nats.Driver(), ca, "tls://"+s.Addr, "nats://"+s.Addr)

	mutual := servers.NATSWith(t, block+", verify: true }")
	c := driver.Config{URL: "tls://" + mutual.Addr, TLS: ca.Trust()}
	wants(t, "no certificate of its own", kvtest.RoundTrip(t, nats.Driver(), c), errs.BackendUnavailable)
	pair, err := tls.LoadX509KeyPair(dir+"/cert.pem", dir+"/key.pem")
	must(t, err)
	c.TLS.Certificates = []tls.Certificate{pair}
	must(t, kvtest.RoundTrip(t, nats.Driver(), c))

	c = driver.Config{URL: "tls://" + servers.NATS(t).Addr, TLS: ca.Trust()}
	e := wants(t, "TLS to a plain server", kvtest.RoundTrip(t, nats.Driver(), c), errs.BackendUnavailable)
	if !strings.Contains(e.Error(), "speaks no TLS") {
		t.Errorf("message: %v", e)
	}
}
