package nats

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/prismgw/prism/errs"
)

var (
	errNotAllowed = errs.New(errs.BackendUnavailable, "the backend's user may not do this; Prism needs to publish to $KV.<bucket>.> and $JS.API.>, to subscribe to _INBOX.>, for pub/sub to do both with prism.>, and for topics to publish to <namespace>.> and $KV.prism-groups-*.>")
	errGone       = errs.New(errs.BackendUnavailable, "the bucket does not exist any more")
	errNoStream   = errs.New(errs.BackendUnavailable, "the bucket's stream does not answer; it may be without a leader at the moment, or JetStream is not enabled for this account")
)

// fail turns the failure of a call into an error of errs. write says that the
// call may have changed something if it was sent.
func (l *link) fail(ctx context.Context, err error, write bool) error {
	if err == nil {
		return nil
	}
	var known *errs.Error
	if errors.As(err, &known) {
		return known
	}
	var reason errs.Reason
	if errors.As(err, &reason) {
		return reason
	}
	if reason, ended := endOf(ctx); ended {
		return reason
	}
	if errors.Is(err, nats.ErrMaxPayload) {
		return errs.Wrap(err, errs.PayloadTooLarge, "the value is over the backend's max_payload; raise that, or lower the option max_value")
	}
	var lost *lostError
	switch {
	case write && errors.As(err, &lost) && lost.sent:
		return errs.Wrap(err, errs.OutcomeUnknown, "the connection broke before the backend answered this write; read before you repeat it")
	case errors.As(err, &lost):
		return errs.Wrap(err, errs.BackendUnavailable, "the backend cannot be reached")
	}
	return errs.Wrap(err, errs.Internal, "the backend answered something unknown")
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

// ofConnect returns the error for a connection that was not made. The library's
// errors name addresses at most.
func ofConnect(err error) error {
	switch {
	case errors.Is(err, nats.ErrSecureConnWanted):
		return errs.Wrap(err, errs.BackendUnavailable, "the backend speaks no TLS, which the url's scheme tls asks for")
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAccountAuthExpired):
		return errs.Wrap(err, errs.BackendUnavailable, "the backend refuses the credentials, or wants some; see the Backend's field credentials")
	}
	return &lostError{cause: err}
}

// Numbers of errors that JetStream answers and that mean something here.
const (
	codeWrongSequence       = 10071
	codeWrongSequenceCommon = 10164 // the same, of a stream with replicas
	codeNoMessage           = 10037
	codeStreamNotFound      = 10059
	codeStreamExists        = 10058 // with other settings
	codeIDInProcess         = 10158
)

var errConflict = errors.New("another write came first")

// refusals say what an error that JetStream answered to a write, or to the
// making of the bucket, means. Nothing of it took effect.
var refusals = map[jetstream.ErrorCode]struct {
	reason errs.Reason
	text   string
}{
	10054: {errs.PayloadTooLarge, "the value is over the stream's max_msg_size; raise that, or lower the option max_value"},
	10077: {errs.ReadOnly, "the stream is full and takes no writes; raise its limits or remove data"},
	10002: {errs.ReadOnly, "the backend's account has used up its resources and takes no writes; raise its limits or remove data"},
	10023: {errs.ReadOnly, "the backend has too few resources and takes no writes; see its log"},
	10028: {errs.ReadOnly, "the backend's memory is used up and it takes no writes"},
	10047: {errs.ReadOnly, "the backend's storage is used up and it takes no writes; raise its limits or remove data"},
	10109: {errs.ReadOnly, "the stream is sealed and takes no writes"},
	10166: {errs.InvalidConfiguration, "the bucket allows no ttl for messages; set allow_msg_ttl on its stream"},
	10008: {errs.BackendUnavailable, "JetStream is not available at the moment"},
	10039: {errs.BackendUnavailable, "JetStream is not enabled for this account"},
	10049: {errs.BackendUnavailable, "the backend cannot make files for the stream at the moment; see its log"},
	10076: {errs.BackendUnavailable, "JetStream is not enabled on the backend"},
	10118: {errs.BackendUnavailable, "the stream is offline"},
	10163: {errs.BackendUnavailable, "the bucket cannot check conditions on this key at the moment"},
	10167: {errs.BackendUnavailable, "the stream has too many writes under way"},
	10194: {errs.BackendUnavailable, "the stream is offline"},
}

// ofAPI returns the error for one that JetStream answered.
func ofAPI(e *jetstream.APIError) error {
	switch e.ErrorCode { //nolint:exhaustive // the others are in the table, or have no meaning here
	case codeWrongSequence, codeWrongSequenceCommon:
		return errConflict
	case codeNoMessage:
		return errs.KeyNotFound
	case codeStreamNotFound:
		return errGone
	}
	if r, ok := refusals[e.ErrorCode]; ok {
		return errs.New(r.reason, "%s", r.text)
	}
	if e.Code == 503 {
		return errs.Wrap(e, errs.BackendUnavailable, "JetStream is not available at the moment")
	}
	return errs.Wrap(e, errs.Internal, "the backend refused a request")
}

// status returns the error that an answer's status means, nil if it is data.
func (s *session) status(m *nats.Msg) error {
	if len(m.Header) == 0 {
		return nil
	}
	switch status := first(m.Header, "Status"); status {
	case "":
		return nil
	case "404":
		return errs.KeyNotFound
	case "503": // nobody subscribes: nothing was done
		s.stale.Store(true)
		return errNoStream
	default:
		return fmt.Errorf("status %s", status)
	}
}

func first(h nats.Header, name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}
