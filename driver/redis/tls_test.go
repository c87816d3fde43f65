package redis_test

import (
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/redis"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/kvtest"
	"github.com/prismgw/prism/internal/testutil/servers"
	"github.com/prismgw/prism/internal/testutil/testca"
)

func TestTLS(t *testing.T) {
	t.Parallel()
	ca := testca.New(t)
	dir := ca.Issue(t)
	s := servers.RedisWith(t, "--port", "0", "--tls-port", "{port}", "--tls-auth-clients", "no",
		"--tls-ca-cert-file", dir+"/ca.pem", "--tls-cert-file", dir+"/cert.pem", "--tls-key-file", dir+"/key.pem")
	kvtest.TLS(t, redis.Driver(), ca, "rediss://"+s.Addr, "redis://"+s.Addr)

	c := driver.Config{URL: "rediss://" + servers.RedisWith(t).Addr, TLS: ca.Trust()}
	wants(t, "TLS to a plain server", kvtest.RoundTrip(t, redis.Driver(), c), errs.BackendUnavailable)
}
