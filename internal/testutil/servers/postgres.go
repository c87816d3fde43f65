package servers

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// The superuser of every server that PostgresWith starts.
const (
	postgresUser     = "postgres"
	postgresPassword = "prism-test"
)

// Postgres returns a PostgreSQL server: the one PRISM_TEST_POSTGRES_URL names,
// else a new one with the settings of a fresh installation, which flushes each
// commit to disk. Its URL names the database postgres and asks for no TLS;
// PostgresLogin returns who may log in.
func Postgres(t testing.TB) *Server {
	t.Helper()
	s := given(t, "postgres")
	if s == nil {
		return PostgresWith(t)
	}
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal("PRISM_TEST_POSTGRES_URL is no url such as postgres://user:password@host:5432/db?sslmode=disable")
	}
	u.User = nil // a Backend document takes no password; PostgresLogin tells it
	s.URL = u.String()
	return s
}

// PostgresLogin returns the user and the password of a server that Postgres,
// PostgresWith or PostgresTLS returned.
func PostgresLogin(s *Server) (name, password string) {
	if s.Managed() {
		return postgresUser, postgresPassword
	}
	u, err := url.Parse(os.Getenv("PRISM_TEST_POSTGRES_URL"))
	if err != nil || u.User == nil {
		return postgresUser, ""
	}
	password, _ = u.User.Password()
	return u.User.Username(), password
}

// PostgresWith starts a PostgreSQL server with further settings, such as
// "fsync=off", whatever the environment says.
func PostgresWith(t testing.TB, settings ...string) *Server {
	t.Helper()
	return startPostgres(t, nil, settings)
}

// PostgresTLS starts a PostgreSQL server that also takes TLS, with the given
// certificate and key in PEM form.
func PostgresTLS(t testing.TB, certificate, key []byte) *Server {
	t.Helper()
	files := map[string][]byte{"server.crt": certificate, "server.key": key}
	return startPostgres(t, files, []string{"ssl=on", "ssl_cert_file={dir}/server.crt", "ssl_key_file={dir}/server.key"})
}

func startPostgres(t testing.TB, files map[string][]byte, settings []string) *Server {
	t.Helper()
	sp := spec{
		name:     "postgres",
		binary:   "postgres",
		dirs:     []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin"},
		packages: []string{"postgresql"},
		ready:    postgresReady,
		stop:     syscall.SIGINT, // fast shutdown: SIGTERM would wait for every client
		attr:     postgresAttr(t),
	}
	sp.prepare = func(s *Server) error { return preparePostgres(s, files) }
	sp.args = func(s *Server) []string {
		args := []string{"-D", filepath.Join(s.Dir, "data"), "-k", s.Dir, "-h", "127.0.0.1", "-p", strconv.Itoa(s.Port)}
		for _, set := range settings {
			args = append(args, "-c", strings.ReplaceAll(set, "{dir}", s.Dir))
		}
		return args
	}
	s := start(t, sp)
	s.URL = "postgres://" + s.Addr + "/postgres?sslmode=disable"
	return s
}

// postgresAttr makes the server run as the user postgres where we are root,
// which PostgreSQL refuses to run as.
func postgresAttr(t testing.TB) *syscall.SysProcAttr {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		// The package that brings the server brings the user.
		find(t, spec{name: "postgres", binary: "initdb", dirs: []string{"/usr/lib/postgresql/*/bin"}, packages: []string{"postgresql"}})
		if u, err = user.Lookup("postgres"); err != nil {
			t.Fatalf("PostgreSQL does not run as root and there is no user postgres to run it as: %v", err)
		}
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
}

// preparePostgres gives a new server a copy of the template; one that starts
// again keeps its data.
func preparePostgres(s *Server, files map[string][]byte) error {
	data := filepath.Join(s.Dir, "data")
	if _, err := os.Stat(data); err == nil {
		return awaitBackends(data)
	}
	if err := own(s, s.Dir); err != nil {
		return err
	}
	template, err := postgresTemplate(s)
	if err != nil {
		return err
	}
	if out, err := exec.Command("cp", "-a", template, data).CombinedOutput(); err != nil { //nolint:gosec,noctx // our own paths; short
		return fmt.Errorf("copying %s: %w: %s", template, err, out)
	}
	for name, content := range files {
		path := filepath.Join(s.Dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return err
		}
		if err := own(s, path); err != nil {
			return err
		}
	}
	return nil
}

