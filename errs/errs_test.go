package errs_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/prismgw/prism/errs"
)

// contract is what clients in any language rely on. It says again, row by row,
// what the package says, because changing a row breaks them.
var contract = []struct {
	reason errs.Reason
	name   string
	code   codes.Code
	http   int
	retry  errs.Retry
}{
	{errs.Internal, "INTERNAL", codes.Internal, 500, errs.RetryIfSafe},
	{errs.KeyNotFound, "KEY_NOT_FOUND", codes.NotFound, 404, errs.RetryNever},
	{errs.NamespaceNotFound, "NAMESPACE_NOT_FOUND", codes.NotFound, 404, errs.RetryNever},
	{errs.PatternNotFound, "PATTERN_NOT_FOUND", codes.NotFound, 404, errs.RetryNever},
	{errs.ObjectNotFound, "OBJECT_NOT_FOUND", codes.NotFound, 404, errs.RetryNever},
	{errs.TopicNotFound, "TOPIC_NOT_FOUND", codes.NotFound, 404, errs.RetryNever},
	{errs.GroupNotFound, "GROUP_NOT_FOUND", codes.NotFound, 404, errs.RetryNever},
	{errs.QueueNotFound, "QUEUE_NOT_FOUND", codes.NotFound, 404, errs.RetryNever},
	{errs.InvalidField, "INVALID_FIELD", codes.InvalidArgument, 400, errs.RetryNever},
	{errs.InvalidKey, "INVALID_KEY", codes.InvalidArgument, 400, errs.RetryNever},
	{errs.InvalidCursor, "INVALID_CURSOR", codes.InvalidArgument, 400, errs.RetryNever},
	{errs.InvalidConfiguration, "INVALID_CONFIGURATION", codes.InvalidArgument, 400, errs.RetryNever},
	{errs.PayloadTooLarge, "PAYLOAD_TOO_LARGE", codes.InvalidArgument, 413, errs.RetryNever},
	{errs.AlreadyExists, "ALREADY_EXISTS", codes.AlreadyExists, 409, errs.RetryNever},
	{errs.VersionMismatch, "VERSION_MISMATCH", codes.Aborted, 409, errs.RetryNever},
	{errs.NotANumber, "NOT_A_NUMBER", codes.FailedPrecondition, 409, errs.RetryNever},
	{errs.OutOfRange, "OUT_OF_RANGE", codes.FailedPrecondition, 409, errs.RetryNever},
	{errs.WrongType, "WRONG_TYPE", codes.FailedPrecondition, 409, errs.RetryNever},
	{errs.StaleCursor, "STALE_CURSOR", codes.FailedPrecondition, 409, errs.RetryNever},
	{errs.StaleReceipt, "STALE_RECEIPT", codes.FailedPrecondition, 409, errs.RetryNever},
	{errs.IdempotencyMismatch, "IDEMPOTENCY_MISMATCH", codes.FailedPrecondition, 409, errs.RetryNever},
	{errs.Unauthenticated, "UNAUTHENTICATED", codes.Unauthenticated, 401, errs.RetryNever},
	{errs.Forbidden, "FORBIDDEN", codes.PermissionDenied, 403, errs.RetryNever},
	{errs.RateLimited, "RATE_LIMITED", codes.ResourceExhausted, 429, errs.RetryAfterDelay},
	{errs.Overloaded, "OVERLOADED", codes.ResourceExhausted, 429, errs.RetryAfterDelay},
	{errs.SlowReader, "SLOW_READER", codes.ResourceExhausted, 429, errs.RetryAfterDelay},
	{errs.BackendUnavailable, "BACKEND_UNAVAILABLE", codes.Unavailable, 503, errs.RetryAfterDelay},
	{errs.CredentialsUnavailable, "CREDENTIALS_UNAVAILABLE", codes.Unavailable, 503, errs.RetryAfterDelay},
	{errs.CircuitOpen, "CIRCUIT_OPEN", codes.Unavailable, 503, errs.RetryAfterDelay},
	{errs.Draining, "DRAINING", codes.Unavailable, 503, errs.RetryAfterDelay},
	{errs.ReadOnly, "READ_ONLY", codes.Unavailable, 503, errs.RetryAfterDelay},
	{errs.OutcomeUnknown, "OUTCOME_UNKNOWN", codes.Aborted, 503, errs.RetryIfSafe},
	{errs.Deadline, "DEADLINE", codes.DeadlineExceeded, 504, errs.RetryIfSafe},
	{errs.Cancelled, "CANCELLED", codes.Canceled, 499, errs.RetryIfSafe},
	{errs.Unsupported, "UNSUPPORTED", codes.Unimplemented, 501, errs.RetryNever},
}

