package servers

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prismgw/prism/driver"
)

// An S3Server is an object store that tests talk to, with one bucket in it.
type S3Server struct {
	*Server
	Bucket   string
	User     string // the access key
	Password string // the secret key
	Data     string // the folder whose folders are the buckets; "" if it is not managed
}

// S3 returns a store that speaks S3: the one PRISM_TEST_S3_URL names, with the
// "access:secret" of PRISM_TEST_S3_CREDENTIALS, else a new versitygw over a
// folder of its own.
func S3(t testing.TB) *S3Server {
	t.Helper()
	s := given(t, "s3")
	if s == nil {
		return S3With(t)
	}
	at, err := url.Parse(s.URL)
	if err != nil {
		t.Fatalf("PRISM_TEST_S3_URL: %v", err)
	}
	_, s.Addr, _ = strings.Cut(at.Query().Get("endpoint"), "://")
	user, password, _ := strings.Cut(os.Getenv("PRISM_TEST_S3_CREDENTIALS"), ":")
	return &S3Server{Server: s, Bucket: at.Host, User: user, Password: password}
}

// S3With starts a versitygw with further arguments, those for its folder behind
// "--", whatever the environment says. With --cert it speaks TLS.
func S3With(t testing.TB, args ...string) *S3Server {
	t.Helper()
	out := &S3Server{Bucket: "prism", User: "prism-test", Password: "secret-of-tests"}
	var posix []string
	if i := slices.Index(args, "--"); i >= 0 {
		args, posix = args[:i], args[i+1:]
	}
	scheme := "http"
	if slices.Contains(args, "--cert") {
		scheme = "https"
	}
	out.Server = start(t, spec{
		name: "s3", binary: versitygw(t),
		prepare: func(s *Server) error {
			return os.MkdirAll(filepath.Join(s.Dir, "data", out.Bucket), 0o700)
		},
		args: func(s *Server) []string {
			own := []string{"--port", s.Addr, "--quiet", "--keep-alive", "--iam-dir", s.Dir}
			return slices.Concat(own, args, []string{"posix"}, posix, []string{filepath.Join(s.Dir, "data")})
		},
		env:   []string{"ROOT_ACCESS_KEY=" + out.User, "ROOT_SECRET_KEY=" + out.Password},
		ready: func(ctx context.Context, s *Server) error { return s3Ready(ctx, s, scheme) },
	})
	out.Data = filepath.Join(out.Dir, "data")
	out.URL = out.Through(out.Addr)
	if scheme == "https" {
		out.URL = strings.Replace(out.URL, "http:", "https:", 1)
	}
	return out
}

// Through returns the url of the bucket as it is reached through an address.
func (s *S3Server) Through(addr string) string {
	return "s3://" + s.Bucket + "?endpoint=http://" + addr
}

// Login returns what a document's credentials would.
func (s *S3Server) Login() driver.Credentials {
	return func(context.Context) (string, driver.Secret, error) { return s.User, driver.Secret(s.Password), nil }
}

// s3Ready waits for an answer of any kind; a TLS port refuses plain HTTP.
func s3Ready(ctx context.Context, s *Server, scheme string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Addr, nil)
	if err != nil {
		return err
	}
	r.Close = true
	answer, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		if scheme == "https" && !strings.Contains(err.Error(), "refused") {
			return nil
		}
		return err
	}
	return answer.Body.Close()
}

// versitygw returns the path of the server that test/servers/versitygw pins: as
// make has built it, else built once into the user's cache, which takes minutes
// the first time.
func versitygw(t testing.TB) string {
	t.Helper()
	const name = "versitygw"
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	root, err := moduleRoot(t.Context())
	if err == nil {
		var path string
		if path, err = build(name, filepath.Join(root, "test", "servers", name), "github.com/versity/versitygw/cmd/versitygw"); err == nil {
			return path
		}
	}
	t.Fatalf("%s is needed and cannot be built: %v; run: make test-tools", name, err)
	return ""
}

// moduleRoot returns the folder of this module.
func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("go list -m: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}
