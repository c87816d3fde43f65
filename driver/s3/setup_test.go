package s3_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"go.uber.org/goleak"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/s3"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/kvtest"
	"github.com/prismgw/prism/internal/testutil/servers"
)

var long = flag.Bool("long", os.Getenv("PRISM_TEST_LONG") != "", "put objects of their full sizes, which takes minutes")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The words that the tests of several drivers share.
var (
	wants = kvtest.Wants
	must  = kvtest.Must
)

// open returns a connection and the objects of a space of it.
func open(t *testing.T, c driver.Config) (driver.Conn, driver.Blob) {
	t.Helper()
	conn := kvtest.Open(t, s3.Driver(), c)
	b, err := conn.Space(kvtest.Orders)
	must(t, err)
	return conn, b.Blob
}

func put(ctx context.Context, b driver.Blob, key, text string, o driver.PutOptions) (driver.Object, error) {
	return b.Put(ctx, key, strings.NewReader(text), o)
}

func read(ctx context.Context, b driver.Blob, key string, o driver.GetOptions) (driver.Object, string, error) {
	there, body, err := b.Get(ctx, key, o)
	if err != nil {
		return there, "", err
	}
	text, err := io.ReadAll(body)
	return there, string(text), errors.Join(err, body.Close())
}

// plain returns another program's client.
func plain(s *servers.S3Server) *awss3.Client {
	return awss3.New(awss3.Options{
		Region: "us-east-1", BaseEndpoint: aws.String("http://" + s.Addr), UsePathStyle: true,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: s.User, SecretAccessKey: s.Password}, nil
		}),
		HTTPClient: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
	})
}

// between stands before a server: answer may answer a request itself. It
// returns the address.
func between(t *testing.T, s *servers.S3Server, answer func(http.ResponseWriter, *http.Request) bool) string {
	t.Helper()
	target, err := url.Parse("http://" + s.Addr)
	must(t, err)
	transport := &http.Transport{}
	on := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // which is signed
		},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !answer(w, r) {
			on.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(func() {
		server.Close()
		transport.CloseIdleConnections()
	})
	return server.Listener.Addr().String()
}

// refuse answers as S3 does.
func refuse(w http.ResponseWriter, status int, code string) bool {
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `<?xml version="1.0"?><Error><Code>%s</Code><Message>made up</Message></Error>`, code)
	return true
}

// fields returns the paths of a configuration's mistakes.
func fields(err error) (paths []string) {
	for _, f := range errs.From(err).Fields {
		paths = append(paths, f.Path)
	}
	return paths
}
