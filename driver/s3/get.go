package s3

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

// maxVersion is how long a version may be.
const maxVersion = driver.MaxVersion

// A version is an ETag without its quotes; one that is no version then is
// written in base 64 behind a dot.
func versionOf(tag *string) string {
	if tag == nil {
		return ""
	}
	bare := strings.TrimSuffix(strings.TrimPrefix(*tag, `"`), `"`)
	if isVersion(bare) && bare[0] != '.' && *tag == `"`+bare+`"` {
		return bare
	}
	return "." + base64.RawURLEncoding.EncodeToString([]byte(*tag))
}

// tagOf returns the ETag of a version; ok is false for what is no version.
func tagOf(version string) (tag string, ok bool) {
	if !isVersion(version) {
		return "", false
	}
	coded, found := strings.CutPrefix(version, ".")
	if !found {
		return `"` + version + `"`, true
	}
	raw, err := base64.RawURLEncoding.DecodeString(coded)
	for _, c := range raw {
		if c <= ' ' || c > '~' {
			return "", false
		}
	}
	return string(raw), err == nil && len(raw) > 0
}

func isVersion(s string) bool {
	return s != "" && len(s) <= maxVersion && strings.Trim(s, ordered+".") == ""
}

// Stat asks for the headers of the object.
func (b *blob) Stat(ctx context.Context, key string) (driver.Object, error) {
	call, done, err := b.conn.begin(ctx)
	if err != nil {
		return driver.Object{}, err
	}
	defer done()
	return b.stat(ctx, call, key, "")
}

// stat is Stat of an object that must have an ETag, if that is not "".
func (b *blob) stat(ctx, call context.Context, key, tag string) (driver.Object, error) {
	in := &awss3.HeadObjectInput{Bucket: &b.conn.bucket, Key: b.name(key)}
	if tag != "" {
		in.IfMatch = &tag
	}
	out, err := b.conn.api.HeadObject(call, in)
	if err != nil {
		return driver.Object{}, b.conn.explain(ctx, err, false)
	}
	if out.ContentLength == nil {
		return driver.Object{}, errs.New(errs.BackendUnavailable, "backend %q does not say how large the object is", b.conn.name)
	}
	return object(key, *out.ContentLength, out.ETag, out.LastModified, out.Metadata), nil
}

func object(key string, size int64, tag *string, modified *time.Time, metadata map[string]string) driver.Object {
	o := driver.Object{Key: key, Size: size, Version: versionOf(tag), Metadata: metadataOf(metadata)}
	if modified != nil {
		o.Modified = *modified
	}
	return o
}

// Get asks for the range in one request, whose answer is of one object whatever
// happens to the name.
func (b *blob) Get(ctx context.Context, key string, o driver.GetOptions) (driver.Object, io.ReadCloser, error) {
	call, done, err := b.conn.begin(ctx)
	if err != nil {
		return driver.Object{}, nil, err
	}
	there, body, err := b.get(ctx, call, key, &o)
	if err != nil {
		done()
		return driver.Object{}, nil, err
	}
	body.done = done
	return there, body, nil
}

func (b *blob) get(ctx, call context.Context, key string, o *driver.GetOptions) (driver.Object, *body, error) {
	if _, err := wrap.GetRange(o, math.MaxInt64); err != nil {
		return driver.Object{}, nil, err
	}
	in := &awss3.GetObjectInput{Bucket: &b.conn.bucket, Key: b.name(key), Range: header(o)}
	if o.IfVersion != "" {
		tag, ok := tagOf(o.IfVersion)
		if !ok { // nobody was ever given this version
			return driver.Object{}, nil, b.otherVersion(ctx, call, key)
		}
		in.IfMatch = &tag
	}
	out, err := b.conn.api.GetObject(call, in)
	if err != nil {
		return b.notThere(ctx, call, key, o, err)
	}
	there, read, err := b.opened(ctx, key, o, out)
	if err != nil {
		_ = out.Body.Close()
	}
	return there, read, err
}

