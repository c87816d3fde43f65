package client

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/errs"
)

func TestLoopback(t *testing.T) {
	t.Parallel()
	for target, want := range map[string]bool{
		"127.0.0.1:8980": true, "127.8.9.1:1": true, "[::1]:8980": true, "localhost:8980": true, "localhost": true,
		"dns:///localhost:8980": true, "dns:127.0.0.1:1": true, "unix:///run/prism.sock": true, "unix:prism.sock": true,
		"10.0.0.1:8980": false, "prism:8980": false, "dns:///prism:8980": false, "localhost.example:1": false,
		"127.0.0.1.example:8980": false, "[::2]:1": false, "": false,
	} {
		if got := loopback(target); got != want {
			t.Errorf("%q: got %v", target, got)
		}
	}
}

func TestWrongOptions(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]Option{
		"timeout": WithTimeout(-1),
		"tries":   WithRetry(RetryPolicy{}),
		"delays":  WithRetry(RetryPolicy{Tries: 1, BaseDelay: 2, MaxDelay: 1}),
	} {
		_, err := Dial("127.0.0.1:1", o)
		t.Log(name, err)
		wantReason(t, err, errs.InvalidField)
	}
	_, err := Dial("unknown-scheme://\x7f")
	wantReason(t, err, errs.InvalidField)
}

func TestTLS(t *testing.T) {
	t.Parallel()
	certificate, roots := selfSigned(t)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	backing := newServer(t)
	g := grpc.NewServer(grpc.Creds(credentials.NewServerTLSFromCert(&certificate)))
	keyvaluev1.RegisterKeyValueServer(g, backing)
	go func() { _ = g.Serve(lis) }()
	t.Cleanup(g.Stop)

	try := func(opts ...Option) error {
		c, err := Dial(lis.Addr().String(), append(opts, WithNamespace("test"), WithRetry(RetryPolicy{Tries: 1}))...)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, err = c.KeyValue("").Exists(t.Context(), "k")
		return err
	}
	if err := try(WithTLS(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12})); err != nil {
		t.Error(err)
	}
	wantReason(t, try(WithTLS(nil)), errs.BackendUnavailable) // an unknown authority
	wantReason(t, try(), errs.BackendUnavailable)             // plain text
	wantReason(t, try(WithInsecure()), errs.BackendUnavailable)
}

func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}
