package s3

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/logging"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// newClient returns a client that repeats nothing and asks nobody but the
// document for settings.
func newClient(s *settings, l *link, credentials driver.Credentials) *awss3.Client {
	o := awss3.Options{
		Region: s.region, UsePathStyle: s.pathStyle(), HTTPClient: l,
		Credentials: aws.AnonymousCredentials{}, Retryer: aws.NopRetryer{}, Logger: logging.Nop{},
		// Checksums beside the signature's are of later than many stores.
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired,
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenRequired,
		// Waiting for a 100 costs a round trip, and a second where it never comes.
		ContinueHeaderThresholdBytes: -1,
	}
	if s.endpoint != "" {
		o.BaseEndpoint = &s.endpoint
	}
	if credentials != nil {
		o.Credentials, o.HTTPSignerV4 = login(credentials), &signer{}
	}
	return awss3.New(o)
}

// login asks for the credentials anew for each request: reading them costs less
// than any request, and what was rotated counts at once.
func login(credentials driver.Credentials) aws.CredentialsProviderFunc {
	return func(ctx context.Context) (aws.Credentials, error) {
		user, password, err := credentials(ctx)
		if err != nil {
			return aws.Credentials{}, errs.Wrap(err, errs.CredentialsUnavailable, "the credentials for the backend cannot be read")
		}
		return aws.Credentials{AccessKeyID: user, SecretAccessKey: string(password)}, nil
	}
}

// signer is that of the client library, which keeps what it derives from a
// secret under the name of the access key: another secret needs another one.
type signer struct {
	mu     sync.Mutex // guards what follows
	signer *v4.Signer
	secret string
}

// SignHTTP signs with the credentials it is given.
func (s *signer) SignHTTP(ctx context.Context, c aws.Credentials, r *http.Request, payload, service, region string, at time.Time, options ...func(*v4.SignerOptions)) error {
	return s.of(c.SecretAccessKey).SignHTTP(ctx, c, r, payload, service, region, at, options...)
}

func (s *signer) of(secret string) *v4.Signer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.signer == nil || s.secret != secret {
		s.signer, s.secret = v4.NewSigner(), secret
	}
	return s.signer
}

// link is the HTTP client below that of S3.
type link struct {
	client    http.Client
	transport *http.Transport

	mu     sync.Mutex // guards what follows
	open   map[*silent]struct{}
	closed bool
}

const idleConnections = 64 // that are kept for later calls

func newLink(s *settings) *link {
	l := &link{open: map[*silent]struct{}{}}
	dialer := net.Dialer{Timeout: time.Duration(s.ConnectTimeout)}
	l.transport = &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return l.add(c, time.Duration(s.AnswerTimeout))
		},
		TLSClientConfig: s.tls, TLSHandshakeTimeout: time.Duration(s.ConnectTimeout),
		DisableCompression:  true, // bytes are to come as they lie there
		MaxIdleConnsPerHost: idleConnections, IdleConnTimeout: 90 * time.Second,
		TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}, // HTTP/1.1 alone
	}
	l.client = http.Client{
		Transport:     l.transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return l
}

// A lost request got no answer.
type lost struct {
	error
	sent bool // at least a connection was there to send it on
}

func (e *lost) Unwrap() error { return e.error }

// Do sends a request, and tells of one without an answer how far it got.
func (l *link) Do(r *http.Request) (*http.Response, error) {
	var sent atomic.Bool
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent.Store(true) }}
	answer, err := l.client.Do(r.WithContext(httptrace.WithClientTrace(r.Context(), trace))) //nolint:gosec // the operator says where to
	if err != nil {
		return nil, &lost{err, sent.Load()}
	}
	return answer, nil
}

func (l *link) add(c net.Conn, limit time.Duration) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		_ = c.Close()
		return nil, errClosed
	}
	s := &silent{Conn: c, link: l, limit: limit}
	l.open[s] = struct{}{}
	return s, nil
}

func (l *link) close() {
	l.mu.Lock()
	l.closed = true
	all := l.open
	l.open = nil
	l.mu.Unlock()
	for s := range all {
		_ = s.Conn.Close()
	}
	l.transport.CloseIdleConnections()
}

// silent is a connection that breaks when nothing has moved on it for a time
// while somebody waits for it.
type silent struct {
	net.Conn
	link  *link
	limit time.Duration
}

func (s *silent) Read(b []byte) (int, error) {
	if err := s.SetReadDeadline(time.Now().Add(s.limit)); err != nil {
		return 0, err
	}
	return s.Conn.Read(b)
}

// Write also gives the answer its time anew, which somebody waits for all the
// while.
func (s *silent) Write(b []byte) (int, error) {
	if err := s.SetDeadline(time.Now().Add(s.limit)); err != nil {
		return 0, err
	}
	return s.Conn.Write(b)
}

func (s *silent) Close() error {
	s.link.mu.Lock()
	delete(s.link.open, s)
	s.link.mu.Unlock()
	return s.Conn.Close()
}
