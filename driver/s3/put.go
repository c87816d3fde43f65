package s3

import (
	"bytes"
	"context"
	"errors"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

// blob is one space seen through one connection.
type blob struct {
	conn   *conn
	prefix string // of the names of its objects
}

func (b *blob) name(key string) *string { return aws.String(b.prefix + objectName(key)) }

// Guarantees returns what the store promises, as far as the document says.
func (b *blob) Guarantees() driver.BlobGuarantees { return b.conn.guarantees() }

// Put sends an object of up to a part in one request, when it is there as a
// whole, and a larger one in parts.
func (b *blob) Put(ctx context.Context, key string, r io.Reader, o driver.PutOptions) (driver.Object, error) {
	call, done, err := b.conn.begin(ctx)
	if err != nil {
		return driver.Object{}, err
	}
	defer done()
	if err := wrap.CheckPut(&o, b.conn.MaxObject); err != nil {
		return driver.Object{}, err
	}
	p := &put{
		blob: b, ctx: ctx, call: call, key: key, name: b.name(key), options: &o,
		from: wrap.PutReader(ctx, r, o.Size, b.conn.MaxObject),
	}
	if err := p.prepare(); err != nil {
		return driver.Object{}, err
	}
	version, err := p.run()
	if err != nil {
		return driver.Object{}, err
	}
	return driver.Object{Key: key, Size: p.size, Version: version}, nil
}

// put is one Put under way.
type put struct {
	*blob
	ctx, call context.Context // the caller's, and that of requests
	key       string
	name      *string
	options   *driver.PutOptions
	match     *string // the ETag the object must have
	absent    *string // "*" if there may be none
	from      io.Reader
	size      int64
}

// prepare makes headers of the conditions.
func (p *put) prepare() error {
	o := p.options
	if !o.IfAbsent && o.IfVersion == "" {
		return nil
	}
	if err := p.conn.mayAsk(p.ctx, p.call); err != nil {
		return err
	}
	if o.IfAbsent {
		p.absent = aws.String("*")
		return nil
	}
	tag, ok := tagOf(o.IfVersion)
	if !ok { // nobody was ever given this version
		return p.refused()
	}
	p.match = &tag
	return nil
}

func (p *put) run() (version string, err error) {
	first, end, err := readPart(p.from, p.room(), int(p.conn.PartSize))
	if err != nil {
		return "", err
	}
	p.size = int64(len(first))
	if end {
		return p.single(first)
	}
	return p.parts(first)
}

// room returns a buffer for the first part, as large as is known to be needed.
func (p *put) room() []byte {
	if p.options.Size == 0 {
		return nil
	}
	return make([]byte, 0, min(p.options.Size+1, p.conn.PartSize)) // one more shows the end
}

const firstRoom = 64 << 10

// readPart reads up to limit bytes into buf, which grows as it is filled; end
// says that there are no more.
func readPart(r io.Reader, buf []byte, limit int) (part []byte, end bool, err error) {
	buf = buf[:0]
	for len(buf) < limit {
		if len(buf) == cap(buf) {
			larger := make([]byte, len(buf), min(max(8*cap(buf), firstRoom), limit))
			copy(larger, buf)
			buf = larger
		}
		n, err := r.Read(buf[len(buf):min(cap(buf), limit)])
		buf = buf[:len(buf)+n]
		if err == io.EOF {
			return buf, true, nil
		}
		if err != nil {
			return nil, false, err
		}
	}
	return buf, false, nil
}

// single puts an object that is in memory.
func (p *put) single(content []byte) (version string, err error) {
	if err := p.conn.usable(p.ctx); err != nil {
		return "", err
	}
	var out *awss3.PutObjectOutput
	err = p.settle(func() (err error) {
		out, err = p.conn.api.PutObject(p.call, &awss3.PutObjectInput{
			Bucket: &p.conn.bucket, Key: p.name, Body: bytes.NewReader(content), ContentLength: aws.Int64(int64(len(content))),
			Metadata: headersOf(p.options.Metadata), IfMatch: p.match, IfNoneMatch: p.absent,
		})
		return err
	})
	if err != nil {
		return "", p.failed(err)
	}
	return versionOf(out.ETag), nil
}

const (
	settleTries = 6
	settlePause = 5 * time.Millisecond // before the second try, then twice as long each time
)

// settle repeats what the store refused because something else was happening to
// the object. For stores on files that includes a folder that is being removed
// while the object is to come into it.
func (p *put) settle(request func() error) (err error) {
	for try := range settleTries {
		err = request()
		if code := codeOf(err); code != "OperationAborted" && code != "ExistingObjectIsDirectory" {
			return err
		}
		select {
		case <-time.After(settlePause << try):
		case <-p.call.Done():
			return err
		}
	}
	return err
}

// failed explains why the request did not succeed that would have made the
// object visible.
func (p *put) failed(err error) error {
	known := p.conn.explain(p.ctx, err, true)
	conditional := p.match != nil || p.absent != nil
	switch {
	case conditional && (errors.Is(known, errs.VersionMismatch) || errors.Is(known, errs.ObjectNotFound)):
		return p.refused()
	case conditional && codeOf(err) == "ConditionalRequestConflict":
		if refusal := p.refused(); errs.From(refusal).Meta != nil {
			return refusal
		}
	}
	return known
}

// refused returns the error of a condition that does not hold.
func (p *put) refused() error {
	there, err := p.stat(p.ctx, p.call, p.key, "")
	switch {
	case p.options.IfAbsent && err != nil: // it was there a moment ago, and was deleted or cannot be asked for
		return errs.New(errs.AlreadyExists, "the object exists already")
	case p.options.IfAbsent:
		return errs.New(errs.AlreadyExists, "the object exists already").With("version", there.Version)
	case err != nil || there.Version == p.options.IfVersion:
		return errs.VersionMismatch
	}
	return mismatch(there.Version)
}

func mismatch(current string) error {
	return errs.New(errs.VersionMismatch, "the object does not have this version; read it again and decide anew").With("current", current)
}

// parts puts an object in an upload of parts, one after the other.
func (p *put) parts(part []byte) (version string, err error) {
	c := p.conn
	upload, err := c.api.CreateMultipartUpload(p.call, &awss3.CreateMultipartUploadInput{Bucket: &c.bucket, Key: p.name, Metadata: headersOf(p.options.Metadata)})
	if err != nil {
		return "", c.explain(p.ctx, err, false)
	}
	abort := true // also where the caller's reader panics
	defer func() {
		if abort {
			c.abort(p.name, upload.UploadId)
		}
	}()
	sent, err := p.sendAll(part, upload.UploadId)
	if err != nil {
		return "", err
	}
	var out *awss3.CompleteMultipartUploadOutput
	err = p.settle(func() (err error) {
		out, err = c.api.CompleteMultipartUpload(p.call, &awss3.CompleteMultipartUploadInput{
			Bucket: &c.bucket, Key: p.name, UploadId: upload.UploadId,
			MultipartUpload: &types.CompletedMultipartUpload{Parts: sent}, IfMatch: p.match, IfNoneMatch: p.absent,
		})
		return err
	})
	if err != nil {
		abort = statusOf(err) != 0 // else it may be about to be completed
		return "", p.failed(err)
	}
	abort = false
	return versionOf(out.ETag), nil
}

// sendAll sends the first part and those that the reader yields.
func (p *put) sendAll(part []byte, id *string) (sent []types.CompletedPart, err error) {
	for end := false; ; {
		one := types.CompletedPart{PartNumber: aws.Int32(int32(len(sent) + 1))}
		tag, again, err := p.send(part, id, *one.PartNumber)
		if err != nil {
			return nil, err
		}
		one.ETag = tag
		sent = append(sent, one)
		if end {
			return sent, nil
		}
		if again { // what is left of the first try may still read it
			part = nil
		}
		if part, end, err = readPart(p.from, part, int(p.conn.PartSize)); err != nil {
			return nil, err
		}
		p.size += int64(len(part))
		if len(part) == 0 {
			return sent, nil
		}
	}
}

const (
	partTries = 4
	partPause = 100 * time.Millisecond // before the second try, then twice as long each time
)

// send sends one part. A part that comes again replaces itself, so it is sent
// again where the store did not take it: a large object has many of them.
func (p *put) send(part []byte, id *string, number int32) (tag *string, again bool, err error) {
	for try := range partTries {
		out, failed := p.conn.api.UploadPart(p.call, &awss3.UploadPartInput{
			Bucket: &p.conn.bucket, Key: p.name, UploadId: id, PartNumber: &number,
			Body: bytes.NewReader(part), ContentLength: aws.Int64(int64(len(part))),
		})
		if failed == nil {
			return out.ETag, try > 0, nil
		}
		err = p.conn.explain(p.ctx, failed, false)
		if reason := errs.ReasonOf(err); reason != errs.BackendUnavailable && reason != errs.Overloaded || codeOf(failed) == "NoSuchUpload" {
			return nil, true, err
		}
		select {
		case <-time.After(partPause << try):
		case <-p.call.Done():
			return nil, true, p.conn.explain(p.ctx, failed, false)
		}
	}
	return nil, true, err
}

const abortWithin = 2 * time.Second

// abort removes the parts of an upload, without keeping anybody waiting but
// Close. What it does not reach, sweep does.
func (c *conn) abort(name, id *string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.removed {
		return
	}
	c.work.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), abortWithin)
		defer cancel()
		_, _ = c.api.AbortMultipartUpload(ctx, &awss3.AbortMultipartUploadInput{Bucket: &c.bucket, Key: name, UploadId: id})
	})
}
