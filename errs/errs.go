// Package errs is the error model of Prism: a closed set of reasons, what each
// one means on the wire, and the one error type that carries a reason with its
// details from a driver to a client.
//
// Programs act on the reason (or the gRPC code that belongs to it), never on
// the text. The set is closed: a new reason is a change of the public contract
// (docs/contracts.md) and gets a section in docs/errors.md.
package errs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Domain is the domain of every google.rpc.ErrorInfo that Prism sends.
const Domain = "prism"

// helpPage is where the reasons are explained; a reason in lower case is its
// anchor, as GitHub makes them.
const helpPage = "https://github.com/prismgw/prism/blob/main/docs/errors.md#"

// A Reason says why a call failed. It is itself an error, so that a hot path
// can return one without allocating, and so that callers can ask
// errors.Is(err, errs.KeyNotFound).
type Reason uint8

// The reasons. There is no OK: an operation that succeeded has a nil error.
const (
	Unknown Reason = iota // a failure that names no reason of ours; never sent by Prism itself
	Internal
	KeyNotFound
	NamespaceNotFound
	PatternNotFound
	ObjectNotFound
	TopicNotFound
	GroupNotFound
	QueueNotFound
	InvalidField
	InvalidKey
	InvalidCursor
	InvalidConfiguration
	PayloadTooLarge
	AlreadyExists
	VersionMismatch
	NotANumber
	OutOfRange
	WrongType
	StaleCursor
	StaleReceipt
	IdempotencyMismatch
	Unauthenticated
	Forbidden
	RateLimited
	Overloaded
	SlowReader
	BackendUnavailable
	CredentialsUnavailable
	CircuitOpen
	Draining
	ReadOnly
	OutcomeUnknown
	Deadline
	Cancelled
	Unsupported

	reasons // how many there are
)

// Retry says when repeating a failed call makes sense.
type Retry uint8

// The kinds of advice.
const (
	RetryNever      Retry = iota // the same call fails again
	RetryAfterDelay              // after RetryInfo's delay; nothing was done
	RetryIfSafe                  // the effect may or may not have happened
)

type row struct {
	name    string
	code    codes.Code
	http    int
	retry   Retry
	message string
}

