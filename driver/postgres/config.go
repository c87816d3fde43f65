package postgres

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/prismgw/prism/driver"
)

// maxMessage bounds what a server may send at once: a value, or garbage.
const maxMessage = 256 << 20

// options are the driver's own options.
type options struct {
	// MaxConnections is the most connections to the server, 1 to 1000. Who
	// waits for tasks or records adds one, which all share, that hears of them.
	MaxConnections int `json:"max_connections"`
	// Flights is how many round trips one space may have under way for reads,
	// and as many for writes; what comes meanwhile goes together in the next.
	Flights int `json:"flights"`
	// Schema is the schema of Prism's own tables, made if it is missing.
	Schema string `json:"schema"`
	// StatementTimeout is after how long the server gives a statement up.
	StatementTimeout driver.Duration `json:"statement_timeout"`
	// ConnectTimeout bounds making a connection.
	ConnectTimeout driver.Duration `json:"connect_timeout"`
	// SweepInterval is how often rows that have expired are removed; they are
	// absent for every operation before that.
	SweepInterval driver.Duration `json:"sweep_interval"`
}

func defaultOptions() options {
	return options{
		MaxConnections:   10,
		Flights:          2,
		Schema:           "public",
		StatementTimeout: driver.Duration(10 * time.Second),
		ConnectTimeout:   driver.Duration(5 * time.Second),
		SweepInterval:    driver.Duration(time.Minute),
	}
}

func (o *options) check(m *mistakes) {
	if o.MaxConnections < 1 || o.MaxConnections > 1000 {
		m.add("options.max_connections", "must be 1 to 1000")
	}
	if o.Flights < 1 || o.Flights > o.MaxConnections {
		m.add("options.flights", "must be 1 to max_connections")
	}
	if err := checkName(o.Schema); err != nil {
		m.add("options.schema", err.Error())
	}
	for _, d := range []struct {
		path     string
		value    driver.Duration
		min, max time.Duration
	}{
		{"options.statement_timeout", o.StatementTimeout, 10 * time.Millisecond, time.Hour},
		{"options.connect_timeout", o.ConnectTimeout, 10 * time.Millisecond, time.Hour},
		{"options.sweep_interval", o.SweepInterval, 10 * time.Millisecond, 24 * time.Hour},
	} {
		if time.Duration(d.value) < d.min || time.Duration(d.value) > d.max {
			m.add(d.path, fmt.Sprintf("must be %v to %v", d.min, d.max))
		}
	}
}

// checkName reports whether PostgreSQL takes an identifier as it is.
func checkName(name string) error {
	if name == "" || len(name) > 63 || strings.ContainsRune(name, 0) {
		return errors.New("a name is 1 to 63 bytes without NUL")
	}
	return nil
}

// parsed is a configuration that has been checked.
type parsed struct {
	where   string
	options options
	asserts asserts
	pool    *pgxpool.Config
}

func parse(cfg *driver.Config) (*parsed, error) {
	var m mistakes
	p := &parsed{options: defaultOptions(), asserts: defaultAsserts()}
	m.decode("options", cfg.Options, &p.options)
	m.decode("asserts", cfg.Asserts, &p.asserts)
	p.options.check(&m)
	p.asserts.check(&m)
	t := parseURL(cfg.URL, &m)
	tlsConfig := t.tls(cfg.TLS, &m)
	if err := m.err(); err != nil {
		return nil, err
	}
	p.where = net.JoinHostPort(strings.ToLower(t.host), strconv.Itoa(int(t.port))) + "/" + t.database
	pool, err := poolConfig(t, tlsConfig, p.options)
	if err != nil {
		m.add("url", "the environment holds a PG… variable that cannot be used, such as PGSERVICE; unset it, Prism does not use it")
		return nil, m.err()
	}
	if cfg.Credentials != nil {
		pool.BeforeConnect = login(cfg.Credentials, t.user)
	}
	p.pool = pool
	return p, nil
}

