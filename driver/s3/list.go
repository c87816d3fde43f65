package s3

import (
	"context"
	"errors"
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

// mostNames is how many S3 lists or deletes in one request.
const mostNames = 1000

// List asks for the names behind the last one, in whose order the keys are too.
func (b *blob) List(ctx context.Context, r driver.ListRequest) (driver.ObjectPage, error) {
	call, done, err := b.conn.begin(ctx)
	if err != nil {
		return driver.ObjectPage{}, err
	}
	defer done()
	if r.Limit < 1 {
		return driver.ObjectPage{}, errs.Invalid(errs.Field{Path: "limit", Text: "must be at least 1"})
	}
	in := &awss3.ListObjectsV2Input{
		Bucket: &b.conn.bucket, Prefix: aws.String(b.prefix + namePrefix(r.Prefix)),
		MaxKeys: aws.Int32(int32(min(r.Limit, mostNames))), EncodingType: types.EncodingTypeUrl,
	}
	if r.Cursor != nil {
		last, err := wrap.ParseCursor(r.Prefix, r.Cursor)
		if err != nil {
			return driver.ObjectPage{}, err
		}
		in.StartAfter = b.name(last)
	}
	return b.page(ctx, call, r.Prefix, in)
}

// page asks on while what it gets are names of others alone: a cursor behind one
// of those has no key to tell.
func (b *blob) page(ctx, call context.Context, prefix string, in *awss3.ListObjectsV2Input) (p driver.ObjectPage, err error) {
	for {
		out, err := b.conn.api.ListObjectsV2(call, in)
		if err != nil {
			return driver.ObjectPage{}, b.conn.explain(ctx, err, false)
		}
		for i := range out.Contents {
			one := &out.Contents[i]
			name := plainName(one.Key, out.EncodingType)
			in.StartAfter = &name
			if key, ok := keyOf(strings.TrimPrefix(name, b.prefix)); ok && strings.HasPrefix(key, prefix) && one.Size != nil {
				p.Objects = append(p.Objects, object(key, *one.Size, one.ETag, one.LastModified, nil))
			}
		}
		if out.IsTruncated == nil || !*out.IsTruncated || len(out.Contents) == 0 {
			return p, nil
		}
		if n := len(p.Objects); n > 0 {
			p.Next = wrap.NewCursor(prefix, p.Objects[n-1].Key)
			return p, nil
		}
	}
}

// plainName returns a name as it is. Names of ours hold no spaces, so that a
// plus is one, however the store writes spaces.
func plainName(key *string, encoding types.EncodingType) string {
	name := aws.ToString(key)
	if encoding != types.EncodingTypeUrl {
		return name
	}
	if plain, err := url.PathUnescape(name); err == nil {
		return plain
	}
	return name
}

// Delete sends the keys in as few requests as it takes.
func (b *blob) Delete(ctx context.Context, keys []string, results []error) {
	clear(results)
	call, done, err := b.conn.begin(ctx)
	if err != nil {
		for i := range results {
			results[i] = err
		}
		return
	}
	defer done()
	for len(keys) > 0 {
		n := min(len(keys), mostNames)
		if n == 1 {
			results[0] = b.delete(ctx, call, keys[0])
		} else {
			b.deleteMany(ctx, call, keys[:n], results[:n])
		}
		keys, results = keys[n:], results[n:]
	}
}

func (b *blob) delete(ctx, call context.Context, key string) error {
	_, err := b.conn.api.DeleteObject(call, &awss3.DeleteObjectInput{Bucket: &b.conn.bucket, Key: b.name(key)})
	return b.ofDelete(b.conn.explain(ctx, err, true))
}

// ofDelete takes for done what was not there.
func (b *blob) ofDelete(err error) error {
	if errs.ReasonOf(err) == errs.ObjectNotFound {
		return nil
	}
	return err
}

func (b *blob) deleteMany(ctx, call context.Context, keys []string, results []error) {
	in := &awss3.DeleteObjectsInput{Bucket: &b.conn.bucket, Delete: &types.Delete{Quiet: aws.Bool(true)}}
	index := make(map[string][]int, len(keys)) // of the results of a name
	for i, key := range keys {
		name := b.name(key)
		if index[*name] == nil {
			in.Delete.Objects = append(in.Delete.Objects, types.ObjectIdentifier{Key: name})
		}
		index[*name] = append(index[*name], i)
	}
	out, err := b.conn.api.DeleteObjects(call, in)
	if err != nil {
		err = b.conn.explain(ctx, err, true)
		for i := range results {
			results[i] = err
		}
		return
	}
	for _, failed := range out.Errors {
		for _, i := range index[aws.ToString(failed.Key)] {
			results[i] = b.ofDelete(b.conn.ofPart(aws.ToString(failed.Code)))
		}
	}
}

// ofPart returns the error for one of many keys.
func (c *conn) ofPart(code string) error {
	cause := errors.New(code)
	if known := c.ofCode(cause, code); known != nil {
		return known
	}
	return errs.Wrap(cause, errs.OutcomeUnknown, "backend %q failed at this delete; read before you repeat it", c.name)
}
