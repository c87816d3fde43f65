// Package s3 keeps objects in a bucket of AWS S3 or of a store that speaks its
// protocol. It has no keys and values.
//
// # Addresses
//
//	s3://bucket?region=eu-central-1                AWS
//	s3://bucket/folder?endpoint=https://host:9000  another store, below a folder
//
// Endpoint and region stand in the url because they say where the bucket is;
// everything else is an option. The credentials are an access key and its
// secret, asked for with each request; without any, requests are not signed.
//
// # What lies in the bucket
//
// The object of a key is <folder>/<namespace>/<pattern>/<name>, one object with
// the bytes that were put and their metadata, for any other client to read.
// Names are keys with an exclamation mark at the end, and some of their bytes
// escaped (see objectName). Others that lie there are not seen.
//
// A version is the object's ETag. Objects of up to a part are put in one
// request, larger ones in an upload of parts, of which nothing is seen until it
// is completed. An upload that fails is aborted. One whose process died, or whose
// connection was closed, is aborted when it is a day old (abandon_after) and a
// connection begins to serve the space, or by the bucket's own rule
// (AbortIncompleteMultipartUpload).
//
// # What the store has to do
//
// If-None-Match and If-Match on PutObject and CompleteMultipartUpload, which is
// tried out on an object below "!probe/" before the first use, or the option
// conditional: false. The rights it needs are s3:GetObject, s3:PutObject,
// s3:DeleteObject, s3:ListBucket, s3:ListBucketMultipartUploads and
// s3:AbortMultipartUpload.
package s3

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// Driver returns the driver named "s3".
func Driver() driver.Driver {
	return driver.Driver{
		Name:    "s3",
		Summary: "a bucket of AWS S3 or of a store that speaks its protocol",
		Schemes: []string{"s3"},
		Acks:    []driver.Ack{acks[""], acks["process"], acks["os"], acks["node"]},
		Open:    open,
	}
}

var (
	_ driver.Conn = (*conn)(nil)
	_ driver.Blob = (*blob)(nil)
)

var errClosed = errs.New(errs.BackendUnavailable, "the connection is closed")

// conn is one bucket.
type conn struct {
	*settings
	link *link
	api  *awss3.Client
	now  func() time.Time
	log  *slog.Logger

	alive context.Context // ends with Close
	end   context.CancelFunc
	once  sync.Once      // of Close
	work  sync.WaitGroup // what goes on without a caller

	conditions atomic.Bool // they have been tried out
	probing    chan struct{}

	mu      sync.Mutex          // guards the fields below
	spaces  map[string]struct{} // whose abandoned uploads were not looked for yet
	removed bool                // nothing may be added to work
}

func open(c driver.Config) (driver.Conn, error) {
	s, err := parse(&c)
	if err != nil {
		return nil, err
	}
	l := newLink(s)
	alive, end := context.WithCancel(context.Background())
	return &conn{
		settings: s, link: l, api: newClient(s, l, c.Credentials), now: c.Clock(), log: c.Logger(), alive: alive, end: end,
		probing: make(chan struct{}, 1), spaces: map[string]struct{}{},
	}, nil
}

// Space returns the objects of a space. There are no layouts but its own.
func (c *conn) Space(s driver.Space) (driver.Backend, error) {
	if len(s.Layout) > 0 {
		return driver.Backend{}, errs.Invalid(errs.Field{
			Path: "layout", Text: "objects that were there before cannot be adopted; leave it out",
		})
	}
	prefix := c.prefix + spacePrefix(s)
	c.mu.Lock()
	c.spaces[prefix] = struct{}{}
	c.mu.Unlock()
	return driver.Backend{
		Blob:   &blob{conn: c, prefix: prefix},
		Extent: driver.Extent{Container: c.container(), Prefix: prefix},
	}, nil
}

// begin returns the context of a call: it ends with the caller's, and with the
// connection. done must follow.
func (c *conn) begin(ctx context.Context) (call context.Context, done func(), err error) {
	if err := c.usable(ctx); err != nil {
		return nil, nil, err
	}
	call, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(c.alive, cancel)
	return call, func() { stop(); cancel() }, nil
}

// usable returns why a call cannot go on, nil if it can.
func (c *conn) usable(ctx context.Context) error {
	if c.alive.Err() != nil {
		return errClosed
	}
	if reason, ended := endOf(ctx); ended {
		return reason
	}
	return nil
}

// Ping asks whether the bucket is there, tries out what the store has to do, and
// lets what earlier processes have left be removed.
func (c *conn) Ping(ctx context.Context) error {
	call, done, err := c.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	if _, err := c.api.HeadBucket(call, &awss3.HeadBucketInput{Bucket: &c.bucket}); err != nil {
		return c.whyNot(ctx, call, err)
	}
	if c.Conditional {
		if err := c.tryConditions(ctx, call); err != nil && !errors.Is(err, errNotAllowed) {
			return err // who may only read is told when he writes
		}
	}
	c.sweepAll()
	return nil
}

// whyNot asks again in a way that is answered with a reason: an answer to HEAD
// has none.
func (c *conn) whyNot(ctx, call context.Context, head error) error {
	_, err := c.api.ListObjectsV2(call, &awss3.ListObjectsV2Input{Bucket: &c.bucket, MaxKeys: aws.Int32(1)})
	if err == nil {
		err = head
	}
	err = c.diagnose(ctx, err, false)
	if errors.Is(err, errs.ObjectNotFound) {
		return errs.New(errs.InvalidConfiguration, "backend %q: the bucket is not there; make it, or change the url", c.name)
	}
	return err
}

// Close ends what is under way.
func (c *conn) Close() error {
	c.once.Do(func() {
		c.mu.Lock()
		c.removed = true
		c.mu.Unlock()
		c.end()
		c.work.Wait()
		c.link.close()
	})
	return nil
}

// sweepAll removes the abandoned uploads of the spaces that are new.
func (c *conn) sweepAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.removed || len(c.spaces) == 0 {
		return
	}
	prefixes := slices.Collect(maps.Keys(c.spaces))
	clear(c.spaces)
	c.work.Go(func() {
		for _, prefix := range prefixes {
			err := c.sweep(prefix)
			switch {
			case err == nil || c.alive.Err() != nil:
			case statusOf(err) == http.StatusForbidden || statusOf(err) == http.StatusNotImplemented:
				c.log.Warn("uploads that were abandoned cannot be listed; give the key the right s3:ListBucketMultipartUploads, or the bucket a rule that aborts them", "backend", c.name)
			default:
				c.mu.Lock()
				c.spaces[prefix] = struct{}{} // after another ping
				c.mu.Unlock()
			}
		}
	})
}

// sweep aborts the uploads below a prefix that nobody completes any more.
func (c *conn) sweep(prefix string) error {
	ctx, cancel := context.WithTimeout(c.alive, time.Minute)
	defer cancel()
	list := awss3.NewListMultipartUploadsPaginator(c.api, &awss3.ListMultipartUploadsInput{Bucket: &c.bucket, Prefix: &prefix})
	for list.HasMorePages() {
		page, err := list.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, u := range page.Uploads {
			if u.Initiated == nil || c.now().Sub(*u.Initiated) < time.Duration(c.AbandonAfter) {
				continue
			}
			if _, err := c.api.AbortMultipartUpload(ctx, &awss3.AbortMultipartUploadInput{Bucket: &c.bucket, Key: u.Key, UploadId: u.UploadId}); err != nil {
				return err
			}
		}
	}
	return nil
}
