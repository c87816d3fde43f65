package redis

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"math/bits"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// A mode is how servers stand together.
type mode uint8

const (
	single mode = iota
	sentinel
	cluster
)

// options are the driver's options in a Backend document.
type options struct {
	// Connections that callers share, per server: 1, 2, 4 … 256. One carries
	// the longest batches and is the fastest on few CPUs; more of them keep a
	// big value from holding up everything else.
	Connections int `json:"connections"`
	// ConnectTimeout bounds dialing, TLS and login together.
	ConnectTimeout driver.Duration `json:"connect_timeout"`
	// AnswerTimeout is how long a connection may stay silent while it is
	// asked before it is given up.
	AnswerTimeout driver.Duration `json:"answer_timeout"`
	// FlushDelay is how long a connection with several callers may gather
	// their commands into one packet: more throughput with many callers, more
	// latency with few. At most 1ms.
	FlushDelay driver.Duration `json:"flush_delay"`
	// MaxValue is the largest value in bytes, up to 512 MiB.
	MaxValue int `json:"max_value"`
	// SentinelCredentials logs in to the Sentinels too, as to the servers.
	SentinelCredentials bool `json:"sentinel_credentials"`
}

const (
	defaultMaxValue = 4 << 20
	limitMaxValue   = 512 << 20 // of a Redis string
)

// asserts are what an operator vouches for.
type asserts struct {
	AppendOnly  string `json:"appendonly"`
	AppendFsync string `json:"appendfsync"`
}

// settings are a checked configuration.
type settings struct {
	mode       mode
	secure     bool
	tls        *tls.Config
	addrs      []string
	master     string // of Sentinel
	db         int
	multiplex  int // connections are 2 to this power
	connect    time.Duration
	answer     time.Duration
	flush      time.Duration
	maxValue   int
	askSecrets bool // Sentinels want credentials
	asserts    asserts
}

// parse checks the whole configuration and reports every mistake.
func parse(c driver.Config) (settings, error) {
	var s settings
	bad := s.parseURL(c.URL)
	bad = append(bad, s.parseTLS(c.TLS)...)
	bad = append(bad, s.parseOptions(c.Options)...)
	bad = append(bad, s.parseAsserts(c.Asserts)...)
	if len(bad) > 0 {
		return s, errs.Invalid(bad...)
	}
	return s, nil
}

var modes = map[string]mode{"": single, "+sentinel": sentinel, "+cluster": cluster}

func (s *settings) parseURL(text string) []errs.Field {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		return urlError("write one such as redis://localhost:6379/0")
	}
	kind, base := "", scheme
	if i := strings.IndexByte(scheme, '+'); i >= 0 {
		base, kind = scheme[:i], scheme[i:]
	}
	m, known := modes[kind]
	if !known || base != "redis" && base != "rediss" {
		return urlError("the scheme is none of redis, rediss, redis+sentinel, rediss+sentinel, redis+cluster, rediss+cluster")
	}
	s.mode, s.secure = m, base == "rediss"
	if strings.ContainsAny(rest, "?#") {
		return urlError("has parameters; write them as options")
	}
	hosts, path, _ := strings.Cut(rest, "/")
	if strings.Contains(hosts, "@") {
		return urlError("holds a user or password; write credentials in the field credentials")
	}
	return append(s.parseHosts(hosts), s.parsePath(path)...)
}

func urlError(format string, args ...any) []errs.Field {
	return []errs.Field{{Path: "url", Text: fmt.Sprintf(format, args...)}}
}

func (s *settings) parseHosts(hosts string) []errs.Field {
	port := "6379"
	if s.mode == sentinel {
		port = "26379"
	}
	for one := range strings.SplitSeq(hosts, ",") {
		u, err := url.Parse("redis://" + one)
		if err != nil || one == "" || u.Hostname() == "" {
			return urlError("has a host that is not host or host:port")
		}
		p := u.Port()
		if p == "" {
			p = port
		}
		if n, err := strconv.Atoi(p); err != nil || n < 1 || n > 65535 {
			return urlError("port %s is none from 1 to 65535", p)
		}
		s.addrs = append(s.addrs, net.JoinHostPort(u.Hostname(), p))
	}
	if s.mode == single && len(s.addrs) > 1 {
		return urlError("names several servers; write redis+cluster:// or redis+sentinel://")
	}
	return nil
}

func (s *settings) parsePath(path string) []errs.Field {
	if s.mode == sentinel {
		s.master, path, _ = strings.Cut(path, "/")
		if s.master == "" {
			return urlError("names no master; write redis+sentinel://host:port/name")
		}
	}
	if path == "" {
		return nil
	}
	if s.mode == cluster {
		return urlError("has a path; a Cluster has no databases")
	}
	db, err := strconv.Atoi(path)
	if err != nil || db < 0 || strconv.Itoa(db) != path {
		return urlError("the database is no number from 0 on")
	}
	s.db = db
	return nil
}