// opened checks that the answer is what was asked for.
func (b *blob) opened(ctx context.Context, key string, o *driver.GetOptions, out *awss3.GetObjectOutput) (driver.Object, *body, error) {
	size := int64(-1)
	if out.ContentLength != nil {
		size = *out.ContentLength
	}
	skips := false
	if out.ContentRange != nil {
		_, total, _ := strings.Cut(*out.ContentRange, "/")
		n, err := strconv.ParseInt(total, 10, 64)
		if err != nil {
			n = -1
		}
		size, skips = n, true
	}
	if size < 0 || o.Offset > 0 && !skips {
		return driver.Object{}, nil, errs.New(errs.BackendUnavailable, "backend %q does not answer with the range that was asked for", b.conn.name)
	}
	length, err := wrap.GetRange(o, size)
	if err != nil {
		return driver.Object{}, nil, err
	}
	return object(key, size, out.ETag, out.LastModified, out.Metadata), &body{ctx: ctx, conn: b.conn, from: out.Body, left: length}, nil
}

// header returns the range as HTTP writes it, nil for all.
func header(o *driver.GetOptions) *string {
	var text string
	switch {
	case o.Offset == 0 && o.Length == 0:
		return nil
	case o.Length == 0 || o.Length > math.MaxInt64-o.Offset:
		text = fmt.Sprintf("bytes=%d-", o.Offset)
	default:
		text = fmt.Sprintf("bytes=%d-%d", o.Offset, o.Offset+o.Length-1)
	}
	return &text
}

// notThere returns what became of a Get that was refused.
func (b *blob) notThere(ctx, call context.Context, key string, o *driver.GetOptions, refusal error) (driver.Object, *body, error) {
	if statusOf(refusal) == http.StatusRequestedRangeNotSatisfiable {
		return b.atEnd(ctx, call, key, o)
	}
	err := b.conn.explain(ctx, refusal, false)
	if errors.Is(err, errs.VersionMismatch) {
		err = b.otherVersion(ctx, call, key)
	}
	return driver.Object{}, nil, err
}

// otherVersion returns the error for an object of another version.
func (b *blob) otherVersion(ctx, call context.Context, key string) error {
	there, err := b.stat(ctx, call, key, "")
	if err != nil {
		return err
	}
	return mismatch(there.Version)
}

// atEnd decides about a range that holds nothing: it is empty where the object
// ends, and out of range behind that.
func (b *blob) atEnd(ctx, call context.Context, key string, o *driver.GetOptions) (driver.Object, *body, error) {
	tag, _ := tagOf(o.IfVersion)
	there, err := b.stat(ctx, call, key, tag)
	if errors.Is(err, errs.VersionMismatch) {
		err = b.otherVersion(ctx, call, key)
	}
	if err != nil {
		return driver.Object{}, nil, err
	}
	length, err := wrap.GetRange(o, there.Size)
	switch {
	case err != nil:
		return driver.Object{}, nil, err
	case length > 0:
		return driver.Object{}, nil, errs.New(errs.BackendUnavailable, "backend %q: the object was replaced while it was opened; get it again", b.conn.name)
	}
	return there, &body{ctx: ctx, conn: b.conn, from: http.NoBody}, nil
}

// body is an object, or a part of it, that is being read.
type body struct {
	ctx    context.Context
	conn   *conn
	from   io.ReadCloser
	left   int64
	done   func()
	closed bool
}

// Read reads from the connection. One that is cut does not end as if that were
// all.
func (r *body) Read(p []byte) (int, error) {
	if r.closed {
		return 0, errs.New(errs.Internal, "the body of an object is read after it was closed")
	}
	if err := r.conn.usable(r.ctx); err != nil {
		return 0, err
	}
	if r.left == 0 {
		return 0, io.EOF
	}
	n, err := r.from.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	switch {
	case err == nil || err == io.EOF && r.left == 0:
		return n, nil
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	return n, r.conn.explain(r.ctx, err, false)
}

// Close gives up what was not read.
func (r *body) Close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	r.done()
	_ = r.from.Close() // what it says is of bytes that nobody asked for
	return nil
}
