package s3

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// options are the driver's options in a Backend document.
type options struct {
	// PathStyle puts the bucket into the path of requests and not into the
	// name of the host. Unless it says otherwise: where there is an endpoint.
	PathStyle *bool `json:"path_style"`
	// PartSize is how much of an object a Put holds in memory and sends at
	// once. What is larger is put in parts.
	PartSize int64 `json:"part_size"`
	// MaxObject is the largest object in bytes.
	MaxObject int64 `json:"max_object"`
	// Conditional says that the store keeps the conditions of puts, which is
	// tried out before one is relied on.
	Conditional bool `json:"conditional"`
	// ConnectTimeout bounds dialing and TLS together.
	ConnectTimeout driver.Duration `json:"connect_timeout"`
	// AnswerTimeout is how long nothing may move on a connection while
	// something is asked for, before it is given up.
	AnswerTimeout driver.Duration `json:"answer_timeout"`
	// AbandonAfter is the age at which an upload that was not completed is
	// taken for one whose process has died, and removed.
	AbandonAfter driver.Duration `json:"abandon_after"`
}

// The limits of S3 and of this driver.
const (
	minPart       = 5 << 20
	maxPart       = 64 << 20
	defaultPart   = 8 << 20
	longestPrefix = 64 // of the url
)

// asserts are what an operator vouches for.
type asserts struct {
	Survives string `json:"survives"`
}

var acks = map[string]driver.Ack{
	"": {
		Settings: "default",
		Why:      "a store does not tell what its answer survives, and nothing is asserted",
	},
	"process": {
		Settings: "asserts: {survives: process}", Process: true,
		Why: "so says the operator: the store has handed the object to the operating system when it answers",
	},
	"os": {
		Settings: "asserts: {survives: os}", Process: true, OS: true,
		Why: "so says the operator: the store has written the object to its disk when it answers",
	},
	"node": {
		Settings: "asserts: {survives: node}", Process: true, OS: true, Node: true,
		Why: "so says the operator: the store keeps the object on several machines when it answers, as AWS says of S3",
	},
}

// settings are a checked configuration.
type settings struct {
	name     string
	bucket   string
	prefix   string // "" or with a slash at its end
	endpoint string // "" for that of AWS
	region   string
	tls      *tls.Config
	options
	ack driver.Ack
}

// parse reads the whole configuration and reports every mistake in it.
func parse(c *driver.Config) (*settings, error) {
	s := &settings{name: c.Name, options: options{
		PartSize: defaultPart, MaxObject: driver.MaxBlob, Conditional: true,
		ConnectTimeout: driver.Duration(5 * time.Second), AnswerTimeout: driver.Duration(time.Minute), AbandonAfter: driver.Duration(24 * time.Hour),
	}}
	bad := s.parseURL(c.URL)
	bad = append(bad, s.parseTLS(c.TLS)...)
	bad = append(bad, s.parseOptions(c.Options)...)
	bad = append(bad, s.parseAsserts(c.Asserts)...)
	if len(bad) > 0 {
		return nil, errs.Invalid(bad...)
	}
	return s, nil
}

