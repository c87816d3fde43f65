package client

import (
	"context"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/status"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	producerv1 "github.com/prismgw/prism/api/prism/producer/v1"
	pubsubv1 "github.com/prismgw/prism/api/prism/pubsub/v1"
	"github.com/prismgw/prism/errs"
)

// A method is a kind of call.
type method struct {
	path      string           // of the unary twin
	operation protowire.Number // its field in Operation, 0 if streams do not carry it
	answer    protowire.Number // its field in Answer
	write     bool
}

var (
	storeMethod         = &method{keyvaluev1.KeyValue_Store_FullMethodName, 2, 3, true}
	retrieveMethod      = &method{keyvaluev1.KeyValue_Retrieve_FullMethodName, 3, 4, false}
	deleteMethod        = &method{keyvaluev1.KeyValue_Delete_FullMethodName, 4, 5, true}
	existsMethod        = &method{keyvaluev1.KeyValue_Exists_FullMethodName, 5, 6, false}
	incrementMethod     = &method{keyvaluev1.KeyValue_Increment_FullMethodName, 6, 7, true}
	expireMethod        = &method{keyvaluev1.KeyValue_Expire_FullMethodName, 7, 8, true}
	storeBatchMethod    = &method{keyvaluev1.KeyValue_StoreBatch_FullMethodName, 0, 0, true}
	retrieveBatchMethod = &method{keyvaluev1.KeyValue_RetrieveBatch_FullMethodName, 0, 0, false}
	deleteBatchMethod   = &method{keyvaluev1.KeyValue_DeleteBatch_FullMethodName, 0, 0, true}
	publishTopicMethod  = &method{producerv1.Producer_Publish_FullMethodName, 2, 3, true}
	publishMethod       = &method{pubsubv1.PubSub_Publish_FullMethodName, 0, 0, true}
)

// The fields of Operation, Answer, PipelineRequest and PipelineResponse that
// this package writes and reads by itself.
const (
	fieldID          protowire.Number = 1  // Operation, Answer, Cancel
	fieldTimeout     protowire.Number = 15 // Operation
	fieldIdempotency protowire.Number = 16 // Operation
	fieldTraceparent protowire.Number = 17 // Operation
	fieldError       protowire.Number = 2  // Answer, the first of its results
	fieldLastResult  protowire.Number = 8  // Answer
	fieldOperations  protowire.Number = 1  // PipelineRequest
	fieldCancels     protowire.Number = 2  // PipelineRequest
	fieldHello       protowire.Number = 1  // PipelineResponse
	fieldAnswers     protowire.Number = 2  // PipelineResponse
	fieldGoingAway   protowire.Number = 3  // PipelineResponse
)

// request and response are what the generated messages have.
type (
	request interface {
		SizeVT() int
		MarshalToSizedBufferVT(data []byte) (int, error)
	}
	response interface {
		Reset()
		UnmarshalVT(data []byte) error
	}
)

// An invocation is what a caller wants.
type invocation struct {
	*method
	request     request
	response    response
	idempotency string
	traceparent string
	again       bool // it may happen twice although it is a write

	tries int // how often it was begun or sent again
}

// repeatable reports whether it does no harm that the call happens twice.
func (i *invocation) repeatable() bool { return !i.write || i.again || i.idempotency != "" }

// A call is an invocation on its way over a stream.
type call struct {
	ctx      context.Context
	deadline time.Time // of ctx; zero if it has none
	write    bool
	repeat   bool // repeatable

	// The operation without id and timeout until it is answered; from then
	// on the result.
	body []byte

	// wake tells the caller to send what is queued on a stream, or, by nil,
	// that the call has ended. It has room for both.
	wake chan *stream

	// mux.mu guards these until the call has ended.
	state      callState
	id         uint64 // on the stream that it was sent on
	lead       *stream
	left       int  // tries, this one included
	breaks     int  // streams that broke with it
	moved      bool // a stream drained before it was begun
	prev, next *call

	// How it ended.
	result protowire.Number // the field of Answer that was set
	err    error            // why there is no answer
}

type callState uint8

const (
	callQueued callState = iota
	callSent
	callEnded
)

// overhead bounds what id, timeout and framing add to the body of a call.
const overhead = 24

func (c *call) size() int { return len(c.body) + overhead }

// timeout returns what is left of the deadline in milliseconds, rounded up,
// 0 if there is none.
func (c *call) timeout(now time.Time) uint32 {
	if c.deadline.IsZero() {
		return 0
	}
	left := c.deadline.Sub(now)
	return uint32(min((left+time.Millisecond-1)/time.Millisecond, 1<<31))
}

// over reports why the call need not be sent any more.
func (c *call) over(now time.Time) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	if !c.deadline.IsZero() && !now.Before(c.deadline) {
		return context.DeadlineExceeded
	}
	return nil
}

// maxKept bounds the memory that an idle call holds on to.
const maxKept = 16 << 10

var calls = sync.Pool{New: func() any { return &call{wake: make(chan *stream, 2)} }}

// newCall copies the request: nobody reads the caller's memory later. tries is
// how often it may be sent.
func newCall(ctx context.Context, i *invocation, tries int) (*call, error) {
	c := calls.Get().(*call) //nolint:errcheck // the pool holds nothing else
	c.ctx, c.write, c.repeat, c.left = ctx, i.write, i.repeatable(), tries
	c.deadline, _ = ctx.Deadline()
	return c, c.encode(i)
}

func (c *call) encode(i *invocation) error {
	size := i.request.SizeVT()
	body := protowire.AppendTag(c.body[:0], i.operation, protowire.BytesType)
	body = protowire.AppendVarint(body, uint64(size))
	start := len(body)
	body = grow(body, size)
	if _, err := i.request.MarshalToSizedBufferVT(body[start:]); err != nil {
		return errs.Wrap(err, errs.InvalidField, "the request cannot be encoded")
	}
	body = appendText(body, fieldIdempotency, i.idempotency)
	c.body = appendText(body, fieldTraceparent, i.traceparent)
	return nil
}

func grow(b []byte, n int) []byte {
	if cap(b)-len(b) < n {
		b = append(make([]byte, 0, len(b)+n+overhead), b...)
	}
	return b[:len(b)+n]
}

func appendText(b []byte, field protowire.Number, text string) []byte {
	if text == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), text)
}

// free gives back a call that has ended and whose wake is empty.
func (c *call) free() {
	body := c.body[:0]
	if cap(body) > maxKept {
		body = nil
	}
	*c = call{wake: c.wake, body: body}
	calls.Put(c)
}

// decode puts the result into the caller's response.
func (c *call) decode(i *invocation) error {
	switch c.result { //nolint:exhaustive // these are the two that fit
	case i.answer:
		i.response.Reset()
		if err := i.response.UnmarshalVT(c.body); err != nil {
			return malformed(err)
		}
		return nil
	case fieldError:
		st := new(status.Status)
		if err := proto.Unmarshal(c.body, st); err != nil {
			return malformed(err)
		}
		if st.GetCode() == 0 {
			return malformed(nil)
		}
		return errs.FromStatus(grpcstatus.ErrorProto(st))
	}
	return malformed(nil)
}

func malformed(cause error) error {
	return errs.Wrap(cause, errs.Internal, "the server's answer is of another kind than the operation")
}