func TestContract(t *testing.T) {
	t.Parallel()
	if got, want := len(errs.All()), len(contract); got != want {
		t.Fatalf("%d reasons, and %d in the contract", got, want)
	}
	for i, want := range contract {
		r := errs.All()[i]
		if r != want.reason || r.String() != want.name || r.Code() != want.code || r.HTTPStatus() != want.http || r.Retry() != want.retry {
			t.Errorf("got %s, %s, %d, retry %d; want %+v", r.String(), r.Code(), r.HTTPStatus(), r.Retry(), want)
		}
		if msg := r.Error(); msg == "" || strings.HasSuffix(msg, ".") || strings.Contains(msg, "\n") {
			t.Errorf("%s has the message %q; want one line without a period", r.String(), msg)
		}
	}
}

func TestReasonOutOfRange(t *testing.T) {
	t.Parallel()
	if got := errs.Reason(250); got.String() != "UNKNOWN" || got.Code() != codes.Unknown || got.HTTPStatus() != 500 {
		t.Errorf("got %s, %s, %d", got.String(), got.Code(), got.HTTPStatus())
	}
	if got := errs.ReasonOf(errs.Reason(250)); got != errs.Internal {
		t.Errorf("got %s, want INTERNAL for a reason that nobody knows", got.String())
	}
}

func TestFrom(t *testing.T) {
	t.Parallel()
	own := errs.New(errs.KeyNotFound, "no such key")
	for _, tt := range []struct {
		name string
		err  error
		want errs.Reason
	}{
		{"an error", own, errs.KeyNotFound},
		{"a wrapped error", fmt.Errorf("get: %w", own), errs.KeyNotFound},
		{"a reason", errs.Overloaded, errs.Overloaded},
		{"a wrapped reason", fmt.Errorf("get: %w", errs.Overloaded), errs.Overloaded},
		{"a joined reason", errors.Join(io.EOF, errs.Overloaded), errs.Overloaded},
		{"a deadline", context.DeadlineExceeded, errs.Deadline},
		{"a wrapped deadline", fmt.Errorf("get: %w", context.DeadlineExceeded), errs.Deadline},
		{"a cancelled context", fmt.Errorf("get: %w", context.Canceled), errs.Cancelled},
		{"a reason that a context's end caused", errs.Wrap(context.DeadlineExceeded, errs.OutcomeUnknown, "no answer"), errs.OutcomeUnknown},
		{"anything else", io.EOF, errs.Internal},
	} {
		got := errs.From(tt.err)
		if got.Reason != tt.want || errs.ReasonOf(tt.err) != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got.Reason.String(), tt.want.String())
		}
		if !errors.Is(got, tt.want) {
			t.Errorf("%s: errors.Is(err, %s) is false", tt.name, tt.want.String())
		}
	}
	if got := errs.From(fmt.Errorf("get: %w", own)); got != own {
		t.Errorf("got %v, want the error in the chain itself", got)
	}
	if errs.From(nil) != nil || errs.ReasonOf(nil) != errs.Unknown {
		t.Error("nil is not an error")
	}
}

func TestFromAllocatesNothingForReasons(t *testing.T) {
	var err error = errs.KeyNotFound
	if n := testing.AllocsPerRun(100, func() { _ = errs.From(err) }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func TestIs(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf("store: %w", errs.Wrap(io.ErrUnexpectedEOF, errs.BackendUnavailable, "no answer"))
	if !errors.Is(err, errs.BackendUnavailable) {
		t.Error("the reason is not found")
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error("the cause is not found")
	}
	if errors.Is(err, errs.Internal) || errors.Is(err, io.EOF) {
		t.Error("something is found that is not there")
	}
	if !errors.Is(errs.KeyNotFound, errs.KeyNotFound) || errors.Is(errs.KeyNotFound, errs.InvalidKey) {
		t.Error("a bare reason is itself and nothing else")
	}
}

func TestText(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err       *errs.Error
		log, sent string
	}{
		{errs.New(errs.InvalidKey, "key of %d bytes", 2000), "key of 2000 bytes", "key of 2000 bytes"},
		{errs.Wrap(io.EOF, errs.BackendUnavailable, "no answer"), "no answer: EOF", "no answer"},
		{errs.From(io.EOF), errs.Internal.Error() + ": EOF", errs.Internal.Error()},
		{errs.From(errs.KeyNotFound), "no such key", "no such key"},
		{errs.Invalid(), errs.InvalidField.Error(), errs.InvalidField.Error()},
		{errs.Invalid(errs.Field{Path: "ttl", Text: "is negative"}), "ttl: is negative", "ttl: is negative"},
		{errs.Invalid(errs.Field{Path: "ttl", Text: "is negative"}, errs.Field{Path: "key", Text: "is empty"}), "ttl: is negative (and 1 more)", "ttl: is negative (and 1 more)"},
		{errs.TooLarge("value", 5, 4), "value of 5 bytes is over the limit of 4", "value of 5 bytes is over the limit of 4"},
	} {
		if got := tt.err.Error(); got != tt.log {
			t.Errorf("the log shows %q, want %q", got, tt.log)
		}
		if got := tt.err.Status("").Message(); got != tt.sent {
			t.Errorf("the client sees %q, want %q", got, tt.sent)
		}
	}
}

// What a client gets back is what the server meant, for every reason.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for _, r := range errs.All() {
		sent := errs.Wrap(errors.New("postgres://user:hunter2@db"), r, "what is wrong").
			With("limit", "4").With("limit_of", "value").WithRetry(1500 * time.Millisecond)
		sent.Fields = []errs.Field{{Path: "ttl", Text: "is negative"}, {Path: "items[3].key", Text: "is empty"}}

		st := sent.Status("request-7")
		if st.Code() != r.Code() {
			t.Errorf("%s is sent as %s", r.String(), st.Code())
		}
		if wire := st.Proto().String(); strings.Contains(wire, "hunter2") {
			t.Errorf("%s sends its cause: %s", r.String(), wire)
		}
		got := errs.FromStatus(st.Err())
		if got.Reason != r || !errors.Is(got, r) || got.Message != sent.Message || got.RequestID != "request-7" || got.RetryAfter != sent.RetryAfter {
			t.Errorf("%s comes back as %+v", r.String(), got)
		}
		if !maps.Equal(got.Meta, sent.Meta) || !slices.Equal(got.Fields, sent.Fields) {
			t.Errorf("%s comes back with %v and %v", r.String(), got.Meta, got.Fields)
		}
	}
}

