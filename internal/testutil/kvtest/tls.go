package kvtest

import (
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/testca"
)

// RoundTrip stores and reads a value through a connection of its own.
func RoundTrip(t *testing.T, d driver.Driver, c driver.Config) error {
	t.Helper()
	kv := Space(t, Open(t, d, c), Orders)
	if err := Apply(t.Context(), kv, driver.Op{Kind: driver.Put, Key: "k", Value: []byte("v")}).Err; err != nil {
		return err
	}
	e, err := kv.Get(t.Context(), "k", driver.WithExpiry)
	if err == nil && string(e.Value) != "v" {
		t.Errorf("got %q", e.Value)
	}
	return err
}

// TLS reaches a server that has a certificate of the authority, and is refused
// where something is wrong. plain is the server's url without TLS.
func TLS(t *testing.T, d driver.Driver, ca *testca.Authority, url, plain string) {
	Must(t, RoundTrip(t, d, driver.Config{URL: url, TLS: ca.Trust()}))
	elsewhere := ca.Trust()
	elsewhere.ServerName = "elsewhere"
	for what, c := range map[string]driver.Config{
		"another authority":        {URL: url, TLS: testca.New(t).Trust()},
		"the system's authorities": {URL: url},
		"another name":             {URL: url, TLS: elsewhere},
		"plain to a TLS server":    {URL: plain},
	} {
		refused(t, what, RoundTrip(t, d, c), errs.BackendUnavailable)
	}
}