// own gives path to the user that the server runs as.
func own(s *Server, path string) error {
	if s.spec.attr == nil {
		return nil
	}
	c := s.spec.attr.Credential
	return os.Chown(path, int(c.Uid), int(c.Gid))
}

// awaitBackends waits until no process of a killed server is left in its data
// directory: a new one refuses to start beside them.
func awaitBackends(data string) error {
	for end := time.Now().Add(stopWithin); ; time.Sleep(pollEvery) {
		links, err := filepath.Glob("/proc/[0-9]*/cwd")
		if err != nil {
			return err
		}
		busy := false
		for _, link := range links {
			if cwd, err := os.Readlink(link); err == nil && cwd == data {
				busy = true
			}
		}
		if !busy {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("processes of the killed server are still there after %v", stopWithin)
		}
	}
}

// postgresTemplate returns a data directory that initdb has made; it is made
// once per machine, version and user.
func postgresTemplate(s *Server) (string, error) {
	initdb := filepath.Join(filepath.Dir(s.binary), "initdb")
	version, err := exec.Command(initdb, "--version").Output() //nolint:gosec,noctx // beside the server; short
	if err != nil {
		return "", fmt.Errorf("%s: %w", initdb, err)
	}
	base, uid, err := templateHome(s)
	if err != nil {
		return "", err
	}
	words := strings.Fields(string(version)) // initdb (PostgreSQL) 15.1 (Distribution …)
	home := filepath.Join(base, fmt.Sprintf("prism-test-postgres-%s-%d", words[2], uid))
	unlock, err := lockFile(home + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	template := filepath.Join(home, "template")
	if info, err := os.Stat(template); err == nil {
		if at, ok := info.Sys().(*syscall.Stat_t); !ok || int(at.Uid) != uid {
			return "", fmt.Errorf("%s belongs to somebody else; remove it", template)
		}
		return template, nil
	}
	return template, initTemplate(s, initdb, home, template)
}

// templateHome returns the folder of templates and the user whose they are.
// Root's own cache is closed to the user postgres.
func templateHome(s *Server) (string, int, error) {
	if s.spec.attr != nil {
		return os.TempDir(), int(s.spec.attr.Credential.Uid), nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return os.TempDir(), os.Geteuid(), nil //nolint:nilerr // without a home there is no cache
	}
	return dir, os.Geteuid(), os.MkdirAll(dir, 0o700)
}

func initTemplate(s *Server, initdb, home, template string) error {
	if err := os.RemoveAll(home); err != nil { // what an interrupted initdb left
		return err
	}
	if err := os.Mkdir(home, 0o700); err != nil {
		return err
	}
	if err := own(s, home); err != nil {
		return err
	}
	password := filepath.Join(home, "password")
	if err := os.WriteFile(password, []byte(postgresPassword), 0o600); err != nil {
		return err
	}
	if err := own(s, password); err != nil {
		return err
	}
	unfinished := filepath.Join(home, "unfinished")
	cmd := exec.Command(initdb, "-D", unfinished, "-U", postgresUser, "--auth=scram-sha-256", "--pwfile="+password, //nolint:gosec,noctx // beside the server
		"--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions")
	cmd.Dir, cmd.SysProcAttr = home, s.spec.attr
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, lastBytes(out, 2000))
	}
	return os.Rename(unfinished, template)
}

// postgresReady returns nil once the server lets us in.
func postgresReady(ctx context.Context, s *Server) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	u := url.URL{Scheme: "postgres", User: url.UserPassword(postgresUser, postgresPassword), Host: s.Addr, Path: "/postgres", RawQuery: "sslmode=disable"}
	c, err := pgconn.Connect(ctx, u.String())
	if err != nil {
		return errors.New(err.Error()) // one that prints no configuration
	}
	return c.Close(ctx)
}