// table is the contract: one row per reason, in the order of the constants.
var table = [reasons]row{
	Unknown:                {"UNKNOWN", codes.Unknown, http.StatusInternalServerError, RetryIfSafe, "an error without a reason"},
	Internal:               {"INTERNAL", codes.Internal, http.StatusInternalServerError, RetryIfSafe, "internal error; the cause is in the proxy's log under this request id"},
	KeyNotFound:            {"KEY_NOT_FOUND", codes.NotFound, http.StatusNotFound, RetryNever, "no such key"},
	NamespaceNotFound:      {"NAMESPACE_NOT_FOUND", codes.NotFound, http.StatusNotFound, RetryNever, "no such namespace"},
	PatternNotFound:        {"PATTERN_NOT_FOUND", codes.NotFound, http.StatusNotFound, RetryNever, "the namespace has no such pattern"},
	ObjectNotFound:         {"OBJECT_NOT_FOUND", codes.NotFound, http.StatusNotFound, RetryNever, "no such object"},
	TopicNotFound:          {"TOPIC_NOT_FOUND", codes.NotFound, http.StatusNotFound, RetryNever, "no such topic"},
	GroupNotFound:          {"GROUP_NOT_FOUND", codes.NotFound, http.StatusNotFound, RetryNever, "the topic has no such group"},
	QueueNotFound:          {"QUEUE_NOT_FOUND", codes.NotFound, http.StatusNotFound, RetryNever, "the namespace has no such queue"},
	InvalidField:           {"INVALID_FIELD", codes.InvalidArgument, http.StatusBadRequest, RetryNever, "a field of the request is invalid"},
	InvalidKey:             {"INVALID_KEY", codes.InvalidArgument, http.StatusBadRequest, RetryNever, "a key is 1 to 1,024 bytes of UTF-8 without NUL"},
	InvalidCursor:          {"INVALID_CURSOR", codes.InvalidArgument, http.StatusBadRequest, RetryNever, "the cursor is not one that this namespace and prefix gave out; scan from the beginning"},
	InvalidConfiguration:   {"INVALID_CONFIGURATION", codes.InvalidArgument, http.StatusBadRequest, RetryNever, "the configuration is invalid"},
	PayloadTooLarge:        {"PAYLOAD_TOO_LARGE", codes.InvalidArgument, http.StatusRequestEntityTooLarge, RetryNever, "the payload is over the limit"},
	AlreadyExists:          {"ALREADY_EXISTS", codes.AlreadyExists, http.StatusConflict, RetryNever, "the key exists already"},
	VersionMismatch:        {"VERSION_MISMATCH", codes.Aborted, http.StatusConflict, RetryNever, "the key does not have this version; read it again and decide anew"},
	NotANumber:             {"NOT_A_NUMBER", codes.FailedPrecondition, http.StatusConflict, RetryNever, "the value is not a whole number in decimal"},
	OutOfRange:             {"OUT_OF_RANGE", codes.FailedPrecondition, http.StatusConflict, RetryNever, "the sum does not fit 64 bits"},
	WrongType:              {"WRONG_TYPE", codes.FailedPrecondition, http.StatusConflict, RetryNever, "the backend holds data of another type under this key"},
	StaleCursor:            {"STALE_CURSOR", codes.FailedPrecondition, http.StatusConflict, RetryNever, "the cursor is too old, or the backend behind it has changed; scan from the beginning"},
	StaleReceipt:           {"STALE_RECEIPT", codes.FailedPrecondition, http.StatusConflict, RetryNever, "the message has been delivered again since, or is not this consumer's any more; nothing was settled"},
	IdempotencyMismatch:    {"IDEMPOTENCY_MISMATCH", codes.FailedPrecondition, http.StatusConflict, RetryNever, "this idempotency key was used for another request; use a new one for each request"},
	Unauthenticated:        {"UNAUTHENTICATED", codes.Unauthenticated, http.StatusUnauthorized, RetryNever, "the caller is not known"},
	Forbidden:              {"FORBIDDEN", codes.PermissionDenied, http.StatusForbidden, RetryNever, "the caller may not do this"},
	RateLimited:            {"RATE_LIMITED", codes.ResourceExhausted, http.StatusTooManyRequests, RetryAfterDelay, "the namespace's rate limit is reached"},
	Overloaded:             {"OVERLOADED", codes.ResourceExhausted, http.StatusTooManyRequests, RetryAfterDelay, "too many calls are in flight"},
	SlowReader:             {"SLOW_READER", codes.ResourceExhausted, http.StatusTooManyRequests, RetryAfterDelay, "the client does not read its answers"},
	BackendUnavailable:     {"BACKEND_UNAVAILABLE", codes.Unavailable, http.StatusServiceUnavailable, RetryAfterDelay, "the backend cannot be reached"},
	CredentialsUnavailable: {"CREDENTIALS_UNAVAILABLE", codes.Unavailable, http.StatusServiceUnavailable, RetryAfterDelay, "the credentials for the backend cannot be read"},
	CircuitOpen:            {"CIRCUIT_OPEN", codes.Unavailable, http.StatusServiceUnavailable, RetryAfterDelay, "the backend failed repeatedly and is given a rest"},
	Draining:               {"DRAINING", codes.Unavailable, http.StatusServiceUnavailable, RetryAfterDelay, "this proxy is shutting down; another one will answer"},
	ReadOnly:               {"READ_ONLY", codes.Unavailable, http.StatusServiceUnavailable, RetryAfterDelay, "the backend takes no writes at the moment"},
	// ABORTED rather than UNAVAILABLE: generic clients repeat UNAVAILABLE by themselves.
	OutcomeUnknown: {"OUTCOME_UNKNOWN", codes.Aborted, http.StatusServiceUnavailable, RetryIfSafe, "the write was sent and not answered: it may or may not have happened; read before you repeat it"},
	Deadline:       {"DEADLINE", codes.DeadlineExceeded, http.StatusGatewayTimeout, RetryIfSafe, "the deadline passed; a write may still happen"},
	Cancelled:      {"CANCELLED", codes.Canceled, 499, RetryIfSafe, "the caller went away; a write may still happen"},
	Unsupported:    {"UNSUPPORTED", codes.Unimplemented, http.StatusNotImplemented, RetryNever, "the backend lacks this ability"},
}

// delays are the advice of RetryAfterDelay errors that name none: those that
// know better say so. A place becomes free, or another proxy answers, within
// milliseconds. A connection comes back soon after its backend; the drivers
// try again after half a second at most. What needs a failover or a person
// takes longer.
var delays = [reasons]time.Duration{
	RateLimited:            100 * time.Millisecond,
	Overloaded:             50 * time.Millisecond,
	SlowReader:             50 * time.Millisecond,
	BackendUnavailable:     250 * time.Millisecond,
	CredentialsUnavailable: time.Second,
	CircuitOpen:            250 * time.Millisecond,
	Draining:               50 * time.Millisecond,
	ReadOnly:               time.Second,
}

