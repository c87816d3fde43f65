package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/prismgw/prism/errs"
)

var errClosed = errs.New(errs.BackendUnavailable, "the connection to the backend was closed")

// ready returns why a call cannot begin.
func (c *conn) ready(ctx context.Context) error {
	if reason, ended := endOf(ctx); ended {
		return reason
	}
	if c.base.Err() != nil {
		return errClosed
	}
	return nil
}

// endOf returns why ctx has ended, also where its deadline has passed and it
// has not noticed yet.
func endOf(ctx context.Context) (reason errs.Reason, ended bool) {
	if errors.Is(ctx.Err(), context.Canceled) {
		return errs.Cancelled, true
	}
	at, limited := ctx.Deadline()
	return errs.Deadline, ctx.Err() != nil || limited && !time.Now().Before(at)
}

// fail turns the failure of a call into an error of errs. write says that the
// call may have changed something if it was sent.
func (c *conn) fail(ctx context.Context, err error, write bool) error {
	if err == nil {
		return nil
	}
	if known := knownError(err); known != nil {
		return known
	}
	if reason, ended := endOf(ctx); ended {
		return reason
	}
	var answer *kerr.Error
	switch {
	case errors.As(err, &answer):
		return ofAnswer(answer)
	case unsent(err):
		return c.ofConnect(err)
	case write:
		return errs.Wrap(err, errs.OutcomeUnknown, "the connection broke before the backend answered this write; read before you repeat it")
	case c.base.Err() != nil:
		return errClosed
	}
	return c.ofConnect(err)
}

func knownError(err error) error {
	var known *errs.Error
	if errors.As(err, &known) {
		return known
	}
	var reason errs.Reason
	if errors.As(err, &reason) {
		return reason
	}
	return nil
}

// unsent reports whether an error is of a connection that was not made, so that
// no request went over it.
func unsent(err error) bool {
	var (
		op    *net.OpError
		first *kgo.ErrFirstReadEOF
	)
	return errors.As(err, &op) && op.Op == "dial" || errors.As(err, &first) || untrusted(err) || errors.Is(err, kgo.ErrRecordTimeout) || errors.Is(err, kgo.ErrRecordRetries)
}

func untrusted(err error) bool {
	var bad *tls.CertificateVerificationError
	return errors.As(err, &bad)
}

// ofConnect returns the error for a backend that was not reached. The library's
// errors name addresses at most.
func (c *conn) ofConnect(err error) error {
	var first *kgo.ErrFirstReadEOF
	switch {
	case untrusted(err):
		return errs.Wrap(err, errs.BackendUnavailable, "the backend's certificate is not trusted; see the Backend's field tls")
	case errors.As(err, &first):
		return errs.Wrap(err, errs.BackendUnavailable, "the backend ends connections at once; it may want TLS, the url's scheme kafkas, or credentials")
	case c.credentials != nil && errors.Is(err, io.EOF): // old brokers, and some that are none of Kafka's, say no more
		return errs.Wrap(err, errs.BackendUnavailable, "the backend ends connections; it may refuse the credentials, see the Backend's field credentials and its option sasl")
	case errors.Is(err, kgo.ErrRecordTimeout), errors.Is(err, kgo.ErrRecordRetries):
		return errs.Wrap(err, errs.BackendUnavailable, "the backend took no records for too long")
	}
	return errs.Wrap(err, errs.BackendUnavailable, "the backend cannot be reached")
}

// answers say what an error that a broker answered means. Nothing of the
// request took effect.
var answers = map[*kerr.Error]struct {
	reason errs.Reason
	text   string
}{
	kerr.UnknownTopicOrPartition:            {errs.TopicNotFound, "the topic does not exist"},
	kerr.UnknownTopicID:                     {errs.TopicNotFound, "the topic does not exist any more"},
	kerr.InvalidTopicException:              {errs.InvalidConfiguration, "Kafka takes no topic of this name; there may be one that differs in . and _ only"},
	kerr.TopicAuthorizationFailed:           {errs.BackendUnavailable, "the backend's user may not do this; Prism needs to describe, read and write the topic, and to describe its configuration"},
	kerr.GroupAuthorizationFailed:           {errs.BackendUnavailable, "the backend's user may not do this; Prism needs to describe and read the group, whose name begins with the topic's"},
	kerr.ClusterAuthorizationFailed:         {errs.BackendUnavailable, "the backend's user may not do this; Prism needs to create topics, or topics that are there"},
	kerr.SaslAuthenticationFailed:           {errs.BackendUnavailable, "the backend refuses the credentials; see the Backend's field credentials and its option sasl"},
	kerr.UnsupportedSaslMechanism:           {errs.BackendUnavailable, "the backend does not take credentials in this way; see the Backend's option sasl"},
	kerr.IllegalSaslState:                   {errs.BackendUnavailable, "the backend wants no credentials, or not here; see the Backend's field credentials"},
	kerr.UnsupportedVersion:                 {errs.BackendUnavailable, "the backend is too old; Prism needs Kafka 2.4 or newer"},
	kerr.MessageTooLarge:                    {errs.PayloadTooLarge, "the record is over the topic's max.message.bytes; raise that, or lower the option max_record"},
	kerr.RecordListTooLarge:                 {errs.PayloadTooLarge, "the record is over the topic's segment.bytes; raise that, or lower the option max_record"},
	kerr.OffsetMetadataTooLarge:             {errs.PayloadTooLarge, "the note is over the backend's offset.metadata.max.bytes; raise that to 4096"},
	kerr.PolicyViolation:                    {errs.InvalidConfiguration, "a policy of the backend forbids this topic"},
	kerr.InvalidReplicationFactor:           {errs.InvalidConfiguration, "the backend has fewer brokers than the option replicas asks for"},
	kerr.InvalidPartitions:                  {errs.InvalidConfiguration, "the backend does not allow so many partitions"},
	kerr.InvalidSessionTimeout:              {errs.InvalidConfiguration, "the backend takes no such session; see its group.min.session.timeout.ms and the option session"},
	kerr.InconsistentGroupProtocol:          {errs.InvalidConfiguration, "the group has members of other programs with another assignment strategy; give them cooperative-sticky, or set the option shared_with_others"},
	kerr.GroupMaxSizeReached:                {errs.BackendUnavailable, "the group has as many members as the backend allows"},
	kerr.NotEnoughReplicas:                  {errs.ReadOnly, "too few replicas are in sync to take records"},
	kerr.KafkaStorageError:                  {errs.ReadOnly, "the backend cannot write; see its log"},
	kerr.TransactionalIDAuthorizationFailed: {errs.BackendUnavailable, "the backend's user may not write idempotently"},
}

// ofAnswer returns the error for one that a broker answered.
func ofAnswer(e *kerr.Error) error {
	if a, ok := answers[e]; ok {
		return errs.Wrap(e, a.reason, "%s", a.text)
	}
	if e.Retriable {
		return errs.Wrap(e, errs.BackendUnavailable, "the backend cannot serve this at the moment")
	}
	return errs.Wrap(e, errs.Internal, "the backend refused a request")
}