func TestDetails(t *testing.T) {
	t.Parallel()
	st := errs.From(errs.KeyNotFound).Status("")
	if len(st.Details()) != 2 {
		t.Fatalf("got %v, want ErrorInfo and Help alone", st.Details())
	}
	info, _ := st.Details()[0].(*errdetails.ErrorInfo)
	if info.GetDomain() != "prism" || info.GetReason() != "KEY_NOT_FOUND" {
		t.Errorf("got %v", info)
	}
	help, _ := st.Details()[1].(*errdetails.Help)
	if links := help.GetLinks(); len(links) != 1 || !strings.HasSuffix(links[0].GetUrl(), "docs/errors.md#key_not_found") {
		t.Errorf("got %v", links)
	}
}

func TestDelay(t *testing.T) {
	t.Parallel()
	for _, r := range errs.All() {
		advised := errs.FromStatus(errs.From(r).Status("").Err()).RetryAfter
		if want := r.Retry() == errs.RetryAfterDelay; (advised > 0) != want || errs.From(r).Delay() != advised {
			t.Errorf("%s advises a delay of %s", r.String(), advised)
		}
	}
	if got := errs.New(errs.RateLimited, "slower").WithRetry(time.Minute).Delay(); got != time.Minute {
		t.Errorf("got %s, want the delay that was set", got)
	}
}

// Bare reasons share one Error each, so describing one for the wire must not
// change it.
func TestStatusOfABareReasonChangesNothing(t *testing.T) {
	t.Parallel()
	_ = errs.From(errs.RateLimited).Status("request-7")
	if got := errs.From(errs.RateLimited); got.RequestID != "" || got.Meta != nil || got.RetryAfter != 0 {
		t.Errorf("got %+v", got)
	}
}

func TestFromForeignStatus(t *testing.T) {
	t.Parallel()
	foreign, err := status.New(codes.Unavailable, "no").WithDetails(&errdetails.ErrorInfo{Reason: "KEY_NOT_FOUND", Domain: "example.com"})
	if err != nil {
		t.Fatal(err)
	}
	unheard, err := status.New(codes.Unavailable, "no").WithDetails(&errdetails.ErrorInfo{Reason: "FROM_THE_FUTURE", Domain: errs.Domain})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		err  error
		want errs.Reason
	}{
		{"a broken connection", status.Error(codes.Unavailable, "reset"), errs.BackendUnavailable},
		{"the transport's message limit", status.Error(codes.ResourceExhausted, "larger than max"), errs.PayloadTooLarge},
		{"a method that is not there", status.Error(codes.Unimplemented, "unknown method"), errs.Unsupported},
		{"a deadline", status.Error(codes.DeadlineExceeded, ""), errs.Deadline},
		{"a cancelled call", status.Error(codes.Canceled, ""), errs.Cancelled},
		{"a login", status.Error(codes.Unauthenticated, ""), errs.Unauthenticated},
		{"a permission", status.Error(codes.PermissionDenied, ""), errs.Forbidden},
		{"an argument", status.Error(codes.InvalidArgument, ""), errs.InvalidField},
		{"a bug", status.Error(codes.Internal, ""), errs.Internal},
		{"a code without a reason", status.Error(codes.DataLoss, ""), errs.Unknown},
		{"our reason in another's domain", foreign.Err(), errs.BackendUnavailable},
		{"a reason of a later release", unheard.Err(), errs.BackendUnavailable},
		{"an error that is already ours", errs.New(errs.Draining, "soon"), errs.Draining},
		{"no status at all", io.EOF, errs.Internal},
		{"a context's end", context.Canceled, errs.Cancelled},
	} {
		if got := errs.FromStatus(tt.err); got.Reason != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got.Reason.String(), tt.want.String())
		}
	}
	if errs.FromStatus(nil) != nil {
		t.Error("nil is not an error")
	}
}
