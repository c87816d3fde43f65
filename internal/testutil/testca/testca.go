// Package testca makes the certificates of tests. Only tests may import it.
package testca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// An Authority is a certificate authority for one test.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// New returns an authority of its own, which nobody else trusts.
func New(t testing.TB) *Authority {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a := &Authority{key: newKey(t)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	must(t, err)
	a.cert, err = x509.ParseCertificate(der)
	must(t, err)
	return a
}

// Trust returns the configuration of a client that trusts this authority only.
func (a *Authority) Trust() *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
}

// Issue writes ca.pem, cert.pem and key.pem, for a server or a client at
// 127.0.0.1 or at the host that is named, and returns their folder.
func (a *Authority) Issue(t testing.TB, host ...string) string {
	t.Helper()
	dir, key := t.TempDir(), newKey(t)
	template := leaf(2, append(host, "127.0.0.1")[0])
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	must(t, err)
	write(t, filepath.Join(dir, "ca.pem"), "CERTIFICATE", a.cert.Raw)
	write(t, filepath.Join(dir, "cert.pem"), "CERTIFICATE", der)
	writeKey(t, filepath.Join(dir, "key.pem"), key)
	return dir
}

// SelfSigned writes name.crt, a certificate for a host that is its own
// authority, and name.key to a folder, and returns their paths.
func SelfSigned(t testing.TB, dir, name, host string) (cert, key string) {
	t.Helper()
	private := newKey(t)
	template := leaf(1, host)
	template.IsCA, template.BasicConstraintsValid = true, true
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	must(t, err)
	cert, key = filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	write(t, cert, "CERTIFICATE", der)
	writeKey(t, key, private)
	return cert, key
}

// leaf returns what a certificate for a host says, an IP address or a name.
func leaf(serial int64, host string) *x509.Certificate {
	c := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	if ip := net.ParseIP(host); ip != nil {
		c.IPAddresses = []net.IP{ip}
	} else {
		c.DNSNames = []string{host}
	}
	return c
}

func writeKey(t testing.TB, path string, key *ecdsa.PrivateKey) {
	t.Helper()
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	write(t, path, "PRIVATE KEY", secret)
}

func write(t testing.TB, path, kind string, der []byte) {
	t.Helper()
	must(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
