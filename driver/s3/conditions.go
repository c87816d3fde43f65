package s3

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/prismgw/prism/errs"
)

// mayAsk returns nil if a put may have conditions.
func (c *conn) mayAsk(ctx, call context.Context) error {
	if !c.Conditional {
		return errs.New(errs.Unsupported, "backend %q takes no conditions, as its option conditional says", c.name)
	}
	err := c.tryConditions(ctx, call)
	if errors.Is(err, errs.InvalidConfiguration) {
		return errs.Wrap(err, errs.Unsupported, "backend %q ignores conditions", c.name)
	}
	return err
}

// tryConditions finds out, once, whether the store keeps the conditions that it
// is given: one that does not know them overwrites without a word.
func (c *conn) tryConditions(ctx, call context.Context) error {
	if c.conditions.Load() {
		return nil
	}
	select {
	case c.probing <- struct{}{}:
	case <-call.Done():
		return c.explain(ctx, call.Err(), false)
	}
	defer func() { <-c.probing }()
	if c.conditions.Load() {
		return nil
	}
	p := &probe{conn: c, ctx: ctx, call: call, name: c.prefix + "!probe/" + strings.ToLower(rand.Text()) + string(mark)}
	if err := p.run(); err != nil {
		return err
	}
	c.conditions.Store(true)
	return nil
}

// probe is an object on which conditions are tried out.
type probe struct {
	*conn
	ctx, call context.Context
	name      string
	tag       *string
}

const otherTag = `"00000000000000000000000000000000"`

func (p *probe) run() error {
	defer func() { // a context that has ended leaves an object that nobody sees
		_, _ = p.api.DeleteObject(p.call, &awss3.DeleteObjectInput{Bucket: &p.bucket, Key: &p.name})
	}()
	if err := p.diagnose(p.ctx, p.put(nil, nil), true); err != nil {
		return err
	}
	if len(versionOf(p.tag)) > maxVersion {
		return errs.New(errs.InvalidConfiguration, "backend %q has ETags that are too long for versions of objects", p.name)
	}
	if err := p.diagnose(p.ctx, p.put(p.tag, nil), true); err != nil {
		return p.ignored(err)
	}
	for _, put := range []func(match, absent *string) error{p.put, p.upload} {
		for _, condition := range [][2]*string{{nil, aws.String("*")}, {aws.String(otherTag), nil}} {
			if err := p.keeps(put(condition[0], condition[1])); err != nil {
				return err
			}
		}
	}
	return nil
}

// put puts the object.
func (p *probe) put(match, absent *string) error {
	out, err := p.api.PutObject(p.call, &awss3.PutObjectInput{
		Bucket: &p.bucket, Key: &p.name, Body: strings.NewReader("conditions"), ContentLength: aws.Int64(int64(len("conditions"))), IfMatch: match, IfNoneMatch: absent,
	})
	if err == nil {
		p.tag = out.ETag
	}
	return err
}

// upload puts it as an upload of one part.
func (p *probe) upload(match, absent *string) error {
	made, err := p.api.CreateMultipartUpload(p.call, &awss3.CreateMultipartUploadInput{Bucket: &p.bucket, Key: &p.name})
	if err != nil {
		return err
	}
	defer p.abort(&p.name, made.UploadId)
	part, err := p.api.UploadPart(p.call, &awss3.UploadPartInput{
		Bucket: &p.bucket, Key: &p.name, UploadId: made.UploadId, PartNumber: aws.Int32(1), Body: strings.NewReader("conditions"), ContentLength: aws.Int64(int64(len("conditions"))),
	})
	if err != nil {
		return err
	}
	_, err = p.api.CompleteMultipartUpload(p.call, &awss3.CompleteMultipartUploadInput{
		Bucket: &p.bucket, Key: &p.name, UploadId: made.UploadId, IfMatch: match, IfNoneMatch: absent,
		MultipartUpload: &types.CompletedMultipartUpload{Parts: []types.CompletedPart{{ETag: part.ETag, PartNumber: aws.Int32(1)}}},
	})
	return err
}

// keeps returns nil if a put failed because its condition did not hold.
func (p *probe) keeps(err error) error {
	if err == nil {
		return p.ignored(nil)
	}
	err = p.diagnose(p.ctx, err, true)
	if errors.Is(err, errs.VersionMismatch) {
		return nil
	}
	return p.ignored(err)
}

// ignored returns what it means that a put did not end as its condition says:
// nothing, if it failed for other reasons.
func (p *probe) ignored(err error) error {
	if err != nil && statusOf(err) != http.StatusNotImplemented && statusOf(err) != http.StatusBadRequest && !errors.Is(err, errs.VersionMismatch) {
		return err
	}
	return errs.New(errs.InvalidConfiguration, "backend %q does not keep If-Match and If-None-Match of puts; set the option conditional: false, or use a store that does", p.conn.name)
}