// target is what the url says.
type target struct {
	host     string
	port     uint16
	database string
	user     string
	sslmode  string // "" if the url does not say
}

func parseURL(text string, m *mistakes) target {
	var t target
	u, err := url.Parse(text)
	switch {
	case err != nil:
		m.add("url", "is no url such as postgres://host:5432/database") // the parser's words could hold a password
		return t
	case u.Scheme != "postgres" && u.Scheme != "postgresql":
		m.add("url", "must begin with postgres://")
	case u.Hostname() == "":
		m.add("url", "names no host; write one such as postgres://host:5432/database")
	}
	if _, has := u.User.Password(); has {
		m.add("url", "holds a password; name it in credentials instead")
	}
	t.host, t.user, t.port = u.Hostname(), u.User.Username(), 5432
	if strings.Contains(t.host, ",") {
		m.add("url", "names several hosts; name one address that leads to the primary")
	}
	if p := u.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			m.add("url", "the port must be 1 to 65535")
		}
		t.port = uint16(n)
	}
	t.database = strings.TrimPrefix(u.Path, "/")
	if checkName(t.database) != nil || strings.Contains(t.database, "/") {
		m.add("url", "names no database; write one such as postgres://host:5432/database")
	}
	t.query(u, m)
	return t
}

func (t *target) query(u *url.URL, m *mistakes) {
	values, err := url.ParseQuery(u.RawQuery)
	if err != nil || u.Fragment != "" {
		m.add("url", "what follows the database must be ?sslmode=…")
	}
	for name, v := range values {
		switch {
		case name == "password":
			m.add("url", "holds a password; name it in credentials instead")
		case name != "sslmode":
			m.add("url", fmt.Sprintf("has the unknown parameter %q; only sslmode may follow the database", name))
		case len(v) > 1:
			m.add("url", "names sslmode twice")
		default:
			t.sslmode = v[0]
		}
	}
}

// loopback reports whether what is sent to the host stays on this machine.
func (t *target) loopback() bool {
	ip := net.ParseIP(t.host)
	return strings.EqualFold(t.host, "localhost") || ip != nil && ip.IsLoopback()
}

// tls returns how to secure a connection, nil for not at all. Without a
// sslmode it is verify-full, except that on loopback, with no tls given, it is
// disable.
func (t *target) tls(given *tls.Config, m *mistakes) *tls.Config {
	mode := t.sslmode
	if mode == "" {
		mode = "verify-full"
		if given == nil && t.loopback() {
			mode = "disable"
		}
	}
	switch {
	case mode == "disable" && given != nil:
		m.add("url", "sslmode=disable contradicts tls; leave one of them out")
	case mode == "require" && given != nil && given.RootCAs != nil:
		m.add("url", "sslmode=require does not check the server's certificate, so tls.ca would be ignored; write sslmode=verify-full or verify-ca")
	case strings.HasPrefix(mode, "verify-") && given != nil && given.InsecureSkipVerify:
		m.add("url", "sslmode="+mode+" contradicts tls, which is set not to check the server's certificate")
	case mode == "prefer" || mode == "allow":
		m.add("url", "sslmode="+mode+" may silently send everything in the clear; write disable, require, verify-ca or verify-full")
	case mode != "disable" && mode != "require" && mode != "verify-ca" && mode != "verify-full":
		m.add("url", "sslmode must be disable, require, verify-ca or verify-full")
	}
	if mode == "disable" {
		return nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if given != nil {
		conf = given.Clone()
	}
	if conf.ServerName == "" {
		conf.ServerName = t.host
	}
	switch mode {
	case "require":
		conf.InsecureSkipVerify = true
	case "verify-ca":
		conf.InsecureSkipVerify = true // the name only; the chain is checked here
		conf.VerifyConnection = verifyChain(conf.RootCAs)
	}
	return conf
}

// verifyChain checks that the certificate was issued by one of the roots (nil:
// the system's), whatever name it bears.
func verifyChain(roots *x509.CertPool) func(tls.ConnectionState) error {
	return func(s tls.ConnectionState) error {
		between := x509.NewCertPool()
		for _, c := range s.PeerCertificates[1:] {
			between.AddCert(c)
		}
		_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between})
		return err
	}
}

