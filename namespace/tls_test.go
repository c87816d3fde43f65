package namespace

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	namespacev1 "github.com/prismgw/prism/api/prism/namespace/v1"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/testca"
)

// What a document names is what both ends of a connection use: each knows the
// other by its certificate, under the name that the document gives.
func TestTLSConnects(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	serverCert, serverKey := testca.SelfSigned(t, dir, "redis.example", "redis.example")
	testca.SelfSigned(t, dir, "prism", "prism")
	pair, err := tls.LoadX509KeyPair(serverCert, serverKey)
	if err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	text, err := os.ReadFile(filepath.Join(dir, "prism.crt"))
	if err != nil || !clients.AppendCertsFromPEM(text) {
		t.Fatal(err)
	}
	for _, x := range []struct {
		what string
		doc  *namespacev1.TLS
		good bool
	}{
		{"all of it, relative and as a url", &namespacev1.TLS{Ca: "redis.example.crt", Cert: "file://" + dir + "/prism.crt", Key: "prism.key", ServerName: "redis.example"}, true},
		{"another name", &namespacev1.TLS{Ca: "redis.example.crt", Cert: "prism.crt", Key: "prism.key", ServerName: "other.example"}, false},
		{"another authority", &namespacev1.TLS{Ca: "prism.crt", Cert: "prism.crt", Key: "prism.key", ServerName: "redis.example"}, false},
		{"the system's authorities", &namespacev1.TLS{Cert: "prism.crt", Key: "prism.key", ServerName: "redis.example"}, false},
		{"no certificate", &namespacev1.TLS{Ca: "redis.example.crt", ServerName: "redis.example"}, false},
	} {
		b := &Backend{Spec: &namespacev1.Backend{Tls: x.doc}, Origin: Origin{Dir: dir}}
		config, err := b.TLS()
		if err != nil {
			t.Fatalf("%s: %v", x.what, err)
		}
		err = handshake(t, config, &tls.Config{
			MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients,
		})
		if (err == nil) != x.good {
			t.Errorf("%s: %v", x.what, err)
		}
	}
	old := &tls.Config{Certificates: []tls.Certificate{pair}, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}
	b := &Backend{Spec: &namespacev1.Backend{Tls: &namespacev1.TLS{Ca: "redis.example.crt", ServerName: "redis.example"}}, Origin: Origin{Dir: dir}}
	config, err := b.TLS()
	if err != nil {
		t.Fatal(err)
	}
	if err := handshake(t, config, old); err == nil {
		t.Error("a connection over TLS 1.1 is made")
	}
}

// handshake connects two ends and returns why that failed.
func handshake(t *testing.T, client, server *tls.Config) error {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		s, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = s.Write([]byte("x")) // fails where the handshake does
		_ = s.Close()
	}()
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", l.Addr().String(), client)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Read(make([]byte, 1)) // a client learns of its own refusal after its handshake
	return err
}

// Every mistake in the files is reported, each at its field.
func TestTLSMistakes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	testca.SelfSigned(t, dir, "one", "one")
	testca.SelfSigned(t, dir, "two", "two")
	if err := os.WriteFile(filepath.Join(dir, "text"), []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		doc  *namespacev1.TLS
		want string
	}{
		{&namespacev1.TLS{Ca: "nowhere"}, "tls.ca: the file cannot be read"},
		{&namespacev1.TLS{Ca: "text"}, "tls.ca: the file holds no certificate"},
		{&namespacev1.TLS{Ca: "one.key"}, "tls.ca: the file holds no certificate"},
		{&namespacev1.TLS{Ca: "https://example/ca"}, "tls.ca: this names no file"},
		{&namespacev1.TLS{Cert: "one.crt", Key: "two.key"}, "tls.cert: certificate and key cannot be used"},
		{&namespacev1.TLS{Cert: "one.key", Key: "one.crt"}, "tls.cert: certificate and key cannot be used"},
		{&namespacev1.TLS{Cert: "one.crt", Key: "nowhere"}, "tls.key: the file cannot be read"},
		{&namespacev1.TLS{Ca: "nowhere", Cert: "nowhere", Key: "text%"}, "tls.ca: the file cannot be read tls.cert: the file cannot be read tls.key: the file cannot be read"},
	} {
		b := &Backend{Spec: &namespacev1.Backend{Tls: x.doc}, Origin: Origin{Dir: dir}}
		config, err := b.TLS()
		if config != nil || err == nil {
			t.Errorf("%v: taken", x.doc)
			continue
		}
		got := ""
		for _, f := range errs.From(err).Fields {
			got += f.Path + ": " + f.Text + " "
		}
		for part := range strings.SplitSeq(x.want, " tls.") {
			if !strings.Contains(got, part) {
				t.Errorf("%v: %q, want %q", x.doc, got, x.want)
			}
		}
	}
	if config, err := (&Backend{Spec: &namespacev1.Backend{}}).TLS(); config != nil || err != nil {
		t.Errorf("without tls: %v, %v", config, err)
	}
}
