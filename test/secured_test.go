package test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prismgw/prism/internal/testutil/servers"
	"github.com/prismgw/prism/internal/testutil/testca"
)

// A secured is a Redis that wants a certificate and a password, behind a proxy
// whose documents name the files of both.
type secured struct {
	dir   string // with tls.crt, tls.key and login
	redis *servers.Server
	proxy *server
	tls   *tls.Config
}

const firstPassword, secondPassword = "hunter-one", "hunter-two"

func startSecured(t *testing.T) *secured {
	t.Helper()
	s := &secured{dir: t.TempDir()}
	s.certificate(t)
	pair := filepath.Join(s.dir, "tls.crt")
	s.redis = servers.RedisWith(t, "--port", "0", "--tls-port", "{port}", "--tls-auth-clients", "yes", "--tls-ca-cert-file", pair,
		"--tls-cert-file", pair, "--tls-key-file", filepath.Join(s.dir, "tls.key"), "--requirepass", firstPassword)
	s.login(t, firstPassword)
	documents := fmt.Sprintf(`
kind: Backend
name: secured
driver: redis
url: rediss://%s
tls: {ca: tls.crt, cert: tls.crt, key: tls.key}
credentials: file://%s/login
---
{kind: Namespace, name: demo, stores: [data], needs: {durability: none}, auth: {anonymous: read_write}}
`, s.redis.Addr, s.dir)
	file := filepath.Join(s.dir, "docs.yaml")
	if err := os.WriteFile(file, []byte(documents), 0o600); err != nil {
		t.Fatal(err)
	}
	s.proxy = startServer(t, s.dir, "proxy", "--grpc-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0", file)
	return s
}

// certificate writes a certificate for this machine that is its own authority.
func (s *secured) certificate(t *testing.T) {
	t.Helper()
	crt, key := testca.SelfSigned(t, s.dir, "tls", "127.0.0.1")
	pair, err := tls.LoadX509KeyPair(crt, key)
	if err != nil {
		t.Fatal(err)
	}
	s.tls = &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	s.tls.RootCAs.AddCert(pair.Leaf)
}

// login replaces the file with the password in one step.
func (s *secured) login(t *testing.T, password string) {
	t.Helper()
	path := filepath.Join(s.dir, "login")
	if err := os.WriteFile(path+".new", []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// rotate changes the server's password and cuts everybody off.
func (s *secured) rotate(t *testing.T, from, to string) {
	t.Helper()
	conn, err := tls.Dial("tcp", s.redis.Addr, s.tls)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	for _, command := range []string{"AUTH " + from, "CONFIG SET requirepass " + to, "CLIENT KILL TYPE normal SKIPME yes"} {
		if _, err := fmt.Fprintf(conn, "%s\r\n", command); err != nil {
			t.Fatal(err)
		}
		if answer, err := in.ReadString('\n'); err != nil || strings.HasPrefix(answer, "-") {
			t.Fatalf("%s: %q, %v", command, answer, err)
		}
	}
}

// put stores a value and returns the status and the problem.
func (s *secured) put(t *testing.T) (status int, problem string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+s.proxy.HTTP+"/v1/namespaces/demo/keyvalue/k", strings.NewReader("v"))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// until puts until the answer is the wanted one, and says everything that was
// answered meanwhile.
func (s *secured) until(t *testing.T, what string, status int, reason string) string {
	t.Helper()
	var all strings.Builder
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		got, text := s.put(t)
		all.WriteString(text)
		if got == status && strings.Contains(text, reason) {
			return all.String()
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %d %s\n%s", what, got, text, s.proxy.log.String())
		}
	}
}

// A backend that wants TLS, a certificate and a password is served, also after
// the password was changed; a password that is wrong or missing is told as
// that, and no password is told to anybody.
func TestSecuredBackend(t *testing.T) {
	t.Parallel()
	s := startSecured(t)
	answers := s.until(t, "with all that it wants", http.StatusOK, "version")
	s.rotate(t, firstPassword, secondPassword)
	answers += s.until(t, "with the password of before", http.StatusServiceUnavailable, "refuses the credentials")
	s.login(t, secondPassword)
	answers += s.until(t, "with the new password", http.StatusOK, "version")
	if err := os.Remove(filepath.Join(s.dir, "login")); err != nil {
		t.Fatal(err)
	}
	s.rotate(t, secondPassword, firstPassword)
	answers += s.until(t, "without a password", http.StatusServiceUnavailable, "CREDENTIALS_UNAVAILABLE")
	s.login(t, firstPassword)
	answers += s.until(t, "with the password that came back", http.StatusOK, "version")

	for _, path := range []string{"/readyz", "/metrics"} {
		resp, err := http.Get("http://" + s.proxy.Ops + path)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		answers += string(text)
	}
	s.proxy.kill()
	for where, text := range map[string]string{"an answer": answers, "the log": s.proxy.log.String()} {
		if strings.Contains(text, "hunter-") {
			t.Errorf("a password stands in %s:\n%s", where, text)
		}
	}
	if strings.Contains(answers, s.dir) {
		t.Errorf("an answer names a file of the proxy's machine:\n%s", answers)
	}
}
