package nats_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	bigint "math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/servers"
)

// authority is a certificate authority for one test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{cert: &x509.Certificate{
		SerialNumber: bigint.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}}
	a.key = newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, &a.key.PublicKey, a.key)
	must(t, err)
	a.cert, err = x509.ParseCertificate(der)
	must(t, err)
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// issue writes ca.pem, cert.pem and key.pem for 127.0.0.1 and returns their folder.
func (a *authority) issue(t testing.TB) string {
	t.Helper()
	dir, key := t.TempDir(), newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: bigint.NewInt(2), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, &key.PublicKey, a.key)
	must(t, err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	for name, block := range map[string]*pem.Block{
		"ca.pem":   {Type: "CERTIFICATE", Bytes: a.cert.Raw},
		"cert.pem": {Type: "CERTIFICATE", Bytes: der},
		"key.pem":  {Type: "PRIVATE KEY", Bytes: secret},
	} {
		must(t, os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600))
	}
	return dir
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	dir := ca.issue(t)
	block := "tls { cert_file: '" + dir + "/cert.pem', key_file: '" + dir + "/key.pem', ca_file: '" + dir + "/ca.pem'"
	s := servers.NATSWith(t, block+" }")
	mutual := servers.NATSWith(t, block+", verify: true }")
	ctx := t.Context()
	get := func(c driver.Config) error {
		kv := space(t, open(t, c), orders)
		if err := apply(ctx, kv, driver.Op{Kind: driver.Put, Key: "k", Value: []byte("v")}).Err; err != nil {
			return err
		}
		e, err := kv.Get(ctx, "k", driver.WithExpiry)
		if err == nil && string(e.Value) != "v" {
			t.Errorf("got %q", e.Value)
		}
		return err
	}
	trusting := &tls.Config{RootCAs: ca.pool(), MinVersion: tls.VersionTLS12}
	must(t, get(driver.Config{URL: "tls://" + s.Addr, TLS: trusting}))

	stranger := newAuthority(t)
	wants(t, "another authority", get(driver.Config{URL: "tls://" + s.Addr, TLS: &tls.Config{RootCAs: stranger.pool(), MinVersion: tls.VersionTLS12}}), errs.BackendUnavailable)
	wants(t, "the system's authorities", get(driver.Config{URL: "tls://" + s.Addr}), errs.BackendUnavailable)
	wants(t, "another name", get(driver.Config{URL: "tls://" + s.Addr, TLS: &tls.Config{RootCAs: ca.pool(), ServerName: "elsewhere", MinVersion: tls.VersionTLS12}}), errs.BackendUnavailable)
	wants(t, "plain to a TLS server", get(driver.Config{URL: "nats://" + s.Addr}), errs.BackendUnavailable)

	wants(t, "no certificate of its own", get(driver.Config{URL: "tls://" + mutual.Addr, TLS: trusting}), errs.BackendUnavailable)
	pair, err := tls.LoadX509KeyPair(dir+"/cert.pem", dir+"/key.pem")
	must(t, err)
	own := trusting.Clone()
	own.Certificates = []tls.Certificate{pair}
	must(t, get(driver.Config{URL: "tls://" + mutual.Addr, TLS: own}))

	e := wants(t, "TLS to a plain server", get(driver.Config{URL: "tls://" + servers.NATS(t).Addr, TLS: trusting}), errs.BackendUnavailable)
	if !strings.Contains(e.Error(), "speaks no TLS") {
		t.Errorf("message: %v", e)
	}
}
