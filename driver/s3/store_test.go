package s3_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/kvtest"
	"github.com/prismgw/prism/internal/testutil/servers"
	"github.com/prismgw/prism/internal/testutil/testca"
)

// TestOthersReadWhatLiesThere looks at the bucket with another program's client.
func TestOthersReadWhatLiesThere(t *testing.T) {
	t.Parallel()
	s, ctx := servers.S3With(t), t.Context()
	other := plain(s)
	c := config(s, strings.Replace(s.URL, "?", "/team/a?", 1))
	_, b := open(t, c)
	made, err := put(ctx, b, "2024/my order.pdf", "text", driver.PutOptions{Metadata: map[string]string{"colour": "red"}})
	must(t, err)
	const name = "team/a/orders/carts/2024/my!20order.pdf!"
	out, err := other.GetObject(ctx, &awss3.GetObjectInput{Bucket: &s.Bucket, Key: aws.String(name)})
	must(t, err)
	text, err := io.ReadAll(out.Body)
	must(t, errors.Join(err, out.Body.Close()))
	if string(text) != "text" || *out.ETag != `"`+made.Version+`"` || !maps.Equal(out.Metadata, map[string]string{"colour": "red"}) {
		t.Errorf("%q, %s, %v", text, *out.ETag, out.Metadata)
	}
	for _, foreign := range []string{"orders/carts/x!", "team/a/orders/carts/x", "team/a/orders/carts/!41!", "team/a/orders/cartsx/x!", "team/a/orders/carts/2024/.x!"} {
		_, err := other.PutObject(ctx, &awss3.PutObjectInput{Bucket: &s.Bucket, Key: aws.String(foreign), Body: strings.NewReader("")})
		must(t, err)
	}
	for _, limit := range []int{1, 2, 1000} {
		found, err := listAll(ctx, b, limit)
		if must(t, err); fmt.Sprint(found) != "[2024/my order.pdf]" {
			t.Errorf("list in pages of %d: %q", limit, found)
		}
	}
}

func listAll(ctx context.Context, b driver.Blob, limit int) (keys []string, err error) {
	for r := (driver.ListRequest{Limit: limit}); ; {
		p, err := b.List(ctx, r)
		for _, o := range p.Objects {
			keys = append(keys, o.Key)
		}
		if err != nil || p.Next == nil {
			return keys, err
		}
		r.Cursor = p.Next
	}
}

func TestBucketIsNotThere(t *testing.T) {
	t.Parallel()
	s, ctx := servers.S3With(t), t.Context()
	conn, b := open(t, config(s, strings.Replace(s.URL, "prism", "elsewhere", 1)))
	err := wants(t, "ping", conn.Ping(ctx), errs.InvalidConfiguration)
	if !strings.Contains(err.Error(), "the bucket is not there") {
		t.Error(err)
	}
	_, put := put(ctx, b, "a", "", driver.PutOptions{})
	wants(t, "put", put, errs.BackendUnavailable)
	_, err2 := b.List(ctx, driver.ListRequest{Limit: 1})
	wants(t, "list", err2, errs.BackendUnavailable)
	_, err2 = plain(s).CreateBucket(ctx, &awss3.CreateBucketInput{Bucket: aws.String("elsewhere")})
	must(t, err2)
	must(t, conn.Ping(ctx))
}