// String returns the reason's name on the wire, such as "KEY_NOT_FOUND".
func (r Reason) String() string { return r.row().name }

// Error returns the reason's own message, so that a bare Reason is an error.
func (r Reason) Error() string { return r.row().message }

// Code returns the gRPC code of the reason.
func (r Reason) Code() codes.Code { return r.row().code }

// HTTPStatus returns the HTTP status of the reason. Under a conditional header
// AlreadyExists and VersionMismatch are 412 instead; the HTTP layer knows that.
func (r Reason) HTTPStatus() int { return r.row().http }

// Retry returns when repeating the call makes sense.
func (r Reason) Retry() Retry { return r.row().retry }

func (r Reason) row() *row {
	if r >= reasons {
		r = Unknown
	}
	return &table[r]
}

// All returns every reason that Prism can send, in a fixed order.
func All() []Reason {
	all := make([]Reason, 0, reasons-1)
	for r := Internal; r < reasons; r++ {
		all = append(all, r)
	}
	return all
}

// A Field is one violation: which field, and what is wrong with it.
type Field struct {
	Path string // "ttl", "items[3].key"
	Text string // what is wrong and what would be right
}

// An Error is a reason with its details. It must not be changed once it has
// been returned; the With methods are for the code that makes it.
type Error struct {
	Reason     Reason
	Message    string            // what is wrong and what to do; one line, no trailing period
	Meta       map[string]string // ErrorInfo metadata
	RetryAfter time.Duration     // 0: the reason's default
	Fields     []Field           // every violation at once
	RequestID  string            // set on errors that a client received

	cause error // logged, never sent
}

// New returns an error with a message of its own.
func New(r Reason, format string, args ...any) *Error {
	return &Error{Reason: r, Message: fmt.Sprintf(format, args...)}
}

// Wrap returns an error that keeps its cause for the log. Clients see only the
// reason and the message.
func Wrap(cause error, r Reason, format string, args ...any) *Error {
	return &Error{Reason: r, Message: fmt.Sprintf(format, args...), cause: cause}
}

// Invalid returns an InvalidField error for the given violations.
func Invalid(fields ...Field) *Error {
	e := &Error{Reason: InvalidField, Fields: fields}
	if len(fields) > 0 {
		e.Message = fields[0].Path + ": " + fields[0].Text
		if len(fields) > 1 {
			e.Message += fmt.Sprintf(" (and %d more)", len(fields)-1)
		}
	}
	return e
}

// TooLarge returns a PayloadTooLarge error; limitOf names what is limited
// ("value", "batch", "pipeline", "request"), sizes are in bytes.
func TooLarge(limitOf string, size, limit int) *Error {
	return New(PayloadTooLarge, "%s of %d bytes is over the limit of %d", limitOf, size, limit).
		With("limit", fmt.Sprint(limit)).With("limit_of", limitOf)
}

// With adds one entry of metadata and returns e.
func (e *Error) With(key, value string) *Error {
	if e.Meta == nil {
		e.Meta = make(map[string]string, 2)
	}
	e.Meta[key] = value
	return e
}

// WithRetry sets the delay after which a repeat makes sense and returns e.
func (e *Error) WithRetry(after time.Duration) *Error {
	e.RetryAfter = after
	return e
}

// Error returns the message, with the cause if there is one. It is what logs
// show; what clients see is Status.
func (e *Error) Error() string {
	s := e.Text()
	if e.cause != nil {
		s += ": " + e.cause.Error()
	}
	return s
}

// Text returns what a client is told: the message without the cause.
func (e *Error) Text() string {
	if e.Message != "" {
		return e.Message
	}
	return e.Reason.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.cause }

// Is reports whether target is e's reason, so that errors.Is works on reasons.
func (e *Error) Is(target error) bool {
	r, ok := target.(Reason)
	return ok && r == e.Reason
}

// Delay returns how long to wait before a repeat, 0 where waiting is no advice.
func (e *Error) Delay() time.Duration {
	if e.RetryAfter > 0 {
		return e.RetryAfter
	}
	if e.Reason < reasons {
		return delays[e.Reason]
	}
	return 0
}

