package nats

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// options are the driver's options in a Backend document.
type options struct {
	// Bucket is the key-value bucket: 1 to 64 of A-Z a-z 0-9 - _.
	Bucket string `json:"bucket"`
	// ConnectTimeout bounds dialing, TLS, login and the look at the bucket, each.
	ConnectTimeout driver.Duration `json:"connect_timeout"`
	// AnswerTimeout is how long the backend may stay silent while it is asked
	// before its connection is given up.
	AnswerTimeout driver.Duration `json:"answer_timeout"`
	// MaxValue is the largest value in bytes, up to 4 MiB. The server's
	// max_payload has to be 8 KiB larger.
	MaxValue int `json:"max_value"`
}

const (
	headroom        = 8 << 10 // of a message, for its headers
	defaultMaxValue = 1<<20 - headroom
	limitMaxValue   = 4 << 20
	maxBucket       = 64
)

// asserts are what an operator vouches for.
type asserts struct {
	// SyncInterval is "always" where every server's jetstream block says so.
	// Servers do not tell.
	SyncInterval string `json:"sync_interval"`
	// Replicas are those of the bucket: it is made with so many, and refused
	// if it has fewer.
	Replicas int `json:"replicas"`
}

// settings are a checked configuration.
type settings struct {
	servers  []string // urls
	hosts    []string // host:port of each
	tls      *tls.Config
	bucket   string
	connect  time.Duration
	answer   time.Duration
	maxValue int
	synced   bool
	replicas int
}

// stream returns the name of the bucket's stream.
func (s *settings) stream() string { return "KV_" + s.bucket }

// parse checks the whole configuration and reports every mistake.
func parse(c driver.Config) (settings, error) {
	var s settings
	bad := s.parseURL(c.URL, c.TLS)
	bad = append(bad, s.parseOptions(c.Options)...)
	bad = append(bad, s.parseAsserts(c.Asserts)...)
	if len(bad) > 0 {
		return s, errs.Invalid(bad...)
	}
	return s, nil
}

func urlError(format string, args ...any) []errs.Field {
	return []errs.Field{{Path: "url", Text: fmt.Sprintf(format, args...)}}
}

func (s *settings) parseURL(text string, c *tls.Config) []errs.Field {
	scheme, hosts, ok := strings.Cut(text, "://")
	switch {
	case !ok:
		return urlError("write one such as nats://localhost:4222")
	case scheme != "nats" && scheme != "tls":
		return urlError("the scheme is none of nats, tls")
	case strings.Contains(hosts, "@"):
		return urlError("holds a user, password or token; write credentials in the field credentials")
	case strings.ContainsAny(hosts, "/?#"):
		return urlError("has more than hosts; write the rest as options")
	}
	switch {
	case scheme == "tls" && c != nil:
		s.tls = c.Clone()
	case scheme == "tls":
		s.tls = &tls.Config{MinVersion: tls.VersionTLS12}
	case c != nil:
		return []errs.Field{{Path: "tls", Text: "is set, but the url's scheme means no TLS; write tls instead of nats"}}
	}
	return s.parseHosts(scheme, hosts)
}

func (s *settings) parseHosts(scheme, hosts string) []errs.Field {
	for one := range strings.SplitSeq(hosts, ",") {
		u, err := url.Parse("nats://" + one)
		if err != nil || one == "" || u.Hostname() == "" {
			return urlError("has a host that is not host or host:port")
		}
		port := u.Port()
		if port == "" {
			port = "4222"
		}
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return urlError("port %s is none from 1 to 65535", port)
		}
		host := net.JoinHostPort(u.Hostname(), port)
		s.hosts = append(s.hosts, host)
		s.servers = append(s.servers, scheme+"://"+host)
	}
	return nil
}

