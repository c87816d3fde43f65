package s3

import (
	"context"
	"errors"
	"net/http"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"

	"github.com/prismgw/prism/errs"
)

// endOf returns why ctx has ended. A connection whose deadline was that of the
// context can tell it a moment before the context does.
func endOf(ctx context.Context) (reason errs.Reason, ended bool) {
	if errors.Is(ctx.Err(), context.Canceled) {
		return errs.Cancelled, true
	}
	at, limited := ctx.Deadline()
	return errs.Deadline, ctx.Err() != nil || limited && !time.Now().Before(at)
}

const accessDenied = "AccessDenied"

// errNotAllowed is in the chain of what was refused for lack of a right.
var errNotAllowed = errors.New("the key has not the right")

// answers say what a code of S3 means. Where one of these was answered, nothing
// was done.
var answers = map[string]struct {
	reason errs.Reason
	text   string
}{
	accessDenied:                   {errs.BackendUnavailable, "the credentials do not give the right to this; give the key those that the driver's page lists, or change the bucket's policy"},
	"NoSuchKey":                    {errs.ObjectNotFound, "no such object"},
	"NotFound":                     {errs.ObjectNotFound, "no such object"},
	"NoSuchBucket":                 {errs.InvalidConfiguration, "the bucket is not there; make it, or change the url"},
	"PermanentRedirect":            {errs.InvalidConfiguration, "the bucket is in another region; write that as region=… in the url"},
	"MovedPermanently":             {errs.InvalidConfiguration, "the bucket is in another region; write that as region=… in the url"},
	"AuthorizationHeaderMalformed": {errs.InvalidConfiguration, "the bucket is in another region than requests are signed for; write that as region=… in the url"},
	"InvalidAccessKeyId":           {errs.CredentialsUnavailable, "the store does not know the access key; change the credentials"},
	"SignatureDoesNotMatch":        {errs.CredentialsUnavailable, "the secret is not that of the access key; change the credentials"},
	"ExpiredToken":                 {errs.CredentialsUnavailable, "the credentials have expired; renew them"},
	"InvalidToken":                 {errs.CredentialsUnavailable, "the store does not take the credentials; change them"},
	"RequestTimeTooSkewed":         {errs.BackendUnavailable, "this machine's clock is not that of the store; set it"},
	"SlowDown":                     {errs.Overloaded, "the store asks for fewer requests"},
	"ServiceUnavailable":           {errs.Overloaded, "the store has too much to do"},
	"TooManyRequests":              {errs.Overloaded, "the store asks for fewer requests"},
	"RequestTimeout":               {errs.BackendUnavailable, "the store has waited too long for the request"},
	"IncompleteBody":               {errs.BackendUnavailable, "the store has got less than it was told of"},
	"EntityTooLarge":               {errs.PayloadTooLarge, "the object is larger than the store takes"},
	"QuotaExceeded":                {errs.ReadOnly, "the store's quota is used up; raise it or delete objects"},
	"NoSpaceLeftOnDevice":          {errs.ReadOnly, "the store has no space left; free some, and writes go on by themselves"},
	"XMinioStorageFull":            {errs.ReadOnly, "the store has no space left; free some, and writes go on by themselves"},
	"NoSuchUpload":                 {errs.BackendUnavailable, "the upload was aborted by somebody else; it may have taken longer than abandon_after"},
	"ConditionalRequestConflict":   {errs.BackendUnavailable, "another request is changing the object; nothing was done"},
	"OperationAborted":             {errs.BackendUnavailable, "another request is changing the object; nothing was done"},
	"ExistingObjectIsDirectory":    {errs.WrongType, "the store has a folder where the object would be; remove it"},
	"MetadataTooLarge":             {errs.PayloadTooLarge, "the metadata is more than the store takes"},
	"RequestHeaderSectionTooLarge": {errs.PayloadTooLarge, "the metadata has more names than the store takes"},
	"NotImplemented":               {errs.Unsupported, "the store lacks what was asked for"},
}

const slower = time.Second // after which to try again what the store was too busy for

// explain gives the failure of a call's request its reason and advice. write
// says that the request may have changed something if it was sent.
func (c *conn) explain(ctx context.Context, err error, write bool) error {
	err = c.diagnose(ctx, err, write)
	var e *errs.Error
	if errors.As(err, &e) && e.Reason == errs.InvalidConfiguration {
		e.Reason = errs.BackendUnavailable // nothing that callers could do better
	}
	return err
}

// diagnose is explain for those who look after the configuration.
func (c *conn) diagnose(ctx context.Context, err error, write bool) error {
	var known *errs.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	if status := statusOf(err); status >= http.StatusMultipleChoices {
		return c.ofAnswer(err, codeOf(err), status, write)
	}
	if reason, ended := endOf(ctx); ended {
		return reason
	}
	var gone *lost
	switch {
	case write && (!errors.As(err, &gone) || gone.sent):
		return errs.Wrap(err, errs.OutcomeUnknown, "backend %q: the connection broke before the store answered this write; read before you repeat it", c.name)
	case c.alive.Err() != nil:
		return errClosed
	}
	return errs.Wrap(err, errs.BackendUnavailable, "backend %q cannot be reached", c.name)
}

// statusOf returns the status of an answer, 0 if there was none.
func statusOf(err error) int {
	var answer *awshttp.ResponseError
	if errors.As(err, &answer) && answer.Response != nil {
		return answer.HTTPStatusCode()
	}
	return 0
}

// codeOf returns what S3 calls the error, "" if it does not say.
func codeOf(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

// ofAnswer returns the error for what the store answered.
func (c *conn) ofAnswer(err error, code string, status int, write bool) error {
	if known := c.ofCode(err, code); known != nil {
		return known
	}
	failed := status >= http.StatusInternalServerError && status != http.StatusNotImplemented
	switch {
	case status < http.StatusBadRequest:
		return errs.Wrap(err, errs.InvalidConfiguration, "backend %q: the store sends to another place; the region of the url may be wrong", c.name)
	case status == http.StatusNotFound: // without a code of S3
		return errs.Wrap(err, errs.InvalidConfiguration, "backend %q: what answers at the url's endpoint is no store of S3", c.name)
	case status == http.StatusPreconditionFailed:
		return errs.VersionMismatch
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return c.ofCode(err, accessDenied)
	case status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests:
		return errs.Wrap(err, errs.BackendUnavailable, "backend %q has too much to do, or is not ready", c.name)
	case failed && write:
		return errs.Wrap(err, errs.OutcomeUnknown, "backend %q failed at this write; read before you repeat it", c.name)
	case failed:
		return errs.Wrap(err, errs.BackendUnavailable, "backend %q failed at this request", c.name)
	}
	return errs.Wrap(err, errs.Internal, "backend %q refused a request with status %d", c.name, status)
}

// ofCode returns the error for a code of S3, nil for one that is not known.
func (c *conn) ofCode(err error, code string) error {
	a, ok := answers[code]
	switch {
	case !ok:
		return nil
	case a.reason == errs.ObjectNotFound:
		return errs.ObjectNotFound
	case code == accessDenied:
		err = errors.Join(err, errNotAllowed)
	}
	e := errs.Wrap(err, a.reason, "backend %q: %s", c.name, a.text)
	if a.reason == errs.Overloaded {
		e = e.WithRetry(slower)
	}
	return e
}