// TestCredentialsChange rotates credentials below an open connection.
func TestCredentialsChange(t *testing.T) {
	t.Parallel()
	s, ctx := servers.S3With(t), t.Context()
	c := config(s, s.URL)
	var user, password atomic.Value
	var fails atomic.Bool
	user.Store(s.User)
	password.Store(s.Password)
	c.Credentials = func(context.Context) (string, driver.Secret, error) {
		if fails.Load() {
			return "", "", os.ErrPermission
		}
		return user.Load().(string), driver.Secret(password.Load().(string)), nil //nolint:forcetypeassert // a test
	}
	conn, b := open(t, c)
	works := func(what string) {
		t.Helper()
		_, err := put(ctx, b, "a", "text", driver.PutOptions{})
		if err = errors.Join(err, conn.Ping(ctx)); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused := func(what string, say string) {
		t.Helper()
		_, err := put(ctx, b, "a", "text", driver.PutOptions{})
		for _, err := range []error{err, conn.Ping(ctx)} {
			wants(t, what, err, errs.CredentialsUnavailable)
			if !strings.Contains(err.Error(), say) || strings.Contains(err.Error(), s.Password) || strings.Contains(err.Error(), "not-the-secret") {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	works("what is right")
	password.Store("not-the-secret")
	refused("another secret", "change the credentials")
	password.Store(s.Password)
	works("what is right again")
	user.Store("nobody")
	refused("an unknown key", "does not know the access key")
	user.Store(s.User)
	fails.Store(true)
	refused("credentials that cannot be read", "cannot be read")
	fails.Store(false)
	works("what is right at last")
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ca := testca.New(t)
	dir := ca.Issue(t)
	s, ctx := servers.S3With(t, "--cert", dir+"/cert.pem", "--key", dir+"/key.pem"), t.Context()
	trip := func(c driver.Config) error {
		_, b := open(t, c)
		if _, err := put(ctx, b, "a", "text", driver.PutOptions{}); err != nil {
			return err
		}
		_, _, err := read(ctx, b, "a", driver.GetOptions{})
		return err
	}
	good := config(s, s.URL)
	good.TLS = ca.Trust()
	must(t, trip(good))
	elsewhere := good
	elsewhere.TLS = ca.Trust()
	elsewhere.TLS.ServerName = "elsewhere"
	stranger := good
	stranger.TLS = testca.New(t).Trust()
	for what, c := range map[string]driver.Config{
		"another name": elsewhere, "another authority": stranger, "the system's authorities": config(s, s.URL), "plain": config(s, s.Through(s.Addr)),
	} {
		if err := trip(c); errs.ReasonOf(err) != errs.BackendUnavailable && (what != "plain" || errs.ReasonOf(err) != errs.OutcomeUnknown) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestStoreThatIgnoresConditions takes the headers of conditions away, as stores
// do that do not know them.
func TestStoreThatIgnoresConditions(t *testing.T) {
	t.Parallel()
	s, ctx := servers.S3With(t), t.Context()
	var only atomic.Value
	only.Store("")
	addr := between(t, s, func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == only.Load() {
			r.Header.Del("If-Match")
			r.Header.Del("If-None-Match")
			signAgain(t, s, r)
		}
		return false
	})
	c := config(s, s.Through(addr))
	conn, b := open(t, c)
	must(t, conn.Ping(ctx))
	_, err := put(ctx, b, "a", "first", driver.PutOptions{IfAbsent: true})
	must(t, err)
	for _, method := range []string{http.MethodPut, http.MethodPost} { // of objects, and of uploads
		only.Store(method)
		conn, b := open(t, c)
		_, err = put(ctx, b, "a", "second", driver.PutOptions{IfAbsent: true})
		wants(t, "put if absent", err, errs.Unsupported)
		if err := wants(t, "ping", conn.Ping(ctx), errs.InvalidConfiguration); !strings.Contains(err.Error(), "conditional: false") {
			t.Error(err)
		}
		if _, text, err := read(ctx, b, "a", driver.GetOptions{}); text != "first" {
			t.Errorf("%q, %v", text, err)
		}
	}
	c.Options = []byte(`{"conditional": false}`)
	conn, b = open(t, c)
	must(t, conn.Ping(ctx))
	if b.Guarantees().Conditional {
		t.Error("it is promised what the document says is not so")
	}
	_, err = put(ctx, b, "a", "second", driver.PutOptions{IfVersion: "x"})
	wants(t, "put if version", err, errs.Unsupported)
	out, err := plain(s).ListObjectsV2(ctx, &awss3.ListObjectsV2Input{Bucket: &s.Bucket, Prefix: aws.String("!probe/")})
	if must(t, err); len(out.Contents) != 0 {
		t.Errorf("what was tried out is left: %v", *out.Contents[0].Key)
	}
}

// signAgain signs a request that was changed on its way.
func signAgain(t *testing.T, s *servers.S3Server, r *http.Request) {
	t.Helper()
	r.Header.Del("Authorization")
	signed := r.Clone(t.Context())
	for name := range signed.Header { // proxies add some later
		if name != "Content-Type" && !strings.HasPrefix(name, "X-Amz-") {
			signed.Header.Del(name)
		}
	}
	err := v4.NewSigner().SignHTTP(t.Context(), aws.Credentials{AccessKeyID: s.User, SecretAccessKey: s.Password}, signed, r.Header.Get("X-Amz-Content-Sha256"), "s3", "us-east-1", time.Now(),
		func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	if err != nil {
		t.Errorf("signing again: %v", err)
	}
	for _, name := range []string{"Authorization", "X-Amz-Date"} {
		r.Header.Set(name, signed.Header.Get(name))
	}
}

// TestNobodySigns reads a public bucket without credentials, and may not write.
func TestNobodySigns(t *testing.T) {
	t.Parallel()
	s, ctx := servers.S3With(t), t.Context()
	policy := `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": ["arn:aws:s3:::prism", "arn:aws:s3:::prism/*"]}]}`
	_, err := plain(s).PutBucketPolicy(ctx, &awss3.PutBucketPolicyInput{Bucket: &s.Bucket, Policy: &policy})
	must(t, err)
	_, owner := open(t, config(s, s.URL))
	_, err = put(ctx, owner, "a", "text", driver.PutOptions{})
	must(t, err)
	c := config(s, s.URL)
	c.Credentials = nil
	conn, b := open(t, c)
	must(t, conn.Ping(ctx)) // who may only read is told when he writes
	if _, text, err := read(ctx, b, "a", driver.GetOptions{}); text != "text" {
		t.Errorf("%q, %v", text, err)
	}
	for _, o := range []driver.PutOptions{{}, {IfAbsent: true}} {
		_, err = put(ctx, b, "b", "text", o)
		if err := wants(t, "put", err, errs.BackendUnavailable); !strings.Contains(err.Error(), "right") {
			t.Error(err)
		}
	}
}

// TestETagsOfAllKinds uses a store whose ETags are no versions as they are.
func TestETagsOfAllKinds(t *testing.T) {
	t.Parallel()
	s, ctx := servers.S3With(t, "--", "--data-integrity-etag"), t.Context()
	_, b := open(t, config(s, s.URL))
	for _, content := range []string{"text", strings.Repeat("x", 9<<20)} {
		made, err := put(ctx, b, "a", content, driver.PutOptions{})
		must(t, err)
		if strings.Trim(made.Version, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.") != "" || !strings.HasPrefix(made.Version, ".") {
			t.Errorf("version %q", made.Version)
		}
		_, err = put(ctx, b, "a", "other", driver.PutOptions{IfVersion: made.Version + "0"})
		wants(t, "put with another version", err, errs.VersionMismatch)
		_, err = put(ctx, b, "a", content+"!", driver.PutOptions{IfVersion: made.Version})
		must(t, err)
	}
}

func TestMetadataOfAllSizes(t *testing.T) {
	t.Parallel()
	s, ctx := servers.S3With(t), t.Context()
	_, b := open(t, config(s, s.URL))
	many := map[string]string{"empty": ""}
	for i := range 180 {
		many[fmt.Sprint("name-", i)] = "v"
	}
	for what, want := range map[string]map[string]string{"an empty value": {"a": "", "b": "c"}, "many names": many, "one": {"a": "b"}} {
		for _, size := range []int{10, 9 << 20} {
			_, err := put(ctx, b, "a", strings.Repeat("x", size), driver.PutOptions{Metadata: want})
			must(t, err)
			there, err := b.Stat(ctx, "a")
			if must(t, err); !maps.Equal(there.Metadata, want) {
				t.Errorf("%s of an object of %d bytes: %q", what, size, there.Metadata)
			}
		}
	}
}

// TestLargest puts objects of the largest size and one byte more, in one request
// and in parts.
func TestLargest(t *testing.T) {
	t.Parallel()
	s, ctx := servers.S3With(t), t.Context()
	for _, largest := range []int{1000, 9 << 20} {
		c := config(s, s.URL)
		c.Options = fmt.Appendf(nil, `{"max_object": %d}`, largest)
		_, b := open(t, c)
		for _, stated := range []int64{0, int64(largest)} {
			_, err := put(ctx, b, "a", strings.Repeat("x", largest), driver.PutOptions{Size: stated})
			must(t, err)
		}
		_, err := put(ctx, b, "b", strings.Repeat("x", largest+1), driver.PutOptions{})
		if wants(t, "put of a byte more", err, errs.PayloadTooLarge).Meta["limit"] != fmt.Sprint(largest) {
			t.Error(err)
		}
		_, err = b.Stat(ctx, "b")
		wants(t, "stat", err, errs.ObjectNotFound)
	}
	kvtest.Await(t, "no uploads", func() bool { return len(uploads(t, s)) == 0 })
}

// uploads returns the names of the uploads that were not completed.
func uploads(t *testing.T, s *servers.S3Server) (names []string) {
	t.Helper()
	out, err := plain(s).ListMultipartUploads(t.Context(), &awss3.ListMultipartUploadsInput{Bucket: &s.Bucket})
	must(t, err)
	for _, u := range out.Uploads {
		names = append(names, *u.Key)
	}
	return names
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestUploadsThatFailAreAborted(t *testing.T) {
	t.Parallel()
	s, ctx := servers.S3With(t), t.Context()
	_, b := open(t, config(s, s.URL))
	own := errors.New("of the caller")
	var seen int
	_, err := b.Put(ctx, "a", io.MultiReader(strings.NewReader(strings.Repeat("x", 9<<20)), readerOf(func() { seen = len(uploads(t, s)) }), failing{own}), driver.PutOptions{})
	if !errors.Is(err, own) || seen != 1 {
		t.Fatalf("%v with %d uploads", err, seen)
	}
	kvtest.Await(t, "no uploads", func() bool { return len(uploads(t, s)) == 0 })
	if found, err := listAll(ctx, b, 10); len(found) > 0 || err != nil {
		t.Errorf("%q, %v", found, err)
	}
}

// readerOf is an empty reader that calls f when it is reached.
type readerOf func()

func (f readerOf) Read([]byte) (int, error) { f(); return 0, io.EOF }

// TestAbandonedUploadsAreRemoved leaves uploads as processes do that die.
func TestAbandonedUploadsAreRemoved(t *testing.T) {
	t.Parallel()
	s, ctx := servers.S3With(t), t.Context()
	for _, name := range []string{"orders/carts/left!", "orders/cartsx/left!", "left"} {
		_, err := plain(s).CreateMultipartUpload(ctx, &awss3.CreateMultipartUploadInput{Bucket: &s.Bucket, Key: &name})
		must(t, err)
	}
	c := config(s, s.URL)
	conn, _ := open(t, c)
	must(t, conn.Ping(ctx))
	must(t, conn.Close()) // which waits for what was begun
	if left := uploads(t, s); len(left) != 3 {
		t.Errorf("young uploads: %q are left", left)
	}
	c.Now = func() time.Time { return time.Now().Add(25 * time.Hour) }
	conn, _ = open(t, c)
	must(t, conn.Ping(ctx))
	kvtest.Await(t, "the upload of the space is gone", func() bool { return len(uploads(t, s)) == 2 })
	must(t, conn.Close())
	if left := fmt.Sprint(uploads(t, s)); left != "[left orders/cartsx/left!]" {
		t.Errorf("%s are left", left)
	}
}

// TestLargeObject counts what a put and a get need of memory; with -long it
// takes an object of 2 GiB.
func TestLargeObject(t *testing.T) {
	if !*long {
		return // the suite does it with 256 MiB
	}
	s, ctx := servers.S3With(t), t.Context()
	_, b := open(t, config(s, s.URL))
	const size = 2 << 30
	before := resident(t)
	most := before
	watch := func(n int64) { most = max(most, resident(t)) }
	made, err := b.Put(ctx, "a", io.LimitReader(&counter{tick: watch}, size), driver.PutOptions{})
	must(t, err)
	there, body, err := b.Get(ctx, "a", driver.GetOptions{})
	must(t, err)
	n, err := io.Copy(&counter{tick: watch}, body)
	must(t, errors.Join(err, body.Close()))
	if made.Size != size || n != size || there.Size != size {
		t.Errorf("put %d, get %d of %d", made.Size, n, there.Size)
	}
	t.Logf("%d MiB more than before", (most-before)>>20)
	if most-before > 64<<20 {
		t.Errorf("the process has grown by %d MiB", (most-before)>>20)
	}
}

// counter yields or swallows bytes and calls tick for each 32 MiB.
type counter struct {
	tick func(int64)
	n    int64
}

func (c *counter) add(n int) (int, error) {
	if c.n>>25 != (c.n+int64(n))>>25 {
		c.tick(c.n)
	}
	c.n += int64(n)
	return n, nil
}

func (c *counter) Read(p []byte) (int, error)  { return c.add(len(p)) }
func (c *counter) Write(p []byte) (int, error) { return c.add(len(p)) }

// resident returns how much memory the process has.
func resident(t *testing.T) (bytes int64) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	must(t, err)
	var all, pages int64
	_, err = fmt.Sscan(string(text), &all, &pages)
	must(t, err)
	return pages * int64(os.Getpagesize())
}