// bare holds one Error per reason, so that From allocates nothing for them.
var bare = func() (all [reasons]*Error) {
	for r := range all {
		all[r] = &Error{Reason: Reason(r)}
	}
	return all
}()

// From turns any error into an Error: an Error or a Reason in its chain is
// taken as it is, a context's end becomes Deadline or Cancelled, everything
// else Internal with the error as its cause. From(nil) is nil.
func From(err error) *Error {
	if err == nil {
		return nil
	}
	switch e := err.(type) { //nolint:errorlint // the fast path for what is not wrapped; errors.As follows
	case *Error:
		return e
	case Reason:
		if e < reasons {
			return bare[e]
		}
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	var r Reason
	switch {
	case errors.As(err, &r) && r < reasons:
		return bare[r]
	case errors.Is(err, context.DeadlineExceeded):
		return bare[Deadline]
	case errors.Is(err, context.Canceled):
		return bare[Cancelled]
	}
	return &Error{Reason: Internal, cause: err}
}

// ReasonOf returns the reason of any error; Unknown for nil.
func ReasonOf(err error) Reason {
	if err == nil {
		return Unknown
	}
	return From(err).Reason
}

// Status returns what a client is told: code, message and details. The cause
// is left out.
func (e *Error) Status(requestID string) *status.Status {
	st := status.New(e.Reason.Code(), e.Text())
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: e.Reason.String(), Domain: Domain, Metadata: e.Meta}}
	if requestID != "" {
		details = append(details, &errdetails.RequestInfo{RequestId: requestID})
	}
	if d := e.Delay(); d > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(d)})
	}
	if len(e.Fields) > 0 {
		bad := &errdetails.BadRequest{}
		for _, f := range e.Fields {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: f.Path, Description: f.Text})
		}
		details = append(details, bad)
	}
	details = append(details, &errdetails.Help{Links: []*errdetails.Help_Link{{Description: "what this means and what to do", Url: e.HelpURL()}}})
	full, err := st.WithDetails(details...)
	if err != nil { // only for a message that cannot be marshalled, which these can
		return st
	}
	return full
}

// HelpURL returns the address of the reason's page.
func (e *Error) HelpURL() string { return helpPage + strings.ToLower(e.Reason.String()) }

var byName = func() map[string]Reason {
	m := make(map[string]Reason, reasons)
	for r := Unknown; r < reasons; r++ {
		m[table[r].name] = r
	}
	return m
}()

// FromStatus turns the error of a gRPC call back into an Error. An error that
// names no reason of ours (a broken connection, a limit of the transport) gets
// the nearest one. FromStatus(nil) is nil.
func FromStatus(err error) *Error {
	if err == nil {
		return nil
	}
	var own *Error
	if errors.As(err, &own) {
		return own
	}
	st, ok := status.FromError(err)
	if !ok {
		return From(err)
	}
	e := &Error{Reason: nearest(st.Code()), Message: st.Message()}
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			if d.GetDomain() == Domain {
				e.Reason = named(d.GetReason(), st.Code())
			}
			e.Meta = maps.Clone(d.GetMetadata())
		case *errdetails.RetryInfo:
			e.RetryAfter = d.GetRetryDelay().AsDuration()
		case *errdetails.RequestInfo:
			e.RequestID = d.GetRequestId()
		case *errdetails.BadRequest:
			for _, f := range d.GetFieldViolations() {
				e.Fields = append(e.Fields, Field{Path: f.GetField(), Text: f.GetDescription()})
			}
		}
	}
	return e
}

// named returns the reason of a name; of one that only a later release knows,
// the nearest.
func named(name string, c codes.Code) Reason {
	if r, known := byName[name]; known {
		return r
	}
	if c == codes.ResourceExhausted {
		return Overloaded // as everything of ours with this code: later is better
	}
	return nearest(c)
}

// nearest returns the reason for a status without ErrorInfo.
func nearest(c codes.Code) Reason {
	switch c { //nolint:exhaustive // every other code has no reason of its own
	case codes.DeadlineExceeded:
		return Deadline
	case codes.Canceled:
		return Cancelled
	case codes.Unavailable:
		return BackendUnavailable
	case codes.ResourceExhausted:
		return PayloadTooLarge // the transport's message limit is the one source of it
	case codes.Unimplemented:
		return Unsupported
	case codes.Unauthenticated:
		return Unauthenticated
	case codes.PermissionDenied:
		return Forbidden
	case codes.InvalidArgument:
		return InvalidField
	case codes.Internal:
		return Internal
	}
	return Unknown
}