func (s *settings) parseTLS(c *tls.Config) []errs.Field {
	switch {
	case c != nil && !s.secure:
		return []errs.Field{{Path: "tls", Text: "is set, but the url's scheme means no TLS; write rediss instead of redis"}}
	case c != nil:
		s.tls = c.Clone()
	case s.secure:
		s.tls = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	return nil
}

func (s *settings) parseOptions(raw json.RawMessage) (bad []errs.Field) {
	o := options{
		Connections: 1, ConnectTimeout: driver.Duration(5 * time.Second),
		AnswerTimeout: driver.Duration(10 * time.Second), MaxValue: defaultMaxValue,
	}
	if err := driver.DecodeStrict(raw, &o); err != nil {
		return []errs.Field{{Path: "options", Text: err.Error()}}
	}
	for _, rule := range []struct {
		bad  bool
		path string
		text string
	}{
		{o.Connections < 1 || o.Connections > 256 || bits.OnesCount(uint(max(o.Connections, 0))) != 1, "options.connections", "must be 1, 2, 4, 8, 16, 32, 64, 128 or 256"},
		{time.Duration(o.ConnectTimeout) < 10*time.Millisecond, "options.connect_timeout", "must be 10ms or more"},
		{time.Duration(o.AnswerTimeout) < 100*time.Millisecond, "options.answer_timeout", "must be 100ms or more"},
		{o.FlushDelay < 0 || time.Duration(o.FlushDelay) > time.Millisecond, "options.flush_delay", "must be 0s to 1ms"},
		{o.MaxValue < 1 || o.MaxValue > limitMaxValue, "options.max_value", fmt.Sprintf("must be 1 to %d bytes", limitMaxValue)},
		{o.SentinelCredentials && s.mode != sentinel, "options.sentinel_credentials", "needs a url with +sentinel"},
	} {
		if rule.bad {
			bad = append(bad, errs.Field{Path: rule.path, Text: rule.text})
		}
	}
	s.multiplex = bits.TrailingZeros(uint(max(o.Connections, 1)))
	s.connect, s.answer = time.Duration(o.ConnectTimeout), time.Duration(o.AnswerTimeout)
	s.flush = time.Duration(o.FlushDelay)
	s.maxValue, s.askSecrets = o.MaxValue, o.SentinelCredentials
	return bad
}

func (s *settings) parseAsserts(raw json.RawMessage) (bad []errs.Field) {
	a := &s.asserts
	if err := driver.DecodeStrict(raw, a); err != nil {
		return []errs.Field{{Path: "asserts", Text: err.Error()}}
	}
	switch a.AppendOnly {
	case "", "yes", "no":
	default:
		bad = append(bad, errs.Field{Path: "asserts.appendonly", Text: "must be yes or no"})
	}
	switch a.AppendFsync {
	case "", "always", "everysec", "no":
	default:
		bad = append(bad, errs.Field{Path: "asserts.appendfsync", Text: "must be always, everysec or no"})
	}
	if a.AppendFsync != "" && a.AppendOnly != "yes" && len(bad) == 0 {
		bad = append(bad, errs.Field{Path: "asserts.appendonly", Text: "must be yes where appendfsync is asserted: without the file nothing is synced"})
	}
	return bad
}

// container names the database, so that two documents for one database are
// seen to overlap if they name it in the same words.
func (s *settings) container() string {
	hosts := slices.Sorted(slices.Values(s.addrs))
	return strings.Join(hosts, ",") + "/" + s.master + "/" + strconv.Itoa(s.db)
}

var (
	ackDefault = driver.Ack{
		Settings: "default",
		Why:      "nothing is asserted about the append-only file; writes since the last snapshot can be lost",
	}
	ackNo = driver.Ack{
		Settings: "asserts: {appendonly: yes, appendfsync: no}", Process: true,
		Why: "Redis hands each write to the operating system before it answers; the system writes it to disk when it likes",
	}
	ackEverySec = driver.Ack{
		Settings: "asserts: {appendonly: yes, appendfsync: everysec}",
		Why:      "Redis holds writes back for up to two seconds while a sync of the file is under way, so even its own crash can lose them",
	}
	ackAlways = driver.Ack{
		Settings: "asserts: {appendonly: yes, appendfsync: always}", Process: true, OS: true,
		Why: "Redis syncs the append-only file before it answers",
	}
	ackReplicated = driver.Ack{
		Settings: "redis+sentinel, redis+cluster",
		Why:      "replication is asynchronous: a failover can promote a replica that has not received the write, whatever the master's settings",
	}
)

func (s *settings) ack() driver.Ack {
	switch {
	case s.mode != single:
		return ackReplicated
	case s.asserts.AppendOnly != "yes":
		return ackDefault
	}
	switch s.asserts.AppendFsync {
	case "always":
		return ackAlways
	case "everysec":
		return ackEverySec
	case "no":
		return ackNo
	}
	return ackDefault
}

func (s *settings) guarantees() driver.Guarantees {
	return driver.Guarantees{
		Version:     driver.ContentVersions,
		Clock:       driver.ServerClock,
		ScanCost:    driver.ScanKeyspace,
		Idempotency: driver.IdempotencyAtomic,
		MaxValue:    s.maxValue,
		TTL:         true,
		Shared:      true,
		Ack:         s.ack(),
	}
}