// poolConfig builds the pool's settings from nothing but ours: what pgx takes
// from the environment is overwritten, so that a stray PGPASSWORD or
// PGSSLMODE changes nothing.
func poolConfig(t target, conf *tls.Config, o options) (*pgxpool.Config, error) {
	p, err := pgxpool.ParseConfig("host=127.0.0.1 port=5432 user=postgres password=x sslmode=disable sslrootcert='' sslcert='' sslkey='' passfile='' " +
		"sslnegotiation=postgres sslcertmode=allow target_session_attrs=any connect_timeout=5 require_auth='' channel_binding=prefer min_protocol_version=3.0 max_protocol_version=3.0")
	if err != nil {
		return nil, err
	}
	cc := p.ConnConfig
	cc.Host, cc.Port, cc.Database, cc.User, cc.Password = t.host, t.port, t.database, t.user, ""
	cc.TLSConfig, cc.Fallbacks, cc.ValidateConnect = conf, nil, nil
	cc.SSLNegotiation, cc.SSLCertMode, cc.RequireAuth, cc.ChannelBinding = "postgres", "allow", "", "prefer"
	cc.KerberosSrvName, cc.KerberosSpn = "", ""
	cc.MinProtocolVersion, cc.MaxProtocolVersion = "3.0", "3.0"
	cc.ConnectTimeout = time.Duration(o.ConnectTimeout)
	cc.DialFunc = (&net.Dialer{Timeout: cc.ConnectTimeout, KeepAlive: 30 * time.Second}).DialContext
	cc.MaxProtocolMessageBodyLen = maxMessage
	cc.RuntimeParams = runtimeParams(o)
	p.MaxConns, p.MinConns, p.MinIdleConns = int32(o.MaxConnections), 0, 0
	p.MaxConnLifetime, p.MaxConnLifetimeJitter = time.Hour, 10*time.Minute
	p.MaxConnIdleTime = 10 * time.Minute
	p.PingTimeout = cc.ConnectTimeout
	p.ShouldPing = func(_ context.Context, s pgxpool.ShouldPingParams) bool { return s.IdleDuration > 30*time.Second }
	p.PrepareConn = func(_ context.Context, pc *pgx.Conn) (bool, error) { return quiet(pc.PgConn().Conn()), nil }
	return p, nil
}

// runtimeParams are the settings each connection starts with. Plans are made
// once, for the indexes, however small the table was at that moment; what is
// joined is a few rows with a table.
func runtimeParams(o options) map[string]string {
	return map[string]string{
		"application_name":              "prism",
		"client_encoding":               "UTF8",
		"default_transaction_isolation": "read committed",
		"statement_timeout":             strconv.FormatInt(time.Duration(o.StatementTimeout).Milliseconds(), 10),
		"lock_timeout":                  "1000",
		"plan_cache_mode":               "force_generic_plan",
		"enable_seqscan":                "off",
		"enable_bitmapscan":             "off",
		"enable_hashjoin":               "off",
		"enable_mergejoin":              "off",
		"jit":                           "off",
	}
}

// login asks for the credentials of each new connection.
func login(creds driver.Credentials, urlUser string) func(context.Context, *pgx.ConnConfig) error {
	return func(ctx context.Context, cc *pgx.ConnConfig) error {
		user, password, err := creds(ctx)
		if err != nil {
			return &credentialsError{err}
		}
		if user != "" && urlUser != "" && user != urlUser {
			return errOtherUser
		}
		if user != "" {
			cc.User = user
		}
		cc.Password = string(password)
		return nil
	}
}

var errOtherUser = errors.New("the url names another user than the credentials")

// credentialsError is that no credentials could be had.
type credentialsError struct{ cause error }

func (e *credentialsError) Error() string { return "no credentials: " + e.cause.Error() }
func (e *credentialsError) Unwrap() error { return e.cause }