func (s *settings) parseOptions(raw json.RawMessage) (bad []errs.Field) {
	o := options{
		Bucket: "prism", MaxValue: defaultMaxValue,
		ConnectTimeout: driver.Duration(2 * time.Second), AnswerTimeout: driver.Duration(10 * time.Second),
	}
	if err := driver.DecodeStrict(raw, &o); err != nil {
		return []errs.Field{{Path: "options", Text: err.Error()}}
	}
	for _, rule := range []struct {
		bad  bool
		path string
		text string
	}{
		{!validBucket(o.Bucket), "options.bucket", fmt.Sprintf("must be 1 to %d of A-Z a-z 0-9 - _", maxBucket)},
		{time.Duration(o.ConnectTimeout) < 10*time.Millisecond, "options.connect_timeout", "must be 10ms or more"},
		{time.Duration(o.AnswerTimeout) < 100*time.Millisecond, "options.answer_timeout", "must be 100ms or more"},
		{o.MaxValue < 1 || o.MaxValue > limitMaxValue, "options.max_value", fmt.Sprintf("must be 1 to %d bytes", limitMaxValue)},
	} {
		if rule.bad {
			bad = append(bad, errs.Field{Path: rule.path, Text: rule.text})
		}
	}
	s.bucket, s.maxValue = o.Bucket, o.MaxValue
	s.connect, s.answer = time.Duration(o.ConnectTimeout), time.Duration(o.AnswerTimeout)
	return bad
}

func validBucket(name string) bool {
	for i := range len(name) {
		if !plain(name[i]) || name[i] == '/' {
			return false
		}
	}
	return name != "" && len(name) <= maxBucket
}

func (s *settings) parseAsserts(raw json.RawMessage) (bad []errs.Field) {
	a := asserts{Replicas: 1}
	if err := driver.DecodeStrict(raw, &a); err != nil {
		return []errs.Field{{Path: "asserts", Text: err.Error()}}
	}
	if a.SyncInterval != "" && a.SyncInterval != "always" {
		bad = append(bad, errs.Field{Path: "asserts.sync_interval", Text: "must be always; leave it out for any other interval"})
	}
	if !slices.Contains([]int{1, 3, 5}, a.Replicas) {
		bad = append(bad, errs.Field{Path: "asserts.replicas", Text: "must be 1, 3 or 5"})
	}
	s.synced, s.replicas = a.SyncInterval == "always", a.Replicas
	return bad
}

// container names the bucket, so that two documents for one bucket are seen to
// overlap if they name its servers in the same words.
func (s *settings) container() string {
	return strings.Join(slices.Sorted(slices.Values(s.hosts)), ",") + "/" + s.stream()
}

var (
	ackDefault = driver.Ack{
		Settings: "default", Process: true,
		Why: "JetStream hands each write to the operating system before it answers, and syncs its files only every two minutes",
	}
	ackAlways = driver.Ack{
		Settings: "asserts: {sync_interval: always}", Process: true, OS: true,
		Why: "JetStream syncs its file before it answers",
	}
	ackReplicated = driver.Ack{
		Settings: "asserts: {replicas: 3}", Process: true, Node: true,
		Why: "a majority of the replicas has the write before the answer, unsynced: machines that lose power and come back without it can outvote the others",
	}
	ackReplicatedAlways = driver.Ack{
		Settings: "asserts: {replicas: 3, sync_interval: always}", Process: true, OS: true, Node: true,
		Why: "a majority of the replicas has synced the write before the answer",
	}
)

func (s *settings) ack() driver.Ack {
	switch {
	case s.replicas > 1 && s.synced:
		return ackReplicatedAlways
	case s.replicas > 1:
		return ackReplicated
	case s.synced:
		return ackAlways
	}
	return ackDefault
}

func (s *settings) guarantees() driver.Guarantees {
	return driver.Guarantees{
		Version:     driver.WriteVersions,
		Clock:       driver.ProxyClock,
		ScanCost:    driver.ScanKeyspace,
		Idempotency: driver.IdempotencyReserved,
		MaxValue:    s.maxValue,
		TTL:         true,
		Shared:      true,
		Ack:         s.ack(),
	}
}
