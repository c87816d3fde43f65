package kafka

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
	// ClientID is what the brokers call this connection in their logs and
	// quotas; members of groups have names of their own.
	ClientID string `json:"client_id"`
	// Replicas is how many brokers keep each topic: topics are made with so
	// many, and those with fewer are refused. 0: as the brokers do by default.
	Replicas int `json:"replicas"`
	// MinInsyncReplicas is how many of them have a record before it is
	// answered. 0: as the brokers do by default.
	MinInsyncReplicas int `json:"min_insync_replicas"`
	// MaxRecord is the largest record in bytes. A topic's max.message.bytes has
	// to be 1 KiB larger.
	MaxRecord int `json:"max_record"`
	// Session is how long a member of a group may be silent before others have
	// its partitions. Brokers take 6s or more unless their
	// group.min.session.timeout.ms is lower.
	Session driver.Duration `json:"session"`
	// SASL is how credentials are shown: plain, scram-sha-256 or scram-sha-512.
	SASL string `json:"sasl"`
	// SharedWithOthers lets consumers of other programs into groups whatever
	// their assignment strategy is. While one is there that does not know
	// cooperative-sticky, every change of members stops all of them.
	SharedWithOthers bool `json:"shared_with_others"`
	// ConnectTimeout bounds the making of a connection.
	ConnectTimeout driver.Duration `json:"connect_timeout"`
	// AnswerTimeout is how long a broker may stay silent while it is asked
	// before its connection is given up, and how long a record waits for a
	// broker that takes it.
	AnswerTimeout driver.Duration `json:"answer_timeout"`
}

const (
	framing          = 1 << 10 // of a batch with one record, at most
	defaultMaxRecord = 1<<20 - framing
	limitMaxRecord   = 16 << 20
	limitReplicas    = 100
	scram512         = "scram-sha-512"
)

// asserts are what an operator vouches for.
type asserts struct {
	// Flush is "always" where each message is synced before it is answered,
	// which is flush.messages=1 of a topic or log.flush.interval.messages=1 of
	// all brokers.
	Flush string `json:"flush"`
}

// settings are a checked configuration.
type settings struct {
	options
	brokers []string // host:port of each
	tls     *tls.Config
	flushed bool
	session time.Duration
	connect time.Duration
	answer  time.Duration
}

// parse checks the whole configuration and reports every mistake.
func parse(c driver.Config) (settings, error) {
	var s settings
	bad := s.parseURL(c.URL, c.TLS)
	bad = append(bad, s.parseOptions(c.Options, c.Credentials != nil)...)
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
		return urlError("write one such as kafka://localhost:9092")
	case scheme != "kafka" && scheme != "kafkas":
		return urlError("the scheme is none of kafka, kafkas")
	case strings.Contains(hosts, "@"):
		return urlError("holds a user or password; write credentials in the field credentials")
	case strings.ContainsAny(hosts, "/?#"):
		return urlError("has more than hosts; write the rest as options")
	}
	switch {
	case scheme == "kafkas" && c != nil:
		s.tls = c.Clone()
	case scheme == "kafkas":
		s.tls = &tls.Config{MinVersion: tls.VersionTLS12}
	case c != nil:
		return []errs.Field{{Path: "tls", Text: "is set, but the url's scheme means no TLS; write kafkas instead of kafka"}}
	}
	return s.parseHosts(hosts)
}

func (s *settings) parseHosts(hosts string) []errs.Field {
	for one := range strings.SplitSeq(hosts, ",") {
		u, err := url.Parse("kafka://" + one)
		if err != nil || one == "" || u.Hostname() == "" {
			return urlError("has a host that is not host or host:port")
		}
		port := u.Port()
		if port == "" {
			port = "9092"
		}
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return urlError("port %s is none from 1 to 65535", port)
		}
		s.brokers = append(s.brokers, net.JoinHostPort(u.Hostname(), port))
	}
	return nil
}

