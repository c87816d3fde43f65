package postgres_test

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"strings"
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/postgres"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/servers"
	"github.com/prismgw/prism/internal/testutil/testca"
)

func TestConfigurationMistakes(t *testing.T) {
	t.Parallel()
	own := &tls.Config{RootCAs: x509.NewCertPool()}
	blind := &tls.Config{InsecureSkipVerify: true}
	for _, c := range []struct {
		url, options, asserts string
		tls                   *tls.Config
		field, says           string
	}{
		{url: "postgres://u:hunter2@h/db", field: "url", says: "holds a password"},
		{url: "postgres://h/db?password=hunter2", field: "url", says: "holds a password"},
		{url: "postgres://u:hunter2@h:x/db", field: "url", says: "is no url"},
		{url: "redis://h/db", field: "url", says: "must begin with"},
		{url: "postgres:///db", field: "url", says: "no host"},
		{url: "postgres://h", field: "url", says: "no database"},
		{url: "postgres://h/a/b", field: "url", says: "no database"},
		{url: "postgres://h:0/db", field: "url", says: "port"},
		{url: "postgres://a,b/db", field: "url", says: "several hosts"},
		{url: "postgres://h/db?search_path=x", field: "url", says: `"search_path"`},
		{url: "postgres://h/db?sslmode=off", field: "url", says: "sslmode must be"},
		{url: "postgres://h/db?sslmode=prefer", field: "url", says: "in the clear"},
		{url: "postgres://h/db?sslmode=disable&sslmode=require", field: "url", says: "twice"},
		{url: "postgres://h/db?sslmode=disable", tls: own, field: "url", says: "contradicts tls"},
		{url: "postgres://h/db?sslmode=require", tls: own, field: "url", says: "would be ignored"},
		{url: "postgres://h/db?sslmode=verify-full", tls: blind, field: "url", says: "contradicts tls"},
		{url: "postgres://h/db", options: `{"max_connections": 0}`, field: "options.max_connections", says: "1 to 1000"},
		{url: "postgres://h/db", options: `{"max_connections": 2, "flights": 3}`, field: "options.flights", says: "max_connections"},
		{url: "postgres://h/db", options: `{"statement_timeout": "1ms"}`, field: "options.statement_timeout", says: "must be"},
		{url: "postgres://h/db", options: `{"statement_timeout": 5}`, field: "options"},
		{url: "postgres://h/db", options: `{"connect_timeout": "0s"}`, field: "options.connect_timeout", says: "must be"},
		{url: "postgres://h/db", options: `{"sweep_interval": "-1s"}`, field: "options.sweep_interval", says: "must be"},
		{url: "postgres://h/db", options: `{"schema": ""}`, field: "options.schema", says: "1 to 63"},
		{url: "postgres://h/db", options: `{"pool_size": 3}`, field: "options", says: "pool_size"},
		{url: "postgres://h/db", asserts: `{"synchronous_commit": "local"}`, field: "asserts.synchronous_commit", says: "off, on or remote_apply"},
		{url: "postgres://h/db", asserts: `{"synchronous_commit": "remote_apply", "fsync": false}`, field: "asserts.synchronous_commit", says: "fsync"},
		{url: "postgres://h/db", asserts: `{"wal_level": "x"}`, field: "asserts", says: "wal_level"},
	} {
		_, err := postgres.Driver().Open(driver.Config{URL: c.url, Options: []byte(c.options), Asserts: []byte(c.asserts), TLS: c.tls})
		found := false
		for _, field := range errs.From(err).Fields {
			found = found || field.Path == c.field && strings.Contains(field.Text, c.says)
		}
		if !found || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// TestEnvironmentIsIgnored sets what pgx would read.
func TestEnvironmentIsIgnored(t *testing.T) {
	f := newFixture(t)
	for name, value := range map[string]string{
		"PGHOST": "nowhere.invalid", "PGPORT": "1", "PGUSER": "nobody", "PGPASSWORD": "wrong", "PGDATABASE": "none", "PGSSLMODE": "verify-full",
		"PGSSLROOTCERT": "/none", "PGOPTIONS": "-c default_transaction_read_only=on", "PGTARGETSESSIONATTRS": "standby", "PGREQUIREAUTH": "none",
	} {
		t.Setenv(name, value)
	}
	kv := f.kv(f.open(f.config()), "")
	f.put(kv, "a", "1")
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ours, theirs := testca.New(t), testca.New(t)
	dir := ours.Issue(t, "localhost")
	f := onServer(t, servers.PostgresTLS(t, read(t, dir+"/cert.pem"), read(t, dir+"/key.pem")))
	plain := servers.PostgresWith(t)
	url := func(s *servers.Server, host, mode string) string {
		u := strings.Replace(s.URL, "127.0.0.1", host, 1)
		return strings.Replace(u, "?sslmode=disable", mode, 1)
	}
	for _, c := range []struct {
		name, url string
		server    *servers.Server
		tls       *tls.Config
		encrypted bool
		says      string // "": it works
	}{
		{"own authority", url(f.server, "localhost", "?sslmode=verify-full"), f.server, ours.Trust(), true, ""},
		{"tls without sslmode", url(f.server, "localhost", ""), f.server, ours.Trust(), true, ""},
		{"another name", url(f.server, "127.0.0.1", "?sslmode=verify-full"), f.server, ours.Trust(), false, "another name"},
		{"another name, chain only", url(f.server, "127.0.0.1", "?sslmode=verify-ca"), f.server, ours.Trust(), true, ""},
		{"wrong authority", url(f.server, "localhost", "?sslmode=verify-full"), f.server, theirs.Trust(), false, "not trusted"},
		{"wrong authority, chain only", url(f.server, "localhost", "?sslmode=verify-ca"), f.server, theirs.Trust(), false, "not trusted"},
		{"the system's authorities", url(f.server, "localhost", "?sslmode=verify-full"), f.server, nil, false, "not trusted"},
		{"unchecked", url(f.server, "localhost", "?sslmode=require"), f.server, nil, true, ""},
		{"loopback", url(f.server, "localhost", ""), f.server, nil, false, ""},
		{"no tls there", url(plain, "localhost", "?sslmode=verify-full"), plain, ours.Trust(), false, "offers no TLS"},
		{"no tls there, unchecked", url(plain, "localhost", "?sslmode=require"), plain, nil, false, "offers no TLS"},
	} {
		cfg := driver.Config{Name: "pg", URL: c.url, TLS: c.tls, Credentials: login(c.server), Options: []byte(`{"schema": "tls"}`)}
		conn := f.open(cfg)
		kv := f.kv(conn, "")
		_, err := kv.Get(f.ctx, "a", driver.WithExpiry)
		if c.says != "" {
			f.wants(c.name, err, errs.BackendUnavailable, c.says)
			continue
		}
		f.wants(c.name, err, errs.KeyNotFound)
		var encrypted bool
		onServer(t, c.server).scan(&encrypted, "SELECT bool_or(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'prism'")
		if encrypted != c.encrypted {
			t.Errorf("%s: encrypted is %v", c.name, encrypted)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		onServer(t, c.server).await("end of the connection", func() bool {
			var n int
			onServer(t, c.server).scan(&n, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'prism'")
			return n == 0
		})
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (f *fixture) scan(to any, sql string) {
	f.Helper()
	if err := f.direct().QueryRow(f.ctx, sql).Scan(to); err != nil {
		f.Fatalf("%s: %v", sql, err)
	}
}

func TestExtents(t *testing.T) {
	t.Parallel()
	conn, err := postgres.Driver().Open(driver.Config{URL: "postgres://DB.example.com/app"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	space := func(namespace, pattern, layout string) driver.Extent {
		b, err := conn.Space(driver.Space{Namespace: namespace, Pattern: pattern, Layout: []byte(layout)})
		if err != nil {
			t.Fatal(err)
		}
		return b.Extent
	}
	own := space("a", "b", "")
	if own.Container != "db.example.com:5432/app/public.prism_kv" {
		t.Errorf("container %q", own.Container)
	}
	carts := space("a", "b", `{"table": "carts", "key": "id", "value": "doc"}`)
	same := space("x", "y", `{"table": "public.carts", "key": "id", "value": "doc"}`)
	if own.Overlaps(space("ab", "", "")) || own.Overlaps(space("a", "bc", "")) || own.Overlaps(carts) || !carts.Overlaps(same) {
		t.Error("extents overlap wrongly")
	}
}