var (
	bucketForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{1,62}$`)
	prefixForm = regexp.MustCompile(`^([A-Za-z0-9_][A-Za-z0-9._-]*/)*$`)
	regionForm = regexp.MustCompile(`^[A-Za-z0-9-]{1,40}$`)
)

const urlForm = "write one such as s3://bucket?region=eu-central-1 or s3://bucket/folder?endpoint=https://host:9000"

func urlError(format string, args ...any) []errs.Field {
	return []errs.Field{{Path: "url", Text: fmt.Sprintf(format, args...)}}
}

func (s *settings) parseURL(text string) []errs.Field {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "s3" || u.Opaque != "":
		return urlError(urlForm)
	case u.User != nil:
		return urlError("holds a user or password; write credentials in the field credentials")
	case u.Fragment != "" || u.RawFragment != "":
		return urlError("has a fragment; " + urlForm)
	case !bucketForm.MatchString(u.Host):
		return urlError("names no bucket where another url names its host; " + urlForm)
	}
	s.bucket = u.Host
	if s.prefix = strings.TrimPrefix(u.Path, "/"); s.prefix != "" && !strings.HasSuffix(s.prefix, "/") {
		s.prefix += "/"
	}
	if !prefixForm.MatchString(s.prefix) || len(s.prefix) > longestPrefix {
		return urlError("the folder in the bucket is over %d bytes, or holds something else than names of A-Z a-z 0-9 . _ - and slashes between them", longestPrefix-1)
	}
	return s.parseQuery(u)
}

func (s *settings) parseQuery(u *url.URL) (bad []errs.Field) {
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return urlError("has parameters that cannot be read; " + urlForm)
	}
	for name, values := range query {
		switch {
		case name != "endpoint" && name != "region":
			bad = append(bad, urlError("has a parameter that is neither endpoint nor region; write others as options")...)
		case len(values) > 1:
			bad = append(bad, urlError("has its %s twice", name)...)
		}
	}
	s.region = query.Get("region")
	if s.endpoint = query.Get("endpoint"); s.endpoint != "" {
		if s.region == "" {
			s.region = "us-east-1" // what stores that have no regions are told
		}
		bad = append(bad, s.checkEndpoint()...)
	}
	if !regionForm.MatchString(s.region) {
		bad = append(bad, urlError("has neither the region of AWS nor the endpoint of another store; "+urlForm)...)
	}
	return bad
}

func (s *settings) checkEndpoint() []errs.Field {
	u, err := url.Parse(s.endpoint)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return urlError("the endpoint is not http://host:port or https://host:port")
	case u.User != nil:
		return urlError("the endpoint holds a user or password; write credentials in the field credentials")
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return urlError("the endpoint has something behind its host and port; the bucket stands before the question mark")
	}
	s.endpoint = strings.ToLower(u.Scheme + "://" + u.Host)
	return nil
}

func (s *settings) parseTLS(c *tls.Config) []errs.Field {
	if c == nil {
		s.tls = &tls.Config{MinVersion: tls.VersionTLS12}
		return nil
	}
	if strings.HasPrefix(s.endpoint, "http:") {
		return []errs.Field{{Path: "tls", Text: "is set, but the endpoint begins with http; write https"}}
	}
	s.tls = c.Clone()
	return nil
}

func (s *settings) parseOptions(raw json.RawMessage) (bad []errs.Field) {
	o := &s.options
	if err := driver.DecodeStrict(raw, o); err != nil {
		return []errs.Field{{Path: "options", Text: err.Error()}}
	}
	for _, rule := range []struct {
		bad        bool
		path, text string
	}{
		{o.PartSize < minPart || o.PartSize > maxPart, "options.part_size", fmt.Sprintf("must be %d to %d bytes; S3 takes no smaller parts, and each put under way holds one in memory", minPart, maxPart)},
		{o.MaxObject < 1 || o.MaxObject > driver.MaxBlob, "options.max_object", fmt.Sprintf("must be 1 to %d bytes", int64(driver.MaxBlob))},
		{time.Duration(o.ConnectTimeout) < 10*time.Millisecond, "options.connect_timeout", "must be 10ms or more"},
		{time.Duration(o.AnswerTimeout) < 100*time.Millisecond, "options.answer_timeout", "must be 100ms or more"},
		{time.Duration(o.AbandonAfter) < time.Hour, "options.abandon_after", "must be 1h or more: a put of another proxy that takes longer would be taken for an abandoned one"},
	} {
		if rule.bad {
			bad = append(bad, errs.Field{Path: rule.path, Text: rule.text})
		}
	}
	return bad
}

func (s *settings) parseAsserts(raw json.RawMessage) []errs.Field {
	var a asserts
	if err := driver.DecodeStrict(raw, &a); err != nil {
		return []errs.Field{{Path: "asserts", Text: err.Error()}}
	}
	ack, known := acks[a.Survives]
	if !known {
		return []errs.Field{{Path: "asserts.survives", Text: "must be process, os or node: what an object that the store has acknowledged survives"}}
	}
	s.ack = ack
	return nil
}

// pathStyle is PathStyle with its default.
func (s *settings) pathStyle() bool {
	if s.PathStyle != nil {
		return *s.PathStyle
	}
	return s.endpoint != ""
}

// container names the bucket, so that two documents for one bucket are seen to
// overlap if they name it in the same words. Names of AWS' buckets are unique.
func (s *settings) container() string { return s.endpoint + "/" + s.bucket }

func (s *settings) guarantees() driver.BlobGuarantees {
	return driver.BlobGuarantees{
		Version:     driver.ContentVersions,
		Conditional: s.Conditional,
		ListCost:    driver.ScanPrefix,
		MaxObject:   s.MaxObject,
		Shared:      true,
		Ack:         s.ack,
	}
}