func (s *settings) parseOptions(raw json.RawMessage, credentials bool) (bad []errs.Field) {
	o := options{
		ClientID: "prism", MaxRecord: defaultMaxRecord, Session: driver.Duration(9 * time.Second),
		ConnectTimeout: driver.Duration(2 * time.Second), AnswerTimeout: driver.Duration(5 * time.Second),
	}
	if err := driver.DecodeStrict(raw, &o); err != nil {
		return []errs.Field{{Path: "options", Text: err.Error()}}
	}
	for _, rule := range []struct {
		bad  bool
		path string
		text string
	}{
		{!validClientID(o.ClientID), "options.client_id", "must be 1 to 200 of A-Z a-z 0-9 . _ -"},
		{o.Replicas < 0 || o.Replicas > limitReplicas, "options.replicas", fmt.Sprintf("must be 1 to %d, or left out", limitReplicas)},
		{o.MinInsyncReplicas < 0 || o.MinInsyncReplicas > max(o.Replicas, 0), "options.min_insync_replicas", "must be 1 to the number of replicas, which has to be set too, or left out"},
		{o.MaxRecord < 1 || o.MaxRecord > limitMaxRecord, "options.max_record", fmt.Sprintf("must be 1 to %d bytes", limitMaxRecord)},
		{time.Duration(o.Session) < time.Second || time.Duration(o.Session) > maxSession, "options.session", "must be 1s to " + maxSession.String()},
		{!slices.Contains([]string{"", "plain", "scram-sha-256", scram512}, o.SASL), "options.sasl", "must be plain, scram-sha-256 or " + scram512},
		{o.SASL != "" && !credentials, "options.sasl", "is set, but there are no credentials; write the field credentials"},
		{time.Duration(o.ConnectTimeout) < 10*time.Millisecond, "options.connect_timeout", "must be 10ms or more"},
		{time.Duration(o.AnswerTimeout) < time.Second, "options.answer_timeout", "must be 1s or more"},
	} {
		if rule.bad {
			bad = append(bad, errs.Field{Path: rule.path, Text: rule.text})
		}
	}
	if o.SASL == "" && credentials {
		o.SASL = scram512
	}
	s.options = o
	s.session, s.connect, s.answer = time.Duration(o.Session), time.Duration(o.ConnectTimeout), time.Duration(o.AnswerTimeout)
	return bad
}

// maxSession leaves the group time to give out the partitions of a member that
// has died, within driver.TakeOver.
const maxSession = driver.TakeOver - 3*time.Second

func validClientID(s string) bool { return len(s) <= 200 && legalTopic(s) }

func (s *settings) parseAsserts(raw json.RawMessage) []errs.Field {
	var a asserts
	if err := driver.DecodeStrict(raw, &a); err != nil {
		return []errs.Field{{Path: "asserts", Text: err.Error()}}
	}
	if a.Flush != "" && a.Flush != "always" {
		return []errs.Field{{Path: "asserts.flush", Text: "must be always; leave it out where messages are synced later"}}
	}
	s.flushed = a.Flush == "always"
	return nil
}

// container names the brokers, so that two documents for one cluster are seen
// to overlap if they name them in the same words.
func (s *settings) container() string {
	return strings.Join(slices.Sorted(slices.Values(s.brokers)), ",")
}

var (
	ackDefault = driver.Ack{
		Settings: "default", Process: true,
		Why: "a broker hands each record to the operating system before it answers, and lets that sync it when it likes",
	}
	ackFlushed = driver.Ack{
		Settings: "asserts: {flush: always}", Process: true, OS: true,
		Why: "the broker syncs each record before it answers",
	}
	ackReplicated = driver.Ack{
		Settings: "options: {replicas: 3, min_insync_replicas: 2}", Process: true, OS: true, Node: true,
		Why: "two brokers have the record before the answer, unsynced: one that is lost is replaced by the other, both at once are not",
	}
	ackReplicatedFlushed = driver.Ack{
		Settings: "options: {replicas: 3, min_insync_replicas: 2}, asserts: {flush: always}", Process: true, OS: true, Node: true,
		Why: "two brokers have synced the record before the answer",
	}
)

// replicated reports whether more than one broker has a record before the answer.
func (s *settings) replicated() bool { return s.MinInsyncReplicas > 1 }

func (s *settings) ack() driver.Ack {
	switch {
	case s.replicated() && s.flushed:
		return ackReplicatedFlushed
	case s.replicated():
		return ackReplicated
	case s.flushed:
		return ackFlushed
	}
	return ackDefault
}
